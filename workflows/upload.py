"""Pattern 3, asynchronous with asynchronous errors: a stored file, loaded chunk by chunk.

Guarantee: each row of the file ends in exactly one of the counts, each chunk's rows are committed exactly once
however often its load is tried, and nothing but an operator's decision ends a load that waits. The bytes stay in
the object store; history holds names, ranges and counts.
"""

from __future__ import annotations

import asyncio
import dataclasses

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

from workflows.chunks import ChunkPass
from workflows.details import describe, shortened
from workflows.options import CLEAR_UP, ERROR_TYPE, READ_FILE, STATUS

with workflow.unsafe.imports_passed_through():
    from activities.files import FileActivities
    from contracts.loads import (
        Carried,
        Correction,
        Counts,
        InspectFile,
        LoadRun,
        LoadStatus,
        LoadSummary,
        Reading,
        RemoveObjects,
        ResumeLoad,
        StoredFile,
        TextFile,
    )

CHUNKS_PER_NOTE = 16
"""Chunks between two notes of the summary in the memo, where `status` reads it even when no worker runs."""


@dataclasses.dataclass
class Decision:
    """What an operator asked of a waiting load, and what became of it."""

    request: ResumeLoad
    answered: bool = False
    refusal: ApplicationError | None = None


@workflow.defn(name="Upload")
class Upload:
    """Inspect the file, check it if that was asked, load it, and wait for corrections if that was asked."""

    @workflow.init
    def __init__(self, run: LoadRun) -> None:
        self.input = run
        self.state = run.carried
        self.corrections = run.corrections
        self.temporary: tuple[str, ...] = (run.file.key,) if run.file.temporary else ()
        if run.carried is not None:
            self.temporary = run.carried.temporary
        self.reader: ChunkPass | None = None
        self.quota = run.chunks_per_run
        self.status: LoadStatus = "running"
        self.reason = ""
        self.unnoted = 0
        self.decision: Decision | None = None

    @workflow.run
    async def run(self, run: LoadRun) -> LoadSummary:
        """Load the file.

        Fails with an `ApplicationError` named after the terminal error; ends as cancelled when it is cancelled,
        at any time, after the chunks in flight were heard out and counted.
        """
        self.tell()
        try:
            return await self.load(run)
        except ActivityError as error:
            if is_cancelled_exception(error):
                await self.close_cancelled()
                raise
            raise await self.close_failed(error) from None
        except asyncio.CancelledError:
            await self.close_cancelled()
            raise

    async def load(self, run: LoadRun) -> LoadSummary:
        """Tell the story of a load, from wherever an earlier run left it."""
        options = run.options
        if self.state is None:
            text = await self.inspect(run.file)
            # A load that is started again is past its limit if an operator let it pass, with corrections or without.
            decided = run.accepted or bool(run.corrections)
            check = options.dry_run or (options.max_rejects is not None and not decided)
            self.state = Carried(reading=self.reading_of(run.series, text, checking=check), accepted=run.accepted)
            self.tell()
        if self.state.reading.checking:
            await self.read()
            limit = options.max_rejects
            if limit is not None and limit.passed(self.counts):
                reason = f"{self.counts.rejected} of {self.counts.read} rows would be rejected, more than the limit"
                if options.dry_run or options.on_rejects == "finish":
                    return await self.close("stopped", f"{reason}; nothing was loaded")
                await self.wait_for_operator(f"{reason}; nothing was loaded yet")
            if options.dry_run:
                return await self.close("completed", "checked only, as asked: nothing was written")
            text = self.state.reading.text
            self.carry(reading=self.reading_of(run.series, text, checking=False))
        await self.read()
        while await self.next_correction():
            await self.read()
        return await self.close("completed")

    async def next_correction(self) -> bool:
        """Turn to the next corrected file; False if the load is to finish with the rejects that it has."""
        rejected = self.counts.rejected
        if self.carried.correction is None:
            given = [file for file in self.corrections if file.sha256 not in self.carried.loaded]
            if rejected and given:
                # Given before the load ended early and was started again.
                self.carry(correction=Correction(file=given[0], text=await self.inspect(given[0])))
            elif not rejected or self.input.options.on_rejects == "finish" or self.carried.accepted:
                return False
            else:
                await self.wait_for_operator(f"{rejected} rows were rejected; the others are loaded")
        correction = self.carried.correction
        if correction is None:
            return False
        settled = self.counts
        loaded = (*self.carried.loaded, correction.file.sha256)
        # Not numbered: given again after the load was cancelled and started anew, it is the same series.
        series = f"{self.input.series}/corrections/{correction.file.sha256}"
        self.carry(
            # The rejected rows come again in the corrected file; all others are settled.
            settled=settled.model_copy(update={"read": settled.read - settled.rejected, "rejected": 0}),
            loaded=loaded,
            correction=None,
            reading=self.reading_of(series, correction.text, checking=False),
        )
        self.tell()
        return True

    async def read(self) -> None:
        """Read the current file to its end, in as many runs as that takes."""
        self.reader = ChunkPass(
            self.input.pipeline, self.carried.reading, self.input.chunk_bytes, self.quota, self.progressed
        )
        self.tell()
        try:
            finished = await self.reader.run()
        finally:
            self.quota = self.reader.quota
            self.carry(reading=self.reader.reading)
        if finished:
            return
        self.tell()
        await workflow.wait_condition(workflow.all_handlers_finished)
        # The new run has no static summary; `describe` tells why, and what takes its place. The memo goes along.
        self.carry(temporary=self.temporary)
        handed_on = {"carried": self.carried, "corrections": self.corrections}
        workflow.continue_as_new(self.input.model_copy(update=handed_on))

    async def inspect(self, file: StoredFile) -> TextFile:
        """Find out how a file is to be read. Fails for a file that cannot be."""
        # Named by the load, not by the content: another load of the same content may still read when this one is over.
        unpacked = f"unpacked/{workflow.info().first_execution_run_id}/{file.sha256}"
        text = await workflow.execute_activity_method(
            FileActivities.inspect_file,
            InspectFile(pipeline=self.input.pipeline, file=file, unpacked=unpacked),
            summary=shortened(f"inspect {file.name}"),
            **READ_FILE,
        )
        if text.temporary:
            self.temporary = (*self.temporary, text.key)
        return text

    async def wait_for_operator(self, reason: str) -> None:
        """Wait, for days if need be, until `resume` brings a readable file or none."""
        while True:
            self.tell("waiting", reason)
            await workflow.wait_condition(lambda: self.decision is not None)
            try:
                await self.take_decision()
            except ActivityError as error:
                if is_cancelled_exception(error):
                    raise
                self.answer(clean(error))
                continue
            self.tell("running", "")
            self.answer()
            return

    async def take_decision(self) -> None:
        """Inspect the corrected file, if there is one. A file that cannot be read leaves the load waiting."""
        corrected = self.decision.request.corrected if self.decision else None
        if corrected is None:
            self.carry(accepted=True)
            return
        text = await self.inspect(corrected)
        self.corrections = (*self.corrections, corrected)
        self.carry(correction=Correction(file=corrected, text=text))

    def answer(self, refusal: ApplicationError | None = None) -> None:
        """Let the operator know what became of the decision, if one is open."""
        if self.decision is not None:
            self.decision.refusal = refusal
            self.decision.answered = True
            self.decision = None

    @workflow.update
    async def resume(self, request: ResumeLoad) -> LoadSummary:
        """Go on, with a corrected file or in spite of the rejects. Answers once the file was found readable."""
        decision = self.decision = Decision(request)
        await workflow.wait_condition(lambda: decision.answered)
        if decision.refusal is not None:
            raise decision.refusal
        return self.summary()

    @resume.validator
    def check_resume(self, request: ResumeLoad) -> None:
        """Accept one decision at a time, and only while the load waits for it."""
        if self.status != "waiting":
            message = f"the load is {self.status}, it does not wait for a decision"
            raise ApplicationError(message, type="NotWaiting")
        if self.decision is not None:
            message = "another decision is being carried out"
            raise ApplicationError(message, type="NotWaiting")
        if request.corrected is None:
            return
        # Under a new series its rows would be loaded once more, those that were accepted included.
        if request.corrected.sha256 in {self.input.file.sha256, *self.carried.loaded}:
            message = f"{request.corrected.name} was loaded already: correct the rejected rows only"
            raise ApplicationError(message, type="LoadedAlready")

    @workflow.query
    def summary(self) -> LoadSummary:
        """Say how the load stands."""
        reading = self.state.reading if self.state else None
        done = reading.start if reading else 0
        if self.active is not None:
            done = self.active.done_bytes
        return LoadSummary(
            status=self.status,
            counts=self.counts,
            total_bytes=reading.text.size if reading else 0,
            done_bytes=done,
            reason=self.reason,
            rejects=reading.rejects if reading else "",
            dialect=reading.text.dialect if reading else None,
            corrections=self.corrections,
            accepted=self.state.accepted if self.state else self.input.accepted,
        )

    @property
    def carried(self) -> Carried:
        """The state, once the file was inspected."""
        if self.state is None:
            message = "the file has not been inspected yet"
            raise ApplicationError(message, type="NotWaiting", non_retryable=True)
        return self.state

    @property
    def counts(self) -> Counts:
        """All rows so far, those in flight not included."""
        if self.state is None:
            return Counts()
        current = self.active.counts if self.active is not None else self.state.reading.counts
        return self.state.settled + current

    @property
    def active(self) -> ChunkPass | None:
        """The pass whose file is being read, or was read last."""
        if self.reader is None or self.state is None or self.reader.reading.rejects != self.state.reading.rejects:
            return None
        return self.reader

    def carry(self, **changes: object) -> None:
        """Change the state."""
        self.state = self.carried.model_copy(update=changes)

    def reading_of(self, series: str, text: TextFile, *, checking: bool) -> Reading:
        """Begin a pass over a file.

        A load's rejects lie under its series, where the receipts of an earlier try point; a check's under the run,
        because a later check of the same file may find fewer, and apart from the others, because they may be removed
        sooner.
        """
        checked = f"checks/{self.input.pipeline}/{series}/{workflow.info().first_execution_run_id}/"
        return Reading(
            series=series,
            text=text,
            checking=checking,
            rejects=checked if checking else f"rejects/{self.input.pipeline}/{series}/load/",
            start=text.start,
            line=text.line,
        )

    def progressed(self) -> None:
        """Show a chunk's end; note it durably now and then."""
        self.unnoted += 1
        if self.unnoted >= CHUNKS_PER_NOTE:
            self.note()
        self.show()

    def tell(self, status: LoadStatus | None = None, reason: str | None = None) -> None:
        """Publish a change of phase: details for the Web UI, the summary for `status`, the status for searches."""
        changed = status is not None and status != self.status
        self.status = status or self.status
        self.reason = self.reason if reason is None else reason
        if changed:
            workflow.upsert_search_attributes([STATUS.value_set(self.status)])
        self.note()
        self.show()

    def note(self) -> None:
        """Keep the summary in the memo."""
        self.unnoted = 0
        workflow.upsert_memo({"summary": self.summary()})

    def show(self) -> None:
        """Keep the current details up to date."""
        workflow.set_current_details(
            describe(self.input, self.summary(), ticket=workflow.info().workflow_id, phase=self.phase)
        )

    @property
    def phase(self) -> str:
        """What the load is doing, in words."""
        if self.state is None:
            return "inspecting the file"
        if self.state.reading.checking:
            return "checking every row; nothing is written yet"
        if self.state.loaded:
            return f"loading corrected file {len(self.state.loaded)}"
        return "loading"

    async def close(self, status: LoadStatus, reason: str = "") -> LoadSummary:
        """End with a result."""
        self.tell(status, reason)
        await workflow.wait_condition(workflow.all_handlers_finished)
        await self.clear_up()
        return self.summary()

    async def close_cancelled(self) -> None:
        """Note that the load was cancelled."""
        self.tell("cancelled", "cancelled by an operator; rows that were committed stay and are counted")
        await self.abandon_decision("the load was cancelled")
        await self.clear_up()

    async def close_failed(self, error: ActivityError) -> ApplicationError:
        """Note why the load cannot go on; returns the error to end with."""
        failure = clean(error)
        await self.abandon_decision("the load failed")
        workflow.upsert_search_attributes([ERROR_TYPE.value_set(failure.type or "Unexpected")])
        self.tell("failed", failure.message)
        await self.clear_up()
        return failure

    async def clear_up(self) -> None:
        """Remove the objects that nobody but this load can know of, if there are any."""
        if not self.temporary:
            return
        try:
            await workflow.execute_activity_method(
                FileActivities.remove_objects,
                RemoveObjects(keys=self.temporary),
                summary="remove what only this load used",
                **CLEAR_UP,
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise

    async def abandon_decision(self, reason: str) -> None:
        """Tell an operator whose decision is still open that it will not be carried out."""
        self.answer(ApplicationError(reason, type="NotWaiting"))
        await workflow.wait_condition(workflow.all_handlers_finished)


def clean(error: ActivityError) -> ApplicationError:
    """Take the terminal error out of its wrapping, without tracebacks."""
    cause = error.cause
    if not isinstance(cause, ApplicationError):
        return ApplicationError(str(cause or error), type="Unexpected", non_retryable=True)
    return ApplicationError(cause.message, *cause.details, type=cause.type, non_retryable=True)
