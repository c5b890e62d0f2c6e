"""Writing a request's log entry: into the log's table, or into the queue that leads there.

Guarantee: an entry arrives once, however often it is tried, because its name follows from the run and the outcome
alone. What is known of a request is never given up: only the intent of one whose caller waits can be refused.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.failures import translated
from contracts.errors import TerminalError
from contracts.ports import Item
from contracts.queue import QueueItem, WorkQueue
from contracts.request_log import LogEntry, log_table
from contracts.units import Unit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contracts.ports import Sink
    from contracts.queue import Queue


class EntryRefusedError(TerminalError):
    """The log's table refuses an entry, by a constraint or a trigger that somebody gave it."""

    code = "entry_refused"


class RequestLogActivities:
    """Activities of request logs, over the sink and the queue they were built with."""

    def __init__(self, sink: Sink, queue: Queue) -> None:
        self.sink = sink
        self.queue = queue

    @activity.defn
    async def write_log_entry(self, entry: LogEntry) -> None:
        """Commit one entry in its table. One that is there already stays as it is."""
        with judged(entry):
            table, row = log_table(entry.log), entry.row
            await self.sink.prepare(table)
            # A try that is repeated measured another duration, and is the same entry all the same.
            item = Item(unit=Unit.alone(entry.log, row.entry), fingerprint=row.entry, row=table.row_of(row))
            [outcome] = await self.sink.write(table, [item], records=False)
            if outcome.status == "refused":
                message = f"request log {entry.log}: {outcome.message}"
                raise EntryRefusedError(message)

    @activity.defn
    async def send_log_entry(self, entry: LogEntry) -> None:
        """Put one entry into its queue, which is responsible for it from then on."""
        with judged(entry):
            item = QueueItem(entry.row.model_dump_json().encode(), entry.row.entry)
            await self.queue.send(WorkQueue(entry.log), [item])


@contextlib.contextmanager
def judged(entry: LogEntry) -> Iterator[None]:
    """Translate errors. Unless its request can be refused, an entry is tried until whatever hinders it is mended."""
    try:
        with translated():
            yield
    except ApplicationError as error:
        if entry.refusable or not error.non_retryable:
            raise
        raise ApplicationError(error.message, type=error.type) from error
