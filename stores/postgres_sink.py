"""The PostgreSQL sink: rows and the receipt of their unit, committed in one transaction.

Guarantee: a unit's effects happen once. A repeat finds the receipt; an attempt that wakes up after another one
committed hits the receipt's key and rolls back; one that never wakes up is ended by the attempt after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from typing import TYPE_CHECKING, Any, Self

import asyncpg

from contracts.ports import Receipt, Settled
from stores.postgres_blocks import add_all, passed
from stores.postgres_errors import address_of, is_stale, translated
from stores.postgres_load import Loading
from stores.postgres_tables import RECEIPTS, ensure_table
from stores.postgres_window import write_window
from stores.postgres_write import write_many, write_one

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence

    from asyncpg.pool import PoolConnectionProxy

    from contracts.ports import Item, ItemOutcome, LoadOutcome
    from contracts.table import Row, Table
    from contracts.units import Unit

POOL_SIZE = 8
CONNECT_SECONDS = 10.0
# Longer than connecting takes: loads hold their connection until they commit.
ACQUIRE_SECONDS = 120.0
COMMAND_SECONDS = 60.0
CLAIM_POLL_SECONDS = 0.1
SESSION = {
    "application_name": "pipelines",
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "standard_conforming_strings": "on",
    # Whoever meets another attempt's row looks for its receipt next, and has to see it.
    "default_transaction_isolation": "read committed",
    # A stopped process keeps its locks; these bound how long its retry can be kept waiting.
    "idle_in_transaction_session_timeout": "120s",
    "lock_timeout": "30s",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "client_connection_check_interval": "5s",
}

FIND_RECEIPT = f"SELECT pipeline, unit, state, fingerprint, result FROM {RECEIPTS} WHERE receipt = $1"  # noqa: S608  - a constant
# The receipt, and of its series the one before it and the one behind it. Units that were committed one after another
# share no bytes, so whatever shares some with a unit is one of these. This is no fence between loads of one file in
# different chunks at the same moment: a ticket's workflow id sees to it that there is one load.
FIND_AROUND = f"""
(SELECT receipt, pipeline, unit, result FROM {RECEIPTS} WHERE receipt <= $1 AND receipt >= $2
 ORDER BY receipt DESC LIMIT 2)
UNION ALL
(SELECT receipt, pipeline, unit, result FROM {RECEIPTS} WHERE receipt > $1 AND receipt <= $3
 ORDER BY receipt LIMIT 1)"""  # noqa: S608  - a constant
INSERT_RECEIPT = f"""
INSERT INTO {RECEIPTS} (receipt, pipeline, unit, fingerprint, result) VALUES ($1, $2, $3, '', $4)
ON CONFLICT DO NOTHING RETURNING receipt"""  # noqa: S608  - a constant
END_HOLDER = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_catalog.pg_locks
WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND pid <> pg_backend_pid()
  AND (classid::bigint << 32) | objid::bigint = $1
  AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())"""


class RepeatedError(Exception):
    """The unit's receipt appeared while this attempt was at work; everything it did is rolled back."""


