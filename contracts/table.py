"""Sink declarations, and the table that follows from a model.

Guarantee: each Python type maps to one PostgreSQL type that holds every value of it; a type without such a
counterpart is a `DeclarationError`, before anything runs.
"""

from __future__ import annotations

import dataclasses
import enum
import re
import types
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin
from uuid import UUID

from pydantic import (
    AwareDatetime,
    BaseModel,
    FutureDate,
    FutureDatetime,
    NaiveDatetime,
    PastDate,
    PastDatetime,
    TypeAdapter,
)
from pydantic_core import SchemaSerializer, core_schema

from contracts.errors import DeclarationError

if TYPE_CHECKING:
    from collections.abc import Sequence

OnConflict = Literal["update", "ignore", "reject"]
Database = Literal["application", "request_log"]
"""Which PostgreSQL a table is in. Both are one unless a setting says otherwise; receipts are where their rows are."""

Row = tuple[Any, ...]
"""One row's values in column order, as Python objects; `None` is absent."""

IDENTIFIER = re.compile(r"^[a-z_][a-z0-9_]{0,62}$")
RECEIPT_COLUMN = "receipt"

# To a type checker pydantic's dates are `Annotated`; when the program runs they are classes of their own.
SCALARS: dict[Any, str] = {
    bool: "boolean",
    int: "bigint",
    float: "double precision",
    str: "text",
    bytes: "bytea",
    datetime: "timestamp with time zone",
    date: "date",
    time: "time without time zone",
    timedelta: "interval",
    Decimal: "numeric",
    UUID: "uuid",
    AwareDatetime: "timestamp with time zone",
    PastDatetime: "timestamp with time zone",
    FutureDatetime: "timestamp with time zone",
    NaiveDatetime: "timestamp without time zone",
    PastDate: "date",
    FutureDate: "date",
}


@dataclasses.dataclass(frozen=True)
class PostgresTable:
    """A table of PostgreSQL as a pipeline's sink, of the application's unless `database` says otherwise.

    `name` is `table` or `schema.table`. With `key=None` the table has no key and every row is appended.
    `on_conflict` says what happens to a row whose key is already there: `update` replaces it, `ignore` keeps
    the stored one, `reject` refuses the new one.
    """

    name: str
    key: tuple[str, ...] | None
    on_conflict: OnConflict = "update"
    database: Database = "application"


@dataclasses.dataclass(frozen=True)
class Column:
    """A column: its name (the field's), its PostgreSQL type as `format_type` prints it, and whether NULL fits."""

    name: str
    type: str
    nullable: bool


@dataclasses.dataclass(frozen=True)
class Table:
    """A sink declaration resolved against the model of its rows. Raises `DeclarationError` if they disagree."""

    schema: str
    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...] | None
    on_conflict: OnConflict
    serializer: SchemaSerializer = dataclasses.field(compare=False, repr=False)
    database: Database = "application"

    @classmethod
    def from_model(cls, sink: PostgresTable, model: type[BaseModel]) -> Table:
        """Derive the table that holds every instance of `model`."""
        schema, _, name = sink.name.rpartition(".")
        for part in filter(None, (schema, name)):
            if not IDENTIFIER.match(part):
                message = f"table name {sink.name!r}: use lower-case letters, digits and underscores"
                raise DeclarationError(message)
        columns = tuple(column_of(model, field) for field in model.model_fields)
        names = [column.name for column in columns]
        if RECEIPT_COLUMN in names:
            message = f"{model.__name__}.{RECEIPT_COLUMN}: the column {RECEIPT_COLUMN} is kept for tracing rows"
            raise DeclarationError(message)
        if sink.on_conflict not in get_args(OnConflict):
            message = f"table {sink.name}: on_conflict {sink.on_conflict!r} is none of {get_args(OnConflict)}"
            raise DeclarationError(message)
        if sink.database not in get_args(Database):
            message = f"table {sink.name}: database {sink.database!r} is none of {get_args(Database)}"
            raise DeclarationError(message)
        if sink.key is not None:
            check_key(sink, model, columns)
        return cls(
            schema=schema or "public",
            name=name,
            columns=columns,
            key=sink.key,
            on_conflict=sink.on_conflict,
            serializer=row_serializer(model),
            database=sink.database,
        )

    def row_of(self, instance: BaseModel) -> Row:
        """Take the values of a model instance, in column order."""
        return tuple(instance.__dict__[column.name] for column in self.columns)

    def row_json(self, row: Sequence[Any]) -> str:
        """Print a row as one JSON object, field by field, as its model would."""
        values = dict(zip((column.name for column in self.columns), row, strict=True))
        # Values from the sink are plain where the model has enums and models: right, and not worth a warning.
        return self.serializer.to_json(values, warnings=False).decode()


