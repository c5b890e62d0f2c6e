"""Rows as PostgreSQL reads them: text, value by value or a block at a time in the format of COPY.

Guarantee: every value arrives as it was given or raises `ValueError`; none is adapted on the way. A timestamp
without a zone is never given one, a zone is never dropped.
"""

from __future__ import annotations

import enum
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from operator import attrgetter
from types import NoneType
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from pydantic_core import TzInfo, from_json, to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from contracts.table import Column, Row, Table

AWARE = "timestamp with time zone"
NAIVE = "timestamp without time zone"
ABSENT = r"\N"
SPECIAL = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
# Only these can hold a backslash, a tab or a line end; all others are copied unseen.
ESCAPED = frozenset({"text", "jsonb", "bytea"})
ZONE = attrgetter("tzinfo")


def print_integer(value: Any) -> str:
    """Print an integer; a bool is none."""
    require("an integer", value, fits=isinstance(value, int) and not isinstance(value, bool))
    return int.__repr__(value)


def print_float(value: Any) -> str:
    """Print a float so that it reads back as the same one."""
    require("a number", value, fits=isinstance(value, int | float) and not isinstance(value, bool))
    return float.__repr__(float(value))


def print_decimal(value: Any) -> str:
    """Print a decimal with its scale."""
    require("a decimal", value, fits=isinstance(value, Decimal | int) and not isinstance(value, bool))
    return str(value)


def print_bool(value: Any) -> str:
    """Print a truth value."""
    require("true or false", value, fits=isinstance(value, bool))
    return "t" if value else "f"


def print_text(value: Any) -> str:
    """Take a string as it is; of a subclass, its characters and not its `__str__`."""
    require("text", value, fits=isinstance(value, str))
    return str.__str__(value)


def print_bytes(value: Any) -> str:
    """Print bytes in PostgreSQL's hexadecimal form."""
    require("bytes", value, fits=isinstance(value, bytes))
    return rf"\x{value.hex()}"


def print_aware(value: Any) -> str:
    """Print a timestamp that has a zone."""
    require("a timestamp with a zone", value, fits=isinstance(value, datetime) and value.utcoffset() is not None)
    return str(value.isoformat())


def print_naive(value: Any) -> str:
    """Print a timestamp that has no zone: PostgreSQL would drop one in silence."""
    require("a timestamp without a zone", value, fits=isinstance(value, datetime) and value.tzinfo is None)
    return str(value.isoformat())


def print_date(value: Any) -> str:
    """Print a date that is no timestamp."""
    require("a date", value, fits=isinstance(value, date) and not isinstance(value, datetime))
    return str(value.isoformat())


def print_time(value: Any) -> str:
    """Print a time of day without a zone: PostgreSQL would drop one in silence."""
    require("a time without a zone", value, fits=isinstance(value, time) and value.tzinfo is None)
    return str(value.isoformat())


def print_interval(value: Any) -> str:
    """Print a duration by its parts, so that no rounding can touch the microseconds."""
    require("a duration", value, fits=isinstance(value, timedelta))
    return f"{value.days} days {value.seconds}.{value.microseconds:06d} seconds"


def print_uuid(value: Any) -> str:
    """Print a UUID."""
    require("a UUID", value, fits=isinstance(value, UUID))
    return str(value)


def print_json(value: Any) -> str:
    """Print JSON as pydantic does. NaN stays NaN, which PostgreSQL refuses, rather than turning into null."""
    return to_json(value, by_alias=False).decode()


def require(wanted: str, value: Any, *, fits: bool) -> None:
    """Raise `ValueError` for a value that the column's type does not hold; the value itself is not shown."""
    if not fits:
        message = f"{wanted} is needed, not {type(value).__name__}"
        raise ValueError(message)


PRINTERS: dict[str, Callable[[Any], str]] = {
    "boolean": print_bool,
    "bigint": print_integer,
    "double precision": print_float,
    "text": print_text,
    "bytea": print_bytes,
    AWARE: print_aware,
    NAIVE: print_naive,
    "date": print_date,
    "time without time zone": print_time,
    "interval": print_interval,
    "numeric": print_decimal,
    "uuid": print_uuid,
    "jsonb": print_json,
}

# Types whose text in JSON is what PostgreSQL reads, without a comma or anything to escape. For a column of exactly
# this type pydantic prints all values at once, three times as fast as Python's own printers one by one.
QUICK: dict[str, type] = {
    "boolean": bool,
    "bigint": int,
    "double precision": float,
    AWARE: datetime,
    NAIVE: datetime,
    "date": date,
    "uuid": UUID,
}
MINUTE = timedelta(minutes=1)


def print_value(column: Column, value: Any) -> str | None:
    """Print one value for a column, or None if it is absent. Raises `ValueError`."""
    if value is None:
        return None
    if isinstance(value, enum.Enum) and column.type != "jsonb":
        value = value.value
    try:
        return PRINTERS[column.type](value)
    except ValueError as error:
        message = f"{column.name}: {error}"
        raise ValueError(message) from error


def print_row(table: Table, row: Row) -> list[str | None]:
    """Print the values of one row. Raises `ValueError`, also for what no PostgreSQL text can hold."""
    texts = [print_value(column, value) for column, value in zip(table.columns, row, strict=True)]
    for column, text in zip(table.columns, texts, strict=True):
        if text is None:
            continue
        if "\0" in text:
            message = f"{column.name}: PostgreSQL text cannot hold a NUL character"
            raise ValueError(message)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            message = f"{column.name}: a lone surrogate is no character"
            raise ValueError(message) from error
    return texts


