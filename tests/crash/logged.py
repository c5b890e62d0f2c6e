"""The pipeline of the crash tests whose requests are logged; it appends, so that a row that is written twice stays."""

import asyncio

from contracts import Pipeline, PostgresTable, Record, RequestLog

SECONDS_PER_MARK = 1.2


class Mark(Record):
    run: str


async def slowly(mark: Mark) -> Mark:
    """Take so long that the outcome's way can be blocked meanwhile."""
    await asyncio.sleep(SECONDS_PER_MARK)
    return mark


marks = Pipeline(
    name="marks",
    record=Mark,
    process=slowly,
    sink=PostgresTable("marks", key=None),
    request_log=RequestLog("mark_requests"),
)
