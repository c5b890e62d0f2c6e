"""Rows of a CSV file that need not become values: one pattern, made from the model, accepts them as text.

Guarantee: what the pattern accepts the model accepts, and the text of each cell reads in the sink as the very value
that the model would have made of it. It accepts less than the model does; the rest is validated value by value.
A model that the pattern cannot speak for (validators of its own, other types, bounds within the digits) has none.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from activities.cells import field_names, plain_fields

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from contracts.pipeline import Pipeline

IGNORED = frozenset({"type", "ref", "metadata", "serialization", "strict"})
QUIET_CONFIG = frozenset(
    {
        "title",
        "extra_fields_behavior",
        "allow_inf_nan",
        "from_attributes",
        "loc_by_alias",
        "hide_input_in_errors",
        "validate_by_alias",
        "validate_by_name",
        "cache_strings",
    }
)
"""What a model's configuration may say without changing what a cell means."""

DIGITS = 18
"""An integer of so many digits fits into 64 bits."""

YEAR = "[12][0-9]{3}"
LEAP_YEAR = "(?:(?:19|20)(?:0[48]|[2468][048]|[13579][26])|2000)"
DAY = "(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31"
DATE = f"(?:{YEAR}-(?:{DAY})|{LEAP_YEAR}-02-29)"
TIME = "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,6})?+"
ZONE = "(?:Z|\\+(?:0[0-9]|1[0-4]):[0-5][0-9]|-(?:0[1-9]|1[0-2]):[0-5][0-9])"
HEX = "[0-9a-f]"
UUID = f"{HEX}{{8}}-{HEX}{{4}}-{HEX}{{4}}-{HEX}{{4}}-{HEX}{{12}}"

CLASS = re.compile(r"\[-?(?:[A-Za-z0-9_ .]|[A-Z]-[A-Z]|[a-z]-[a-z]|[0-9]-[0-9])+-?\]")
PART = re.compile(rf"({CLASS.pattern}|[A-Za-z0-9_])(\{{[0-9]{{1,3}}\}})?([+*?]|\{{[0-9]{{1,3}},[0-9]{{1,3}}\}})?")
"""A part of a field's pattern that means the same to every engine: safe characters or a class of them, repeated.

A class begins and ends with its hyphen, if it has one, so that no range reaches from one kind of character to another,
where quotes and delimiters are.
"""


def canonical_rows(pipeline: Pipeline, columns: Sequence[str], delimiter: str) -> re.Pattern[bytes] | None:
    """Make the pattern of as many canonical rows as follow each other, or None where there can be none."""
    names = field_names(pipeline.record)
    if pipeline.process is not None or plain_fields(pipeline.record) is None or not names.keys() >= set(columns):
        # The columns of a rejects file are no fields, nor are those that the model lost since the file was inspected.
        return None
    if any(set(mark) & set('"\r\n') for mark in pipeline.absent):
        return None
    model: Any = pipeline.record.__pydantic_core_schema__
    if not model.get("config", {}).keys() <= QUIET_CONFIG or model["schema"].get("model_config"):
        return None
    fields = {name: field["schema"] for name, field in model["schema"]["fields"].items()}
    given = [names[name] for name in columns]
    if any(not is_optional(schema) for name, schema in fields.items() if name not in given):
        return None
    cells = [cell_pattern(fields[name], delimiter, pipeline.absent) for name in given]
    if len(cells) == 1 or any(cell is None for cell in cells):
        # A single empty cell is a blank line, which is no row at all.
        return None
    row = re.escape(delimiter).join(cell for cell in cells if cell is not None)
    try:
        return re.compile(f"(?:{row}\r?\n)++".encode())
    except (re.error, OverflowError):
        # A field's own pattern, or lengths, that only the model's engine knows to read.
        return None


def cell_pattern(schema: Mapping[str, Any], delimiter: str, absent: Sequence[str]) -> str | None:
    """Make the pattern of one column's cells, or None if the pattern cannot speak for its type."""
    optional = is_optional(schema)
    while schema["type"] in {"nullable", "default"}:
        schema = schema["schema"]
    if (schema.get("metadata") or {}).get("iso"):
        schema = schema["python_schema"]
    make = MAKERS.get(schema["type"])
    bounds = {name: value for name, value in schema.items() if name not in IGNORED}
    text = make(bounds, delimiter) if make is not None else None
    if text is None:
        return None
    if absent:
        # A cell that the pipeline takes for no value is not what its text says, quoted or not.
        marks = "|".join(re.escape(mark) for mark in absent)
        text = f'(?!"?(?:{marks})"?(?:{re.escape(delimiter)}|\r?\n)){text}'
    return f"(?:{text}){'?+' if optional else ''}"


def is_optional(schema: Mapping[str, Any]) -> bool:
    """Say whether an empty cell, or no column at all, makes the value None."""
    if schema["type"] == "default":
        return "default" in schema and schema["default"] is None
    return bool(schema["type"] == "nullable")


