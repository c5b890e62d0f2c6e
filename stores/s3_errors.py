"""What the S3 client raises, in the project's words.

Guarantee: a store that does not answer, or cannot now, is `UnavailableError` with its address and no
credentials; an answer about the object itself is `ObjectMissingError` or `ObjectChangedError`.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import aiohttp
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
)
from botocore.parsers import ResponseParserError

from contracts.errors import ObjectChangedError, ObjectMissingError, ObjectRefusedError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECTION_ERRORS = (
    HTTPClientError,
    IncompleteReadError,
    ResponseParserError,
    aiohttp.ClientError,
    TimeoutError,
    OSError,
)

NOT_FOUND = 404
PRECONDITION_FAILED = 412
RANGE_NOT_SATISFIABLE = 416
SERVER_ERRORS = 500
TRY_LATER = frozenset({401, 403, 408, 409, 425, 429})
"""Refusals that an operator or time resolves, credentials among them: the input is not at fault."""
DAMAGED = frozenset({"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"})
"""The bytes that arrived are not those that were sent: the connection is at fault."""


@contextmanager
def translated(address: str, key: str) -> Iterator[None]:
    """Translate the errors of one request for `key`.

    Raises `UnavailableError`, `ObjectMissingError`, `ObjectChangedError` or `ObjectRefusedError`; status 416 and
    an existing bucket, which callers handle, pass through as `ClientError`.
    """
    try:
        yield
    except ClientError as error:
        translate_answer(address, key, error)
        raise
    except ParamValidationError as error:
        message = f"object {key!r} is refused: {error.kwargs.get('report', error)}"
        raise ObjectRefusedError(message) from error
    except NoCredentialsError as error:
        raise unavailable(address, "no credentials were found") from error
    except CONNECTION_ERRORS as error:
        raise unavailable(address, words_for(error)) from error
    except BotoCoreError as error:
        raise unavailable(address, type(error).__name__) from error


def translate_answer(address: str, key: str, error: ClientError) -> None:
    """Raise what an error status means, or return if the caller handles it."""
    status = status_of(error)
    code = error.response["Error"].get("Code", "")
    if status == NOT_FOUND:
        message = f"object {key} is missing"
        raise ObjectMissingError(message) from error
    if status == PRECONDITION_FAILED:
        message = f"object {key} is no longer the version that was asked for"
        raise ObjectChangedError(message) from error
    if status == RANGE_NOT_SATISFIABLE or code in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
        return
    if status >= SERVER_ERRORS or status in TRY_LATER or code in DAMAGED:
        raise unavailable(address, f"it answers {status} {code}".rstrip()) from error
    message = f"object {key!r} is refused: {status} {code}".rstrip()
    raise ObjectRefusedError(message) from error


def unavailable(address: str, reason: str) -> UnavailableError:
    """Build the error that names this service."""
    return UnavailableError("object store", address, reason)


def status_of(error: ClientError) -> int:
    """Read the HTTP status of an error."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def words_for(error: Exception) -> str:
    """Say what happened to the connection, in a few words and without the request's URL."""
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    names = {
        "EndpointConnectionError": "the connection is refused",
        "ConnectTimeoutError": "it did not answer in time",
        "ReadTimeoutError": "it did not answer in time",
        "ConnectionClosedError": "the connection was closed",
    }
    return names.get(type(error).__name__, f"the connection failed ({type(error).__name__})")
