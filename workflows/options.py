"""The only home of task queues, search attributes, retention, timeouts and retries.

Guarantee: a step is either tried until it succeeds or ended by a terminal error; no outage, however long, exhausts a
retry policy. The exceptions, `CLEAR_UP` and `LOG_INTENT`, can be given up without loss. Each kind of step has one named
policy here, and workflows use nothing else.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, TypedDict

from temporalio.common import RetryPolicy, SearchAttributeKey
from temporalio.workflow import ActivityCancellationType, LocalActivityConfig

if TYPE_CHECKING:
    from datetime import datetime


class Step(TypedDict, total=False):
    """How a regular activity is run: all of it except its input and its summary."""

    task_queue: str
    start_to_close_timeout: timedelta
    schedule_to_close_timeout: timedelta
    heartbeat_timeout: timedelta
    retry_policy: RetryPolicy
    cancellation_type: ActivityCancellationType


PIPELINES = "pipelines"
"""Task queue of workflows and requests: short steps, answered at once."""

LOADS = "pipelines-load"
"""Task queue of loads: seconds of work each, one at a time in a process."""

FILES = "pipelines-files"
"""Task queue of steps that look at files; unpacking a large one must not keep a process from loading."""

CONSUMERS = "pipelines-consume"
"""Task queue of queue workers: each turn lasts about a minute, and mostly waits."""

PIPELINE: SearchAttributeKey[str] = SearchAttributeKey.for_keyword("Pipeline")
PATTERN: SearchAttributeKey[str] = SearchAttributeKey.for_keyword("Pattern")
STATUS: SearchAttributeKey[str] = SearchAttributeKey.for_keyword("PipelineStatus")
ERROR_TYPE: SearchAttributeKey[str] = SearchAttributeKey.for_keyword("ErrorType")

SEARCH_ATTRIBUTES: tuple[SearchAttributeKey[str] | SearchAttributeKey[datetime], ...] = (
    PIPELINE,
    PATTERN,
    STATUS,
    ERROR_TYPE,
)
"""All that a server needs to have registered."""

RETENTION = timedelta(days=30)
"""How long a server keeps closed runs: for as long, it knows a repeated request or file by its id, result included."""

UNTIL_IT_WORKS = RetryPolicy(
    initial_interval=timedelta(seconds=1),
    backoff_coefficient=2.0,
    maximum_interval=timedelta(minutes=1),
    maximum_attempts=0,
)
"""Tried without limit: an outage delays work and never fails it. A minute bounds the wait after it is over."""

A_FEW_QUICK_TRIES = RetryPolicy(
    initial_interval=timedelta(milliseconds=100),
    backoff_coefficient=3.0,
    maximum_interval=timedelta(seconds=1),
    maximum_attempts=3,
)
"""Hides a blip, such as a connection that the server closed, from the caller and from history."""

STORE_AT_ONCE = LocalActivityConfig(
    start_to_close_timeout=timedelta(seconds=2),
    # Below the ten seconds of a workflow task, so that a local try never holds one open by its heartbeat for long.
    schedule_to_close_timeout=timedelta(seconds=5),
    retry_policy=A_FEW_QUICK_TRIES,
)
"""One short idempotent write within the workflow task: it costs no round trip through a task queue."""

STORE_PATIENTLY = Step(
    start_to_close_timeout=timedelta(seconds=30),
    retry_policy=UNTIL_IT_WORKS,
)
"""The same write as a regular activity: the Web UI shows each failed attempt and the next one's time."""

LOG_INTENT = LocalActivityConfig(
    start_to_close_timeout=timedelta(seconds=2),
    schedule_to_close_timeout=timedelta(seconds=5),
    retry_policy=RetryPolicy(
        initial_interval=timedelta(milliseconds=100),
        backoff_coefficient=2.0,
        maximum_interval=timedelta(seconds=1),
        maximum_attempts=6,
    ),
)
"""Log a request before its record is written, or refuse it within seconds: long enough for a restart of PostgreSQL,
and shorter than callers wait for an answer. Nothing was written yet, so giving up loses nothing."""

LOG_AT_ONCE = STORE_AT_ONCE
"""Log an outcome as a record is stored: at once, if the log answers."""

LOG_PATIENTLY = STORE_PATIENTLY
"""The same as a regular activity, without limit: what was decided is in the log before the run ends."""
GIVE_UP = Step(
    start_to_close_timeout=timedelta(seconds=30),
    retry_policy=UNTIL_IT_WORKS,
)
"""Note in the application database that a record was given up."""

FIND_STORED = Step(
    start_to_close_timeout=timedelta(seconds=30),
    retry_policy=UNTIL_IT_WORKS,
)
"""Read from its receipt whether a request was stored after all, before it is said that it was not."""

FIND_LETTERS = Step(
    start_to_close_timeout=timedelta(minutes=1),
    retry_policy=UNTIL_IT_WORKS,
)
"""Ask Temporal for a page of dead letters, or for their number."""

HEARTBEAT = timedelta(seconds=15)
"""How long a killed worker's step stays unnoticed; steps report more often by themselves."""

READ_FILE = Step(
    task_queue=FILES,
    # A compressed file is unpacked in one such step, whatever its size.
    start_to_close_timeout=timedelta(hours=12),
    heartbeat_timeout=HEARTBEAT,
    retry_policy=UNTIL_IT_WORKS,
)
"""Inspect a file, or plan its next chunks."""

LOAD_CHUNK = Step(
    task_queue=LOADS,
    start_to_close_timeout=timedelta(hours=1),
    heartbeat_timeout=HEARTBEAT,
    retry_policy=UNTIL_IT_WORKS,
    # A cancelled load counts what it committed, so it has to hear how each chunk in flight ended.
    cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
)
"""Load or check one chunk."""

CONSUME = Step(
    task_queue=CONSUMERS,
    # A turn lasts about a minute, and longer only where single items do. Whoever hangs is found by this.
    start_to_close_timeout=timedelta(minutes=10),
    heartbeat_timeout=HEARTBEAT,
    retry_policy=UNTIL_IT_WORKS,
    # A consumer that is told to stop finishes its windows, and what it did is counted.
    cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
)
"""One turn of a consumer."""

PROBE = CONSUME
"""One small window, to see whether an outage is over."""

FIRST_PAUSE = timedelta(seconds=1)
"""The first wait after an outage was noticed; each further one is twice as long, up to a minute."""

RETRY_LETTERS = Step(
    # A try waits for a sink that is away, and this step with it; begun anew, it finds the same tries.
    start_to_close_timeout=timedelta(hours=12),
    heartbeat_timeout=HEARTBEAT,
    retry_policy=UNTIL_IT_WORKS,
)
"""Ask some dead letters to try again, and wait for what comes of it."""

CLEAR_UP = Step(
    start_to_close_timeout=timedelta(seconds=10),
    # What is left behind costs space until a lifecycle rule removes it; an end that hangs costs an operator's time.
    schedule_to_close_timeout=timedelta(seconds=30),
    retry_policy=UNTIL_IT_WORKS,
)
"""Remove the objects that a load alone used, once it is over."""

LAST_CHUNKS = timedelta(seconds=10)
"""How long the chunks in flight may end by themselves when a load ends early, before they are told to stop."""

CHUNKS_IN_FLIGHT = 4
"""Chunks of one load at a time: for each of two worker processes the one it loads, and one that waits for it."""

FIRST_WINDOW = 2
LARGEST_WINDOW = 32
"""Chunks planned at once. The first window is small, because no row is loaded before it is planned."""
