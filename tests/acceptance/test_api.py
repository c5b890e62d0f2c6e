"""The HTTP API as its callers see it: a real server over the real stack."""

from __future__ import annotations

import asyncio
import base64
import csv
import gzip
import hashlib
import io
import json
import os
import re
import socket
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from contracts.record import Frozen
from stores.settings import load_settings
from tests.acceptance.api import KEY, KEYS, NOTES_KEY, ROOT, ApiServer, serving, until
from tests.acceptance.test_submit import BAD
from workers.client import connect_temporal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.acceptance.conftest import Starter

NOTES = "/pipelines/notes/records"


def record(number: int, **changes: object) -> dict[str, object]:
    return {"id": number, "text": "a", "amount": 1.5, **changes}


def count(starter: Starter, number: int) -> int:
    return int(starter.select(f"SELECT count(*) FROM notes WHERE id = {number}")[0][0])


def problem(response: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    """Check what is true of every problem document, and give it."""
    assert response.status_code == status, (response.status_code, response.text)
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document["type"] == f"urn:durable-pipelines:problem:{kind}"
    assert document["status"] == status
    assert document["title"]
    assert document["detail"]
    assert isinstance(document, dict)
    return document


def over(http: httpx.Client, ticket: str) -> dict[str, Any]:
    """Follow a ticket to its end."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        state = http.get(f"/tickets/{ticket}").raise_for_status().json()
        if state["status"] != "running":
            assert isinstance(state, dict)
            return state
        time.sleep(0.1)
    raise TimeoutError(ticket)


def test_a_committed_record_comes_back_and_is_in_the_table(http: httpx.Client, starter: Starter) -> None:
    response = http.post(NOTES, json=record(9001))
    assert response.status_code == 201, response.text
    answer = response.json()
    assert answer["record"] == record(9001)
    assert (answer["status"], answer["repeat"]) == ("committed", False)
    assert response.headers["location"] == f"/tickets/{answer['ticket']}"
    assert response.headers["idempotency-key"] == answer["key"]
    assert starter.select("SELECT id, text, amount FROM notes WHERE id = 9001") == [(9001, "a", 1.5)]
    state = http.get(response.headers["location"]).json()
    assert (state["status"], state["record"]) == ("completed", record(9001))
    assert http.get(response.headers["location"].replace("request/", "request%2F")).json() == state


def test_a_repeat_is_200_and_another_record_with_the_key_is_409(http: httpx.Client, starter: Starter) -> None:
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    first = http.post(NOTES, json=record(9002), headers=headers)
    again = http.post(NOTES, json=record(9002), headers=headers)
    other = http.post(NOTES, json=record(9003), headers=headers)
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json() | {"repeat": True}
    document = problem(other, 409, "conflict")
    assert document["errors"][0]["code"] == "conflict"
    assert other.headers["location"] == first.headers["location"]
    assert count(starter, 9003) == 0
    # The command line and the API share one space of keys; a quoted key is the same key.
    ran = starter("submit", "notes", json.dumps(record(9002)), "--key", headers["Idempotency-Key"])
    assert ran.json["repeat"], ran
    quoted = http.post(NOTES, json=record(9002), headers={"Idempotency-Key": f'"{headers["Idempotency-Key"]}"'})
    assert quoted.json() == again.json()


@pytest.mark.parametrize("name", sorted(BAD))
def test_bad_input_is_refused_with_field_errors(http: httpx.Client, name: str) -> None:
    response = http.post(NOTES, content=BAD[name], headers={"Content-Type": "application/json"})
    if name == "over-long":
        problem(response, 413, "too-large")
        return
    errors = problem(response, 422, "rejected")["errors"]
    assert errors
    assert all(set(error) == {"field", "code", "message"} for error in errors)
    assert "location" not in response.headers


def test_what_comes_in_chunks_is_bounded_as_well(http: httpx.Client) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"id": 1, "text": "'
        for _ in range(64):
            yield b"a" * 65536

    response = http.post(NOTES, content=chunks(), headers={"Content-Type": "application/json"})
    problem(response, 413, "too-large")
    small = http.post(NOTES, content=iter([b'{"id": 9004, ', b'"text": "a"}']), headers={"Content-Type": "text/json"})
    problem(small, 415, "unsupported-media-type")
    small = http.post(
        NOTES, content=iter([b'{"id": 9004, ', b'"text": "a"}']), headers={"Content-Type": "application/json"}
    )
    assert small.status_code == 201, small.text


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({"Idempotency-Key": "k" * 256}, ""),
        ({"Idempotency-Key": "sch\u00f6n".encode()}, ""),
        ({"Idempotency-Key": ""}, ""),
        ({"Idempotency-Key": '""'}, ""),
        ({}, "?wait=soon"),
        ({}, "?wait=61"),
        ({}, "?wait=-1"),
        ({}, "?wait=1&wait=2"),
        ({}, "?waite=1"),
    ],
)
def test_a_malformed_request_is_400(http: httpx.Client, headers: dict[str, Any], query: str) -> None:
    problem(http.post(NOTES + query, json=record(9005), headers=headers), 400, "bad-request")


def test_who_prefers_not_to_wait_gets_a_ticket(http: httpx.Client, starter: Starter) -> None:
    response = http.post(NOTES, json=record(9006), headers={"Prefer": "respond-async"})
    assert response.status_code == 202, response.text
    assert response.headers["preference-applied"] == "respond-async"
    answer = response.json()
    assert (answer["status"], answer["record"]) == ("accepted", None)
    assert response.headers["location"] == f"/tickets/{answer['ticket']}"
    assert over(http, answer["ticket"])["status"] == "completed"
    assert count(starter, 9006) == 1
    again = http.post(NOTES, json=record(9006), headers={"Idempotency-Key": answer["key"], "Prefer": "wait=5"})
    assert (again.status_code, again.json()["repeat"]) == (200, True)
    assert again.headers["preference-applied"] == "wait=5"
    both = http.post(NOTES, json=record(9007), headers={"Prefer": "foo, respond-async;x, wait=20"})
    assert (both.status_code, both.headers["preference-applied"]) == (201, "respond-async, wait=20")
    assert http.post(NOTES + "?wait=0", json=record(9008)).status_code == 202
    rejected = http.post(NOTES, json={"id": "x"}, headers={"Prefer": "respond-async"})
    problem(rejected, 422, "rejected")


def test_a_record_that_the_sink_refuses_is_422_with_its_ticket(http: httpx.Client) -> None:
    response = http.post("/pipelines/weather/records", json={"origin": "EWR"})
    assert problem(response, 422, "rejected")["errors"]


def test_without_a_valid_key_everything_looks_the_same(api: ApiServer, http: httpx.Client) -> None:
    ticket = http.post(NOTES, json=record(9009)).json()["ticket"]
    paths = ["/pipelines", NOTES, "/pipelines/none/records", f"/tickets/{ticket}", "/tickets/x", "/openapi.json"]
    paths += ["/docs", "/nowhere", "/pipelines/notes/files", f"/tickets/{ticket}/rejects"]
    wrong: list[dict[str, str]] = [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {KEY}"},
        {"X-API-Key": "wrong"},
        {"Authorization": f"Bearer {KEY}", "X-API-Key": NOTES_KEY},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer \u00e4"},
    ]
    with api.client(None) as client:
        found = {
            (response.status_code, response.text, response.headers["www-authenticate"])
            for path in paths
            for headers in wrong
            for method in ("GET", "POST", "DELETE")
            for response in [
                client.request(method, path, headers=[(k.encode(), v.encode()) for k, v in headers.items()])
            ]
        }
        assert len(found) == 1
        assert next(iter(found))[0] == 401
        assert client.get("/healthz").json() == {"status": "alive"}
        assert client.get("/readyz").json() == {"status": "ready"}
        assert client.get("/pipelines", headers={"X-API-Key": KEY}).status_code == 200


def test_out_of_its_scope_a_key_sees_nothing(api: ApiServer, http: httpx.Client) -> None:
    slow = http.post("/pipelines/slow/records", json={"id": 1})
    assert slow.status_code == 201, slow.text
    with api.client(NOTES_KEY) as client:
        assert [item["name"] for item in client.get("/pipelines").json()["pipelines"]] == ["notes"]
        assert client.post(NOTES, json=record(9010)).status_code == 201
        hidden = client.post("/pipelines/slow/records", json={"id": 1})
        absent = client.post("/pipelines/none/records", json={"id": 1})
        assert problem(hidden, 404, "not-found") == problem(absent, 404, "not-found")
        for method, tail in (("GET", ""), ("GET", "/rejects"), ("POST", "/cancel")):
            hidden = client.request(method, slow.headers["location"] + tail)
            absent = client.request(method, "/tickets/request/none/abc" + tail)
            odd = client.request(method, "/tickets/x" + tail)
            known = client.request(method, f"/tickets/request/notes/{'0' * 64}{tail}")
            documents = [problem(each, 404, "not-found") for each in (hidden, absent, odd, known)]
            assert all(document == documents[0] for document in documents)
        paths = client.get("/openapi.json").json()["paths"]
        assert [path for path in paths if path.startswith("/pipelines/")] == [NOTES, "/pipelines/notes/files"]


def test_what_is_not_there_is_a_problem_document_too(http: httpx.Client) -> None:
    problem(http.get("/nowhere"), 404, "not-found")
    problem(http.get("/docs"), 404, "not-found")
    response = http.get(NOTES)
    problem(response, 405, "method-not-allowed")
    assert response.headers["allow"] == "POST"
    problem(http.post(NOTES, data={"id": "1"}), 415, "unsupported-media-type")
    files = http.post("/pipelines/notes/files", files={"file": b"id,text\n1,a\n"})
    problem(files, 415, "unsupported-media-type")
    gz = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    problem(http.post(NOTES, content=gzip.compress(b"{}"), headers=gz), 415, "unsupported-media-type")


def test_a_file_is_loaded_and_sent_again_is_the_same_ticket(http: httpx.Client, starter: Starter) -> None:
    rows = "".join(f"{number},t,{number}.5\n" for number in range(20_000, 30_000))
    data = f"id,text,amount\n{rows}".encode()
    response = http.post("/pipelines/notes/files", content=data, headers={"Content-Type": "text/csv"})
    assert response.status_code == 202, response.text
    ticket = response.json()["ticket"]
    assert ticket == f"upload/notes/{hashlib.sha256(data).hexdigest()[:32]}"
    assert response.headers["location"] == f"/tickets/{ticket}"
    state = over(http, ticket)
    assert (state["status"], state["counts"]["written"], state["rejects"]) == ("completed", 10_000, None)
    assert starter.select("SELECT count(*), sum(amount) FROM notes WHERE id >= 20000 AND id < 30000") == [
        (10_000, sum(number + 0.5 for number in range(20_000, 30_000)))
    ]
    again = http.post("/pipelines/notes/files", content=iter([data[:1000], data[1000:]]))
    assert (again.status_code, again.json()["ticket"]) == (200, ticket)
    assert http.get(f"/tickets/{ticket}/rejects").status_code == 204
    anew = http.post("/pipelines/notes/files?again=true", content=data)
    assert (anew.status_code, anew.json()["ticket"].startswith(f"{ticket}/")) == (202, True)
    assert over(http, anew.json()["ticket"])["status"] == "completed"


def test_rejects_come_as_a_csv_and_the_options_count(http: httpx.Client, starter: Starter) -> None:
    data = f"id,text\n{uuid.uuid4().int % 10**9 + 10**9},good\nx,bad\n31,\n".encode()
    sent = http.post("/pipelines/notes/files?on_rejects=wait&filename=../my%20notes.csv", content=data)
    ticket = sent.json()["ticket"]
    state = over(http, ticket)
    assert (state["status"], state["counts"]["rejected"]) == ("waiting", 2)
    response = http.get(state["rejects"])
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    found = list(csv.DictReader(io.StringIO(response.text)))
    assert [(row["id"], row["reject_line"], row["reject_code"]) for row in found[:1]] == [("x", "3", "int_parsing")]
    assert starter("rejects", ticket, plain=True).out == response.text
    asked = http.post(f"/tickets/{ticket}/cancel")
    assert asked.status_code == 202
    end = time.monotonic() + 30
    while http.get(f"/tickets/{ticket}").json()["status"] != "cancelled":
        assert time.monotonic() < end
        time.sleep(0.1)
    assert http.post(f"/tickets/{ticket}/cancel").status_code == 200
    stopped = http.post(
        "/pipelines/notes/files?max_rejects=1&again=true",
        content=data,
        headers={"Content-Disposition": "attachment; filename*=UTF-8''sch%C3%B6n.csv"},
    )
    state = over(http, stopped.json()["ticket"])
    assert state["status"] == "stopped"
    problem(http.post(f"/tickets/{stopped.json()['ticket']}/cancel"), 409, "not-possible")
    checked = http.post("/pipelines/notes/files?dry_run=true", content=data)
    assert over(http, checked.json()["ticket"])["counts"]["rejected"] == 2
    request = http.post(NOTES, json=record(9011)).json()["ticket"]
    problem(http.get(f"/tickets/{request}/rejects"), 404, "not-found")


@pytest.mark.parametrize(
    "query",
    [
        "max_rejects=many",
        "max_rejects=101%25",
        "on_rejects=stop",
        "dry_run=yes",
        "dryrun=true",
        "filename=%00",
        "again=",
    ],
)
def test_a_wrong_option_stores_nothing(http: httpx.Client, query: str) -> None:
    problem(http.post(f"/pipelines/notes/files?{query}", content=b"id,text\n1,a\n"), 400, "bad-request")


def test_an_upload_that_is_cut_off_stores_nothing(api: ApiServer, http: httpx.Client, stored: Stored) -> None:
    before = stored.keys("uploads/notes/")
    for head in ("Content-Length: 30000000", "Transfer-Encoding: chunked"):
        host, port = api.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(
                f"POST /pipelines/notes/files HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\n{head}\r\n\r\n".encode()
            )
            piece = b"id,text\n" + b"1,a\n" * 5000
            for _ in range(1000):  # more than two parts
                connection.sendall(piece if "Length" in head else f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
    time.sleep(1.0)  # no event tells that nothing will be stored: a part that was on its way has this long to show
    assert stored.keys("uploads/notes/") == before
    assert http.get("/healthz").status_code == 200
    assert stored.unfinished() == []


def test_a_large_upload_takes_bounded_memory(api: ApiServer, http: httpx.Client) -> None:
    def blocks() -> Iterator[bytes]:
        yield b"id,text\n"
        for number in range(200):
            yield b"".join(b"%d,%s\n" % (10**9 + number * 10**4 + row, b"x" * 100) for row in range(10_000))

    def peak() -> int:
        lines = (ROOT / f"/proc/{api.process.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024

    before = peak()
    sent = http.post("/pipelines/appended/files?dry_run=true", content=blocks())
    assert sent.status_code == 202, sent.text
    assert peak() - before < 120 << 20  # of 223 MB
    http.post(f"/tickets/{sent.json()['ticket']}/cancel")


def test_the_log_has_names_and_no_secrets(api: ApiServer, http: httpx.Client, environ: dict[str, str]) -> None:
    seen = len(api.log)
    http.get("/tickets/a%0d%0ab?secret=query", headers={"Idempotency-Key": "private"})
    http.post(NOTES, json=record(9012, text="private"))
    until(lambda: "POST /pipelines/notes/records 201" in api.log[seen:])
    log = api.log
    assert "POST /pipelines/notes/records 201" in log
    assert re.search("GET /tickets/a%0d%0ab 404 ", log, re.IGNORECASE), log
    assert " tester\n" in log
    for secret in (
        KEY,
        NOTES_KEY,
        "private",
        "secret=query",
        environ["DATABASE_URL"],
        environ["AWS_SECRET_ACCESS_KEY"],
    ):
        assert secret not in log


def test_the_history_has_the_name_of_the_key_and_not_the_key(
    api: ApiServer, http: httpx.Client, environ: dict[str, str], tmp_path: Path
) -> None:
    async def history(ticket: str) -> str:
        client = await connect_temporal(load_settings(environ, tmp_path))
        return (await client.get_workflow_handle(ticket).fetch_history()).to_json()

    for prefer in ("wait=9", "respond-async"):
        sent = http.post(NOTES, json=record(9015), headers={"Prefer": prefer})
        with ThreadPoolExecutor(1) as pool:
            text = pool.submit(lambda ticket: asyncio.run(history(ticket)), sent.json()["ticket"]).result()
        payloads = [base64.b64decode(found) for found in re.findall(r'"data": "([^"]+)"', text)]
        assert any(b'"who":"tester"' in payload for payload in payloads), payloads
        assert not any(KEY.encode() in payload for payload in payloads)
        assert KEY not in text


def test_a_server_without_keys_does_not_start_by_accident(environ: dict[str, str]) -> None:
    cases: list[tuple[dict[str, str], list[str]]] = [
        ({}, []),
        ({}, ["--without-keys", "--host", "::"]),
        ({"API_KEYS": KEYS}, ["--without-keys"]),
        ({"API_KEYS": "name:abc:notes"}, []),
        ({"API_KEYS": f"name:{'0' * 64}:"}, []),
        ({"API_KEYS_FILE": "/nowhere/keys"}, []),
    ]
    for more, arguments in cases:
        command = [sys.executable, "-m", "starter", "api", "--port", "0", *arguments]
        done = subprocess.run(
            command, env={**environ, **more}, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 2, done
        assert len(done.stderr.strip().splitlines()) == 1, done


def test_a_development_server_serves_this_machine_only(environ: dict[str, str], workers: None, tmp_path: Path) -> None:
    with serving(environ, tmp_path / "log", "--without-keys") as server, server.client(None) as client:
        assert client.post(NOTES, json=record(9013)).status_code == 201
        assert client.get("/docs").status_code == 200
        problem(client.get("/pipelines", headers={"Host": "evil.example"}), 403, "forbidden")
        problem(client.post("/pipelines/notes/files", headers={"Origin": "https://evil.example"}), 403, "forbidden")
        assert client.get("/pipelines", headers={"Origin": "http://localhost:3000"}).status_code == 200


def overloaded(client: httpx.Client, path: str) -> bool:
    return client.post(f"/pipelines/notes/{path}", content=b"").status_code == 429


def test_overload_is_told_at_once_and_not_queued(environ: dict[str, str], tmp_path: Path) -> None:
    more = {"API_KEYS": KEYS, "API_REQUESTS_IN_FLIGHT": "2", "API_UPLOADS_IN_FLIGHT": "1", "API_CONNECTIONS": "20"}
    with serving({**environ, **more}, tmp_path / "log") as server:
        host, port = server.url.removeprefix("http://").split(":")
        connections = []
        for path in ("records", "records", "files"):
            connection = socket.create_connection((host, int(port)))
            head = f"POST /pipelines/notes/{path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nContent-Length: 99\r\n\r\n"
            connection.sendall(head.encode())
            connections.append(connection)
        with server.client() as client:
            # What is not valid is refused without a trace as long as there is room.
            for path in ("records", "files"):
                until(partial(overloaded, client, path))
            for path in ("records", "files"):
                response = client.post(f"/pipelines/notes/{path}", json=record(9014))
                problem(response, 429, "overloaded")
                assert response.headers["retry-after"] == "1"
            assert client.get("/pipelines").status_code == 200
            for connection in connections:
                connection.close()
            until(lambda: client.post(NOTES, content=b"").status_code == 422)
            assert client.post(NOTES + "?wait=0", json=record(9014)).status_code == 202
            crowd = [socket.create_connection((host, int(port))) for _ in range(20)]
            until(lambda: httpx.get(f"{server.url}/healthz").status_code == 429)
            with server.client() as late:
                problem(late.get("/healthz"), 429, "overloaded")
            assert client.get("/healthz").status_code == 200
            for connection in crowd:
                connection.close()


def test_what_is_no_http_is_a_problem_document_too(api: ApiServer) -> None:
    host, port = api.url.removeprefix("http://").split(":")
    for junk in (b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nA: " + b"a" * 100_000 + b"\r\n\r\n"):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(junk)
            answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 400 "), answer
        assert b"application/problem+json" in answer


class Stored(Frozen):
    """What is in the object store, seen without the product's code."""

    environ: dict[str, str]

    def _list(self, operation: str, **more: str) -> dict[str, Any]:
        import boto3  # type: ignore[import-untyped]  # stubs are installed for its asynchronous cousin only

        client = boto3.client(
            "s3",
            endpoint_url=self.environ["S3_ENDPOINT_URL"],
            aws_access_key_id=self.environ["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environ["AWS_SECRET_ACCESS_KEY"],
            region_name="us-east-1",
        )
        found: dict[str, Any] = getattr(client, operation)(Bucket=self.environ.get("S3_BUCKET", "pipelines"), **more)
        client.close()
        return found

    def keys(self, prefix: str) -> set[str]:
        return {item["Key"] for item in self._list("list_objects_v2", Prefix=prefix).get("Contents", ())}

    def unfinished(self) -> list[Any]:
        return list(self._list("list_multipart_uploads").get("Uploads", ()))


@pytest.fixture
def stored(environ: dict[str, str]) -> Stored:
    return Stored(environ=environ)


def test_help_is_fast(environ: dict[str, str]) -> None:
    code = "import sys, starter.cli; sys.exit('fastapi' in sys.modules or 'uvicorn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ | environ, cwd=ROOT, check=False).returncode == 0
