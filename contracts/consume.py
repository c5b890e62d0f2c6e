"""Inputs and results of the queue worker (`consume`): counts and reasons, never items.

Guarantee: everything here is small and of a fixed size, so a worker that runs for years has a short history.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from contracts.record import Frozen

ConsumeStatus = Literal["running", "paused", "stopping", "completed", "cancelled"]


class ConsumeCounts(Frozen):
    """What became of deliveries, each of which is `read` once.

    `written` rows and `dropped` records were committed by this delivery, `duplicates` by an earlier one. `rejected`
    ones are dead letters, `discarded` ones were given up by policy, and `retried` ones failed and come again.
    What was given back without a fault (an outage, a stop) is not among them.
    """

    read: int = 0
    written: int = 0
    dropped: int = 0
    duplicates: int = 0
    rejected: int = 0
    discarded: int = 0
    retried: int = 0

    def __add__(self, other: ConsumeCounts) -> ConsumeCounts:
        """Add two sets of counts."""
        return ConsumeCounts(
            read=self.read + other.read,
            written=self.written + other.written,
            dropped=self.dropped + other.dropped,
            duplicates=self.duplicates + other.duplicates,
            rejected=self.rejected + other.rejected,
            discarded=self.discarded + other.discarded,
            retried=self.retried + other.retried,
        )


class ConsumeOptions(Frozen):
    """What an operator may change while it runs: consumers in parallel, and the most items of one window."""

    workers: Annotated[int, Field(ge=1, le=64)] = 2
    batch: Annotated[int, Field(ge=1, le=1000)] = 500

    def changed(self, change: ConsumeChange) -> ConsumeOptions:
        """Apply a change."""
        return ConsumeOptions(workers=change.workers or self.workers, batch=change.batch or self.batch)


class ConsumeChange(Frozen):
    """What an operator changes; None leaves it as it is."""

    workers: Annotated[int | None, Field(ge=1, le=64)] = None
    batch: Annotated[int | None, Field(ge=1, le=1000)] = None


class ConsumeTurn(Frozen):
    """One consumer for about `seconds`, or one small window if it is a `probe`. A `drain` ends when nothing is left."""

    pipeline: str
    batch: int
    seconds: float
    drain: bool = False
    probe: bool = False


class TurnResult(Frozen):
    """What one turn did. A `reason` says why consumption has to pause; `empty` that the queue was drained."""

    counts: ConsumeCounts = ConsumeCounts()
    reason: str = ""
    error_type: str = ""
    empty: bool = False


class ConsumeSummary(Frozen):
    """How consumption stands. `reason` and `error_type` say why it is paused, `pause` how long it waits next."""

    status: ConsumeStatus = "running"
    options: ConsumeOptions = ConsumeOptions()
    drain: bool = False
    counts: ConsumeCounts = ConsumeCounts()
    reason: str = ""
    error_type: str = ""
    pause: float = 0.0


class ConsumeRun(Frozen):
    """The workflow's input. Only tests change how long turns and pauses are, and when a history ends."""

    pipeline: str
    options: ConsumeOptions = ConsumeOptions()
    drain: bool = False
    turn_seconds: float = 50.0
    longest_pause: float = 60.0
    turns_per_run: int = 2000
    carried: ConsumeSummary | None = None
