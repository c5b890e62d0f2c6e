"""The API without servers: who may enter, what is a key, what a caller wishes, and what an error tells."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from starlette.requests import Request
from temporalio.service import RPCError, RPCStatusCode

from contracts.errors import UnavailableError
from contracts.loads import Counts
from contracts.pipeline import Pipeline
from contracts.record import FieldError, Record
from contracts.request_log import LOG_UNAVAILABLE
from contracts.requests import SubmitAnswer
from contracts.table import PostgresTable
from starter.api import limits, records
from starter.api.app import build
from starter.api.keys import Caller, Key, Keyring, digest_of, load_keys, new_key, parse_keys
from starter.api.openapi import describe
from starter.api.problems import KINDS, Problem, explain
from starter.api.records import respond, wishes_of
from starter.api.services import Context
from starter.api.tickets import document_of
from starter.exits import CommandError, Exit
from starter.tickets import TicketState
from stores.memory_objects import MemoryObjectStore
from stores.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from temporalio.client import Client

    from contracts.loads import LoadStatus
    from contracts.ports import ObjectStore

SECRET = "postgresql://user:hidden@db.internal/x"


class Thing(Record):
    id: int


THINGS = Pipeline(name="things", record=Thing, sink=PostgresTable("things", key=("id",)))
OTHERS = Pipeline(name="others", record=Thing, sink=PostgresTable("others", key=("id",)))


class Down:
    """Services of which nothing answers, in the way that `error` says."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error or UnavailableError("Temporal", "10.1.2.3:7233", "it does not answer")
        self.asked = 0

    async def temporal(self) -> Client:
        self.asked += 1
        raise self.error

    @property
    def objects(self) -> ObjectStore:
        return MemoryObjectStore()

    async def missing(self) -> tuple[str, ...]:
        return ("Temporal",)


def context(services: Down | None = None, **settings: str) -> Context:
    pipelines = {"things": THINGS, "others": OTHERS}
    return Context.of(Settings.model_validate(settings), pipelines, services or Down())


def client(found: Context, *keys: Key, token: str = "") -> httpx.AsyncClient:
    app = build(found, Keyring(keys) if keys else None)
    headers = {"X-API-Key": token} if token else {}
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost", headers=headers)


def test_a_new_key_is_random_and_only_its_digest_is_kept() -> None:
    token, key = new_key("someone", "things,others")
    other, _ = new_key("someone", "things,others")
    assert token != other
    assert len(token) > 40
    assert token not in key.line()
    [read] = parse_keys(key.line())
    assert read == key
    assert read.caller == Caller("someone", frozenset({"things", "others"}))
    ring = Keyring([read])
    assert ring.find(token) == read.caller
    assert ring.find(token[:-1]) is None
    assert ring.find("") is None
    assert ring.find(key.digest) is None


def test_keys_come_from_the_setting_and_from_a_file(tmp_path: Path) -> None:
    tokens = [new_key("a", "*"), new_key("b", "things"), new_key("b", "others")]
    file = tmp_path / "keys"
    file.write_text(f"# who: why\n\n{tokens[2][1].line()}\n")
    text = f"{tokens[0][1].line()} ; {tokens[1][1].line()}"
    settings = load_settings({"API_KEYS": text, "API_KEYS_FILE": str(file)}, tmp_path)
    ring = load_keys(settings)
    assert [ring.find(token) for token, _ in tokens] == [key.caller for _, key in tokens]
    assert ring.pipelines == {"things", "others"}
    assert text not in repr(settings)


@pytest.mark.parametrize(
    "text",
    [
        "name",
        "name:abc:things",
        f"na me:{'0' * 64}:things",
        f":{'0' * 64}:things",
        f"name:{'0' * 64}:",
        f"name:{'0' * 64}:Things",
        f"name:{'0' * 64}",
        f"a:{'0' * 64}:* b:{'0' * 64}:*",
    ],
)
def test_a_wrong_entry_is_one_sentence_without_the_digest(text: str) -> None:
    with pytest.raises(CommandError) as caught:
        parse_keys(text)
    assert caught.value.status is Exit.USAGE
    assert "0000" not in str(caught.value)


