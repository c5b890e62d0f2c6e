"""One module per group of commands. Only typer is imported at their top, so that `--help` answers at once."""
