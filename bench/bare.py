"""The least that a durable request can cost: one workflow with one local activity that does nothing.

`python -m bench.bare` is its worker, set up as the SDK's defaults are.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import activity, workflow

TASK_QUEUE = "bare"


@activity.defn
async def do_nothing(text: str) -> str:
    """Give back what it got."""
    return text


@workflow.defn
class Bare:
    """Run one local activity."""

    @workflow.run
    async def run(self, text: str) -> str:
        """Return what the activity returns."""
        return await workflow.execute_local_activity(do_nothing, text, start_to_close_timeout=timedelta(seconds=5))


async def work() -> None:
    """Run the worker until it is killed."""
    from temporalio.worker import Worker  # noqa: PLC0415  - the sandbox loads this module without a worker

    from stores.settings import load_settings  # noqa: PLC0415
    from workers.client import connect_temporal  # noqa: PLC0415

    client = await connect_temporal(load_settings())
    async with Worker(client, task_queue=TASK_QUEUE, workflows=[Bare], activities=[do_nothing]):
        print("worker ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(work())
