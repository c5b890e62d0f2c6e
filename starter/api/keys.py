"""API keys: who may use which pipelines.

Guarantee: the server knows digests only. A key is 256 random bits, so a plain SHA-256 of it cannot be reversed or
guessed, and is compared with every digest in constant time. Names of keys are told in logs, keys never.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from starter.exits import CommandError, Exit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starter.services import Settings

PREFIX = "dpk_"
"""What keys begin with, so that scanners for leaked secrets can find them."""

BYTES = 32
ALL = "*"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
DIGEST = re.compile(r"[0-9a-f]{64}")
PIPELINE = re.compile(r"[a-z][a-z0-9_]{0,62}")
BETWEEN = re.compile(r"[;\s]+")
COMMENT = re.compile(r"^\s*#.*$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Caller:
    """Who sent a request, and the pipelines that he may use; None means all."""

    name: str
    pipelines: frozenset[str] | None = None

    def may_use(self, pipeline: str) -> bool:
        """Say whether a pipeline is within the key's scope."""
        return self.pipelines is None or pipeline in self.pipelines


ANYONE = Caller("")
"""The caller of a server without keys."""


@dataclasses.dataclass(frozen=True)
class Key:
    """A key as the settings have it: `name:sha256:pipelines`."""

    caller: Caller
    digest: str

    def line(self) -> str:
        """Write the entry for the settings."""
        pipelines = ALL if self.caller.pipelines is None else ",".join(sorted(self.caller.pipelines))
        return f"{self.caller.name}:{self.digest}:{pipelines}"


class Keyring:
    """The keys that are valid."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._keys = [(key.digest.encode(), key.caller) for key in keys]

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def pipelines(self) -> frozenset[str]:
        """Every pipeline that some key names."""
        return frozenset(name for _, caller in self._keys for name in caller.pipelines or ())

    def find(self, token: str) -> Caller | None:
        """Find whose key it is. All digests are compared, whichever fits, so that time tells nothing."""
        digest = digest_of(token).encode()
        found = None
        for known, caller in self._keys:
            if hmac.compare_digest(known, digest):
                found = caller
        return found


def digest_of(token: str) -> str:
    """Give the SHA-256 of a key, in hexadecimal."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def new_key(name: str, pipelines: str) -> tuple[str, Key]:
    """Make a random key; returns it, and its entry. Raises `CommandError`."""
    token = PREFIX + secrets.token_urlsafe(BYTES)
    return token, parse_entry(f"{name}:{digest_of(token)}:{pipelines}")


def parse_entry(entry: str) -> Key:
    """Read `name:sha256:pipelines`. Raises `CommandError`, which does not repeat the digest."""
    name, _, rest = entry.partition(":")
    digest, _, scope = rest.partition(":")
    if not NAME.fullmatch(name):
        message = "The name of an API key has 1 to 63 letters, digits, dots, dashes and underscores."
        raise CommandError(Exit.USAGE, message)
    if not DIGEST.fullmatch(digest):
        message = f"The API key {name} needs the SHA-256 of a key; `starter api-key {name}` makes one."
        raise CommandError(Exit.USAGE, message)
    if scope == ALL:
        return Key(Caller(name), digest)
    pipelines = scope.split(",")
    if not all(PIPELINE.fullmatch(pipeline) for pipeline in pipelines):
        message = f"The API key {name} needs its pipelines: names with commas between them, or {ALL} for all."
        raise CommandError(Exit.USAGE, message)
    return Key(Caller(name, frozenset(pipelines)), digest)


def parse_keys(text: str) -> list[Key]:
    """Read entries that are separated by white space or semicolons; lines may be comments. Raises `CommandError`.

    One name may have several keys, so that a new one can be handed out before the old one is removed.
    """
    keys = [parse_entry(entry) for entry in BETWEEN.split(COMMENT.sub("", text)) if entry]
    seen: dict[str, Key] = {}
    for key in keys:
        other = seen.setdefault(key.digest, key)
        if other is not key:
            message = f"The API keys {other.caller.name} and {key.caller.name} are the same key: give each its own."
            raise CommandError(Exit.USAGE, message)
    return keys


def load_keys(settings: Settings) -> Keyring:
    """Read the keys of the settings and of the file that they name. Raises `CommandError` and `OSError`."""
    text = settings.api_keys.get_secret_value()
    if settings.api_keys_file:
        text += "\n" + Path(settings.api_keys_file).read_text(encoding="utf-8")
    return Keyring(parse_keys(text))
