"""The strict edge for JSON: what it refuses, and in which words."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.validate import fingerprint, parse_json, validate_payload, validate_text
from contracts import Pipeline, PostgresTable, Record
from contracts.errors import RecordRefusedError


class Order(Record):
    id: int
    at: datetime
    amount: Decimal = Decimal(1)
    note: str | None = None
    weight: float = 0.0


ORDERS = Pipeline(name="orders", record=Order, sink=PostgresTable("orders", key=("id",)))


def refusal(text: bytes | str) -> list[tuple[str, str]]:
    with pytest.raises(RecordRefusedError) as caught:
        validate_payload(ORDERS, parse_json(text))
    return [(error.field, error.code) for error in caught.value.errors]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "json_invalid"),
        ("{", "json_invalid"),
        ('{"id": 1} x', "json_invalid"),
        ("[1]", "json_object"),
        ("3", "json_object"),
        ('{"id": NaN}', "finite_number"),
        ('{"id": -Infinity}', "finite_number"),
        ('{"id": 1e999}', "number_range"),
        ('{"id": ' + "9" * 5000 + "}", "number_range"),
        ('{"id": 1, "id": 2}', "duplicate_key"),
        ('{"note": {"a": 1, "a": 1}}', "duplicate_key"),
        (r'{"note": "\ud800"}', "lone_surrogate"),
        (r'{"note": "a\u0000"}', "nul_character"),
        (r'{"a\u0000": 1}', "nul_character"),
        ('{"note": ' + "[" * 40 + "]" * 40 + "}", "too_deep"),
        ('{"note": ' + "[" * 100_000 + "]" * 100_000 + "}", "too_deep"),
        (b'{"note": "\xff"}', "invalid_utf8"),
        ('{"note": "' + "x" * (1 << 20) + '"}', "too_long"),
        ('{"note": "' + "é" * (1 << 19) + '"}', "too_long"),
    ],
)
def test_what_is_not_plainly_a_json_object_is_refused(text: bytes | str, code: str) -> None:
    assert [found for _, found in refusal(text)] == [code]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"id": 1, "weight": NaN}', [("weight", "finite_number")]),
        ('{"weight": -Infinity, "id": NaN}', [("weight", "finite_number"), ("id", "finite_number")]),
        ('{"lines": [{"amount": 1}, {"amount": Infinity}]}', [("lines.1.amount", "finite_number")]),
        ('{"id": 1, "weight": -1e999}', [("weight", "number_range")]),
        ('{"lines": [1, ' + "9" * 5000 + "]}", [("lines.1", "number_range")]),
        ('{"note": {"a": 1, "b": {"c": 1, "c": 1}}}', [("note.b.c", "duplicate_key")]),
        (r'{"note": {"a": "\udc00"}}', [("note.a", "lone_surrogate")]),
        (r'{"note": ["x", "\u0000"]}', [("note.1", "nul_character")]),
        (r'{"note": {"a\u0000": 1}}', [("note.a\ufffd", "nul_character")]),
        ('{"a": ' + "[" * 40 + "]" * 40 + "}", [("a" + ".0" * 31, "too_deep")]),
        ('{"id": ' + "9" * 4300 + ', "at": "2013-01-01T10:00:00Z"}', [("id", "less_than_equal")]),
        # The same fault twice in one place is told once; text that is no JSON is told as that.
        ('{"id": NaN, "id": NaN}', [("id", "duplicate_key")]),
        ('{"id": NaN', [("", "json_invalid")]),
        ("[NaN]", [("", "json_object")]),
    ],
)
def test_a_value_that_is_refused_is_named_by_its_dotted_path(text: str, expected: list[tuple[str, str]]) -> None:
    assert refusal(text) == expected


def test_a_record_of_faults_names_a_hundred_of_them() -> None:
    assert len(refusal('{"note": [' + "NaN," * 10_000 + "1]}")) == 100


def test_a_payload_that_never_was_text_is_refused_by_its_path_too() -> None:
    for value in (float("nan"), float("-inf")):
        with pytest.raises(RecordRefusedError) as caught:
            validate_payload(ORDERS, {"id": 1, "note": {"a": [value]}})
        assert [(error.field, error.code) for error in caught.value.errors] == [("note.a.0", "finite_number")]


def test_pairs_of_surrogates_and_thirty_two_levels_are_fine() -> None:
    assert parse_json(r'{"a": "\ud83d\ude00"}') == {"a": "😀"}
    assert parse_json('{"a":' + "[" * 31 + "]" * 31 + "}")
    assert parse_json(b'\xef\xbb\xbf{"a": 1}\r\n') == {"a": 1}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"id": "1"}, [("id", "int_type")]),
        ({"id": True}, [("id", "int_type")]),
        ({"id": 2**63}, [("id", "less_than_equal")]),
        ({"other": 1}, [("other", "extra_forbidden")]),
        ({"note": 3, "id": None}, [("id", "int_type"), ("note", "string_type")]),
    ],
)
def test_values_are_never_adapted(change: dict[str, object], expected: list[tuple[str, str]]) -> None:
    assert refusal(json.dumps({"id": 1, "at": "2013-01-01T10:00:00Z", **change})) == expected


def test_a_decimal_takes_no_number_that_was_rounded() -> None:
    start = '{"id": 1, "at": "2013-01-01T10:00:00Z", '
    assert refusal(start + '"amount": 0.12345678901234567890}') == [("amount", "number_precision")]
    assert refusal(start + '"amount": 1e-400}') == [("amount", "number_precision")]
    for good in ("0.1", "12.50", "1e2", '"0.12345678901234567890"', "123456789012345678901234"):
        order = validate_payload(ORDERS, parse_json(start + f'"amount": {good}}}'))
        assert isinstance(order, Order)
        assert order.amount == Decimal(good.strip('"'))
    weighed = validate_payload(ORDERS, parse_json(start + '"weight": 0.12345678901234567890}'))
    assert isinstance(weighed, Order)
    assert weighed.weight == 0.12345678901234567890


def test_a_message_never_repeats_the_input() -> None:
    with pytest.raises(RecordRefusedError) as caught:
        validate_payload(ORDERS, parse_json('{"id": "secret", "at": "secret", "note": 1}'))
    assert "secret" not in str(caught.value)


@given(st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False, allow_infinity=False) | st.integers()))
def test_the_fingerprint_survives_json_and_order(payload: dict[str, float]) -> None:
    again = json.loads(json.dumps(dict(reversed(payload.items()))))
    assert fingerprint(again) == fingerprint(payload)


class Mixed(Record):
    amount: Decimal
    ratio: float
    number: int
    name: str
    at: datetime | None = None
    nested: dict[str, float] | None = None


MIXED = Pipeline(name="mixed", record=Mixed, sink=PostgresTable("mixed", key=None))
TEXTS = [
    f'{{"amount": {amount}, "ratio": {ratio}, "number": {number}, "name": {name}}}'
    for amount, ratio, number, name in itertools.product(
        ['"1.10"', "1", "1.10", "1e2", "0.1234567890123456789", '"x"', "true"],
        ["1", "2.5", "1E400", '"1"', "1e5", "null"],
        ["7", "7.0", str(2**63), '"7"', "1E3"],
        ['"ü"', '"\\ud800"', '"\\u00e9"', '"a\\u0000"', "5"],
    )
] + [
    "",
    "  \n",
    "[]",
    "\ufeff" + '{"amount": "1", "ratio": 1, "number": 1, "name": "a"} \r\n',
    '{"amount": "1", "ratio": 1, "number": 1, "name": "a", "name": "b"}',
    '{"amount": "1", "ratio": NaN, "number": 1, "name": "a"}',
    '{"amount": "1", "ratio": 1, "number": 1, "name": "a", "at": "2013-01-01T00:00:00Z"}',
    '{"amount": "1", "ratio": 1, "number": 1, "name": "a", "at": 2013}',
    '{"amount": "1", "ratio": 1, "number": 1, "name": "a", "nested": {"x": 1e-320, "y": 3}}',
    '{"amount": "1", "ratio": 1, "number": 1, "name": "a"} {}',
]


def test_a_text_is_validated_as_its_payload_would_be() -> None:
    def outcome(read: Callable[[], Record]) -> object:
        try:
            return repr(read())
        except RecordRefusedError as error:
            return error.errors

    for text in TEXTS:
        data = text.encode()
        expected = outcome(lambda data=data: validate_payload(MIXED, parse_json(data)))  # type: ignore[misc]
        assert outcome(lambda data=data: validate_text(MIXED, data)) == expected, text  # type: ignore[misc]
