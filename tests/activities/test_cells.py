"""The fast form of cell validation equals pydantic's string mode, on whatever cells."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, NaiveDatetime, field_validator
from pydantic_core import PydanticUndefined

from activities.cells import CellValidator, string_validator
from contracts import Pipeline, PostgresTable, Record

if TYPE_CHECKING:
    from collections.abc import Callable


class Wide(Record):
    i: int
    f: float
    s: Annotated[str, Field(max_length=12)]
    b: bool
    d: Decimal
    at: datetime
    naive: NaiveDatetime
    day: date
    t: time
    span: timedelta
    u: UUID
    kind: Literal["x", "y"]
    small: Annotated[int, Field(ge=0, lt=100)]
    money: Annotated[Decimal, Field(max_digits=6, decimal_places=2)]
    maybe: int | None
    alias: int = Field(7, alias="Other")
    note: str | None = None
    many: float = 1.5


COLUMNS = ("note", *(name for name in Wide.model_fields if name not in {"alias", "note", "many"}), "Other")
GOOD = ["n", "1", "1.5", "s", "true", "2.50", "2013-01-01T10:00:00Z", "2013-01-01T10:00:00", "2013-01-01", "10:00",
        "PT1H", "6ec57f84-c680-d3a3-778b-000000000001", "x", "5", "1.25", "3", "4"]  # fmt: skip
TRICKY = ["", "NA", "0", "-1", "+1", "1.0", "1e3", " 1 ", "1_000", "٣", "nan", "inf", "9223372036854775807", "yes",
          "9223372036854775808", "0x10", "T", "off", "1357034400", "2013-01-01", "2013-01-01T00:00:00", "24:00", "x ",
          "2013-01-01T10:00:00+02:00", "2013-13-01", "12:00:00.1234567", "P1D", "99.999", "1e400", "0.1e-400", "null",
          "None", "True", "1,5", "\u2028", "-0", "00", "1.", ".5", "12345678901234567890123"]  # fmt: skip


def as_pipeline(model: type[Record], process: Callable[[Any], Any] | None = None) -> Pipeline:
    return Pipeline(name="p", record=model, sink=PostgresTable("t", key=None), process=process, absent=("NA",))


def same(record: Wide) -> Wide:
    return record


def is_fast(validator: CellValidator) -> bool:
    return validator.batch is not None


cell = st.one_of(st.sampled_from(TRICKY + GOOD), st.text(alphabet="0123456789.-+:TZeE _", max_size=20))
changes = st.lists(st.tuples(st.integers(0, len(COLUMNS) - 1), cell), max_size=2)
FAST = CellValidator(as_pipeline(Wide), COLUMNS)
BUILT = CellValidator(as_pipeline(Wide, same), COLUMNS)


@given(st.lists(changes, min_size=1, max_size=3))
@settings(max_examples=1500, deadline=None)
def test_the_fast_form_gives_what_the_string_mode_gives(edits: list[list[tuple[int, str]]]) -> None:
    assert is_fast(FAST)
    rows = []
    for edit in edits:
        row = list(GOOD)
        for at, text in edit:
            row[at] = text
        rows.append(row)
    absent = any(text in {"", "NA"} for row in rows for text in row)
    # The batch alone, without its second look: nothing may be accepted or refused that the string mode is not.
    marked = FAST._mark(rows) if absent else rows
    alone = FAST.batch.validate_python([FAST.pick((*row, PydanticUndefined)) for row in marked])  # type: ignore[union-attr]
    slow = [FAST._validate_one(row) for row in rows]
    assert repr(alone) == repr(slow)
    assert repr(FAST.validate(rows, absent=absent)) == repr(slow)
    for built, row in zip(BUILT.validate(rows, absent=absent), rows, strict=True):
        plain = BUILT._validate_one(row)
        assert repr(built) == repr(plain)
        if plain is not None:
            assert built == plain
            assert built.model_fields_set == plain.model_fields_set
            assert built.__pydantic_private__ == plain.__pydantic_private__


def test_an_absent_cell_is_none_where_the_field_is_nullable_and_has_no_default() -> None:
    row = [*GOOD[:14], "2.5", "NA", ""]
    [value] = FAST.validate([row], absent=True)
    record = dict(zip(Wide.model_fields, value, strict=True))
    assert record["maybe"] is None
    assert record["alias"] == 7
    assert FAST._validate_one(row) == value


class Checked(Record):
    code: str
    maybe: int | None

    @field_validator("code")
    @classmethod
    def upper(cls, code: str) -> str:
        return code.upper()


def test_a_model_with_validators_of_its_own_uses_the_string_mode() -> None:
    validator = CellValidator(as_pipeline(Checked), ("code", "maybe"))
    assert not is_fast(validator)
    assert validator.validate([["a", ""], ["b", "2"], ["", "x"]], absent=True) == [("A", None), ("B", 2), None]
    assert [(e.column, e.code) for e in validator.errors(["", "x"])] == [("code", "missing"), ("maybe", "int_parsing")]
    record = string_validator(Checked).validate_strings({"code": "a"})
    assert type(record) is Checked
