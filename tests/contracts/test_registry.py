"""Loading declarations: what is found, and the one sentence for everything that is wrong."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from contracts import DeclarationError
from contracts.registry import load_pipelines

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """
    from contracts import Pipeline, PostgresTable, Record

    class Thing(Record):
        id: int

    {variable} = Pipeline("{name}", Thing, PostgresTable("{table}", key=("id",)))
"""

Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write modules into a working directory of their own, and forget them afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    before = set(sys.modules)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def put(name: str, text: str) -> None:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
        for module in set(sys.modules) - before:
            if module.startswith("own"):
                del sys.modules[module]

    for module in [name for name in sys.modules if name.split(".")[0].startswith("own")]:
        monkeypatch.delitem(sys.modules, module)
    sys.path_importer_cache.clear()
    return put


def good(name: str, table: str | None = None, variable: str = "things") -> str:
    return GOOD.format(name=name, table=table or name, variable=variable)


def test_the_default_package_holds_flights_and_weather() -> None:
    assert {"flights", "weather"} <= load_pipelines("pipelines").keys()


def test_one_of_a_package_is_picked_by_name() -> None:
    assert list(load_pipelines("pipelines:weather")) == ["weather"]
    assert list(load_pipelines("pipelines.flights:flights, pipelines.weather")) == ["flights", "weather"]


def test_a_module_of_the_working_directory_is_found(write: Write) -> None:
    write("own_one.py", good("own_things"))
    assert list(load_pipelines("own_one")) == ["own_things"]


def test_every_module_of_a_package_is_loaded_and_a_pipeline_seen_twice_is_one(write: Write) -> None:
    write("own_two/__init__.py", "")
    write("own_two/first.py", good("first"))
    write("own_two/second.py", "from own_two.first import things\n" + textwrap.dedent(good("second", variable="more")))
    assert list(load_pipelines("own_two, own_two.first:things")) == ["first", "second"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = 1", "own_bad declares no pipeline: it needs a variable such as `orders = Pipeline(...)`"),
        ("import nowhere_at_all", "own_bad cannot be imported: No module named 'nowhere_at_all' (own_bad.py, line 1)"),
        ("x = 1\ny = x / 0", "own_bad cannot be imported: ZeroDivisionError: division by zero (own_bad.py, line 2)"),
        ("def x(:", "own_bad cannot be imported: SyntaxError: invalid syntax (own_bad.py, line 1)"),
        (
            good("Upper", table="upper"),
            (
                "own_bad: pipeline 'Upper': use a lower-case letter, then letters, digits and underscores "
                "(own_bad.py, line 7)"
            ),
        ),
        (
            good("one", variable="one") + good("one", variable="two"),
            "pipeline one is declared twice: in own_bad and in own_bad",
        ),
        (
            good("one", variable="one") + good("two", table="one", variable="two").replace("id: int", "id: str"),
            (
                "pipelines one and two store into table public.one with different columns or keys: "
                "give one of them another table"
            ),
        ),
    ],
)
def test_a_wrong_module_is_one_sentence(write: Write, text: str, sentence: str) -> None:
    write("own_bad.py", text)
    with pytest.raises(DeclarationError) as caught:
        load_pipelines("own_bad")
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("", "no pipelines are named"),
        (" , ", "no pipelines are named"),
        ("nowhere_at_all", "there is no module nowhere_at_all on the import path"),
        ("pipelines.nowhere", "there is no module pipelines.nowhere on the import path"),
        ("pipelines/flights.py", "'pipelines/flights.py' is no place of pipelines"),
        ("pipelines.flights:", "'pipelines.flights:' is no place of pipelines"),
        ("pipelines.flights:trains", "pipelines.flights declares no pipeline 'trains'; it declares: flights"),
    ],
)
def test_a_wrong_spec_is_one_sentence(spec: str, sentence: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        load_pipelines(spec)
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


def test_two_pipelines_never_own_one_queue(write: Write) -> None:
    text = textwrap.dedent(good("first")).replace('key=("id",))', 'key=("id",)), queue=WorkQueue("second")')
    assert text.count("WorkQueue") == 1
    write("own_queues/__init__.py", "")
    write("own_queues/first.py", text.replace("import Pipeline,", "import Pipeline, WorkQueue,"))
    write("own_queues/second.py", good("second"))
    with pytest.raises(DeclarationError, match="pipelines first and second both own the queue second"):
        load_pipelines("own_queues")
