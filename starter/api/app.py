"""The application: routes, handlers and the entrance, put together.

Guarantee: FastAPI never reads a body here. Records are parsed by the project's own strict parser, files are
streamed, and the OpenAPI document is written from the pipelines' models.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request, Response

from starter.api import problems
from starter.api.entrance import Entrance
from starter.api.files import Files
from starter.api.limits import query_of
from starter.api.openapi import describe
from starter.api.problems import RETRY_AFTER, RETRY_SECONDS, UNAVAILABLE, Problem
from starter.api.records import Records
from starter.api.services import Context
from starter.api.tickets import Tickets

if TYPE_CHECKING:
    from starter.api.keys import Keyring

DOCS = "/docs"


class Questions:
    """The handlers that need no workflow."""

    def __init__(self, context: Context, *, keys: bool) -> None:
        self._context = context
        self._keys = keys

    async def pipelines(self, request: Request) -> Response:
        """List the pipelines that the caller may use."""
        query_of(request)
        found = [
            {"name": name, "records": f"/pipelines/{name}/records", "files": f"/pipelines/{name}/files"}
            for name in self._context.visible(request)
        ]
        return in_json({"pipelines": found})

    async def openapi(self, request: Request) -> Response:
        """Describe the API as far as the caller may use it."""
        return in_json(describe(self._context.visible(request), keys=self._keys))

    async def healthz(self, request: Request) -> Response:
        """Say that the process lives; nothing else is asked."""
        query_of(request)
        return in_json({"status": "alive"})

    async def readyz(self, request: Request) -> Response:
        """Say whether requests can be served now."""
        query_of(request)
        if self._context.stopping.is_set():
            raise Problem(UNAVAILABLE, "This server is stopping.", headers={RETRY_AFTER: RETRY_SECONDS})
        if missing := await self._context.services.missing():
            detail = f"{' and '.join(missing)} {'does' if len(missing) == 1 else 'do'} not answer."
            raise Problem(UNAVAILABLE, detail[0].upper() + detail[1:], headers={RETRY_AFTER: RETRY_SECONDS})
        return in_json({"status": "ready"})


def in_json(document: object) -> Response:
    """Answer with a document."""
    return Response(json.dumps(document), media_type="application/json")


def build(context: Context, keyring: Keyring | None) -> Entrance:
    """Build the application. Without a keyring it serves everyone of this machine, and shows its documentation."""
    app = FastAPI(
        title="durable-pipelines",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # Spans and metrics would take queries and errors along, which no log of ours may have.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    problems.install(app)
    questions = Questions(context, keys=keyring is not None)
    tickets = Tickets(context)
    routes = (
        ("POST", "/pipelines/{name}/records", Records(context).post),
        ("POST", "/pipelines/{name}/files", Files(context).post),
        ("GET", "/pipelines", questions.pipelines),
        ("GET", "/tickets/{ticket:path}/rejects", tickets.rejects),
        ("POST", "/tickets/{ticket:path}/cancel", tickets.cancel),
        ("GET", "/tickets/{ticket:path}", tickets.get),
        ("GET", "/healthz", questions.healthz),
        ("GET", "/readyz", questions.readyz),
        ("GET", "/openapi.json", questions.openapi),
    )
    for method, path, handler in routes:
        app.add_api_route(path, handler, methods=[method], response_model=None, include_in_schema=False)
    if keyring is None:
        # A browser sends no key, so this page is for development.
        from fastapi.openapi.docs import get_swagger_ui_html

        async def docs(_request: Request) -> Response:
            return get_swagger_ui_html(openapi_url="/openapi.json", title="durable-pipelines")

        app.add_api_route(DOCS, docs, methods=["GET"], response_model=None, include_in_schema=False)
    return Entrance(app, keyring)
