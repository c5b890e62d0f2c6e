"""The bootstrap against a real server: from nothing, again, and where it must refuse."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import uuid
from datetime import timedelta

import pytest
from google.protobuf.duration_pb2 import Duration
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError

from stores.settings import Settings
from tests.stack.services import search_attributes
from workers.bootstrap import (
    SearchAttributeMismatchError,
    add_search_attributes,
    bootstrap,
    keep_namespace,
    type_name,
)
from workflows.options import PATTERN, PIPELINE, RETENTION, SEARCH_ATTRIBUTES

pytestmark = pytest.mark.asyncio

WANTED = {key.name: int(key.indexed_value_type) for key in SEARCH_ATTRIBUTES}


@pytest.fixture
def fresh(settings: Settings) -> Settings:
    """Name a namespace that nobody has registered."""
    return settings.model_copy(update={"temporal_namespace": f"fresh-{uuid.uuid4().hex[:8]}"})


async def client_of(settings: Settings) -> Client:
    return await Client.connect(settings.temporal_address, namespace=settings.temporal_namespace)


async def attributes_of(settings: Settings) -> dict[str, int]:
    return await asyncio.to_thread(search_attributes, settings)


async def retention_of(settings: Settings) -> timedelta:
    client = await client_of(settings)
    request = DescribeNamespaceRequest(namespace=settings.temporal_namespace)
    config = (await client.workflow_service.describe_namespace(request)).config
    return config.workflow_execution_retention_ttl.ToTimedelta()


async def register(settings: Settings, retention: timedelta) -> Client:
    """Register the namespace as somebody else would, and wait until the server knows it."""
    client = await client_of(settings)
    duration = Duration()
    duration.FromTimedelta(retention)
    request = RegisterNamespaceRequest(
        namespace=settings.temporal_namespace, workflow_execution_retention_period=duration
    )
    await client.workflow_service.register_namespace(request)
    async with asyncio.timeout(30):
        while True:
            try:
                await client.operator_service.list_search_attributes(
                    ListSearchAttributesRequest(namespace=settings.temporal_namespace)
                )
            except RPCError:
                await asyncio.sleep(0.1)  # the server reads its list of namespaces anew every second
            else:
                return client


def command(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {
        "TEMPORAL_ADDRESS": settings.temporal_address,
        "TEMPORAL_NAMESPACE": settings.temporal_namespace,
        "STACK_DIR": "/nonexistent",
    }
    line = [sys.executable, "-m", "workers.bootstrap", *arguments]
    return subprocess.run(line, env=environ, capture_output=True, text=True, timeout=90, check=False)


async def test_the_command_prepares_a_fresh_namespace_and_runs_again_without_a_change(fresh: Settings) -> None:
    first = await asyncio.to_thread(command, fresh)
    assert first.returncode == 0, first.stderr
    assert "registered namespace" in first.stderr
    assert "added search attributes" in first.stderr
    assert await retention_of(fresh) == RETENTION == timedelta(days=30)
    assert await attributes_of(fresh) == WANTED

    second = await asyncio.to_thread(command, fresh)
    assert second.returncode == 0, second.stderr
    assert "registered" not in second.stderr
    assert "added" not in second.stderr
    assert await retention_of(fresh) == RETENTION
    assert await attributes_of(fresh) == WANTED


async def test_workflows_can_use_the_attributes_at_once(fresh: Settings) -> None:
    await bootstrap(fresh)
    client = await client_of(fresh)
    assert (await client.count_workflows(f"{PIPELINE.name} = 'flights' AND {PATTERN.name} = 'submit'")).count == 0


async def test_two_bootstraps_at_once_both_succeed(fresh: Settings) -> None:
    await asyncio.gather(bootstrap(fresh), bootstrap(fresh))
    assert await attributes_of(fresh) == WANTED


async def test_what_others_added_stays_and_the_rest_is_completed(fresh: Settings) -> None:
    client = await register(fresh, timedelta(days=1))
    mine = {"Customer": IndexedValueType.INDEXED_VALUE_TYPE_INT, PIPELINE.name: WANTED[PIPELINE.name]}
    await client.operator_service.add_search_attributes(
        AddSearchAttributesRequest(
            namespace=fresh.temporal_namespace,
            search_attributes={name: IndexedValueType.ValueType(kind) for name, kind in mine.items()},
        )
    )
    await bootstrap(fresh)
    assert await attributes_of(fresh) == WANTED | mine


async def test_a_shorter_retention_is_raised_and_a_longer_one_stays(fresh: Settings) -> None:
    longer = fresh.model_copy(update={"temporal_namespace": f"{fresh.temporal_namespace}-longer"})
    await keep_namespace(await register(fresh, timedelta(days=1)))
    await keep_namespace(await register(longer, timedelta(days=90)))
    assert await retention_of(fresh) == RETENTION
    assert await retention_of(longer) == timedelta(days=90)


async def test_an_attribute_of_another_type_is_refused_with_both_types_named(fresh: Settings) -> None:
    client = await register(fresh, RETENTION)
    await client.operator_service.add_search_attributes(
        AddSearchAttributesRequest(
            namespace=fresh.temporal_namespace,
            search_attributes={PIPELINE.name: IndexedValueType.INDEXED_VALUE_TYPE_INT},
        )
    )
    with pytest.raises(SearchAttributeMismatchError, match="Pipeline is Int and has to be Keyword"):
        await add_search_attributes(client)
    refused = await asyncio.to_thread(command, fresh)
    assert refused.returncode == 1
    assert "Pipeline is Int and has to be Keyword" in refused.stderr
    assert "Traceback" not in refused.stderr
    # Nothing was added on the way to the error.
    assert await attributes_of(fresh) == {PIPELINE.name: IndexedValueType.INDEXED_VALUE_TYPE_INT}


async def test_a_server_that_never_answers_ends_in_one_sentence(fresh: Settings) -> None:
    nowhere = fresh.model_copy(update={"temporal_address": "127.0.0.1:1"})
    ended = await asyncio.to_thread(command, nowhere, "--patience", "2")
    assert ended.returncode == 5
    assert "Temporal at 127.0.0.1:1 was not ready within 2 s" in ended.stderr
    assert "Traceback" not in ended.stderr


async def test_types_are_named_as_the_command_line_of_temporal_names_them() -> None:
    assert type_name(IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD_LIST) == "KeywordList"
    assert type_name(IndexedValueType.INDEXED_VALUE_TYPE_DATETIME) == "Datetime"
