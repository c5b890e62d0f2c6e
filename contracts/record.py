"""What a record is: a frozen pydantic model with a strict edge.

Guarantee: whatever validates can be stored without loss. Unknown fields, NaN and infinities, integers beyond
64 bits, timestamps without a zone (unless declared `NaiveDatetime`) and numbers for dates are refused, not adapted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel, ConfigDict
from pydantic_core import SchemaValidator

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

INT64_MIN = -(2**63)
INT64_MAX = 2**63 - 1


DATE_START = {"datetime": r"^\d{4}-\d\d-\d\d[Tt _]\d", "date": r"^\d{4}-\d\d-\d\d"}
WRITTEN = {
    "datetime": "Input should be a date and time with its zone, written like 2013-01-31T10:00:00Z",
    "date": "Input should be a date, written like 2013-01-31",
}


def narrow(schema: Any) -> None:
    """Bound every open integer to 64 bits, require a zone of every datetime and ISO 8601 of dates, in place."""
    if isinstance(schema, Mapping):
        kind = schema.get("type")
        if kind == "int":
            bound_to_64_bits(cast("dict[str, Any]", schema))
        elif kind in WRITTEN:
            require_iso(cast("dict[str, Any]", schema))
            return
        elif kind == "json-or-python" and (schema.get("metadata") or {}).get("iso"):
            return
        for name, value in schema.items():
            if name not in {"metadata", "serialization"}:
                narrow(value)
    elif isinstance(schema, list | tuple):
        for value in schema:
            narrow(value)


def bound_to_64_bits(schema: dict[str, Any]) -> None:
    """Give an integer the bounds that it lacks."""
    if not {"ge", "gt"} & schema.keys():
        schema["ge"] = INT64_MIN
    if not {"le", "lt"} & schema.keys():
        schema["le"] = INT64_MAX


def require_iso(schema: dict[str, Any]) -> None:
    """Refuse text that is a number as a date: pydantic would take `2013` for seconds, and store 1970.

    The check runs inside pydantic, on JSON and on strings; Python's own dates pass as they are.
    """
    kind = schema["type"]
    if kind == "datetime":
        schema.setdefault("tz_constraint", "aware")
    dated = {name: value for name, value in schema.items() if name not in {"ref", "serialization", "metadata"}}
    written = WRITTEN[kind]
    if dated.get("tz_constraint") == "naive":
        written = written.replace(" with its zone", "").replace("Z", "")
    text = {
        "type": "custom-error",
        "schema": {"type": "str", "pattern": DATE_START[kind]},
        "custom_error_type": f"{kind}_format",
        "custom_error_message": written,
    }
    # A validator of its own, because after the first step the input counts as Python's, and a strict validation
    # that is asked for at the outside would no longer take text for a date.
    parse = SchemaValidator(cast("CoreSchema", {**dated, "strict": False})).validate_python
    read = {"type": "function-plain", "function": {"type": "no-info", "function": parse}}
    wrapped = {
        "type": "json-or-python",
        "json_schema": {"type": "chain", "steps": [text, read]},
        "python_schema": dated,
        "metadata": {
            **(schema.get("metadata") or {}),
            "iso": True,
            "pydantic_js_updates": {"format": "date-time" if kind == "datetime" else "date"},
        },
    }
    kept = {name: schema[name] for name in ("ref", "serialization") if name in schema}
    schema.clear()
    schema.update(wrapped, **kept)


class Frozen(BaseModel):
    """Base of every value that crosses a boundary between parts: immutable, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Record(BaseModel):
    """One validated unit of a pipeline's data. Users subclass it; see `pipelines/` for real ones."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler, /) -> CoreSchema:
        """Narrow the generated schema to what a sink can hold without loss."""
        schema = handler(source)
        narrow(schema)
        return schema


class FieldError(Frozen):
    """Why a record was refused. `field` is a dotted path, empty when the record as a whole is meant."""

    field: str
    code: str
    message: str
