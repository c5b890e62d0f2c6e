"""The strict edge for JSON: text to object, object to record. The CLI and the activities use the same functions.

Guarantee: what passes can be stored without loss; what does not is refused with field (dotted, as pydantic names
it), code and message, and the message never repeats the input. Strings in JSON are never read as numbers, nor
numbers as strings.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections import Counter
from decimal import Decimal
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, NoReturn

from pydantic import ValidationError

from contracts.errors import RecordRefusedError
from contracts.record import FieldError, Record

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic import JsonValue

    from contracts.pipeline import Pipeline

MOST_BYTES = 1 << 20
MOST_DEPTH = 32
BYTE_ORDER_MARK = "\ufeff".encode()
MOST_DIGITS = 4300
MOST_ERRORS = 100
"""Faults that are named of one record; who has more has other worries."""

EXACT_DIGITS = 15
"""A decimal of so many characters and without an exponent always survives the trip through a double."""

SUSPECT = re.compile(r"\x00|\\u0000|\\u[dD][89a-fA-F]|[\ud800-\udfff]")
SURROGATE = re.compile("[\ud800-\udfff]")
UNPRINTABLE = re.compile("[\0\ud800-\udfff]")


class InexactFloat(float):
    """A JSON number that a double cannot hold exactly: fine for a float field, never for a Decimal."""


FRACTIONS = frozenset({float, InexactFloat, list, dict})
"""Types of JSON values that are numbers with a fraction, or may hold some."""


@dataclasses.dataclass(frozen=True)
class Fault:
    """What stands in the place of a value that JSON text cannot give."""

    code: str
    message: str


NOT_FINITE = Fault("finite_number", "NaN and infinities are no values")
OUT_OF_RANGE = Fault("number_range", "a number is beyond the range of a double")
TOO_MANY_DIGITS = Fault("number_range", f"an integer may have at most {MOST_DIGITS} digits")
STANDS_TWICE = Fault("duplicate_key", "the name stands twice in one object")
TOO_DEEP = Fault("too_deep", f"objects and lists may be nested at most {MOST_DEPTH} deep")
NUL = Fault("nul_character", "NUL characters cannot be stored")
LONE = Fault("lone_surrogate", "a lone surrogate is no character")


class FaultyTextError(Exception):
    """The text holds a fault; where it stands, a decoder cannot say."""


def refuse(code: str, message: str) -> NoReturn:
    """Refuse a record as a whole."""
    raise RecordRefusedError((FieldError(field="", code=code, message=message),))


def parse_json(text: bytes | str) -> dict[str, JsonValue]:
    """Read one JSON object. Raises `RecordRefusedError` for everything that is not plainly one."""
    if len(text) > MOST_BYTES or (isinstance(text, str) and len(text.encode(errors="replace")) > MOST_BYTES):
        refuse("too_long", f"a record may have at most {MOST_BYTES} bytes")
    if isinstance(text, bytes):
        # What is decoded holds no surrogates but escaped ones; to look for a backslash is cheaper than the pattern.
        odd = b"\\u" in text or b"\0" in text
        try:
            text = text.decode()
        except UnicodeDecodeError as error:
            refuse("invalid_utf8", f"the text is not UTF-8: byte {error.start} fits no character")
    else:
        odd = True
    text = text.removeprefix("\ufeff").strip(" \t\r\n")
    suspect = text.count("{") + text.count("[") > MOST_DEPTH or (odd and SUSPECT.search(text) is not None)
    try:
        try:
            value = DECODER.decode(text)
        except FaultyTextError:
            # Only a look at the whole tells which field it is. Good records, nearly all, do not pay for that.
            value, suspect = MARKING_DECODER.decode(text), True
    except json.JSONDecodeError as error:
        refuse("json_invalid", f"invalid JSON: {error.msg} at line {error.lineno}, column {error.colno}")
    except RecursionError:
        refuse(TOO_DEEP.code, TOO_DEEP.message)
    if not isinstance(value, dict):
        refuse("json_object", 'a record is a JSON object, such as {"name": "value"}')
    if suspect:
        check_values(value)
    return value


def check_values(payload: Mapping[str, JsonValue]) -> None:
    """Refuse what no sink can hold: NUL characters, lone surrogates, NaN and infinities, deep nesting."""
    errors = tuple(
        FieldError(field=path, code=fault.code, message=fault.message)
        for path, fault in islice(faults(payload, "", 1), MOST_ERRORS)
    )
    if errors:
        raise RecordRefusedError(errors)


def faults(value: JsonValue | Mapping[str, JsonValue] | Fault, path: str, depth: int) -> Iterator[tuple[str, Fault]]:
    """Find the faults of a value and of all that it contains, each with its dotted path."""
    if isinstance(value, str):
        yield from text_faults(value, path)
    elif isinstance(value, float):
        if not math.isfinite(value):
            yield path, NOT_FINITE
    elif isinstance(value, Fault):
        yield path, value
    elif isinstance(value, dict | list):
        if depth > MOST_DEPTH:
            yield path, TOO_DEEP
            return
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for name, item in pairs:
            inner = join(path, name)
            if isinstance(name, str):
                yield from text_faults(name, inner)
            yield from faults(item, inner, depth + 1)


def join(path: str, name: str | int) -> str:
    """Name an item of what stands at `path`, in characters that can be shown."""
    inner = UNPRINTABLE.sub("\ufffd", name) if isinstance(name, str) else str(name)
    return f"{path}.{inner}" if path else inner


def text_faults(text: str, path: str) -> Iterator[tuple[str, Fault]]:
    """Find what PostgreSQL's text cannot hold."""
    if "\0" in text:
        yield path, NUL
    if SURROGATE.search(text):
        yield path, LONE


