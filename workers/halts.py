"""Deaths at named boundaries, for crash tests: a worker that ends or freezes right before or after one call of a port.

Guarantee: nothing of this is reached unless one of the hidden options asks for it; the code under test has no hooks.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import signal
from typing import TYPE_CHECKING, Any

from contracts.errors import DeclarationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from contracts.queue import Delivery
    from stores import Stores

SPEC = re.compile(r"(?P<moment>before|after):(?P<port>sink|failures|queue|objects)\.(?P<method>\w+):(?P<how>KILL|STOP)")


class Halting:
    """A port that passes everything on, and sends this process a signal around the first call of one method."""

    def __init__(self, port: Any, method: str, moment: str, number: signal.Signals) -> None:
        self._port = port
        self._method = method
        self._moment = moment
        self._number = number
        self._armed = True

    def __getattr__(self, name: str) -> Any:
        """Take the port's own attribute, or the method that the signal waits at."""
        found = getattr(self._port, name)
        return functools.partial(self._call, found) if name == self._method and self._armed else found

    async def _call(self, method: Callable[..., Awaitable[Any]], *args: Any, **options: Any) -> Any:
        self._armed = False
        if self._moment == "before":
            os.kill(os.getpid(), self._number)
            return await method(*args, **options)
        result = await method(*args, **options)
        os.kill(os.getpid(), self._number)
        return result


class AcknowledgingFirst:
    """A queue whose items are gone as soon as they are fetched: what must never be done."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue

    def __getattr__(self, name: str) -> Any:
        """Take everything else from the queue."""
        return getattr(self._queue, name)

    async def fetch(self, queue: Any, *args: Any) -> list[Delivery]:
        """Fetch and acknowledge."""
        found: list[Delivery] = await self._queue.fetch(queue, *args)
        await self._queue.acknowledge(queue, found)
        return found


def halting(stores: Stores, spec: str) -> Stores:
    """Wrap one port as `before:sink.write:KILL` says. Raises `DeclarationError`."""
    found = SPEC.fullmatch(spec)
    if found is None:
        message = f"--halt {spec!r} is not like before:sink.write:KILL"
        raise DeclarationError(message)
    port = getattr(stores, found["port"])
    number = signal.Signals[f"SIG{found['how']}"]
    return dataclasses.replace(stores, **{found["port"]: Halting(port, found["method"], found["moment"], number)})


def acknowledging_first(stores: Stores) -> Stores:
    """Take the order of receipt and acknowledgement away."""
    changed: Any = AcknowledgingFirst(stores.queue)
    return dataclasses.replace(stores, queue=changed)
