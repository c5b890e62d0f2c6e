"""The ports: what activities may ask of the stateful services, in the words of the design.

Guarantee: every implementation of a port passes the same contract suite (`tests/stores`), the in-memory doubles
included, so that a workflow tested over memory meets no other behaviour in production.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence

    from contracts.table import Row, Table
    from contracts.units import Unit


NO_ROW = "null"
"""The `result` of a receipt whose item had no row: the JSON document that no row prints as."""


@dataclasses.dataclass(frozen=True)
class Item:
    """One row with a unit of its own. `fingerprint` identifies the payload the row was made from.

    Without a row, because `process` dropped the record, an item leaves its receipt only.
    """

    unit: Unit
    fingerprint: str
    row: Row | None


@dataclasses.dataclass(frozen=True)
class ItemOutcome:
    """What became of one `Item`.

    `stored`: committed now. `repeat`: its receipt was there, nothing was written. `conflict`: a receipt for the
    same unit and another fingerprint, nothing was written. `refused`: the sink cannot hold the row (a constraint,
    or a key that is taken under `on_conflict="reject"`); no receipt, its neighbours are unaffected.
    `record` is the stored row as a JSON object, for `stored` and `repeat`: under `on_conflict="ignore"` the row
    that was there before, and None if the item was committed without a row. `code` and `message` explain
    `refused`; `column` names the column where it is known.
    """

    status: Literal["stored", "repeat", "conflict", "refused"]
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


@dataclasses.dataclass(frozen=True)
class Receipt:
    """The proof that a unit was committed, with the result that was stored in the same transaction.

    `result` is the row of an item as a JSON object, or `NO_ROW`; of a load it is what `settle` returned.
    """

    unit: str
    result: str
    fingerprint: str


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

    async def write(self, table: Table, items: Sequence[Item]) -> list[ItemOutcome]:
        """Write rows that have a unit each in one transaction; one outcome per item, in order.

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