async def test_nothing_is_asked_for_whoever_has_no_key_or_no_scope() -> None:
    token, key = new_key("someone", "things")
    services = Down()
    async with client(context(services), key) as stranger, client(context(services), key, token=token) as friend:
        for path in ("/pipelines/things/records", "/pipelines/none/records", "/tickets/request/things/x", "/docs"):
            assert (await stranger.post(path)).status_code == 401
        assert (await friend.post("/pipelines/others/records", json={"id": 1})).status_code == 404
        assert (await friend.get("/tickets/request/others/x")).status_code == 404
        for kind in ("schedule", "consume", "dead-letter", "redrive"):
            assert (await friend.post(f"/tickets/{kind}/things/x/cancel")).status_code == 404
        assert services.asked == 0
        assert (await friend.get("/tickets/request/things/x")).status_code == 503
        assert services.asked == 1


async def test_an_outage_is_503_with_the_key_to_come_back_with_and_no_address() -> None:
    async with client(context()) as caller:
        response = await caller.post("/pipelines/things/records", json={"id": 1})
    assert response.status_code == 503
    assert response.headers["retry-after"] == "5"
    assert response.headers["idempotency-key"]
    assert "10.1.2.3" not in response.text
    async with client(context()) as caller:
        ready = await caller.get("/readyz")
        assert (ready.status_code, ready.json()["detail"]) == (503, "Temporal does not answer.")
        assert (await caller.get("/healthz")).status_code == 200


async def test_an_unexpected_error_is_a_problem_and_tells_nobody_its_text(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for method, path in (("POST", "/pipelines/things/records"), ("GET", "/tickets/request/things/x")):
        async with client(context(Down(ValueError(SECRET)))) as caller:
            response = await caller.request(method, path, json={"id": 1})
        assert response.status_code == 500
        assert response.headers["content-type"] == "application/problem+json"
        assert "hidden" not in response.text
    assert "unexpected ValueError" in caplog.text
    assert "hidden" not in caplog.text


async def test_a_stopping_server_is_not_ready() -> None:
    found = context()
    found.stopping.set()
    async with client(found) as caller:
        assert "stopping" in (await caller.get("/readyz")).json()["detail"]


async def test_a_body_that_trickles_in_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.1)

    async def slow() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(5)
        yield b"}"

    found = context()
    async with client(found) as caller:
        headers = {"Content-Type": "application/json"}
        response = await caller.post("/pipelines/things/records", content=slow(), headers=headers)
    assert (response.status_code, response.json()["type"].rpartition(":")[2]) == (408, "too-slow")
    assert found.records.inside == 0


async def test_beyond_the_bound_everyone_is_told_at_once() -> None:
    found = context(api_requests_in_flight="1")
    async with client(found) as caller:
        with found.records.enter():
            response = await caller.post("/pipelines/things/records", json={"id": 1})
            assert (response.status_code, response.headers["retry-after"]) == (429, "1")
            assert response.headers["idempotency-key"]
        assert (await caller.post("/pipelines/things/records", json={"id": 1})).status_code == 503


@pytest.mark.parametrize(
    ("prefer", "query", "seconds", "applied"),
    [
        ((), "", 10.0, ""),
        (("respond-async",), "", 0.0, "respond-async"),
        (("Respond-Async; x=1",), "", 0.0, "respond-async"),
        (("wait=3",), "", 3.0, "wait=3"),
        (("wait=900",), "", 60.0, "wait=60"),
        (("wait=soon",), "", 10.0, ""),
        (("respond-async", "wait=2"), "", 2.0, "respond-async, wait=2"),
        (("return=minimal, handling=lenient",), "", 10.0, ""),
        (("respond-async",), "wait=4", 4.0, ""),
    ],
)
def test_wishes(prefer: Sequence[str], query: str, seconds: float, applied: str) -> None:
    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "query_string": query.encode(),
        "headers": [(b"prefer", value.encode()) for value in prefer],
    }
    wishes = wishes_of(Request(scope))
    assert (wishes.seconds, wishes.applied) == (seconds, applied)


