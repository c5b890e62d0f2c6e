"""The command line: `starter [--pipelines M] [--json] COMMAND`.

Guarantee: a command ends with one of the statuses of `starter.exits`; an error is one or two sentences on stderr,
never a traceback. Everything heavy is imported by the command that needs it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from starter.commands import api, consume, dead_letters, declared, demo, send, stack, submit, tickets, upload
from starter.exits import explain
from starter.output import Output

if TYPE_CHECKING:
    from collections.abc import Sequence

app = typer.Typer(
    name="starter",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Backend patterns as durable Temporal workflows: validated records in, exactly once out.",
    epilog=(
        "Exit status: 0 done, 1 failed, 2 wrong usage, 3 rejected by validation, 4 no such id or pipeline, "
        "5 a service cannot be reached, 6 accepted but not finished in time, 7 conflict, 8 stopped by a limit."
    ),
)


@app.callback()
def options(
    context: typer.Context,
    pipelines: Annotated[
        str | None,
        typer.Option(help="Where pipelines are declared: package.module[:name], several with commas.", metavar="M"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, nothing else.")] = False,
) -> None:
    """Take the global options."""
    output = context.ensure_object(Output)
    output.json = json
    output.pipelines = pipelines


app.command()(stack.up)
app.command()(stack.down)
app.command()(demo.demo)
app.command()(declared.pipelines)
app.command()(submit.submit)
app.command()(submit.enqueue)
app.command()(upload.upload)
app.command()(send.send)
app.command()(consume.consume)
app.command()(upload.rejects)
app.command()(upload.resume)
app.command()(tickets.cancel)
app.command()(tickets.status)
app.add_typer(dead_letters.app, name="dead-letters")
app.command()(api.api)
app.command("api-key")(api.api_key)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status; whatever it raises is explained on stderr."""
    ours, text = split(arguments)
    output = Output(json="--json" in ours)
    if output.json:
        # Scripts may put the flag behind the command as well; it is the global one wherever it stands.
        ours = ["--json", *(item for item in ours if item != "--json")]
    try:
        returned = app([*ours, *text], standalone_mode=False, obj=output)
    except BrokenPipeError:
        # Whoever read stdout has enough (`| head`); the interpreter must not complain about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except BaseException as error:  # noqa: BLE001 - the one place where errors become sentences
        if isinstance(error, SystemExit):
            return int(error.code or 0)
        status, message = explain(error)
        if not message.strip():  # no command at all: the help was printed
            return int(status)
        output.error(status, message)
        return int(status)
    return returned if isinstance(returned, int) else 0


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate what may be options from what follows `--`."""
    items = list(arguments)
    at = items.index("--") if "--" in items else len(items)
    return items[:at], items[at:]


def main() -> None:
    """Enter the command line."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    status = run(sys.argv[1:])
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    sys.stderr.flush()
    # Threads of Temporal's client may call back while the interpreter takes itself down, which aborts the process.
    # Everything of ours is closed and flushed by now, so there is nothing left to take down.
    os._exit(status)
