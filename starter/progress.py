"""Progress of long work: a bar with rate and time left on a terminal, plain lines elsewhere; always on stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from starter.output import Output
from starter.tickets import TicketState

LINE_SECONDS = 2.0
TELLING = 0.02
"""The part of a whole that has to be done before the time left can be told from it."""


class Report:
    """Show how many bytes, or other units, of a whole are done, with a remark; use it as a context manager."""

    def __init__(self, output: Output, title: str, unit: str = "bytes") -> None:
        self._output = output
        self._unit = unit
        self._title = title
        self._began = time.monotonic()
        self._said = 0.0
        self._last = ""
        self._first_done: int | None = None
        self._first_rows: int | None = None
        self._bar: Progress | None = None
        self._row: TaskID | None = None
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn() if unit == "bytes" else MofNCompleteColumn(),
                TextColumn("{task.fields[remark]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._row = self._bar.add_task(title, total=None, remark="")

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def show(self, done: int, total: int, remark: str = "") -> None:
        """Say that `done` of `total` are done; a `total` of 0 is unknown."""
        if self._bar and self._row is not None:
            self._bar.update(self._row, completed=done, total=total or None, remark=remark)
            return
        now = time.monotonic()
        self._first_done = done if self._first_done is None else self._first_done
        line = (
            f"{self._title}: {done:,} of {total:,} {self._unit}" if total else f"{self._title}: {done:,} {self._unit}"
        )
        line += f", {remark}" if remark else ""
        if now - self._said >= LINE_SECONDS and line != self._last:
            new = done - self._first_done
            left = (now - self._began) * (total - done) / new if new > total * TELLING else 0
            self._output.note(f"{line}, about {left:.0f} s left" if left >= 1 else line)
            self._said, self._last = now, line

    def show_state(self, state: TicketState) -> None:
        """Show how a load stands: bytes, rows and, while it runs, rows a second since the first look."""
        if state.redrive is not None:
            redrive = state.redrive
            remark = f"{redrive.failed:,} failed" + (", paused" if redrive.status == "paused" else "")
            self.show(redrive.stored + redrive.failed, redrive.found, remark)
            return
        rows = state.counts.read
        self._first_rows = rows if self._first_rows is None else self._first_rows
        remark = f"{rows:,} rows"
        if state.status == "waiting":
            # No rate, which would fall for as long as it waits, and make a new line of each look.
            remark += ", waiting"
        elif rows > self._first_rows:
            remark += f", {(rows - self._first_rows) / max(time.monotonic() - self._began, 0.001):,.0f}/s"
        if state.counts.rejected:
            remark += f", {state.counts.rejected:,} rejected"
        summary = state.summary
        self.show(summary.done_bytes if summary else 0, summary.total_bytes if summary else 0, remark)
