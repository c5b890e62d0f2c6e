"""`python -m workers.bootstrap`: make a Temporal server ready for this project; any number of times.

Guarantee: when it ends with 0, the namespace exists, keeps closed runs for at least `RETENTION`, and workflows can use
every search attribute of `workflows.options`. It adds what is missing and takes nothing away: a longer retention stays,
and an attribute of another type is an error, not a change.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from datetime import timedelta
from typing import TYPE_CHECKING

from google.protobuf.duration_pb2 import Duration
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.namespace.v1 import NamespaceConfig
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.api.workflowservice.v1 import (
    DescribeNamespaceRequest,
    ListWorkflowExecutionsRequest,
    RegisterNamespaceRequest,
    UpdateNamespaceRequest,
)
from temporalio.service import RPCError, RPCStatusCode

from contracts.errors import TerminalError, TransientError
from stores.settings import load_settings
from workers.client import connect_temporal
from workflows.options import RETENTION, SEARCH_ATTRIBUTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from temporalio.client import Client

    from stores.settings import Settings

log = logging.getLogger("workers.bootstrap")

FAILED = 1
UNREACHABLE = 5
PATIENCE = 180.0
CALL = timedelta(seconds=10)
PAUSE = 1.0
PASSING = frozenset({RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.RESOURCE_EXHAUSTED})
"""What a server answers that is still starting, or busy."""
MADE_BY_ANOTHER = frozenset({RPCStatusCode.ALREADY_EXISTS, RPCStatusCode.NOT_FOUND})
"""Two bootstraps at once, or a part of the server that has not yet heard of the namespace: look again."""


class SearchAttributeMismatchError(TerminalError):
    """A search attribute exists with another type than the one the project needs."""

    code = "search_attribute_mismatch"


async def bootstrap(settings: Settings, *, patience: float = PATIENCE) -> None:
    """Wait for the server, and make it ready.

    Raises `SearchAttributeMismatchError`, `RPCError` for what the server refuses, and `TimeoutError`, with the last
    reason, after `patience` seconds.
    """
    waiting_for = f"Temporal at {settings.temporal_address}"
    try:
        async with asyncio.timeout(patience):
            while True:
                try:
                    # Each step looks before it acts, so starting over is how every passing trouble is dealt with.
                    return await prepare(await connect_temporal(settings))
                except (RuntimeError, TransientError) as error:
                    waiting_for = first_line(error)
                except RPCError as error:
                    if error.status not in PASSING | MADE_BY_ANOTHER:
                        raise
                    waiting_for = first_line(error)
                log.info("not ready yet: %s", waiting_for)
                await asyncio.sleep(PAUSE)
    except TimeoutError:
        message = f"Temporal at {settings.temporal_address} was not ready within {patience:.0f} s: {waiting_for}"
        raise TimeoutError(message) from None


async def prepare(client: Client) -> None:
    """Do what is missing. Raises `TransientError` while the server has not yet taken it in."""
    await keep_namespace(client)
    await add_search_attributes(client)
    await use_search_attributes(client)


async def keep_namespace(client: Client) -> None:
    """Register the client's namespace if it is absent; raise its retention if that is shorter."""
    retention = Duration()
    retention.FromTimedelta(RETENTION)
    service = client.workflow_service
    try:
        described = await service.describe_namespace(DescribeNamespaceRequest(namespace=client.namespace), timeout=CALL)
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        await service.register_namespace(
            RegisterNamespaceRequest(namespace=client.namespace, workflow_execution_retention_period=retention),
            timeout=CALL,
        )
        log.info("registered namespace %s, retention %s", client.namespace, RETENTION)
        return
    if described.config.workflow_execution_retention_ttl.ToTimedelta() < RETENTION:
        await service.update_namespace(
            UpdateNamespaceRequest(
                namespace=client.namespace, config=NamespaceConfig(workflow_execution_retention_ttl=retention)
            ),
            timeout=CALL,
        )
        log.info("raised the retention of namespace %s to %s", client.namespace, RETENTION)


async def missing_search_attributes(client: Client) -> dict[str, IndexedValueType.ValueType]:
    """Name the search attributes that the namespace lacks. Raises `SearchAttributeMismatchError`."""
    listed = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=client.namespace), timeout=CALL
    )
    wanted = {key.name: IndexedValueType.ValueType(int(key.indexed_value_type)) for key in SEARCH_ATTRIBUTES}
    known = {**listed.custom_attributes, **listed.system_attributes}
    differing = [
        f"{name} is {type_name(known[name])} and has to be {type_name(kind)}"
        for name, kind in wanted.items()
        if known.get(name, kind) != kind
    ]
    if differing:
        message = (
            f"Search attributes of namespace {client.namespace} have another type: {'; '.join(differing)}. "
            "Remove them with `temporal operator search-attribute remove`, or use a namespace of your own."
        )
        raise SearchAttributeMismatchError(message)
    return {name: kind for name, kind in wanted.items() if name not in known}


async def add_search_attributes(client: Client) -> None:
    """Add the missing search attributes. Raises `SearchAttributeMismatchError`."""
    # Looked up first: a known name that is added with another type keeps the old one, and the server only warns.
    missing = await missing_search_attributes(client)
    if missing:
        await client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(namespace=client.namespace, search_attributes=missing), timeout=CALL
        )
        log.info("added search attributes %s", ", ".join(missing))


async def use_search_attributes(client: Client) -> None:
    """Ask for runs by every attribute. Raises `TransientError` while the server does not know one: it caches them."""
    query = " AND ".join(f"`{key.name}` IS NULL" for key in SEARCH_ATTRIBUTES)
    try:
        await client.workflow_service.list_workflow_executions(
            ListWorkflowExecutionsRequest(namespace=client.namespace, page_size=1, query=query), timeout=CALL
        )
    except RPCError as error:
        if error.status is RPCStatusCode.INVALID_ARGUMENT:
            message = f"search attributes cannot be used yet: {first_line(error)}"
            raise TransientError(message) from error
        raise


def type_name(kind: int) -> str:
    """Name a type as Temporal's command line does: Keyword, KeywordList, Datetime."""
    name = IndexedValueType.Name(IndexedValueType.ValueType(kind)).removeprefix("INDEXED_VALUE_TYPE_")
    return "".join(part.capitalize() for part in name.split("_"))


def first_line(error: Exception) -> str:
    """Give the first line of an error's text: the client's own are long chains of transport errors."""
    return str(error).split("\n", 1)[0].strip()


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare the server that the settings name; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m workers.bootstrap",
        description="Register the namespace, its retention and the search attributes with a Temporal server.",
    )
    parser.add_argument("--patience", type=float, default=PATIENCE, help="seconds to wait for the server")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        settings = load_settings()
        asyncio.run(bootstrap(settings, patience=options.patience))
    except TimeoutError as error:
        print(f"bootstrap: {error}", file=sys.stderr)  # noqa: T201
        return UNREACHABLE
    except RPCError as error:
        print(f"bootstrap: Temporal refused: {first_line(error)}", file=sys.stderr)  # noqa: T201
        return FAILED
    except (TerminalError, ValueError) as error:
        print(f"bootstrap: {first_line(error)}", file=sys.stderr)  # noqa: T201
        return FAILED
    log.info("Temporal is ready")
    return 0


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    # Threads of Temporal's client may call back while a short-lived interpreter takes itself down, which kills the
    # process with a signal: whoever waits for this command would take that for a failure.
    os._exit(status)
