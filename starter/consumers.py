"""Queue workers as a library: start, change, drain and stop the one that a pipeline has.

Guarantee: there is at most one for each pipeline, so starting it again changes it or does nothing; stopping it loses
nothing, since what is not consumed stays in the queue.
"""

from __future__ import annotations

import contextlib
from datetime import timedelta

from temporalio.client import (
    Client,
    WorkflowExecutionDescription,
    WorkflowFailureError,
    WorkflowQueryFailedError,
    WorkflowUpdateFailedError,
)
from temporalio.common import (
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from contracts.consume import ConsumeChange, ConsumeOptions, ConsumeRun, ConsumeSummary
from starter.exits import CommandError, Exit
from starter.services import Settings, naming_temporal
from workflows.consume import Consume
from workflows.options import PATTERN, PIPELINE, PIPELINES, STATUS

TRIES = 5
QUERY_TIMEOUT = timedelta(seconds=1)


def ticket_of(pipeline: str) -> str:
    """Name the one run that a pipeline's queue worker has."""
    return f"consume/{pipeline}"


async def start(
    client: Client, settings: Settings, pipeline: str, change: ConsumeChange, *, drain: bool = False
) -> bool:
    """Start a pipeline's queue worker, or change the one that runs; says whether it was started.

    One that is stopping is waited for, and then started anew. Raises `UnavailableError`.
    """
    run = ConsumeRun(pipeline=pipeline, options=ConsumeOptions().changed(change), drain=drain)
    with naming_temporal(settings):
        for _ in range(TRIES):
            try:
                await begin(client, run)
            except WorkflowAlreadyStartedError:
                if await adapt(client, pipeline, change, drain=drain):
                    return False
            else:
                return True
    message = f"{ticket_of(pipeline)} ends and begins all the time; somebody else is at it."
    raise CommandError(Exit.FAILED, message)


async def begin(client: Client, run: ConsumeRun) -> None:
    """Start a run. Raises `WorkflowAlreadyStartedError`."""
    await client.start_workflow(
        Consume.run,
        run,
        id=ticket_of(run.pipeline),
        task_queue=PIPELINES,
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
        search_attributes=TypedSearchAttributes(
            [
                SearchAttributePair(PIPELINE, run.pipeline),
                SearchAttributePair(PATTERN, "consume"),
                SearchAttributePair(STATUS, "running"),
            ]
        ),
        static_summary=f"items of the queue of {run.pipeline}",
    )


async def adapt(client: Client, pipeline: str, change: ConsumeChange, *, drain: bool) -> bool:
    """Change the one that runs; False if it ended meanwhile."""
    handle = client.get_workflow_handle_for(Consume.run, ticket_of(pipeline))
    try:
        if change != ConsumeChange():
            await handle.execute_update(Consume.configure, change)
        if drain:
            await handle.execute_update(Consume.finish)
    except WorkflowUpdateFailedError:
        # It is stopping, and nothing can hold it up any more.
        with contextlib.suppress(WorkflowFailureError):
            await handle.result()
        return False
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return False
        raise
    return True


async def stop(client: Client, settings: Settings, pipeline: str) -> None:
    """Ask a pipeline's queue worker to end after its windows in flight. Raises `CommandError` if none runs."""
    handle = client.get_workflow_handle_for(Consume.run, ticket_of(pipeline))
    with naming_temporal(settings):
        try:
            await handle.execute_update(Consume.stop)
        except WorkflowUpdateFailedError:
            return  # it has ended meanwhile
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                message = f"{ticket_of(pipeline)} does not run."
                raise CommandError(Exit.UNKNOWN, message) from error
            raise


async def summary_of(client: Client, described: WorkflowExecutionDescription) -> ConsumeSummary:
    """Ask how consumption stands: the run if a worker answers in time, else what its memo kept."""
    handle = client.get_workflow_handle_for(Consume.run, described.id, run_id=described.run_id)
    try:
        return await handle.query(Consume.summary, rpc_timeout=QUERY_TIMEOUT)
    except (RPCError, WorkflowQueryFailedError, TimeoutError):
        kept = await described.memo_value("summary", None, type_hint=ConsumeSummary)
        return kept or ConsumeSummary()
