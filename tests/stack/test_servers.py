"""The four servers as a client finds them."""

from __future__ import annotations

from datetime import timedelta
from urllib.request import urlopen

import asyncpg
import psutil
import pytest
from pydantic import SecretStr
from temporalio.api.enums.v1 import IndexedValueType

from starter.stack import Stack
from stores.settings import Settings
from tests.stack import services

NAMES = ("postgres", "temporal", "objects", "nats")


@pytest.mark.parametrize("name", NAMES)
def test_a_server_listens_on_loopback_only_and_on_the_port_it_names(stack: Stack, name: str) -> None:
    main = psutil.Process(stack.servers[name].pid)
    members = [main, *main.children(recursive=True)]
    listening = {
        connection.laddr
        for process in members
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert {address.ip for address in listening} == {"127.0.0.1"}
    assert stack.servers[name].port in {address.port for address in listening}


@pytest.mark.parametrize("name", NAMES)
def test_no_command_line_holds_a_secret(stack: Stack, name: str) -> None:
    secrets = stack.file.secrets()
    line = " ".join(psutil.Process(stack.servers[name].pid).cmdline())
    assert secrets.postgres_password not in line
    assert secrets.s3_secret_key not in line


def test_every_search_attribute_is_registered_as_a_keyword(settings: Settings) -> None:
    keyword = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
    wanted = dict.fromkeys(("Pipeline", "Pattern", "PipelineStatus", "ErrorType"), keyword)
    found = services.search_attributes(settings)
    assert {name: found.get(name) for name in wanted} == wanted


def test_closed_runs_are_kept_for_thirty_days(settings: Settings) -> None:
    config = services.namespace(settings).config
    assert config.workflow_execution_retention_ttl.ToTimedelta() == timedelta(days=30)


def test_the_web_ui_answers(settings: Settings) -> None:
    with urlopen(settings.temporal_ui_url, timeout=10) as response:  # noqa: S310  - our own loopback address
        assert response.status == 200


def test_postgres_is_version_18_decodes_logically_and_is_no_superuser_of_the_machine(
    stack: Stack, settings: Settings
) -> None:
    assert services.query(settings, "SHOW wal_level") == "logical"
    assert str(services.query(settings, "SHOW server_version")).startswith("18.")
    assert psutil.Process(stack.servers["postgres"].pid).uids().effective != 0


def test_postgres_refuses_a_wrong_password(settings: Settings) -> None:
    url = settings.database_url.get_secret_value()
    before, _, after = url.partition("@")
    wrong = settings.model_copy(update={"database_url": SecretStr(f"{before}x@{after}")})
    with pytest.raises(asyncpg.InvalidPasswordError):
        services.query(wrong, "SELECT 1")


def test_the_object_store_refuses_a_stranger_and_has_its_bucket(settings: Settings) -> None:
    assert services.bucket_error(settings, "stranger") == "InvalidAccessKeyId"
    assert services.bucket_error(settings, settings.aws_access_key_id) == ""


def test_nats_has_jetstream_and_takes_events_of_eight_megabytes(settings: Settings) -> None:
    assert services.max_payload(settings) == 8 * 1024 * 1024
