"""The failure ledger in memory, beside the receipts of a `MemorySink`.

Guarantee: outcome for outcome what `PostgresFailureLedger` does, as `tests/stores/test_failures.py` proves on both.
"""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from contracts.ports import FailureCount, Receipt

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from contracts.ports import Burial, Failure, ReceiptState
    from contracts.units import Unit
    from stores.memory_sink import MemorySink


class MemoryFailureLedger:
    """The `FailureLedger` port in memory; it is down whenever its sink is."""

    def __init__(self, sink: MemorySink) -> None:
        self.sink = sink
        self.counts: dict[UUID, FailureCount] = {}

    async def count_failures(self, failures: Sequence[Failure]) -> list[FailureCount]:
        """Add one failure to each unit's count; one count per failure, in order."""
        self.sink.answer()
        counts = []
        for failure in failures:
            now = datetime.now(UTC)
            known = self.counts.get(failure.unit.receipt) or FailureCount(attempts=0, first=now, last=now)
            count = dataclasses.replace(known, attempts=known.attempts + 1, last=now)
            self.counts[failure.unit.receipt] = count
            counts.append(count)
        return counts

    async def forget_failures(self, units: Sequence[Unit]) -> None:
        """Drop the counts of units that are stored, dead or discarded."""
        self.sink.answer()
        for unit in units:
            self.counts.pop(unit.receipt, None)

    async def bury(self, burials: Sequence[Burial]) -> list[ReceiptState]:
        """Insert receipts in the state `dead` where there are none; returns the state that stands, in order."""
        self.sink.answer()
        async with self.sink.lock:
            states: list[ReceiptState] = []
            for burial in burials:
                known = self.sink.proof(burial.unit)
                if known is None:
                    known = Receipt(burial.unit.name, burial.reason, burial.fingerprint, burial.state)
                    self.sink.proofs[burial.unit.receipt] = (burial.unit.pipeline, known)
                states.append(known.state)
        return states

    async def discard(self, unit: Unit, reason: str) -> ReceiptState:
        """Turn a `dead` receipt into a `discarded` one; returns the state that stands then."""
        self.sink.answer()
        async with self.sink.lock:
            known = self.sink.proof(unit)
            if known is None or known.state == "dead":
                fingerprint = "" if known is None else known.fingerprint
                known = Receipt(unit.name, reason, fingerprint, "discarded")
                self.sink.proofs[unit.receipt] = (unit.pipeline, known)
        return known.state