def read_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object; a name that stands in it twice would silently lose a value."""
    value = dict(pairs)
    if len(value) < len(pairs):
        raise FaultyTextError
    return value


def mark_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object in which a name that stands twice has a fault for its value."""
    value = dict(pairs)
    if len(value) < len(pairs):
        times = Counter(name for name, _ in pairs)
        value.update((name, STANDS_TWICE) for name, number in times.items() if number > 1)
    return value


def read_float(text: str) -> float:
    """Read a number with a fraction or an exponent, and remember if a double cannot hold it."""
    value = float(text)
    if not math.isfinite(value):
        raise FaultyTextError
    if len(text) <= EXACT_DIGITS and "e" not in text and "E" not in text:
        return value
    return value if exact(text, value) else InexactFloat(value)


def exact(text: str, value: float) -> bool:
    """Say whether the shortest form of the double is the number that was written."""
    try:
        return Decimal(text) == Decimal(repr(value))
    except ArithmeticError:
        return False


def read_int(text: str) -> int:
    """Read an integer of a length that can still be read in no time."""
    if len(text) > MOST_DIGITS:
        raise FaultyTextError
    return int(text)


def read_constant(_name: str) -> NoReturn:
    """Refuse NaN and the infinities, which JSON does not have."""
    raise FaultyTextError


DECODER = json.JSONDecoder(
    object_pairs_hook=read_pairs, parse_float=read_float, parse_int=read_int, parse_constant=read_constant
)
MARKING_DECODER = json.JSONDecoder(
    object_pairs_hook=mark_pairs,
    parse_float=lambda text: value if math.isfinite(value := float(text)) else OUT_OF_RANGE,
    parse_int=lambda text: int(text) if len(text) <= MOST_DIGITS else TOO_MANY_DIGITS,
    parse_constant=lambda _name: NOT_FINITE,
)
"""Reads what `DECODER` gives up at, and leaves a `Fault` in each place that it would have."""


def validate_payload(pipeline: Pipeline, payload: Mapping[str, JsonValue]) -> Record:
    """Validate a JSON object in pydantic's strict JSON mode. Raises `RecordRefusedError`."""
    model = pipeline.record
    errors = tuple(imprecise(model, payload))
    if errors:
        raise RecordRefusedError(errors)
    try:
        text = json.dumps(payload, allow_nan=False)
    except (ValueError, RecursionError):
        check_values(payload)
        refuse(TOO_MANY_DIGITS.code, TOO_MANY_DIGITS.message)
    try:
        return model.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise RecordRefusedError(field_errors_of(error)) from None


def validate_text(pipeline: Pipeline, text: bytes) -> Record:
    """Read and validate the JSON text of one record. Raises `RecordRefusedError`.

    The same as `parse_json` and `validate_payload`, without printing the JSON in between: what `parse_json` lets pass
    pydantic reads from the text as it would from the print. Numbers with a fraction for Decimals are the exception,
    because their digits would count as they are written.
    """
    payload = parse_json(text)
    model = pipeline.record
    if any(type(payload.get(name)) in FRACTIONS for name in decimal_fields(model)):
        return validate_payload(pipeline, payload)
    try:
        return model.model_validate_json(text.removeprefix(BYTE_ORDER_MARK), strict=True)
    except ValidationError as error:
        raise RecordRefusedError(field_errors_of(error)) from None


def field_errors_of(error: ValidationError) -> tuple[FieldError, ...]:
    """Take path, code and message from pydantic's errors, and leave the input out."""
    return tuple(
        FieldError(field=".".join(map(str, item["loc"])), code=item["type"], message=item["msg"])
        for item in error.errors(include_url=False, include_context=False, include_input=False)
    )


def imprecise(model: type[Record], payload: Mapping[str, JsonValue]) -> Iterator[FieldError]:
    """Find numbers for Decimal fields that were rounded when they were read as JSON."""
    for name in decimal_fields(model):
        for path in inexact(payload.get(name), name):
            message = "the number has more digits than a JSON number keeps: send it as a string"
            yield FieldError(field=path, code="number_precision", message=message)


def inexact(value: JsonValue, path: str) -> Iterator[str]:
    """Find the paths of the rounded numbers in a value."""
    if isinstance(value, InexactFloat):
        yield path
    elif isinstance(value, dict | list):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from inexact(item, join(path, name))


@lru_cache(maxsize=256)
def decimal_fields(model: type[Record]) -> tuple[str, ...]:
    """Name the fields, by every name they accept, whose type mentions Decimal at any depth."""
    names: list[str] = []
    for name, info in model.model_fields.items():
        if mentions_decimal(info.annotation, set()):
            names.append(name)
            names.extend(alias for alias in (info.alias, info.validation_alias) if isinstance(alias, str))
    return tuple(dict.fromkeys(names))


def mentions_decimal(annotation: Any, seen: set[Any]) -> bool:
    """Look for Decimal in a type, its arguments and its models."""
    if annotation is Decimal:
        return True
    if any(mentions_decimal(item, seen) for item in getattr(annotation, "__args__", ())):
        return True
    fields = getattr(annotation, "model_fields", None)
    if not isinstance(annotation, type) or fields is None or annotation in seen:
        return False
    seen.add(annotation)
    return any(mentions_decimal(info.annotation, seen) for info in fields.values())


def fingerprint(payload: Mapping[str, JsonValue]) -> str:
    """Identify a payload: the SHA-256 of its canonical JSON (sorted names, no spaces), in hexadecimal."""
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
