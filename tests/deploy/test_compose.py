"""The compose file against the code: what one of them says about the other is true.

There is no Docker here, so nothing is started but the broker, from its own configuration file. What an image contains
is written down with the place where its makers say so.
"""

from __future__ import annotations

import http.server
import importlib.util
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from starter.cli import app
from stores.settings import Settings, load_settings
from tests.deploy import compose
from tests.deploy.compose import ROOT, Service, command, environment, mounts
from workers.__main__ import arguments
from workers.build import GRACE
from workflows.options import RETENTION, SEARCH_ATTRIBUTES

OURS = ("bootstrap", "worker", "api")
WITH_SETTINGS = ("worker", "api")
ONCE = {"bootstrap", "temporal-schema"}
LOOPBACK = "127.0.0.1"

BUSYBOX = {"sh", "nc", "wget"}
BINARIES = {
    "durable-pipelines": {"python", "starter"},  # Dockerfile
    "postgres": {"postgres", "pg_isready"},  # docker-library/postgres, 18/trixie/Dockerfile
    # temporalio/temporal, docker/targets/server.Dockerfile and admin-tools.Dockerfile, both on alpine
    "temporalio/server": BUSYBOX | {"temporal-server"},
    "temporalio/admin-tools": BUSYBOX | {"/bin/sh", "temporal", "temporal-sql-tool"},
    "temporalio/ui": BUSYBOX | {"bash"},  # temporalio/ui, server/Dockerfile, on alpine
    "chrislusf/seaweedfs": BUSYBOX | {"weed", "curl"},  # seaweedfs/seaweedfs, docker/Dockerfile.go_build, on alpine
    "nats": BUSYBOX | {"nats-server"},  # nats-io/nats-docker, 2.14.x/alpine3.22/Dockerfile
}
DATA = {
    "temporal-postgres": "/var/lib/postgresql/data",  # the image's VOLUME up to 17
    "postgres": "/var/lib/postgresql",  # and since 18
    "seaweedfs": "/data",
    "nats": "/data",  # store_dir of deploy/nats.conf
}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return compose.load(compose.filled())


@pytest.fixture(scope="module")
def services(document: dict[str, Any]) -> dict[str, Service]:
    found: dict[str, Service] = document["services"]
    return found


@pytest.fixture(params=WITH_SETTINGS)
def settings_of(request: pytest.FixtureRequest, services: dict[str, Service]) -> Settings:
    """Load the settings as the process in the container will."""
    return load_settings(environment(services[request.param]), ROOT / "no-stack-here")


def image(service: Service) -> tuple[str, str]:
    name, _, tag = service["image"].rpartition(":")
    return name, tag


def ports_of(services: dict[str, Service]) -> dict[str, int]:
    """Service -> the port it listens on, as its own configuration says."""
    s3 = next(item for item in services["seaweedfs"]["command"] if item.startswith("-s3.port="))
    nats = re.search(r"^port: (\d+)$", (ROOT / "deploy/nats.conf").read_text(), re.MULTILINE)
    assert nats
    api = services["api"]["command"]
    return {
        "temporal": int(environment(services["temporal"]).get("FRONTEND_GRPC_PORT", "7233")),
        "temporal-ui": int(environment(services["temporal-ui"]).get("TEMPORAL_UI_PORT", "8080")),
        "postgres": 5432,
        "temporal-postgres": 5432,
        "seaweedfs": int(s3.partition("=")[2]),
        "nats": int(nats[1]),
        "api": int(api[api.index("--port") + 1]),
    }


