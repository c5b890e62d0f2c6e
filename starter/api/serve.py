"""One server process: what it may listen on, how it begins, and how it ends.

Guarantee: without keys it listens on loopback only, or not at all. SIGTERM and SIGINT let requests in progress finish:
who waits for a record is told at once that it is accepted, files that are on their way may arrive.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from typing import TYPE_CHECKING

import uvicorn

from starter.api.app import build
from starter.api.connection import MOST_HEAD_BYTES, Connection
from starter.api.entrance import is_loopback
from starter.api.keys import Keyring, load_keys
from starter.api.services import Context, OpenServices
from starter.exits import CommandError, Exit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import FrameType

    from contracts.pipeline import Pipeline
    from starter.services import Settings

log = logging.getLogger("starter.api")

GRACE_SECONDS = 25
"""Less than the 30 s that container platforms usually wait before they kill."""
KEEP_ALIVE_SECONDS = 65
"""Longer than the 60 s after which the usual load balancers drop an idle connection: who closes last cannot race."""


def keyring_for(settings: Settings, host: str, *, without_keys: bool) -> Keyring | None:
    """Decide who may enter. Raises `CommandError` for a server that would be open to the world."""
    keyring = load_keys(settings)
    if without_keys:
        if keyring:
            message = "API keys are set, and --without-keys would ignore them: leave one of them out."
            raise CommandError(Exit.USAGE, message)
        if not is_loopback(host):
            message = f"Without keys the API listens on loopback only, not on {host}: set API_KEYS or API_KEYS_FILE."
            raise CommandError(Exit.USAGE, message)
        return None
    if not keyring:
        message = (
            "The API needs keys: `starter api-key NAME --pipelines A,B` makes one for API_KEYS or API_KEYS_FILE; "
            "on a development machine, --without-keys serves loopback without any."
        )
        raise CommandError(Exit.USAGE, message)
    return keyring


class Server(uvicorn.Server):
    """uvicorn's server, which tells the handlers when it stops."""

    def __init__(self, config: uvicorn.Config, context: Context) -> None:
        super().__init__(config)
        self._context = context
        self._loop = asyncio.get_running_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; called by the signal."""
        super().handle_exit(sig, frame)
        self._loop.call_soon_threadsafe(self._context.stopping.set)

    def _log_started_message(self, listeners: object) -> None:
        del listeners
        for server in self.servers:
            for listener in server.sockets:
                host, port = listener.getsockname()[:2]
                log.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)


async def serve(
    settings: Settings, pipelines: Mapping[str, Pipeline], host: str, port: int, keyring: Keyring | None
) -> bool:
    """Serve until a signal; returns whether the server could start."""
    async with OpenServices.open(settings) as services:
        context = Context.of(settings, pipelines, services)
        connection = type("Connection", (Connection,), {"most": settings.api_connections})
        config = uvicorn.Config(
            build(context, keyring),
            host=host,
            port=port,
            http=connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            # Nothing here depends on the caller's address or scheme, so no proxy has to be believed.
            proxy_headers=False,
            h11_max_incomplete_event_size=MOST_HEAD_BYTES,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        server = Server(config, context)
        try:
            await server.serve()
        except SystemExit:  # uvicorn's way to say that the address cannot be used; its reason is in the log
            return False
        return server.started


def run(settings: Settings, pipelines: Mapping[str, Pipeline], host: str, port: int, *, without_keys: bool) -> bool:
    """Run one server process until it is told to stop; returns whether it could start."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    keyring = keyring_for(settings, host, without_keys=without_keys)
    if keyring is not None and (unknown := sorted(keyring.pipelines - pipelines.keys())):
        log.warning("keys name pipelines that are not declared: %s", ", ".join(unknown))
    # uvicorn raises the signal again when it has stopped; that it has is all that was wanted.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    with contextlib.suppress(ImportError):
        import uvloop  # the faster loop; there is none for Windows

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(serve(settings, pipelines, host, port, keyring))
