"""The state file is private, whole, and forgiving."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from starter.stack import processes
from starter.stack.errors import StackError
from starter.stack.state import FolderLock, ProcessRecord, State, StateFile
from starter.stack.supervisor import LONGEST_PAUSE, STEADY_SECONDS, Backoff


def test_files_with_secrets_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    file = StateFile(tmp_path)
    file.write(State(environment={"DATABASE_URL": "postgresql://u:secret@127.0.0.1/x"}))
    file.secrets()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"stack.json": 0o600, "secrets.json": 0o600}


def test_secrets_are_drawn_once_and_differ_between_folders(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    assert StateFile(tmp_path).secrets() == StateFile(tmp_path).secrets()
    assert StateFile(tmp_path).secrets() != StateFile(other).secrets()


def test_a_damaged_state_file_is_an_empty_one(tmp_path: Path) -> None:
    file = StateFile(tmp_path)
    file.path.write_text('{"ports": {"postgres":')
    assert file.read() == State()


def test_one_process_at_a_time_runs_a_folder(tmp_path: Path) -> None:
    with FolderLock(tmp_path), pytest.raises(StackError, match="already runs"), FolderLock(tmp_path):
        pass
    with FolderLock(tmp_path):
        pass


def test_an_id_that_was_given_to_another_process_is_not_found() -> None:
    record = processes.record_of(os.getpid())
    assert record is not None
    assert processes.find(record) is not None
    assert processes.find(ProcessRecord(pid=record.pid, created=record.created - 100)) is None


def test_a_process_that_ignores_the_request_to_end_is_killed(tmp_path: Path) -> None:
    program = "import signal; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); signal.pause()"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"deaf\n"
        processes.end([psutil.Process(process.pid)], grace=0.2)
        assert process.wait() == -9


def test_processes_are_recognised_by_the_marker_of_their_folder(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    command = [sys.executable, "-c", "import signal; signal.pause()"]
    process = processes.spawn(command, folder=mine, log=tmp_path / "log", directory=tmp_path)
    try:
        assert [found.pid for found in processes.marked(mine)] == [process.pid]
        assert processes.marked(other) == []
    finally:
        process.kill()
        process.wait()


def test_restarts_slow_down_and_a_steady_child_is_forgiven() -> None:
    backoff = Backoff(first=0.2, longest=LONGEST_PAUSE)
    pauses = [backoff.pause(0) for _ in range(12)]
    assert pauses == sorted(pauses)
    assert pauses[0] == 0.2
    assert pauses[-1] == LONGEST_PAUSE
    assert backoff.pause(STEADY_SECONDS) == 0.2
