"""Dead letters: items and requests whose tries are exhausted, parked until an operator decides.

Guarantee: a dead letter has all that is needed to try again: the original bytes or where they are, and why it failed.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, Base64Bytes, Field, JsonValue

from contracts.record import FieldError, Frozen
from contracts.requests import RequestInput
from contracts.units import Unit

PARKED = "parked"
"""The value of the search attribute `PipelineStatus` of every dead letter, whatever pattern it comes from."""

DISCARDED = "Discarded"
"""The type of the error that an accepted request ends with when an operator gave its record up."""

NOT_PARKED = "NotParked"
"""The type of the error that refuses a decision: nothing is parked, or another decision is being carried out."""

DEAD_LETTER_MEMO = "dead_letter"
"""The name of the `DeadLetterNote` in the memo of parked work."""

REDRIVE_MEMO = "redrive"
"""The name of the `RedriveSummary` in the memo of a redrive."""

TRIES_PER_RUN = 100
"""Retries in one run of a workflow; then it continues as new, so that its history stays short."""

SEARCHABLE = r"^[\w.:-]*$"
"""What names of pipelines and error types consist of; nothing else may enter a query."""

INLINE_BYTES = 64 * 1024
"""A body of up to so many bytes travels in the workflow's input; a larger one by reference to an object."""


class Breakdown(Frozen):
    """Why something is a dead letter. `trace` is the traceback of user code, without values of variables."""

    error_type: str
    message: str
    trace: str = ""
    attempts: int = 1
    first_failure: datetime
    last_failure: datetime
    errors: tuple[FieldError, ...] = ()


class DeadLetterNote(Frozen):
    """What the memo of a dead letter says, so that it can be listed while no worker runs."""

    error_type: str
    message: str
    attempts: int
    parked: datetime
    last_failure: datetime
    queue: str = ""
    item: str = ""


class DeadLetterInput(Frozen):
    """A queue item that is a dead letter: exactly one of `body` and `body_key` (an object's) holds its bytes.

    `unit` is the name of the unit whose receipt says `dead`, `fingerprint` that of the original payload. `parked` is
    when it was parked, if an earlier run of it continued as new.
    """

    pipeline: str
    queue: str
    item: str
    unit: str
    fingerprint: str
    body: Base64Bytes | None = None
    body_key: str | None = None
    sent: datetime
    breakdown: Breakdown
    parked: datetime | None = None
    tries_per_run: int = TRIES_PER_RUN

    @property
    def work(self) -> Unit:
        """The unit whose receipt says `dead`."""
        return Unit.alone(self.pipeline, self.unit)

    @property
    def ticket(self) -> str:
        """The name of the one run that this dead letter has."""
        return f"dead-letter/{self.pipeline}/{self.work.receipt.hex}"


class TryDeadLetter(Frozen):
    """One more try of a queue item, with the corrected record if there is one."""

    letter: DeadLetterInput
    record: dict[str, JsonValue] | None = None


class GiveUpDeadLetter(Frozen):
    """The end of a queue item that is given up. `reason` is a small JSON document, which the receipt keeps."""

    pipeline: str
    unit: str
    reason: str


class GivenUp(Frozen):
    """The state of the receipt that stands after a discard: `stored`, if someone stored the item before."""

    state: Literal["stored", "dead", "discarded"]


class EnqueueInput(Frozen):
    """A request that was accepted. The rest is there if an earlier run was parked, and continued as new."""

    request: RequestInput
    breakdown: Breakdown | None = None
    parked: datetime | None = None
    tries_per_run: int = TRIES_PER_RUN


class RetryDeadLetter(Frozen):
    """The operator's decision to try again, with a corrected record if one is given."""

    record: dict[str, JsonValue] | None = None
    who: str = ""


class DiscardDeadLetter(Frozen):
    """The operator's decision to give a record up."""

    reason: Annotated[str, Field(min_length=1, max_length=1000)]
    who: str = ""


class RetryOutcome(Frozen):
    """What came of a retry: `stored` (or dropped by `process`), or still `parked` with the errors of this try."""

    status: Literal["stored", "parked"]
    record: dict[str, JsonValue] | None = None
    errors: tuple[FieldError, ...] = ()


class DeadLetterState(Frozen):
    """How a dead letter stands; what `show` prints. For requests `queue` is empty.

    `record` is what was stored, `reason` why it was discarded.
    """

    status: Literal["parked", "stored", "discarded"]
    pipeline: str
    queue: str = ""
    item: str = ""
    request: RequestInput | None = None
    breakdown: Breakdown
    body: Base64Bytes | None = None
    body_key: str | None = None
    record: dict[str, JsonValue] | None = None
    reason: str = ""


class DeadLetterFilter(Frozen):
    """Which dead letters are meant; empty fields mean all. `since` is when they were parked, or later."""

    pipeline: Annotated[str, Field(pattern=SEARCHABLE)] = ""
    error_type: Annotated[str, Field(pattern=SEARCHABLE)] = ""
    since: AwareDatetime | None = None


class DeadLetterPage(Frozen):
    """Some tickets; `token` asks for the page after them, and is empty after the last."""

    tickets: tuple[str, ...]
    token: str = ""


class RedriveSummary(Frozen):
    """How a redrive stands: `stored` and `failed` add up to what was tried of `found`.

    What someone else stored or discarded meanwhile counts as `stored`: nothing is left to be done about it.
    """

    status: Literal["running", "paused", "completed", "stopped", "cancelled"]
    found: int = 0
    stored: int = 0
    failed: int = 0
    reason: str = ""


class RedriveCarried(Frozen):
    """What the next run of a redrive takes over: where it is in the list, and what is left of the page there."""

    summary: RedriveSummary
    tickets: tuple[str, ...] = ()
    token: str = ""
    last_page: bool = False


class RedriveInput(Frozen):
    """A redrive: `rate` tries a second at most, stopped when over `abort_above` percent of them failed."""

    letters: DeadLetterFilter
    rate: Annotated[float, Field(gt=0)] = 50.0
    abort_above: Annotated[float, Field(gt=0, le=100)] = 20.0
    rounds_per_run: int = 250
    carried: RedriveCarried | None = None


class FindDeadLetters(Frozen):
    """The page of a list of dead letters to be read."""

    letters: DeadLetterFilter
    page_size: int
    token: str = ""


class RetryDeadLetters(Frozen):
    """Dead letters to be tried again, each once, whoever asks how often under the same `name`."""

    tickets: tuple[str, ...]
    name: str


class RetryCounts(Frozen):
    """What came of some retries."""

    stored: int
    failed: int
