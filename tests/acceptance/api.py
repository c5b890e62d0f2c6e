"""`starter api` as real processes, and clients of it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from starter.api.keys import new_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ROOT = Path(__file__).resolve().parents[2]
LISTENING = re.compile(r"listening on (http://\S+)")
SECONDS = 60.0

KEY, ENTRY = new_key("tester", "*")
NOTES_KEY, NOTES_ENTRY = new_key("notes-only", "notes")
KEYS = f"{ENTRY.line()};{NOTES_ENTRY.line()}"


@dataclasses.dataclass
class ApiServer:
    """One process."""

    process: subprocess.Popen[bytes]
    log_file: Path
    url: str

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def client(self, key: str | None = KEY) -> httpx.Client:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=SECONDS)

    def stop(self) -> int:
        self.process.terminate()
        try:
            return self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()


def until(condition: Callable[[], bool]) -> None:
    """Wait until something holds, and fail if it never does."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@contextlib.contextmanager
def serving(environ: Mapping[str, str], log_file: Path, *arguments: str, port: int = 0) -> Iterator[ApiServer]:
    """Run `starter api` until the block ends."""
    with log_file.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "starter", "api", "--port", str(port), *arguments],
            env=dict(environ),
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )
    end = time.monotonic() + SECONDS
    found = None
    while not found:
        found = LISTENING.search(log_file.read_text(errors="replace"))
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            message = f"the API did not start: {log_file.read_text(errors='replace')}"
            raise RuntimeError(message)
        time.sleep(0.05)
    server = ApiServer(process, log_file, found[1])
    try:
        yield server
    finally:
        if process.poll() is None:
            server.stop()
        print(server.log[-3000:])
