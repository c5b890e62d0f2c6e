"""`upload` and what belongs to it, as a script sees it."""

from __future__ import annotations

import csv
import gzip
import io
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.conftest import ROOT
from tests.acceptance.faults import plant

if TYPE_CHECKING:
    from tests.acceptance.conftest import Starter

HEADER = "id,text,amount\n"


def notes(first: int, number: int, spoilt: int = 0) -> bytes:
    """Make rows with ids from `first` on, of which the first `spoilt` have no number as their amount."""
    rows = (f"{first + n},row {n},{'much' if n < spoilt else n}\n" for n in range(number))
    return (HEADER + "".join(rows)).encode()


def counts(read: int, written: int, rejected: int = 0, duplicates: int = 0) -> dict[str, int]:
    return {"read": read, "written": written, "rejected": rejected, "duplicates": duplicates}


def ids(starter: Starter, first: int, last: int, table: str = "notes") -> int:
    return int(starter.select(f"SELECT count(*) FROM {table} WHERE id BETWEEN {first} AND {last}")[0][0])


def test_the_table_equals_the_file_row_for_row(starter: Starter) -> None:
    path = ROOT / "examples" / "flights-2013-01.csv.gz"
    ran = starter("upload", "whole_flights", str(path), "--wait")
    assert ran.exit == 0, ran
    assert ran.json["counts"] == counts(27004, 27004)
    assert_equal(starter, "whole_flights", gzip.decompress(path.read_bytes()))


def assert_equal(starter: Starter, table: str, content: bytes) -> None:
    """Compare a table with a file of flights, row for row, by readers that share nothing with the load."""
    rows = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
    names = list(rows[0])

    def read(name: str, cell: str) -> object:
        if cell in {"", "NA"}:
            return None
        if name == "time_hour":
            return datetime.fromisoformat(cell)
        return cell if name in {"carrier", "tailnum", "origin", "dest"} else int(cell)

    expected = Counter(tuple(read(name, row[name]) for name in names) for row in rows)
    assert Counter(starter.select(f"SELECT {', '.join(names)} FROM {table}")) == expected


def test_500_planted_faults_are_500_rejects_that_name_the_right_lines(starter: Starter) -> None:
    faulty = plant(gzip.decompress((ROOT / "examples" / "flights-2013-01.csv.gz").read_bytes()))
    ran = starter("upload", "faulty_flights", starter.file("faulty.csv", faulty.data), "--wait")
    assert (ran.exit, ran.json["counts"]) == (0, counts(27004, 26504, 500)), ran
    found = starter("rejects", ran.json["ticket"]).json["rejects"]
    assert {(item["line"], item["errors"][0]["column"], item["errors"][0]["code"]) for item in found} == {
        (fault.line, fault.column, fault.code) for fault in faulty.faults
    }
    assert len(found) == 500
    assert_equal(starter, "faulty_flights", faulty.good)


def test_the_same_file_is_the_same_load_unless_asked_otherwise(starter: Starter) -> None:
    path = starter.file("appended.csv", notes(1, 50))
    first = starter("upload", "appended", path)
    assert first.exit == 0, first
    assert set(first.json) == {"ticket", "status", "url"}
    same = starter("upload", "appended", path, "--wait")
    streamed = starter("upload", "appended", "-", "--wait", stdin=notes(1, 50))
    assert first.json["ticket"] == same.json["ticket"] == streamed.json["ticket"]
    assert ids(starter, 1, 50, "appended") == 50
    again = starter("upload", "appended", path, "--wait", "--again")
    assert again.json["ticket"] != first.json["ticket"]
    assert again.json["counts"] == counts(50, 50)
    assert ids(starter, 1, 50, "appended") == 100


def test_a_stream_is_loaded_like_a_file(starter: Starter) -> None:
    ran = starter("upload", "notes", "-", "--wait", stdin=gzip.compress(notes(200, 30)))
    assert (ran.exit, ran.json["status"], ran.json["counts"]) == (0, "completed", counts(30, 30)), ran
    assert ids(starter, 200, 299) == 30
    status = starter("status", ran.json["ticket"])
    assert status.json == ran.json


def test_rejects_can_be_corrected_and_uploaded_as_they_are(starter: Starter) -> None:
    ran = starter("upload", "notes", starter.file("a.csv", notes(300, 20, spoilt=3)), "--wait")
    assert (ran.exit, ran.json["counts"]) == (0, counts(20, 17, 3)), ran
    printed = starter("rejects", ran.json["ticket"], plain=True)
    rows = list(csv.DictReader(io.StringIO(printed.out)))
    assert [(row["reject_line"], row["id"], row["amount"]) for row in rows] == [
        ("2", "300", "much"),
        ("3", "301", "much"),
        ("4", "302", "much"),
    ]
    assert all(row["reject_column"] == "amount" and row["reject_code"] and row["reject_message"] for row in rows)
    listed = starter("rejects", ran.json["ticket"]).json["rejects"]
    assert [item["line"] for item in listed] == [2, 3, 4]
    corrected = starter.file("b.csv", printed.out.replace("much", "7").encode())
    ran = starter("upload", "notes", corrected, "--wait")
    assert (ran.exit, ran.json["counts"]) == (0, counts(3, 3)), ran
    assert ids(starter, 300, 319) == 20


