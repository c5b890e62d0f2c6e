"""`enqueue` and `dead-letters` as a script sees them."""

from __future__ import annotations

import json
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.acceptance.conftest import Ran, Starter


def record(number: int, text: str = "a", **changes: object) -> str:
    return json.dumps({"id": number, "text": text} | changes)


def settled(starter: Starter, ticket: str, status: str) -> dict[str, Any]:
    """Wait until a ticket stands like that."""
    deadline = time.monotonic() + 60
    while True:
        state = starter("status", ticket).json
        if state["status"] == status:
            return state
        assert time.monotonic() < deadline, state
        time.sleep(0.2)


def parked(starter: Starter, kind: str) -> tuple[str, str]:
    """Enqueue a record that a constraint of the table refuses; returns its ticket and its key."""
    number = uuid.uuid4().int % 10**15
    ran = starter("enqueue", "strict_notes", record(number, kind))
    assert ran.exit == 0, ran
    settled(starter, ran.json["ticket"], "waiting")
    return ran.json["ticket"], ran.json["key"]


@pytest.fixture(scope="module")
def kind() -> str:
    return f"refused-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def strict(starter: Starter) -> Starter:
    """Pipelines with a table that refuses what is called `refused-...`, as an administrator might do it."""
    starter("submit", "strict_notes", record(1))
    starter.select(
        "ALTER TABLE strict_notes DROP CONSTRAINT IF EXISTS no_refused, "
        "ADD CONSTRAINT no_refused CHECK (text NOT LIKE 'refused-%')"
    )
    return starter


def mend(starter: Starter) -> None:
    starter.select("ALTER TABLE strict_notes DROP CONSTRAINT no_refused")


def listed(ran: Ran) -> list[str]:
    assert ran.exit == 0, ran
    return [letter["ticket"] for letter in ran.json["dead_letters"]]


def test_an_accepted_record_is_stored_later(starter: Starter) -> None:
    ran = starter("enqueue", "notes", record(100_001))
    assert ran.exit == 0, ran
    answer = ran.json
    assert set(answer) == {"ticket", "key", "status", "repeat", "record", "errors", "url"}
    assert (answer["status"], answer["repeat"], answer["record"]) == ("accepted", False, None)
    assert answer["ticket"].replace("/", "%2F") in answer["url"]
    state = settled(starter, answer["ticket"], "completed")
    assert (state["pattern"], state["record"]["id"]) == ("enqueue", 100_001)
    assert starter.select("SELECT text FROM notes WHERE id = 100001") == [("a",)]


@pytest.mark.parametrize(("first", "second"), [("submit", "enqueue"), ("enqueue", "submit"), ("enqueue", "enqueue")])
def test_submit_and_enqueue_are_one_request_under_one_key(starter: Starter, first: str, second: str) -> None:
    key = uuid.uuid4().hex
    started = starter(first, "notes", record(100_002), "--key", key)
    settled(starter, started.json["ticket"], "completed")
    again = starter(second, "notes", record(100_002), "--key", key)
    assert (again.exit, again.json["status"], again.json["repeat"]) == (0, "committed", True)
    assert (again.json["ticket"], again.json["record"]["id"]) == (started.json["ticket"], 100_002)
    other = starter(second, "notes", record(100_003), "--key", key)
    assert (other.exit, other.json["status"], other.json["ticket"]) == (7, "conflict", started.json["ticket"])
    assert starter.select("SELECT count(*) FROM notes WHERE id = 100003") == [(0,)]


@pytest.mark.parametrize("bad", ['{"id": "1", "text": "a"}', '{"id": 1}', "[]", "", '{"id": 1, "text": "a", "b": 1}'])
def test_a_bad_record_is_rejected_at_once(starter_alone: Starter, bad: str) -> None:
    ran = starter_alone("enqueue", "notes", "-", stdin=bad.encode())
    assert (ran.exit, ran.json["status"], ran.json["ticket"]) == (3, "rejected", "")
    assert ran.json["errors"]


def test_it_is_accepted_while_everything_but_temporal_is_gone(starter_alone: Starter) -> None:
    # No pipeline of this name is known to any worker, so nobody but Temporal can have had a part in it.
    gone = {"DATABASE_URL": "postgresql://x:x@127.0.0.1:9/x", "S3_ENDPOINT_URL": "http://127.0.0.1:9"}
    ran = starter_alone.but(**gone, NATS_URL="nats://127.0.0.1:9")("enqueue", "notes", record(100_004))
    assert (ran.exit, ran.json["status"]) == (0, "accepted")


def test_temporal_that_is_down_is_named_with_its_address(starter_alone: Starter) -> None:
    down = starter_alone.but(TEMPORAL_ADDRESS="127.0.0.1:9")
    for command in (("enqueue", "notes", record(1)), ("dead-letters", "list"), ("dead-letters", "redrive")):
        ran = down(*command)
        assert ran.exit == 5, ran
        assert "127.0.0.1:9" in ran.err


