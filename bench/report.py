"""What was measured: a table on stdout, and a JSON document in `bench/results`."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

RESULTS = Path(__file__).parent / "results"


@dataclasses.dataclass(frozen=True)
class Measure:
    """A ratio or a count beside its goal, which is an upper bound unless `at_least`; some only inform."""

    name: str
    value: float
    goal: float | None = None
    at_least: bool = False
    detail: str = ""
    samples: tuple[float, ...] = ()

    @property
    def met(self) -> bool:
        """Say whether the goal is reached, if there is one."""
        if self.goal is None:
            return True
        return self.value >= self.goal if self.at_least else self.value <= self.goal


def show(measures: Sequence[Measure]) -> None:
    """Print the table."""
    table = Table(title="Ratios of one run, median of alternating rounds")
    table.add_column("measure")
    table.add_column("value", justify="right")
    table.add_column("goal", justify="right")
    table.add_column("met")
    table.add_column("detail")
    for measure in measures:
        table.add_row(
            measure.name,
            f"{measure.value:.2f}",
            "" if measure.goal is None else f"{'>=' if measure.at_least else '<='} {measure.goal:g}",
            "" if measure.goal is None else "yes" if measure.met else "NO",
            measure.detail,
        )
    console = Console()
    # A pipe or a log has no width of its own; a table that is cut is of no use there.
    (console if console.is_terminal else Console(width=170)).print(table)


def save(measures: Sequence[Measure], *, rows: int, rounds: int, workers: int) -> Path:
    """Write the document; returns its path."""
    RESULTS.mkdir(exist_ok=True)
    now = datetime.now(UTC)
    document = {
        "at": now.isoformat(timespec="seconds"),
        "machine": {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
        "rows": rows,
        "rounds": rounds,
        "workers": workers,
        "measures": [dataclasses.asdict(measure) | {"met": measure.met} for measure in measures],
    }
    path = RESULTS / f"{now:%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(document, indent=2) + "\n")
    return path
