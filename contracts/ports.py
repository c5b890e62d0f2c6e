"""The ports: what activities may ask of the stateful services, in the words of the design.

Guarantee: every implementation of a port passes the same contract suite (`tests/stores`), the in-memory doubles
included, so that a workflow tested over memory meets no other behaviour in production.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
    from datetime import datetime

    from contracts.dead_letters import DeadLetterFilter, DeadLetterInput, DeadLetterPage, RetryOutcome
    from contracts.table import Row, Table
    from contracts.units import Unit


NO_ROW = "null"
"""The `result` of a receipt whose item had no row: the JSON document that no row prints as."""

NO_RECORD = "{}"
"""The `result` of a receipt whose item was written by a caller that needs no record; no row prints as that."""


@dataclasses.dataclass(frozen=True)
class Item:
    """One row with a unit of its own. `fingerprint` identifies the payload the row was made from.

    Without a row, because `process` dropped the record, an item leaves its receipt only. `revive` is the retry of a
    dead letter: where the unit's receipt says `dead`, it becomes `stored` in the transaction of the row. The receipt
    keeps the fingerprint of the original payload, and a corrected one is no conflict.
    """

    unit: Unit
    fingerprint: str
    row: Row | None
    revive: bool = False


@dataclasses.dataclass(frozen=True)
class ItemOutcome:
    """What became of one `Item`.

    `stored`: committed now. `repeat`: its receipt was there, nothing was written. `conflict`: a receipt for the
    same unit and another fingerprint, nothing was written. `dead`: its receipt says `dead` or `discarded`, nothing was
    written. `refused`: the sink cannot hold the row (a constraint,
    or a key that is taken under `on_conflict="reject"`); no receipt, its neighbours are unaffected.
    `record` is the stored row as a JSON object, for `stored` and `repeat`: under `on_conflict="ignore"` the row
    that was there before, and None if the item was committed without a row. `code` and `message` explain
    `refused`; `column` names the column where it is known.
    """

    status: Literal["stored", "repeat", "conflict", "dead", "refused"]
    record: str | None = None
    code: str = ""
    message: str = ""
    column: str = ""


@dataclasses.dataclass(frozen=True)
class Refusal:
    """A row of a load that the sink refused; `index` counts the load's rows from 0 in the order given."""

    index: int
    code: str
    message: str
    column: str = ""


@dataclasses.dataclass(frozen=True)
class LoadOutcome:
    """What became of a load's rows; every row is in exactly one of the three.

    `written` rows are in the table because of this unit. `duplicates` are not, because a row with the same key
    stands in their place under `update` (a later one of the same series) or `ignore` (an earlier one).
    `refused` rows were turned away by the sink.
    """

    written: int
    duplicates: int
    refused: tuple[Refusal, ...] = ()


ReceiptState = Literal["stored", "dead", "discarded"]
"""What became of a unit. Whoever comes second to a receipt, in whatever state, only acknowledges."""


@dataclasses.dataclass(frozen=True)
class Receipt:
    """The proof that a unit was committed, with the result that was stored in the same transaction.

    `result` is the row of an item as a JSON object, or `NO_ROW`; of a load it is what `settle` returned; of a unit
    that is `dead` or `discarded` it is the reason, as a JSON document.
    """

    unit: str
    result: str
    fingerprint: str
    state: ReceiptState = "stored"


@dataclasses.dataclass(frozen=True)
class Settled:
    """The result of a load: the document that `settle` returned, now or on the first time (`repeat`)."""

    result: str
    repeat: bool


class Sink(Protocol):
    """Where rows become durable. All methods raise `UnavailableError` while the service does not answer.

    Exactly once: rows and receipt commit in one transaction. Whoever repeats a unit finds its receipt and
    writes nothing; an attempt that wakes up after another one committed is refused by the receipt's key.
    """

    async def prepare(self, table: Table) -> None:
        """Create the table if it is absent. Raises `TableMismatchError` with every difference if it differs."""
        ...

    async def write(self, table: Table, items: Sequence[Item], *, records: bool = True) -> list[ItemOutcome]:
        """Write rows that have a unit each in one transaction; one outcome per item, in order.

        A caller that needs no `record`, neither now nor when it repeats a unit, says so: `records=False` is several
        times as fast. The receipts keep `NO_RECORD` then.

        All accepted items and their receipts commit together. A unit that has a receipt is a `repeat` or a
        `conflict`, never `refused`, whoever committed it and however late. Raises `ReceiptMismatchError`.
        """
        ...

    async def load(
        self,
        table: Table,
        unit: Unit,
        blocks: AsyncIterable[Sequence[Row]],
        settle: Callable[[LoadOutcome], Awaitable[str]],
    ) -> Settled:
        """Write many rows under one unit in one transaction, in bounded memory.

        `settle` is called once, after the last row and before the commit, and what it returns is stored in the
        receipt; if it raises, nothing is committed. If the unit has a receipt, neither `blocks` nor `settle` is
        touched. A block may be `contracts.blocks.TextRows`, whose text a sink may take in place of its values.
        Within one series the outcome is as if its units had been loaded in the order of their
        positions, whichever comes first (`update`: the last row of a key stays; `ignore`: the first one);
        for `reject` the caller has to load them in order.

        Raises `ReceiptMismatchError`, before `blocks` is touched, also if a unit of the same series that was committed
        before shares bytes with this one: the file was cut into other chunks then, and rows would come twice.
        """
        ...

    async def find_receipt(self, unit: Unit) -> Receipt | None:
        """Look a receipt up, or return None."""
        ...


