"""What a record is: a frozen pydantic model with a strict edge.

Guarantee: whatever validates can be stored without loss. Unknown fields, NaN and infinities, integers beyond
64 bits, and timestamps without a zone (unless declared `NaiveDatetime`) are refused, not adapted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

INT64_MIN = -(2**63)
INT64_MAX = 2**63 - 1


def narrow(schema: Any) -> None:
    """Bound every open integer to 64 bits and require a zone of every datetime, in place."""
    if isinstance(schema, Mapping):
        kind = schema.get("type")
        if kind == "int":
            if not {"ge", "gt"} & schema.keys():
                schema["ge"] = INT64_MIN  # type: ignore[index]
            if not {"le", "lt"} & schema.keys():
                schema["le"] = INT64_MAX  # type: ignore[index]
        elif kind == "datetime" and "tz_constraint" not in schema:
            schema["tz_constraint"] = "aware"  # type: ignore[index]
        for name, value in schema.items():
            if name not in {"metadata", "serialization"}:
                narrow(value)
    elif isinstance(schema, list | tuple):
        for value in schema:
            narrow(value)


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