def print_columns(table: Table, rows: Sequence[Row]) -> list[Sequence[str | None]]:
    """Print rows column by column: the texts of `print_row`, several times as fast. Raises `ValueError`."""
    return [plain_column(column, values) for column, values in zip(table.columns, zip(*rows, strict=True), strict=True)]


def plain_column(column: Column, values: Sequence[Any]) -> Sequence[str | None]:
    """Print a column without escaping anything."""
    if column.type in QUICK:
        # Nothing of these types can be taken for `ABSENT`.
        return [None if text == ABSENT else text for text in print_column(column, values)]
    texts: Sequence[str | None] = values
    if column.type != "text" or not set(map(type, values)) <= {str, NoneType}:
        texts = [print_value(column, value) for value in values]
    whole = "".join(text for text in texts if text is not None)
    if "\0" in whole:
        message = f"{column.name}: PostgreSQL text cannot hold a NUL character"
        raise ValueError(message)
    # A UnicodeEncodeError, for a lone surrogate, is a ValueError.
    whole.encode()
    return texts


def print_column(column: Column, values: Sequence[Any]) -> Sequence[str]:
    r"""Print a column for COPY: escaped, and `\N` where absent. Raises `ValueError`."""
    kinds = set(map(type, values))
    optional = NoneType in kinds
    kinds.discard(NoneType)
    if kinds == {QUICK.get(column.type)} and zones_fit(column, values):
        printed = to_json(values).decode()[1:-1].replace('"', "").split(",")
        return [ABSENT if text == "null" else text for text in printed] if optional else printed
    if column.type == "numeric" and kinds == {Decimal} and not optional:
        return list(map(str, values))
    texts: Sequence[str | None] = values
    if column.type != "text" or kinds != {str}:
        texts = [print_value(column, value) for value in values]
        optional = True
    if column.type in ESCAPED:
        whole = "\0".join([text for text in texts if text is not None])
        if "\\" in whole or "\t" in whole or "\n" in whole or "\r" in whole:
            return escape_column(texts, whole)
    return [ABSENT if text is None else text for text in texts] if optional else cast("Sequence[str]", texts)


def escape_column(texts: Sequence[str | None], whole: str) -> list[str]:
    """Escape a column at once; `whole` is its texts with a NUL between them, which no text of a table can hold."""
    parts = whole.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r").split("\0")
    if len(parts) != len(texts) - texts.count(None):
        return [ABSENT if text is None else text.translate(SPECIAL) for text in texts]
    if len(parts) == len(texts):
        return parts
    following = iter(parts)
    return [ABSENT if text is None else next(following) for text in texts]


def zones_fit(column: Column, values: Sequence[Any]) -> bool:
    """Say whether a column of timestamps has the zones, or none, that its type wants; JSON cuts odd seconds off."""
    if column.type not in {AWARE, NAIVE}:
        return True
    if column.type == AWARE and set(map(type, map(ZONE, filter(None, values)))) == {TzInfo}:
        # What pydantic read from text, to the minute: the usual case, and cheaper to tell than the zones themselves.
        return True
    zones = set(map(ZONE, filter(None, values)))
    if column.type == NAIVE:
        return zones == {None}
    # A zone whose offset depends on the date answers None here, and goes the slow way.
    offsets = [zone and zone.utcoffset(None) for zone in zones]
    return all(offset is not None and not offset % MINUTE for offset in offsets)


def copy_text(table: Table, rows: Sequence[Row], suffix: str = "") -> bytes:
    """Print a block of rows for `COPY FROM STDIN`; `suffix` is one more column, the same in every row.

    Raises `ValueError` if any value cannot be printed; `print_row` then tells which.
    """
    columns = [
        print_column(column, values) for column, values in zip(table.columns, zip(*rows, strict=True), strict=True)
    ]
    end = f"\t{suffix}\n" if suffix else "\n"
    return (end.join(map("\t".join, zip(*columns, strict=True))) + end).encode()


def staged_text(table: Table, rows: Sequence[Row]) -> bytes:
    """Print a block like `copy_text`, with the row's ordinal from 0 as the first column."""
    columns = [
        print_column(column, values) for column, values in zip(table.columns, zip(*rows, strict=True), strict=True)
    ]
    ordinals = map(str, range(len(rows)))
    return ("\n".join(map("\t".join, zip(ordinals, *columns, strict=True))) + "\n").encode()


def stored_value(column: Column, value: Any) -> Any:
    """Turn a given value into the one that comes back from the table: UTC, plain values, plain JSON."""
    if value is None:
        return None
    if column.type == "jsonb":
        return from_json(print_json(value))
    if isinstance(value, enum.Enum):
        value = value.value
    if column.type == AWARE:
        return value.astimezone(UTC)
    return value


def stored_row(table: Table, row: Row) -> Row:
    """Turn a given row into the one that comes back from the table."""
    return tuple(stored_value(column, value) for column, value in zip(table.columns, row, strict=True))


def returned_row(table: Table, values: Iterable[Any]) -> Row:
    """Turn values that the driver returned into a row: JSON arrives as text."""
    return tuple(
        from_json(value) if column.type == "jsonb" and isinstance(value, str) else value
        for column, value in zip(table.columns, values, strict=True)
    )
