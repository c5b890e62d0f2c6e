"""What the API stands on: one Temporal client and one object-store client per process, opened once.

Guarantee: the process starts and answers while either is down; what does not answer is named, without its address.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from typing import TYPE_CHECKING, Protocol

from temporalio.service import RPCError

from contracts.errors import PipelinesError, UnavailableError
from starter.api.keys import ANYONE, Caller
from starter.api.limits import Gate
from starter.api.problems import NOT_FOUND, Problem
from starter.services import naming_temporal, unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from fastapi import Request
    from temporalio.client import Client

    from contracts.pipeline import Pipeline
    from contracts.ports import ObjectStore
    from starter.services import Settings

CONNECT_SECONDS = 5.0
CHECK_SECONDS = 3.0
FRESH_SECONDS = 1.0
"""How long the answer of a check is good for: whoever asks for it needs no key, and shall not load the services."""

TEMPORAL = "Temporal"
OBJECTS = "the object store"


class Services(Protocol):
    """The stateful services of a process."""

    async def temporal(self) -> Client:
        """Give the one client. Raises `UnavailableError` while there is no connection yet."""
        ...

    @property
    def objects(self) -> ObjectStore:
        """Give the object store."""
        ...

    async def missing(self) -> tuple[str, ...]:
        """Name what does not answer now."""
        ...


class OpenServices:
    """The real services."""

    def __init__(self, settings: Settings, objects: ObjectStore) -> None:
        self._settings = settings
        self._objects = objects
        self._client: Client | None = None
        self._connecting = asyncio.Lock()
        self._checking = asyncio.Lock()
        self._checked = -FRESH_SECONDS
        self._missing: tuple[str, ...] = ()

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, settings: Settings) -> AsyncIterator[OpenServices]:
        """Open the clients; Temporal is connected to now if it answers, else when it is first needed."""
        from starter.services import object_store

        async with object_store(settings) as objects:
            services = cls(settings, objects)
            with contextlib.suppress(UnavailableError):
                await services.temporal()
            yield services

    @property
    def objects(self) -> ObjectStore:
        """Give the object store."""
        return self._objects

    async def temporal(self) -> Client:
        """Give the one client; after the first connection it finds its way back by itself."""
        from workers.client import connect_temporal

        if self._client is None:
            async with self._connecting:
                if self._client is None:
                    try:
                        async with asyncio.timeout(CONNECT_SECONDS):
                            self._client = await connect_temporal(self._settings)
                    except (RuntimeError, TimeoutError) as error:  # the former is the SDK's word for "cannot connect"
                        raise unavailable(self._settings) from error
        return self._client

    async def missing(self) -> tuple[str, ...]:
        """Ask both, at most once a second however many want to know."""
        async with self._checking:
            if time.monotonic() - self._checked >= FRESH_SECONDS:
                found = await asyncio.gather(self._temporal_answers(), self._objects_answer())
                pairs = zip((TEMPORAL, OBJECTS), found, strict=True)
                self._missing = tuple(name for name, answers in pairs if not answers)
                self._checked = time.monotonic()
            return self._missing

    async def _temporal_answers(self) -> bool:
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                client = await self.temporal()
                with naming_temporal(self._settings):
                    return bool(await client.service_client.check_health(retry=False))
        except (PipelinesError, RPCError, TimeoutError, RuntimeError):
            return False

    async def _objects_answer(self) -> bool:
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                # There is no such object; that the store says so is the answer.
                await self._objects.find("readyz")
        except (PipelinesError, TimeoutError):
            return False
        return True


@dataclasses.dataclass
class Context:
    """What the handlers of one process share. `stopping` is set when the process is to end."""

    pipelines: Mapping[str, Pipeline]
    settings: Settings
    services: Services
    records: Gate
    uploads: Gate
    questions: Gate
    stopping: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)

    @classmethod
    def of(cls, settings: Settings, pipelines: Mapping[str, Pipeline], services: Services) -> Context:
        """Take the bounds from the settings."""
        return cls(
            pipelines=pipelines,
            settings=settings,
            services=services,
            records=Gate(settings.api_requests_in_flight),
            uploads=Gate(settings.api_uploads_in_flight),
            questions=Gate(settings.api_requests_in_flight),
        )

    def visible(self, request: Request) -> dict[str, Pipeline]:
        """Give the pipelines that the caller may use."""
        caller = caller_of(request)
        return {name: pipeline for name, pipeline in self.pipelines.items() if caller.may_use(name)}

    def find(self, request: Request, name: str) -> Pipeline:
        """Look a pipeline up; one that the caller may not use is as unknown to him as one that is not there."""
        pipeline = self.pipelines.get(name)
        if pipeline is None or not caller_of(request).may_use(name):
            raise Problem(NOT_FOUND, "No such pipeline.")
        return pipeline


def caller_of(request: Request) -> Caller:
    """Tell who sent a request, as the entrance found out."""
    caller = request.scope.get("caller", ANYONE)
    assert isinstance(caller, Caller)  # noqa: S101 - the entrance put it there
    return caller