@dataclasses.dataclass(frozen=True)
class Failure:
    """One recorded failure of a unit: not a delivery that was cut short, nor an outage of the sink."""

    unit: Unit
    error_type: str
    message: str


@dataclasses.dataclass(frozen=True)
class FailureCount:
    """How often a unit has failed, this time included, and when it did for the first and the last time (UTC)."""

    attempts: int
    first: datetime
    last: datetime


@dataclasses.dataclass(frozen=True)
class Burial:
    """A unit that is to become a dead letter, or to be given up at once: `state` is what its receipt will say.

    `reason` is a small JSON document that the receipt keeps.
    """

    unit: Unit
    fingerprint: str
    reason: str
    state: Literal["dead", "discarded"] = "dead"


class FailureLedger(Protocol):
    """What the application database knows of units that failed. Raises `UnavailableError` while it does not answer.

    It stands beside the receipts, and obeys the same rule: storing an item and burying it both insert its receipt
    first, so only one of them happens.
    """

    async def count_failures(self, failures: Sequence[Failure]) -> list[FailureCount]:
        """Add one failure to each unit's count, durably; one count per failure, in order."""
        ...

    async def forget_failures(self, units: Sequence[Unit]) -> None:
        """Drop the counts of units that are stored, dead or discarded."""
        ...

    async def bury(self, burials: Sequence[Burial]) -> list[ReceiptState]:
        """Insert receipts in the state `dead` where there are none; returns the state that stands, in order.

        `stored` means that someone stored the item meanwhile: it is no dead letter. Raises `ReceiptMismatchError`.
        """
        ...

    async def discard(self, unit: Unit, reason: str) -> ReceiptState:
        """Turn a `dead` receipt into a `discarded` one; returns the state that stands then.

        Where there is no receipt at all, one that says `discarded` is left, so that nothing can store the unit later.
        """
        ...


class Parking(Protocol):
    """Where dead letters wait for an operator: open workflows.

    Raises `UnavailableError` while Temporal does not answer.
    """

    async def park(self, letter: DeadLetterInput) -> None:
        """Park a dead letter under its own id; nothing happens if it is parked already."""
        ...

    async def find(self, letters: DeadLetterFilter, page_size: int, token: str = "") -> DeadLetterPage:
        """List the tickets of parked dead letters, a page at a time, as far as visibility has heard of them."""
        ...

    async def retry(self, ticket: str, name: str = "") -> RetryOutcome:
        """Ask one dead letter to be tried again, and wait for what came of it.

        Whoever asks again under the same `name` gets the outcome of that try. If it is parked no more, because someone
        else settled it, it counts as `stored`.
        """
        ...


@dataclasses.dataclass(frozen=True)
class StoredObject:
    """An object that is wholly stored. `sha256` is of its bytes, in hexadecimal; `size` is in bytes."""

    key: str
    size: int
    etag: str
    sha256: str


class ObjectStore(Protocol):
    """Where raw files and rejects are kept. All methods raise `UnavailableError` while it does not answer."""

    async def put(self, key: str, data: bytes) -> StoredObject:
        """Store a small object in one request, replacing what was there. Its checksum is verified."""
        ...

    async def put_stream(self, key: str, chunks: AsyncIterable[bytes], sha256: str | None = None) -> StoredObject:
        """Store a stream of any length in bounded memory; every part's checksum is verified by the store.

        The object appears whole or not at all: if the stream raises, or its bytes do not have the expected
        `sha256`, parts already sent are removed and nothing is stored. Raises `ObjectChangedError` for the latter.
        """
        ...

    async def get(self, key: str) -> bytes:
        """Read a whole small object. Raises `ObjectMissingError`."""
        ...

    def read(self, key: str, *, etag: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Stream the bytes [start, end) of an object, in pieces of at most 1 MiB.

        Every byte asked for arrives or an error is raised: `ObjectMissingError`, `ObjectChangedError` if the
        object's ETag is another, `UnavailableError` if the connection is cut and cannot be resumed.
        """
        ...

    async def find(self, key: str) -> StoredObject | None:
        """Describe an object, or return None."""
        ...

    def list(self, prefix: str) -> AsyncIterator[str]:
        """List the keys under a prefix, in lexical order."""
        ...

    async def delete(self, key: str) -> None:
        """Remove an object; nothing happens if there is none."""
        ...
