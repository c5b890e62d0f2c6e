"""Items of a queue that failed for good, from the broker to the decision, as an operator sees them."""

from __future__ import annotations

import json
import time
import uuid
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.acceptance.conftest import Starter

GOOD, WRONG, LARGE, WORTHLESS = (uuid.uuid4().int % 10**15 for _ in range(4))


@pytest.fixture
def letters(starter: Starter) -> dict[str, str]:
    """Consume three items that are not valid, one of them too large for a history; gives their tickets by text."""
    lines = [
        json.dumps({"id": GOOD, "text": "good"}),
        json.dumps({"id": f"{WRONG}", "text": "wrong"}),
        json.dumps({"id": LARGE, "text": "large", "amount": "x" * 100_000}),
        "worthless",
    ]
    path = starter.file("items.ndjson", "\n".join(lines).encode())
    assert starter("send", "letters", path, "--raw").exit == 0
    assert starter("consume", "letters", "--drain").exit == 0
    deadline = time.monotonic() + 30
    while True:
        found = [
            letter["ticket"] for letter in starter("dead-letters", "list", "--pipeline", "letters").json["dead_letters"]
        ]
        if len(found) == 3:
            break
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    shown = {ticket: starter("dead-letters", "show", ticket).json for ticket in found}
    return {
        name: ticket for name in ("wrong", "large", "worthless") for ticket in shown if name in shown[ticket]["body"]
    }


def states(starter: Starter, ticket: str) -> list[tuple[str, ...]]:
    receipt = ticket.rsplit("/", 1)[1]
    return starter.select(f"SELECT state FROM pipeline_receipts WHERE receipt = '{receipt}'")


def test_each_of_them_is_shown_and_settled_as_its_operator_decides(starter: Starter, letters: dict[str, str]) -> None:
    assert letters.keys() == {"wrong", "large", "worthless"}
    for ticket in letters.values():
        assert ticket.startswith("dead-letter/letters/")
        assert states(starter, ticket) == [("dead",)]
        state = starter("status", ticket).json
        assert (state["status"], state["pattern"]) == ("waiting", "consume")
    wrong, large, worthless = letters["wrong"], letters["large"], letters["worthless"]

    shown = starter("dead-letters", "show", wrong).json
    assert (shown["queue"], shown["breakdown"]["error_type"]) == ("letters", "Rejected")
    assert [error["field"] for error in shown["breakdown"]["errors"]] == ["id"]
    assert len(starter("dead-letters", "show", large).json["body"]) > 100_000

    again = starter("dead-letters", "retry", wrong)
    assert (again.exit, again.json["status"]) == (3, "parked")
    assert states(starter, wrong) == [("dead",)]
    corrected = json.dumps({"id": WRONG, "text": "mended"}).encode()
    stored = starter("dead-letters", "retry", wrong, "--record", "-", stdin=corrected)
    assert (stored.exit, stored.json["record"]["text"]) == (0, "mended")
    assert states(starter, wrong) == [("stored",)]
    done = starter("status", wrong).json
    assert (done["status"], done["counts"]["written"], done["record"]["id"]) == ("completed", 1, WRONG)

    corrected = json.dumps({"id": LARGE, "text": "large", "amount": 1.0}).encode()
    assert starter("dead-letters", "retry", large, "--record", "-", stdin=corrected).exit == 0
    assert starter("dead-letters", "show", large).json["body"] is None

    assert starter("cancel", worthless).exit == 2
    assert starter("dead-letters", "discard", worthless, "--reason", "a test").exit == 0
    assert states(starter, worthless) == [("discarded",)]
    given_up = starter("status", worthless).json
    assert (given_up["status"], given_up["reason"]) == ("completed", "discarded: a test")

    rows = starter.select(f"SELECT id, text FROM letters WHERE id IN ({GOOD}, {WRONG}, {LARGE}) ORDER BY text")
    assert rows == [(GOOD, "good"), (LARGE, "large"), (WRONG, "mended")]
    assert starter("dead-letters", "list", "--pipeline", "letters").json["dead_letters"] == []
