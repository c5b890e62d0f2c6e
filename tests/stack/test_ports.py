"""Ports are explicit, recorded, or refused by name."""

from __future__ import annotations

import pytest

from starter.stack.errors import PortBusyError, StackError
from starter.stack.ports import FREE, choose_port, choose_ports, is_busy
from tests.stack.conftest import occupy


def test_a_busy_port_is_seen_and_a_free_one_too() -> None:
    with occupy() as listener:
        port = listener.getsockname()[1]
        assert is_busy(port)
    assert not is_busy(port)


def test_a_fixed_port_is_used() -> None:
    with occupy() as listener:
        port = listener.getsockname()[1]
    assert choose_port("postgres", {"POSTGRES_PORT": str(port)}, None, ()) == port


def test_a_fixed_busy_port_is_refused_with_port_and_setting() -> None:
    with occupy() as listener:
        port = listener.getsockname()[1]
        with pytest.raises(PortBusyError, match=rf"^Port {port}, set by POSTGRES_PORT, [^.]*\.$"):
            choose_port("postgres", {"POSTGRES_PORT": str(port)}, None, ())


def test_two_settings_with_the_same_port_are_refused() -> None:
    with occupy() as listener:
        port = str(listener.getsockname()[1])
    with pytest.raises(PortBusyError, match="_PORT"):
        choose_ports(["postgres", "nats"], {"POSTGRES_PORT": port, "NATS_PORT": port}, {})


@pytest.mark.parametrize("text", ["0", "65536", "-1", "x", "5432.0", "٥٤٣٢", "tcp://10.0.0.1:5432"])
def test_what_is_no_port_is_refused_with_its_setting(text: str) -> None:
    with pytest.raises(StackError, match="POSTGRES_PORT must be a port number"):
        choose_port("postgres", {"POSTGRES_PORT": text}, None, ())


def test_the_recorded_port_is_kept_while_it_is_free_and_replaced_when_it_is_not() -> None:
    with occupy() as listener:
        port = listener.getsockname()[1]
        assert choose_port("nats", {}, port, (), usual=False) != port
    assert choose_port("nats", {}, port, (), usual=False) == port


def test_all_ports_differ_and_a_fixed_one_comes_first() -> None:
    wanted = ["nats", "internal", "postgres"]
    with occupy() as listener:
        fixed = listener.getsockname()[1]
    recorded = {"internal": fixed, "nats": fixed}
    chosen = choose_ports(wanted, {"POSTGRES_PORT": str(fixed)}, recorded, usual=False)
    assert chosen["postgres"] == fixed
    assert len(set(chosen.values())) == len(wanted)
    assert chosen["nats"] in FREE
