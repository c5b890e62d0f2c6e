"""The state file: what a stack runs, where, and with which secrets.

Guarantee: the file is replaced as a whole, so a reader never meets half of it; only its owner can read it; and one
process at a time runs the stack of a folder.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from starter.stack.errors import StackError
from stores.settings import STATE_FILE

if TYPE_CHECKING:
    from types import TracebackType

Model = TypeVar("Model", bound=BaseModel)

DYING_SECONDS = 2.0
"""A process that was just killed holds its files a little longer, until the kernel has taken it apart."""


class ProcessRecord(BaseModel):
    """One process of ours: its id and the time it was created, which together outlive a reused id."""

    model_config = ConfigDict(frozen=True)

    pid: int
    created: float


class State(BaseModel):
    """What `stack.json` holds. `environment` is what a client of the stack sets."""

    ready: bool = False
    ports: dict[str, int] = {}
    environment: dict[str, str] = {}
    processes: dict[str, ProcessRecord] = {}


class Secrets(BaseModel):
    """Made once per folder: the data on disk was initialised with them."""

    model_config = ConfigDict(frozen=True)

    postgres_password: str
    s3_access_key: str
    s3_secret_key: str

    @classmethod
    def fresh(cls) -> Self:
        """Draw new ones. Letters and digits only: they go into URLs."""
        return cls(
            postgres_password=secrets.token_hex(24),
            s3_access_key=secrets.token_hex(10),
            s3_secret_key=secrets.token_hex(24),
        )


class StateFile:
    """The files `stack.json` and `secrets.json` of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / STATE_FILE
        self._secrets_path = folder / "secrets.json"
        self._lock = threading.RLock()

    def read(self) -> State:
        """Read the state; an absent or damaged file is an empty one. Raises `StackError` if it is another user's."""
        return _read(self.path, State) or State()

    def write(self, state: State) -> None:
        """Replace the state."""
        with self._lock:
            write_private(self.path, state.model_dump_json(indent=2))

    def record(self, name: str, process: ProcessRecord | None) -> None:
        """Note that a process runs under `name`, or that none does."""
        with self._lock:
            state = self.read()
            processes = {key: value for key, value in state.processes.items() if key != name}
            if process is not None:
                processes[name] = process
            self.write(state.model_copy(update={"processes": processes}))

    def secrets(self) -> Secrets:
        """Read the folder's secrets, drawing them the first time."""
        found = _read(self._secrets_path, Secrets)
        if found is None:
            found = Secrets.fresh()
            write_private(self._secrets_path, found.model_dump_json())
        return found


class FolderLock:
    """Held for as long as a process runs the stack of a folder; the kernel releases it when that process dies."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        """Take the lock. Raises `StackError` if another process has it, and keeps it."""
        descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + DYING_SECONDS
        while not _try_lock(descriptor):
            if time.monotonic() > deadline:
                os.close(descriptor)
                message = f"A stack already runs in {self._folder}: `starter down` stops it."
                raise StackError(message)
            time.sleep(0.05)
        self._descriptor = descriptor
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the lock."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_private(path: Path, text: str) -> None:
    """Replace a file as a whole, readable by its owner only from the first byte on."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # made with mode 0600
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _read(path: Path, model: type[Model]) -> Model | None:
    try:
        return model.model_validate(json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValidationError, ValueError):
        return None
    except OSError as error:
        message = f"{path} cannot be read ({error.strerror}): use the account that started the stack."
        raise StackError(message) from error
