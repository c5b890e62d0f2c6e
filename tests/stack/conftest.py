"""Stacks of a test's own, and a look at them that shares no code with what is tested."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from starter.stack import Stack
from starter.stack.detached import stop_stack
from starter.stack.workers import python_path

PORT_SETTINGS = ("TEMPORAL_PORT", "TEMPORAL_UI_PORT", "POSTGRES_PORT", "S3_PORT", "NATS_PORT")
IDLE_WORKER = """
import asyncpg, asyncio, os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
asyncio.run(asyncpg.connect(os.environ["DATABASE_URL"]))
print("connected", flush=True)
while True:
    signal.pause()
"""

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def own_folder(short_folder: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Name a folder for one stack; whatever still runs there afterwards is stopped."""
    folder = short_folder / f"own-{abs(hash(request.node.nodeid)):x}"
    yield folder
    stop_stack(folder)


@pytest.fixture
def own_stack(own_folder: Path) -> Iterator[Stack]:
    """Start a stack, for tests that break more than one server."""
    stack = Stack(own_folder, environ={}, usual_ports=False)
    stack.start()
    yield stack
    stack.stop()


@pytest.fixture
def idle_workers(tmp_path: Path) -> Path:
    """Make a package `workers` that only connects and waits, so that these tests are about the supervisor alone."""
    package = tmp_path / "workers"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(IDLE_WORKER)
    return tmp_path


def clean_environment(**extra: str) -> dict[str, str]:
    """Give the environment of a child that no setting of the developer reaches."""
    environ = {name: value for name, value in os.environ.items() if name not in {*PORT_SETTINGS, "STACK_DIR"}}
    return environ | {"PYTHONPATH": python_path()} | extra


def supervisor_command(folder: Path, workers: int) -> list[str]:
    """Give what `starter up` comes down to."""
    return [sys.executable, "-m", "starter.stack", str(folder), str(workers)]


@contextlib.contextmanager
def killed_at_the_end(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Kill a process when the block ends, so that a failed assertion is told instead of waited for."""
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    """Poll until something holds; the limit only ends a test that failed anyway."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"still not: {what}"
        time.sleep(0.05)  # the pause between two looks at the condition


def processes_of(folder: Path) -> list[psutil.Process]:
    """Every process that mentions the folder in its command line, or works inside it."""
    found = []
    for process in psutil.process_iter():
        try:
            mentioned = any(str(folder) in part for part in process.cmdline())
            if process.pid != os.getpid() and (mentioned or process.cwd().startswith(str(folder))):
                found.append(process)
        except psutil.Error:
            continue
    return [process for process in found if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def kill_all(folder: Path) -> int:
    """Kill every process of the folder's stack at once, the supervisor first; say how many there were."""
    found = sorted(processes_of(folder), key=lambda process: "starter.stack" not in process.cmdline())
    for process in found:
        os.kill(process.pid, signal.SIGKILL)
    psutil.wait_procs(found, timeout=20)
    return len(found)


def occupy() -> socket.socket:
    """Listen on a port that the kernel chooses."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1)
    return listener
