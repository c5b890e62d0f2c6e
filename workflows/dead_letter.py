"""A dead letter of a queue: an item whose tries are exhausted, kept until an operator decides.

Guarantee: the item stays here, however long it takes, until it is stored or given up; and its receipt says which. A
cancellation is no decision, so it is not followed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Literal, NoReturn

from temporalio import workflow
from temporalio.exceptions import ActivityError, FailureError, is_cancelled_exception

from workflows.details import shortened
from workflows.options import CLEAR_UP, GIVE_UP
from workflows.parking import Parked
from workflows.storing import store_with

with workflow.unsafe.imports_passed_through():
    from activities.dead_letters import DeadLetterActivities
    from activities.files import FileActivities
    from contracts.dead_letters import Breakdown, DeadLetterInput, DeadLetterState, GiveUpDeadLetter, TryDeadLetter
    from contracts.loads import RemoveObjects

if TYPE_CHECKING:
    from pydantic import JsonValue

    from contracts.ports import ReceiptState
    from contracts.requests import RequestResult


@workflow.defn(name="DeadLetter")
class DeadLetter(Parked):
    """Wait for an operator, and do what was decided. Completes with how it was settled, without the item's body."""

    @workflow.init
    def __init__(self, letter: DeadLetterInput) -> None:
        self.letter = letter
        self.pipeline = letter.pipeline
        self.breakdown = letter.breakdown
        self.parked_at = letter.parked or workflow.now()
        self.tries_per_run = letter.tries_per_run

    @workflow.run
    async def run(self, letter: DeadLetterInput) -> DeadLetterState:  # noqa: ARG002  - `__init__` took it
        """Wait, for months if need be."""
        while self.end is None:
            try:
                await self.settle()
            except (asyncio.CancelledError, FailureError) as error:
                if not is_cancelled_exception(error):
                    raise
        workflow.set_current_details("")
        await self.clear_up()
        return self.dead_letter().model_copy(update={"body": None})

    async def try_again(self, record: dict[str, JsonValue] | None) -> RequestResult:
        """Store the item, or the corrected record in its place."""
        asked = TryDeadLetter(letter=self.letter, record=record)
        what = f"store {self.letter.item} when the sink answers"
        return await store_with(DeadLetterActivities.store_letter, asked, self.pipeline, what)

    async def give_up(self, reason: str) -> ReceiptState:
        """Let the receipt say that the item was given up, and why."""
        given_up = await workflow.execute_activity_method(
            DeadLetterActivities.give_up_letter,
            GiveUpDeadLetter(pipeline=self.pipeline, unit=self.letter.unit, reason=json.dumps({"discarded": reason})),
            summary=shortened(f"give up {self.letter.item}"),
            **GIVE_UP,
        )
        return given_up.state

    async def clear_up(self) -> None:
        """Remove the body's object, which only this dead letter can know of, if it has one."""
        if self.letter.body_key is None:
            return
        # What cannot be removed now costs space until a lifecycle rule of the bucket does it.
        with contextlib.suppress(ActivityError):
            await workflow.execute_activity_method(
                FileActivities.remove_objects,
                RemoveObjects(keys=(self.letter.body_key,)),
                summary="remove the item's body",
                **CLEAR_UP,
            )

    def state(self, breakdown: Breakdown, status: Literal["parked", "stored", "discarded"]) -> DeadLetterState:
        """Describe the item and its failure."""
        letter = self.letter
        state = DeadLetterState(
            status=status,
            pipeline=letter.pipeline,
            queue=letter.queue,
            item=letter.item,
            breakdown=breakdown,
            body_key=letter.body_key,
        )
        # Building it would decode the body once more; see `Base64Bytes`.
        return state.model_copy(update={"body": letter.body})

    def continue_anew(self, breakdown: Breakdown) -> NoReturn:
        """Go on in a new run."""
        workflow.continue_as_new(self.letter.model_copy(update={"breakdown": breakdown, "parked": self.parked_at}))
