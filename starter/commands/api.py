"""`api` and `api-key`: records and files over HTTP, and who may send them."""

from __future__ import annotations

from typing import Annotated

import typer

from starter.exits import CommandError, Exit
from starter.output import output_of


def api(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on; 0 for a free one.", min=0, max=65535)] = 8000,
    without_keys: Annotated[
        bool, typer.Option("--without-keys", help="Ask for no API key; on loopback only, for development.")
    ] = False,
) -> None:
    """Serve the HTTP API until it is told to stop; several processes may, side by side."""
    from starter.api.serve import run
    from starter.services import declared, load_settings

    settings = load_settings()
    pipelines = declared(settings, output_of(context))
    if not run(settings, pipelines, host, port, without_keys=without_keys):
        raise CommandError(Exit.USAGE, f"Cannot listen on {host}, port {port}.")


def api_key(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Who gets the key; it is kept with what he sends.")],
    pipelines: Annotated[str, typer.Option(help="The pipelines that it is for, with commas; * for all.")],
) -> None:
    """Make a random API key; it is shown this once, and nowhere kept."""
    from starter.api.keys import new_key

    token, key = new_key(name, pipelines)
    output = output_of(context)
    output.result({"key": token, "line": key.line()}, f"key:  {token}", f"line: {key.line()}")
    output.note("Give the key to its user; add the line to API_KEYS, or to the file that API_KEYS_FILE names.")
