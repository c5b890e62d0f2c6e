"""`starter up` and `starter down` as a user runs them: supervision, accounts, folders, sentences."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import psutil
import pytest

from starter.stack import Stack
from starter.stack.detached import start_detached, stop_stack
from starter.stack.state import ProcessRecord
from tests.stack import services
from tests.stack.conftest import (
    clean_environment,
    killed_at_the_end,
    occupy,
    processes_of,
    supervisor_command,
    wait_for,
)

STARTER = [sys.executable, "-m", "starter"]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another account")


def is_replaced(stack: Stack, name: str, before: ProcessRecord) -> bool:
    return stack.file.read().processes[name] != before


def starter(
    *arguments: str, prefix: tuple[str, ...] = (), cwd: Path | None = None, **extra: str
) -> subprocess.CompletedProcess[str]:
    environ = clean_environment(**extra)
    command = [*prefix, *STARTER, *arguments]
    return subprocess.run(command, env=environ, cwd=cwd, capture_output=True, text=True, timeout=200, check=False)


def test_up_detached_and_down_as_scripts_use_them(own_folder: Path) -> None:
    up = starter("--json", "up", "--detach", "--workers", "0", STACK_DIR=str(own_folder))
    assert up.returncode == 0, up.stderr
    document = json.loads(up.stdout)
    assert document["status"] == "ready"
    stack = Stack(own_folder)
    assert document["addresses"] == stack.settings.addresses
    assert services.query(stack.settings, "SELECT 1") == 1

    again = starter("up", "--detach", "--workers", "0", "--folder", str(own_folder))
    assert again.returncode == 0, again.stderr
    assert "already runs" in again.stdout

    down = starter("--json", "down", STACK_DIR=str(own_folder))
    assert down.returncode == 0, down.stderr
    assert json.loads(down.stdout) == {"stopped": True, "folder": str(own_folder)}
    assert processes_of(own_folder) == []
    assert "No stack runs" in starter("down", STACK_DIR=str(own_folder)).stdout


def test_up_with_a_busy_fixed_port_is_one_sentence_with_port_and_setting(own_folder: Path) -> None:
    with occupy() as listener:
        port = str(listener.getsockname()[1])
        for flags in (("--detach",), ()):
            up = starter("up", *flags, "--workers", "0", STACK_DIR=str(own_folder), POSTGRES_PORT=port)
            assert up.returncode == 1
            assert up.stdout == ""
            assert up.stderr.startswith(f"Port {port}, set by POSTGRES_PORT, ")
            assert len(up.stderr.strip().splitlines()) == 1
    assert processes_of(own_folder) == []


def test_the_supervisor_restarts_what_dies_and_ends_all_on_sigterm(own_folder: Path, idle_workers: Path) -> None:
    path = f"{idle_workers}{os.pathsep}{clean_environment()['PYTHONPATH']}"
    command, environ = supervisor_command(own_folder, workers=1), clean_environment(PYTHONPATH=path)
    with killed_at_the_end(subprocess.Popen(command, cwd=idle_workers, env=environ)) as supervisor:
        stack = Stack(own_folder)
        wait_for(lambda: "supervisor" in stack.file.read().processes, "a ready stack")
        for name in ("worker-1", "nats", "postgres", "temporal", "objects"):
            before = stack.file.read().processes[name]
            psutil.Process(before.pid).kill()
            wait_for(partial(is_replaced, stack, name, before), f"a new {name}")
        wait_for(lambda: services.bucket_is_there(stack.settings), "an object store that answers")
        assert services.query(stack.settings, "SELECT 1") == 1
        supervisor.terminate()
        assert supervisor.wait(100) == 0
    assert processes_of(own_folder) == []


def test_the_worker_is_connected_to_its_own_stack(
    own_folder: Path, idle_workers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(idle_workers)
    monkeypatch.setenv("PYTHONPATH", str(idle_workers))
    monkeypatch.setenv("DATABASE_URL", "postgresql://another@127.0.0.1:1/stack")
    assert start_detached(own_folder, 1)
    log = own_folder / "logs" / "worker-1.log"
    wait_for(lambda: log.read_text() == "connected\n", "a connected worker")
    assert stop_stack(own_folder)


def test_down_without_a_supervisor_ends_what_it_left_and_no_bystander(own_folder: Path) -> None:
    start_detached(own_folder, 0)
    stack = Stack(own_folder)
    state = stack.file.read()
    program = [sys.executable, "-c", "import signal; signal.pause()", str(own_folder)]
    with killed_at_the_end(subprocess.Popen(program)) as bystander:
        # The bystander even has the id of a recorded process, whose time of creation differs.
        recycled = state.processes["nats"].model_copy(update={"pid": bystander.pid, "created": 1.0})
        stack.file.write(state.model_copy(update={"processes": {**state.processes, "worker-9": recycled}}))
        psutil.Process(state.processes["supervisor"].pid).kill()
        assert stop_stack(own_folder)
        assert bystander.poll() is None
        assert [process.pid for process in processes_of(own_folder)] == [bystander.pid]


@as_root
def test_root_starts_it_in_a_folder_that_is_closed_to_all_others(short_folder: Path) -> None:
    closed = short_folder / "closed"
    closed.mkdir(mode=0o700)
    stack = Stack(closed / "stack", environ={}, usual_ports=False)
    stack.start()
    try:
        assert closed.stat().st_mode & 0o777 == 0o700
        assert services.query(stack.settings, "SELECT 1") == 1
        assert psutil.Process(stack.servers["postgres"].pid).uids().effective != 0
    finally:
        stack.stop()


@as_root
def test_without_the_capability_a_closed_folder_is_one_sentence(short_folder: Path) -> None:
    closed = short_folder / "closed-for-good"
    closed.mkdir(mode=0o700)
    setpriv = shutil.which("setpriv")
    assert setpriv is not None
    prefix = (setpriv, "--bounding-set=-dac_override", "--inh-caps=-dac_override")
    up = starter("up", "--workers", "0", "--folder", str(closed / "stack"), prefix=prefix)
    assert up.returncode == 1, up.stderr
    assert "cannot reach" in up.stderr
    assert len(up.stderr.strip().splitlines()) == 1


@as_root
def test_an_ordinary_user_starts_it(short_folder: Path) -> None:
    home = short_folder / "ordinary"
    home.mkdir()
    os.chown(home, 65534, 65534)
    setpriv = shutil.which("setpriv")
    assert setpriv is not None
    # The capability only lets this account read a Python or project that may stand in root's home.
    capability = ("--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override")
    prefix = (setpriv, "--reuid=65534", "--regid=65534", "--clear-groups", *capability)
    up = starter("up", "--detach", "--workers", "0", prefix=prefix, STACK_DIR=str(home / "stack"), HOME=str(home))
    try:
        assert up.returncode == 0, up.stderr
        stack = Stack(home / "stack")
        assert psutil.Process(stack.servers["postgres"].pid).uids().effective == 65534
        assert services.query(stack.settings, "SELECT 1") == 1
    finally:
        down = starter("down", prefix=prefix, STACK_DIR=str(home / "stack"), HOME=str(home))
    assert down.returncode == 0, down.stderr
    assert processes_of(home) == []
