"""What a load says about itself in the Web UI: markdown that a stranger understands, and the commands to use."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contracts.loads import LoadRun, LoadSummary

HEADLINES = {
    "waiting": "Waiting for an operator",
    "completed": "Completed",
    "failed": "Failed",
    "cancelled": "Cancelled: what was committed stays",
    "stopped": "Stopped by the limit of rejects: nothing was loaded",
}
MEGABYTE = 1_000_000
LONGEST_TITLE = 200
TITLE_BYTES = 320
"""Of a title in JSON. Temporal's API (`UserMetadata`) allows a summary 400 by default, with the name of its encoding;
not every server enforces that."""
WIDEST = 6
"""Bytes of the widest character in JSON: a control character, escaped."""


def shortened(title: str) -> str:
    """Cut a title to what Temporal takes as a summary, whatever its letters."""
    cut = title[:LONGEST_TITLE].encode(errors="replace").decode()
    while (over := len(json.dumps(cut, ensure_ascii=False).encode()) - TITLE_BYTES) > 0:
        # At least one, and never too many.
        cut = cut[: -over // WIDEST]
    return cut


def title(run: LoadRun) -> str:
    """Say in one line what is loaded where: the static summary of a load."""
    checked = "check" if run.options.dry_run else "load"
    return shortened(f"{checked} {run.file.name} into {run.pipeline}")


def describe(run: LoadRun, summary: LoadSummary, *, ticket: str, phase: str) -> str:
    """Write the current details of a load.

    They begin with its title. The static summary says the same, but only the first run has one: Temporal's
    continue-as-new command has no field for it, and `workflow.continue_as_new` no parameter.
    """
    counts = summary.counts
    headline = f"Running: {phase}" if summary.status == "running" else HEADLINES[summary.status]
    parts = [f"**{headline}**: {plain(title(run))}"]
    parts.append(f"File `{plain(run.file.name)}`: {progress(summary)}")
    parts.append(
        "| read | written | rejected | duplicates | dropped |\n| ---: | ---: | ---: | ---: | ---: |\n"
        f"| {counts.read:,} | {counts.written:,} | {counts.rejected:,} | {counts.duplicates:,} | {counts.dropped:,} |"
    )
    if summary.reason:
        parts.append(plain(summary.reason))
    parts.append(commands(run, summary, ticket))
    return "\n\n".join(part for part in parts if part)


def progress(summary: LoadSummary) -> str:
    """Say how far the reading came, in megabytes and percent."""
    if not summary.total_bytes:
        return "not read yet"
    percent = 100 * summary.done_bytes / summary.total_bytes
    return f"{summary.done_bytes / MEGABYTE:,.1f} of {summary.total_bytes / MEGABYTE:,.1f} MB ({percent:.0f} %)"


def commands(run: LoadRun, summary: LoadSummary, ticket: str) -> str:
    """List what the operator can do now."""
    see = f"`starter rejects {ticket} > corrected.csv` prints the rejects, to be corrected"
    cancel = f"`starter cancel {ticket}` stops it; committed rows stay"
    if summary.status == "waiting":
        steps = [
            see,
            f"`starter resume {ticket} corrected.csv` loads the corrected rows and goes on",
            f"`starter resume {ticket}` goes on without the rejected rows",
            cancel,
        ]
    elif summary.status == "running":
        steps = [cancel]
    elif summary.status in {"completed", "stopped"} and summary.counts.rejected:
        steps = [see]
    elif summary.status in {"failed", "cancelled"}:
        steps = [
            "A check cannot be continued: start it again"
            if run.options.dry_run
            else f"`starter resume {ticket}` goes on: what was committed is not loaded twice, corrections are kept"
        ]
    else:
        steps = []
    return "\n".join(f"- {step}" for step in steps)


def plain(text: str) -> str:
    """Keep a text from outside on one line and out of the markdown around it."""
    return " ".join(text.replace("`", "'").split())[:500]
