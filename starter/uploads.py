"""Uploads as a library: a raw file into the object store, and the load that reads it.

Guarantee: a ticket is returned only after the whole file is stored, checksum verified, and Temporal holds the load.
The same file for the same pipeline is the same load: it is not stored or loaded twice unless asked for.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import math
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

from temporalio.client import Client, WorkflowUpdateFailedError, WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.common import (
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from contracts.loads import Counts, LoadOptions, LoadRun, LoadSummary, RejectLimit, ResumeLoad, StoredFile
from contracts.ports import ObjectStore, StoredObject
from starter.exits import CommandError, Exit
from starter.services import Settings, naming_temporal
from starter.tickets import TicketState, look
from workflows.options import PATTERN, PIPELINE, PIPELINES, STATUS
from workflows.upload import Upload

BLOCK = 1024 * 1024
HASH_CHARACTERS = 32
CHUNK_BYTES_MEMO = "chunk_bytes"
CHUNK_BYTES = LoadRun.model_fields["chunk_bytes"].default

Showing = Callable[[int, int], None]
"""Is told bytes done and bytes in all, 0 if unknown."""


@dataclasses.dataclass(frozen=True)
class Source:
    """What to upload: a file that can be read twice, or a stream that cannot."""

    name: str
    path: Path | None = None
    stream: BinaryIO | None = None

    @classmethod
    def of(cls, argument: str) -> Source:
        """Take a path, or `-` for stdin. Raises `CommandError` for what cannot be read."""
        if argument == "-":
            return cls(name="stdin", stream=sys.stdin.buffer)
        path = Path(argument)
        if path.is_dir():
            message = f"{argument} is a folder; name one file, or - for stdin."
            raise CommandError(Exit.USAGE, message)
        if path.is_file():
            path.open("rb").close()
            return cls(name=path.name, path=path)
        return cls(name=path.name, stream=path.open("rb"))

    async def blocks(self, show: Showing) -> AsyncIterator[bytes]:
        """Read everything once, in blocks, off the event loop."""
        size = self.path.stat().st_size if self.path else 0
        file = self.path.open("rb") if self.path else self.stream
        assert file is not None  # noqa: S101 - a source is one or the other
        done = 0
        try:
            while block := await asyncio.to_thread(file.read, BLOCK):
                done += len(block)
                show(done, size)
                yield block
        finally:
            if self.path:
                file.close()

    async def sha256(self, show: Showing) -> str:
        """Hash the file without keeping it."""
        digest = hashlib.sha256()
        async for block in self.blocks(show):
            digest.update(block)
        return digest.hexdigest()


def parse_limit(text: str | None) -> RejectLimit | None:
    """Read `--max-rejects`: `N` rows or `P%` of the rows. Raises `CommandError`."""
    if text is None:
        return None
    number, percent = (text[:-1], True) if text.endswith("%") else (text, False)
    try:
        value = float(number) if percent else float(int(number))
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf or (percent and value > 100):  # noqa: PLR2004 - per cent
        message = f"--max-rejects {text}: give a number of rows, such as 100, or a percentage, such as 0.5%."
        raise CommandError(Exit.USAGE, message)
    return RejectLimit(value=value, percent=percent)


class Uploads:
    """Store files and start their loads, over one connection to each service.

    `chunk_bytes` decides what one activity loads; a load that is started again needs the value it had.
    """

    def __init__(
        self, client: Client, objects: ObjectStore, settings: Settings, chunk_bytes: int = CHUNK_BYTES
    ) -> None:
        self._client = client
        self._objects = objects
        self._settings = settings
        self._chunk_bytes = chunk_bytes

    async def upload(
        self, pipeline: str, source: Source, options: LoadOptions, *, again: bool = False, show: Showing
    ) -> TicketState:
        """Return the state of the load of this file: the one there is, that one resumed, or a new one.

        Raises `UnavailableError`, and `ObjectChangedError` if the file changes while it is read.
        """
        suffix = ""
        if options.dry_run:
            suffix = f"/check-{uuid.uuid4().hex[:8]}"
        elif again:
            suffix = f"/{uuid.uuid4().hex[:8]}"
        sha256 = await source.sha256(show) if source.path else None
        if sha256 and not suffix:
            # The path is hashed first, so that a file that is known costs no second transfer.
            found = await self.find(ticket_of(pipeline, sha256))
            if found and is_standing(found):
                return found.model_copy(update={"known": True})
        file = await self.store(pipeline, source, sha256, show, checking=options.dry_run)
        ticket = ticket_of(pipeline, file.sha256) + suffix
        series = f"file/{file.sha256}" + (suffix if again and not options.dry_run else "")
        if not suffix:
            # Looked up even if it was before: another upload of the same file may have been faster.
            found = await self.find(ticket)
            if found and is_standing(found):
                if not sha256:
                    await self._objects.delete(file.key)
                return found.model_copy(update={"known": True})
        chunk_bytes = await self.chunk_bytes_of(ticket)
        run = LoadRun(pipeline=pipeline, file=file, series=series, options=options, chunk_bytes=chunk_bytes)
        await self.start(run, ticket)
        return await look(self._client, self._settings, ticket)

    async def find(self, ticket: str) -> TicketState | None:
        """Look a load up, or return None."""
        try:
            return await look(self._client, self._settings, ticket)
        except CommandError as error:
            if error.status != Exit.UNKNOWN:
                raise
            return None

    async def chunk_bytes_of(self, ticket: str) -> int:
        """Return the size of chunks that a load had when it was last started: its receipts name byte ranges."""
        with naming_temporal(self._settings):
            try:
                described = await self._client.get_workflow_handle(ticket).describe()
            except RPCError as error:
                if error.status != RPCStatusCode.NOT_FOUND:
                    raise
                return self._chunk_bytes
        return await described.memo_value(CHUNK_BYTES_MEMO, self._chunk_bytes, type_hint=int)

    async def store(
        self, pipeline: str, source: Source, sha256: str | None, show: Showing, *, checking: bool = False
    ) -> StoredFile:
        """Bring the bytes into the object store, unless they are there. The store verifies every part's checksum.

        A file is named by its checksum. A stream's is known only at its end, so it is named by chance; and so is what
        is stored only to be checked, because the check removes it: a load of the same content must not count on it.
        """
        key = f"uploads/{pipeline}/{sha256 or f'stream-{uuid.uuid4().hex}'}"
        stored = await self._objects.find(key) if sha256 else None
        if stored is not None and stored.sha256 == sha256:
            return stored_file(stored, source.name)
        if checking:
            key = f"checks/{pipeline}/raw/{uuid.uuid4().hex}"
        stored = await self._objects.put_stream(key, source.blocks(show), sha256)
        return stored_file(stored, source.name, temporary=checking)

    async def start(self, run: LoadRun, ticket: str) -> None:
        """Make Temporal responsible for the load; whoever started the same one first keeps it."""
        checked = "check" if run.options.dry_run else "load"
        with naming_temporal(self._settings):
            try:
                await self._client.start_workflow(
                    Upload.run,
                    run,
                    id=ticket,
                    task_queue=PIPELINES,
                    # A load that failed, was cancelled or stopped at its limit starts again here; receipts keep what
                    # it committed from happening twice.
                    id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                    id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
                    memo={
                        "summary": LoadSummary(status="running", counts=Counts(), total_bytes=0),
                        CHUNK_BYTES_MEMO: run.chunk_bytes,
                    },
                    search_attributes=TypedSearchAttributes(
                        [
                            SearchAttributePair(PIPELINE, run.pipeline),
                            SearchAttributePair(PATTERN, "upload"),
                            SearchAttributePair(STATUS, "running"),
                        ]
                    ),
                    static_summary=f"{checked} {run.file.name} into {run.pipeline}"[:200],
                    static_details=f"`{run.file.name}`, {run.file.size:,} bytes, SHA-256 `{run.file.sha256}`",
                )
            except WorkflowAlreadyStartedError:
                return

    async def resume(self, ticket: str, corrected: Source | None, show: Showing) -> TicketState:
        """Let a waiting load go on, after loading the corrected file if there is one. Raises `CommandError`."""
        state = await look(self._client, self._settings, ticket)
        if state.pattern != "upload":
            message = f"{ticket} is a request; only uploads can be resumed."
            raise CommandError(Exit.USAGE, message)
        if state.status != "waiting":
            message = f"{ticket} is {state.status}; only a waiting load can be resumed."
            if state.status in {"failed", "cancelled", "stopped"} and is_first(ticket):
                message += " Upload its file again to go on where it ended."
            raise CommandError(Exit.FAILED, message)
        file = None
        if corrected:
            sha256 = await corrected.sha256(show) if corrected.path else None
            file = await self.store(state.pipeline, corrected, sha256, show)
        await self.send_resume(ticket, file)
        return await look(self._client, self._settings, ticket)

    async def send_resume(self, ticket: str, file: StoredFile | None) -> None:
        """Send the decision and wait until the load has taken it."""
        handle = self._client.get_workflow_handle_for(Upload.run, ticket)
        try:
            with naming_temporal(self._settings):
                await handle.execute_update(
                    Upload.resume, ResumeLoad(corrected=file), rpc_timeout=timedelta(seconds=60)
                )
        except WorkflowUpdateFailedError as error:
            raise CommandError(Exit.FAILED, f"The load refused: {error.cause}") from error
        except (WorkflowUpdateRPCTimeoutOrCancelledError, TimeoutError) as error:
            message = "No worker took the decision within a minute; are workers running (`starter up`)?"
            raise CommandError(Exit.UNREACHABLE, message) from error


def is_standing(state: TicketState) -> bool:
    """Say whether a load needs no new start: it runs, waits, or completed."""
    return state.status in {"running", "waiting", "completed"}


def is_first(ticket: str) -> bool:
    """Say whether a ticket names a file's own load, and neither a check nor one more load of the same file."""
    return ticket.count("/") == ticket_of("", "").count("/")


def ticket_of(pipeline: str, sha256: str) -> str:
    """Name the load of a file."""
    return f"upload/{pipeline}/{sha256[:HASH_CHARACTERS]}"


def stored_file(stored: StoredObject, name: str, *, temporary: bool = False) -> StoredFile:
    """Describe an object as the file it holds."""
    return StoredFile(
        key=stored.key, name=name, size=stored.size, etag=stored.etag, sha256=stored.sha256, temporary=temporary
    )
