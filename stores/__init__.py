"""The stateful services behind the ports, one module each. `connect` opens those that a worker needs."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from contracts.ports import FailureLedger, ObjectStore, Sink
    from contracts.queue import Queue
    from stores.settings import Settings


@dataclasses.dataclass(frozen=True)
class Stores:
    """The open services."""

    sink: Sink
    failures: FailureLedger
    objects: ObjectStore
    queue: Queue


@contextlib.asynccontextmanager
async def connect_queue(settings: Settings) -> AsyncIterator[Queue]:
    """Open the broker that the settings choose for queues, and close it at the end."""
    # Each client costs time to import, and only one is wanted.
    if settings.queue == "sqs":
        from stores.sqs_queue import SqsQueue  # noqa: PLC0415

        async with SqsQueue.open(settings) as sqs:
            yield sqs
        return
    from stores.nats_queue import NatsQueue  # noqa: PLC0415

    async with NatsQueue.open(settings) as nats:
        yield nats


@contextlib.asynccontextmanager
async def connect(settings: Settings, *, receipts: bool = True) -> AsyncIterator[Stores]:
    """Open the sink, the object store and the queue's broker, and close them at the end.

    Connections are made when they are first used, so this succeeds while a service is down. `receipts=False` takes
    the safeguard against writing twice away; only crash tests want that, to prove that they would notice.
    """
    # Imported here, so that `stores.settings` alone stays cheap to import for the CLI.
    from stores.postgres_failures import PostgresFailureLedger  # noqa: PLC0415
    from stores.postgres_sink import PostgresSink  # noqa: PLC0415
    from stores.s3_objects import S3ObjectStore  # noqa: PLC0415

    async with (
        PostgresSink.open(settings.database_url.get_secret_value(), receipts=receipts) as sink,
        S3ObjectStore.open(settings) as objects,
        connect_queue(settings) as queue,
    ):
        yield Stores(sink=sink, failures=PostgresFailureLedger(sink), objects=objects, queue=queue)
