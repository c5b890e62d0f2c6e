"""deploy/nats.conf, started by the real server: what the compose file says of the broker is what it does."""

from __future__ import annotations

import asyncio
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError

import nats
import nats.errors
import pytest

from starter.stack.nats_server import MAX_PAYLOAD
from starter.stack.server import binary
from tests.deploy import compose
from tests.stack.conftest import killed_at_the_end, occupy, wait_for

pytestmark = pytest.mark.asyncio

SERVICE = compose.load(compose.filled())["services"]["nats"]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """Run the file with ports and a folder of the test's own; give the ports of clients and of the health check."""
    with occupy() as first, occupy() as second:
        ports = first.getsockname()[1], second.getsockname()[1]
    text = (compose.ROOT / "deploy/nats.conf").read_text()
    for there, here in (
        ("port: 4222", f"host: 127.0.0.1\nport: {ports[0]}"),
        ("127.0.0.1:8222", f"127.0.0.1:{ports[1]}"),
        ("store_dir: /data", f"store_dir: {tmp_path}"),
    ):
        assert text.count(there) == 1
        text = text.replace(there, here)
    file = tmp_path / "nats.conf"
    file.write_text(text)
    line = [binary("nats-server"), "--config", str(file)]
    with killed_at_the_end(subprocess.Popen(line, env=compose.environment(SERVICE), stderr=subprocess.DEVNULL)):
        wait_for(lambda: healthy(ports[1]), "a healthy broker", seconds=20)
        yield ports


def healthy(port: int) -> bool:
    """Ask what the health check of the compose file asks."""
    url = str(SERVICE["healthcheck"]["test"][-1])
    assert "127.0.0.1:8222/" in url
    try:
        with urllib.request.urlopen(url.replace("8222", str(port)), timeout=2) as response:  # noqa: S310  - loopback
            return bool(response.status == 200)
    except URLError:
        return False


async def test_the_settings_of_the_workers_open_it_with_jetstream_and_the_size_of_the_stacks(
    broker: tuple[int, int],
) -> None:
    url = compose.environment(compose.load(compose.filled())["services"]["worker"])["NATS_URL"]
    connection = await nats.connect(url.replace("nats:4222", f"127.0.0.1:{broker[0]}"))
    try:
        await connection.jetstream().account_info()
        assert connection.max_payload == MAX_PAYLOAD
    finally:
        await connection.close()


async def test_nobody_enters_without_the_password(broker: tuple[int, int]) -> None:
    async def ignore(_: Exception) -> None:
        await asyncio.sleep(0)

    for url in (f"nats://127.0.0.1:{broker[0]}", f"nats://pipelines:wrong@127.0.0.1:{broker[0]}"):
        with pytest.raises(nats.errors.Error, match="Authorization"):
            await nats.connect(url, allow_reconnect=False, error_cb=ignore)
