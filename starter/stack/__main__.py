"""The detached supervisor: `python -m starter.stack FOLDER WORKERS`, started by `starter up --detach`.

Guarantee: exits with status 1 and one sentence as its last line if the stack cannot start.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from starter.stack.errors import StackError
from starter.stack.stack import Stack
from starter.stack.supervisor import supervise


def main() -> int:
    """Supervise until told to stop."""
    folder, workers = sys.argv[1:]
    try:
        supervise(Stack(Path(folder)), int(workers), note=_note)
    except StackError as error:
        _note(str(error))
        return 1
    except KeyboardInterrupt:
        _note("Stopped while starting.")
        return 1
    return 0


def _note(line: str) -> None:
    print(time.strftime("%Y-%m-%dT%H:%M:%S%z"), line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
