"""Inputs and results of file loads (`upload`): names, ranges and counts, never rows.

Guarantee: everything here is small; the bytes themselves stay in the object store (claim check), so a load's
history grows with the number of its chunks only.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from contracts.record import Frozen
from contracts.units import Unit

LoadStatus = Literal["running", "waiting", "completed", "failed", "cancelled", "stopped"]


class StoredFile(Frozen):
    """A raw file in the object store. `name` is what the user called it; sizes are in bytes.

    A `temporary` one was stored for one load alone, which removes it at its end.
    """

    key: str
    name: str
    size: int
    etag: str
    sha256: str
    temporary: bool = False


class Dialect(Frozen):
    """How a file is read. For CSV `columns` are the header's names in order; NDJSON has none."""

    format: Literal["csv", "ndjson"]
    delimiter: str = ","
    columns: tuple[str, ...] = ()


class TextFile(Frozen):
    """The plain, uncompressed text to read: an object, where its records start, and how to read them.

    `start` is the offset of the first record in bytes, `line` its physical line number from 1. `ordered` says
    that the chunks have to be loaded one after the other, as `on_conflict="reject"` needs it. A `temporary` text was
    unpacked for one load alone, which removes it at its end.
    """

    key: str
    etag: str
    size: int
    dialect: Dialect
    start: int
    line: int
    ordered: bool = False
    temporary: bool = False


class Chunk(Frozen):
    """The bytes [start, end) of a text file, whole records; `line` is the physical line of the first, from 1."""

    start: int
    end: int
    line: int


class Plan(Frozen):
    """A window of chunks in file order. `done` says that the file ends with the last of them.

    `next_line` is the physical line that follows the window: where the next one starts.
    """

    chunks: tuple[Chunk, ...]
    done: bool
    next_line: int


class RejectLimit(Frozen):
    """The most rejects a load accepts: a number of rows, or a percentage of the rows read."""

    value: float
    percent: bool

    def passed(self, counts: Counts) -> bool:
        """Say whether the counts are over the limit."""
        if self.percent:
            return counts.rejected * 100 > self.value * counts.read
        return counts.rejected > self.value


class Counts(Frozen):
    """Rows, each of which is in exactly one of the last four: `read` is their sum.

    `dropped` rows are those for which `process` returned None. A summary of a load that only checked has no
    `written` rows, because there are none.
    """

    read: int = 0
    written: int = 0
    rejected: int = 0
    duplicates: int = 0
    dropped: int = 0

    def __add__(self, other: Counts) -> Counts:
        """Add two counts, field by field."""
        return Counts(
            read=self.read + other.read,
            written=self.written + other.written,
            rejected=self.rejected + other.rejected,
            duplicates=self.duplicates + other.duplicates,
            dropped=self.dropped + other.dropped,
        )


class ChunkResult(Frozen):
    """What became of a chunk; `rejects` is the key of the object that holds its rejects, if there are any."""

    counts: Counts
    rejects: str | None = None


class LoadOptions(Frozen):
    """What the user asked of a load."""

    max_rejects: RejectLimit | None = None
    on_rejects: Literal["finish", "wait"] = "finish"
    dry_run: bool = False


class LoadInput(Frozen):
    """One load. `series` names the file and its generation; units are built from it."""

    pipeline: str
    file: StoredFile
    series: str
    options: LoadOptions = LoadOptions()


class LoadSummary(Frozen):
    """How a load stands or ended. `reason` explains every status but `running` and `completed`.

    `rejects` is the object-store prefix of the rejects that are still open, `dialect` how their file was read.
    `corrections` and `accepted` are what operators decided so far: a load that is started again gets them.
    """

    status: LoadStatus
    counts: Counts
    total_bytes: int = 0
    done_bytes: int = 0
    reason: str = ""
    rejects: str = ""
    dialect: Dialect | None = None
    corrections: tuple[StoredFile, ...] = ()
    accepted: bool = False


class RejectError(Frozen):
    """One reason for a reject: the column (empty for the row as a whole), a code and a message."""

    column: str
    code: str
    message: str


class Reject(Frozen):
    """An input row that failed. `line` is physical, from 1; `row` is the original text without its line end.

    `cells` are the original cells if the row could be split; `errors` has at least one entry.
    """

    line: int
    errors: tuple[RejectError, ...]
    row: str
    cells: tuple[str, ...] | None = None


class InspectFile(Frozen):
    """Ask how a stored file is to be read. If it is packed, `unpacked` is the key for its text."""

    pipeline: str
    file: StoredFile
    unpacked: str


class RemoveObjects(Frozen):
    """Ask to remove objects that no other load knows of."""

    keys: tuple[str, ...]


class PlanChunks(Frozen):
    """Ask for the next window of at most `limit` chunks, from `start` (bytes) on, which is physical line `line`."""

    text: TextFile
    start: int
    line: int
    limit: int
    chunk_bytes: int


class LoadChunk(Frozen):
    """Ask to load, or only to check, one chunk. Rejects go under the object-store prefix `rejects`."""

    pipeline: str
    text: TextFile
    chunk: Chunk
    unit: Unit
    rejects: str


class ResumeLoad(Frozen):
    """The operator's decision on a waiting load: go on, after loading `corrected` if it is given."""

    corrected: StoredFile | None = None


class Correction(Frozen):
    """A corrected file that was found readable, and how to read it."""

    file: StoredFile
    text: TextFile


class Reading(Frozen):
    """One pass over one text file: how far it came, up to byte `start`, physical line `line`, and what it counted.

    `checking` passes validate and write nothing. `rejects` is the object-store prefix of the pass.
    """

    series: str
    text: TextFile
    checking: bool
    rejects: str
    start: int
    line: int
    counts: Counts = Counts()


class Carried(Frozen):
    """What a load hands to its next run when its history gets long.

    `settled` counts the rows of earlier files, without those that a correction replaces; `loaded` are the checksums
    of the corrected files so far; `correction` waits for the original file to be loaded first; `accepted`
    says that the operator wants the load to finish in spite of its rejects; `temporary` are the keys of the objects
    that are to be removed at the end.
    """

    reading: Reading
    settled: Counts = Counts()
    loaded: tuple[str, ...] = ()
    correction: Correction | None = None
    accepted: bool = False
    temporary: tuple[str, ...] = ()


class LoadRun(LoadInput):
    """The input of one run of a load: what was asked, and what earlier runs of the same load carried over.

    `chunk_bytes` decides where units begin and end: a load that is started again needs the same value, or its
    receipts do not match. `corrections`, in the order in which operators gave them, and `accepted` are what was
    decided in earlier runs, or before the load ended early and was started again.
    """

    chunk_bytes: Annotated[int, Field(ge=1)] = 8 * 1024 * 1024
    chunks_per_run: Annotated[int, Field(ge=1)] = 500
    corrections: tuple[StoredFile, ...] = ()
    accepted: bool = False
    carried: Carried | None = None
