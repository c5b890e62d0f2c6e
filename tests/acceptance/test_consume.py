"""`starter consume`: what a user types, against real servers and workers."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.acceptance.conftest import Starter


def notes(*ids: int) -> bytes:
    return "".join(json.dumps({"id": number, "text": "t"}) + "\n" for number in ids).encode()


def test_a_drain_stores_what_was_sent_and_parks_what_can_never_be_valid(starter: Starter) -> None:
    first = starter.file("notes.ndjson", notes(*range(100)))
    assert starter("send", "queued", first).exit == 0
    ran = starter("consume", "queued", "--drain")
    assert ran.exit == 0, ran.err
    assert (ran.json["status"], ran.json["pattern"], ran.json["ticket"]) == ("completed", "consume", "consume/queued")
    assert ran.json["counts"] == {"read": 100, "written": 100, "rejected": 0, "duplicates": 0}
    assert starter.select("SELECT count(*), count(DISTINCT id) FROM queued") == [(100, 100)]


def test_it_runs_is_changed_and_is_stopped(starter: Starter) -> None:
    started = starter("consume", "queued")
    assert (started.exit, started.json["status"]) == (0, "running")
    assert starter("consume", "queued", "--workers", "3", "--batch", "10").json["status"] == "running"
    more = starter.file("more.ndjson", notes(*range(200, 230)))
    assert starter("send", "queued", more).exit == 0
    end = time.monotonic() + 60
    while starter("status", "consume/queued").json["counts"]["written"] < 30:
        assert time.monotonic() < end
        time.sleep(0.5)
    assert "consume/queued: running" in starter("status", "consume/queued", plain=True).out
    stopped = starter("consume", "queued", "--stop")
    assert (stopped.exit, stopped.json["status"]) == (0, "completed")
    # Of the one that ended nothing is left to be stopped.
    assert starter("consume", "queued", "--stop").exit == 4


def test_wrong_usage_is_told(starter_alone: Starter) -> None:
    assert starter_alone("consume", "nowhere").exit == 4
    assert starter_alone("consume", "queued", "--stop", "--drain").exit == 2
    assert starter_alone("consume", "queued", "--batch", "0").exit == 2
    assert starter_alone("consume", "queued", "--workers", "1000").exit == 2
