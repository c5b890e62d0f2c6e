"""The stack of one folder: its servers, started together and stopped in order.

Guarantee: after `start` every server is ready and `environment` tells how to reach it; whatever an earlier stack of
the same folder left running was ended before; `stop` ends exactly what was started.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from starter.stack import processes
from starter.stack.errors import PortBusyError, StackError
from starter.stack.nats_server import NatsServer
from starter.stack.object_server import BUCKET, REGION, ObjectServer
from starter.stack.ports import LOOPBACK, choose_ports, explicit_port, is_busy
from starter.stack.postgres_server import PostgresServer
from starter.stack.server import Place
from starter.stack.state import FolderLock, State, StateFile
from starter.stack.temporal_server import NAMESPACE, TemporalServer
from stores.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starter.stack.server import Server
    from starter.stack.workers import WorkerProcess
    from stores.settings import Settings

ATTEMPTS = 3
SUPERVISOR = "supervisor"


class Stack:
    """The servers of a folder. Made without starting anything, it describes what runs there already.

    `environ` may fix ports (`POSTGRES_PORT` and so on); `usual_ports=False` never takes the well-known ones.
    """

    def __init__(self, folder: Path, *, environ: Mapping[str, str] | None = None, usual_ports: bool = True) -> None:
        self.folder = Path(folder).resolve()
        self.file = StateFile(self.folder)
        self.workers: list[WorkerProcess] = []
        self._environ = os.environ if environ is None else environ
        self._usual_ports = usual_ports
        self._held = ExitStack()
        self._servers: dict[str, Server] | None = None

    @property
    def servers(self) -> dict[str, Server]:
        """The servers by name: `postgres`, `temporal`, `objects`, `nats`."""
        if self._servers is None:
            self._make_folder()
            place = Place(folder=self.folder, file=self.file, secrets=self.file.secrets())
            kinds: tuple[type[Server], ...] = (PostgresServer, TemporalServer, ObjectServer, NatsServer)
            self._servers = {kind.name: kind(place) for kind in kinds}
        return self._servers

    @property
    def environment(self) -> dict[str, str]:
        """What a client of this stack sets, secrets among it; empty if the stack was never started."""
        return self.file.read().environment

    @property
    def settings(self) -> Settings:
        """The settings of a client of this stack, whatever the environment says."""
        return load_settings(environ={}, folder=self.folder)

    def start(self, workers: int = 0) -> None:
        """Start all servers, then `workers` worker processes. Raises `StackError`; then nothing is left running."""
        self._make_folder()
        self._held.enter_context(FolderLock(self.folder))
        try:
            end_leftovers(self)
            self._start_servers()
            self._start_workers(workers)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the workers, then the servers, and let the folder go."""
        try:
            for worker in self.workers:
                worker.ask_to_end()
            for worker in self.workers:
                worker.stop()
            self.workers = []
            with ThreadPoolExecutor() as pool:
                list(pool.map(lambda server: server.stop(), self.servers.values()))
            self.file.write(self.file.read().model_copy(update={"ready": False, "processes": {}}))
        finally:
            self._held.close()

    def note_supervisor(self) -> None:
        """Record that this process looks after the stack."""
        self.file.record(SUPERVISOR, processes.record_of(os.getpid()))

    def _start_servers(self) -> None:
        for attempt in range(ATTEMPTS):
            try:
                self._choose_ports()
                with ThreadPoolExecutor() as pool:
                    list(pool.map(lambda server: server.start(), self.servers.values()))
                break
            except PortBusyError:
                # Between choosing a port and listening on it another program may take it. A port that the user
                # fixed is not ours to change: then the first words about it are the last.
                if attempt == ATTEMPTS - 1 or self._lost_a_fixed_port():
                    raise
        state = self.file.read()
        self.file.write(state.model_copy(update={"environment": self._describe(), "ready": True}))

    def _start_workers(self, count: int) -> None:
        from starter.stack.workers import WorkerProcess

        for number in range(1, count + 1):
            worker = WorkerProcess(self, number)
            self.workers.append(worker)
            worker.start()

    def _choose_ports(self) -> None:
        servers = self.servers
        state = self.file.read()
        running = [server for server in servers.values() if server.pid is not None]  # from the attempt before
        kept = {name: state.ports[name] for server in running for name in server.port_names}
        wanted = [name for server in servers.values() for name in server.port_names if name not in kept]
        recorded = {name: port for name, port in state.ports.items() if port not in kept.values()}
        chosen = kept | choose_ports(wanted, self._environ, recorded, usual=self._usual_ports)
        for server in servers.values():
            server.place.ports = chosen
        self.file.write(state.model_copy(update={"ports": chosen, "ready": False}))

    def _lost_a_fixed_port(self) -> bool:
        names = [name for server in self.servers.values() if server.pid is None for name in server.port_names]
        fixed = [explicit_port(name, self._environ) for name in names]
        return any(port is not None and is_busy(port) for port in fixed)

    def _describe(self) -> dict[str, str]:
        servers = self.servers
        secrets = self.file.secrets()
        return {
            "TEMPORAL_ADDRESS": f"{LOOPBACK}:{servers['temporal'].port}",
            "TEMPORAL_NAMESPACE": NAMESPACE,
            "TEMPORAL_UI_URL": f"http://{LOOPBACK}:{servers['temporal'].port_of('temporal_ui')}",
            "DATABASE_URL": PostgresServer(servers["postgres"].place).url,
            "S3_ENDPOINT_URL": f"http://{LOOPBACK}:{servers['objects'].port}",
            "S3_BUCKET": BUCKET,
            "S3_REGION": REGION,
            "AWS_ACCESS_KEY_ID": secrets.s3_access_key,
            "AWS_SECRET_ACCESS_KEY": secrets.s3_secret_key,
            "NATS_URL": f"nats://{LOOPBACK}:{servers['nats'].port}",
        }

    def _make_folder(self) -> None:
        try:
            for folder in (self.folder, self.folder / "logs"):
                # Others may pass through, since PostgreSQL's account has to; what is inside is closed to them.
                folder.mkdir(mode=0o711 if folder == self.folder else 0o700, parents=True, exist_ok=True)
        except OSError as error:
            message = f"The folder {self.folder} cannot be made ({error.strerror}): set STACK_DIR to another one."
            raise StackError(message) from error


def end_leftovers(stack: Stack) -> bool:
    """End what an earlier stack of this folder left running; say whether there was anything."""
    state = stack.file.read()
    recorded = [processes.find(record) for name, record in state.processes.items() if name != SUPERVISOR]
    found = {process.pid: process for process in recorded if process is not None}
    found |= {process.pid: process for process in processes.marked(stack.folder)}
    found |= {process.pid: process for server in stack.servers.values() for process in server.leftovers()}
    # PostgreSQL shuts down at once on SIGTERM only if nobody is connected; a kill is as safe, it has its log.
    processes.end(found.values(), grace=3)
    stack.file.write(State(ports=state.ports, environment=state.environment))
    return bool(found)
