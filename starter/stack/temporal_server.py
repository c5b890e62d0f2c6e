"""Temporal's development server, with its Web UI.

Guarantee: once ready, the namespace keeps closed runs for `RETENTION`, and the search attributes that the project
uses are registered.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import ClassVar

from starter.stack.ports import LOOPBACK, is_open
from starter.stack.server import Server, binary

NAMESPACE = "default"
RETENTION = timedelta(days=30)
SEARCH_ATTRIBUTES = ("Pipeline", "Pattern", "PipelineStatus", "ErrorType")
"""All of them are keywords."""


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
        attributes = [part for name in SEARCH_ATTRIBUTES for part in ("--search-attribute", f"{name}=Keyword")]
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
        from google.protobuf.duration_pb2 import Duration
        from temporalio.api.namespace.v1 import NamespaceConfig
        from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
        from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, UpdateNamespaceRequest
        from temporalio.client import Client

        client = await Client.connect(self.address, namespace=NAMESPACE)
        limit = timedelta(seconds=5)
        listed = await client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace=NAMESPACE), timeout=limit
        )
        if not set(SEARCH_ATTRIBUTES) <= set(listed.custom_attributes):
            return False
        described = await client.workflow_service.describe_namespace(
            DescribeNamespaceRequest(namespace=NAMESPACE), timeout=limit
        )
        if described.config.workflow_execution_retention_ttl.ToTimedelta() != RETENTION:
            ttl = Duration()
            ttl.FromTimedelta(RETENTION)
            await client.workflow_service.update_namespace(
                UpdateNamespaceRequest(
                    namespace=NAMESPACE, config=NamespaceConfig(workflow_execution_retention_ttl=ttl)
                ),
                timeout=limit,
            )
        return True
