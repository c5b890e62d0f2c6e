"""A block of rows that exists as text: what a sink may take as it is, instead of value by value.

Guarantee: the text and the values say the same. Cells are written so that every reader agrees on them: integers
and decimals in plain digits, ISO 8601 dates, `true` and `false`, UUIDs in five groups; an empty cell is no value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, overload

from contracts.errors import TerminalError

if TYPE_CHECKING:
    from contracts.table import Row


class TextMismatchError(TerminalError):
    """A block's text and its values are not the same rows: a defect, which no retry mends and nobody must store."""

    code = "text_mismatch"


class TextRows(Sequence["Row"]):
    """Rows whose CSV text is at hand. They are a sequence of rows, too, made from the text when one is asked for.

    `pieces` are in order: either CSV text of whole rows (UTF-8, each ended by a newline, a quoted cell is never empty
    and holds no line end) or rows as values. `columns` names the cells of the text; a column that is not
    among them is absent in every row. `parse` makes all rows, those of the text included.
    """

    def __init__(
        self,
        pieces: Sequence[bytes | Sequence[Row]],
        *,
        columns: Sequence[str],
        delimiter: str,
        count: int,
        parse: Callable[[], Sequence[Row]],
    ) -> None:
        self.pieces = pieces
        self.columns = tuple(columns)
        self.delimiter = delimiter
        self._count = count
        self._parse = parse
        self._rows: Sequence[Row] | None = None

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        if self._rows is None:
            self._rows = self._parse()
            if len(self._rows) != self._count:
                message = f"the text of a block has {self._count} rows, and {len(self._rows)} as values"
                raise TextMismatchError(message)
        return self._rows[index]
