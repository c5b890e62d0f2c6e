"""`starter up` and `starter down`: the servers of a development machine, and the workers.

Guarantee: `up` returns, or says so, when the stack is ready; `down` stops exactly what was started.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from starter.exits import CommandError, Exit
from starter.output import Output, output_of

if TYPE_CHECKING:
    from starter.stack import Stack

Folder = Annotated[
    Path | None, typer.Option(help="Where the stack keeps its data; STACK_DIR, else .stack.", file_okay=False)
]


def up(
    context: typer.Context,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when everything is ready.")] = False,
    folder: Folder = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Worker processes; one per core unless given.", show_default=False)
    ] = None,
) -> None:
    """Start Temporal, PostgreSQL, S3 and NATS on this machine, with workers; restart what dies.

    Ports that are busy are replaced by others, unless TEMPORAL_PORT, TEMPORAL_UI_PORT, POSTGRES_PORT, S3_PORT or
    NATS_PORT fix them.
    """
    from starter.stack import Stack
    from starter.stack.detached import core_count, start_detached
    from starter.stack.supervisor import supervise

    output = output_of(context)
    if output.pipelines:
        os.environ["PIPELINES"] = output.pipelines  # the workers inherit it
    count = core_count() if workers is None else workers
    if count:
        check_declarations()
    stack = Stack(choose_folder(folder))
    if detach:
        started = start_detached(stack.folder, count)
        show(stack, output, "The stack is ready" if started else "The stack already runs")
        return
    supervise(stack, count, ready=lambda: show(stack, output, "The stack is ready, Ctrl-C stops it"), note=output.note)
    output.note("Stopped.")


def down(context: typer.Context, folder: Folder = None) -> None:
    """Stop the stack and its workers; its data stays."""
    from starter.stack.detached import stop_stack

    chosen = choose_folder(folder)
    stopped = stop_stack(chosen)
    output_of(context).result(
        {"stopped": stopped, "folder": str(chosen)},
        f"The stack in {chosen} is stopped." if stopped else f"No stack runs in {chosen}.",
    )


def choose_folder(folder: Path | None) -> Path:
    """Take the folder given, else the settings' one."""
    from stores.settings import stack_folder

    return (stack_folder() if folder is None else folder).resolve()


def check_declarations() -> None:
    """Load the pipelines once, so that a wrong declaration is told here and not in a worker's log."""
    from contracts.registry import load_pipelines
    from stores.settings import load_settings

    if not load_pipelines(load_settings().pipelines):
        raise CommandError(Exit.USAGE, "No pipelines are declared: set --pipelines or PIPELINES.")


def show(stack: Stack, output: Output, headline: str) -> None:
    """Print where everything is; credentials stay in the state file."""
    settings = stack.settings
    addresses = settings.addresses
    output.result(
        {"status": "ready", "folder": str(stack.folder), "addresses": addresses, "ui": settings.temporal_ui_url},
        f"{headline}.",
        f"  Web UI      {settings.temporal_ui_url}",
        *(f"  {name:<11} {address}" for name, address in addresses.items()),
        f"  data, logs  {stack.folder}",
    )
