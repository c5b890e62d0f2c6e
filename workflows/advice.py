"""What parked work says about itself: why it failed, and in markdown what an operator can do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio import workflow
from temporalio.exceptions import FailureError

from workflows.details import plain, shortened

with workflow.unsafe.imports_passed_through():
    from activities.failures import field_errors
    from contracts.dead_letters import (
        Breakdown,
        DeadLetterFilter,
        DeadLetterInput,
        DeadLetterNote,
        DeadLetterState,
        RedriveInput,
        RedriveSummary,
    )
    from contracts.record import FieldError
    from contracts.requests import CONFLICT, REJECTED

if TYPE_CHECKING:
    from datetime import datetime

    from temporalio.exceptions import ApplicationError

LONGEST_MESSAGE = 1000
LONGEST_TRACE = 4000
LONGEST_NOTE = 300
MOST_SHOWN = 10


def breakdown_of(error: ApplicationError, earlier: Breakdown | None, now: datetime) -> Breakdown:
    """Say why a try failed, and how many did."""
    expected = error.type in {REJECTED, CONFLICT}
    code = str(error.details[0]) if error.details and not expected else str(error.type)
    errors = field_errors(error) if expected else (FieldError(field="", code=code, message=error.message),)
    return Breakdown(
        error_type=error.type or "Unexpected",
        message=error.message[:LONGEST_MESSAGE],
        trace=trace_of(error),
        attempts=1 if earlier is None else earlier.attempts + 1,
        first_failure=now if earlier is None else earlier.first_failure,
        last_failure=now,
        errors=errors,
    )


def trace_of(error: FailureError) -> str:
    """Take the traceback of where it began, the innermost that there is: that of user code, if that failed."""
    trace = ""
    cause: BaseException | None = error
    while isinstance(cause, FailureError):
        if cause.failure is not None and cause.failure.stack_trace:
            trace = cause.failure.stack_trace
        cause = cause.cause
    return trace[-LONGEST_TRACE:]


def note_of(state: DeadLetterState, parked: datetime) -> DeadLetterNote:
    """Write the memo of a dead letter."""
    return DeadLetterNote(
        error_type=state.breakdown.error_type,
        message=state.breakdown.message[:LONGEST_NOTE],
        attempts=state.breakdown.attempts,
        parked=parked,
        last_failure=state.breakdown.last_failure,
        queue=state.queue,
        item=state.item,
    )


def note_of_letter(letter: DeadLetterInput) -> DeadLetterNote:
    """Write the memo that a queue's dead letter begins with."""
    state = DeadLetterState(
        status="parked", pipeline=letter.pipeline, queue=letter.queue, item=letter.item, breakdown=letter.breakdown
    )
    return note_of(state, letter.parked or letter.breakdown.last_failure)


def title_of_letter(letter: DeadLetterInput) -> str:
    """Say in one line what is parked: the static summary of a queue's dead letter."""
    return shortened(f"dead letter of {letter.pipeline}: item {letter.item}, {letter.breakdown.error_type}")


def advise(state: DeadLetterState, *, ticket: str, trying: bool) -> str:
    """Write the current details of a dead letter."""
    broken = state.breakdown
    what = f"item `{plain(state.item)}` of queue `{state.queue}`" if state.queue else "an accepted request"
    if trying:
        headline = f"**An operator's decision is being carried out**: {what}, pipeline `{state.pipeline}`"
    else:
        headline = f"**Dead letter, waiting for an operator**: {what}, pipeline `{state.pipeline}`"
    failed = (
        f"`{broken.error_type}` after {broken.attempts} tries, the last at {broken.last_failure:%Y-%m-%d %H:%M:%S} UTC"
    )
    if broken.attempts == 1:
        failed = f"`{broken.error_type}` at {broken.last_failure:%Y-%m-%d %H:%M:%S} UTC"
    parts = [headline, f"Failed with {failed}: {plain(broken.message)}"]
    if broken.errors:
        parts.append(
            "\n".join(
                f"- {plain(error.field) or 'record'}: {plain(error.message)} [{plain(error.code)}]"
                for error in broken.errors[:MOST_SHOWN]
            )
        )
    if trying:
        parts.append("While the sink does not answer, it is waited for; nobody has to do anything here.")
    else:
        parts.append("Nothing is lost and nothing happens by itself. Mend what is wrong, then decide:")
        parts.append(commands(ticket))
    return "\n\n".join(parts)


def commands(ticket: str) -> str:
    """List what the operator can do now."""
    steps = (
        f"`starter dead-letters show {ticket}` prints the record and the whole error",
        f"`starter dead-letters retry {ticket}` tries it again as it is, once code or sink are mended",
        f"`starter dead-letters retry {ticket} --record corrected.json` tries a corrected record in its place",
        f'`starter dead-letters discard {ticket} --reason "..."` gives it up',
    )
    return "\n".join(f"- {step}" for step in steps)


REDRIVES = {
    "running": "Trying dead letters again",
    "paused": "Paused",
    "completed": "Completed",
    "stopped": "Stopped: too many tries failed",
    "cancelled": "Cancelled",
}


def title_of_redrive(asked: RedriveInput) -> str:
    """Say in one line what is tried again: the static summary of a redrive."""
    return shortened(f"redrive {filter_in_words(asked.letters)}")


def filter_in_words(letters: DeadLetterFilter) -> str:
    """Say which dead letters are meant."""
    words = [f"dead letters of {letters.pipeline}" if letters.pipeline else "all dead letters"]
    if letters.error_type:
        words.append(f"with {letters.error_type}")
    if letters.since is not None:
        words.append(f"since {letters.since:%Y-%m-%d %H:%M:%S %Z}")
    return " ".join(words)


def describe_redrive(asked: RedriveInput, summary: RedriveSummary, *, ticket: str) -> str:
    """Write the current details of a redrive."""
    tried = summary.stored + summary.failed
    counts = f"| {summary.found:,} | {tried:,} | {summary.stored:,} | {summary.failed:,} |"
    parts = [
        f"**{REDRIVES[summary.status]}**: {plain(title_of_redrive(asked))}",
        f"At most {asked.rate:g} tries a second; stopped when over {asked.abort_above:g} percent fail.",
        f"| found | tried | stored | still parked |\n| ---: | ---: | ---: | ---: |\n{counts}",
    ]
    if summary.reason:
        parts.append(plain(summary.reason))
    if summary.status in {"running", "paused"}:
        change = "pause" if summary.status == "running" else "resume"
        parts.append(
            f"- `starter dead-letters redrive --{change} {ticket}` {change}s it\n"
            f"- `starter cancel {ticket}` ends it; what was tried stays as it is"
        )
    elif summary.failed:
        parts.append("- `starter dead-letters list` shows what is still parked, and why")
    return "\n\n".join(parts)
