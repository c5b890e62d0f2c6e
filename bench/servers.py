"""What is measured: a stack of its own, worker processes, and the command line as a user calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from starter.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stores.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
WORKER_SECONDS = 30.0
STUCK_SECONDS = 3600.0
"""Steps are tried without limit, so a broken one would be waited for without end."""

READY = "worker ready"


class BenchError(Exception):
    """A measurement cannot be trusted, so there is none."""


class Servers:
    """A running stack, and what is started against it."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.folder = folder
        self.settings: Settings = stack.settings
        self.environ = os.environ | stack.environment | {"PIPELINES": "bench.orders", "STACK_DIR": str(stack.folder)}
        self.workers: list[subprocess.Popen[bytes]] = []
        self._started = 0

    @property
    def dsn(self) -> str:
        """Where the tables are."""
        return self.settings.database_url.get_secret_value()

    def spawn(self, *module: str) -> subprocess.Popen[bytes]:
        """Start `python -m ...` and wait until its log says that it is ready."""
        self._started += 1
        path = self.folder / f"{module[0]}-{self._started}.log"
        with path.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *module], cwd=ROOT, env=self.environ, stdout=log, stderr=subprocess.STDOUT
            )
        self.workers.append(process)
        deadline = time.monotonic() + WORKER_SECONDS
        while READY not in path.read_text(errors="replace"):
            if process.poll() is not None or time.monotonic() > deadline:
                message = f"{' '.join(module)} did not get ready:\n{path.read_text(errors='replace')[-2000:]}"
                raise BenchError(message)
            time.sleep(0.05)
        return process

    def start_workers(self, count: int) -> None:
        """Start worker processes."""
        for _ in range(count):
            self.spawn("workers")

    def stop_workers(self) -> None:
        """Stop everything that was started here, in order."""
        for process in self.workers:
            process.terminate()
        for process in self.workers:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.workers.clear()

    def peak_bytes(self) -> int:
        """Tell the largest amount of memory that any one worker ever held since it was started."""
        return max(peak_bytes(process.pid) for process in self.workers)

    def cli(self, *arguments: str) -> dict[str, object]:
        """Call `starter --json ...`; whatever does not succeed ends the benchmark."""
        try:
            called = subprocess.run(
                [sys.executable, "-m", "starter", "--json", *arguments],
                cwd=ROOT,
                env=self.environ,
                capture_output=True,
                text=True,
                check=False,
                timeout=STUCK_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            message = f"starter {' '.join(arguments)} did not end"
            raise BenchError(message) from error
        if called.returncode != 0:
            message = f"starter {' '.join(arguments)} ended with {called.returncode}: {called.stdout}{called.stderr}"
            raise BenchError(message)
        document: dict[str, object] = json.loads(called.stdout)
        return document


@contextmanager
def running() -> Iterator[Servers]:
    """Run a stack in a temporary folder, away from any other."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # PostgreSQL may run under an account of its own and has to pass through
        stack = Stack(folder / "stack", usual_ports=False)
        stack.start()
        servers = Servers(stack, folder)
        try:
            yield servers
        finally:
            servers.stop_workers()
            stack.stop()


def peak_bytes(pid: int) -> int:
    """Read a process's peak of resident memory where the system keeps it, else what it holds now."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return int(psutil.Process(pid).memory_info().rss)
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return int(psutil.Process(pid).memory_info().rss)
