"""`python -m bench`: measure against raw COPY and a bare workflow, and print ratios beside their goals.

It starts a stack of its own, away from any other, and never fails for being slow: only for being wrong.
"""

from __future__ import annotations

import argparse
import signal
import sys
from typing import TYPE_CHECKING

from bench.api import measure_api
from bench.consume import measure_consume
from bench.loads import measure_memory, measure_speed, warm_up
from bench.orders import write_orders
from bench.report import Measure, save, show
from bench.requests import measure_enqueue, measure_submit
from bench.servers import BenchError, running

if TYPE_CHECKING:
    from collections.abc import Sequence

PARTS = ("enqueue", "load", "submit", "api", "consume", "memory")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the file (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default: %(default)s)")
    parser.add_argument("--only", choices=PARTS, action="append", help="measure this part; may be repeated")
    return parser.parse_args()


def main() -> int:
    """Measure what was asked for; returns the exit status."""
    options = arguments()
    parts = options.only or PARTS
    # What was started has to be stopped as well when the benchmark is told to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    measures: list[Measure] = []
    try:
        if "enqueue" in parts:
            with running() as servers:
                measures += measure_enqueue(servers, options.rounds)
        if set(parts) != {"enqueue"}:
            measures += measure_with_workers(options, parts)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    show(measures)
    print(f"written to {save(measures, rows=options.rows, rounds=options.rounds, workers=options.workers)}")
    return 0


def measure_with_workers(options: argparse.Namespace, parts: Sequence[str]) -> list[Measure]:
    """Measure what takes workers, all on one stack."""
    measures: list[Measure] = []
    with running() as servers:
        path = servers.folder / "orders.csv"
        write_orders(path, options.rows)
        print(f"{options.rows:,} rows, {path.stat().st_size / 1e6:.0f} MB, {options.workers} workers", flush=True)
        servers.start_workers(options.workers)
        warm_up(servers)
        if "load" in parts:
            measures += measure_speed(servers, path, options.rows, options.rounds)
        if "submit" in parts:
            measures += measure_submit(servers, options.rounds)
        if "api" in parts:
            measures += measure_api(servers, options.rounds)
        if "consume" in parts:
            measures += measure_consume(servers, options.rounds, options.workers)
        if "memory" in parts:
            measures += measure_memory(servers, path, options.rows, options.workers)
    return measures


if __name__ == "__main__":
    sys.exit(main())
