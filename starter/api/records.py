"""`POST /pipelines/{name}/records`: one record, answered like `submit`, or like `enqueue` if the caller prefers.

Guarantee: 201 and 200 mean committed, 202 means held by Temporal; every answer, a failure's too, names the request's
key, so that a repeat can settle what became of it. The deadline, a caller who leaves and a server that stops end
the wait only.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import time
import uuid
from typing import TYPE_CHECKING

from fastapi import Request, Response

from contracts.request_log import LOG_UNAVAILABLE
from starter.api.limits import gone, query_of, read_body
from starter.api.problems import (
    BAD_REQUEST,
    CANCELLED,
    CONFLICT,
    FAILED,
    REJECTED,
    UNSUPPORTED,
    GoneError,
    Problem,
    judge,
    kept_back,
    unavailable,
)
from starter.api.services import Context, caller_of
from starter.requests import DEADLINE, LONGEST_KEY, answer_of, enqueue, start, take

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from contracts.pipeline import Pipeline
    from contracts.requests import SubmitAnswer

KEY_HEADER = "Idempotency-Key"
LONGEST_WAIT = 60.0
KEY_PATTERN = r"""^([!#-~]([ -~]*[!-~])?|"([ !#-\[\]-~]|\\["\\])+")$"""
"""A key as it is, or in quotes as in the IETF's draft of the header: printable ASCII either way."""

KEY = re.compile(KEY_PATTERN)
NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,400})?([eE][+-]?[0-9]{1,3})?")
JSON_TYPE = re.compile(r"application/(?:[\w.+-]+\+)?json")


@dataclasses.dataclass(frozen=True)
class Wishes:
    """How long the caller wants to wait, in seconds; 0 is not at all. `applied` echoes what he preferred."""

    seconds: float
    applied: str = ""