def test_a_load_waits_for_corrections_and_goes_on_with_them(starter: Starter) -> None:
    path = starter.file("a.csv", notes(400, 20, spoilt=2))
    ran = starter("upload", "notes", path, "--wait", "--on-rejects", "wait")
    assert (ran.exit, ran.json["status"], ran.json["counts"]) == (6, "waiting", counts(20, 18, 2)), ran
    ticket = ran.json["ticket"]
    text = starter("rejects", ticket, plain=True).out
    half = starter.file("b.csv", text.replace("much", "7", 1).encode())
    ran = starter("resume", ticket, half, "--wait")
    assert (ran.exit, ran.json["status"], ran.json["counts"]) == (6, "waiting", counts(20, 19, 1)), ran
    rest = starter.file("c.csv", starter("rejects", ticket, plain=True).out.replace("much", "8").encode())
    ran = starter("resume", ticket, rest, "--wait")
    assert (ran.exit, ran.json["status"], ran.json["counts"]) == (0, "completed", counts(20, 20)), ran
    assert ids(starter, 400, 419) == 20
    assert starter("resume", ticket).exit == 1


def test_a_load_that_waits_can_finish_without_the_rejected_rows(starter: Starter) -> None:
    path = starter.file("a.csv", notes(450, 10, spoilt=1))
    ticket = starter("upload", "notes", path, "--wait", "--on-rejects", "wait").json["ticket"]
    ran = starter("resume", ticket, "--wait")
    assert (ran.exit, ran.json["status"], ran.json["counts"]) == (0, "completed", counts(10, 9, 1)), ran


def test_a_cancelled_load_keeps_and_counts_what_is_committed_and_goes_on_when_uploaded_again(starter: Starter) -> None:
    path = starter.file("a.csv", notes(500, 20, spoilt=2))
    ticket = starter("upload", "notes", path, "--wait", "--on-rejects", "wait").json["ticket"]
    ran = starter("cancel", ticket)
    assert (ran.exit, ran.json["status"], ran.json["counts"]) == (0, "cancelled", counts(20, 18, 2)), ran
    assert ids(starter, 500, 519) == 18
    again = starter("upload", "notes", path, "--wait")
    assert (again.json["ticket"], again.json["counts"]) == (ticket, counts(20, 18, 2)), again
    assert starter("cancel", ticket).exit == 1


def test_a_cancelled_load_is_resumed_with_its_corrections(starter: Starter) -> None:
    path = starter.file("a.csv", notes(550, 20, spoilt=2))
    ran = starter("upload", "appended", path, "--wait", "--again", "--on-rejects", "wait")
    ticket = ran.json["ticket"]
    text = starter("rejects", ticket, plain=True).out
    ran = starter("resume", ticket, starter.file("b.csv", text.replace("much", "7", 1).encode()), "--wait")
    assert (ran.exit, ran.json["counts"]) == (6, counts(20, 19, 1)), ran
    assert starter("cancel", ticket).json["status"] == "cancelled"
    ran = starter("resume", ticket, "--wait")
    assert (ran.exit, ran.json["ticket"], ran.json["counts"]) == (6, ticket, counts(20, 19, 1)), ran
    text = starter("rejects", ticket, plain=True).out
    ran = starter("resume", ticket, starter.file("c.csv", text.replace("much", "8").encode()), "--wait")
    assert (ran.exit, ran.json["status"], ran.json["counts"]) == (0, "completed", counts(20, 20)), ran
    assert ids(starter, 550, 569, "appended") == 20


def test_a_running_load_can_be_cancelled(starter: Starter) -> None:
    path = starter.file("a.csv", b"id\n" + b"".join(b"%d\n" % n for n in range(20_000)))
    ticket = starter("upload", "slow", path).json["ticket"]
    ran = starter("cancel", ticket)
    assert (ran.exit, ran.json["status"]) == (0, "cancelled"), ran
    assert ran.json["counts"]["written"] == ids(starter, 0, 20_000, "slow")