def test_a_dead_letter_is_listed_shown_corrected_and_stored(strict: Starter, kind: str) -> None:
    ticket, key = parked(strict, kind)
    state = strict("status", ticket).json
    assert "parked" in state["reason"]
    assert [error["code"] for error in state["errors"]] == ["sink_refused"]
    people = strict("status", ticket, plain=True).out
    assert f"starter dead-letters retry {ticket}" in people

    everything = strict(
        "dead-letters", "list", "--pipeline", "strict_notes", "--error-type", "Rejected", "--since", "1h"
    )
    assert ticket in listed(everything)
    assert listed(strict("dead-letters", "list", "--pipeline", "notes")) == []
    assert listed(strict("dead-letters", "list", "--since", "2999-01-01T00:00:00Z")) == []

    shown = strict("dead-letters", "show", ticket).json
    assert (shown["status"], shown["request"]["key"], shown["request"]["record"]["text"]) == ("parked", key, kind)
    assert shown["breakdown"]["attempts"] == 1
    assert kind in strict("dead-letters", "show", ticket, plain=True).out

    again = strict("dead-letters", "retry", ticket)
    assert (again.exit, again.json["status"]) == (3, "parked")
    assert again.json["errors"]
    assert strict("dead-letters", "retry", ticket, "--record", "-", stdin=b"no json").exit == 3
    assert strict("dead-letters", "retry", ticket, "--record", "-", stdin=b'{"id": "x", "text": "a"}').exit == 3

    corrected = shown["request"]["record"] | {"text": "corrected"}
    path = strict.file("corrected.json", json.dumps(corrected).encode())
    stored = strict("dead-letters", "retry", ticket, "--record", path)
    assert (stored.exit, stored.json["status"], stored.json["record"]["text"]) == (0, "stored", "corrected")
    assert settled(strict, ticket, "completed")["record"]["text"] == "corrected"
    # The caller knows nothing of the correction, and may repeat what was sent.
    repeat = strict("enqueue", "strict_notes", json.dumps(shown["request"]["record"]), "--key", key)
    assert (repeat.exit, repeat.json["status"], repeat.json["record"]["text"]) == (0, "committed", "corrected")
    assert strict("dead-letters", "retry", ticket).exit == 1
    assert ticket not in listed(strict("dead-letters", "list"))


def test_a_dead_letter_is_discarded(strict: Starter, kind: str) -> None:
    ticket, _ = parked(strict, kind)
    assert strict("dead-letters", "discard", ticket).exit == 2
    assert strict("dead-letters", "discard", ticket, "--reason", "").exit == 2
    ran = strict("dead-letters", "discard", ticket, "--reason", "a test")
    assert (ran.exit, ran.json["status"], ran.json["reason"]) == (0, "discarded", "a test")
    state = settled(strict, ticket, "failed")
    assert "a test" in state["reason"]
    assert [error["code"] for error in state["errors"]] == ["Discarded"]


def test_a_redrive_counts_stores_and_tells(strict: Starter, kind: str) -> None:
    tickets = [parked(strict, kind)[0] for _ in range(3)]
    filters = ("--pipeline", "strict_notes", "--error-type", "Rejected")
    found = strict("dead-letters", "redrive", *filters, "--dry-run").json["found"]
    assert found >= 3
    failed = strict("dead-letters", "redrive", *filters, "--wait", "--abort-above", "100%")
    assert failed.exit == 0, failed
    assert failed.json["redrive"]["failed"] == failed.json["redrive"]["found"] == found
    mend(strict)
    slow = strict("dead-letters", "redrive", *filters, "--rate", "1/h")
    assert slow.exit == 0, slow
    assert slow.json["ticket"].startswith("redrive/strict_notes/")
    assert slow.json["url"]
    assert strict("dead-letters", "redrive", "--pause", slow.json["ticket"]).json["status"] == "waiting"
    assert strict("dead-letters", "redrive", "--resume", slow.json["ticket"]).json["status"] == "running"
    assert strict("cancel", slow.json["ticket"]).json["status"] == "cancelled"
    assert strict("dead-letters", "redrive", "--resume", slow.json["ticket"]).exit == 1
    done = strict("dead-letters", "redrive", *filters, "--wait")
    assert done.exit == 0, done
    assert done.json["counts"]["rejected"] == 0
    for ticket in tickets:
        assert settled(strict, ticket, "completed")["record"]["text"] == kind
    watched = strict("status", done.json["ticket"], "--watch")
    assert (watched.exit, watched.json["status"], watched.json["pattern"]) == (0, "completed", "redrive")


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("enqueue", "nothing", "{}"), 4),
        (("enqueue", "notes", "{}", "--key", ""), 2),
        (("dead-letters", "show", "request/notes/0000"), 4),
        (("dead-letters", "retry", "dead-letter/notes/0000"), 4),
        (("dead-letters", "retry", "what?"), 4),
        (("dead-letters", "show", "upload/notes/0000"), 2),
        (("dead-letters", "list", "--since", "yesterday"), 2),
        (("dead-letters", "list", "--error-type", "' OR ''='"), 2),
        (("dead-letters", "redrive", "--rate", "fast"), 2),
        (("dead-letters", "redrive", "--rate", "0/s"), 2),
        (("dead-letters", "redrive", "--abort-above", "101%"), 2),
        (("dead-letters", "redrive", "--pause", "redrive/all/0000"), 4),
        (("dead-letters", "redrive", "--pause", "upload/notes/0000"), 2),
        (("status", "redrive/all/0000"), 4),
        (("status", "dead-letter/notes/0000"), 4),
    ],
)
def test_wrong_usage_and_unknown_names_have_their_status(
    starter_alone: Starter, arguments: tuple[str, ...], status: int
) -> None:
    ran = starter_alone(*arguments)
    assert ran.exit == status, ran
    assert ran.json["error"]["message"]
