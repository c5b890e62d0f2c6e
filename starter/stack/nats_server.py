"""NATS with JetStream: queues and topics.

Guarantee: once ready, JetStream answers, with its data in the stack's folder and events of up to 8 MB.
"""

from __future__ import annotations

import json
import socket
from typing import ClassVar

from starter.stack.ports import LOOPBACK
from starter.stack.server import Server, binary
from starter.stack.state import write_private

MAX_PAYLOAD = 8 * 1024 * 1024


class NatsServer(Server):
    """The broker."""

    name: ClassVar[str] = "nats"
    title: ClassVar[str] = "NATS"
    port_names: ClassVar[tuple[str, ...]] = ("nats",)

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://{LOOPBACK}:{self.port}"

    def prepare(self) -> None:
        """Write the configuration; its format takes JSON."""
        configuration = {
            "host": LOOPBACK,
            "port": self.port,
            "max_payload": MAX_PAYLOAD,
            "jetstream": {"store_dir": str(self.data)},
        }
        write_private(self.data / "nats.conf", json.dumps(configuration, indent=2))

    def command(self) -> list[str]:
        """Run it from its configuration file."""
        return [binary("nats-server"), "-c", str(self.data / "nats.conf")]

    def probe(self) -> bool:
        """Read the line with which the server greets."""
        with (
            socket.create_connection((LOOPBACK, self.port), timeout=5) as connection,
            connection.makefile("rb") as file,
        ):
            greeting = file.readline()
        return bool(json.loads(greeting.removeprefix(b"INFO ")).get("jetstream"))
