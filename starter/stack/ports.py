"""Ports: which ones the servers listen on.

Guarantee: a port that was set explicitly is used or refused by name; any other is the one recorded last time, the
usual one, or a free one, whichever is free first.
"""

from __future__ import annotations

import random
import socket
from typing import TYPE_CHECKING

from starter.stack.errors import PortBusyError, StackError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

LOOPBACK = "127.0.0.1"

USUAL = {"temporal": 7233, "temporal_ui": 8233, "postgres": 5432, "objects": 8333, "nats": 4222}
"""The ports that people expect. All other ports of the servers are internal and chosen freely."""

VARIABLES = {
    "temporal": "TEMPORAL_PORT",
    "temporal_ui": "TEMPORAL_UI_PORT",
    "postgres": "POSTGRES_PORT",
    "objects": "S3_PORT",
    "nats": "NATS_PORT",
}
"""The settings that fix a port."""

# Below the range from which the kernel takes the local ports of outgoing connections (32768 on Linux): there,
# a client that keeps dialling a stopped server can connect to itself, and then holds the server's port.
FREE = range(15_000, 32_000)
HIGHEST = 65_535


def is_busy(port: int) -> bool:
    """Say whether the port cannot be listened on. A port in TIME_WAIT is free, as it is for the servers."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return True
    return False


def is_open(port: int) -> bool:
    """Say whether something accepts connections on the port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, port)) == 0


def explicit_port(name: str, environ: Mapping[str, str]) -> int | None:
    """Read the port that the environment fixes for `name`. Raises `StackError` if it is no port."""
    variable = VARIABLES.get(name)
    text = environ.get(variable, "") if variable else ""
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= HIGHEST:
        message = f"{variable} must be a port number from 1 to {HIGHEST}, and is {text!r}."
        raise StackError(message)
    return int(text)


def choose_port(
    name: str, environ: Mapping[str, str], recorded: int | None, taken: Collection[int], *, usual: bool = True
) -> int:
    """Choose the port for `name`, none of `taken`. Raises `PortBusyError` if it is fixed, and busy."""
    explicit = explicit_port(name, environ)
    if explicit is not None:
        if explicit in taken or is_busy(explicit):
            variable = VARIABLES[name]
            message = f"Port {explicit}, set by {variable}, cannot be used: free it or set {variable} to another port."
            raise PortBusyError(message)
        return explicit
    wanted = [recorded, USUAL.get(name) if usual else None]
    for port in [*wanted, *random.sample(FREE, 200)]:
        if port is not None and port not in taken and not is_busy(port):
            return port
    message = f"No free port was found between {FREE.start} and {FREE.stop}."
    raise StackError(message)


def choose_ports(
    names: Iterable[str], environ: Mapping[str, str], recorded: Mapping[str, int], *, usual: bool = True
) -> dict[str, int]:
    """Choose a port for every name, all different; the fixed ones first, so that no other takes them."""
    chosen: dict[str, int] = {}
    for name in sorted(names, key=lambda name: explicit_port(name, environ) is None):
        taken = set(chosen.values())
        chosen[name] = choose_port(name, environ, recorded.get(name), taken, usual=usual)
    return chosen
