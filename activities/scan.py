"""Where records begin and end in a stream of bytes.

Guarantee: the boundaries are those that `csv.reader` sees (not strict, quote character `"`), and they are the
same whatever the sizes of the pieces and windows: whoever plans chunks and whoever loads them agree.
A quoted field over 1 MiB, or a record over 4 MiB, is a fault of its first line; reading resumes after it.
"""

from __future__ import annotations

import dataclasses
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from contracts.loads import TextFile
    from contracts.ports import ObjectStore

QUOTED_LIMIT = 1 << 20
RECORD_LIMIT = 4 << 20
TAIL = 1 << 13
WINDOW = 1 << 20
"""The largest window: no quoted field that closes inside one can be over its limit."""

Kind = Literal["records", "unclosed_quote", "record_too_long", "rest"]


@dataclasses.dataclass(frozen=True)
class Block:
    """Whole records, or the first line of a faulty one, or the discarded rest of such a line that is too long.

    `start` is an offset in bytes, `line` the physical line from 1 on which `data` begins.
    """

    start: int
    line: int
    data: bytes
    kind: Kind = "records"


@dataclasses.dataclass(frozen=True)
class Grammar:
    """The patterns of one delimiter; without one (NDJSON) every newline is a boundary."""

    records: re.Pattern[bytes] | None
    fields: re.Pattern[bytes]
    plain: re.Pattern[bytes]
    quoted: re.Pattern[bytes]

    def last_boundary(self, data: bytes, at: int, stop: int) -> int:
        """Find the end of the last whole record in [at, stop), or `at`. A record has to begin at `at`."""
        if self.records is not None and data.find(b'"', at, stop) >= 0:
            if stop - at > 2 * TAIL:
                # Fields are passed over faster than records. Where that ends no quote is open, so the boundaries
                # behind it are found as if a record began there.
                cut = stop - TAIL
                while data[cut - 1] == QUOTE and cut > at:
                    cut -= 1  # Two quotes in a row are one character of a field; a cut must not part them.
                outside = self.fields.match(data, at, cut)
                found = None if outside is None else self.records.match(data, outside.end(), stop)
                if outside is not None and found is not None and found.end() > outside.end():
                    return found.end()
            found = self.records.match(data, at, stop)
            return at if found is None else found.end()
        return data.rfind(b"\n", at, stop) + 1 or at

    def first_record(self, data: bytes, at: int, *, ended: bool) -> tuple[Kind, int] | None:
        """Decide on the record that begins at `at`: its kind and, if it is whole, its end. None: more is needed."""
        size, position = len(data), at
        while position - at <= RECORD_LIMIT:
            if self.records is not None and data[position : position + 1] == b'"':
                # The closing quote may stand at `limit` at the latest, and only the byte after it confirms it.
                limit = position + 1 + QUOTED_LIMIT
                found = self.quoted.match(data, position + 1, min(size, limit + 2))
                close = position + 1 if found is None else found.end()
                if close > limit or (close >= size and ended):
                    return "unclosed_quote", at
                if close >= size - 1 and not ended:
                    return None
                position = close + 1
                if position - at > RECORD_LIMIT:
                    break
            found = self.plain.match(data, position, at + RECORD_LIMIT + 1)
            stop = position if found is None else found.end()
            if stop - at > RECORD_LIMIT:
                break
            if stop >= size:
                return ("records", size) if ended else None
            position = stop + 1
            if data[stop] == NEWLINE:
                return "records", position
        return "record_too_long", at


NEWLINE = 0x0A
QUOTE = 0x22


