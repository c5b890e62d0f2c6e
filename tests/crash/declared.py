"""The pipeline of the crash tests: it appends, so that a row that is written twice stays twice."""

import time
from datetime import timedelta

from contracts import Pipeline, PostgresTable, Record
from contracts.queue import WorkQueue

SECONDS_PER_ROW = 0.0002


class Line(Record):
    run: str
    number: int
    filler: str


def slowly(line: Line) -> Line:
    """Take so long that a crash can be aimed at the middle of a load."""
    time.sleep(SECONDS_PER_ROW)
    return line


class Entry(Record):
    run: str
    number: int
    poison: bool = False


def refuse_poison(entry: Entry) -> Entry:
    """Fail on some, in a way that is tried again."""
    if entry.poison:
        raise ValueError(entry.number)
    return entry


entries = Pipeline(
    name="entries",
    record=Entry,
    process=refuse_poison,
    sink=PostgresTable("entries", key=None),
    queue=WorkQueue(
        "entries",
        lease=timedelta(seconds=2),
        max_attempts=3,
        retry_first=timedelta(milliseconds=100),
        retry_last=timedelta(milliseconds=200),
    ),
)

lines = Pipeline(name="lines", record=Line, process=slowly, sink=PostgresTable("lines", key=None))