def row_serializer(model: type[BaseModel]) -> SchemaSerializer:
    """Serialize the fields of `model` from a plain mapping, for rows that came back from the sink."""
    fields = {
        name: core_schema.typed_dict_field(TypeAdapter(info.rebuild_annotation()).core_schema)
        for name, info in model.model_fields.items()
    }
    return SchemaSerializer(core_schema.typed_dict_schema(fields))


def check_key(sink: PostgresTable, model: type[BaseModel], columns: Sequence[Column]) -> None:
    """Refuse a key that names no field, names one twice, or may be absent."""
    by_name = {column.name: column for column in columns}
    if not sink.key or len(set(sink.key)) != len(sink.key):
        message = f"table {sink.name}: the key {sink.key} is empty or names a column twice; key=None appends"
        raise DeclarationError(message)
    for name in sink.key:
        if name not in by_name:
            message = f"table {sink.name}: the key column {name!r} is no field of {model.__name__}"
            raise DeclarationError(message)
        if by_name[name].nullable:
            message = f"table {sink.name}: the key column {name!r} may be absent in {model.__name__}"
            raise DeclarationError(message)


def column_of(model: type[BaseModel], field: str) -> Column:
    """Map one field to a column. Raises `DeclarationError` for a type without a safe counterpart."""
    if not IDENTIFIER.match(field):
        message = f"{model.__name__}.{field}: use lower-case letters, digits and underscores for a column"
        raise DeclarationError(message)
    info = model.model_fields[field]
    annotation, nullable = without_none(info.annotation)
    naive = any(item is NaiveDatetime or type(item).__name__ == "NaiveDatetime" for item in info.metadata)
    kind = "timestamp without time zone" if naive else type_of(annotation)
    if kind is None:
        message = f"{model.__name__}.{field}: no PostgreSQL type is known that holds every {info.annotation}"
        raise DeclarationError(message)
    return Column(name=field, type=kind, nullable=nullable)


def without_none(annotation: Any) -> tuple[Any, bool]:
    """Strip `| None` and `Annotated` from a type; say whether None was among it."""
    if get_origin(annotation) is Annotated:
        return without_none(get_args(annotation)[0])
    if get_origin(annotation) in {Union, types.UnionType}:
        members = [item for item in get_args(annotation) if item is not type(None)]
        nullable = len(members) < len(get_args(annotation))
        if len(members) == 1:
            return without_none(members[0])[0], nullable
        return annotation, nullable
    return annotation, False


def type_of(annotation: Any) -> str | None:
    """Name the PostgreSQL type of a Python type, or None."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return type_of(get_args(annotation)[0])
    if origin is Literal:
        kinds = {type(value) for value in get_args(annotation)}
        return SCALARS.get(kinds.pop()) if len(kinds) == 1 else None
    if origin in {list, dict, tuple, set, frozenset} or annotation in {list, dict}:
        return "jsonb"
    if isinstance(annotation, type):
        if annotation in SCALARS:
            return SCALARS[annotation]
        if issubclass(annotation, enum.Enum):
            kinds = {type(member.value) for member in annotation}
            return SCALARS.get(kinds.pop()) if len(kinds) == 1 else None
        if issubclass(annotation, BaseModel):
            return "jsonb"
        for base in (str, int, float):
            if issubclass(annotation, base):
                return SCALARS[base]
    return None
