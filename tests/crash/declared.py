"""The pipeline of the crash tests: it appends, so that a row that is written twice stays twice."""

import time

from contracts import Pipeline, PostgresTable, Record

SECONDS_PER_ROW = 0.0002


class Line(Record):
    run: str
    number: int
    filler: str


def slowly(line: Line) -> Line:
    """Take so long that a crash can be aimed at the middle of a load."""
    time.sleep(SECONDS_PER_ROW)
    return line


lines = Pipeline(name="lines", record=Line, process=slowly, sink=PostgresTable("lines", key=None))
