"""Connect to Temporal, with the data converter that everything of ours uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.envconfig import ClientConfig

if TYPE_CHECKING:
    from temporalio.runtime import Runtime

    from stores.settings import Settings


async def connect_temporal(settings: Settings, *, runtime: Runtime | None = None) -> Client:
    """Connect to the server that the settings name.

    TLS, API keys and profiles come from Temporal's own configuration (`TEMPORAL_*` variables or its file); address
    and namespace come from there too, unless the settings were given theirs. Raises `RuntimeError` if the
    server does not answer.
    """
    config = ClientConfig.load_client_connect_config()
    given = settings.model_fields_set
    address = config.get("target_host")
    if address is None or "temporal_address" in given:
        address = settings.temporal_address
    namespace = config.get("namespace")
    if namespace is None or "temporal_namespace" in given:
        namespace = settings.temporal_namespace
    config["target_host"] = address
    config["namespace"] = namespace
    return await Client.connect(**config, data_converter=pydantic_data_converter, runtime=runtime)
