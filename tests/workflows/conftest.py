from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.workflows.world import World, open_world, start_environment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from temporalio.testing import WorkflowEnvironment


@pytest.fixture(scope="session")
async def env() -> AsyncIterator[WorkflowEnvironment]:
    async with await start_environment() as environment:
        yield environment


@pytest.fixture
async def world(env: WorkflowEnvironment) -> AsyncIterator[World]:
    async with open_world(env) as opened:
        yield opened