@pytest.mark.parametrize(("limit", "status"), [("3", 8), ("15%", 8), ("4", 0), ("20%", 0)])
def test_a_load_over_its_limit_stops_before_the_first_row(starter: Starter, limit: str, status: int) -> None:
    first = 600 + 20 * len(limit) + status
    path = starter.file("a.csv", notes(first * 100, 20, spoilt=4))
    ran = starter("upload", "notes", path, "--wait", "--max-rejects", limit)
    assert ran.exit == status, ran
    if status:
        assert ran.json["status"] == "stopped"
        assert ran.json["counts"]["written"] == 0
    else:
        assert ran.json["counts"] == counts(20, 16, 4)
    assert ids(starter, first * 100, first * 100 + 19) == (0 if status else 16)


def test_a_stopped_load_can_be_tried_again_with_another_limit(starter: Starter) -> None:
    path = starter.file("a.csv", notes(700, 10, spoilt=2))
    stopped = starter("upload", "notes", path, "--wait", "--max-rejects", "0")
    assert stopped.exit == 8, stopped
    ran = starter("upload", "notes", path, "--wait", "--max-rejects", "2")
    assert (ran.exit, ran.json["counts"]) == (0, counts(10, 8, 2)), ran


def test_a_dry_run_validates_and_loads_nothing(starter: Starter) -> None:
    path = starter.file("a.csv", notes(800, 10, spoilt=1))
    ran = starter("upload", "notes", path, "--wait", "--dry-run")
    assert (ran.exit, ran.json["status"]) == (0, "completed"), ran
    assert (ran.json["counts"]["read"], ran.json["counts"]["rejected"]) == (10, 1)
    assert "much" in starter("rejects", ran.json["ticket"], plain=True).out
    assert ids(starter, 800, 809) == 0
    assert starter("upload", "notes", path, "--wait").json["counts"] == counts(10, 9, 1)


def rows(first: int, middle: bytes = b"", *, end: bytes = b"\n") -> bytes:
    """Put something between two good rows."""
    return b"id,text,amount" + end + b"%d,a,1.5" % first + end + middle + b"%d,b," % (first + 1) + end


# kind -> content, status, rows written, rows rejected
FILES: dict[str, tuple[bytes, str, int, int]] = {
    "byte order mark": (b"\xef\xbb\xbf" + rows(10_000), "completed", 2, 0),
    "CRLF": (rows(10_010, end=b"\r\n"), "completed", 2, 0),
    "quoted newline": (rows(10_020, b'10022,"two\nlines",\n'), "completed", 3, 0),
    "too few cells": (rows(10_030, b"10032,a\n"), "completed", 2, 1),
    "too many cells": (rows(10_040, b"10042,a,1,2\n"), "completed", 2, 1),
    "semicolons": (rows(10_050).replace(b",", b";"), "completed", 2, 0),
    "tabs": (rows(10_060).replace(b",", b"\t"), "completed", 2, 0),
    "not UTF-8": (rows(10_070, b"10072,\xff,\n"), "completed", 2, 1),
    "NUL": (rows(10_080, b"10082,a\0b,\n"), "completed", 2, 1),
    "no final newline": (rows(10_090)[:-1], "completed", 2, 0),
    "gzip": (gzip.compress(rows(10_100)), "completed", 2, 0),
    "header only": (b"id,text,amount\n", "completed", 0, 0),
    "empty": (b"", "failed", 0, 0),
    "unknown column": (b"id,text,colour\n10110,a,red\n", "failed", 0, 0),
    "missing column": (b"id,amount\n10120,1\n", "failed", 0, 0),
    "no header": (b"10130,a,1\n10131,b,2\n", "failed", 0, 0),
    "truncated gzip": (gzip.compress(notes(10_200, 500))[:-20], "failed", 0, 0),
    "unclosed quote": (rows(10_140, b'10142,"never closed,\n'), "completed", 2, 1),
    "NaN": (rows(10_150, b"10152,a,NaN\n"), "completed", 2, 1),
    "huge number": (rows(10_160, b"100000000000000000000,a,1\n"), "completed", 2, 1),
    "NDJSON": (b'{"id": 10170, "text": "a"}\n{"id": 10171, "text": "b"}', "completed", 2, 0),
    "NDJSON with a bad line": (b'{"id": 10180, "text": "a"}\n{"id": \n{"id": 10181, "text": "b"}\n', "completed", 2, 1),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_of_every_kind_is_loaded_or_refused_and_no_row_costs_its_neighbours(starter: Starter, kind: str) -> None:
    content, status, written, rejected = FILES[kind]
    ran = starter("upload", "notes", starter.file("data", content), "--wait")
    assert (ran.json["status"], ran.exit) == (status, 0 if status == "completed" else 1), ran
    assert ran.json["counts"] == counts(written + rejected, written, rejected), ran
    if status == "failed":
        assert len(ran.err) > 20
    if rejected:
        found = starter("rejects", ran.json["ticket"]).json["rejects"]
        assert [item["errors"][0]["code"] != "" for item in found] == [True] * rejected
