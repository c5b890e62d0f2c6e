"""The circuit breaker of a consumer: tells an outage of what `process` asks from records that are at fault.

Guarantee: while more than a fifth of the last items fail transiently, none of these failures is held against an item.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

REMEMBERED = 100
SHARE = 0.2
FEWEST = 10
"""Outcomes that have to be known before the share of failures says anything. Fewer are a few unlucky items."""


class Breaker:
    """Remembers how the last items went, over all windows of one pipeline in this process."""

    def __init__(self) -> None:
        self.failed: deque[bool] = deque(maxlen=REMEMBERED)
        self.turns = 0

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Take part in a turn. The first one after a pause, which ends all turns, begins with nothing remembered."""
        if not self.turns:
            self.failed.clear()
        self.turns += 1
        try:
            yield
        finally:
            self.turns -= 1

    def note(self, outcomes: Iterable[bool]) -> None:
        """Take in whether items failed transiently, in the order of their windows."""
        self.failed.extend(outcomes)

    def opens(self, fewest: int = FEWEST) -> str:
        """Say why consumption should pause, or nothing."""
        count, failed = len(self.failed), sum(self.failed)
        if count < fewest or failed <= SHARE * count:
            return ""
        return f"{failed} of the last {count} items failed with errors that look like an outage"
