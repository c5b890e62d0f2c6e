"""Find declared pipelines: `package.module[:name]`, comma-separated, from anywhere on the import path.

Guarantee: what is returned is complete and consistent, with the implicit pipelines of request logs. Whatever is
wrong, a module that does not import, a name that is declared twice, two shapes of one table, raises
`DeclarationError` with one sentence that names the place.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from contracts.errors import DeclarationError
from contracts.pipeline import Pipeline
from contracts.request_log import RequestLogRow, log_sink, log_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import ModuleType


def load_pipelines(spec: str) -> dict[str, Pipeline]:
    """Load every pipeline that `spec` names, by pipeline name.

    Each entry is a module, a package, all of whose direct modules are imported, or `module:name`, which picks one
    pipeline by its variable or its name. A request log that goes through a queue is a pipeline more. Modules are
    also looked for in the working directory, first there, as `python -m` does, so that the CLI and the workers mean
    the same module by the same name.
    Raises `DeclarationError`.
    """
    entries = [entry.strip() for entry in spec.split(",") if entry.strip()]
    if not entries:
        message = "no pipelines are named: give a module, such as PIPELINES=pipelines"
        raise DeclarationError(message)
    folder = str(Path.cwd())
    if folder not in sys.path and "" not in sys.path:
        sys.path.insert(0, folder)
    found: dict[str, tuple[Pipeline, str]] = {}
    for entry in entries:
        for pipeline, place in pipelines_of(entry):
            known = found.setdefault(pipeline.name, (pipeline, place))
            if known[0] is not pipeline:
                message = f"pipeline {pipeline.name} is declared twice: in {known[1]} and in {place}"
                raise DeclarationError(message)
    check_tables(found)
    check_queues(found)
    declared = {name: pipeline for name, (pipeline, _) in found.items()}
    declared |= log_pipelines(declared)
    return {name: declared[name] for name in sorted(declared)}


def pipelines_of(entry: str) -> Iterator[tuple[Pipeline, str]]:
    """Yield the pipelines of one entry of a spec, each with the module that holds it."""
    path, colon, name = entry.partition(":")
    if not all(part.isidentifier() for part in path.split(".")) or (colon and not name):
        message = f"{entry!r} is no place of pipelines: write package.module or package.module:name"
        raise DeclarationError(message)
    module = import_place(path)
    modules = [module]
    if hasattr(module, "__path__"):
        names = sorted(info.name for info in pkgutil.iter_modules(module.__path__) if info.name != "__main__")
        modules += [import_place(f"{path}.{inner}") for inner in names]
    declared = [
        (value, variable, place.__name__)
        for place in modules
        for variable, value in vars(place).items()
        if isinstance(value, Pipeline)
    ]
    if not colon:
        if not declared:
            message = f"{path} declares no pipeline: it needs a variable such as `orders = Pipeline(...)`"
            raise DeclarationError(message)
        yield from ((pipeline, place) for pipeline, _, place in declared)
        return
    chosen = [(pipeline, place) for pipeline, variable, place in declared if name in {variable, pipeline.name}]
    if not chosen:
        known = ", ".join(sorted({pipeline.name for pipeline, _, _ in declared})) or "none"
        message = f"{path} declares no pipeline {name!r}; it declares: {known}"
        raise DeclarationError(message)
    yield from chosen


def import_place(path: str) -> ModuleType:
    """Import a module by its dotted path. Raises `DeclarationError` whatever goes wrong in it."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is not None and (path == error.name or path.startswith(f"{error.name}.")):
            message = f"there is no module {error.name} on the import path, nor in {Path.cwd()}"
        else:
            message = f"{path} cannot be imported: {error}{line_of(error, path)}"
        raise DeclarationError(message) from error
    except DeclarationError as error:
        message = f"{path}: {error}{line_of(error, path)}"
        raise DeclarationError(message) from error
    # A user's module may raise anything while it is imported, and each has to end in one sentence.
    except Exception as error:
        reason = str(error).partition("\n")[0]
        message = f"{path} cannot be imported: {type(error).__name__}: {reason}{line_of(error, path)}"
        raise DeclarationError(message) from error


def line_of(error: BaseException, path: str) -> str:
    """Say in which line of the module an error arose, as far as it is known."""
    if isinstance(error, SyntaxError) and error.filename:
        # Its text names file and line already.
        return ""
    stem = path.rpartition(".")[2]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if file.stem == stem or (file.stem == "__init__" and file.parent.name == stem):
            return f" ({file.name}, line {frame.lineno})"
    return ""


def check_tables(found: dict[str, tuple[Pipeline, str]]) -> None:
    """Refuse two pipelines that need one table to have two shapes."""
    shapes: dict[tuple[str, str], Pipeline] = {}
    for pipeline, _ in found.values():
        table = pipeline.table
        other = shapes.setdefault((table.schema, table.name), pipeline)
        if (other.table.columns, other.table.key) != (table.columns, table.key):
            message = (
                f"pipelines {other.name} and {pipeline.name} store into table {table.schema}.{table.name} "
                "with different columns or keys: give one of them another table"
            )
            raise DeclarationError(message)


def check_queues(found: dict[str, tuple[Pipeline, str]]) -> None:
    """Refuse two pipelines that would take each other's items from one queue."""
    owners: dict[str, Pipeline] = {}
    for pipeline, _ in found.values():
        queue = pipeline.work_queue
        other = owners.setdefault(queue.name, pipeline)
        if other is not pipeline:
            message = (
                f"pipelines {other.name} and {pipeline.name} both own the queue {queue.name}: give one of them another"
            )
            raise DeclarationError(message)


def log_pipelines(declared: Mapping[str, Pipeline]) -> dict[str, Pipeline]:
    """Build the pipelines that bring request logs from their queue into their table, by name.

    Raises `DeclarationError` if a log would take the name, the table or the queue of a pipeline, whose database may be
    the same.
    """
    built: dict[str, Pipeline] = {}
    for pipeline in declared.values():
        log = pipeline.request_log
        if log is None:
            continue
        table = log_table(log.name)
        for other in declared.values():
            taken = {
                "name": other.name == log.name,
                "table": (other.table.schema, other.table.name) == (table.schema, table.name),
                "queue": log.through == "queue" and other.work_queue.name == log.name,
            }
            clash = next((what for what, same in taken.items() if same), None)
            if clash is not None:
                message = (
                    f"pipeline {pipeline.name}: its request log {log.name} would take the {clash} of pipeline "
                    f"{other.name}: give the log another name"
                )
                raise DeclarationError(message)
        if log.through == "queue":
            built[log.name] = Pipeline(log.name, RequestLogRow, log_sink(log.name))
    return built
