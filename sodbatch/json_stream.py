"""JSON stream: one large JSON object read member by member, so that a file of gigabytes is never in memory whole."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import re
from collections.abc import Iterator
from typing import IO, Any

import orjson

_BLOCK = 1 << 17
"""Characters that are read and decoded at once: as objects they take some twenty times as much."""

_SPACE = re.compile(r"[ \t\n\r]*")
_BETWEEN_OBJECTS = re.compile(r"\}\s*,\s*(?=\{)")
_TAIL = 1 << 14

MAX_VALUE_BYTES = 1 << 26
"""Of one value, but for lists: a bound on the memory."""


class JsonStream:
    """Decodes a JSON object value by value out of a growing window of its text.

    Args:
        file: UTF-8, with or without a byte order mark.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = io.TextIOWrapper(file, encoding="utf-8-sig")
        self._decoder = json.JSONDecoder()
        self._window = ""
        self._position = 0

    def array_of(self, key: str) -> Iterator[dict[str, Any]]:
        """Yield the objects of the list under a key of the outer object; what comes after it is not read.

        Raises:
            ValueError: The text is not JSON, or not of that shape.
        """
        value = next((value for name, value in self.members() if name == key), None)
        if value is None:
            raise ValueError(f"there is no {key!r}")
        if not isinstance(value, Iterator):
            raise ValueError(f"found {type(value).__name__} where a list should be")
        for item in itertools.chain.from_iterable(value):
            if not isinstance(item, dict):
                raise ValueError(f"found {type(item).__name__} in the list")
            yield item

    def members(self) -> Iterator[tuple[str, Any]]:
        """Yield name and value of every member of the outer object.

        The value of a list is an iterator over chunks of its items, which ends where the next member is asked for.

        Raises:
            ValueError: The text is not JSON, or not an object.
        """
        names: set[str] = set()
        self._expect("{")
        ended = self._peek() == "}"
        if ended:
            self._position += 1
        while not ended:
            if (found := self._peek()) != '"':
                raise ValueError(f"found {found!r} where the name of a member should be")
            name = self._value()
            if name in names:
                raise ValueError(f"the member {name[:80]!r} stands twice")
            names.add(name)
            self._expect(":")
            if self._peek() == "[":
                self._position += 1
                chunks = self._chunks()
                yield name, chunks
                for _ in chunks:
                    pass
            else:
                yield name, self._value()
            ended = self._expect(",}") == "}"
        self._expect_end()

    def _chunks(self) -> Iterator[list[Any]]:
        """Yield the items of a list from behind its bracket, and pass its end.

        Text between two borders of objects is decoded at once. A border may be one inside an item, or lie behind the
        list's end: then brackets or quotes are not balanced, decoding fails, and the text is taken item by item.
        """
        if self._peek() == "]":
            self._position += 1
            return
        ended = False
        while not ended:
            self._fill(_BLOCK)
            border = _last_border(self._window, self._position)
            chunk: list[Any] | None = None
            if border is not None:
                with contextlib.suppress(orjson.JSONDecodeError):
                    chunk = orjson.loads(f"[{self._window[self._position : border]}]")
            if border is not None and chunk is not None:
                self._position = border
                yield chunk
            else:
                yield from self._one_by_one(len(self._window) if border is None else border)
            ended = self._expect(",]") == "]"

    def _one_by_one(self, end: int) -> Iterator[list[Any]]:
        """Yield in one chunk the items up to a place in the window; before an error, those that could be decoded."""
        chunk: list[Any] = []
        window = self._window
        try:
            while True:
                chunk.append(self._value())
                if self._peek() != "," or self._window is not window or self._position >= end:
                    break
                self._position += 1
        except (ValueError, RecursionError):
            yield chunk
            raise
        yield chunk

    def _expect(self, allowed: str) -> str:
        """Pass one of some characters and return it."""
        found = self._peek()
        if found not in allowed:
            raise ValueError(f"found {found!r} where {' or '.join(map(repr, allowed))} should be")
        self._position += 1
        return found

    def _expect_end(self) -> None:
        while True:
            match = _SPACE.match(self._window, self._position)
            self._position = match.end() if match else self._position
            if self._position < len(self._window):
                raise ValueError(f"found {self._window[self._position]!r} behind the end of the object")
            if not self._grow(_BLOCK):
                return

    def _peek(self) -> str:
        """Jump over space and return the next character."""
        while True:
            match = _SPACE.match(self._window, self._position)
            self._position = match.end() if match else self._position
            if self._position < len(self._window):
                return self._window[self._position]
            if not self._grow(_BLOCK):
                raise ValueError("the file ends early")

    def _value(self) -> Any:
        """Decode the next value, with a larger window as long as it does not end inside."""
        self._peek()
        size = _BLOCK
        while True:
            try:
                value, end = self._decoder.raw_decode(self._window, self._position)
            except json.JSONDecodeError:
                if len(self._window) - self._position > MAX_VALUE_BYTES or not self._grow(size):
                    raise
                size *= 2
                continue
            if end == len(self._window) and self._grow(_BLOCK):  # a number may go on
                continue
            self._position = end
            return value

    def _fill(self, size: int) -> None:
        while len(self._window) - self._position < size and self._grow(size):
            pass

    def _grow(self, size: int) -> bool:
        more = self._file.read(size)
        self._window = self._window[self._position :] + more
        self._position = 0
        return bool(more)


def _last_border(text: str, start: int) -> int | None:
    """Return the place behind the last object that another follows, if there is one near the end of the text."""
    border = None
    for match in _BETWEEN_OBJECTS.finditer(text, max(start, len(text) - _TAIL)):
        border = match.start() + 1
    return border
