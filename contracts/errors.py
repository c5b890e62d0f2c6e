"""The errors that parts agree on: one tree, whose two branches decide about retries.

Guarantee: a `TerminalError` is never retried, a `TransientError` always may be, and neither ever carries a
secret or a connection string.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contracts.record import FieldError


class PipelinesError(Exception):
    """Every error that this project raises on purpose."""


class TerminalError(PipelinesError):
    """Trying again cannot help: the input or the declaration has to change first."""

    code = "terminal"


class TransientError(PipelinesError):
    """Trying again later may help: the world has to change, not the input."""

    code = "transient"


class DeclarationError(TerminalError):
    """A pipeline was declared wrongly; the process must not start with it."""

    code = "declaration"


class TableMismatchError(DeclarationError):
    """A table exists, and differs from what the pipeline's model needs."""

    code = "table_mismatch"


class UnknownPipelineError(TerminalError):
    """No pipeline of that name is declared."""

    code = "unknown_pipeline"


class FileRefusedError(TerminalError):
    """An uploaded file as a whole cannot be read: empty, of another shape, or not text."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class RecordRefusedError(TerminalError):
    """A record failed validation, or `process` refused it; `errors` says why, field by field."""

    code = "record_refused"

    def __init__(self, errors: tuple[FieldError, ...]) -> None:
        super().__init__("; ".join(f"{error.field or 'record'}: {error.message}" for error in errors[:5]))
        self.errors = errors


class ObjectMissingError(TerminalError):
    """The object store has no object under that key."""

    code = "object_missing"


class ObjectChangedError(TerminalError):
    """The object is no longer the one that was referred to: its checksum or ETag differs."""

    code = "object_changed"


class ObjectRefusedError(TerminalError):
    """The object store will never take this request: the key is too long, say, or not text."""

    code = "object_refused"


class ReceiptMismatchError(TerminalError):
    """A receipt exists under this identity for another unit; nothing was written."""

    code = "receipt_mismatch"


class UnavailableError(TransientError):
    """A service does not answer. Names the service and its address, never its credentials."""

    code = "unavailable"

    def __init__(self, service: str, address: str, reason: str) -> None:
        super().__init__(f"{service} at {address} cannot be reached: {reason}")
        self.service = service
        self.address = address
