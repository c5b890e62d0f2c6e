"""The one error of the stack: its text is the sentence that the user reads."""

from __future__ import annotations

from contracts.errors import TerminalError


class StackError(TerminalError):
    """The stack cannot start or stop as asked."""

    code = "stack"


class PortBusyError(StackError):
    """A port that was asked for by name is taken."""

    code = "port_busy"
