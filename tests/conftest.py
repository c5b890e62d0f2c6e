"""What the tests stand on: one real stack per session, and settings to reach it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from starter.stack import Stack
from stores.settings import Settings


@pytest.fixture(scope="session")
def short_folder() -> Iterator[Path]:
    """Make a folder for the session that any account can pass through, as pytest's own is not."""
    folder = Path(tempfile.mkdtemp(prefix="stack-tests-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def stack(short_folder: Path) -> Iterator[Stack]:
    """All servers, without workers, on free ports. A test that kills one starts it again."""
    stack = Stack(short_folder / "session", environ={}, usual_ports=False)
    stack.start()
    yield stack
    stack.stop()


@pytest.fixture(scope="session")
def settings(stack: Stack) -> Settings:
    """How to reach the session's stack."""
    return stack.settings
