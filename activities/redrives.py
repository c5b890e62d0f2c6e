"""The activities of a redrive: list dead letters, count them, and ask some of them to try again.

Guarantee: within one redrive a dead letter is tried once, however often a step is begun anew.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from temporalio import activity

from activities.failures import translated
from activities.pulse import pulse
from contracts.dead_letters import DeadLetterFilter, DeadLetterPage, FindDeadLetters, RetryCounts, RetryDeadLetters

if TYPE_CHECKING:
    from contracts.ports import Parking

COUNTED_AT_ONCE = 1000


class RedriveActivities:
    """Activities of redrives, over the place where dead letters are parked."""

    def __init__(self, parking: Parking) -> None:
        self.parking = parking

    @activity.defn
    async def count_letters(self, letters: DeadLetterFilter) -> int:
        """Count the dead letters that are parked now, as far as visibility has heard of them."""
        with translated():
            return await count_parked(self.parking, letters)

    @activity.defn
    async def find_letters(self, asked: FindDeadLetters) -> DeadLetterPage:
        """List one page of dead letters."""
        with translated():
            return await self.parking.find(asked.letters, asked.page_size, asked.token)

    @activity.defn
    async def retry_letters(self, asked: RetryDeadLetters) -> RetryCounts:
        """Ask dead letters to try again, all at once, and wait for every outcome."""
        with translated():
            async with pulse():
                tries = [self.parking.retry(ticket, asked.name) for ticket in asked.tickets]
                outcomes = await asyncio.gather(*tries, return_exceptions=True)
            stored = 0
            for outcome in outcomes:
                if isinstance(outcome, BaseException):
                    # The step is begun anew, and finds the tries that were made.
                    raise outcome
                stored += outcome.status == "stored"
        return RetryCounts(stored=stored, failed=len(outcomes) - stored)


async def count_parked(parking: Parking, letters: DeadLetterFilter) -> int:
    """Count dead letters page by page: `since` is not searchable, so no query can count them."""
    count, token = 0, ""
    while True:
        page = await parking.find(letters, COUNTED_AT_ONCE, token)
        count += len(page.tickets)
        token = page.token
        if not token:
            return count
