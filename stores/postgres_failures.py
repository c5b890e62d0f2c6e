"""The failure ledger in PostgreSQL: counts of failures, and receipts of units that are not going to be stored.

Guarantee: storing a unit and burying it exclude each other by the key of the receipt, whoever comes first and
whatever dies meanwhile; counts survive every crash, and one failure is never counted for another unit.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import TYPE_CHECKING

import asyncpg

from contracts.ports import FailureCount
from stores.postgres_tables import FAILURES, RECEIPTS, ensure_ledger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from asyncpg.pool import PoolConnectionProxy

    from contracts.ports import Burial, Failure, ReceiptState
    from contracts.units import Unit
    from stores.postgres_sink import PostgresSink

LONGEST_MESSAGE = 1000

# In the order of their receipts, here and below, so that two callers with the same units never wait in a circle.
COUNT = f"""
INSERT INTO {FAILURES} AS f (receipt, pipeline, unit, attempts, error_type, message)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::integer[], $5::text[], $6::text[]) AS u(r, p, n, a, t, m)
ORDER BY r
ON CONFLICT (receipt) DO UPDATE SET attempts = f.attempts + excluded.attempts, error_type = excluded.error_type,
    message = excluded.message, last_at = excluded.last_at
RETURNING receipt, pipeline, unit, attempts, first_at, last_at"""  # noqa: S608  - constants
FORGET = f"""
DELETE FROM {FAILURES} WHERE receipt IN (
    SELECT receipt FROM {FAILURES} WHERE receipt = ANY($1) ORDER BY receipt FOR UPDATE)"""  # noqa: S608  - constants
BURY = f"""
INSERT INTO {RECEIPTS} (receipt, pipeline, unit, fingerprint, result, state)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[]) AS u(r, p, n, f, d, s)
ORDER BY r ON CONFLICT DO NOTHING"""  # noqa: S608  - a constant
# A statement of its own: what a concurrent transaction committed while BURY waited for it, only a new snapshot sees.
STATES = f"SELECT receipt, pipeline, unit, state FROM {RECEIPTS} WHERE receipt = ANY($1)"  # noqa: S608  - a constant
DISCARD = f"""
INSERT INTO {RECEIPTS} AS r (receipt, pipeline, unit, fingerprint, result, state)
VALUES ($1, $2, $3, '', $4, 'discarded')
ON CONFLICT (receipt) DO UPDATE SET state = 'discarded', result = excluded.result, committed_at = now()
WHERE r.state = 'dead' AND r.pipeline = excluded.pipeline AND r.unit = excluded.unit"""  # noqa: S608  - a constant


class PostgresFailureLedger:
    """The `FailureLedger` port, over the connections of the sink."""

    def __init__(self, sink: PostgresSink) -> None:
        self.sink = sink
        self.ready = False

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[PoolConnectionProxy[asyncpg.Record]]:
        """Borrow a connection; the ledger's tables are there then."""
        async with self.sink.connection() as connection:
            if not self.ready:
                await ensure_ledger(connection)
                self.ready = True
            try:
                yield connection
            except asyncpg.UndefinedTableError:
                self.ready = False
                raise

    async def count_failures(self, failures: Sequence[Failure]) -> list[FailureCount]:
        """Add one failure to each unit's count, durably; one count per failure, in order."""
        if not failures:
            return []
        # A statement cannot touch a row twice, so several failures of one unit are added at once.
        added = Counter(failure.unit.receipt for failure in failures)
        last = {failure.unit.receipt: failure for failure in failures}
        async with self.connection() as connection:
            rows = await connection.fetch(
                COUNT,
                list(last),
                [failure.unit.pipeline for failure in last.values()],
                [failure.unit.name for failure in last.values()],
                [added[receipt] for receipt in last],
                [shown(failure.error_type) for failure in last.values()],
                [shown(failure.message) for failure in last.values()],
            )
        found = {row["receipt"]: row for row in rows}
        seen: Counter[object] = Counter()
        counts = []
        for failure in failures:
            receipt = failure.unit.receipt
            row = found[receipt]
            failure.unit.check_receipt(row["pipeline"], row["unit"])
            seen[receipt] += 1
            attempts = row["attempts"] - added[receipt] + seen[receipt]
            counts.append(FailureCount(attempts=attempts, first=row["first_at"], last=row["last_at"]))
        return counts

    async def forget_failures(self, units: Sequence[Unit]) -> None:
        """Drop the counts of units that are stored, dead or discarded."""
        if units:
            async with self.connection() as connection:
                await connection.execute(FORGET, [unit.receipt for unit in units])

    async def bury(self, burials: Sequence[Burial]) -> list[ReceiptState]:
        """Insert receipts in the state `dead` where there are none; returns the state that stands, in order."""
        if not burials:
            return []
        receipts = [burial.unit.receipt for burial in burials]
        async with self.connection() as connection:
            await connection.execute(
                BURY,
                receipts,
                [burial.unit.pipeline for burial in burials],
                [burial.unit.name for burial in burials],
                [burial.fingerprint for burial in burials],
                [burial.reason for burial in burials],
                [burial.state for burial in burials],
            )
            rows = await connection.fetch(STATES, receipts)
        found = {row["receipt"]: row for row in rows}
        return [state_of(burial.unit, found[burial.unit.receipt]) for burial in burials]

    async def discard(self, unit: Unit, reason: str) -> ReceiptState:
        """Turn a `dead` receipt into a `discarded` one; returns the state that stands then."""
        async with self.connection() as connection:
            await connection.execute(DISCARD, unit.receipt, unit.pipeline, unit.name, reason)
            [row] = await connection.fetch(STATES, [unit.receipt])
        return state_of(unit, row)


def state_of(unit: Unit, row: asyncpg.Record) -> ReceiptState:
    """Read a receipt's state. Raises `ReceiptMismatchError`."""
    unit.check_receipt(row["pipeline"], row["unit"])
    state: ReceiptState = row["state"]
    return state


def shown(text: str) -> str:
    """Cut a text to what the table should keep, without what PostgreSQL cannot hold."""
    return text.replace("\0", "").encode(errors="replace").decode()[:LONGEST_MESSAGE]
