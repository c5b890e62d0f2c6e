"""The circuit breaker of a consumer: tells an outage of what `process` asks from records that are at fault.

Guarantee: while more than a fifth of the last items, or the last three of a quiet queue, fail transiently, none of
these failures is held against an item. In a probe in which another item succeeds they are, so that an item that is
itself at fault is not tried for ever.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

REMEMBERED = 100
SHARE = 0.2
FEWEST = 10
"""Outcomes that have to be known before the share of failures says anything. Fewer are a few unlucky items."""

RUN = 3
"""Failures one after the other, with nothing that succeeds beside them, that are an outage however few items come."""


class Breaker:
    """Remembers how the last items went, over all windows of one pipeline in this process."""

    def __init__(self) -> None:
        self.failed: deque[bool] = deque(maxlen=REMEMBERED)
        self.turns = 0
        self.opened = False

    @contextlib.contextmanager
    def watching(self, *, afresh: bool) -> Iterator[None]:
        """Take part in a turn. The first one after it opened, which ends all turns, begins with nothing remembered.

        So does one that is to judge `afresh`, as a probe does.
        """
        if not self.turns and (afresh or self.opened):
            self.failed.clear()
            self.opened = False
        self.turns += 1
        try:
            yield
        finally:
            self.turns -= 1

    def note(self, outcomes: Iterable[bool]) -> None:
        """Take in whether items failed transiently, in the order of their windows."""
        self.failed.extend(outcomes)

    def opens(self, *, probe: bool, succeeded: bool) -> str:
        """Say why consumption should pause, or nothing.

        `succeeded` tells whether an item of this window did: a service that serves it is there, so only the share of
        failures counts then. Otherwise a run of failures is enough, and in a `probe` a single one.
        """
        count, failed = len(self.failed), sum(self.failed)
        reason = ""
        if count >= FEWEST and failed > SHARE * count:
            reason = f"{failed} of the last {count} items failed with errors that look like an outage"
        elif not succeeded and probe and failed:
            reason = (
                f"{failed} of {count} items of a probe failed with errors that look like an outage, and none succeeded"
            )
        elif not succeeded and count >= RUN and all(itertools.islice(reversed(self.failed), RUN)):
            reason = f"the last {RUN} items failed with errors that look like an outage"
        self.opened = self.opened or bool(reason)
        return reason