class PostgresSink:
    """The `Sink` port over PostgreSQL. Build it with `open`."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], address: str, *, receipts: bool, patience: float) -> None:
        """Use `open` instead."""
        self.pool = pool
        self.address = address
        self.receipts = receipts
        self.patience = patience
        self.verified: set[Table] = set()

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, dsn: str, *, receipts: bool = True, patience: float = 10.0) -> AsyncIterator[Self]:
        """Open a sink; connections are made when they are needed, so PostgreSQL may be down meanwhile.

        `receipts=False` exists for the negative controls of crash tests only: effects then happen once per attempt.
        `patience` is how many seconds a load waits for another live attempt at its unit before it ends that one.
        """
        address = address_of(dsn)
        with translated(address):
            pool = await asyncpg.create_pool(
                dsn,
                min_size=0,
                max_size=POOL_SIZE,
                timeout=CONNECT_SECONDS,
                command_timeout=COMMAND_SECONDS,
                server_settings=SESSION,
                # Nothing here leaves state in a session, and a reset costs a round trip on every request.
                reset=leave_as_it_is,
            )
        try:
            yield cls(pool, address, receipts=receipts, patience=patience)
        finally:
            try:
                await asyncio.wait_for(pool.close(), CONNECT_SECONDS)
            except (TimeoutError, OSError, asyncpg.InterfaceError, asyncpg.PostgresError):
                pool.terminate()

    @contextlib.asynccontextmanager
    async def connection(self, table: Table | None = None) -> AsyncIterator[PoolConnectionProxy[asyncpg.Record]]:
        """Borrow a connection; errors leave here in the project's words."""
        with translated(self.address):
            try:
                async with self.pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
                    yield connection
            except asyncpg.PostgresError as error:
                if is_stale(error) and table is not None:
                    # Dropped or altered since it was verified: the next attempt verifies it anew.
                    self.verified.discard(table)
                raise

    async def prepare(self, table: Table) -> None:
        """Create the table if it is absent. Raises `TableMismatchError` with every difference if it differs."""
        if table not in self.verified:
            async with self.connection() as connection:
                await ensure_table(connection, table, receipts=self.receipts)
            self.verified.add(table)

    async def find_receipt(self, unit: Unit) -> Receipt | None:
        """Look a receipt up, or return None. Raises `ReceiptMismatchError`."""
        async with self.connection() as connection:
            try:
                found = await connection.fetchrow(FIND_RECEIPT, unit.receipt)
            except asyncpg.UndefinedTableError:
                return None
        if found is None:
            return None
        unit.check_receipt(found["pipeline"], found["unit"])
        return Receipt(
            unit=found["unit"], result=found["result"], fingerprint=found["fingerprint"], state=found["state"]
        )

    async def write(self, table: Table, items: Sequence[Item], *, records: bool = True) -> list[ItemOutcome]:
        """Write rows that have a unit each in one transaction; one outcome per item, in order."""
        if not items:
            return []
        async with self.connection(table) as connection:
            if not records and self.receipts:
                outcomes = await write_window(connection, table, items)
                if outcomes is not None:
                    return outcomes
            elif len(items) == 1 and self.receipts and not items[0].revive:
                outcome = await write_one(connection, table, items[0])
                if outcome is not None:
                    return [outcome]
            return await write_many(connection, table, items, receipts=self.receipts, records=records)

    async def load(
        self,
        table: Table,
        unit: Unit,
        blocks: AsyncIterable[Sequence[Row]],
        settle: Callable[[LoadOutcome], Awaitable[str]],
    ) -> Settled:
        """Write many rows under one unit in one transaction, in bounded memory."""
        async with self.connection(table) as connection:
            known = await self.find_result(connection, unit)
            if known is not None:
                return Settled(result=known, repeat=True)
            try:
                async with connection.transaction():
                    if self.receipts:
                        await self.claim(connection, unit)
                    # What a deferred constraint thinks of a row has to be known while the row can still be told.
                    await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
                    loading = Loading(connection, table, unit)
                    await add_all(loading, blocks)
                    result = await passed(settle(loading.outcome()))
                    if self.receipts:
                        await self.insert_receipt(connection, unit, result)
            except RepeatedError:
                known = await self.find_result(connection, unit)
                if known is None:
                    raise
                return Settled(result=known, repeat=True)
            return Settled(result=result, repeat=False)

    async def find_result(self, connection: PoolConnectionProxy[asyncpg.Record], unit: Unit) -> str | None:
        """Read the result in a unit's receipt, if it has one.

        Raises `ReceiptMismatchError`, also if some of the unit's bytes were committed under another one.
        """
        if not self.receipts:
            return None
        found = await connection.fetch(FIND_AROUND, unit.receipt, unit.first, unit.last)
        own = next((row for row in found if row["receipt"] == unit.receipt), None)
        if own is None or own["unit"] != unit.name:
            for row in found:
                unit.check_neighbour(row["unit"])
        if own is None:
            return None
        unit.check_receipt(own["pipeline"], own["unit"])
        result: str = own["result"]
        return result

    async def insert_receipt(self, connection: PoolConnectionProxy[asyncpg.Record], unit: Unit, result: str) -> None:
        """Insert the receipt, last of all. Raises `RepeatedError` if another attempt was faster."""
        made = await connection.fetchval(INSERT_RECEIPT, unit.receipt, unit.pipeline, unit.name, result)
        if made is None:
            raise RepeatedError

    async def claim(self, connection: PoolConnectionProxy[asyncpg.Record], unit: Unit) -> None:
        """Be the only attempt at work on a unit. Raises `RepeatedError` if its receipt appeared meanwhile.

        The receipt's key alone fences a zombie. This lock finds it: a worker stopped in the middle of a COPY waits
        for ever in a state that no timeout of PostgreSQL ends, and its rows would block those of its retry.
        """
        digest = hashlib.sha256(unit.receipt.bytes).digest()
        key = int.from_bytes(digest[:8], signed=True)
        waited = 0.0
        while not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", key):
            if waited >= self.patience:
                await connection.execute(END_HOLDER, key)
                waited = 0.0
            await asyncio.sleep(CLAIM_POLL_SECONDS)
            waited += CLAIM_POLL_SECONDS
        if await self.find_result(connection, unit) is not None:
            raise RepeatedError


async def leave_as_it_is(_: Any) -> None:
    """Reset nothing when a connection goes back to the pool."""
