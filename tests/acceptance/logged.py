"""Pipelines of the acceptance tests whose requests are logged."""

import asyncio

from contracts import Pipeline, PostgresTable, RequestLog
from tests.acceptance.declared import Note

PAUSE = 1.2
"""Seconds that a note called slow takes: long enough to lose the log between intent and outcome, within one try."""


async def pause(note: Note) -> Note:
    if note.text.startswith("slow"):
        await asyncio.sleep(PAUSE)
    if note.text.startswith("broken"):
        raise KeyError(note.text)
    return note


logged_notes = Pipeline(
    name="logged_notes",
    record=Note,
    process=pause,
    sink=PostgresTable("logged_notes", key=None),
    request_log=RequestLog("note_requests"),
)
queued_notes = Pipeline(
    name="queued_notes",
    record=Note,
    process=pause,
    sink=PostgresTable("queued_notes", key=None),
    request_log=RequestLog("queued_requests", through="queue"),
)
