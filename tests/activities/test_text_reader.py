"""Rows that stay text: the pattern accepts nothing that the model refuses, and says what the values say."""

from __future__ import annotations

import math
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, ConfigDict, Field, NaiveDatetime, PastDatetime

from activities.canonical import canonical_rows
from activities.csv_reader import CsvReader
from activities.scan import Block
from activities.text_reader import TextReader
from contracts import Pipeline, PostgresTable, Record
from contracts.blocks import TextRows
from contracts.errors import TerminalError
from contracts.loads import Dialect


class Wide(Record):
    i: int
    f: float
    s: str
    d: Decimal
    at: datetime
    naive: NaiveDatetime
    day: date
    flag: bool
    u: UUID
    kind: Literal["x", "xy", "long one"]
    carrier: Annotated[str, Field(pattern=r"^[A-Z0-9]{2}$")]
    short: Annotated[str, Field(min_length=2, max_length=4)]
    small: Annotated[int, Field(ge=0, lt=100)]
    big: Annotated[int, Field(gt=10)]
    money: Annotated[Decimal, Field(gt=0, max_digits=6, decimal_places=2)]
    share: Annotated[float, Field(ge=0, le=100)]
    note: str | None = None
    maybe: int | None


NAMES = tuple(Wide.model_fields)
CANONICAL = ["7", "1.5", "text", "2.50", "2024-02-29T10:00:00Z", "2013-01-31 10:00:00.25", "2013-12-31", "true",
             "6ec57f84-c680-d3a3-778b-000000000001", "xy", "UA", "abc", "42", "111", "1.25", "99.5", "note",
             "-3"]  # fmt: skip
TRICKY = ["", "NA", "0", "-0", "00", "-1", "+1", "1.0", "0.00", "1e3", " 1", "1_000", "٣", "nan", "9223372036854775808",
          "999999999999999999", "100", "99", "10", "11", "yes", "1", "T", "True", "x", "long one", "long", "ua", "U",
          "UAX", "U\n", "a", "ab", "abcde", "éé", "2023-02-29T10:00:00Z", "1900-02-29T10:00:00Z", "2000-02-29",
          "2013-04-31", "2013-02-30T10:00:00", "2013-01-31T24:00:00Z", "2013-01-31T10:00:00", "2013-01-31T10:00Z",
          "2013-01-31T10:00:00+14:59", "2013-01-31T10:00:00-00:00", "2013-01-31t10:00:00z", "1234.56", "12345.6",
          "0.001", "100.5", "1.", ".5", "12345678901234567890.5", 'say "hi"', "with, comma", "two\nlines", "cr\rcr",
          "tab\t", "\\.", "\\N", "NULL", "nul\0", "\u2028", "é", "6EC57F84-C680-D3A3-778B-000000000001", "x" * 5000,
          "0.1234567890123456"]  # fmt: skip


def as_pipeline(model: type[Record], **options: Any) -> Pipeline:
    return Pipeline(name="p", record=model, sink=PostgresTable("t", key=None), absent=("NA",), **options)


def readers(model: type[Record], delimiter: str = ",") -> tuple[TextReader, CsvReader]:
    pipeline = as_pipeline(model)
    dialect = Dialect(format="csv", delimiter=delimiter, columns=tuple(model.model_fields))
    reader = CsvReader(pipeline, dialect)
    return TextReader(pipeline, dialect, reader), reader


def quoted(cell: str, *, always: bool) -> str:
    if always or any(mark in cell for mark in ',"\r\n'):
        return '"' + cell.replace('"', '""') + '"'
    return cell


cells = st.sampled_from(TRICKY) | st.text(max_size=6) | st.integers().map(str) | st.decimals().map(str)
rows = st.tuples(
    st.dictionaries(st.integers(0, len(NAMES) - 1), cells, max_size=2), st.booleans(), st.sampled_from(["\n", "\r\n"])
)


def written(given_rows: list[tuple[dict[int, str], bool, str]]) -> bytes:
    lines = []
    for changes, always, end in given_rows:
        row = [changes.get(at, cell) for at, cell in enumerate(CANONICAL)]
        lines.append(",".join(quoted(cell, always=always and at in changes) for at, cell in enumerate(row)) + end)
    return "".join(lines).encode("utf-8", "surrogatepass")


@settings(max_examples=400, deadline=None)
@given(st.lists(rows, min_size=1, max_size=6))
def test_text_and_values_agree_on_whatever_rows(given_rows: list[tuple[dict[int, str], bool, str]]) -> None:
    by_text, by_value = readers(Wide)
    block = Block(start=0, line=5, data=written(given_rows))
    found = by_text.read(block)
    records = by_value.read(block)
    wanted = [(line, value) for line, value in zip(records.lines, records.values, strict=True) if value is not None]
    if found is None:
        with pytest.raises(UnicodeDecodeError):
            block.data.decode()
        return
    assert isinstance(found.rows, TextRows)
    assert list(zip(found.lines, found.rows, strict=True)) == wanted
    assert found.rejects == sorted(records.rejects, key=lambda reject: reject.line)
    assert found.read == len(wanted) + len(records.rejects)
    # What was accepted as text reads as the same values, too.
    texts = b"".join(piece for piece in found.rows.pieces if isinstance(piece, bytes))
    again = by_value.read(Block(start=0, line=1, data=texts))
    assert not again.rejects
    assert all(value in [row for _, row in wanted] for value in again.values)


