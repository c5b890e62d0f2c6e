"""Running the user's `process`, which may be sync or async and may fail in any way.

Guarantee: a transient failure (of a service that `process` asks) never costs a record; any other failure is the
record's own and never costs its neighbours.
"""

from __future__ import annotations

import asyncio
from types import NoneType
from typing import TYPE_CHECKING

from contracts.errors import RecordRefusedError, TransientError
from contracts.pipeline import is_async
from contracts.record import FieldError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import BaseModel

    from contracts.pipeline import Pipeline
    from contracts.record import Record

PASSED_ON = (TransientError, OSError)
"""What is tried again instead of rejecting the record; TimeoutError is an OSError."""


def apply(pipeline: Pipeline, record: Record) -> BaseModel | None:
    """Run a sync `process`, or none. Raises `RecordRefusedError`, or what is worth trying again."""
    if pipeline.process is None:
        return record
    try:
        result = pipeline.process(record)
    except PASSED_ON:
        raise
    except Exception as error:
        raise refusal(error) from error
    return checked(pipeline, result)


def apply_all(pipeline: Pipeline, records: Sequence[Record | None]) -> list[BaseModel | RecordRefusedError | None]:
    """Run a sync `process` on one record after the other, with the outcomes of `apply`; None stays None.

    What the loop does for a record that is well counts a million times over, hence nothing but the call itself.
    """
    process, row = pipeline.process, pipeline.row
    if process is None:
        return list(records)
    results: list[BaseModel | RecordRefusedError | None] = []
    done = results.append
    remaining = iter(records)
    while True:
        try:
            for record in remaining:
                done(None if record is None else process(record))
            break
        except PASSED_ON:
            raise
        except Exception as error:  # noqa: BLE001  - whatever user code raises is that record's own
            done(refusal(error))
    if not set(map(type, results)) <= {row, NoneType, RecordRefusedError}:
        return [result if isinstance(result, RecordRefusedError) else judged(pipeline, result) for result in results]
    return results


def judged(pipeline: Pipeline, result: object) -> BaseModel | RecordRefusedError | None:
    """Do the same as `checked`, and return the refusal."""
    try:
        return checked(pipeline, result)
    except RecordRefusedError as error:
        return error


async def apply_async(pipeline: Pipeline, record: Record) -> BaseModel | None:
    """Run an async `process`, with the same outcomes as `apply`."""
    if pipeline.process is None:
        return record
    try:
        result = await pipeline.process(record)
    except PASSED_ON:
        raise
    except Exception as error:
        raise refusal(error) from error
    return checked(pipeline, result)


async def run_process(pipeline: Pipeline, record: Record) -> BaseModel | None:
    """Turn a record into its row, or None to drop it; a sync `process` runs in a thread."""
    if pipeline.process is None:
        return record
    if is_async(pipeline.process):
        return await apply_async(pipeline, record)
    return await asyncio.to_thread(apply, pipeline, record)


def checked(pipeline: Pipeline, result: object) -> BaseModel | None:
    """Refuse a result that is not what `process` declares."""
    if result is None or isinstance(result, pipeline.row):
        return result
    message = f"process returned {type(result).__name__} instead of {pipeline.row.__name__}"
    raise RecordRefusedError((FieldError(field="", code="process_error", message=message),))


def refusal(error: Exception) -> RecordRefusedError:
    """Say that `process` failed on a record, in the words of its error."""
    if isinstance(error, RecordRefusedError):
        return error
    text = str(error).replace("\0", "")[:500]
    message = f"process failed: {type(error).__name__}: {text}" if text else f"process failed: {type(error).__name__}"
    return RecordRefusedError((FieldError(field="", code="process_error", message=message),))
