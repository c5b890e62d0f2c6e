"""docs/operations.md names what exists: services, volumes, images, variables; and its first command works."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from temporalio.envconfig import ClientConfig

from stores.settings import Settings
from tests.deploy import compose
from tests.deploy.compose import ROOT
from workers.build import GRACE
from workflows.options import RETENTION

TEXT = (ROOT / "docs/operations.md").read_text()
COMMANDS = [line.strip() for line in TEXT.splitlines() if line.startswith("    ")]
DOCUMENT = compose.load(compose.filled())
SERVICES = DOCUMENT["services"]


def test_the_first_command_makes_an_env_file_that_starts(tmp_path: Path) -> None:
    assert shutil.which("openssl")
    shutil.copy(compose.EXAMPLE, tmp_path)
    subprocess.run(["sh", "-c", COMMANDS[0]], cwd=tmp_path, check=True, timeout=30)
    lines = (tmp_path / ".env").read_text().splitlines()
    made = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert compose.load(made)["services"].keys() == SERVICES.keys()
    kept = {name: value for name, value in compose.example().items() if value}
    secrets = {name: value for name, value in made.items() if name not in kept}
    assert made.keys() == compose.example().keys()
    assert {name: made[name] for name in kept} == kept
    assert len(set(secrets.values())) == len(secrets)
    assert all(re.fullmatch(r"[0-9a-f]{48}", value) for value in secrets.values())


def test_services_of_compose_commands_exist() -> None:
    named = set[str]()
    for line in COMMANDS:
        executed = re.match(r"docker compose exec (?:-T )?(\S+) (\S+)", line)
        stopped = re.match(r"docker compose stop (.+)", line)
        named |= {executed[1]} if executed else set()
        named |= set(stopped[1].split()) if stopped else set()
    named |= set(re.findall(r"--scale (\S+)=\d+", TEXT))
    assert len(named) >= 5
    assert named <= SERVICES.keys()


def test_volumes_and_images_are_those_of_the_file() -> None:
    name = DOCUMENT["name"]
    assert set(re.findall(rf"{name}_([\w-]+):/data", TEXT)) == {"seaweedfs", "nats"} <= DOCUMENT["volumes"].keys()
    listed = set(re.findall(r"^\| `([\w-]+)` \|", TEXT, re.MULTILINE))
    assert listed == DOCUMENT["volumes"].keys()
    images = {service["image"] for service in SERVICES.values()}
    assert set(re.findall(r"(?:durable-pipelines|postgres):\d[\w.-]*\w", TEXT)) <= images


def test_accounts_and_files_of_the_backup_are_right() -> None:
    assert f"--username={compose.environment(SERVICES['postgres'])['POSTGRES_USER']} " in TEXT
    assert f"--username={compose.environment(SERVICES['temporal-postgres'])['POSTGRES_USER']} " in TEXT
    for file in re.findall(r"< ((?:examples)/\S+)", TEXT):
        assert (ROOT / file).is_file()


def test_variables_of_managed_services_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    given = set(re.findall(r"^    ([A-Z0-9_]+)=", TEXT, re.MULTILINE))
    settings = {name.upper() for name in Settings.model_fields}
    fine = {"PIPELINES", "SQS_ENDPOINT_URL", "API_KEYS_FILE"} | {name for name in settings if "API_" in name}
    assert settings - given <= fine, "all but those whose defaults are fine"
    assert given - settings == {"TEMPORAL_API_KEY"}
    monkeypatch.setenv("TEMPORAL_API_KEY", "a key")
    config = ClientConfig.load_client_connect_config()
    assert config.get("api_key") == "a key"
    assert config.get("tls") is True, "an API key switches TLS on"


def test_numbers_agree_with_the_code() -> None:
    assert f"retention of {RETENTION.days} days" in TEXT
    seconds = compose.duration(SERVICES["worker"]["stop_grace_period"]).total_seconds()
    assert f"--stop-timeout {seconds:.0f} " in TEXT
    assert seconds > GRACE.total_seconds()
    assert compose.environment(SERVICES["worker"])["METRICS_ADDRESS"].endswith(":9464")
    assert "max_connections=200" in SERVICES["postgres"]["command"]
