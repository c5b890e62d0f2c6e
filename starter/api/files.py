"""`POST /pipelines/{name}/files`: a file of any size, answered like `upload`.

Guarantee: the answer comes after the whole file is stored, checksum verified, and Temporal holds its load. A body that
is cut off stores nothing. A process holds a few parts of each file in memory, however large the file is.
"""

from __future__ import annotations

import dataclasses
import json
from email.message import Message
from typing import TYPE_CHECKING

from fastapi import Request, Response

from contracts.loads import LoadOptions
from contracts.record import FieldError
from starter.api.limits import query_of, read_blocks
from starter.api.problems import BAD_REQUEST, REJECTED, UNSUPPORTED, Problem
from starter.api.services import Context
from starter.api.tickets import document_of
from starter.exits import CommandError
from starter.uploads import Showing, Source, Uploads, parse_limit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

NAME = "upload"
"""What a file is called if its sender did not say."""

LONGEST_NAME = 255
"""In bytes, as file systems have it; the Web UI's titles have room for that."""

FLAGS = {"true": True, "false": False}


@dataclasses.dataclass(frozen=True)
class Received(Source):
    """The body of a request: a stream that comes once."""

    request: Request | None = None

    async def blocks(self, show: Showing) -> AsyncIterator[bytes]:
        """Read the body in blocks; raises if it is empty or does not come to its end."""
        assert self.request is not None  # noqa: S101 - given by the handler
        done = 0
        async for block in read_blocks(self.request):
            done += len(block)
            show(done, 0)
            yield block
        if not done:
            empty = FieldError(field="", code="empty", message="the body is empty; it is to be the file")
            raise Problem(REJECTED, "Nothing was stored.", errors=(empty,))


class Files:
    """The handler, over what the process shares."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def post(self, request: Request, name: str) -> Response:
        """Take one file."""
        pipeline = self._context.find(request, name)
        query = query_of(request, "max_rejects", "on_rejects", "dry_run", "again", "filename")
        options, again = options_of(query)
        check_type(request)
        source = Received(name=name_of(request, query), request=request)
        with self._context.uploads.enter():
            services = self._context.services
            uploads = Uploads(await services.temporal(), services.objects, self._context.settings)
            state = await uploads.upload(pipeline.name, source, options, again=again, show=lambda _done, _size: None)
        return Response(
            json.dumps(document_of(state)),
            status_code=200 if state.known else 202,
            headers={"Location": f"/tickets/{state.ticket}"},
            media_type="application/json",
        )


def options_of(query: Mapping[str, str]) -> tuple[LoadOptions, bool]:
    """Read the options of a load, and whether it is wanted again. Raises `Problem`."""
    on_rejects = query.get("on_rejects", "finish")
    if on_rejects not in {"finish", "wait"}:
        raise Problem(BAD_REQUEST, "on_rejects is finish or wait.")
    found = {name: FLAGS.get(query.get(name, "false")) for name in ("dry_run", "again")}
    dry_run, again = found["dry_run"], found["again"]
    if dry_run is None or again is None:
        raise Problem(BAD_REQUEST, "dry_run and again are true or false.")
    try:
        limit = parse_limit(query.get("max_rejects"))
    except CommandError:
        detail = "max_rejects is a number of rows, such as 100, or a share of them, such as 0.5%."
        raise Problem(BAD_REQUEST, detail) from None
    return LoadOptions.model_validate({"max_rejects": limit, "on_rejects": on_rejects, "dry_run": dry_run}), again


def check_type(request: Request) -> None:
    """Refuse a form: its boundaries would be loaded as rows."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if kind in {"multipart/form-data", "application/x-www-form-urlencoded"} or coding != "identity":
        detail = "The body is the file itself, without a form or a content coding; a gzip file is sent as it is."
        raise Problem(UNSUPPORTED, detail)


def name_of(request: Request, query: Mapping[str, str]) -> str:
    """Tell what the file is called: `?filename=`, or else Content-Disposition (RFC 6266). Raises `Problem`."""
    name = query.get("filename")
    if name is None:
        header = Message()
        header["content-disposition"] = request.headers.get("content-disposition", "attachment")
        name = header.get_filename(NAME)
    # A path is no part of a name; it would only tell strangers about the sender's machine.
    name = name.replace("\\", "/").rpartition("/")[2]
    if not name or not name.isprintable() or len(name.encode("utf-8", "replace")) > LONGEST_NAME:
        raise Problem(BAD_REQUEST, f"A file name has 1 to {LONGEST_NAME} bytes of printable characters.")
    return name
