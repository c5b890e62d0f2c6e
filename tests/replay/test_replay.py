from __future__ import annotations

from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from workers.build import WORKFLOWS, sandbox

HISTORIES = {path.stem: path.read_text() for path in sorted((Path(__file__).parent / "histories").glob("*.json"))}


def test_every_workflow_has_recorded_histories() -> None:
    names = {name.split("_")[0] for name in HISTORIES}
    assert names == {workflow.__name__.lower() for workflow in WORKFLOWS}


@pytest.mark.parametrize("name", HISTORIES)
async def test_a_recorded_history_replays(name: str) -> None:
    replayer = Replayer(workflows=WORKFLOWS, workflow_runner=sandbox(), data_converter=pydantic_data_converter)
    await replayer.replay_workflow(WorkflowHistory.from_json(name, HISTORIES[name]))


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda workflow: workflow.__name__)
async def test_every_workflow_loads_in_the_sandbox(workflow: type) -> None:
    from temporalio.workflow import _Definition

    definition = _Definition.must_from_class(workflow)
    runner = sandbox()
    assert isinstance(runner, SandboxedWorkflowRunner)
    runner.prepare_workflow(definition)
