"""What becomes of a block of text: records that were read, then rows for the sink; rejects on either way.

Guarantee: every record of a block is in exactly one of rows, rejects and dropped.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Protocol

from contracts.loads import Reject, RejectError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from activities.scan import Block
    from contracts.table import Row


@dataclasses.dataclass
class Rows:
    """What became of a block: rows for the sink with their lines, rejects by line, and counts of records."""

    rows: Sequence[Row] = ()
    lines: Iterable[int] = ()
    rejects: list[Reject] = dataclasses.field(default_factory=list)
    read: int = 0
    dropped: int = 0


@dataclasses.dataclass
class Records:
    """Records between validation and `process`: a value or None each, its line, its text and its cells."""

    values: list[Any]
    lines: Sequence[int]
    texts: Sequence[str]
    cells: Sequence[Sequence[str]] | None
    rejects: list[Reject]

    def reject(self, index: int, errors: tuple[RejectError, ...]) -> None:
        """Turn a record away."""
        cells = None if self.cells is None else tuple(self.cells[index])
        text = self.texts[index].removesuffix("\r")
        self.rejects.append(Reject(line=self.lines[index], errors=errors, row=text, cells=cells))


class Reader(Protocol):
    """Splits and validates the blocks of one format."""

    def read(self, block: Block) -> Records:
        """Give the records of a block, with rejects for those that are not valid."""
        ...


def reject_text(line: int, data: bytes, code: str, message: str) -> Reject:
    """Turn away a row that could not be split, in a form that can be shown."""
    text = data.removesuffix(b"\n").removesuffix(b"\r").decode(errors="backslashreplace")
    return Reject(line=line, errors=(RejectError(column="", code=code, message=message),), row=text)
