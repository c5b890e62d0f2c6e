"""Put activities and workflows together into workers.

Guarantee: workflows run in the sandbox; the loads in one process are few, so that neither a core nor the memory is
shared by more of them than it can serve.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from temporalio.worker import PollerBehaviorSimpleMaximum, Worker, WorkerTuner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from activities.consume import ConsumeActivities
from activities.dead_letters import DeadLetterActivities
from activities.files import FileActivities
from activities.loads import LoadActivities
from activities.redrives import RedriveActivities
from activities.request_log import RequestLogActivities
from activities.requests import RequestActivities
from workers.parking import TemporalParking
from workflows.consume import Consume
from workflows.dead_letter import DeadLetter
from workflows.enqueue import Enqueue
from workflows.options import CONSUMERS, FILES, LOADS, PIPELINES
from workflows.redrive import Redrive
from workflows.submit import Submit
from workflows.upload import Upload

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from temporalio.client import Client

    from contracts.pipeline import Pipeline
    from stores import Stores

WORKFLOWS: tuple[type, ...] = (Submit, Enqueue, Upload, Consume, DeadLetter, Redrive)

LOAD_SLOTS = 1
"""Loads at once in one process. A load validates the next block while the sink takes one: it keeps a core busy by
itself, and two of them would only fight for the interpreter."""

FILE_SLOTS = 4
"""Steps that look at files, beside them: planning a load must not wait until another file is unpacked."""

CONSUMER_SLOTS = 8
"""Consumers at once in one process. Most of them wait; two that do not share the core, so more belong elsewhere."""

REQUEST_SLOTS = 40
"""Requests at once in one process; a request holds a connection of the sink for a few milliseconds."""

GRACE = timedelta(seconds=10)
"""How long a stopping worker lets its steps finish. A step that is cut off is done again elsewhere."""


def sandbox() -> SandboxedWorkflowRunner:
    """Run workflows in the sandbox. Our pure contracts and pydantic's own modules are loaded once, not per run."""
    return SandboxedWorkflowRunner(
        restrictions=SandboxRestrictions.default.with_passthrough_modules(
            "contracts", "activities", "pydantic", "pydantic_core", "annotated_types"
        )
    )


def build_workers(
    client: Client,
    pipelines: Mapping[str, Pipeline],
    stores: Stores,
    *,
    max_cached_workflows: int = 500,
) -> list[Worker]:
    """Build the workers of one process: for workflows and requests, for files, for loads and for consumers."""
    requests = RequestActivities(pipelines, stores.sink)
    logs = RequestLogActivities(stores.sink, stores.queue)
    files = FileActivities(pipelines, stores.objects)
    loads = LoadActivities(pipelines, stores.sink, stores.objects)
    letters = DeadLetterActivities(pipelines, stores.sink, stores.failures, stores.objects)
    parking = TemporalParking(client)
    redrives = RedriveActivities(parking)
    consumers = ConsumeActivities(pipelines, stores.queue, stores.sink, stores.failures, stores.objects, parking)
    return [
        Worker(
            client,
            task_queue=PIPELINES,
            workflows=WORKFLOWS,
            activities=[
                requests.store_record,
                requests.find_stored,
                logs.write_log_entry,
                logs.send_log_entry,
                files.remove_objects,
                letters.store_letter,
                letters.give_up_letter,
                redrives.count_letters,
                redrives.find_letters,
                redrives.retry_letters,
            ],
            workflow_runner=sandbox(),
            tuner=WorkerTuner.create_fixed(
                workflow_slots=REQUEST_SLOTS, activity_slots=REQUEST_SLOTS, local_activity_slots=REQUEST_SLOTS
            ),
            max_cached_workflows=max_cached_workflows,
            # Runs cached by a worker that was killed wait this long before another one takes over.
            sticky_queue_schedule_to_start_timeout=timedelta(seconds=5),
            graceful_shutdown_timeout=GRACE,
        ),
        bulk_worker(client, FILES, FILE_SLOTS, [files.inspect_file, files.plan_chunks]),
        bulk_worker(client, LOADS, LOAD_SLOTS, [loads.load_chunk, loads.check_chunk]),
        bulk_worker(client, CONSUMERS, CONSUMER_SLOTS, [consumers.consume_items]),
    ]


def bulk_worker(client: Client, task_queue: str, slots: int, activities: Sequence[Callable[..., object]]) -> Worker:
    """Build the worker of steps that take seconds or longer, `slots` of them at a time."""
    return Worker(
        client,
        task_queue=task_queue,
        activities=activities,
        tuner=WorkerTuner.create_fixed(activity_slots=slots),
        activity_task_poller_behavior=PollerBehaviorSimpleMaximum(slots),
        # Steps report often; the server hears of it, and answers with a cancellation, at most this late.
        max_heartbeat_throttle_interval=timedelta(seconds=5),
        graceful_shutdown_timeout=GRACE,
    )
