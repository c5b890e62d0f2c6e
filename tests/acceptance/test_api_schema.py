"""The API keeps what its OpenAPI document promises: schemathesis asks it what the document allows, and what not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.acceptance.api import KEY, KEYS, serving

if TYPE_CHECKING:
    import httpx

    from starter.stack import Stack

HERE = Path(__file__).parent
SECONDS = 120
DECLARED = "tests.acceptance.declared"
PIPELINES = f"pipelines.flights,{DECLARED}:notes,{DECLARED}:prices"
"""Real records, a small one, and one with decimals, dates and times."""


def test_it_keeps_its_document(environ: dict[str, str], workers: None, tmp_path: Path) -> None:
    with serving({**environ, "API_KEYS": KEYS, "PIPELINES": PIPELINES}, tmp_path / "log") as server:
        ran = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml")),
                *("run", f"{server.url}/openapi.json", "--seed", "1", "--max-examples", "10", "--no-shrink"),
                *("-H", f"Authorization: Bearer {KEY}", "-H", f"X-API-Key: {KEY}"),
                *("--checks", "all", "--continue-on-failure", "--warnings", "off"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        statuses = {line.split()[6] for line in server.log.splitlines() if " starter.api: " in line and " ms " in line}
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
    # It went everywhere: what was asked was stored, held, refused, and missed.
    assert {"200", "201", "202", "400", "401", "404", "405", "409", "415", "422"} <= statuses
    assert not statuses & {"500", "503"}


def test_the_document_has_every_pipeline_and_every_record(http: httpx.Client, stack: Stack) -> None:
    document = http.get("/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    names = [item["name"] for item in http.get("/pipelines").json()["pipelines"]]
    assert "flights" in names
    for name in names:
        body = document["paths"][f"/pipelines/{name}/records"]["post"]["requestBody"]["content"]["application/json"]
        schema = document["components"]["schemas"][body["schema"]["$ref"].rpartition("/")[2]]
        assert schema["additionalProperties"] is False
    flight = document["components"]["schemas"]["flights.record"]
    assert flight["properties"]["time_hour"]["format"] == "date-time"
    assert flight["properties"]["month"] == {"maximum": 12, "minimum": 1, "title": "Month", "type": "integer"}
    assert "departure_status" in document["components"]["schemas"]["flights.row"]["properties"]