@lru_cache(maxsize=16)
def grammar(delimiter: str | None) -> Grammar:
    """Compile the patterns for a delimiter, or for lines without quoting."""
    quoted = re.compile(rb'(?:[^"]++|"")*+')
    if delimiter is None:
        return Grammar(records=None, fields=quoted, plain=re.compile(rb"[^\n]*+"), quoted=quoted)
    d = re.escape(delimiter.encode())
    # A quote opens a field only right after a delimiter or a newline; elsewhere it is a character.
    pattern = rb'(?:(?:[^"\n]++|(?<=[D\n])"(?:[^"]++|"")*+"|(?<![D\n])")*+\n)*+'.replace(b"D", d)
    fields = rb'(?:[^"]++|(?<=[D\n])"(?:[^"]++|"")*+"|(?<![D\n])")*+'.replace(b"D", d)
    return Grammar(
        records=re.compile(pattern),
        fields=re.compile(fields),
        plain=re.compile(rb"[^D\n]*+".replace(b"D", d)),
        quoted=quoted,
    )


class Scanner:
    """Cuts a stream into blocks of whole records: feed it pieces, take blocks, end it.

    `position` and `line` say where the next block begins. `whole` says whether that is where a record begins.
    """

    def __init__(self, delimiter: str | None, start: int, line: int) -> None:
        self.grammar = grammar(delimiter)
        self.position = start
        self.line = line
        self.ended = False
        self.whole = True
        # One byte before the next record is kept, because the patterns look behind; a record follows a newline.
        self._data = b"\n"
        self._at = 1
        self._pieces: list[bytes] = []
        self._size = 0
        self._wanted = 1

    def feed(self, piece: bytes) -> None:
        """Add the next bytes of the stream."""
        self._pieces.append(piece)
        self._size += len(piece)

    def end(self) -> None:
        """Say that no more bytes will come."""
        self.ended = True

    def take(self, window: int = WINDOW) -> Block | None:
        """Take the next block, of at most `window` bytes unless one record is longer. None: feed more, or the end."""
        window = max(1, min(window, WINDOW))
        if not self._size or (self._size < max(window, self._wanted) and not self.ended):
            return None
        if self._pieces:
            self._data = b"".join((self._data[self._at - 1 :], *self._pieces))
            self._at = 1
            self._pieces.clear()
        if not self.whole:
            return self._take_rest()
        end = self.grammar.last_boundary(self._data, self._at, min(self._at + window, len(self._data)))
        if end > self._at:
            return self._cut("records", end)
        decision = self.grammar.first_record(self._data, self._at, ended=self.ended)
        if decision is None:
            self._wanted = self._size + WINDOW
            return None
        kind, end = decision
        if kind != "records":
            end = self._data.find(b"\n", self._at) + 1
            if not end:
                self.whole = self.ended
                end = len(self._data)
        return self._cut(kind, end)

    def _take_rest(self) -> Block:
        """Pass over a line that is too long to keep."""
        end = self._data.find(b"\n", self._at) + 1
        self.whole = end > 0
        return self._cut("rest", end or len(self._data))

    def _cut(self, kind: Kind, end: int) -> Block:
        data = self._data[self._at : end]
        block = Block(start=self.position, line=self.line, data=data, kind=kind)
        self.position += len(data)
        self.line += data.count(b"\n")
        self._at = end
        self._size -= len(data)
        self._wanted = 1
        return block


def split_records(data: bytes, delimiter: str | None) -> Iterator[bytes]:
    """Split a block of whole records into its records, with their line ends."""
    rules, at, data = grammar(delimiter), 1, b"\n" + data
    while at < len(data):
        decision = rules.first_record(data, at, ended=True)
        end = len(data) if decision is None else max(decision[1], at + 1)
        yield data[at:end]
        at = end


async def read_blocks(
    objects: ObjectStore, text: TextFile, *, start: int, end: int, line: int, window: int = WINDOW
) -> AsyncIterator[Block]:
    """Stream the whole records of the bytes [start, end) of a text file, in blocks of about `window` bytes."""
    scanner = Scanner(delimiter_of(text), start, line)
    async for piece in objects.read(text.key, etag=text.etag, start=start, end=end):
        scanner.feed(piece)
        while (block := scanner.take(window)) is not None:
            yield block
    scanner.end()
    while (block := scanner.take(window)) is not None:
        yield block


def delimiter_of(text: TextFile) -> str | None:
    """Name the delimiter that rules a file's record boundaries; NDJSON has none."""
    return text.dialect.delimiter if text.dialect.format == "csv" else None
