"""Loading declarations: what is found, and the one sentence for everything that is wrong."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from contracts import DeclarationError, WorkQueue
from contracts.registry import load_pipelines
from contracts.request_log import RequestLogRow, log_table

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


def logged(log: str) -> str:
    text = textwrap.dedent(good("first")).replace('key=("id",))', f'key=("id",)), request_log=RequestLog({log})')
    return text.replace("import Pipeline,", "import Pipeline, RequestLog,")


def test_a_request_log_behind_a_queue_is_a_pipeline_more(write: Write) -> None:
    write("own_queued.py", logged('"first_log", through="queue"'))
    found = load_pipelines("own_queued")
    assert list(found) == ["first", "first_log"]
    assert found["first_log"].record is RequestLogRow
    assert found["first_log"].work_queue == WorkQueue("first_log")
    assert found["first_log"].table == log_table("first_log")


def test_a_direct_request_log_is_no_pipeline(write: Write) -> None:
    write("own_direct.py", logged('"first_log"'))
    assert list(load_pipelines("own_direct")) == ["first"]


@pytest.mark.parametrize(
    ("log", "more", "what"),
    [
        ('"first"', {}, "the name of pipeline first"),
        ('"second"', {"second": "other"}, "the name of pipeline second"),
        ('"second"', {"third": "second"}, "the table of pipeline third"),
    ],
)
def test_a_log_takes_nothing_from_a_pipeline(write: Write, log: str, more: dict[str, str], what: str) -> None:
    text = logged(log) + "".join(
        textwrap.dedent(good(name, table, variable=f"more_{name}")).replace("class Thing", f"class Thing{name}")
        for name, table in more.items()
    )
    write("own_clash.py", text)
    with pytest.raises(DeclarationError) as caught:
        load_pipelines("own_clash")
    name = log.strip('"')
    assert str(caught.value) == (f"pipeline first: its request log {name} would take {what}: give the log another name")


def test_a_log_behind_a_queue_takes_no_queue_of_a_pipeline(write: Write) -> None:
    text = logged('"logs", through="queue"')
    text = text.replace("request_log=", 'queue=WorkQueue("logs"), request_log=').replace(
        "import Pipeline,", "import Pipeline, WorkQueue,"
    )
    write("own_queue_clash.py", text)
    with pytest.raises(DeclarationError, match="request log logs would take the queue of pipeline first"):
        load_pipelines("own_queue_clash")
    write("own_no_clash.py", text.replace(', through="queue"', ""))
    assert list(load_pipelines("own_no_clash")) == ["first"]


def test_pipelines_may_share_a_log(write: Write) -> None:
    one = logged('"logs", through="queue"')
    write("own_shared/__init__.py", "")
    write("own_shared/one.py", one)
    write("own_shared/two.py", one.replace('"first"', '"second"'))
    assert list(load_pipelines("own_shared")) == ["first", "logs", "second"]
