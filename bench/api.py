"""What the HTTP API adds to `submit`: the same records over HTTP and by the library, in turn, on the same servers."""

from __future__ import annotations

import asyncio
import http.client
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from statistics import median
from typing import TYPE_CHECKING

from bench.report import Measure
from bench.requests import CALLS, WARM_UP_CALLS, bodies, time_submit
from bench.servers import ROOT, WORKER_SECONDS, BenchError
from bench.tables import clear
from starter.api.keys import new_key
from workers.client import connect_temporal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.servers import Servers

GOAL_MS = 5.0
LISTENING = re.compile(r"listening on (http://\S+)")


@contextmanager
def serving(servers: Servers) -> Iterator[tuple[str, str]]:
    """Run one API process; gives its URL and a key."""
    token, key = new_key("bench", "orders")
    path = servers.folder / "api.log"
    with path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "starter", "api", "--port", "0"],
            cwd=ROOT,
            env=servers.environ | {"API_KEYS": key.line()},
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + WORKER_SECONDS
        while not (found := LISTENING.search(path.read_text(errors="replace"))):
            if process.poll() is not None or time.monotonic() > deadline:
                message = f"the API did not start:\n{path.read_text(errors='replace')[-2000:]}"
                raise BenchError(message)
            time.sleep(0.05)
        yield found[1], token
    finally:
        process.terminate()
        process.wait(60)


def time_post(connection: http.client.HTTPConnection, token: str, body: str) -> float:
    """Post one record over a connection that stays open; returns seconds.

    The client is the standard library's, which waits without a loop: others take milliseconds of their own.
    """
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    started = time.perf_counter()
    connection.request("POST", "/pipelines/orders/records", body, headers)
    response = connection.getresponse()
    text = response.read()
    seconds = time.perf_counter() - started
    if response.status != http.HTTPStatus.CREATED:
        message = f"a post ended otherwise than it should: {response.status} {text.decode()}"
        raise BenchError(message)
    return seconds


async def measure_rounds(servers: Servers, rounds: int) -> Measure:
    """Call one after the other, alternating call by call, so that both meet the same server."""
    client = await connect_temporal(servers.settings)
    texts = iter(bodies(2 * (WARM_UP_CALLS + rounds * CALLS)))
    library: list[float] = []
    ours: list[float] = []
    added: list[float] = []
    with serving(servers) as (url, token):
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
        for _ in range(WARM_UP_CALLS):
            await time_submit(client, servers, next(texts))
            time_post(connection, token, next(texts))
        for turn in range(1, rounds + 1):
            pairs = [
                (await time_submit(client, servers, next(texts)), time_post(connection, token, next(texts)))
                for _ in range(CALLS)
            ]
            # The difference of each pair: both met the same moment of the same machine.
            added.append(median(pair[1] - pair[0] for pair in pairs) * 1000)
            library.append(median(pair[0] for pair in pairs))
            ours.append(median(pair[1] for pair in pairs))
            print(f"round {turn}: submit {library[-1] * 1000:.1f} ms, API {ours[-1] * 1000:.1f} ms (p50)", flush=True)
        connection.close()
    return Measure(
        name="API - submit, p50 of pairs, ms",
        value=median(added),
        goal=GOAL_MS,
        detail=f"{median(ours) * 1000:.1f} ms against {median(library) * 1000:.1f} ms",
        samples=tuple(added),
    )


def measure_api(servers: Servers, rounds: int) -> list[Measure]:
    """Measure with the workers that run already."""
    asyncio.run(clear(servers.dsn, "orders"))
    return [asyncio.run(measure_rounds(servers, rounds))]
