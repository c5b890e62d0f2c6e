"""Temporal's development server, with its Web UI.

Guarantee: once ready, the namespace keeps closed runs for the retention of `workflows.options`, and the search
attributes listed there are registered.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar

from starter.stack.ports import LOOPBACK, is_open
from starter.stack.server import Server, binary

NAMESPACE = "default"


class TemporalServer(Server):
    """The engine, its history in one SQLite file."""

    name: ClassVar[str] = "temporal"
    title: ClassVar[str] = "Temporal"
    port_names: ClassVar[tuple[str, ...]] = ("temporal", "temporal_ui", "temporal_http", "temporal_metrics")

    @property
    def address(self) -> str:
        """Where clients connect."""
        return f"{LOOPBACK}:{self.port}"

    def prepare(self) -> None:
        """Do nothing: the server makes its file."""

    def command(self) -> list[str]:
        """Run the server with every port explicit; SQLite in WAL mode keeps its data after SIGKILL."""
        from workers.bootstrap import type_name
        from workflows.options import SEARCH_ATTRIBUTES

        attributes = [
            part
            for key in SEARCH_ATTRIBUTES
            for part in ("--search-attribute", f"{key.name}={type_name(key.indexed_value_type)}")
        ]
        return [
            binary("temporal"),
            *("server", "start-dev", "--ip", LOOPBACK, "--port", str(self.port)),
            *("--ui-port", str(self.port_of("temporal_ui"))),
            *("--http-port", str(self.port_of("temporal_http"))),
            *("--metrics-port", str(self.port_of("temporal_metrics"))),
            *("--db-filename", str(self.data / "temporal.db")),
            *("--sqlite-pragma", "journal_mode=WAL", "--sqlite-pragma", "synchronous=NORMAL"),
            *("--log-level", "warn"),
            *attributes,
        ]

    def probe(self) -> bool:
        """Ask for the search attributes, and set the retention."""
        # The client waits long for a port that is still closed, so look first.
        return is_open(self.port) and is_open(self.port_of("temporal_ui")) and asyncio.run(self._probe())

    async def _probe(self) -> bool:
        from temporalio.client import Client

        from workers.bootstrap import keep_namespace, missing_search_attributes

        client = await Client.connect(self.address, namespace=NAMESPACE)
        if await missing_search_attributes(client):
            return False
        await keep_namespace(client)
        return True
