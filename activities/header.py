"""How a text file is to be read: its encoding, its format, its delimiter and its columns.

Guarantee: a file that cannot be read as a whole is refused here, once, with a sentence that says what to change;
it never becomes a million rejects.
"""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from activities.cells import REJECT_COLUMNS, field_names
from activities.scan import grammar
from activities.validate import parse_json
from contracts.errors import FileRefusedError, RecordRefusedError
from contracts.loads import Dialect

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contracts.pipeline import Pipeline

DELIMITERS = (",", ";", "\t", "|")
BOM = b"\xef\xbb\xbf"
SAMPLE_LINES = 20
NUL_SHARE = 10
MOST_NAMED = 10

FOREIGN = (
    (b"\xff\xfe\x00\x00", "encoding", "the file is UTF-32: save it as UTF-8"),
    (b"\x00\x00\xfe\xff", "encoding", "the file is UTF-32: save it as UTF-8"),
    (b"\xff\xfe", "encoding", "the file is UTF-16: save it as UTF-8"),
    (b"\xfe\xff", "encoding", "the file is UTF-16: save it as UTF-8"),
    (b"PK\x03\x04", "not_text", "the file is a zip archive or a spreadsheet: upload the CSV itself, plain or gzipped"),
    (b"\x28\xb5\x2f\xfd", "not_text", "the file is compressed with zstd: upload it plain or gzipped"),
    (b"\xfd7zXZ\x00", "not_text", "the file is compressed with xz: upload it plain or gzipped"),
    (b"BZh", "not_text", "the file is compressed with bzip2: upload it plain or gzipped"),
    (b"\x1f\x8b", "not_text", "the file is gzipped twice: unpack it once"),
    (b"PAR1", "not_text", "the file is Parquet: export it as CSV or NDJSON"),
    (b"%PDF", "not_text", "the file is a PDF: export it as CSV or NDJSON"),
)


class Header:
    """The dialect of a file, and where its first record begins: offset in bytes and physical line."""

    def __init__(self, dialect: Dialect, start: int, line: int) -> None:
        self.dialect = dialect
        self.start = start
        self.line = line


def read_header(pipeline: Pipeline, head: bytes, *, whole: bool) -> Header:
    """Find out how to read a file from its first bytes. Raises `FileRefusedError`.

    `head` should be 2 MiB or more, unless it is the whole file, which `whole` says.
    """
    check_text(head)
    at = len(BOM) if head.startswith(BOM) else 0
    line = 1
    # Blank lines before the first record mean nothing in either format.
    while (end := head.find(b"\n", at) + 1) and not head[at:end].strip():
        at, line = end, line + 1
    if not head[at:].strip():
        raise FileRefusedError(code="empty_file", message="the file is empty")
    body = head[at:].lstrip(b" \t")
    if body.startswith(b"{") and holds_objects(body):
        return Header(Dialect(format="ndjson"), at, line)
    if body.startswith((b"{", b"[")):
        message = "the file is JSON, but not one object per line (NDJSON): put each record on a line of its own"
        raise FileRefusedError(code="json_not_lines", message=message)
    names, delimiter, end = sniff(pipeline, head, at, whole=whole)
    check_columns(pipeline, names)
    return Header(Dialect(format="csv", delimiter=delimiter, columns=names), end, line + head.count(b"\n", at, end))


def check_text(head: bytes) -> None:
    """Refuse what is not UTF-8 text from its first bytes on."""
    if not head:
        raise FileRefusedError(code="empty_file", message="the file is empty")
    for magic, code, message in FOREIGN:
        if head.startswith(magic):
            raise FileRefusedError(code, message)
    sample = head[: 1 << 16]
    if sample.count(b"\0") * NUL_SHARE > len(sample):
        message = "the file is not text, or not UTF-8: a large share of its bytes are NUL"
        raise FileRefusedError(code="not_text", message=message)


def holds_objects(body: bytes) -> bool:
    """Say whether lines are JSON objects. A broken first line must not cost the file, so more are looked at."""
    for line in body.split(b"\n", SAMPLE_LINES)[:SAMPLE_LINES]:
        try:
            parse_json(line)
        except RecordRefusedError as error:
            if error.errors[0].code not in {"json_invalid", "json_object", "too_long"}:
                return True
            continue
        return True
    first = body.partition(b"\n")[0].strip()
    return first.startswith(b'{"')


def sniff(pipeline: Pipeline, head: bytes, at: int, *, whole: bool) -> tuple[tuple[str, ...], str, int]:
    """Read the header with the delimiter whose names match the model's fields best."""
    known = field_names(pipeline.record).keys()
    best: tuple[int, tuple[str, ...], str, int] | None = None
    data = b"\n" + head[at:]
    for delimiter in DELIMITERS:
        decision = grammar(delimiter).first_record(data, 1, ended=whole)
        if decision is None or decision[0] != "records":
            continue
        end = decision[1]
        names = header_names(data[1:end], delimiter)
        matched = len(known & set(names))
        if best is None or matched > best[0]:
            best = (matched, names, delimiter, at + end - 1)
    if best is None:
        raise FileRefusedError(
            code="no_header", message=f"the first line is too long for a header; expected {expected(pipeline)}"
        )
    if not best[0]:
        message = f"the first line is no header for pipeline {pipeline.name}; expected {expected(pipeline)}"
        raise FileRefusedError(code="no_header", message=message)
    return best[1:]


def header_names(data: bytes, delimiter: str) -> tuple[str, ...]:
    """Split the header. Raises `FileRefusedError` if it is not text."""
    try:
        text = data.removesuffix(b"\n").removesuffix(b"\r").decode()
    except UnicodeDecodeError:
        raise FileRefusedError(code="encoding", message="the header is not UTF-8: save the file as UTF-8") from None
    try:
        rows = list(csv.reader(io.StringIO(text, newline="\n"), delimiter=delimiter))
    except csv.Error:
        message = "the header holds a carriage return: end lines with a newline, or with both"
        raise FileRefusedError(code="no_header", message=message) from None
    return tuple(rows[0]) if rows else ()


def check_columns(pipeline: Pipeline, names: Sequence[str]) -> None:
    """Refuse a header with columns that are unknown, missing or there twice, and name them."""
    fields = field_names(pipeline.record)
    unknown = [name for name in names if name not in fields and name not in REJECT_COLUMNS]
    if unknown:
        message = f"unknown columns: {listed(unknown)}; expected {expected(pipeline)}"
        raise FileRefusedError(code="unknown_columns", message=message)
    given = [fields.get(name, name) for name in names]
    twice = [name for name in dict.fromkeys(given) if given.count(name) > 1]
    if twice:
        raise FileRefusedError(
            code="duplicate_columns", message=f"columns that stand twice in the header: {listed(twice)}"
        )
    infos = pipeline.record.model_fields
    missing = [name for name, info in infos.items() if info.is_required() and name not in given]
    if missing:
        raise FileRefusedError(code="missing_columns", message=f"missing columns: {listed(missing)}")


def listed(names: Sequence[str]) -> str:
    """List names, but not endlessly many, nor endlessly long ones."""
    text = ", ".join(ascii(name[:60]) for name in names[:MOST_NAMED])
    return f"{text} and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else text


def expected(pipeline: Pipeline) -> str:
    """Say which columns a file of this pipeline has."""
    return ", ".join(pipeline.record.model_fields)
