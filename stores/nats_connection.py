"""One connection to NATS for the life of a process: made when it is first used, and made again after an outage.

Guarantee: whatever waits for an answer when the connection is lost is told so at once, so an answer that arrives
came over the connection that the question went out on. Errors are `UnavailableError` with host and port, never
credentials.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from typing import TYPE_CHECKING

from nats.aio.client import Client
from nats.errors import AuthorizationError
from nats.errors import Error as NatsError
from nats.js.errors import APIError

from contracts.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from nats.aio.msg import Msg

log = logging.getLogger(__name__)

CONNECT_SECONDS = 3.0
"""To connect, and to wait for a connection that was lost to come back, before a call fails."""
ANSWER_SECONDS = 5.0
RECONNECT_SECONDS = 0.25

STATUS = "Status"
DESCRIPTION = "Description"
NO_RESPONDERS = "503"


class Answers:
    """Collects what the server answers: a number of messages, or fewer if a status may end them early."""

    def __init__(self, count: int, *, until_status: bool) -> None:
        self.messages: list[Msg] = []
        self._count = count
        self._until_status = until_status
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def take(self, message: Msg) -> None:
        """Keep a message; a coroutine, because it is a subscription's callback."""
        self.messages.append(message)
        ended = self._until_status and status_of(message)
        if (ended or len(self.messages) >= self._count) and not self._done.done():
            self._done.set_result(None)

    def lose(self) -> None:
        """End the wait: nothing more will come."""
        if not self._done.done():
            self._done.set_exception(ConnectionResetError())
            self._done.exception()  # looked at, even if nobody waits any more

    async def wait(self, seconds: float) -> None:
        """Wait until all is there. Raises `TimeoutError` or `ConnectionResetError`."""
        async with asyncio.timeout(seconds):
            await self._done


class NatsConnection:
    """Connects on first use. Tasks of one event loop may share it."""

    def __init__(self, url: str, address: str) -> None:
        """Keep where to connect; `address` is how errors name it."""
        self.address = address
        self._url = url
        self._client: Client | None = None
        self._lock = asyncio.Lock()
        self._settled = asyncio.Event()
        self._inbox = ""
        self._tokens = itertools.count()
        self._asked: dict[str, Answers] = {}
        self._pulled: set[Answers] = set()

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, url: str, address: str) -> AsyncIterator[NatsConnection]:
        """Close the connection at the end, if one was made."""
        connection = cls(url, address)
        try:
            yield connection
        finally:
            if connection._client is not None:
                await connection._client.close()

    async def client(self) -> Client:
        """Give the connected client. Raises `UnavailableError` if there is none within three seconds."""
        async with self._lock:
            if self._client is None or self._client.is_closed:
                self._client = await self._connect()
            client = self._client
            if not client.is_connected:
                # Cleared here as well, because a lost connection is noticed before it is told.
                self._settled.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._settled.wait()
        if not client.is_connected:
            raise unavailable(self.address, "the connection was lost")
        return client

    @contextlib.contextmanager
    def asking(self, count: int) -> Iterator[tuple[str, Answers]]:
        """Expect `count` answers, refusals included, to questions that name the given subject for replies."""
        token = str(next(self._tokens))
        answers = self._asked[token] = Answers(count, until_status=False)
        try:
            yield f"{self._inbox}.{token}", answers
        finally:
            del self._asked[token]

    @contextlib.asynccontextmanager
    async def pulling(self, client: Client, count: int) -> AsyncIterator[tuple[str, Answers]]:
        """Expect up to `count` messages, ended by a status, under a subscription of its own.

        When it ends, so does the server's interest: what would still come stays in the queue.
        """
        answers = Answers(count, until_status=True)
        subject = client.new_inbox()
        subscription = await client.subscribe(subject, cb=answers.take, pending_bytes_limit=0)
        self._pulled.add(answers)
        try:
            yield subject, answers
        finally:
            self._pulled.discard(answers)
            with contextlib.suppress(NatsError):
                await subscription.unsubscribe()

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """Raise whatever says that the server did not answer, or could not do it now, as `UnavailableError`."""
        try:
            yield
        except TimeoutError as error:
            raise unavailable(self.address, "it did not answer in time") from error
        except APIError as error:
            raise unavailable(self.address, error.description or f"it answers {error.code}") from error
        except (OSError, NatsError) as error:
            raise unavailable(self.address, words_for(error)) from error

    async def _connect(self) -> Client:
        """Connect once. The client's own loop of first attempts never ends, so its first error ends it here."""
        client = Client()
        refusals: asyncio.Queue[Exception] = asyncio.Queue()

        async def note(error: Exception) -> None:
            log.info("NATS: %s", words_for(error))
            if refusals.empty():
                refusals.put_nowait(error)

        async def settle() -> None:
            self._settled.set()

        async def lose() -> None:
            self._settled.clear()
            for answers in (*self._asked.values(), *self._pulled):
                answers.lose()

        connecting = asyncio.create_task(
            client.connect(
                self._url,
                error_cb=note,
                disconnected_cb=lose,
                reconnected_cb=settle,
                closed_cb=settle,
                connect_timeout=int(CONNECT_SECONDS),
                reconnect_time_wait=RECONNECT_SECONDS,  # type: ignore[arg-type] # it only sleeps that long
                max_reconnect_attempts=-1,
                skip_subject_validation=True,
            )
        )
        refused = asyncio.create_task(refusals.get())
        try:
            with self.translated():
                tasks = {connecting, refused}
                await asyncio.wait(tasks, timeout=CONNECT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                await first_of(connecting, refused)
                self._inbox = client.new_inbox()
                await client.subscribe(f"{self._inbox}.*", cb=self._deliver, pending_bytes_limit=0)
        except BaseException:
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
            await client.close()
            raise
        finally:
            refused.cancel()
        self._settled.set()
        return client

    async def _deliver(self, message: Msg) -> None:
        answers = self._asked.get(message.subject.rpartition(".")[2])
        if answers is not None:
            await answers.take(message)


async def first_of(connecting: asyncio.Task[None], refused: asyncio.Task[Exception]) -> None:
    """Raise what a first attempt to connect ended with, if it did not succeed."""
    if connecting.done():
        connecting.result()
    elif refused.done():
        raise refused.result()
    else:
        raise TimeoutError


def unavailable(address: str, reason: str) -> UnavailableError:
    """Build the error that names this service."""
    return UnavailableError("NATS", address, reason)


def status_of(message: Msg) -> str:
    """Read the status of a message that is one, as `404`; others have none."""
    return message.headers.get(STATUS, "") if message.headers and not message.data else ""


def words_for(error: Exception) -> str:
    """Say what happened to the connection, in a few words and without the server's URL."""
    if isinstance(error, AuthorizationError) or "authorization" in str(error).lower():
        return "the credentials are refused"
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "the connection is refused"
    if isinstance(error, ConnectionError):
        return "the connection was lost"
    if isinstance(error, OSError):
        return "the connection failed"
    return f"the connection failed ({type(error).__name__})"
