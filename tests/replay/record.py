"""Record histories: `python -m tests.replay.record NAME ...` for new ones, without a name all of them anew.

Do the latter after a change of a workflow that is meant to break running ones, never to make a failing replay pass: a
history that does not replay any more stands for the runs of every user.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from temporalio.client import WorkflowFailureError, WorkflowUpdateFailedError

from contracts.consume import ConsumeChange
from contracts.dead_letters import DeadLetterFilter, DiscardDeadLetter, RetryDeadLetter
from contracts.loads import LoadOptions, RejectLimit
from tests.workflows.world import (
    BROKEN,
    DECLARED,
    World,
    open_world,
    orders,
    parked,
    start_environment,
    stored_behind_its_back,
    until,
)
from workers.parking import TemporalParking
from workflows.consume import Consume
from workflows.enqueue import Enqueue
from workflows.parking import Parked
from workflows.redrive import Redrive

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from temporalio.client import WorkflowHandle

    from contracts.ports import Item, ItemOutcome
    from contracts.table import Table

FOLDER = Path(__file__).parent / "histories"
SMALL = 64
WAIT = LoadOptions(on_rejects="wait")


async def submit_committed(world: World) -> list[WorkflowHandle[Any, Any]]:
    handle = await world.submit({"number": 1, "amount": 5}, key="one")
    await handle.result()
    return [handle]


async def submit_rejected(world: World) -> list[WorkflowHandle[Any, Any]]:
    handle = await world.submit({"number": 1, "amount": -5}, key="two")
    await ended(handle)
    return [handle]


async def submit_after_outage(world: World) -> list[WorkflowHandle[Any, Any]]:
    world.sink.outage = timedelta(minutes=10)
    handle = await world.submit({"number": 2, "amount": 5}, key="three")
    await handle.result()
    return [handle]


async def submit_logged(world: World) -> list[WorkflowHandle[Any, Any]]:
    handles = [
        await world.submit({"number": 1, "amount": 5}, key="four", pipeline="logged"),
        await world.submit({"number": 1, "amount": -5}, key="five", pipeline="logged"),
    ]
    await handles[0].result()
    await ended(handles[1])
    return handles


async def submit_refused_by_its_log(world: World) -> list[WorkflowHandle[Any, Any]]:
    world.log.down = True
    handle = await world.submit({"number": 1, "amount": 5}, key="six", pipeline="logged")
    await ended(handle)
    return [handle]


async def submit_logged_after_outage(world: World) -> list[WorkflowHandle[Any, Any]]:
    write = world.sink.write

    async def breaking(table: Table, items: Sequence[Item], *, records: bool = True) -> list[ItemOutcome]:
        found = await write(table, items, records=records)
        world.log.outage = timedelta(minutes=10)
        return found

    world.sink.write = breaking  # type: ignore[method-assign]
    handle = await world.submit({"number": 1, "amount": 5}, key="seven", pipeline="logged")
    await handle.result()
    return [handle]


async def submit_logged_though_cancelled(world: World) -> list[WorkflowHandle[Any, Any]]:
    assert world.env is not None
    world.queue.down = True
    with world.env.with_time_skipping_disabled():
        handle = await world.submit({"number": 1, "amount": 5}, key="eight", pipeline="queued")
    await asyncio.sleep(1.5)
    await handle.cancel()
    await asyncio.sleep(0.5)
    world.queue.down = False
    await handle.result()
    return [handle]


async def submit_logged_through_queue(world: World) -> list[WorkflowHandle[Any, Any]]:
    handle = await world.submit({"number": 1, "amount": 5}, key="nine", pipeline="queued")
    await handle.result()
    return [handle]


async def enqueue_logged(world: World) -> list[WorkflowHandle[Any, Any]]:
    handles = [
        await world.enqueue({"number": 1, "amount": 5}, key="ten", pipeline="logged"),
        await world.enqueue({"number": 1, "amount": -5}, key="eleven", pipeline="queued"),
    ]
    await handles[0].result()
    while not (await world.queue.fetch(DECLARED["queued_log"].work_queue, 1, timedelta(seconds=1))):
        pass
    await handles[1].execute_update(Enqueue.discard, DiscardDeadLetter(reason="recorded"))
    await ended(handles[1])
    return [*handles]


async def upload_completed(world: World) -> list[WorkflowHandle[Any, Any]]:
    handle = await world.upload(orders(60, wrong=[4]), chunk_bytes=SMALL)
    await handle.result()
    return [handle]


async def upload_in_order(world: World) -> list[WorkflowHandle[Any, Any]]:
    handle = await world.upload(orders(30), pipeline="unique_orders", chunk_bytes=SMALL)
    await handle.result()
    return [handle]


async def upload_corrected(world: World) -> list[WorkflowHandle[Any, Any]]:
    handle = await world.upload(orders(30, wrong=[4, 5]), WAIT, chunk_bytes=SMALL)
    await until(handle, "waiting")
    await ended_update(world, handle, "other,header\n1,2\n")
    await world.resume(handle, "number,amount\n4,1\n5,-1\n")
    await until(handle, "waiting")
    await world.resume(handle)
    await handle.result()
    return [handle]


async def upload_stopped(world: World) -> list[WorkflowHandle[Any, Any]]:
    limited = LoadOptions(max_rejects=RejectLimit(value=0, percent=False))
    handle = await world.upload(orders(30, wrong=[4]), limited, chunk_bytes=SMALL)
    await handle.result()
    return [handle]


async def upload_refused(world: World) -> list[WorkflowHandle[Any, Any]]:
    handle = await world.upload("")
    await ended(handle)
    return [handle]


async def upload_cancelled(world: World) -> list[WorkflowHandle[Any, Any]]:
    handle = await world.upload(orders(30, wrong=[4]), WAIT, chunk_bytes=SMALL)
    await until(handle, "waiting")
    await handle.cancel()
    await ended(handle)
    return [handle]


async def upload_cancelled_in_outage(world: World) -> list[WorkflowHandle[Any, Any]]:
    assert world.env is not None
    world.sink.down = True
    with world.env.with_time_skipping_disabled():
        handle = await world.upload(orders(30), chunk_bytes=SMALL)
    await asyncio.sleep(2)
    await handle.cancel()
    await ended(handle)
    world.sink.down = False
    return [handle]


async def upload_continued(world: World) -> list[WorkflowHandle[Any, Any]]:
    handle = await world.upload(orders(60), chunk_bytes=SMALL, chunks_per_run=3)
    await handle.result()
    first = world.client.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id)
    return [first, world.client.get_workflow_handle(handle.id)]


async def upload_packed(world: World) -> list[WorkflowHandle[Any, Any]]:
    handle = await world.upload(gzip.compress(orders(30, wrong=[4]).encode()), chunk_bytes=SMALL)
    await handle.result()
    return [handle]


async def upload_packed_cancelled(world: World) -> list[WorkflowHandle[Any, Any]]:
    handle = await world.upload(gzip.compress(orders(30, wrong=[4]).encode()), WAIT, chunk_bytes=SMALL)
    await until(handle, "waiting")
    await handle.cancel()
    await ended(handle)
    return [handle]


async def upload_started_again(world: World) -> list[WorkflowHandle[Any, Any]]:
    given = (await world.store("number,amount\n4,1\n5,-1\n"), await world.store("number,amount\n5,1\n"))
    handle = await world.upload(orders(30, wrong=[4, 5]), WAIT, corrections=given, chunk_bytes=SMALL)
    await handle.result()
    return [handle]


async def enqueue_stored(world: World) -> list[WorkflowHandle[Any, Any]]:
    handle = await world.enqueue({"number": 1, "amount": 5}, key="four")
    await handle.result()
    return [handle]


async def enqueue_after_outage(world: World) -> list[WorkflowHandle[Any, Any]]:
    world.sink.outage = timedelta(minutes=10)
    handle = await world.enqueue({"number": 1, "amount": 5}, key="five")
    await handle.result()
    return [handle]


async def enqueue_conflict(world: World) -> list[WorkflowHandle[Any, Any]]:
    await (await world.enqueue({"number": 1, "amount": 5}, key="six")).result()
    handle = await world.enqueue({"number": 1, "amount": 6}, key="six")
    await ended(handle)
    return [handle]


async def enqueue_corrected(world: World) -> list[WorkflowHandle[Any, Any]]:
    handle = await world.enqueue({"number": 1, "amount": -5}, key="seven")
    await parked(handle)
    await handle.execute_update(Parked.retry, RetryDeadLetter(who="tester"))
    await handle.execute_update(Parked.retry, RetryDeadLetter(record={"number": 2, "amount": 5}))
    await handle.result()
    return [handle]


async def enqueue_discarded(world: World) -> list[WorkflowHandle[Any, Any]]:
    handle = await world.enqueue({"number": 1, "amount": -5}, key="eight")
    await parked(handle)
    await handle.execute_update(Parked.discard, DiscardDeadLetter(reason="no longer wanted"))
    await ended(handle)
    return [handle]


async def enqueue_discarded_by_receipt(world: World) -> list[WorkflowHandle[Any, Any]]:
    wanted = await world.enqueue({"number": 1, "amount": -5}, key="eleven")
    await parked(wanted)
    await wanted.execute_update(Parked.discard, DiscardDeadLetter(reason="no longer wanted"))
    await ended(wanted)
    BROKEN.add(1)
    stored = await world.enqueue({"number": 1, "amount": 5}, key="twelve")
    await stored_behind_its_back(world, (await parked(stored)).request)
    await stored.execute_update(Parked.discard, DiscardDeadLetter(reason="no longer wanted"))
    await stored.result()
    return [wanted, stored]


async def enqueue_cancelled(world: World) -> list[WorkflowHandle[Any, Any]]:
    handle = await world.enqueue({"number": 1, "amount": -5}, key="nine")
    await parked(handle)
    await handle.cancel()
    await ended(handle)
    return [handle]


async def enqueue_continued(world: World) -> list[WorkflowHandle[Any, Any]]:
    handle = await world.enqueue({"number": 1, "amount": -5}, key="ten", tries_per_run=1)
    await parked(handle)
    latest = world.client.get_workflow_handle(handle.id)
    await latest.execute_update(Parked.retry, RetryDeadLetter(who="tester"))
    await parked(latest, attempts=2)
    await latest.execute_update(Parked.retry, RetryDeadLetter(record={"number": 2, "amount": 5}))
    await handle.result()
    return [world.client.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id), latest]


async def deadletter_stored(world: World) -> list[WorkflowHandle[Any, Any]]:
    BROKEN.add(1)
    handle = world.client.get_workflow_handle((await world.bury(1)).ticket)
    await handle.execute_update(Parked.retry, RetryDeadLetter(who="tester"))
    BROKEN.clear()
    world.sink.outage = timedelta(minutes=10)
    await handle.execute_update(Parked.retry, RetryDeadLetter(who="tester"))
    await handle.result()
    return [handle]


async def deadletter_large(world: World) -> list[WorkflowHandle[Any, Any]]:
    await world.objects.put("dead/1", b'{"number": 9, "amount": 5}')
    handle = world.client.get_workflow_handle((await world.bury(9, body=None, body_key="dead/1")).ticket)
    await handle.execute_update(Parked.retry, RetryDeadLetter(who="tester"))
    await handle.result()
    return [handle]


async def deadletter_discarded(world: World) -> list[WorkflowHandle[Any, Any]]:
    handle = world.client.get_workflow_handle((await world.bury(1)).ticket)
    await parked(handle)
    # It is not followed.
    await handle.cancel()
    await asyncio.sleep(0.5)
    await handle.execute_update(Parked.discard, DiscardDeadLetter(reason="no longer wanted"))
    await handle.result()
    return [handle]


async def deadletter_continued(world: World) -> list[WorkflowHandle[Any, Any]]:
    letter = await world.bury(1, b"no json", tries_per_run=1)
    latest = world.client.get_workflow_handle(letter.ticket)
    first = (await latest.describe()).run_id
    await latest.execute_update(Parked.retry, RetryDeadLetter(who="tester"))
    await parked(latest, attempts=6)
    await latest.execute_update(Parked.retry, RetryDeadLetter(record={"number": 2, "amount": 5}))
    await latest.result()
    return [world.client.get_workflow_handle(letter.ticket, run_id=first), latest]


async def redrive_continued(world: World) -> list[WorkflowHandle[Any, Any]]:
    await buried(world, 6)
    BROKEN.add(3)
    handle = await world.redrive(f"Kind{id(world)}", rate=2, rounds_per_run=2)
    await handle.result()
    first = world.client.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id)
    return [first, world.client.get_workflow_handle(handle.id)]


async def redrive_stopped(world: World) -> list[WorkflowHandle[Any, Any]]:
    await buried(world, 22)
    BROKEN.update(range(22))
    handle = await world.redrive(f"Kind{id(world)}")
    await handle.result()
    return [handle]


async def redrive_paused_and_cancelled(world: World) -> list[WorkflowHandle[Any, Any]]:
    assert world.env is not None
    await buried(world, 4)
    with world.env.with_time_skipping_disabled():
        handle = await world.redrive(f"Kind{id(world)}", rate=0.5)
        await handle.execute_update(Redrive.pause)
        await asyncio.sleep(3)
        await handle.execute_update(Redrive.resume)
        await asyncio.sleep(1)
        await handle.cancel()
        await ended(handle)
    return [handle]


async def consume_drained(world: World) -> list[WorkflowHandle[Any, Any]]:
    await world.send(*range(50))
    handle = await world.consume(drain=True)
    await handle.result()
    return [handle]


async def consume_stopped(world: World) -> list[WorkflowHandle[Any, Any]]:
    handle = await world.consume()
    await world.send(*range(50))
    await handle.execute_update(Consume.configure, ConsumeChange(workers=3, batch=10))
    await asyncio.sleep(1)
    await handle.execute_update(Consume.stop)
    await handle.result()
    return [handle]


async def consume_paused(world: World) -> list[WorkflowHandle[Any, Any]]:
    world.sink.outage = timedelta(minutes=10)
    await world.send(*range(50))
    handle = await world.consume(drain=True, longest_pause=60.0)
    await handle.result()
    return [handle]


async def consume_continued(world: World) -> list[WorkflowHandle[Any, Any]]:
    await world.send(*range(50))
    handle = await world.consume(turns_per_run=3)
    await asyncio.sleep(2)
    current = world.client.get_workflow_handle(handle.id)
    await current.execute_update(Consume.finish)
    await current.result()
    first = world.client.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id)
    return [first, current]


async def consume_cancelled(world: World) -> list[WorkflowHandle[Any, Any]]:
    handle = await world.consume(turn_seconds=30.0)
    await asyncio.sleep(1)
    await handle.cancel()
    await ended(handle)
    return [handle]


SCENARIOS: tuple[Callable[[World], Awaitable[list[WorkflowHandle[Any, Any]]]], ...] = (
    submit_committed,
    submit_rejected,
    submit_after_outage,
    submit_logged,
    submit_refused_by_its_log,
    submit_logged_after_outage,
    submit_logged_though_cancelled,
    submit_logged_through_queue,
    enqueue_logged,
    upload_completed,
    upload_in_order,
    upload_corrected,
    upload_stopped,
    upload_refused,
    upload_cancelled,
    upload_cancelled_in_outage,
    upload_continued,
    upload_packed,
    upload_packed_cancelled,
    upload_started_again,
    consume_drained,
    consume_stopped,
    consume_paused,
    consume_continued,
    consume_cancelled,
    enqueue_stored,
    enqueue_after_outage,
    enqueue_conflict,
    enqueue_corrected,
    enqueue_discarded,
    enqueue_discarded_by_receipt,
    enqueue_cancelled,
    enqueue_continued,
    deadletter_stored,
    deadletter_large,
    deadletter_discarded,
    deadletter_continued,
    redrive_continued,
    redrive_stopped,
    redrive_paused_and_cancelled,
)


async def buried(world: World, count: int) -> None:
    """Park so many dead letters, and wait until visibility knows them, and none of an earlier scenario."""
    for number in range(count):
        await world.bury(number, kind=f"Kind{id(world)}")
    parking = TemporalParking(world.client)
    for _ in range(200):
        if len((await parking.find(DeadLetterFilter(error_type=f"Kind{id(world)}"), 1000)).tickets) == count:
            return
        await asyncio.sleep(0.05)
    message = "visibility does not know the dead letters"
    raise AssertionError(message)


async def ended(handle: WorkflowHandle[Any, Any]) -> None:
    """Wait for an end that is no success."""
    try:
        await handle.result()
    except WorkflowFailureError:
        return
    message = f"{handle.id} was meant to fail"
    raise AssertionError(message)


async def ended_update(world: World, handle: WorkflowHandle[Any, Any], text: str) -> None:
    """Send a correction that is refused."""
    try:
        await world.resume(handle, text)
    except WorkflowUpdateFailedError:
        return
    message = "the correction was meant to be refused"
    raise AssertionError(message)


def tidy(history: str) -> str:
    """Print a history readably, without what belongs to the recording machine."""
    document = json.loads(history)

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if isinstance(value.get("identity"), str):
                value["identity"] = "recorded"
            # Stack traces name the folders of the machine, and no replay reads them.
            value.pop("stackTrace", None)
            for item in value.values():
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)

    walk(document)
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


async def record(names: Sequence[str]) -> None:
    """Run the named scenarios, or every one, against a fresh server and write down their histories."""
    await asyncio.to_thread(FOLDER.mkdir, exist_ok=True)
    async with await start_environment() as env:
        for scenario in SCENARIOS:
            if names and scenario.__name__ not in names:
                continue
            async with open_world(env) as world:
                handles = await scenario(world)
                for number, handle in enumerate(handles, start=1):
                    suffix = f"_{number}" if len(handles) > 1 else ""
                    path = FOLDER / f"{scenario.__name__}{suffix}.json"
                    history = await handle.fetch_history()
                    await asyncio.to_thread(path.write_text, tidy(history.to_json()))
                    print(f"{path.name}: {len(history.events)} events")


if __name__ == "__main__":
    asyncio.run(record(sys.argv[1:]))
