"""The activities behind a request: validate, process and write its record, or read what became of it.

Guarantee: when `store_record` returns, the record is committed in the sink exactly once, however often it was tried;
one that `process` dropped is committed as a receipt without a row.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from temporalio import activity

from activities.failures import conflict, translated
from activities.process import run_process
from activities.validate import check_values, validate_payload
from contracts.errors import RecordRefusedError, TerminalError, UnknownPipelineError
from contracts.ports import Item
from contracts.record import FieldError
from contracts.requests import RequestInput, RequestResult
from contracts.units import Unit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from contracts.pipeline import Pipeline
    from contracts.ports import Receipt, Sink
    from contracts.table import Row, Table


def find_pipeline(pipelines: Mapping[str, Pipeline], name: str) -> Pipeline:
    """Look a pipeline up. Raises `UnknownPipelineError`."""
    try:
        return pipelines[name]
    except KeyError:
        message = f"this worker has no pipeline {name!r}; it has {', '.join(sorted(pipelines)) or 'none'}"
        raise UnknownPipelineError(message) from None


class RequestActivities:
    """Activities of the request patterns, over the pipelines and the sink they were built with."""

    def __init__(self, pipelines: Mapping[str, Pipeline], sink: Sink) -> None:
        self.pipelines = pipelines
        self.sink = sink

    @activity.defn
    async def store_record(self, request: RequestInput) -> RequestResult:
        """Commit one request's record. Fails with `REJECTED` or `CONFLICT` when trying again cannot help."""
        with translated():
            try:
                pipeline = find_pipeline(self.pipelines, request.pipeline)
                table = pipeline.table
                await self.sink.prepare(table)
                check_values(request.record)
                row = await run_process(pipeline, validate_payload(pipeline, request.record))
            except TerminalError:
                # If an earlier try committed, what is stored counts, whatever this worker does not have or refuses
                # since. The sink sees to that for whatever reaches it. A sink that is away here says nothing yet.
                receipt = await self.sink.find_receipt(unit_of(request))
                if receipt is None or receipt.state != "stored":
                    raise
                return repeat_of(request, receipt)
            return await self._write(request, table, None if row is None else table.row_of(row))

    @activity.defn
    async def find_stored(self, request: RequestInput) -> RequestResult | None:
        """Read what was stored for a request; None if nothing was, or that of another payload under its key."""
        with translated():
            receipt = await self.sink.find_receipt(unit_of(request))
        if receipt is None or receipt.state != "stored" or receipt.fingerprint != request.fingerprint:
            return None
        return repeat_of(request, receipt)

    async def _write(self, request: RequestInput, table: Table, row: Row | None) -> RequestResult:
        """Commit the row, or that there is none. Raises `RecordRefusedError`, and fails with `CONFLICT`."""
        item = Item(unit=unit_of(request), fingerprint=request.fingerprint, row=row)
        [outcome] = await self.sink.write(table, [item])
        if outcome.status == "refused":
            raise RecordRefusedError((FieldError(field=outcome.column, code=outcome.code, message=outcome.message),))
        if outcome.status == "conflict":
            raise conflict(request.key)
        if outcome.status == "dead":
            # No request is buried today; one that was must not look committed.
            raise RecordRefusedError((FieldError(field="", code="dead", message="this request was given up"),))
        return RequestResult(
            record=None if outcome.record is None else json.loads(outcome.record), repeat=outcome.status == "repeat"
        )


def unit_of(request: RequestInput) -> Unit:
    """Name the unit of a request; its receipt can be found by a worker that does not have the pipeline."""
    return Unit.alone(request.pipeline, f"request/{request.key}")


def repeat_of(request: RequestInput, receipt: Receipt) -> RequestResult:
    """Answer with what was stored for this request before. Fails with `CONFLICT` if that was another payload."""
    if receipt.fingerprint != request.fingerprint:
        raise conflict(request.key)
    return RequestResult(record=json.loads(receipt.result), repeat=True)
