"""The entrance: whoever has no valid key gets no further, and every request leaves one line in the log.

Guarantee: without a valid key all paths look the same, the existing and the others, but for the two that tell a load
balancer how the process is. The log has method, path, status, time and the key's name; no query, body or header.
"""

from __future__ import annotations

import ipaddress
import logging
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starter.api.keys import ANYONE, Caller, Keyring
from starter.api.problems import FORBIDDEN, GONE, UNAUTHORIZED, GoneError, Problem, report

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("starter.api")

OPEN = frozenset({"/healthz", "/readyz"})


class Entrance:
    """An ASGI application in front of another. Without a keyring, everyone of this machine may enter."""

    def __init__(self, app: ASGIApp, keyring: Keyring | None) -> None:
        self._app = app
        self._keyring = keyring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status, over = 0, False

        async def watched(message: Message) -> None:
            nonlocal status, over
            if message["type"] == "http.response.start":
                status = message["status"]
            over = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        try:
            scope["caller"] = self.admit(scope)
            await self._app(scope, receive, watched)
        except Problem as problem:
            await problem.response()(scope, receive, watched)
        except GoneError:
            status, over = GONE, True
        except Exception as error:  # noqa: BLE001 - told by its type and place, and no further
            if not over:
                # The answer has begun. Only cutting the connection tells the caller that it is not whole.
                report(error)
        finally:
            tell(scope, status if over else GONE, time.perf_counter() - began)
        if not over:
            message = "the answer was cut"
            raise ConnectionAbortedError(message)

    def admit(self, scope: Scope) -> Caller:
        """Find out who calls. Raises `Problem`, the same one whatever was asked for."""
        if scope["path"] in OPEN:
            return ANYONE
        if self._keyring is None:
            check_local(scope)
            return ANYONE
        token = token_of(scope)
        caller = self._keyring.find(token) if token else None
        if caller is None:
            detail = "Send a valid key: Authorization: Bearer KEY, or X-API-Key: KEY."
            raise Problem(UNAUTHORIZED, detail, headers={"WWW-Authenticate": "Bearer"})
        return caller


def token_of(scope: Scope) -> str:
    """Take the key from the headers. Two different ones are none: it is not ours to choose who is meant."""
    found = set()
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, token = value.partition(b" ")
            if scheme.lower() == b"bearer":
                found.add(token.strip())
        elif name == b"x-api-key":
            found.add(value.strip())
    return found.pop().decode("latin-1") if len(found) == 1 else ""


def check_local(scope: Scope) -> None:
    """Keep web pages out of a server without keys: the browser that shows them runs on this machine, too."""
    for name, value in scope["headers"]:
        text = value.decode("latin-1")
        if (name == b"host" and not is_loopback(host_of(f"//{text}"))) or (
            name == b"origin" and not is_loopback(host_of(text))
        ):
            raise Problem(FORBIDDEN, "Without keys only programs of this machine are served.")


def host_of(url: str) -> str:
    """Take the host of a URL, empty if there is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Say whether a host is this machine, and nothing else can be meant."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def tell(scope: Scope, status: int, seconds: float) -> None:
    """Write the line of one request. The path is logged as it came, encoded: it cannot begin a new line."""
    caller = scope.get("caller", ANYONE)
    path = scope.get("raw_path", b"").decode("ascii", "replace")
    log.info("%s %s %d %.1f ms %s", scope["method"], path, status, seconds * 1000, caller.name or "-")
