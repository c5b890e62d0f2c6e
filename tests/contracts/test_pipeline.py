"""Declarations: what follows from a right one, and the one sentence for each wrong one."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import AwareDatetime, BaseModel, Field, NaiveDatetime

from contracts import DeclarationError, Pipeline, PostgresTable, Record, WorkQueue
from contracts.pipeline import is_async
from contracts.table import Table


class Thing(Record):
    id: int
    note: str | None = None


class Row(BaseModel):
    id: int


class Shouting(BaseModel):
    Id: int


class Receipted(BaseModel):
    receipt: str


class Odd(BaseModel):
    odd: object


class Colour(enum.Enum):
    RED = "red"


def plain(thing: Thing) -> Row:
    return Row(id=thing.id)


def dropping(thing: Thing) -> Row | None:
    return plain(thing) if thing.id else None


async def waiting(thing: Thing) -> Row:
    return plain(thing)


def promising(thing: Thing) -> Awaitable[Row | None]:
    return waiting(thing)


def scaled(thing: Thing, factor: int) -> Row:
    return Row(id=thing.id * factor)


class Callee:
    async def __call__(self, thing: Thing) -> Row:
        return plain(thing)


KEYED = PostgresTable("things", key=("id",))


def declare(**changed: Any) -> Pipeline:
    return Pipeline(**{"name": "things", "record": Thing, "sink": KEYED, **changed})


@pytest.mark.parametrize("process", [plain, dropping, waiting, promising, Callee(), partial(scaled, factor=2)])
def test_the_row_is_what_process_says_that_it_returns(process: Callable[[Any], Any]) -> None:
    assert declare(process=process).row is Row


def test_without_process_the_record_is_the_row() -> None:
    assert declare().row is Thing


def test_processes_that_must_be_awaited_are_known() -> None:
    assert [is_async(process) for process in (plain, waiting, Callee(), partial(scaled, factor=2))] == [
        False,
        True,
        True,
        False,
    ]


def unannotated(thing):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201 - that is the mistake
    return thing


def to_unknown(thing: Thing) -> Nowhere:  # type: ignore[name-defined]  # noqa: F821 - that is the mistake
    return thing


def to_dict(_thing: Thing) -> dict[str, str]:
    return {}


def to_either(thing: Thing) -> Row | Thing:
    return thing


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"name": "Things"}, "pipeline 'Things': use a lower-case letter, then letters, digits and underscores"),
        ({"name": "a/b"}, "pipeline 'a/b': use a lower-case letter"),
        ({"name": ""}, "pipeline '': use a lower-case letter"),
        ({"name": None}, "pipeline None: use a lower-case letter"),
        ({"record": Row}, "pipeline things: record must be a subclass of contracts.Record"),
        ({"record": Thing(id=1)}, "pipeline things: record must be a subclass of contracts.Record"),
        ({"sink": "things"}, "pipeline things: sink must be a PostgresTable"),
        ({"process": 3}, "pipeline things: process 3 is not callable"),
        ({"process": unannotated}, "pipeline things: process unannotated: annotate its return with the model"),
        ({"process": to_unknown}, "pipeline things: process to_unknown: its return annotation cannot be resolved"),
        ({"process": to_dict}, "pipeline things: process to_dict: annotate its return with the model"),
        ({"process": to_either}, "pipeline things: process to_either: annotate its return with the model"),
        (
            {"sink": PostgresTable("Things", key=None)},
            "pipeline things: table name 'Things': use lower-case letters, digits and underscores",
        ),
        ({"sink": PostgresTable("a.b.c", key=None)}, "pipeline things: table name 'a.b.c': use lower-case letters"),
        ({"sink": PostgresTable("things; drop", key=None)}, "pipeline things: table name 'things; drop'"),
        (
            {"sink": PostgresTable("things", key=("nope",))},
            "pipeline things: table things: the key column 'nope' is no field of Thing",
        ),
        (
            {"sink": PostgresTable("things", key=("note",))},
            "pipeline things: table things: the key column 'note' may be absent in Thing",
        ),
        ({"sink": PostgresTable("things", key=())}, "pipeline things: table things: the key () is empty"),
        ({"sink": PostgresTable("things", key=("id", "id"))}, "pipeline things: table things: the key ('id', 'id')"),
        (
            {"sink": PostgresTable("things", key=("id",), on_conflict="replace")},  # type: ignore[arg-type]
            "pipeline things: table things: on_conflict 'replace' is none of ('update', 'ignore', 'reject')",
        ),
    ],
)
def test_a_wrong_declaration_is_one_sentence(changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        declare(**changed)
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (Shouting, "Shouting.Id: use lower-case letters, digits and underscores for a column"),
        (Receipted, "Receipted.receipt: the column receipt is kept for tracing rows"),
        (Odd, "Odd.odd: no PostgreSQL type is known that holds every <class 'object'>"),
    ],
)
def test_a_row_that_no_table_can_hold_is_one_sentence(model: type[BaseModel], sentence: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        Table.from_model(PostgresTable("things", key=None), model)
    assert str(caught.value) == sentence


class Everything(BaseModel):
    yes: bool
    whole: int
    number: float
    text: str
    raw: bytes
    at: datetime
    aware: AwareDatetime
    local: NaiveDatetime
    local_or_none: Annotated[NaiveDatetime, Field(description="wrapped")] | None = None
    day: date
    hour: time
    span: timedelta
    price: Decimal
    id: UUID
    status: Literal["open", "closed"]
    colour: Colour
    tags: list[str]
    extra: dict[str, int]
    thing: Thing
    bounded: Annotated[int, Field(ge=0)] | None = None


def test_each_type_has_one_column_type() -> None:
    table = Table.from_model(PostgresTable("stock.everything", key=("id",)), Everything)
    assert (table.schema, table.name, table.key) == ("stock", "everything", ("id",))
    assert {column.name: column.type for column in table.columns} == {
        "yes": "boolean",
        "whole": "bigint",
        "number": "double precision",
        "text": "text",
        "raw": "bytea",
        "at": "timestamp with time zone",
        "aware": "timestamp with time zone",
        "local": "timestamp without time zone",
        "local_or_none": "timestamp without time zone",
        "day": "date",
        "hour": "time without time zone",
        "span": "interval",
        "price": "numeric",
        "id": "uuid",
        "status": "text",
        "colour": "text",
        "tags": "jsonb",
        "extra": "jsonb",
        "thing": "jsonb",
        "bounded": "bigint",
    }
    assert [column.name for column in table.columns if column.nullable] == ["local_or_none", "bounded"]


def test_a_table_without_a_schema_is_public() -> None:
    table = declare().table
    assert (table.schema, table.name) == ("public", "things")


def test_rows_are_taken_and_printed_in_column_order() -> None:
    table = declare().table
    assert table.row_of(Thing(id=7, note="n")) == (7, "n")
    assert table.row_json((7, None)) == '{"id":7,"note":null}'


def test_a_pipeline_without_a_queue_of_its_own_gets_one_of_its_name() -> None:
    bare = Pipeline("things", Thing, PostgresTable("things", key=("id",)))
    own = Pipeline("things", Thing, PostgresTable("things", key=("id",)), queue=WorkQueue("other-things"))
    assert (bare.work_queue, own.work_queue.name) == (WorkQueue("things"), "other-things")
    assert len({bare, own}) == 2
    with pytest.raises(DeclarationError, match="queue must be a WorkQueue"):
        Pipeline("things", Thing, PostgresTable("things", key=("id",)), queue="things")  # type: ignore[arg-type]