# --- variables and settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OURS)
def test_every_variable_of_ours_is_read_by_the_code(
    name: str, services: dict[str, Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = environment(services[name])
    others = {variable: value for variable, value in given.items() if variable.lower() not in Settings.model_fields}
    if "METRICS_ADDRESS" in others and name == "worker":
        monkeypatch.setenv("METRICS_ADDRESS", others["METRICS_ADDRESS"])
        assert arguments([]).metrics == others.pop("METRICS_ADDRESS")
    assert others == {}


@pytest.mark.parametrize("name", WITH_SETTINGS)
def test_every_setting_whose_default_is_for_development_only_is_given(name: str, services: dict[str, Service]) -> None:
    def only_for_development(default: object) -> bool:
        return isinstance(default, SecretStr) or LOOPBACK in str(default)

    wanted = {field.upper() for field, info in Settings.model_fields.items() if only_for_development(info.default)}
    if name != "api":
        # Who may use the API is nobody else's business.
        wanted.discard("API_KEYS")
    assert wanted | {"AWS_ACCESS_KEY_ID"} <= environment(services[name]).keys()


def test_addresses_name_services_and_the_ports_they_listen_on(
    settings_of: Settings, services: dict[str, Service]
) -> None:
    listening = ports_of(services)
    for service, address in settings_of.addresses.items():
        host, _, port = address.partition(":")
        assert host in services, service
        assert int(port) == listening[host], service


def test_credentials_are_those_that_the_services_are_given(settings_of: Settings, services: dict[str, Service]) -> None:
    database, broker = urlsplit(settings_of.database_url.get_secret_value()), urlsplit(settings_of.nats_url)
    postgres, seaweedfs = environment(services["postgres"]), environment(services["seaweedfs"])
    assert (database.username, database.password) == (postgres["POSTGRES_USER"], postgres["POSTGRES_PASSWORD"])
    assert database.path == f"/{postgres['POSTGRES_DB']}"
    assert settings_of.aws_access_key_id == seaweedfs["AWS_ACCESS_KEY_ID"]
    assert settings_of.aws_secret_access_key.get_secret_value() == seaweedfs["AWS_SECRET_ACCESS_KEY"]
    assert f'"{broker.password}"' == environment(services["nats"])["NATS_PASSWORD"]
    assert f"user: {broker.username}\n" in (ROOT / "deploy/nats.conf").read_text()


def test_temporal_enters_its_own_database(services: dict[str, Service]) -> None:
    database, server = environment(services["temporal-postgres"]), environment(services["temporal"])
    schema = environment(services["temporal-schema"])
    account = (database["POSTGRES_USER"], database["POSTGRES_PASSWORD"])
    assert (server["POSTGRES_USER"], server["POSTGRES_PWD"]) == account == (schema["SQL_USER"], schema["SQL_PASSWORD"])
    assert server["POSTGRES_SEEDS"] == schema["SQL_HOST"] == "temporal-postgres"
    assert server["DB"] == schema["SQL_PLUGIN"]
    assert int(server["DB_PORT"]) == int(schema["SQL_PORT"]) == ports_of(services)["temporal-postgres"]
    assert image(services["temporal"])[1] == image(services["temporal-schema"])[1], "schema and server of one version"
    assert (
        environment(services["temporal-ui"])["TEMPORAL_ADDRESS"] == environment(services["worker"])["TEMPORAL_ADDRESS"]
    )


# --- secrets and what is published --------------------------------------------------------------------------------


def test_the_example_names_exactly_the_variables_of_the_file() -> None:
    optional = re.findall(r"^# ([A-Z_]+)=$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert compose.variables_of(compose.FILE.read_text()) == {*compose.example(), *optional}


def test_no_secret_stands_in_the_files_and_each_missing_one_is_refused_by_name() -> None:
    secrets = {name for name, value in compose.example().items() if not value}
    assert secrets == {name for name in compose.example() if "PASSWORD" in name or "SECRET" in name}
    for name in secrets:
        with pytest.raises(compose.MissingVariableError, match=name):
            compose.load(compose.filled() | {name: ""})


def test_without_an_env_file_of_ones_own_only_loopback_is_published(services: dict[str, Service]) -> None:
    secrets_only = {name: compose.SECRET for name, value in compose.example().items() if not value}
    for found in (services, compose.load(secrets_only)["services"]):
        published = {name: service["ports"] for name, service in found.items() if "ports" in service}
        assert published.keys() == {"api", "temporal-ui"}
        for name, (port,) in published.items():
            address, _, inside = port.rpartition(":")
            assert address.startswith(f"{LOOPBACK}:")
            assert int(inside) == ports_of(found)[name]


def test_links_into_the_web_ui_lead_to_where_it_is_published(
    services: dict[str, Service], settings_of: Settings
) -> None:
    address, _, _ = services["temporal-ui"]["ports"][0].rpartition(":")
    assert settings_of.temporal_ui_url == f"http://{address}"


# --- how services depend on each other ----------------------------------------------------------------------------


def test_dependencies_exist_and_can_fulfil_their_condition(services: dict[str, Service]) -> None:
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            assert needed in services, name
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[needed], f"{name} waits for the health of {needed}"
            else:
                assert how["condition"] == "service_completed_successfully"
                assert needed in ONCE


def test_servers_come_back_and_are_checked_and_commands_that_end_do_not_restart_for_ever(
    services: dict[str, Service],
) -> None:
    for name, service in services.items():
        if name in ONCE:
            assert service["restart"].startswith("on-failure:"), name
        else:
            assert service["restart"] == "unless-stopped", name
            assert "healthcheck" in service, name


@pytest.mark.parametrize("name", WITH_SETTINGS)
def test_nothing_of_ours_starts_before_the_namespace_and_every_store_are_ready(
    name: str, services: dict[str, Service], settings_of: Settings
) -> None:
    needed = set(services[name]["depends_on"])
    hosts = {address.partition(":")[0] for address in settings_of.addresses.values()}
    assert needed == (hosts - {"temporal"}) | {"bootstrap"}
    assert set(services["bootstrap"]["depends_on"]) == {"temporal"}


def test_the_bootstrap_prepares_the_namespace_of_the_workers_with_what_the_code_says(
    services: dict[str, Service],
) -> None:
    assert command(services["bootstrap"]) == ["python", "-m", "workers.bootstrap"]
    for name in ("TEMPORAL_ADDRESS", "TEMPORAL_NAMESPACE"):
        assert len({environment(services[service])[name] for service in OURS}) == 1
    # The list and the retention have one home: no file of the deployment repeats them.
    files = [compose.FILE, *(ROOT / "deploy").iterdir()]
    for text in [re.sub(r"#.*", "", file.read_text()) for file in files]:
        for key in SEARCH_ATTRIBUTES:
            assert not re.search(rf"\b{key.name}\b", text)
        assert f"{RETENTION.days}d" not in text
        assert f"{RETENTION.days * 24}h" not in text


# --- images and what they contain ---------------------------------------------------------------------------------


def test_images_of_others_are_pinned_to_a_version(services: dict[str, Service]) -> None:
    for name, service in services.items():
        if name not in OURS:
            repository, tag = image(service)
            assert repository in BINARIES
            assert re.fullmatch(r"\d+\.\d+(\.\d+)?(-\w+)?", tag), service["image"]


def test_ours_are_one_image_of_this_version_built_from_the_dockerfile(services: dict[str, Service]) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for name in OURS:
        assert services[name]["image"] == f"durable-pipelines:{version}"
        assert (ROOT / services[name]["build"] / "Dockerfile").is_file()
        assert services[name]["init"] is True
        assert services[name]["cap_drop"] == ["ALL"]


def test_commands_and_health_checks_use_what_the_image_has(services: dict[str, Service]) -> None:
    for name, service in services.items():
        binaries = BINARIES[image(service)[0]]
        if "healthcheck" in service:
            how, binary, *_ = service["healthcheck"]["test"]
            assert how == "CMD", f"{name}: without a shell, so that no image needs one"
            assert binary in binaries, name
        started = command(service)
        # The images of NATS and SeaweedFS have an entrypoint that takes flags, and a subcommand.
        if started and not started[0].startswith("-") and name != "seaweedfs":
            assert started[0] in binaries, name


def test_modules_that_are_started_exist(services: dict[str, Service]) -> None:
    for name in OURS:
        started = command(services[name])
        if started[:2] == ["python", "-m"]:
            found = importlib.util.find_spec(started[2])
            assert found, name
            assert found.submodule_search_locations is None or importlib.util.find_spec(f"{started[2]}.__main__")
        else:
            scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
            assert started[0] in scripts, name


@pytest.mark.skipif(
    "api" not in {item.name or getattr(item.callback, "__name__", "") for item in app.registered_commands},
    reason="`starter api` is not here yet",
)
def test_the_api_takes_the_flags_it_is_started_with(services: dict[str, Service]) -> None:
    started = command(services["api"])
    assert started[:2] == ["starter", "api"]
    shown = subprocess.run(
        [sys.executable, "-m", "starter", "api", "--help"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    for flag in (part for part in started if part.startswith("--")):
        assert flag in shown


class Answer(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  - the name is the library's
        pass


@pytest.fixture
def server() -> Iterator[http.server.HTTPServer]:
    listening = http.server.HTTPServer((LOOPBACK, 0), Answer)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    yield listening
    listening.shutdown()
    listening.server_close()


@pytest.mark.parametrize(("name", "path"), [("worker", "/metrics"), ("api", "/healthz")])
def test_our_health_checks_ask_the_right_address_and_tell_good_from_bad(
    name: str,
    path: str,
    services: dict[str, Service],
    server: http.server.HTTPServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, _, flag, code = services[name]["healthcheck"]["test"]
    port = {
        "worker": environment(services["worker"])["METRICS_ADDRESS"].partition(":")[2],
        "api": str(ports_of(services)["api"]),
    }[name]
    assert f'"{LOOPBACK}", {port}' in code
    assert f'"{path}"' in code

    def check(at: int) -> int:
        line = [sys.executable, flag, code.replace(port, str(at))]
        return subprocess.run(line, capture_output=True, check=False, timeout=30).returncode

    assert check(server.server_port) == 0
    monkeypatch.setattr(Answer, "status", 503)
    assert check(server.server_port) == 1
    assert check(1) == 1, "nobody listens there"


def test_a_stopping_worker_has_the_time_it_takes(services: dict[str, Service]) -> None:
    assert compose.duration(services["worker"]["stop_grace_period"]) > GRACE


# --- data -----------------------------------------------------------------------------------------------------------


def test_whatever_holds_data_keeps_it_in_a_named_volume_of_its_own(
    services: dict[str, Service], document: dict[str, Any]
) -> None:
    found = {
        name: (source, target)
        for name, service in services.items()
        for source, target, _ in mounts(service)
        if not source.startswith(".")
    }
    assert {name: target for name, (_, target) in found.items()} == DATA
    assert {source for source, _ in found.values()} == set(document["volumes"])
    assert f"store_dir: {DATA['nats']}\n" in (ROOT / "deploy/nats.conf").read_text()


def test_mounted_files_exist_and_cannot_be_written(services: dict[str, Service]) -> None:
    for name, service in services.items():
        for source, target, mode in mounts(service):
            if source.startswith("."):
                assert (ROOT / source).is_file(), name
                assert mode == "ro", name
                used = [*command(service), *environment(service).values()]
                assert target in used, f"{name} does not use {target}"


def test_postgres_decodes_logically_for_capture(services: dict[str, Service]) -> None:
    assert "wal_level=logical" in services["postgres"]["command"]


# --- the specification ------------------------------------------------------------------------------------------------


def test_the_schema_that_make_check_uses_notices_a_misspelt_key(tmp_path: Path) -> None:
    text = compose.FILE.read_text()
    line = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    assert " ".join(line[3:]) in (ROOT / "Makefile").read_text()
    wrong = text.replace("    stop_grace_period: 30s\n", "    stop_grace_periode: 30s\n", 1)
    assert wrong != text
    for content, status in ((text, 0), (wrong, 1)):
        file = tmp_path / compose.FILE.name
        file.write_text(content)
        ended = subprocess.run([*line, str(file)], capture_output=True, text=True, check=False, timeout=60)
        assert ended.returncode == status, ended.stdout + ended.stderr
