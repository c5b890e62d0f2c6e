"""What a client of the stack does, in a line each."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

import aioboto3
import asyncpg
import nats
from botocore.exceptions import BotoCoreError, ClientError
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, DescribeNamespaceResponse
from temporalio.client import Client

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client

    from stores.settings import Settings

KEPT = "kept"


def query(settings: Settings, *statements: str) -> object:
    """Execute all statements; give the last one's value."""

    async def run() -> object:
        connection = await asyncpg.connect(settings.database_url.get_secret_value())
        try:
            for statement in statements[:-1]:
                await connection.execute(statement)
            return await connection.fetchval(statements[-1])
        finally:
            await connection.close()

    return asyncio.run(run())


def s3(settings: Settings, key_id: str = "") -> AbstractAsyncContextManager[S3Client]:
    return aioboto3.Session().client(
        "s3",
        endpoint_url=settings.s3_endpoint_url,
        region_name=settings.s3_region,
        aws_access_key_id=key_id or settings.aws_access_key_id,
        aws_secret_access_key=settings.aws_secret_access_key.get_secret_value(),
    )


def leave_data(settings: Settings) -> None:
    """Leave something durable in every service."""
    query(settings, "CREATE TABLE kept (value text)", "INSERT INTO kept VALUES ('kept')", "SELECT 1")

    async def run() -> None:
        async with s3(settings) as client:
            await client.put_object(Bucket=settings.s3_bucket, Key=KEPT, Body=KEPT.encode())
        connection = await nats.connect(settings.nats_url)
        stream = connection.jetstream()
        await stream.add_stream(name=KEPT, subjects=[KEPT])
        await stream.publish(KEPT, KEPT.encode())
        await connection.close()
        client_ = await Client.connect(settings.temporal_address, namespace=settings.temporal_namespace)
        await client_.start_workflow("Anything", id=KEPT, task_queue="nobody-polls-this")

    asyncio.run(run())


def read_data(settings: Settings) -> dict[str, str]:
    """Read what `leave_data` left."""

    async def run() -> dict[str, str]:
        async with s3(settings) as client:
            found = await client.get_object(Bucket=settings.s3_bucket, Key=KEPT)
            body = await found["Body"].read()
        connection = await nats.connect(settings.nats_url)
        item = await connection.jetstream().get_msg(KEPT, 1)
        await connection.close()
        temporal = await Client.connect(settings.temporal_address, namespace=settings.temporal_namespace)
        described = await temporal.get_workflow_handle(KEPT).describe()
        return {"objects": body.decode(), "nats": (item.data or b"").decode(), "temporal": described.id}

    return asyncio.run(run()) | {"postgres": str(query(settings, "SELECT string_agg(value, ',') FROM kept"))}


ALL_DATA = {"objects": KEPT, "nats": KEPT, "temporal": KEPT, "postgres": KEPT}


def search_attributes(settings: Settings) -> dict[str, int]:
    async def run() -> dict[str, int]:
        client = await Client.connect(settings.temporal_address)
        request = ListSearchAttributesRequest(namespace=settings.temporal_namespace)
        return dict((await client.operator_service.list_search_attributes(request)).custom_attributes)

    return asyncio.run(run())


def namespace(settings: Settings) -> DescribeNamespaceResponse:
    async def run() -> DescribeNamespaceResponse:
        client = await Client.connect(settings.temporal_address)
        request = DescribeNamespaceRequest(namespace=settings.temporal_namespace)
        return await client.workflow_service.describe_namespace(request)

    return asyncio.run(run())


def max_payload(settings: Settings) -> int:
    async def run() -> int:
        connection = await nats.connect(settings.nats_url)
        await connection.jetstream().account_info()
        await connection.close()
        return connection.max_payload

    return asyncio.run(run())


def bucket_error(settings: Settings, key_id: str) -> str:
    """Give the code with which the object store refuses a stranger."""

    async def run() -> str:
        async with s3(settings, key_id) as client:
            try:
                await client.list_objects_v2(Bucket=settings.s3_bucket)
            except ClientError as error:
                return str(error.response.get("Error", {}).get("Code", ""))
        return ""

    return asyncio.run(run())


def bucket_is_there(settings: Settings) -> bool:
    """Say whether the object store answers and shows its bucket."""
    try:
        return bucket_error(settings, settings.aws_access_key_id) == ""
    except BotoCoreError:
        return False
