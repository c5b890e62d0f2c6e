"""Units: the deterministic names of pieces of work, and the receipts that prove them.

Guarantee: the same piece of work always has the same name and the same receipt, whoever plans it and however
often. Within one series (the chunks of one file) receipts sort in the order of their positions, and two units
that share a byte are told apart from two that do not.
"""

from __future__ import annotations

import hashlib
import re
from typing import Self
from uuid import UUID

from contracts.errors import ReceiptMismatchError
from contracts.record import Frozen

SERIES_BYTES = 10
POSITION_BYTES = 6
# A unit has no fields for its range: the name has it, and a receipt keeps the name of its unit and nothing else.
RANGE_NAME = re.compile(r"(?P<series>.*)/(?P<start>[0-9]+)-(?P<end>[0-9]+)", re.DOTALL)


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

    def check_receipt(self, pipeline: str, name: str) -> None:
        """Raise `ReceiptMismatchError` if what has this unit's receipt is another unit."""
        if (pipeline, name) != (self.pipeline, self.name):
            message = f"the receipt of {self.pipeline} {self.name} belongs to {pipeline} {name}"
            raise ReceiptMismatchError(message)

    def check_neighbour(self, name: str) -> None:
        """Raise `ReceiptMismatchError` if a committed unit is another one of this series and shares bytes with it."""
        if self.shares_bytes(name):
            message = (
                f"{self.pipeline} {self.name} shares bytes with {name}, which was loaded before, when the file was cut "
                "into other chunks. Nothing of this chunk was written. Load the file with the chunk size of that "
                "time, or the whole of it once more, as a load of its own (upload --again)"
            )
            raise ReceiptMismatchError(message)

    def shares_bytes(self, name: str) -> bool:
        """Say whether `name` is another unit of this series, and covers some of the same bytes."""
        mine, other = RANGE_NAME.fullmatch(self.name), RANGE_NAME.fullmatch(name)
        if self.first == self.last or mine is None or other is None or name == self.name:
            return False
        within = int(mine["start"]) < int(other["end"]) and int(other["start"]) < int(mine["end"])
        return within and mine["series"] == other["series"]
