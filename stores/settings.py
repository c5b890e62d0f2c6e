"""Settings: where the services are and how to enter them, read once at the edge of a process.

Guarantee: the environment wins over the running stack's file, which wins over the development defaults below;
secrets never appear in a repr, and `addresses` never holds a credential.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

if TYPE_CHECKING:
    from collections.abc import Mapping

STACK_DIR = ".stack"
"""The folder of the stack, relative to the working directory, unless `STACK_DIR` says otherwise."""

STATE_FILE = "stack.json"

S3_ENDPOINT = "S3_ENDPOINT_URL"
STACK_S3 = frozenset({"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "S3_REGION"})
"""Belong to their endpoint: many machines export credentials of another provider, which a stack would refuse."""


class Settings(BaseSettings):
    """Every service's address and credentials, and the API's keys and limits.

    The defaults are those of development servers on usual ports.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    temporal_address: str = "127.0.0.1:7233"
    temporal_namespace: str = "default"
    temporal_ui_url: str = "http://127.0.0.1:8233"
    database_url: SecretStr = SecretStr("postgresql://postgres:postgres@127.0.0.1:5432/pipelines")
    s3_endpoint_url: str = "http://127.0.0.1:8333"
    s3_bucket: str = "pipelines"
    s3_region: str = "us-east-1"
    aws_access_key_id: str = "pipelines"
    aws_secret_access_key: SecretStr = SecretStr("pipelines")
    # Out of the repr, because it may hold a password.
    nats_url: Annotated[str, Field(repr=False)] = "nats://127.0.0.1:4222"
    queue: Literal["nats", "sqs"] = "nats"
    sqs_endpoint_url: str = ""
    sqs_region: str = "us-east-1"
    pipelines: str = "pipelines"
    api_keys: SecretStr = SecretStr("")
    api_keys_file: str = ""
    api_requests_in_flight: int = Field(default=64, ge=1)
    api_uploads_in_flight: int = Field(default=4, ge=1)
    api_connections: int = Field(default=1000, ge=1)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  - the signature is the library's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take what `load_settings` merged, and nothing behind its back."""
        return (init_settings,)

    @property
    def addresses(self) -> dict[str, str]:
        """The service's name -> host:port, fit to be shown to anyone."""
        return {
            "temporal": self.temporal_address,
            "postgres": _host_port(self.database_url.get_secret_value(), 5432),
            "objects": _host_port(self.s3_endpoint_url, 443 if self.s3_endpoint_url.startswith("https") else 80),
            "nats": _host_port(self.nats_url, 4222),
        }


def stack_folder(environ: Mapping[str, str] | None = None) -> Path:
    """Find the stack's folder: `STACK_DIR`, else `.stack` in the working directory."""
    return Path((os.environ if environ is None else environ).get("STACK_DIR") or STACK_DIR).absolute()


def load_settings(environ: Mapping[str, str] | None = None, folder: Path | None = None) -> Settings:
    """Merge environment, the stack in `folder` (default: `stack_folder`), and defaults, in this order.

    A variable that is set to nothing counts as absent. While the S3 endpoint is the stack's, its credentials are
    too. Raises `pydantic.ValidationError` for values of the wrong shape.
    """
    environ = os.environ if environ is None else environ
    stack = _stack_environment(stack_folder(environ) if folder is None else folder)
    known = {name.upper() for name in Settings.model_fields}
    given = {name: value for name, value in environ.items() if name in known and value}
    if S3_ENDPOINT in stack and S3_ENDPOINT not in given:
        given = {name: value for name, value in given.items() if name not in STACK_S3}
    merged = {name: value for name, value in stack.items() if name in known} | given
    return Settings.model_validate({name.lower(): value for name, value in merged.items()})


def _stack_environment(folder: Path) -> dict[str, str]:
    try:
        document = json.loads((folder / STATE_FILE).read_text())
        return {str(name): str(value) for name, value in document["environment"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        # No stack here, or none that this account may read: the defaults name the address that then fails.
        return {}


def _host_port(url: str, default: int) -> str:
    try:
        parts = urlsplit(url)
        return f"{parts.hostname or 'localhost'}:{parts.port or default}"
    except ValueError:
        return "an address that cannot be read"
