"""Uploads as a library: a raw file into the object store, and the load that reads it.

Guarantee: a ticket is returned only after the whole file is stored, checksum verified, and Temporal holds the load.
The same file for the same pipeline is the same load: it is not stored or loaded twice unless asked for. A load that
ended early goes on with all that operators gave it, whether it is resumed or its file uploaded again.
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
from workflows.details import title
from workflows.options import PATTERN, PIPELINE, PIPELINES, STATUS
from workflows.upload import Upload

BLOCK = 1024 * 1024
HASH_CHARACTERS = 32
LOAD_MEMO = "load"
"""Where a load keeps its input: readable without a worker, handed on from run to run, and shown by the Web UI."""

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
        run = LoadRun(pipeline=pipeline, file=file, series=series, options=options, chunk_bytes=self._chunk_bytes)
        if earlier := await self.find_earlier(ticket):
            # Receipts name byte ranges, and rows that were corrected are to be counted as that.
            kept = {"chunk_bytes": earlier.chunk_bytes, "corrections": earlier.corrections}
            run = run.model_copy(update=kept)
        if not await self.start(run, ticket) and not sha256:
            await self._objects.delete(file.key)
        return await look(self._client, self._settings, ticket)

    async def find(self, ticket: str) -> TicketState | None:
        """Look a load up, or return None."""
        try:
            return await look(self._client, self._settings, ticket)
        except CommandError as error:
            if error.status != Exit.UNKNOWN:
                raise
            return None

    async def find_earlier(self, ticket: str) -> LoadRun | None:
        """Return the input with which a load can be started again: its last one, and what operators decided since."""
        with naming_temporal(self._settings):
            try:
                described = await self._client.get_workflow_handle(ticket).describe()
            except RPCError as error:
                if error.status != RPCStatusCode.NOT_FOUND:
                    raise
                return None
        run = await described.memo_value(LOAD_MEMO, None, type_hint=LoadRun)
        summary = await described.memo_value("summary", None, type_hint=LoadSummary)
        if run is None or summary is None:
            return None
        return run.model_copy(update={"corrections": summary.corrections, "accepted": summary.accepted})

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

    async def start(self, run: LoadRun, ticket: str) -> bool:
        """Make Temporal responsible for the load; whoever started the same one first keeps it (False)."""
        begun = LoadSummary(status="running", counts=Counts(), corrections=run.corrections, accepted=run.accepted)
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
                    memo={"summary": begun, LOAD_MEMO: run},
                    search_attributes=TypedSearchAttributes(
                        [
                            SearchAttributePair(PIPELINE, run.pipeline),
                            SearchAttributePair(PATTERN, "upload"),
                            SearchAttributePair(STATUS, "running"),
                        ]
                    ),
                    static_summary=title(run),
                    static_details=f"`{run.file.name}`, {run.file.size:,} bytes, SHA-256 `{run.file.sha256}`",
                )
            except WorkflowAlreadyStartedError:
                return False
        return True

    async def resume(self, ticket: str, corrected: Source | None, show: Showing) -> TicketState:
        """Let a load that waits, or ended early, go on, with the corrected file if there is one.

        Raises `CommandError` for one that runs, or is over for good.
        """
        state = await look(self._client, self._settings, ticket)
        if state.pattern != "upload":
            message = f"{ticket} is a request; only uploads can be resumed."
            raise CommandError(Exit.USAGE, message)
        earlier = None
        if state.status in {"failed", "cancelled"}:
            earlier = await self.find_earlier(ticket)
            await self.check_earlier(ticket, earlier)
        elif state.status != "waiting":
            message = f"{ticket} is {state.status}; only a load that waits, failed or was cancelled can be resumed."
            if state.status == "stopped":
                message += " Upload its file again with another limit."
            raise CommandError(Exit.FAILED, message)
        file = None
        if corrected:
            sha256 = await corrected.sha256(show) if corrected.path else None
            file = await self.store(state.pipeline, corrected, sha256, show)
        if earlier:
            await self.start_again(ticket, earlier, file)
        else:
            await self.send_resume(ticket, file)
        return await look(self._client, self._settings, ticket)

    async def check_earlier(self, ticket: str, earlier: LoadRun | None) -> None:
        """Make sure that a load can be started again. Raises `CommandError`."""
        if earlier is None:
            raise CommandError(Exit.FAILED, f"{ticket} has not kept its input: upload its file again.")
        if earlier.options.dry_run:
            raise CommandError(Exit.FAILED, f"{ticket} only checked a file, which cannot be resumed: check it again.")
        for file in (earlier.file, *earlier.corrections):
            if await self._objects.find(file.key) is None:
                raise CommandError(Exit.FAILED, f"{file.name} is not stored any more: upload it again.")

    async def start_again(self, ticket: str, earlier: LoadRun, corrected: StoredFile | None) -> None:
        """Start a load that ended early with all it had, and a corrected file that is new to it."""
        if corrected and corrected.sha256 not in {file.sha256 for file in earlier.corrections}:
            if corrected.sha256 == earlier.file.sha256:
                message = f"{corrected.name} is the file of this load: correct the rejected rows only."
                raise CommandError(Exit.FAILED, message)
            earlier = earlier.model_copy(update={"corrections": (*earlier.corrections, corrected)})
        if not await self.start(earlier, ticket) and corrected:
            message = f"{ticket} was resumed by someone else meanwhile, without {corrected.name}."
            raise CommandError(Exit.FAILED, message)

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


def ticket_of(pipeline: str, sha256: str) -> str:
    """Name the load of a file."""
    return f"upload/{pipeline}/{sha256[:HASH_CHARACTERS]}"


def stored_file(stored: StoredObject, name: str, *, temporary: bool = False) -> StoredFile:
    """Describe an object as the file it holds."""
    return StoredFile(
        key=stored.key, name=name, size=stored.size, etag=stored.etag, sha256=stored.sha256, temporary=temporary
    )