@pytest.mark.parametrize("cell", CANONICAL)
def test_usual_rows_are_canonical(cell: str) -> None:
    by_text, _ = readers(Wide)
    assert by_text.pattern is not None
    assert by_text.pattern.fullmatch((",".join(CANONICAL) + "\n").encode())
    # One that is doubled is not: the test above would say nothing if the pattern accepted nothing or everything.
    assert not by_text.pattern.match(f"{cell},{','.join(CANONICAL)}\n".encode())


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_other_delimiters_are_read_as_such(delimiter: str) -> None:
    by_text, _ = readers(Wide, delimiter)
    data = (delimiter.join(CANONICAL) + "\n").encode()
    found = by_text.read(Block(start=0, line=1, data=data))
    assert found is not None
    assert isinstance(found.rows, TextRows)
    assert found.rows.pieces == [data]


def test_mostly_odd_rows_are_left_to_the_reader_of_values() -> None:
    by_text, _ = readers(Wide)
    odd = [*CANONICAL[:3], "1e1", *CANONICAL[4:]]
    assert by_text.read(Block(start=0, line=1, data=(",".join(odd) + "\n").encode() * 1000)) is None
    assert by_text.pattern is None


def checked(value: str) -> str:
    return value


class Own(Record):
    s: Annotated[str, AfterValidator(checked)]
    i: int


class Stripped(Record):
    model_config = ConfigDict(str_strip_whitespace=True)
    s: str
    i: int


class Bounded(Record):
    at: PastDatetime
    i: int


class Multiple(Record):
    m: Annotated[int, Field(multiple_of=3)]
    i: int


class Ranged(Record):
    s: Annotated[str, Field(pattern=r"^[A-Za-z0-9 -_]+$")]
    i: int


class Difference(Record):
    s: Annotated[str, Field(pattern=r"^[A-Z--X]+$")]
    i: int


class Twice(Record):
    s: Annotated[str, Field(pattern=r"^[a-z0-9]+[a-z0-9_.-]*$")]
    i: int


class FloatBound(Record):
    s: str
    i: Annotated[int, Field(le=1e3)]


class Unbounded(Record):
    s: str
    f: Annotated[float, Field(lt=math.inf)]


class Impossible(Record):
    s: Annotated[str, Field(min_length=3, max_length=2)]
    i: int


class Defaulted(Record):
    i: int
    s: str
    n: int = 3


class Word(Record):
    s: Annotated[str, Field(pattern=r"^\w+$")]
    i: int


@pytest.mark.parametrize(
    "model", [Own, Stripped, Bounded, Multiple, Word, Ranged, Difference, Twice, FloatBound, Unbounded, Impossible]
)
def test_a_model_that_the_pattern_cannot_speak_for_has_none(model: type[Record]) -> None:
    assert canonical_rows(as_pipeline(model), tuple(model.model_fields), ",") is None


class Below(Record):
    s: str
    f: Annotated[float, Field(lt=100)]


def test_a_float_that_would_be_rounded_up_to_its_bound_is_left_to_the_model() -> None:
    pattern = canonical_rows(as_pipeline(Below), ("s", "f"), ",")
    assert pattern is not None
    assert pattern.fullmatch(b"a,99.5\n")
    assert float("99.999999999999999") == 100.0
    assert not pattern.match(b"a,99.999999999999999\n")


class Code(Record):
    a: Annotated[str, Field(pattern=r"^[A-Z]{2}[0-9.-]+x$")]
    b: Annotated[str, Field(pattern=r"^-?$")] | None
    i: int


def test_a_field_pattern_is_part_of_the_row_pattern() -> None:
    class Codes(Record):
        a: Annotated[str, Field(pattern=r"^[A-Z]{2}[0-9x.-]+x$")]
        i: int

    pattern = canonical_rows(as_pipeline(Codes), ("a", "i"), ",")
    assert pattern is not None
    assert pattern.fullmatch(b"AB1x.2-x,1\n")
    assert not pattern.match(b"AB1x.2-,1\n")
    assert not pattern.match(b"AB,1\n")
    assert canonical_rows(as_pipeline(Code), ("a", "b", "i"), ",") is None


def test_a_mark_of_absence_with_quotes_is_left_to_the_reader_of_values() -> None:
    pipeline = Pipeline(name="p", record=Below, sink=PostgresTable("t", key=None), absent=('a"b',))
    assert canonical_rows(pipeline, ("s", "f"), ",") is None


def test_a_column_that_the_model_lost_since_the_file_was_inspected_is_no_error() -> None:
    assert canonical_rows(as_pipeline(Below), ("s", "f", "lost"), ",") is None


def test_text_that_is_not_what_its_values_are_is_an_error_for_good() -> None:
    rows = TextRows([b"1\n2\n"], columns=("id",), delimiter=",", count=2, parse=lambda: [(1,)])
    with pytest.raises(TerminalError, match="2 rows, and 1 as values"):
        _ = rows[0]


def test_a_default_that_is_a_value_is_not_left_to_the_sink() -> None:
    pipeline = as_pipeline(Defaulted)
    assert canonical_rows(pipeline, ("i", "s"), ",") is None
    pattern = canonical_rows(pipeline, ("i", "s", "n"), ",")
    assert pattern is not None
    assert pattern.fullmatch(b"1,a,2\n")
    assert not pattern.match(b"1,a,\n")


def test_a_process_wants_values() -> None:
    def same(record: Defaulted) -> Defaulted:
        return record

    assert canonical_rows(as_pipeline(Defaulted, process=same), ("i", "s", "n"), ",") is None


def test_the_columns_of_a_rejects_file_are_not_passed_on() -> None:
    assert canonical_rows(as_pipeline(Defaulted), ("i", "s", "n", "reject_row"), ",") is None
