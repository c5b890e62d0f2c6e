"""What a command says: results on stdout, everything else on stderr.

Guarantee: with `--json` exactly one JSON document goes to stdout, and nothing else does.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import typer


@dataclasses.dataclass
class Output:
    """The global options, and the two channels. `printed` says that the JSON document went out."""

    json: bool = False
    pipelines: str | None = None
    printed: bool = False

    def result(self, document: Mapping[str, object], *lines: str) -> None:
        """Give the command's answer: the document with `--json`, else the lines."""
        if self.json:
            print(json.dumps(document), flush=True)
            self.printed = True
        else:
            for line in lines:
                print(line, flush=True)

    def note(self, line: str) -> None:
        """Say something beside the answer, on stderr."""
        print(line, file=sys.stderr, flush=True)

    def error(self, status: int, message: str) -> None:
        """Report an error in a sentence; scripts find it in a document as well."""
        if self.json and not self.printed:
            self.result({"error": {"exit": int(status), "message": message}})
        self.note(message)


def output_of(context: typer.Context) -> Output:
    """Take the output that the global options were put into."""
    found = context.find_object(Output)
    return found if found is not None else Output()
