"""A stack that runs on its own: starting its supervisor in the background, and stopping it from anywhere.

Guarantee: `start_detached` returns when the stack is ready or says in one sentence why it is not; `stop_stack` ends
exactly what the folder's stack started, even if its supervisor was killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from starter.stack import processes
from starter.stack.errors import StackError
from starter.stack.server import last_line
from starter.stack.stack import SUPERVISOR, Stack, end_leftovers
from starter.stack.state import FolderLock
from starter.stack.workers import GRACE, python_path

if TYPE_CHECKING:
    import psutil

START_SECONDS = 150.0
POLL_SECONDS = 0.05


def core_count() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def supervisor_of(stack: Stack) -> psutil.Process | None:
    """Find the process that looks after the stack and made it ready; None if there is none."""
    state = stack.file.read()
    return processes.find(state.processes.get(SUPERVISOR)) if state.ready else None


def start_detached(folder: Path, workers: int | None = None) -> bool:
    """Start a supervised stack in the background, by default with a worker per core, and wait until it is ready.

    Returns False if one runs there already, True if it was started. Raises `StackError`.
    """
    stack = Stack(folder)
    if supervisor_of(stack) is not None:
        return False
    _ = stack.servers  # makes the folders
    log = stack.folder / "logs" / f"{SUPERVISOR}.log"
    count = core_count() if workers is None else workers
    process = processes.spawn(
        [sys.executable, "-m", "starter.stack", str(stack.folder), str(count)],
        folder=stack.folder,
        log=log,
        directory=Path.cwd(),
        environ={"PYTHONPATH": python_path()},
    )
    try:
        _wait_until_ready(stack, process, log)
    except BaseException:
        process.terminate()
        raise
    return True


def stop_stack(folder: Path) -> bool:
    """Stop the stack of a folder; False if nothing of it ran. Raises `StackError`."""
    folder = Path(folder).resolve()
    if not folder.is_dir():
        return False
    stack = Stack(folder)
    supervisor = processes.find(stack.file.read().processes.get(SUPERVISOR))
    if supervisor is not None:
        # It ends its workers and servers itself, each with a grace of its own.
        processes.end([supervisor], grace=GRACE + 30)
    with FolderLock(stack.folder):
        left = end_leftovers(stack)
    return supervisor is not None or left


def _wait_until_ready(stack: Stack, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        supervisor = supervisor_of(stack)
        if supervisor is not None and supervisor.pid == process.pid:
            return
        if process.poll() is not None:
            # The line starts with the time of day.
            raise StackError(last_line(log).partition(" ")[2] or f"The stack did not start; see {log}.")
        time.sleep(POLL_SECONDS)
    message = f"The stack was not ready after {START_SECONDS:.0f} s; see {stack.folder / 'logs'}."
    raise StackError(message)
