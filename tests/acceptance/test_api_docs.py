"""The examples of docs/http-api.md run as they stand there, but for the address and the ticket."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.api import ROOT, serving

if TYPE_CHECKING:
    from pathlib import Path

PAGE = ROOT / "docs" / "http-api.md"
EXAMPLE = re.compile(r"^    (curl (?:.*\\\n)*.*)$", re.MULTILINE)
TICKET = re.compile(r"/tickets/upload/flights/([0-9a-f]{32})")


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_examples_run(environ: dict[str, str], workers: None, tmp_path: Path) -> None:
    examples = [found.partition("    #")[0] for found in EXAMPLE.findall(PAGE.read_text())]
    assert len(examples) == 7
    ticket = ""
    statuses = []
    with serving(environ, tmp_path / "log", "--without-keys") as server:
        for example in examples:
            command = example.replace("http://127.0.0.1:8000", server.url).replace(
                "flights/TICKET", f"flights/{ticket}"
            )
            command += " -s -o /dev/null -D /dev/stderr -w '%{http_code}'"
            ran = subprocess.run(
                ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
            )
            statuses.append(int(ran.stdout))
            if found := TICKET.search(ran.stderr):
                ticket = found[1]
    # The file may be loaded, or known to an earlier test's load; cancelling may come too late.
    assert statuses[:2] == [201, 202]
    assert statuses[2] in {200, 202}
    assert statuses[3] == 200
    assert statuses[4] in {200, 204}
    assert statuses[5] in {202, 409}
    assert statuses[6] == 422
