"""Units: the deterministic names of pieces of work, and the receipts that prove them.

Guarantee: the same piece of work always has the same name and the same receipt, whoever plans it and however
often. Within one series (the chunks of one file) receipts sort in the order of their positions.
"""

from __future__ import annotations

import hashlib
from typing import Self
from uuid import UUID

from contracts.record import Frozen

SERIES_BYTES = 10
POSITION_BYTES = 6


class Unit(Frozen):
    """A piece of work whose effects happen once.

    `receipt` is 16 bytes: for a unit that stands alone, a hash of its name; for a unit of a series, 80 bits of
    the series' hash and then its position in 48 bits, so that rows of one file can be put in file order
    whichever chunk arrives first. `first` and `last` bound the receipts of the series.
    """

    pipeline: str
    name: str
    receipt: UUID
    first: UUID
    last: UUID

    @classmethod
    def alone(cls, pipeline: str, name: str) -> Self:
        """Build the unit of one request or one queue item."""
        receipt = UUID(bytes=hashlib.sha256(f"{pipeline}\0{name}".encode()).digest()[:16])
        return cls(pipeline=pipeline, name=name, receipt=receipt, first=receipt, last=receipt)

    @classmethod
    def of_range(cls, pipeline: str, series: str, start: int, end: int) -> Self:
        """Build the unit of the bytes [start, end) of a file; `series` names the file and its generation."""
        prefix = hashlib.sha256(f"{pipeline}\0{series}".encode()).digest()[:SERIES_BYTES]
        return cls(
            pipeline=pipeline,
            name=f"{series}/{start}-{end}",
            receipt=UUID(bytes=prefix + start.to_bytes(POSITION_BYTES)),
            first=UUID(bytes=prefix + b"\x00" * POSITION_BYTES),
            last=UUID(bytes=prefix + b"\xff" * POSITION_BYTES),
        )
