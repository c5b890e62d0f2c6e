"""Inputs and results of the request patterns (`submit` and its kin).

Guarantee: the record travels in the workflow's input as the JSON that was accepted, so Temporal's history is
responsible for it from the moment the start returned.
"""

from __future__ import annotations

from typing import Literal

from pydantic import JsonValue

from contracts.record import FieldError, Frozen
from contracts.request_log import RequestLog

REJECTED = "Rejected"
CONFLICT = "Conflict"


class RequestInput(Frozen):
    """One request: `record` is the accepted JSON object, `fingerprint` the SHA-256 of its canonical form.

    `who` sent it, as far as the entrance knows: the name of an API key, an account of the command line. Never a secret.
    `request_log` is what the pipeline declared when the request came in.
    """

    pipeline: str
    key: str
    fingerprint: str
    record: dict[str, JsonValue]
    who: str = ""
    request_log: RequestLog | None = None


class RequestResult(Frozen):
    """What a committed request leaves behind: the stored record, or None if `process` dropped it.

    `repeat` says that it was committed before, which only its receipt remembers once the first run is gone.
    """

    record: dict[str, JsonValue] | None
    repeat: bool = False


class SubmitAnswer(Frozen):
    """What the caller of `submit` is told."""

    ticket: str
    key: str
    status: Literal["committed", "accepted", "rejected", "conflict", "failed"]
    repeat: bool = False
    record: dict[str, JsonValue] | None = None
    errors: tuple[FieldError, ...] = ()
    url: str
