"""The one place where our errors become Temporal's.

Guarantee: a `TerminalError` is never retried, everything else is, and an expected answer (a refused record, a
conflict) is marked benign, so that it raises no alarm.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from contracts.errors import RecordRefusedError, TerminalError, TransientError
from contracts.record import FieldError
from contracts.requests import CONFLICT, REJECTED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MOST_ERRORS = 100
"""How many field errors travel with a failure; a failure has to stay small in history."""


def rejection(errors: Iterable[FieldError]) -> ApplicationError:
    """Say that a record was refused; every detail of the error is one `FieldError`."""
    listed = tuple(errors)
    return ApplicationError(
        str(RecordRefusedError(listed)) or "the record was refused",
        *listed[:MOST_ERRORS],
        type=REJECTED,
        non_retryable=True,
        category=ApplicationErrorCategory.BENIGN,
    )


def conflict(key: str) -> ApplicationError:
    """Say that a request's key was used before, with another payload."""
    message = f"the key {key!r} was used before with another payload"
    detail = FieldError(field="", code="conflict", message=message)
    return ApplicationError(
        message, detail, type=CONFLICT, non_retryable=True, category=ApplicationErrorCategory.BENIGN
    )


def field_errors(error: ApplicationError) -> tuple[FieldError, ...]:
    """Read the field errors back from a rejection or a conflict, on either side of the wire."""
    return tuple(FieldError.model_validate(detail) for detail in error.details)


def as_application_error(error: Exception) -> ApplicationError:
    """Translate an error; its class's name becomes the type that Temporal shows."""
    if isinstance(error, ApplicationError):
        return error
    if isinstance(error, RecordRefusedError):
        return rejection(error.errors)
    name = type(error).__name__
    if isinstance(error, TerminalError):
        return ApplicationError(str(error), error.code, type=name, non_retryable=True)
    return ApplicationError(str(error) or name, type=name)


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Translate what is raised inside; as a decorator too: `@translated()` wraps sync functions only."""
    try:
        yield
    except (TerminalError, TransientError, OSError) as error:
        raise as_application_error(error) from error
