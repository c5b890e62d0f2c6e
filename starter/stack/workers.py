"""Worker processes: `python -m workers`, one per core, connected to the stack.

Guarantee: a worker that is stopped in order finishes or hands back what it holds before it is killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from starter.stack import processes

if TYPE_CHECKING:
    from starter.stack.stack import Stack

GRACE = 30.0


class WorkerProcess:
    """One worker process of a stack."""

    def __init__(self, stack: Stack, number: int) -> None:
        self.name = f"worker-{number}"
        self.title = f"Worker {number}"
        self._stack = stack
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return self._stack.folder / "logs" / f"{self.name}.log"

    @property
    def pid(self) -> int | None:
        """Its process; None while it does not run."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    def start(self) -> None:
        """Start it in the working directory of this process, where the user's pipelines are."""
        self._process = processes.spawn(
            [sys.executable, "-m", "workers"],
            folder=self._stack.folder,
            log=self.log,
            directory=Path.cwd(),
            environ=self._stack.environment | {"STACK_DIR": str(self._stack.folder), "PYTHONPATH": python_path()},
        )
        self._stack.file.record(self.name, processes.record_of(self._process.pid))

    def wait(self) -> int:
        """Wait until it ends."""
        return 0 if self._process is None else self._process.wait()

    def ask_to_end(self) -> None:
        """Ask for an orderly end, and do not wait for it."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def stop(self) -> None:
        """End it in order, or hard once its grace is over."""
        if self._process is None:
            return
        self.ask_to_end()
        try:
            self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def python_path() -> str:
    """Give the import path of a child: this project's too, should it run without being installed."""
    root = str(Path(__file__).resolve().parents[2])
    given = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part and part != root]
    return os.pathsep.join([*given, root])
