"""Request logs in a database of their own, which is lost at every moment that matters."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from tests.acceptance.conftest import LOG_DATABASE, LOG_ROLE, Starter
from tests.acceptance.logged import PAUSE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECRET_TEXT = "a-text-that-no-log-may-hold"


def note(number: int, text: str = SECRET_TEXT) -> str:
    return json.dumps({"id": number, "text": text})


def log_rows(
    starter: Starter, key: str, table: str = "note_requests", what: str = "outcome, codes"
) -> list[tuple[Any, ...]]:
    """Read the entries of a key, of all keys if it is empty; there may be no log before the first request."""
    if starter.select(f"SELECT to_regclass('{table}')", LOG_DATABASE) == [(None,)]:
        return []
    return starter.select(f"SELECT {what} FROM {table} AS r WHERE '{key}' IN (key, '') ORDER BY at", LOG_DATABASE)


def count(starter: Starter, table: str, number: int) -> int:
    return int(starter.select(f"SELECT count(*) FROM {table} WHERE id = {number}")[0][0])


def lose_log(starter: Starter) -> None:
    """Let nobody enter as the log's role, and end its sessions: what a worker sees of a server that is gone."""
    starter.select(f"ALTER ROLE {LOG_ROLE} NOLOGIN")
    starter.select(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{LOG_ROLE}'")


def find_log(starter: Starter) -> None:
    starter.select(f"ALTER ROLE {LOG_ROLE} LOGIN")


@contextlib.contextmanager
def no_log(starter: Starter) -> Iterator[None]:
    lose_log(starter)
    try:
        yield
    finally:
        find_log(starter)


def eventually(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_intent_and_outcome_are_in_the_logs_database_with_their_receipts(starter: Starter) -> None:
    key = uuid.uuid4().hex
    ran = starter("submit", "logged_notes", note(1), "--key", key)
    assert ran.exit == 0, ran
    assert [row[0] for row in log_rows(starter, key)] == ["pending", "committed"]
    columns = "pipeline, pattern, ticket, duration_ms BETWEEN 0 AND 30000, received <= at"
    [row] = starter.select(
        f"SELECT {columns} FROM note_requests WHERE key = '{key}' AND outcome = 'committed'", LOG_DATABASE
    )
    assert row == ("logged_notes", "submit", ran.json["ticket"], True, True)
    receipts = "SELECT count(*) FROM pipeline_receipts WHERE pipeline = 'note_requests'"
    assert starter.select(receipts) == [(0,)]
    assert starter.select(receipts, LOG_DATABASE)[0][0] >= 2
    assert starter.select("SELECT to_regclass('note_requests')") == [(None,)]
    assert starter.select("SELECT to_regclass('logged_notes')", LOG_DATABASE) == [(None,)]


def test_what_a_worker_rejects_is_logged_with_its_code(starter: Starter) -> None:
    key = uuid.uuid4().hex
    assert starter("submit", "logged_notes", note(2, "broken"), "--key", key).exit == 3
    assert log_rows(starter, key) == [("pending", "[]"), ("rejected", '["process_error"]')]


def test_a_direct_log_that_is_down_refuses_names_itself_and_stores_nothing(starter: Starter) -> None:
    key = uuid.uuid4().hex
    with no_log(starter):
        ran = starter("submit", "logged_notes", note(3), "--key", key)
        assert ran.exit == 5, ran
        assert ran.json["status"] == "failed"
        [error] = ran.json["errors"]
        assert error["code"] == "RequestLogUnavailable"
        assert "request log note_requests" in error["message"]
        address = urlsplit(starter.environ["REQUEST_LOG_DATABASE_URL"])
        assert f"{address.hostname}:{address.port}" in error["message"]
        assert count(starter, "logged_notes", 3) == 0
        # Pipelines without a log never notice.
        assert starter("submit", "notes", note(3)).exit == 0
    assert starter("submit", "logged_notes", note(3), "--key", key).exit == 0
    assert count(starter, "logged_notes", 3) == 1
    assert [row[0] for row in log_rows(starter, key)] == ["pending", "committed"]


def test_a_log_that_is_lost_between_intent_and_outcome_delays_the_yes(starter: Starter) -> None:
    key, began = uuid.uuid4().hex, time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(starter, "submit", "logged_notes", note(4, "slow"), "--key", key, "--deadline", "4")
        eventually(lambda: [row[0] for row in log_rows(starter, key)] == ["pending"])
        with no_log(starter):
            ran = running.result()
            assert ran.exit == 6, ran
            eventually(lambda: count(starter, "logged_notes", 4) == 1)
            assert [row[0] for row in log_rows(starter, key)] == ["pending"]
    watched = starter("status", ran.json["ticket"], "--watch")
    assert (watched.exit, watched.json["status"]) == (0, "completed")
    assert [row[0] for row in log_rows(starter, key)] == ["pending", "committed"]
    assert count(starter, "logged_notes", 4) == 1
    took = f"SELECT duration_ms FROM note_requests WHERE key = '{key}' AND outcome = 'committed'"
    # How long the record took; the log was away for longer.
    assert PAUSE * 1000 <= starter.select(took, LOG_DATABASE)[0][0] < (time.monotonic() - began) * 1000


def test_behind_a_queue_a_log_that_is_down_delays_nothing_and_gets_each_entry_once(starter: Starter) -> None:
    keys = [uuid.uuid4().hex for _ in range(3)]
    with no_log(starter):
        assert starter("consume", "queued_requests").exit == 0
        for number, key in enumerate(keys):
            ran = starter("submit", "queued_notes", note(100 + number), "--key", key)
            assert ran.exit == 0, ran
            assert starter("submit", "queued_notes", note(100 + number), "--key", key).json["repeat"]
            assert count(starter, "queued_notes", 100 + number) == 1
    eventually(lambda: all(log_rows(starter, key, "queued_requests") for key in keys), 90)
    for key in keys:
        assert log_rows(starter, key, "queued_requests") == [("committed", "[]")]
    stopped = starter("consume", "queued_requests", "--stop")
    assert stopped.exit == 0, stopped
    assert stopped.json["counts"]["rejected"] == 0
    receipts = "SELECT count(*) FROM pipeline_receipts WHERE pipeline = 'queued_requests'"
    assert starter.select(receipts) == [(0,)]
    assert starter.select(receipts, LOG_DATABASE)[0][0] >= 3


def test_the_implicit_pipeline_is_declared_like_any_other(starter_alone: Starter) -> None:
    found = {item["name"]: item for item in starter_alone("pipelines").json["pipelines"]}
    assert found["queued_requests"]["table"] == "public.queued_requests"
    assert "note_requests" not in found
    assert found["logged_notes"]["request_log"] == {"name": "note_requests", "through": "direct"}
    assert found["notes"]["request_log"] is None
    assert "requests are logged in queued_requests, through a queue" in starter_alone("pipelines", plain=True).out


@pytest.mark.parametrize("pipeline", ["logged_notes", "queued_notes"])
async def test_no_secret_is_in_a_history_and_no_value_in_a_log(starter: Starter, pipeline: str) -> None:
    with no_log(starter):
        refused = await asyncio.to_thread(starter, "submit", pipeline, note(200))
    await asyncio.to_thread(starter, "submit", pipeline, note(201))
    assert refused.json["ticket"]
    passwords = [urlsplit(starter.environ[name]).password for name in ("DATABASE_URL", "REQUEST_LOG_DATABASE_URL")]
    client = await Client.connect(starter.environ["TEMPORAL_ADDRESS"], data_converter=pydantic_data_converter)
    seen = 0
    async for run in client.list_workflows(f"Pipeline = '{pipeline}'"):
        history = await client.get_workflow_handle(run.id, run_id=run.run_id).fetch_history()
        raw = b"".join(event.SerializeToString() for event in history.events)
        for password in passwords:
            assert password
            assert password.encode() not in raw
        assert LOG_ROLE.encode() + b":" not in raw
        seen += 1
    assert seen
    rows = [
        row for log in ("note_requests", "queued_requests") for row in log_rows(starter, "", log, "to_jsonb(r)::text")
    ]
    assert rows or pipeline == "queued_notes"
    for secret in (SECRET_TEXT, *passwords):
        assert str(secret) not in str(rows)
