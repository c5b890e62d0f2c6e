"""A copy of the flights with planted faults: the same 12 kinds, at known lines, each time.

Guarantee: which rows were changed, on which physical lines they begin, and what each is to be rejected with is
decided here, from the bytes, without any of the code that is under test.
"""

from __future__ import annotations

import dataclasses
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

Cells = list[bytes]

COLUMNS = [
    *("year", "month", "day", "dep_time", "sched_dep_time", "dep_delay", "arr_time", "sched_arr_time", "arr_delay"),
    *("carrier", "flight", "tailnum", "origin", "dest", "air_time", "distance", "hour", "minute", "time_hour"),
]


def cell(column: str, value: bytes) -> Callable[[Cells], Cells]:
    """Make a change of one cell."""
    at = COLUMNS.index(column)
    return lambda cells: [*cells[:at], value, *cells[at + 1 :]]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of fault: the column and code of its reject, and how a row gets it. No column: the row as a whole."""

    column: str
    code: str
    change: Callable[[Cells], Cells]


KINDS = {
    "bad_integer": Kind("flight", "int_parsing", cell("flight", b"15x45")),
    "missing_required": Kind("origin", "missing", cell("origin", b"NA")),
    "out_of_range": Kind("month", "less_than_equal", cell("month", b"13")),
    "huge_number": Kind("distance", "less_than_equal", cell("distance", b"9" * 30)),
    "bad_timestamp": Kind("time_hour", "datetime_from_date_parsing", cell("time_hour", b"2013-02-30T10:00:00Z")),
    "naive_timestamp": Kind("time_hour", "timezone_aware", cell("time_hour", b"2013-01-30T10:00:00")),
    "quoted_newline": Kind("carrier", "string_pattern_mismatch", cell("carrier", b'"U\nA"')),
    "nul_character": Kind("", "nul_character", cell("tailnum", b"N14\x00228")),
    "bad_utf8": Kind("", "invalid_utf8", cell("tailnum", b"N14\xff228")),
    "extra_cell": Kind("", "column_count", lambda cells: [*cells, b"more"]),
    "missing_cell": Kind("", "column_count", lambda cells: cells[:-1]),
    "unclosed_quote": Kind("", "unclosed_quote", cell("carrier", b'"UA')),
}


@dataclasses.dataclass(frozen=True)
class Fault:
    """A planted fault. `row` counts the file's rows from 0, `line` its physical lines from 1, the header's."""

    kind: str
    row: int
    line: int

    @property
    def column(self) -> str:
        """The column of the reject."""
        return KINDS[self.kind].column

    @property
    def code(self) -> str:
        """The code of the reject."""
        return KINDS[self.kind].code


@dataclasses.dataclass(frozen=True)
class Faulty:
    """A file with faults. `good` is the same file without the faulty rows: what the table has to equal."""

    data: bytes
    good: bytes
    faults: tuple[Fault, ...]


def plant(source: bytes, count: int = 500, seed: int = 1) -> Faulty:
    """Plant `count` faults, of every kind, into a plain CSV file of flights with LF line ends.

    The one unclosed quote comes after every other quote, less than 1 MiB before the end: an earlier one would be
    closed by the next, and its neighbours would rightly be part of its field.
    """
    header, *rows = source.removesuffix(b"\n").split(b"\n")
    if header.decode().split(",") != COLUMNS or b'"' in source:
        message = "faults are planted into the plain flights file only"
        raise ValueError(message)
    chance = random.Random(seed)
    chosen = sorted(chance.sample(range(len(rows)), count))
    tail = next(index for index, row in enumerate(chosen) if sum(map(len, rows[row:])) + len(rows) < 1 << 20)
    others = [kind for kind in KINDS if kind != "unclosed_quote"]
    kinds = [others[index % len(others)] for index in range(count)]
    chance.shuffle(kinds)
    # Quotes stay in front of the unclosed one.
    unquoted = [kind for kind in others if kind != "quoted_newline"]
    kinds = [
        unquoted[index % len(unquoted)] if index > tail and kind == "quoted_newline" else kind
        for index, kind in enumerate(kinds)
    ]
    kinds[tail] = "unclosed_quote"
    planted = dict(zip(chosen, kinds, strict=True))
    lines, good, faults, line = [header], [header], [], 2
    for index, row in enumerate(rows):
        text = row
        if index in planted:
            text = b",".join(KINDS[planted[index]].change(row.split(b",")))
            faults.append(Fault(kind=planted[index], row=index, line=line))
        else:
            good.append(row)
        lines.append(text)
        line += 1 + text.count(b"\n")
    return Faulty(data=b"\n".join([*lines, b""]), good=b"\n".join([*good, b""]), faults=tuple(faults))
