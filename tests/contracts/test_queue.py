"""Declarations of queues: what follows from a right one, and the one sentence for each wrong one."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from contracts import DeclarationError, TransientError, WorkQueue
from contracts.errors import UnavailableError
from contracts.queue import ItemRefusedError, QueueItem, is_item_id

SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"name": ""}, "queue '': use a lower-case letter"),
        ({"name": "a.b"}, "queue 'a.b': use a lower-case letter"),
        ({"name": "a\n"}, "use a lower-case letter"),
        ({"name": "x" * 64}, "63 at most"),
        ({"lease": 30}, "queue things: lease must be a timedelta"),
        ({"lease": timedelta()}, "queue things: lease must be positive"),
        ({"lease": timedelta(milliseconds=1)}, "lease must be at least 100 ms"),
        ({"lease": timedelta(hours=13)}, "lease must be at most 12 hours"),
        ({"retry_last": timedelta(hours=13)}, "retry_last must be at most 12 hours"),
        ({"retry_first": -SECOND}, "retry_first must be positive"),
        ({"retry_first": timedelta(minutes=11)}, "retry_first must not be longer than retry_last"),
        ({"max_attempts": 0}, "max_attempts must be a whole number of at least 1"),
        ({"max_attempts": True}, "max_attempts must be a whole number of at least 1"),
        ({"max_attempts": 51}, "max_deliveries must not be less than max_attempts"),
        ({"policies": {ValueError: "forget"}}, "policies: 'forget' is none of retry, dead-letter, discard"),
        ({"policies": {"ValueError": "retry"}}, "policies: 'ValueError' is no exception class"),
        ({"policies": {KeyboardInterrupt: "retry"}}, "is no exception class"),
        ({"policies": [ValueError]}, "policies must map exception classes to policies"),
    ],
)
def test_a_wrong_queue_is_refused_with_a_sentence(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        WorkQueue(**{"name": "things", **wrong})
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_closest_class_decides_about_an_error() -> None:
    queue = WorkQueue("things", policies={Exception: "dead-letter", TransientError: "retry", KeyError: "discard"})
    assert queue.policy_for(KeyError("x")) == "discard"
    assert queue.policy_for(IndexError("x")) == "dead-letter"
    assert queue.policy_for(UnavailableError("sink", "here", "down")) == "retry"
    assert WorkQueue("things").policy_for(KeyError("x")) is None
    assert queue.policy_for(KeyboardInterrupt()) is None


def test_each_delay_is_twice_the_one_before_up_to_the_last() -> None:
    queue = WorkQueue("things", retry_first=SECOND, retry_last=5 * SECOND)
    assert [queue.delay_after(failures) / SECOND for failures in (0, 1, 2, 3, 4, 10**9)] == [1, 1, 2, 4, 5, 5]


@pytest.mark.parametrize("name", ["", "x" * 513, "a\nb", "nul\0", "\ud800", " x", "x "])
def test_an_id_that_could_not_be_kept_is_refused(name: str) -> None:
    assert not is_item_id(name)
    with pytest.raises(ItemRefusedError, match="1 to 512 printable characters"):
        QueueItem(b"", name)
