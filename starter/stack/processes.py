"""Processes: starting them, recognising them later, and ending them by id.

Guarantee: a process is only ended if it is ours: recorded with its id and creation time, or started with the
marker of this folder in its environment, or the PostgreSQL binary working inside this folder's data.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from typing import TYPE_CHECKING

import psutil

from starter.stack.state import ProcessRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

MARKER = "STARTER_STACK_FOLDER"
"""Set to the folder in the environment of every process of its stack."""

# The kernel counts from boot; psutil adds the boot time, which moves a little when the clock is adjusted.
CLOCK_TOLERANCE = 2.0
LARGEST_LOG = 20_000_000


def spawn(
    command: Sequence[str], *, folder: Path, log: Path, directory: Path, environ: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a process of the stack in `folder`, in a session of its own, its output appended to `log`."""
    with contextlib.suppress(OSError):
        if log.stat().st_size > LARGEST_LOG:
            log.replace(log.with_suffix(".log.1"))
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        return subprocess.Popen(
            command,
            cwd=directory,
            env={**os.environ, **(environ or {}), MARKER: str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in the terminal reaches the supervisor, which ends the others in order
        )
    finally:
        os.close(descriptor)


def record_of(pid: int) -> ProcessRecord | None:
    """Describe a process that runs now."""
    try:
        return ProcessRecord(pid=pid, created=psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def find(record: ProcessRecord | None) -> psutil.Process | None:
    """Find the recorded process; None if it ended, even if its id was given to another one since."""
    if record is None:
        return None
    try:
        process = psutil.Process(record.pid)
        same = abs(process.create_time() - record.created) < CLOCK_TOLERANCE
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.Error:
        return None


def family(process: psutil.Process) -> list[psutil.Process]:
    """List a process and all that descend from it."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return [process]


def marked(folder: Path) -> list[psutil.Process]:
    """Find the processes that carry this folder's marker, other than this one and its ancestors."""
    return [process for process in _others() if _environment(process).get(MARKER) == str(folder)]


def inside(executable: str, directory: Path) -> list[psutil.Process]:
    """Find the processes of a binary of that name whose working directory is `directory`.

    PostgreSQL's backends overwrite their environment with their title, but always work in the data folder.
    """
    found = []
    for process in _others():
        with contextlib.suppress(psutil.Error, OSError):
            if process.name() == executable and process.cwd() == str(directory):
                found.append(process)
    return found


def end(processes: Iterable[psutil.Process], *, grace: float, how: int | None = None) -> None:
    """Ask processes to end (SIGTERM, or `how`), kill those that still run after `grace` seconds, and wait."""
    remaining = list(processes)
    if grace > 0:
        for process in remaining:
            with contextlib.suppress(psutil.Error):
                process.terminate() if how is None else process.send_signal(how)
        remaining = _wait(remaining, grace)
    for process in remaining:
        with contextlib.suppress(psutil.Error):
            process.kill()
    _wait(remaining, 10)


def _wait(processes: Sequence[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait for processes to end and return those that did not. A zombie has ended; its parent reaps it."""
    deadline = time.monotonic() + seconds
    remaining = [process for process in processes if _runs(process)]
    while remaining and time.monotonic() < deadline:
        time.sleep(0.02)
        remaining = [process for process in remaining if _runs(process)]
    return remaining


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def _others() -> list[psutil.Process]:
    current = psutil.Process()
    own = {current.pid, *(parent.pid for parent in current.parents())}
    return [process for process in psutil.process_iter() if process.pid not in own]


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except (psutil.Error, OSError):
        return {}
