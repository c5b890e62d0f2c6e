"""PostgreSQL's errors in the words of the project: refused rows, an outage, or something to try again.

Guarantee: no message carries a connection string, a user name given in one, or a password.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg

from contracts.errors import DeclarationError, TransientError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

# Classes of SQLSTATE that say something about the row, not about the server: data exceptions, constraints,
# a view's check option, limits such as the size of an index entry, and errors raised by triggers.
ROW_CLASSES = frozenset({"22", "23", "44", "54", "P0"})
OUTAGE_CLASSES = frozenset({"08", "28", "3D", "53", "58"})
OUTAGE_STATES = frozenset({"57P01", "57P02", "57P03", "57P04", "57P05", "25P03", "25P04"})
STALE_STATES = frozenset({"42P01", "42703", "3F000", "42P10"})
COPY_LINE = re.compile(r"^COPY .+?, line (\d+)(?:, column ([a-z0-9_]+))?", re.MULTILINE)


class PassedError(Exception):
    """Carries an error of the caller's own code through this module untouched."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


@dataclasses.dataclass(frozen=True)
class RowFault:
    """Why rows were refused; `line` counts the COPY's lines from 1, if PostgreSQL named one."""

    message: str
    column: str = ""
    line: int | None = None


def row_fault(error: Exception) -> RowFault | None:
    """Read an error as a statement about a row, or return None if it is about anything else."""
    if isinstance(error, asyncpg.PostgresError):
        if (error.sqlstate or "")[:2] not in ROW_CLASSES:
            return None
        found = COPY_LINE.search(error.context or "")
        column = error.column_name or (found.group(2) if found else None) or ""
        return RowFault(error.message or "", column, int(found.group(1)) if found else None)
    if isinstance(error, ValueError) and not isinstance(error, asyncpg.InterfaceError):
        return RowFault(str(error))
    return None


def address_of(dsn: str) -> str:
    """Take host and port out of a connection string, and nothing else."""
    try:
        parts = urlsplit(dsn)
        return f"{parts.hostname or 'localhost'}:{parts.port or 5432}"
    except ValueError:
        return "the address in the settings"


@contextlib.contextmanager
def translated(address: str) -> Iterator[None]:
    """Turn the driver's errors into the project's."""
    try:
        yield
    except PassedError as passed:
        raise passed.error from passed.error.__cause__
    except asyncpg.ClientConfigurationError:
        # Its message quotes the connection string.
        message = "DATABASE_URL or REQUEST_LOG_DATABASE_URL is no valid PostgreSQL connection string"
        raise DeclarationError(message) from None
    except asyncpg.PostgresError as error:
        raise of_server(error, address) from error
    except asyncpg.InterfaceError as error:
        raise unavailable(address, "the connection is closed") from error
    except TimeoutError as error:
        raise unavailable(address, "no answer in time") from error
    except OSError as error:
        raise unavailable(address, error.strerror or type(error).__name__) from error


def unavailable(address: str, reason: str) -> UnavailableError:
    """Build the error for a server that does not answer."""
    return UnavailableError("PostgreSQL", address, reason)


def of_server(error: asyncpg.PostgresError, address: str) -> TransientError:
    """Map an error that the server, or the driver in its name, reported."""
    state = error.sqlstate or ""
    if state[:2] in {"28", "3D"}:
        # Names a role or a database that came from the connection string.
        return unavailable(address, "it refuses the user, the password or the database")
    if state[:2] in OUTAGE_CLASSES or state in OUTAGE_STATES:
        return unavailable(address, error.message or type(error).__name__)
    return TransientError(f"PostgreSQL at {address}: {error.message or type(error).__name__}")


def is_stale(error: BaseException) -> bool:
    """Say whether the table is no longer the one that was verified."""
    return isinstance(error, asyncpg.PostgresError) and error.sqlstate in STALE_STATES
