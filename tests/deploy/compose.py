"""Read docker-compose.yml as Compose does: anchors merged, variables of an `.env` interpolated."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
EXAMPLE = ROOT / ".env.example"
SECRET = "0123456789abcdef"

# ${NAME}, ${NAME:-default} and ${NAME:?message}, the forms that the file uses; `$$` would be a plain dollar.
VARIABLE = re.compile(r"\$\{(?P<name>[A-Z0-9_]+)(?::(?P<how>[-?])(?P<text>[^}]*))?\}")
DURATION = re.compile(r"(?P<number>\d+)(?P<unit>s|m)")

Service = dict[str, Any]


class MissingVariableError(Exception):
    """A required variable has no value."""


def example() -> dict[str, str]:
    """Give the variables of .env.example as they stand there."""
    lines = [line.strip() for line in EXAMPLE.read_text().splitlines()]
    pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
    return {name: value for name, _, value in pairs}


def filled() -> dict[str, str]:
    """Give the variables of .env.example, with a different secret for each that is to be filled in."""
    return {name: value or f"{SECRET}{number}" for number, (name, value) in enumerate(example().items())}


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    def replace(match: re.Match[str]) -> str:
        name, how, rest = match["name"], match["how"], match["text"]
        value = variables.get(name, "")
        if how == "?" and not value:
            message = f"{name}: {rest}"
            raise MissingVariableError(message)
        return value or (rest if how == "-" else "")

    found = VARIABLE.sub(replace, text)
    assert "$" not in VARIABLE.sub("", text), f"a form of interpolation that this reader does not know: {text}"
    return found


def interpolated(node: object, variables: Mapping[str, str]) -> object:
    if isinstance(node, str):
        return interpolate(node, variables)
    if isinstance(node, Mapping):
        return {key: interpolated(value, variables) for key, value in node.items()}
    if isinstance(node, list):
        return [interpolated(value, variables) for value in node]
    return node


def load(variables: Mapping[str, str]) -> dict[str, Any]:
    """Give the whole document. Raises `MissingVariableError`."""
    return cast("dict[str, Any]", interpolated(YAML(typ="safe").load(FILE.read_text()), variables))


def variables_of(text: str) -> set[str]:
    """Name every variable that a text interpolates."""
    return {match["name"] for match in VARIABLE.finditer(text)}


def environment(service: Service) -> dict[str, str]:
    return {name: str(value) for name, value in service.get("environment", {}).items()}


def command(service: Service) -> list[str]:
    """Give what runs: an entrypoint that the file sets, then the command."""
    return [*service.get("entrypoint", []), *service.get("command", [])]


def duration(text: str) -> timedelta:
    match = DURATION.fullmatch(text)
    assert match, text
    return timedelta(seconds=int(match["number"]) * {"s": 1, "m": 60}[match["unit"]])


def mounts(service: Service) -> Iterable[tuple[str, str, str]]:
    """Give source, target and mode of each mount."""
    for text in service.get("volumes", []):
        source, target, *mode = text.split(":")
        yield source, target, mode[0] if mode else "rw"
