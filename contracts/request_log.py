"""Request logs: who asked for what, when, and what came of it, in a table of its own.

Guarantee: an entry holds names, times and error codes only, never a value of the record and never a secret. Entries are
added and never changed: one when a request begins (`pending`, direct logs only), and one for each outcome.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Literal, get_args

from pydantic import AwareDatetime

from contracts.errors import DeclarationError
from contracts.record import Frozen, Record
from contracts.table import PostgresTable, Table

Through = Literal["direct", "queue"]
Outcome = Literal["pending", "committed", "rejected", "conflict", "failed", "cancelled", "dead", "discarded"]

LOG_UNAVAILABLE = "RequestLogUnavailable"
"""The type of the error that refuses a request, because its log cannot be written; nothing was stored."""

NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
MOST_CODES = 20
LONGEST_CODE = 100


@dataclasses.dataclass(frozen=True)
class RequestLog:
    """Where the requests of a pipeline are logged: `name` is that of a table in the request log's database.

    `direct` writes the intent before the record and the outcome after it, and refuses requests while the log does not
    answer. `queue` sends the outcome to the queue of the same name, which the implicit pipeline of the same name brings
    into the table; requests go on while the log is down. Pipelines may share a log.
    """

    name: str
    through: Through = "direct"

    def __post_init__(self) -> None:
        """Check the declaration. Raises `DeclarationError`."""
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            message = f"request log {self.name!r}: use a lower-case letter, then letters, digits and underscores"
            raise DeclarationError(message)
        if self.through not in get_args(Through):
            message = f"request log {self.name}: through {self.through!r} is none of {', '.join(get_args(Through))}"
            raise DeclarationError(message)


class RequestLogRow(Record):
    """One entry of a request log. `run` tells the tries under one key apart; together with `outcome` it is the key.

    `received` is when Temporal took the request, `at` when the outcome was known, `duration_ms` the time between
    the two. `codes` are the distinct codes of its errors, or the type of the error that it ended with.
    """

    run: str
    outcome: Outcome
    pipeline: str
    pattern: str
    ticket: str
    key: str
    who: str
    received: AwareDatetime
    at: AwareDatetime
    duration_ms: int
    codes: tuple[str, ...] = ()

    @property
    def entry(self) -> str:
        """The entry's name: the id of its queue item, and of its unit. A try that is repeated has the same."""
        return f"log/{self.run}/{self.outcome}"


class LogEntry(Frozen):
    """One row for the log of that name. What hinders a `refusable` one for good refuses the request, too."""

    log: str
    row: RequestLogRow
    refusable: bool = False


def log_sink(name: str) -> PostgresTable:
    """Declare the table of a log. An entry that is there stays as it is, in whatever order they come."""
    return PostgresTable(name, key=("run", "outcome"), on_conflict="ignore", database="request_log")


@functools.cache
def log_table(name: str) -> Table:
    """Resolve the table of a log."""
    return Table.from_model(log_sink(name), RequestLogRow)


def short_codes(codes: tuple[str, ...]) -> tuple[str, ...]:
    """Bound what goes into `codes`: each one once, the first of them, none longer than a code is."""
    return tuple(code[:LONGEST_CODE] for code in dict.fromkeys(codes))[:MOST_CODES]
