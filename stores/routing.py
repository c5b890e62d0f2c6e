"""One sink, and one failure ledger, in front of two databases: the application's, and that of the request logs.

Guarantee: rows and the receipt that proves them are in the same database, so each database keeps the promise of
exactly once by itself; while one of them is down, what is for the other goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Awaitable, Callable, Collection, Mapping, Sequence

    from contracts.pipeline import Pipeline
    from contracts.ports import (
        Burial,
        Failure,
        FailureCount,
        FailureLedger,
        Item,
        ItemOutcome,
        LoadOutcome,
        Receipt,
        ReceiptState,
        Settled,
        Sink,
    )
    from contracts.table import Row, Table
    from contracts.units import Unit


def logged_elsewhere(pipelines: Mapping[str, Pipeline]) -> frozenset[str]:
    """Name the pipelines whose rows are in the request logs' database."""
    return frozenset(name for name, pipeline in pipelines.items() if pipeline.table.database == "request_log")


class RoutingSink:
    """The `Sink` port over two sinks. `logs` names the pipelines whose rows are in the request logs' database.

    Rows go where their table says. A unit alone says only whose it is: hence `logs`.
    """

    def __init__(self, application: Sink, request_log: Sink, logs: Collection[str]) -> None:
        self.application = application
        self.request_log = request_log
        self.logs = logs

    def of_table(self, table: Table) -> Sink:
        """Pick the database of a table."""
        return self.request_log if table.database == "request_log" else self.application

    def of_unit(self, unit: Unit) -> Sink:
        """Pick the database of a unit's receipt."""
        return self.request_log if unit.pipeline in self.logs else self.application

    async def prepare(self, table: Table) -> None:
        """Create the table in its database if it is absent. Raises `TableMismatchError`."""
        await self.of_table(table).prepare(table)

    async def write(self, table: Table, items: Sequence[Item], *, records: bool = True) -> list[ItemOutcome]:
        """Write rows that have a unit each in one transaction of the table's database."""
        return await self.of_table(table).write(table, items, records=records)

    async def load(
        self,
        table: Table,
        unit: Unit,
        blocks: AsyncIterable[Sequence[Row]],
        settle: Callable[[LoadOutcome], Awaitable[str]],
    ) -> Settled:
        """Write many rows under one unit in one transaction of the table's database."""
        return await self.of_table(table).load(table, unit, blocks, settle)

    async def find_receipt(self, unit: Unit) -> Receipt | None:
        """Look a receipt up where the rows of its pipeline are, or return None."""
        return await self.of_unit(unit).find_receipt(unit)


class RoutingFailureLedger:
    """The `FailureLedger` port over the ledgers of two databases: each unit's failures are beside its receipt."""

    def __init__(self, application: FailureLedger, request_log: FailureLedger, logs: Collection[str]) -> None:
        self.application = application
        self.request_log = request_log
        self.logs = logs

    async def count_failures(self, failures: Sequence[Failure]) -> list[FailureCount]:
        """Add one failure to each unit's count, durably; one count per failure, in order."""
        here, there = self.split([failure.unit for failure in failures])
        counts: dict[int, FailureCount] = {}
        for ledger, indexes in ((self.application, here), (self.request_log, there)):
            if not indexes:
                continue
            found = await ledger.count_failures([failures[index] for index in indexes])
            counts |= dict(zip(indexes, found, strict=True))
        return [counts[index] for index in range(len(failures))]

    async def forget_failures(self, units: Sequence[Unit]) -> None:
        """Drop the counts of units that are stored, dead or discarded."""
        here, there = self.split(units)
        for ledger, indexes in ((self.application, here), (self.request_log, there)):
            if indexes:
                await ledger.forget_failures([units[index] for index in indexes])

    async def bury(self, burials: Sequence[Burial]) -> list[ReceiptState]:
        """Insert receipts in the state `dead` where there are none; returns the state that stands, in order."""
        here, there = self.split([burial.unit for burial in burials])
        states: dict[int, ReceiptState] = {}
        for ledger, indexes in ((self.application, here), (self.request_log, there)):
            if not indexes:
                continue
            found = await ledger.bury([burials[index] for index in indexes])
            states |= dict(zip(indexes, found, strict=True))
        return [states[index] for index in range(len(burials))]

    async def discard(self, unit: Unit, reason: str) -> ReceiptState:
        """Turn a `dead` receipt into a `discarded` one; returns the state that stands then."""
        ledger = self.request_log if unit.pipeline in self.logs else self.application
        return await ledger.discard(unit, reason)

    def split(self, units: Sequence[Unit]) -> tuple[list[int], list[int]]:
        """Divide the indexes of units by database. One that none is for is not asked: it may be down."""
        there = [index for index, unit in enumerate(units) if unit.pipeline in self.logs]
        here = [index for index, unit in enumerate(units) if unit.pipeline not in self.logs]
        return here, there
