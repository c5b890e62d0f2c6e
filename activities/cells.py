"""From text cells to values: pydantic's string mode for one row, and an equal but faster form for many.

Guarantee: both forms accept the same cells and give the same values. Where that is not certain for a model
(validators of its own, nested or strict types), every row goes through the string mode.
"""

from __future__ import annotations

from itertools import repeat
from operator import itemgetter
from types import NoneType
from typing import TYPE_CHECKING, Any

from pydantic import AliasChoices, ValidationError
from pydantic_core import PydanticUndefined, SchemaValidator, core_schema

from activities.validate import field_errors_of
from contracts.loads import RejectError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pydantic import BaseModel

    from contracts.pipeline import Pipeline
    from contracts.record import FieldError
    from contracts.table import Row

REJECT_COLUMNS = ("reject_line", "reject_column", "reject_code", "reject_message", "reject_row")
"""What a rejects file has besides the original columns; ignored when the file comes back."""

PLAIN_TYPES = frozenset({"bool", "date", "datetime", "decimal", "float", "int", "str", "time", "timedelta", "uuid"})
PLAIN_MODEL = frozenset({"type", "cls", "schema", "config", "ref", "metadata", "custom_init", "root_model", "frozen"})


def field_names(model: type[BaseModel]) -> dict[str, str]:
    """Map every name that a column may have to its field."""
    config = model.model_config
    by_name = bool(config.get("populate_by_name") or config.get("validate_by_name"))
    by_alias = config.get("validate_by_alias", True) is not False
    names: dict[str, str] = {}
    for field, info in model.model_fields.items():
        alias = info.validation_alias if info.validation_alias is not None else info.alias
        choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
        aliases = [choice for choice in choices if isinstance(choice, str)] if by_alias else []
        if by_name or not aliases:
            names[field] = field
        names.update(dict.fromkeys(aliases, field))
    return names


def row_getter(columns: Sequence[str]) -> Callable[[Mapping[str, Any]], Row]:
    """Make a function that takes a row's values out of an instance's `__dict__`."""
    if len(columns) == 1:
        [only] = columns
        return lambda values: (values[only],)
    return itemgetter(*columns)


