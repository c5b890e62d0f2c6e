"""The activities of a queue item that is a dead letter: try it again, or give it up.

Guarantee: an item is stored or given up, never both, and its receipt says which in the transaction that does it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from temporalio import activity

from activities.failures import conflict, translated
from activities.process import run_process
from activities.requests import find_pipeline
from activities.validate import check_values, parse_json, validate_payload
from contracts.dead_letters import DeadLetterInput, GivenUp, GiveUpDeadLetter, TryDeadLetter
from contracts.errors import RecordRefusedError, TerminalError
from contracts.ports import NO_RECORD, NO_ROW, Item
from contracts.record import FieldError
from contracts.requests import RequestResult
from contracts.units import Unit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import JsonValue

    from contracts.pipeline import Pipeline
    from contracts.ports import FailureLedger, ObjectStore, Sink
    from contracts.table import Row


class GivenUpError(TerminalError):
    """The item was given up before: its receipt says so, and nothing was written."""

    code = "discarded"


class DeadLetterActivities:
    """Activities of dead letters, over the pipelines and stores that they were built with."""

    def __init__(
        self, pipelines: Mapping[str, Pipeline], sink: Sink, failures: FailureLedger, objects: ObjectStore
    ) -> None:
        self.pipelines = pipelines
        self.sink = sink
        self.failures = failures
        self.objects = objects

    @activity.defn
    async def store_letter(self, asked: TryDeadLetter) -> RequestResult:
        """Commit the item, as it is or corrected, and turn its receipt from `dead` to `stored`.

        Fails with `REJECTED`, `CONFLICT`, or the class name of another terminal error.
        """
        letter = asked.letter
        with translated():
            try:
                pipeline = find_pipeline(self.pipelines, letter.pipeline)
                await self.sink.prepare(pipeline.table)
                payload = await self.payload_of(letter) if asked.record is None else asked.record
                check_values(payload)
                row = await run_process(pipeline, validate_payload(pipeline, payload))
            except TerminalError:
                # If an earlier try committed, what is stored counts, whatever became of code, table and bytes since.
                receipt = await self.sink.find_receipt(letter.work)
                if receipt is None or receipt.state != "stored":
                    raise
                kept = None if receipt.result in {NO_ROW, NO_RECORD} else json.loads(receipt.result)
                return RequestResult(record=kept, repeat=True)
            return await self.write(letter, pipeline, None if row is None else pipeline.table.row_of(row))

    async def payload_of(self, letter: DeadLetterInput) -> dict[str, JsonValue]:
        """Read the item's body. Raises `RecordRefusedError`, `ObjectMissingError`."""
        if letter.body_key is not None:
            return parse_json(await self.objects.get(letter.body_key))
        return parse_json(letter.body or b"")

    async def write(self, letter: DeadLetterInput, pipeline: Pipeline, row: Row | None) -> RequestResult:
        """Commit the row, or that there is none. Raises what the outcome says."""
        item = Item(unit=letter.work, fingerprint=letter.fingerprint, row=row, revive=True)
        [outcome] = await self.sink.write(pipeline.table, [item])
        if outcome.status == "refused":
            raise RecordRefusedError((FieldError(field=outcome.column, code=outcome.code, message=outcome.message),))
        if outcome.status == "conflict":
            raise conflict(letter.item)
        if outcome.status == "dead":
            message = f"item {letter.item} was discarded before"
            raise GivenUpError(message)
        return RequestResult(
            record=None if outcome.record is None else json.loads(outcome.record), repeat=outcome.status == "repeat"
        )

    @activity.defn
    async def give_up_letter(self, asked: GiveUpDeadLetter) -> GivenUp:
        """Turn the item's receipt from `dead` to `discarded`; returns the state that stands."""
        with translated():
            return GivenUp(state=await self.failures.discard(Unit.alone(asked.pipeline, asked.unit), asked.reason))
