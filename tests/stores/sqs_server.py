"""SQS for the tests: moto's server, run as `python sqs_server.py PORT`.

moto looks for items and leases them in two steps, so two requests at once may get the same one, which SQS avoids as
far as it can. Here requests about items come one after the other, and a long poll waits between two looks.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from moto.server import main
from moto.sqs.models import Message, SQSBackend

LOOK_SECONDS = 0.05
lock = threading.RLock()


def one_at_a_time(name: str) -> None:
    """Give a method of moto's a lock."""
    original = getattr(SQSBackend, name)

    def locked(*arguments: Any, **named: Any) -> Any:
        with lock:
            return original(*arguments, **named)

    setattr(SQSBackend, name, locked)


look = SQSBackend.receive_message


def poll(self: SQSBackend, name: str, count: int, seconds: int, lease: int, attributes: list[str]) -> list[Message]:
    """Look until there is something, without holding the lock meanwhile."""
    end = time.monotonic() + seconds
    while True:
        with lock:
            found = look(self, name, count, 0, lease, attributes)
        if found or time.monotonic() >= end:
            return found
        time.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    for method in ("send_message_batch", "delete_message_batch", "change_message_visibility_batch"):
        one_at_a_time(method)
    SQSBackend.receive_message = poll  # type: ignore[method-assign,assignment]
    main(["-H", "127.0.0.1", "-p", sys.argv[1]])
