"""What a file is taken for, and which files are refused as a whole."""

from __future__ import annotations

import pytest
from pydantic import Field

from activities.header import read_header
from contracts import Pipeline, PostgresTable, Record
from contracts.errors import FileRefusedError


class Order(Record):
    id: int
    name: str
    note: str | None = None
    kind: str = Field("x", alias="Kind")


ORDERS = Pipeline(name="orders", record=Order, sink=PostgresTable("orders", key=("id",)))


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_the_one_whose_names_match(delimiter: str) -> None:
    head = "\ufeff\n" + delimiter.join(("id", '"name"', "Kind")) + "\r\n1,2,3\r\n"
    header = read_header(ORDERS, head.encode(), whole=True)
    assert header.dialect.delimiter == delimiter
    assert header.dialect.columns == ("id", "name", "Kind")
    assert (header.start, header.line) == (head.encode().index(b"1,2"), 3)


def test_a_header_alone_is_a_file_without_records() -> None:
    for head in (b"id,name", b"id,name\n", b"id,name\r\n"):
        assert read_header(ORDERS, head, whole=True).start == len(head)


def test_the_columns_of_our_own_rejects_file_are_welcome() -> None:
    head = b"id,name,reject_line,reject_column,reject_code,reject_message,reject_row\n"
    assert len(read_header(ORDERS, head, whole=True).dialect.columns) == 7


@pytest.mark.parametrize("head", [b'{"id": 1}\n', b'\n  {"id": 1, bad}\n{"id": 2}\n', b'{"id": 1', b'{"id": NaN}\n'])
def test_lines_of_objects_are_ndjson(head: bytes) -> None:
    assert read_header(ORDERS, head, whole=True).dialect.format == "ndjson"


@pytest.mark.parametrize(
    ("head", "code", "word"),
    [
        (b"", "empty_file", "empty"),
        (b"\xef\xbb\xbf\r\n \n", "empty_file", "empty"),
        ("id,name\n1,a\n".encode("utf-16"), "encoding", "UTF-16"),
        ("id,name\n1,a\n".encode("utf-32"), "encoding", "UTF-32"),
        ("id,name\n1,a\n".encode("utf-16-le"), "not_text", "NUL"),
        ("id,name,n\xf6\n".encode("latin-1"), "encoding", "UTF-8"),
        (b"PK\x03\x04rest", "not_text", "zip"),
        (b"id,name,colour,size\n", "unknown_columns", "'colour', 'size'"),
        (b"id\n", "missing_columns", "'name'"),
        (b"id,name,id\n", "duplicate_columns", "'id'"),
        (b"1,a\n2,b\n", "no_header", "expected id, name"),
        (b'[{"id": 1}]', "json_not_lines", "NDJSON"),
        (b'{\n "id": 1\n}\n', "json_not_lines", "NDJSON"),
        (b"x" * (3 << 20), "no_header", "too long"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_in_one_sentence(head: bytes, code: str, word: str) -> None:
    with pytest.raises(FileRefusedError) as caught:
        read_header(ORDERS, head, whole=len(head) < 1 << 20)
    assert caught.value.code == code
    assert word in str(caught.value)