def test_every_answer_has_its_status() -> None:
    base = SubmitAnswer(ticket="request/things/x", key="k", status="committed", url="http://ui.internal")
    fault = (FieldError(field="", code="cancelled", message="m"),)
    plain = records.Wishes(10)
    answers = {
        201: base,
        200: base.model_copy(update={"repeat": True}),
        202: base.model_copy(update={"status": "accepted"}),
    }
    for status, answer in answers.items():
        response = respond(answer, plain)
        assert (response.status_code, response.headers["location"]) == (status, "/tickets/request/things/x")
        assert b"ui.internal" not in bytes(response.body)
    refused = {
        ("rejected", ()): 422,
        ("conflict", ()): 409,
        ("failed", fault): 409,
        ("failed", ()): 500,
    }
    for (word, errors), status in refused.items():
        with pytest.raises(Problem) as caught:
            respond(base.model_copy(update={"status": word, "errors": errors}), plain)
        assert caught.value.kind.status == status
        assert caught.value.headers["Idempotency-Key"] == "k"


def failed_with(code: str) -> SubmitAnswer:
    error = FieldError(field="", code=code, message=f"{SECRET} cannot be reached; this worker has others, things")
    return SubmitAnswer(ticket="request/things/x", key="k", status="failed", url="", errors=(error,))


def test_a_failure_is_its_code_and_a_fixed_sentence_and_the_log_has_the_text(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Problem) as caught:
        respond(failed_with("UnknownPipelineError"), records.Wishes(10))
    [error] = caught.value.errors
    assert (caught.value.kind.status, error.code) == (500, "UnknownPipelineError")
    for word in ("db.internal", "others"):
        assert word not in bytes(caught.value.response().body).decode()
        assert word in caplog.text
    assert "hidden" not in caplog.text


def test_a_request_log_that_is_down_is_an_outage() -> None:
    with pytest.raises(Problem) as caught:
        respond(failed_with(LOG_UNAVAILABLE), records.Wishes(10))
    assert caught.value.kind.status == 503
    assert (caught.value.headers["Retry-After"], caught.value.headers["Idempotency-Key"]) == ("5", "k")
    assert "db.internal" not in bytes(caught.value.response().body).decode()


@pytest.mark.parametrize(
    ("status", "failure", "told"),
    [
        ("failed", "UnknownPipelineError", False),
        ("failed", "Discarded", False),
        ("waiting", "TableMismatchError", False),
        ("waiting", "Rejected", True),
        ("failed", "FileRefusedError", True),
        ("failed", "", True),
    ],
)
def test_a_ticket_tells_only_about_the_callers_own_record(status: LoadStatus, failure: str, told: bool) -> None:
    errors = failed_with("some_code").errors
    state = TicketState(
        ticket="request/things/x",
        status=status,
        url="",
        pipeline="things",
        pattern="enqueue",
        counts=Counts(),
        reason=errors[0].message,
        failure=failure,
        errors=errors,
    )
    document = json.dumps(document_of(state))
    assert "some_code" in document
    assert ("others" in document) is told
    assert ("db.internal" in document) is told


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (RPCStatusCode.UNAVAILABLE, 503),
        (RPCStatusCode.RESOURCE_EXHAUSTED, 503),
        (RPCStatusCode.INVALID_ARGUMENT, 413),
        (RPCStatusCode.PERMISSION_DENIED, 500),
    ],
)
def test_what_temporal_answers_is_explained_without_its_words(status: RPCStatusCode, expected: int) -> None:
    problem = explain(RPCError(SECRET, status, b""))
    assert problem.kind.status == expected
    assert "hidden" not in problem.detail


def test_every_kind_of_problem_is_in_the_document() -> None:
    document = describe({"things": THINGS}, keys=True)
    assert {str(kind.status) for kind in KINDS} == set(document["components"]["responses"])
    assert "/pipelines/others/records" not in document["paths"]
    assert document["security"] == [{"bearer": []}, {"header": []}]
    assert "security" not in describe({}, keys=False)


def test_digests_are_of_bytes() -> None:
    assert digest_of("\u00e4") != digest_of("a")