class Records:
    """The handler, over what the process shares."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def post(self, request: Request, name: str) -> Response:
        """Take one record."""
        pipeline = self._context.find(request, name)
        wishes = wishes_of(request)
        check_type(request)
        key = key_of(request) or uuid.uuid4().hex
        try:
            with self._context.records.enter():
                body = await read_body(request)
                answer = await self._send(request, pipeline, body, key, wishes)
                return respond(answer, wishes)
        except (GoneError, asyncio.CancelledError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever happened, the caller needs the key to find out about it
            problem = judge(error)
            problem.headers[KEY_HEADER] = key
            raise problem from None

    async def _send(self, request: Request, pipeline: Pipeline, body: bytes, key: str, wishes: Wishes) -> SubmitAnswer:
        """Do what `submit` does, but stop waiting also if the caller leaves or the server stops."""
        end = time.monotonic() + wishes.seconds
        settings, who = self._context.settings, caller_of(request).name
        client = await self._context.services.temporal()
        if not wishes.seconds:
            return await enqueue(client, settings, pipeline, body, key, who)
        record, answer = take(settings, pipeline, body, key, who)
        if record is None:
            return answer
        handle, answer = await start(client, settings, record, answer, "submit")
        if answer.status == "conflict":
            return answer
        return await self._first(request, answer_of(handle, answer, end)) or answer

    async def _first(self, request: Request, waiting: Coroutine[object, object, SubmitAnswer]) -> SubmitAnswer | None:
        """Wait for the answer, or for a reason to wait no longer (None)."""
        result = asyncio.create_task(waiting)
        reasons = [asyncio.create_task(gone(request)), asyncio.create_task(self._context.stopping.wait())]
        try:
            await asyncio.wait([result, *reasons], return_when=asyncio.FIRST_COMPLETED)
            return result.result() if result.done() else None
        finally:
            for task in (result, *reasons):
                task.cancel()


def respond(answer: SubmitAnswer, wishes: Wishes) -> Response:
    """Turn an answer into a response."""
    headers = {KEY_HEADER: answer.key}
    if answer.ticket:
        headers["Location"] = f"/tickets/{answer.ticket}"
    if wishes.applied:
        headers["Preference-Applied"] = wishes.applied
    if answer.status == "rejected":
        raise Problem(REJECTED, "Nothing was stored; see the errors.", errors=answer.errors, headers=headers)
    if answer.status == "conflict":
        detail = "The key was used for another record; nothing was stored."
        raise Problem(CONFLICT, detail, errors=answer.errors, headers=headers)
    if answer.status == "failed":
        if any(error.code == "cancelled" for error in answer.errors):
            raise Problem(CANCELLED, "An operator cancelled the request.", errors=answer.errors, headers=headers)
        raise failed(answer, headers)
    document = answer.model_dump(mode="json", include={"ticket", "key", "status", "repeat", "record"})
    held = answer.status == "accepted"
    status = 202 if held else 200 if answer.repeat else 201
    return Response(json.dumps(document), status_code=status, headers=headers, media_type="application/json")


def failed(answer: SubmitAnswer, headers: dict[str, str]) -> Problem:
    """Turn a failure that is no fault of the record into a problem."""
    code, text = (answer.errors[0].code, answer.errors[0].message) if answer.errors else ("failed", "no reason given")
    error = kept_back(answer.ticket, code, text)
    if code == LOG_UNAVAILABLE:
        # Nothing was stored, and the key may be used again: for the caller it is as any outage.
        problem = unavailable("request log")
        problem.headers |= headers
        return problem
    detail = "It cannot work as it is; the same key may be used again when the cause is mended."
    return Problem(FAILED, detail, errors=(error,), headers=headers)


def key_of(request: Request) -> str | None:
    """Read the Idempotency-Key, plain or in quotes. Raises `Problem`."""
    values = request.headers.getlist(KEY_HEADER)
    if not values:
        return None
    key = values[0]
    fits = KEY.fullmatch(key)
    if key.startswith('"'):
        key = re.sub(r"\\(.)", r"\1", key[1:-1])
    if len(values) > 1 or not fits or len(key) > LONGEST_KEY:
        raise Problem(BAD_REQUEST, f"{KEY_HEADER} is given once and has 1 to {LONGEST_KEY} printable ASCII characters.")
    return key


def wishes_of(request: Request) -> Wishes:
    """Read `?wait=` and the Prefer header (RFC 7240), in which what is not understood is ignored. Raises `Problem`."""
    query = query_of(request, "wait")
    preferred: dict[str, str] = {}
    for item in ",".join(request.headers.getlist("prefer")).split(","):
        name, _, value = item.partition(";")[0].partition("=")
        preferred.setdefault(name.strip().lower(), value.strip().strip('"'))
    waits = "wait" in preferred and NUMBER.fullmatch(preferred["wait"])
    applied = []
    if "respond-async" in preferred:
        applied.append("respond-async")
    if "wait" in query:
        if not NUMBER.fullmatch(query["wait"]) or float(query["wait"]) > LONGEST_WAIT:
            raise Problem(BAD_REQUEST, f"wait is a number of seconds, 0 to {LONGEST_WAIT:.0f}.")
        return Wishes(float(query["wait"]))
    if waits:
        # "Asynchronously, but wait so long for it": together they are one wish.
        seconds = min(float(preferred["wait"]), LONGEST_WAIT)
        return Wishes(seconds, ", ".join([*applied, f"wait={seconds:g}"]))
    if applied:
        return Wishes(0.0, applied[0])
    return Wishes(DEADLINE.total_seconds())


def check_type(request: Request) -> None:
    """Refuse what does not call itself JSON in UTF-8: a form, say, is a mistake that is better told early."""
    kind, _, parameters = request.headers.get("content-type", "application/json").partition(";")
    charset = parameters.lower().partition("charset=")[2].strip('" ')
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if not JSON_TYPE.fullmatch(kind.strip().lower()) or charset not in {"", "utf-8", "utf8"} or coding != "identity":
        raise Problem(UNSUPPORTED, "A record is sent as application/json in UTF-8, without a content coding.")
