"""A stack comes back with its data, however it ended."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from starter.stack import Stack, StackError
from starter.stack.detached import stop_stack
from tests.stack import services
from tests.stack.conftest import (
    clean_environment,
    kill_all,
    killed_at_the_end,
    occupy,
    processes_of,
    supervisor_command,
    wait_for,
)

NAMES = ("postgres", "temporal", "objects", "nats")
BUSY = """
import asyncio, asyncpg, os
async def main():
    connection = await asyncpg.connect(os.environ["DATABASE_URL"])
    print("busy", flush=True)
    await connection.execute("DO $$ DECLARE n bigint := 0; BEGIN LOOP n := n + 1; END LOOP; END $$")
asyncio.run(main())
"""


def ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE  # whoever inherits orphans may be slow to reap them
    except psutil.NoSuchProcess:
        return True


def busy_backend(stack: Stack) -> subprocess.Popen[bytes]:
    """Keep a backend computing, so that it does not notice the death of its postmaster."""
    process = subprocess.Popen([sys.executable, "-c", BUSY], env=clean_environment(**stack.environment), stdout=-1)
    assert process.stdout is not None
    assert process.stdout.readline() == b"busy\n"
    sql = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'DO %' AND state = 'active'"
    wait_for(lambda: services.query(stack.settings, sql) == 1, "a busy backend")
    return process


def test_it_stops_and_starts_with_its_data_and_on_its_ports(own_stack: Stack) -> None:
    before = own_stack.environment
    services.leave_data(own_stack.settings)
    own_stack.stop()
    assert processes_of(own_stack.folder) == []
    own_stack.start()
    assert own_stack.environment == before
    assert services.read_data(own_stack.settings) == services.ALL_DATA


def test_a_recorded_port_that_is_busy_now_is_replaced_and_the_data_stays(own_stack: Stack) -> None:
    services.leave_data(own_stack.settings)
    before = dict(own_stack.file.read().ports)
    own_stack.stop()
    # Every port changes, the internal ones too: no server may find its data by its own address.
    own_stack.file.write(own_stack.file.read().model_copy(update={"ports": {}}))
    own_stack.start()
    assert set(before.values()).isdisjoint(own_stack.file.read().ports.values())
    assert services.read_data(own_stack.settings) == services.ALL_DATA


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_server_starts_again(stack: Stack, name: str) -> None:
    server = stack.servers[name]
    killed = server.pid
    server.kill()
    assert server.pid is None
    server.start()
    assert server.pid not in {None, killed}


def test_after_the_kill_of_every_process_it_comes_back_with_its_data(own_folder: Path, idle_workers: Path) -> None:
    command = supervisor_command(own_folder, workers=2)
    environ = clean_environment(PYTHONPATH=f"{idle_workers}{os.pathsep}{clean_environment()['PYTHONPATH']}")
    with killed_at_the_end(subprocess.Popen(command, cwd=idle_workers, env=environ)):
        stack = Stack(own_folder)
        wait_for(lambda: "supervisor" in stack.file.read().processes, "a ready stack")
        services.leave_data(stack.settings)
        assert kill_all(own_folder) >= 7  # supervisor, two workers, four servers
    again = Stack(own_folder, environ={}, usual_ports=False)
    again.start()
    try:
        assert services.read_data(again.settings) == services.ALL_DATA
    finally:
        again.stop()


def test_what_a_killed_supervisor_left_running_is_replaced_by_the_next_start(own_folder: Path) -> None:
    command = supervisor_command(own_folder, workers=0)
    with killed_at_the_end(subprocess.Popen(command, env=clean_environment())) as supervisor:
        stack = Stack(own_folder)
        wait_for(lambda: "supervisor" in stack.file.read().processes, "a ready stack")
        services.leave_data(stack.settings)
        left = {server.pid for server in stack.servers.values()}
        supervisor.kill()
    assert all(psutil.pid_exists(pid) for pid in left if pid)
    again = Stack(own_folder, environ={}, usual_ports=False)
    again.start()
    try:
        assert left.isdisjoint({server.pid for server in again.servers.values()})
        assert services.read_data(again.settings) == services.ALL_DATA
    finally:
        again.stop()


def test_postgres_starts_although_a_busy_backend_outlived_its_postmaster(own_stack: Stack) -> None:
    client = busy_backend(own_stack)
    postgres = own_stack.servers["postgres"]
    main = psutil.Process(postgres.pid)
    busy = max(main.children(), key=lambda child: sum(child.cpu_times()[:2]))
    main.kill()
    wait_for(lambda: postgres.pid is None, "the end of the postmaster")
    assert busy.is_running()
    postgres.start()
    client.kill()
    client.wait()
    assert ended(busy)
    assert services.query(own_stack.settings, "SELECT 1") == 1


def test_postgres_starts_although_its_lock_file_names_a_stranger(own_stack: Stack) -> None:
    postgres = own_stack.servers["postgres"]
    lock = own_stack.folder / "postgres" / "data" / "postmaster.pid"
    lines = lock.read_text().splitlines()
    postgres.kill()
    program = [sys.executable, "-c", "import signal; signal.pause()"]
    with killed_at_the_end(subprocess.Popen(program)) as stranger:
        lock.write_text("\n".join([str(stranger.pid), *lines[1:]]))
        postgres.start()
        assert stranger.poll() is None
    assert services.query(own_stack.settings, "SELECT 1") == 1


def test_a_half_finished_initialisation_is_done_again(own_folder: Path) -> None:
    for name in ("fresh", "data"):
        (own_folder / "postgres" / name).mkdir(parents=True)
        (own_folder / "postgres" / name / "half").touch()
    stack = Stack(own_folder, environ={}, usual_ports=False)
    stack.start()
    try:
        assert services.query(stack.settings, "SELECT 1") == 1
    finally:
        stack.stop()


def test_two_stacks_run_at_once_and_one_stop_leaves_the_other(stack: Stack, own_stack: Stack) -> None:
    others = {name: server.pid for name, server in stack.servers.items()}
    assert set(stack.file.read().ports.values()).isdisjoint(own_stack.file.read().ports.values())
    own_stack.stop()
    assert {name: server.pid for name, server in stack.servers.items()} == others
    assert services.query(stack.settings, "SELECT 1") == 1


def test_a_second_start_in_the_same_folder_is_refused_and_harms_nothing(stack: Stack) -> None:
    before = {name: server.pid for name, server in stack.servers.items()}
    with pytest.raises(StackError, match="already runs"):
        Stack(stack.folder, environ={}).start()
    assert {name: server.pid for name, server in stack.servers.items()} == before


def test_a_fixed_port_that_is_busy_stops_the_start_and_leaves_nothing_running(own_folder: Path) -> None:
    with occupy() as listener:
        port = str(listener.getsockname()[1])
        stack = Stack(own_folder, environ={"S3_PORT": port}, usual_ports=False)
        with pytest.raises(StackError, match=f"Port {port}, set by S3_PORT"):
            stack.start()
        assert processes_of(own_folder) == []
    stack.start()
    try:
        assert str(stack.servers["objects"].port) == port
    finally:
        stack.stop()


def test_stopping_where_nothing_runs_says_so(tmp_path: Path) -> None:
    assert stop_stack(tmp_path / "never") is False
    assert not (tmp_path / "never").exists()
