"""The supervisor: what `starter up` runs until it is told to stop.

Guarantee: a server or worker that dies is started again, at once the first time, later after growing pauses; SIGTERM
or SIGINT stops everything in order.
"""

from __future__ import annotations

import signal
import threading
import time
from typing import TYPE_CHECKING, Protocol

from starter.stack.errors import StackError
from starter.stack.server import READY_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from starter.stack.stack import Stack

FIRST_PAUSE = 0.2
LONGEST_PAUSE = 15.0
STEADY_SECONDS = 30.0
"""A child that ran this long counts as healthy again."""


class Child(Protocol):
    """What is looked after: a server or a worker."""

    @property
    def title(self) -> str:
        """What people call it."""
        ...

    def start(self) -> None:
        """Start it."""
        ...

    def wait(self) -> int:
        """Wait until it ends."""
        ...


class Backoff:
    """The pause before a restart: none worth mentioning at first, then doubling up to a limit."""

    def __init__(self, first: float = FIRST_PAUSE, longest: float = LONGEST_PAUSE) -> None:
        self._first = first
        self._longest = longest
        self._next = first

    def pause(self, ran_seconds: float) -> float:
        """Give the next pause, for a child that ran so long."""
        if ran_seconds >= STEADY_SECONDS:
            self._next = self._first
        current = self._next
        self._next = min(self._next * 2, self._longest)
        return current


def supervise(
    stack: Stack, workers: int, *, ready: Callable[[], None] = lambda: None, note: Callable[[str], None] = print
) -> None:
    """Start the stack, call `ready`, and look after it until a signal comes. Main thread only."""
    stopping = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        # While servers still start, the main thread is in their start and must be taken out of it.
        if started:
            stopping.set()
        else:
            raise KeyboardInterrupt

    started = False
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    stack.start(workers)
    started = True
    watchers: list[threading.Thread] = []
    try:
        stack.note_supervisor()
        children: list[Child] = [*stack.servers.values(), *stack.workers]
        watchers = [
            threading.Thread(target=_look_after, args=(child, stopping, note), daemon=True) for child in children
        ]
        for watcher in watchers:
            watcher.start()
        ready()
        stopping.wait()
    finally:
        stopping.set()
        stack.stop()
        # A restart that was under way while everything stopped may have come too late to be stopped with the rest.
        for watcher in watchers:
            watcher.join(READY_SECONDS)
        if any(server.pid is not None for server in stack.servers.values()):
            stack.stop()


def _look_after(child: Child, stopping: threading.Event, note: Callable[[str], None]) -> None:
    backoff = Backoff()
    while True:
        since = time.monotonic()
        status = child.wait()
        pause = backoff.pause(time.monotonic() - since)
        if stopping.wait(pause):
            return
        note(f"{child.title} ended with status {status}; starting it again.")
        while not stopping.is_set():
            try:
                child.start()
                break
            except (StackError, OSError) as error:
                note(str(error))
                stopping.wait(backoff.pause(0))