def lenient(schema: Any, model: type[BaseModel]) -> Any:
    """Copy a core schema so that nullable fields of `model` may be left out: a cell cannot say None."""
    if isinstance(schema, list):
        return [lenient(item, model) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") == "model" and schema.get("cls") is model:
        return {**schema, "schema": with_none(schema["schema"])}
    return {name: value if name == "metadata" else lenient(value, model) for name, value in schema.items()}


def with_none(schema: Any) -> Any:
    """Give the nullable fields of a model-fields schema the default None, below any wrapping validator."""
    if schema.get("type") != "model-fields":
        return {**schema, "schema": with_none(schema["schema"])} if "schema" in schema else schema
    fields = {}
    for name, field in schema["fields"].items():
        inner = field["schema"]
        if inner["type"] == "nullable":
            inner = core_schema.with_default_schema(inner, default=None)
        fields[name] = {**field, "schema": inner}
    return {**schema, "fields": fields}


def string_validator(model: type[BaseModel]) -> Any:
    """Make the validator whose string mode decides about every row that the fast form does not."""
    needs_none = any(
        info.is_required() and type(None) in getattr(info.annotation, "__args__", ())
        for info in model.model_fields.values()
    )
    if not needs_none:
        return model.__pydantic_validator__
    # Without the last argument pydantic-core would use the model's own validator in place of the changed schema.
    return SchemaValidator(lenient(model.__pydantic_core_schema__, model), None, False)  # noqa: FBT003


def plain_fields(model: type[BaseModel]) -> dict[str, Any] | None:
    """Return the fields' schemas if tuples of them mean the same as the model, or None."""
    schema: Any = model.__pydantic_core_schema__
    if schema.get("type") != "model" or not schema.keys() <= PLAIN_MODEL:
        return None
    if schema.get("custom_init") or schema.get("root_model") or schema.get("config", {}).get("strict"):
        return None
    fields = schema["schema"]
    if (
        fields.get("type") != "model-fields"
        or fields.get("extras_schema")
        or model.model_config.get("extra") == "allow"
    ):
        return None
    plain = {name: plain_schema(field["schema"]) for name, field in fields["fields"].items()}
    return None if any(item is None for item in plain.values()) else plain


def plain_schema(schema: Any) -> Any:
    """Return a scalar's schema as the string mode reads it, or None if it is not one of the plain ones."""
    kind = schema["type"]
    if schema.get("strict"):
        return None
    if kind == "json-or-python":
        # The form for text of a date (contracts.record.require_iso): it stands for itself, whatever the mode.
        iso = (schema.get("metadata") or {}).get("iso")
        return schema["json_schema"] if iso else plain_schema(schema["json_schema"])
    if kind == "literal":
        return schema if all(type(value) is str for value in schema["expected"]) else None
    if kind in {"nullable", "default"}:
        if schema.get("default_factory_takes_data") or schema.get("on_error", "raise") != "raise":
            return None
        inner = plain_schema(schema["schema"])
        return None if inner is None else {**schema, "schema": inner}
    return schema if kind in PLAIN_TYPES else None


def any_none(values: Sequence[Any]) -> bool:
    """Say whether a row is bad, without a comparison: a model's `__eq__` would run for every instance."""
    return NoneType in set(map(type, values))


class CellValidator:
    """Turns rows of cells into rows of the table, or into records if a `process` comes next.

    `columns` is the header. Columns of a rejects file are passed over, an absent cell counts as left out.
    """

    def __init__(self, pipeline: Pipeline, columns: Sequence[str]) -> None:
        self.model = pipeline.record
        names = field_names(self.model)
        self.columns = tuple(columns)
        self.used = [index for index, column in enumerate(columns) if column in names]
        self.absent = frozenset(("", *pipeline.absent))
        self.validator = string_validator(self.model)
        self.instances = pipeline.process is not None
        self.getter = row_getter(tuple(column.name for column in pipeline.table.columns))
        plain = plain_fields(self.model)
        self.batch = None if plain is None else self._models(plain) if self.instances else self._tuples(plain)
        by_field = {names[columns[index]]: index for index in self.used}
        self.order = [by_field.get(field, len(columns)) for field in self.model.model_fields]
        self.reorder = self.order != list(range(len(columns)))
        self.pick = row_getter_at(self.order)
        defaults = {name for name, schema in (plain or {}).items() if schema["type"] == "default"}
        self.marks = [PydanticUndefined if names.get(column) in defaults else None for column in columns]

    def _models(self, plain: dict[str, Any]) -> SchemaValidator:
        """Build the validator of many records at once; a bad one becomes None and costs no exception."""
        model: Any = self.model.__pydantic_core_schema__
        fields = model["schema"]
        named = {name: {**field, "schema": plain[name]} for name, field in fields["fields"].items()}
        changed: Any = {**model, "schema": with_none({**fields, "fields": named})}
        schema = core_schema.list_schema(core_schema.with_default_schema(changed, default=None, on_error="default"))
        return SchemaValidator(schema, None, False)  # noqa: FBT003  - see string_validator

    def _tuples(self, plain: dict[str, Any]) -> SchemaValidator:
        """Build the validator of many rows at once; a bad row becomes None and costs no exception."""
        row = core_schema.tuple_schema(list(plain.values()))
        schema = core_schema.list_schema(core_schema.with_default_schema(row, default=None, on_error="default"))
        config: Any = self.model.__pydantic_core_schema__
        return SchemaValidator(schema, config.get("config"))

    def validate(self, rows: Sequence[Sequence[str]], *, absent: bool) -> list[Any]:
        """Validate rows of as many cells as there are columns; None stands for a bad one.

        `absent` says whether any cell may be absent; it saves looking at each of them.
        """
        if self.batch is None:
            return [self._validate_one(row) for row in rows]
        values: list[Any] = self.batch.validate_python(self._inputs(rows, absent=absent))
        if any_none(values):
            # The string mode has the last word on what the fast form refused.
            values = [self._validate_one(rows[i]) if value is None else value for i, value in enumerate(values)]
        return values

    def errors(self, row: Sequence[str]) -> tuple[RejectError, ...]:
        """Explain a row that is bad."""
        try:
            self.validator.validate_strings(self._mapping(row))
        except ValidationError as error:
            return tuple(reject_error(item) for item in field_errors_of(error))
        return ()

    def _validate_one(self, row: Sequence[str]) -> Any:
        try:
            record = self.validator.validate_strings(self._mapping(row))
        except ValidationError:
            return None
        return record if self.instances else self.getter(record.__dict__)

    def _inputs(self, rows: Sequence[Sequence[str]], *, absent: bool) -> Sequence[Any]:
        """Prepare rows for the batch: as mappings for records, as cells in the fields' order for tuples."""
        if self.instances:
            if len(self.used) < len(self.columns):
                return list(map(self._mapping, rows))
            # All in C, and the lengths are known to be equal: this runs for every row of a million.
            mappings: list[dict[str, Any]] = list(map(dict, map(zip, repeat(self.columns), rows)))
            if not absent:
                return mappings
            gone = self.absent
            return [
                full if gone.isdisjoint(row) else {name: cell for name, cell in full.items() if cell not in gone}
                for full, row in zip(mappings, rows, strict=True)
            ]
        cells: Sequence[Sequence[Any]] = self._mark(rows) if absent else rows
        if self.reorder:
            undefined = (PydanticUndefined,)
            return [self.pick((*row, *undefined)) for row in cells]
        return cells

    def _mapping(self, row: Sequence[str]) -> dict[str, Any]:
        columns, absent = self.columns, self.absent
        if len(self.used) == len(columns) and absent.isdisjoint(row):
            return dict(zip(columns, row, strict=True))
        return {columns[index]: row[index] for index in self.used if row[index] not in absent}

    def _mark(self, rows: Sequence[Sequence[str]]) -> list[Sequence[Any]]:
        """Replace absent cells: by what takes the default, or by None where there is none."""
        absent, marks = self.absent, self.marks
        return [
            row
            if absent.isdisjoint(row)
            else [mark if cell in absent else cell for cell, mark in zip(row, marks, strict=True)]
            for row in rows
        ]


def row_getter_at(order: Sequence[int]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """Make a function that takes a row's cells in another order."""
    if len(order) == 1:
        [only] = order
        return lambda row: (row[only],)
    return itemgetter(*order)


def reject_error(error: FieldError) -> RejectError:
    """Say of a column what was said of a field."""
    return RejectError(column=error.field, code=error.code, message=error.message)
