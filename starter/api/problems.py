"""Problems: every answer that is not a success, as a problem document of RFC 9457.

Guarantee: no document holds an address, a key, a credential or the text of an unexpected error; what a caller is
told about a record are its own field errors. Of other failures it has the code and a fixed sentence.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import traceback
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response
from temporalio.service import RPCError, RPCStatusCode

from activities.failures import MOST_ERRORS
from contracts.dead_letters import DISCARDED
from contracts.errors import UnavailableError
from contracts.record import FieldError
from contracts.request_log import LOG_UNAVAILABLE
from starter.exits import CommandError, Exit, one_line
from starter.services import is_outage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

log = logging.getLogger("starter.api")

MEDIA_TYPE = "application/problem+json"
URN = "urn:durable-pipelines:problem:"
RETRY_AFTER = "Retry-After"
RETRY_SECONDS = "5"
"""When a service that does not answer may be asked for again."""

GONE = 499
"""What the access log says of a caller who left, as nginx does; nobody receives it."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of problem: the last part of its type, its status and its title."""

    name: str
    status: int
    title: str


BAD_REQUEST = Kind("bad-request", 400, "The request is malformed")
UNAUTHORIZED = Kind("unauthorized", 401, "A valid API key is required")
FORBIDDEN = Kind("forbidden", 403, "Only programs of this machine may call a server without keys")
NOT_FOUND = Kind("not-found", 404, "There is nothing here")
NOT_ALLOWED = Kind("method-not-allowed", 405, "The method is not allowed here")
TOO_SLOW = Kind("too-slow", 408, "The body came too slowly")
CONFLICT = Kind("conflict", 409, "The key was used for another record")
CANCELLED = Kind("cancelled", 409, "The request was cancelled")
NOT_POSSIBLE = Kind("not-possible", 409, "The ticket's status does not allow it")
TOO_LARGE = Kind("too-large", 413, "The body is too large")
UNSUPPORTED = Kind("unsupported-media-type", 415, "The body's type is not supported")
REJECTED = Kind("rejected", 422, "The content is not valid")
OVERLOADED = Kind("overloaded", 429, "Too many requests are in progress")
INTERNAL = Kind("internal-error", 500, "The server failed")
FAILED = Kind("failed", 500, "The request cannot be completed")
UNAVAILABLE = Kind("unavailable", 503, "A service does not answer")

CREDENTIALS = re.compile(r"//[^/@\s]*@")
SENTENCES = {
    DISCARDED: "An operator gave it up.",
    LOG_UNAVAILABLE: "The request log did not answer, so nothing was stored.",
}
"""What callers are told about failures that are none of their record, by code; about others it is `MEND_FIRST`."""

MEND_FIRST = "It cannot work until an operator mends the cause, which the server's log has."

KINDS = tuple(value for value in list(globals().values()) if isinstance(value, Kind))
BY_STATUS = {404: NOT_FOUND, 405: NOT_ALLOWED}


class Problem(Exception):  # noqa: N818 - RFC 9457's word for it
    """An answer that is not a success: raised anywhere, sent as a document."""

    def __init__(
        self,
        kind: Kind,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.errors = errors
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """Write the document."""
        document: dict[str, object] = {
            "type": URN + self.kind.name,
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": self.detail,
        }
        if self.errors:
            document["errors"] = [error.model_dump() for error in self.errors[:MOST_ERRORS]]
        return Response(json.dumps(document), status_code=self.kind.status, headers=self.headers, media_type=MEDIA_TYPE)


def kept_back(ticket: str, code: str, text: str) -> FieldError:
    """Say what callers may know of a failure, and keep its text, with the services and pipelines it names, in the log.

    Our errors have no credentials; others' are known to quote addresses.
    """
    log.warning("%s: %s: %s", ticket, code, CREDENTIALS.sub("//***@", one_line(text)))
    return FieldError(field="", code=code, message=SENTENCES.get(code, MEND_FIRST))


class GoneError(Exception):
    """The caller left before the whole body had come."""


def unavailable(service: str) -> Problem:
    """Name a service that does not answer, and nothing else of it."""
    named = service if service == "Temporal" else f"The {service}"
    detail = f"{named} does not answer. Repeat the request, with the same Idempotency-Key if it has one."
    return Problem(UNAVAILABLE, detail, headers={RETRY_AFTER: RETRY_SECONDS})


def explain(error: BaseException) -> Problem:
    """Turn whatever was raised into what the caller may know of it."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, UnavailableError):
        return unavailable(error.service)
    found = None
    if isinstance(error, RPCError):
        found = explain_rpc(error)
    elif isinstance(error, CommandError):
        found = explain_command(error)
    elif isinstance(error, HTTPException) and error.status_code in BY_STATUS:
        kind = BY_STATUS[error.status_code]
        detail = "Nothing is found at this path." if kind is NOT_FOUND else "This path does not take the method."
        found = Problem(kind, detail, headers=error.headers)
    return found or Problem(INTERNAL, "An unexpected error; the server's log has more.")


def explain_rpc(error: RPCError) -> Problem | None:
    """Explain what Temporal answered, if it is nothing unexpected."""
    if is_outage(error) or error.status is RPCStatusCode.RESOURCE_EXHAUSTED:
        return unavailable("Temporal")
    if error.status is RPCStatusCode.INVALID_ARGUMENT:
        # The parser's limit is far below Temporal's own, but some numbers are longer when they are printed again.
        return Problem(TOO_LARGE, "The record is too large to be kept.")
    return None


def explain_command(error: CommandError) -> Problem:
    """Explain what the functions under the commands refuse."""
    if error.status is Exit.UNKNOWN:
        return Problem(NOT_FOUND, "No such ticket.")
    if error.status is Exit.USAGE:
        return Problem(BAD_REQUEST, str(error))
    if error.status is Exit.UNREACHABLE:
        return unavailable("worker")
    return Problem(NOT_POSSIBLE, str(error))


def report(error: BaseException) -> None:
    """Log an unexpected error by its type and place: its text may repeat what nobody should read."""
    places = "".join(traceback.format_tb(error.__traceback__))
    log.error("unexpected %s\n%s", type(error).__name__, places.rstrip())


def judge(error: Exception) -> Problem:
    """Explain an error to its caller, and tell the log what operators should know of it."""
    problem = explain(error)
    if isinstance(error, UnavailableError):
        log.warning("%s", error)
    elif problem.kind is INTERNAL and problem is not error:
        report(error)
    return problem


async def answer(_request: Request, error: Exception) -> Response:
    """Handle what a handler raised."""
    if isinstance(error, GoneError):
        return Response(status_code=GONE)
    return judge(error).response()


def install(app: FastAPI) -> None:
    """Make every error of an application a problem document."""
    for kind in (Problem, GoneError, UnavailableError, RPCError, CommandError, HTTPException, Exception):
        app.add_exception_handler(kind, answer)