def text_cell(bounds: dict[str, Any], delimiter: str) -> str | None:
    """Any text that is no empty cell: bare, or in quotes and without a line end."""
    quoted = re.escape(delimiter)
    bare = f'[^"\r\n\0{quoted}]'
    pattern = bounds.pop("pattern", None)
    if pattern is not None:
        if bounds or not isinstance(pattern, str) or not is_simple(pattern):
            return None
        # Atomic, so that a cell that fits is never tried again because of another one that does not.
        return f"(?=[^{quoted}\r\n])(?>{pattern[1:-1]}(?={quoted}|\r?\n))"
    least, most = bounds.pop("min_length", 0), bounds.pop("max_length", None)
    if bounds or most == 0:
        return None
    if least <= 1 and most is None:
        return f'(?:{bare}++|"(?:[^"\r\n\0]++|"")++")'
    # Lengths count characters, the pattern bytes: they agree on ASCII only.
    return f"(?:(?!{quoted})[ !#-~]){{{max(least, 1)},{'' if most is None else most}}}+"


def is_simple(pattern: str) -> bool:
    """Say whether a field's pattern can be part of ours: anchored, safe, and with one repetition that can vary.

    With two, the time to refuse a cell would grow with the square of its length, and nothing else runs meanwhile.
    """
    if not (pattern.startswith("^") and pattern.endswith("$")):
        return False
    at, varying = 1, 0
    while at < len(pattern) - 1:
        part = PART.match(pattern, at, len(pattern) - 1)
        if part is None or (part[2] and part[3]):
            return False
        varying += part[3] is not None
        at = part.end()
    return at > 1 and varying <= 1


def integer_cell(bounds: dict[str, Any], _: str) -> str | None:
    """Match an integer of few enough digits to be within every bound."""
    if not all(isinstance(bounds.get(name, 0), int) for name in ("le", "lt", "ge", "gt")):
        return None
    most = min(bounds.pop("le", 10**DIGITS), bounds.pop("lt", 10**DIGITS + 1) - 1)
    least = max(bounds.pop("ge", -(10**DIGITS)), bounds.pop("gt", -(10**DIGITS) - 1) + 1)
    digits = min(len(str(most + 1)) - 1, DIGITS)
    if bounds or most < 1 or not digits:
        return None
    if least <= -(10**digits):
        return f"-?+(?:0|[1-9][0-9]{{0,{digits - 1}}}+)"
    if least <= 0:
        return f"(?:0|[1-9][0-9]{{0,{digits - 1}}}+)"
    fewest = 0 if least == 1 else len(str(least - 1))
    return f"[1-9][0-9]{{{fewest},{digits - 1}}}+" if fewest <= digits - 1 else None


def decimal_cell(bounds: dict[str, Any], _: str, *, digits: int = 30) -> str | None:
    """Match plain decimal digits, few enough to be within every bound; a bound below is of the sign only."""
    bounds.pop("allow_inf_nan", None)
    limits = {name: bounds.pop(name) for name in ("le", "lt", "ge", "gt") if name in bounds}
    if not all(abs(limit) < 10**DIGITS for limit in limits.values()):
        return None
    digits = bounds.pop("max_digits", digits)
    places = min(bounds.pop("decimal_places", digits // 2), 15)
    tops = [len(str(int(limits[name]))) - 1 if limits[name] >= 1 else 0 for name in ("le", "lt") if name in limits]
    whole = min([digits - places, 15, *tops])
    if bounds or whole < 1 or any(limits.get(name, 0) > 0 for name in ("ge", "gt")):
        return None
    sign = "" if limits.keys() & {"ge", "gt"} else "-?+"
    # Zero is all digits that a bound may exclude.
    above_zero = "(?=[0.]*+[1-9])" if "gt" in limits else ""
    places_of = f"(?:\\.[0-9]{{1,{places}}}+)?+" if places else ""
    return f"{sign}{above_zero}(?:0|[1-9][0-9]{{0,{whole - 1}}}+){places_of}"


def float_cell(bounds: dict[str, Any], delimiter: str) -> str | None:
    """Match decimal digits; below a bound only as many as a float keeps apart: more could be rounded up to it."""
    return decimal_cell(bounds, delimiter, digits=15 if bounds.keys() & {"le", "lt"} else 30)


def datetime_cell(bounds: dict[str, Any], _: str) -> str | None:
    """Match an ISO 8601 timestamp, with its zone or without one as the field wants it."""
    bounds.pop("microseconds_precision", None)
    wanted = bounds.pop("tz_constraint", None)
    if bounds or wanted not in {"aware", "naive"}:
        return None
    return f"{DATE}[T ]{TIME}{ZONE if wanted == 'aware' else ''}"


def literal_cell(bounds: dict[str, Any], delimiter: str) -> str | None:
    """Match one of the values, as far as they can stand without quotes."""
    plain = [value for value in bounds.pop("expected") if value and not set(value) & {*delimiter, *'"\r\n\0'}]
    # The longest first: the pattern does not try a shorter one when what follows does not fit.
    return None if bounds or not plain else "(?>" + "|".join(map(re.escape, sorted(plain, key=len)[::-1])) + ")"


def fixed(pattern: str) -> Any:
    """Make the maker of a type that has one form and takes no bounds."""
    return lambda bounds, _: None if bounds else f"(?:{pattern})"


MAKERS: dict[str, Any] = {
    "str": text_cell,
    "int": integer_cell,
    "decimal": decimal_cell,
    "float": float_cell,
    "datetime": datetime_cell,
    "literal": literal_cell,
    "bool": fixed("true|false"),
    "uuid": fixed(UUID),
    "date": lambda bounds, _: None if bounds.keys() - {"microseconds_precision"} else DATE,
}
