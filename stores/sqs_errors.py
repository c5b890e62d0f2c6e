"""What the SQS client raises, in the project's words.

Guarantee: a service that does not answer, or cannot now, is `UnavailableError` with its address and no credentials.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from contracts.errors import TerminalError, UnavailableError
from contracts.queue import ItemRefusedError, ItemTooLargeError, QueueMismatchError
from stores.s3_errors import CONNECTION_ERRORS, words_for

if TYPE_CHECKING:
    from collections.abc import Iterator

MISSING = frozenset({"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"})
TOO_LARGE = frozenset({"AWS.SimpleQueueService.BatchRequestTooLong", "BatchRequestTooLong", "MessageTooLong"})
FOR_GOOD = frozenset({"InvalidAttributeName", "InvalidAttributeValue", "QueueNameExists"})


class QueueMissingError(TerminalError):
    """SQS has no queue of that name; whoever knows it has to make it again."""

    code = "queue_missing"


@contextmanager
def translated(address: str, queue: str) -> Iterator[None]:
    """Translate the errors of requests about one queue."""
    try:
        yield
    except ClientError as error:
        code = error.response["Error"].get("Code", "")
        if code in MISSING:
            message = f"SQS has no queue {queue}"
            raise QueueMissingError(message) from error
        if code in TOO_LARGE:
            raise refused(queue, code) from error
        if code in FOR_GOOD:
            message = f"SQS refuses the queue {queue}: {code}"
            raise QueueMismatchError(message) from error
        # Whatever else it is, credentials and permissions among it, an operator or time resolves it.
        raise unavailable(address, f"it answers {code}") from error
    except NoCredentialsError as error:
        raise unavailable(address, "no credentials were found") from error
    except CONNECTION_ERRORS as error:
        raise unavailable(address, words_for(error)) from error
    except BotoCoreError as error:
        raise unavailable(address, type(error).__name__) from error


def refused(queue: str, code: str) -> TerminalError:
    """Build the error for an item that SQS will never take."""
    kind = ItemTooLargeError if code in TOO_LARGE else ItemRefusedError
    return kind(f"the queue {queue} refuses an item: {code}")


def unavailable(address: str, reason: str) -> UnavailableError:
    """Build the error that names this service."""
    return UnavailableError("SQS", address, reason)
