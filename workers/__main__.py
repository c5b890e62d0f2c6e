"""`python -m workers`: one worker process, which takes requests and loads until it is told to stop.

Guarantee: a wrong declaration stops it at once with one sentence; a service that is down does not, it is waited
for. SIGTERM and SIGINT let steps in progress finish.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig

from activities.rows import tune_collector
from contracts.errors import DeclarationError, TransientError
from contracts.registry import load_pipelines
from stores import connect
from stores.settings import load_settings
from workers.build import build_workers
from workers.client import connect_temporal
from workflows.options import FILES, LOADS, PIPELINES

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from temporalio.client import Client
    from temporalio.worker import Worker

    from contracts.pipeline import Pipeline
    from contracts.ports import Sink
    from stores.settings import Settings

log = logging.getLogger("workers")

FAILED = 1
WRONG_USAGE = 2
PREPARE_SECONDS = 5.0
LONGEST_PAUSE = 5.0


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m workers", description="Run one worker process.")
    parser.add_argument("--pipelines", help="declarations to load, such as package.module[:name]; default: PIPELINES")
    parser.add_argument(
        "--metrics",
        default=os.environ.get("METRICS_ADDRESS", ""),
        help="serve Prometheus metrics on this host:port; default: METRICS_ADDRESS, else none",
    )
    # For crash tests, which have to fail without this safeguard.
    parser.add_argument("--without-receipts", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


async def prepare_tables(sink: Sink, pipelines: Mapping[str, Pipeline]) -> None:
    """Create or verify every pipeline's table, if the sink answers; otherwise each is verified before its use.

    Raises `TableMismatchError`.
    """
    try:
        async with asyncio.timeout(PREPARE_SECONDS):
            for pipeline in pipelines.values():
                await sink.prepare(pipeline.table)
    except TransientError as error:
        log.warning("%s; starting all the same, tables are verified when it answers", error)
    except TimeoutError:
        log.warning("the sink does not answer; starting all the same, tables are verified when it does")


async def connect_patiently(settings: Settings, runtime: Runtime | None) -> Client:
    """Connect to Temporal, waiting for it as long as it takes."""
    pause = 0.2
    while True:
        try:
            return await connect_temporal(settings, runtime=runtime)
        except RuntimeError as error:
            # The client's own text is a chain of transport errors; only a debugging eye wants it.
            log.warning("waiting for Temporal at %s, which does not answer", settings.temporal_address)
            log.debug("%s", error)
        await asyncio.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)


async def run_until(stop: asyncio.Event, workers: Sequence[Worker]) -> None:
    """Run workers until `stop` is set, then let their steps finish. Raises what ended one of them too early."""
    runs = [asyncio.create_task(worker.run()) for worker in workers]
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([*runs, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    # A worker that ended by itself must not be shut down once more; it has an error to tell instead.
    await asyncio.gather(*(worker.shutdown() for worker, run in zip(workers, runs, strict=True) if not run.done()))
    await asyncio.gather(*runs)


async def run_process(settings: Settings, options: argparse.Namespace, pipelines: Mapping[str, Pipeline]) -> None:
    """Open the stores, connect, and work until a signal comes."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    runtime = None
    if options.metrics:
        runtime = Runtime(telemetry=TelemetryConfig(metrics=PrometheusConfig(bind_address=options.metrics)))
    async with connect(settings, receipts=not options.without_receipts) as stores:
        await prepare_tables(stores.sink, pipelines)
        connecting = asyncio.create_task(connect_patiently(settings, runtime))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([connecting, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not connecting.done():
            connecting.cancel()
            with suppress(asyncio.CancelledError):
                await connecting
            return
        workers = build_workers(await connecting, pipelines, stores)
        log.info(
            "worker ready: pipelines %s; task queues %s, %s, %s; Temporal at %s",
            ", ".join(sorted(pipelines)),
            PIPELINES,
            FILES,
            LOADS,
            settings.temporal_address,
        )
        await run_until(stop, workers)
    log.info("worker stopped")


def run_loop(main: Coroutine[object, object, None]) -> None:
    """Run the event loop, the faster one where it is installed."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    with suppress(ImportError):
        import uvloop  # noqa: PLC0415  - optional: there is none for Windows

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one worker process; returns its exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    options = arguments(argv)
    tune_collector()
    try:
        settings = load_settings()
        pipelines = load_pipelines(options.pipelines or settings.pipelines)
        run_loop(run_process(settings, options, pipelines))
    except (DeclarationError, ValueError) as error:
        # One sentence: what is wrong is the declaration or a setting, not this program.
        print(f"workers: {error}", file=sys.stderr)  # noqa: T201
        return WRONG_USAGE
    except RuntimeError as error:
        log.error("the worker cannot go on: %s", str(error).splitlines()[0])  # noqa: TRY400  - no traceback
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
