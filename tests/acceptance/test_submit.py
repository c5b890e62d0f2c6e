"""`submit` as a script sees it."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.acceptance.conftest import Starter


def record(number: int, **changes: object) -> str:
    return json.dumps({"id": number, "text": "a", "amount": 1.5} | changes)


def count(starter: Starter, number: int) -> int:
    return int(starter.select(f"SELECT count(*) FROM notes WHERE id = {number}")[0][0])


def test_a_committed_record_comes_back_and_is_in_the_table(starter: Starter) -> None:
    ran = starter("submit", "notes", record(1))
    assert ran.exit == 0, ran
    answer = ran.json
    assert set(answer) == {"ticket", "key", "status", "repeat", "record", "errors", "url"}
    assert (answer["status"], answer["repeat"], answer["errors"]) == ("committed", False, [])
    assert answer["record"] == {"id": 1, "text": "a", "amount": 1.5}
    assert answer["ticket"].startswith("request/notes/")
    assert answer["ticket"].replace("/", "%2F") in answer["url"]
    assert starter.select("SELECT id, text, amount FROM notes WHERE id = 1") == [(1, "a", 1.5)]
    state = starter("status", answer["ticket"]).json
    assert (state["status"], state["pipeline"], state["pattern"]) == ("completed", "notes", "submit")
    assert state["counts"] == {"read": 1, "written": 1, "rejected": 0, "duplicates": 0}


def test_a_record_may_come_from_a_file_or_from_stdin(starter: Starter) -> None:
    path = starter.file("record.json", record(2).encode())
    assert starter("submit", "notes", f"@{path}").json["record"]["id"] == 2
    assert starter("submit", "notes", "-", stdin=record(3).encode()).json["record"]["id"] == 3


def test_a_repeat_gets_the_first_answer_and_another_payload_is_a_conflict(starter: Starter) -> None:
    key = uuid.uuid4().hex
    first = starter("submit", "notes", record(4), "--key", key)
    again = starter("submit", "notes", record(4), "--key", key)
    other = starter("submit", "notes", record(5), "--key", key)
    assert (first.exit, again.exit, other.exit) == (0, 0, 7), (first, again, other)
    assert again.json == first.json | {"repeat": True}
    assert (other.json["status"], other.json["ticket"]) == ("conflict", first.json["ticket"])
    assert count(starter, 5) == 0


def test_without_a_key_every_call_is_a_new_request_whose_key_is_told(starter: Starter) -> None:
    first, second = starter("submit", "notes", record(6)).json, starter("submit", "notes", record(6)).json
    assert first["ticket"] != second["ticket"]
    repeat = starter("submit", "notes", record(6), "--key", first["key"]).json
    assert (repeat["ticket"], repeat["repeat"]) == (first["ticket"], True)


BAD = {
    "wrong type": b'{"id": "1", "text": "a"}',
    "unknown field": b'{"id": 1000, "text": "a", "colour": "red"}',
    "missing field": b'{"id": 1000}',
    "NaN": b'{"id": 1000, "text": "a", "amount": NaN}',
    "infinity": b'{"id": 1000, "text": "a", "amount": 1e999}',
    "huge number": b'{"id": 100000000000000000000, "text": "a"}',
    "duplicate key": b'{"id": 1000, "id": 1000, "text": "a"}',
    "lone surrogate": b'{"id": 1000, "text": "\\ud800"}',
    "NUL": b'{"id": 1000, "text": "a\\u0000b"}',
    "deep nesting": b'{"id": 1000, "text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "over-long": b'{"id": 1000, "text": "' + b"a" * 3_000_000 + b'"}',
    "not UTF-8": b'{"id": 1000, "text": "\xff"}',
    "no JSON": b"{id: 1000}",
    "no object": b"[1000]",
    "nothing": b"",
    "two documents": b'{"id": 1000, "text": "a"}{"id": 1000, "text": "a"}',
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_record_is_rejected_with_its_reasons(starter: Starter, kind: str) -> None:
    ran = starter("submit", "notes", "-", stdin=BAD[kind])
    assert ran.exit == 3, ran
    answer = ran.json
    assert answer["status"] == "rejected"
    assert answer["errors"]
    assert all(error["code"] and error["message"] for error in answer["errors"])
    assert count(starter, 1000) == 0


@pytest.mark.parametrize(
    ("kind", "field"), [("NaN", "amount"), ("infinity", "amount"), ("duplicate key", "id"), ("NUL", "text")]
)
def test_a_value_that_json_cannot_hold_is_rejected_under_its_name(starter: Starter, kind: str, field: str) -> None:
    assert [error["field"] for error in starter("submit", "notes", "-", stdin=BAD[kind]).json["errors"]] == [field]


def test_an_argument_that_is_no_text_is_rejected(starter: Starter) -> None:
    assert starter("submit", "notes", b'{"id": 1000, "text": "\xff"}').exit == 3


def test_past_the_deadline_the_answer_is_accepted_and_the_same_run_goes_on(starter: Starter) -> None:
    ran = starter("submit", "notes", record(7), "--deadline", "0")
    assert ran.exit == 6, ran
    assert ran.json["status"] == "accepted"
    watched = starter("status", ran.json["ticket"], "--watch")
    assert (watched.exit, watched.json["status"]) == (0, "completed")
    assert count(starter, 7) == 1


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("submit", "nothing", "{}"), 4),
        (("status", "request/notes/0000"), 4),
        (("status", "upload/notes/0000"), 4),
        (("status", "what?"), 4),
        (("cancel", "upload/notes/0000"), 4),
        (("resume", "upload/notes/0000"), 4),
        (("rejects", "upload/notes/0000"), 4),
        (("submit", "notes", "{}", "--key", ""), 2),
        (("submit", "notes", "{}", "--deadline", "soon"), 2),
        (("submit", "notes", "@/no/such/file"), 2),
        (("upload", "notes", "/no/such/file"), 2),
        (("upload", "notes", "/"), 2),
        (("upload", "notes", "/dev/null", "--max-rejects", "some"), 2),
        (("no-such-command",), 2),
        (("submit",), 2),
    ],
)
def test_wrong_usage_and_unknown_names_have_their_status(
    starter_alone: Starter, arguments: tuple[str, ...], status: int
) -> None:
    ran = starter_alone(*arguments)
    assert ran.exit == status, ran
    assert ran.json["error"]["message"]
    assert ran.err.strip()


@pytest.mark.parametrize("command", [("submit", "notes", '{"id": 1, "text": "a"}'), ("status", "request/notes/00")])
def test_a_service_that_is_down_is_named_with_its_address(starter_alone: Starter, command: tuple[str, ...]) -> None:
    ran = starter_alone.but(TEMPORAL_ADDRESS="127.0.0.1:9")(*command)
    assert ran.exit == 5, ran
    assert "Temporal" in ran.err
    assert "127.0.0.1:9" in ran.err


def test_an_object_store_that_is_down_is_named_with_its_address(starter_alone: Starter) -> None:
    path = starter_alone.file("a.csv", b"id,text,amount\n1,a,\n")
    ran = starter_alone.but(S3_ENDPOINT_URL="http://127.0.0.1:9")("upload", "notes", path)
    assert ran.exit == 5, ran
    assert "127.0.0.1:9" in ran.err


def test_without_json_people_read_the_answer(starter: Starter) -> None:
    ran = starter("submit", "notes", record(8), plain=True)
    assert ran.exit == 0
    assert "committed" in ran.out
    assert "http" in ran.out


def test_the_declared_pipelines_are_listed(starter_alone: Starter) -> None:
    found = {item["name"]: item for item in starter_alone("pipelines").json["pipelines"]}
    assert found["notes"]["key"] == ["id"]
    assert {"flights", "weather"} <= set(found)
