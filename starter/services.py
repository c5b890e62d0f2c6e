"""Connections of the command line: settings, Temporal, the object store, and the Web UI's addresses.

Guarantee: a service that does not answer is an `UnavailableError` that names it and its address.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING
from urllib.parse import quote

from temporalio.service import RPCError, RPCStatusCode

from contracts.errors import UnavailableError, UnknownPipelineError
from contracts.registry import load_pipelines
from stores.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from temporalio.client import Client

    from contracts.pipeline import Pipeline
    from contracts.ports import ObjectStore
    from starter.output import Output

OUTAGES = frozenset(
    {
        RPCStatusCode.UNAVAILABLE,
        RPCStatusCode.DEADLINE_EXCEEDED,
        RPCStatusCode.CANCELLED,
        RPCStatusCode.UNKNOWN,
    }
)


def is_outage(error: BaseException) -> bool:
    """Say whether Temporal did not answer, as opposed to answering no."""
    if isinstance(error, RPCError):
        return error.status in OUTAGES
    return isinstance(error, UnavailableError | ConnectionError)


def unavailable(settings: Settings) -> UnavailableError:
    """Name Temporal as what does not answer."""
    service, reason = "Temporal", "it does not answer"
    return UnavailableError(service, settings.temporal_address, reason)


@contextlib.contextmanager
def naming_temporal(settings: Settings) -> Iterator[None]:
    """Turn an outage of Temporal into an error that names it."""
    try:
        yield
    except RPCError as error:
        if is_outage(error):
            raise unavailable(settings) from error
        raise


@contextlib.asynccontextmanager
async def temporal(settings: Settings) -> AsyncIterator[Client]:
    """Connect to Temporal for the length of a command. Raises `UnavailableError`."""
    from workers.client import connect_temporal

    with naming_temporal(settings):
        try:
            client = await connect_temporal(settings)
        except RuntimeError as error:  # the SDK's word for "cannot connect"
            raise unavailable(settings) from error
        yield client


@contextlib.asynccontextmanager
async def object_store(settings: Settings) -> AsyncIterator[ObjectStore]:
    """Open the object store for the length of a command. Raises `UnavailableError`."""
    from stores.s3_objects import S3ObjectStore

    async with S3ObjectStore.open(settings) as objects:
        yield objects


def declared(settings: Settings, output: Output) -> dict[str, Pipeline]:
    """Load the declarations that `--pipelines` or the settings name. Raises `DeclarationError`."""
    return load_pipelines(output.pipelines or settings.pipelines)


def find_pipeline(pipelines: dict[str, Pipeline], name: str) -> Pipeline:
    """Look a pipeline up. Raises `UnknownPipelineError` that lists what there is."""
    try:
        return pipelines[name]
    except KeyError:
        known = ", ".join(sorted(pipelines)) or "none"
        message = f"no pipeline is called {name!r}; declared are: {known}"
        raise UnknownPipelineError(message) from None


def operator() -> str:
    """Name the account that uses the command line, for the record of who did what; empty if it has no name."""
    import getpass

    try:
        return getpass.getuser()[:100]
    except (OSError, KeyError):
        return ""


def link(settings: Settings, ticket: str) -> str:
    """Give the Web UI's address of a ticket's run."""
    root = settings.temporal_ui_url.rstrip("/")
    return f"{root}/namespaces/{quote(settings.temporal_namespace, safe='')}/workflows/{quote(ticket, safe='')}"


__all__ = [
    "Settings",
    "declared",
    "find_pipeline",
    "is_outage",
    "link",
    "load_settings",
    "naming_temporal",
    "object_store",
    "operator",
    "temporal",
]
