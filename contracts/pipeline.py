"""A pipeline: what a user declares once and runs under any pattern.

Guarantee: a declaration that constructs without an error is consistent; every mistake raises
`DeclarationError` with one sentence that says what to change.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import types
from collections.abc import Awaitable, Callable
from functools import cached_property
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from contracts.errors import DeclarationError
from contracts.queue import WorkQueue
from contracts.record import Record
from contracts.request_log import RequestLog
from contracts.table import PostgresTable, Table

Process = Callable[[Any], Any]
"""`record -> row | None`, sync or async, stateless. None drops the record."""

NAME = re.compile(r"^[a-z][a-z0-9_]{0,62}$")


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """`input -> process -> sink`, declared once.

    `record` is the model of the input. `process` maps a record to a row, a model whose fields are the table's
    columns; its return annotation names that model. Without `process` the record is the row. `absent` lists the
    CSV cells that mean "no value" besides the empty one.
    `queue` is the queue that the queue patterns consume; by default one that has the pipeline's name.
    `request_log` is the log of its requests (`submit`, `enqueue`); by default there is none.
    """

    name: str
    record: type[Record]
    sink: PostgresTable
    process: Process | None = None
    absent: tuple[str, ...] = ()
    queue: WorkQueue | None = None
    request_log: RequestLog | None = None

    def __post_init__(self) -> None:
        """Check the whole declaration. Raises `DeclarationError`."""
        if not isinstance(self.name, str) or not NAME.match(self.name):
            message = f"pipeline {self.name!r}: use a lower-case letter, then letters, digits and underscores"
            raise DeclarationError(message)
        if not (isinstance(self.record, type) and issubclass(self.record, Record)):
            message = f"pipeline {self.name}: record must be a subclass of contracts.Record"
            raise DeclarationError(message)
        if not isinstance(self.sink, PostgresTable):
            message = f"pipeline {self.name}: sink must be a PostgresTable"
            raise DeclarationError(message)
        if self.queue is not None and not isinstance(self.queue, WorkQueue):
            message = f"pipeline {self.name}: queue must be a WorkQueue"
            raise DeclarationError(message)
        if self.request_log is not None and not isinstance(self.request_log, RequestLog):
            message = f"pipeline {self.name}: request_log must be a RequestLog"
            raise DeclarationError(message)
        try:
            _ = self.table
        except DeclarationError as error:
            message = f"pipeline {self.name}: {error}"
            raise DeclarationError(message) from error

    @cached_property
    def row(self) -> type[BaseModel]:
        """The model of the sink's rows."""
        return self.record if self.process is None else row_model(self.process)

    @cached_property
    def table(self) -> Table:
        """The sink's table, resolved against the row model."""
        return Table.from_model(self.sink, self.row)

    @cached_property
    def work_queue(self) -> WorkQueue:
        """The pipeline's queue, declared or not, so that every pipeline can be run under every pattern."""
        return self.queue if self.queue is not None else WorkQueue(self.name)


def row_model(process: Process) -> type[BaseModel]:
    """Find the model that `process` returns, from its annotation."""
    name = getattr(process, "__name__", repr(process))
    if not callable(process):
        message = f"process {name} is not callable"
        raise DeclarationError(message)
    called: Any = process
    while isinstance(called, functools.partial):
        called = called.func
    if not (inspect.isroutine(called) or isinstance(called, type)):
        called = type(called).__call__
    try:
        hint = get_type_hints(called).get("return")
    except NameError as error:
        message = f"process {name}: its return annotation cannot be resolved ({error})"
        raise DeclarationError(message) from error
    if get_origin(hint) in {Awaitable, types.CoroutineType}:
        hint = get_args(hint)[-1]
    if get_origin(hint) in {Union, types.UnionType}:
        members = [item for item in get_args(hint) if item is not type(None)]
        hint = members[0] if len(members) == 1 else None
    if not (isinstance(hint, type) and issubclass(hint, BaseModel)):
        message = f"process {name}: annotate its return with the model of the row, such as `-> FlightRow`"
        raise DeclarationError(message)
    return hint


def is_async(process: Process) -> bool:
    """Say whether `process` has to be awaited."""
    while isinstance(process, functools.partial):
        process = process.func
    return inspect.iscoroutinefunction(process) or inspect.iscoroutinefunction(
        getattr(cast("Any", process), "__call__", None)  # noqa: B004  - the method itself is inspected
    )
