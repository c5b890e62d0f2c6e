"""What an answer of the Temporal server means to whoever parks a letter."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from temporalio.service import RPCError, RPCStatusCode

from contracts.errors import UnavailableError
from workers.parking import translated

CLIENT: Any = SimpleNamespace(service_client=SimpleNamespace(config=SimpleNamespace(target_host="temporal:7233")))
OWN_FAULT = (RPCStatusCode.INVALID_ARGUMENT, RPCStatusCode.NOT_FOUND, RPCStatusCode.PERMISSION_DENIED)


@pytest.mark.parametrize(
    "status", ["UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "CANCELLED", "INTERNAL", "UNKNOWN"]
)
def test_a_server_that_is_away_overloaded_or_broken_is_an_outage(status: str) -> None:
    error = translated(CLIENT, RPCError("m", RPCStatusCode[status], b""))
    assert isinstance(error, UnavailableError)
    assert status in str(error)


@pytest.mark.parametrize("status", OWN_FAULT)
def test_an_answer_about_the_call_itself_stays_what_it_is(status: RPCStatusCode) -> None:
    error = RPCError("m", status, b"")
    assert translated(CLIENT, error) is error
