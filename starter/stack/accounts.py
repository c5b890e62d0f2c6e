"""The account that PostgreSQL runs as, since it refuses to run as root.

Guarantee: nobody's permissions are changed on the way to binaries or data; if the account cannot pass a folder, it
gets the one capability for it, and if that is impossible the user reads one sentence.
"""

from __future__ import annotations

import dataclasses
import os
import pwd
import shutil
import subprocess
from typing import TYPE_CHECKING

from starter.stack.errors import StackError

if TYPE_CHECKING:
    from pathlib import Path

CANDIDATES = ("postgres", "nobody")


@dataclasses.dataclass(frozen=True)
class Account:
    """Whom to run as. `prefix` comes before a command; empty means: as we are."""

    uid: int
    gid: int
    prefix: tuple[str, ...] = ()

    def give(self, path: Path) -> None:
        """Make a new folder or file of ours the account's."""
        if self.prefix:
            os.chown(path, self.uid, self.gid)


def choose_account(folder: Path, data: Path, binary: Path) -> Account:
    """Choose the account that owns `data`, or will. `folder` is the one around it, and exists.

    Raises `StackError` if root finds no account that can run `binary` there.
    """
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid())
    uid, gid = _owner(data)
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        message = "PostgreSQL does not run as root, and `setpriv` (util-linux) is missing: run as an ordinary user."
        raise StackError(message)
    plain = (setpriv, f"--reuid={uid}", f"--regid={gid}", "--clear-groups")
    # Folders such as /root are closed to others. With this capability the process passes them as root would.
    able = (*plain, "--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override")
    for prefix in (plain, able):
        command = (*prefix, "/bin/sh", "-c", 'cd "$1" && exec "$2" --version', "sh", str(folder), str(binary))
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return Account(uid, gid, prefix)
    name = pwd.getpwuid(uid).pw_name
    message = (
        f"PostgreSQL does not run as root, and the account {name} cannot reach {binary.parent} or {folder}: "
        "move the project and STACK_DIR to folders open to others, or run as an ordinary user."
    )
    raise StackError(message)


def _owner(data: Path) -> tuple[int, int]:
    if data.exists() and data.stat().st_uid != 0:
        return data.stat().st_uid, data.stat().st_gid
    for name in CANDIDATES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return entry.pw_uid, entry.pw_gid
    message = f"PostgreSQL does not run as root, and no account named {' or '.join(CANDIDATES)} exists."
    raise StackError(message)
