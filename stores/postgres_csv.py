"""Rows that come as CSV text, on their way into COPY: the text as it stands, with the unit's receipt in each row.

Guarantee: PostgreSQL reads the same rows from it as from their values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from contracts.table import RECEIPT_COLUMN
from stores.postgres_tables import column_names
from stores.postgres_text import print_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contracts.blocks import TextRows
    from contracts.table import Row, Table


def csv_columns(table: Table, rows: TextRows) -> list[str]:
    """Name the columns of the text in order, then those that it lacks: a table's own default is no value of ours."""
    return [*rows.columns, *absent_columns(table, rows), RECEIPT_COLUMN]


def absent_columns(table: Table, rows: TextRows) -> list[str]:
    """Name the columns of the table that the text does not have."""
    return [name for name in column_names(table) if name not in rows.columns]


def csv_text(table: Table, rows: TextRows, receipt: str) -> bytes:
    """Print a block for `COPY FROM STDIN (FORMAT csv)`. Raises `ValueError` for a value that cannot be printed.

    The receipt ends every row, so that no line is the two characters that end a COPY.
    """
    nothing = rows.delimiter * len(absent_columns(table, rows))
    end = f"{nothing}{rows.delimiter}{receipt}\n".encode()
    places = [column_names(table).index(name) for name in rows.columns]
    pieces = [
        piece.replace(b"\n", end)
        if isinstance(piece, bytes)
        else b"".join(csv_row(table, row, places, rows.delimiter) + end for row in piece)
        for piece in rows.pieces
    ]
    return b"".join(pieces)


def csv_row(table: Table, row: Row, places: Sequence[int], delimiter: str) -> bytes:
    """Print one row of values: quoted, apart from those that are absent."""
    texts = [print_value(table.columns[place], row[place]) for place in places]
    cells = ["" if text is None else '"' + text.replace('"', '""') + '"' for text in texts]
    return delimiter.join(cells).encode()
