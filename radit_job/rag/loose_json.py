"""Reading the JSON objects in what a language model wrote, which is often not quite JSON."""

from __future__ import annotations

import re
from typing import Any

MAX_BROKEN = 64  # so many brackets may open nothing: a model's loop of them would be read again from each
MAX_DEPTH = 12  # no real answer nests deeper; without a limit, a model's loop of brackets would end the process

_OPENS = re.compile(r"[{\[]")
_SPACE = re.compile(r"(?:\s|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_BARE = re.compile(r"[\w$.+-]+")
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "`": "`", "„": "“"}
_CONSTANTS = {"true": True, "false": False, "null": None, "none": None}
# A quote closes a string only where JSON can go on behind it: `"What is "RMSNorm"?",` is one string.
_BEHIND_STRING = re.compile(r"""\s*(?:$|[}\]:]|,\s*(?:$|[\]}\["'“{]|\w+["']?\s*:)|["'“]\w+["'”]\s*:)""")
_ESCAPES = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_NAMED_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "", "f": ""}


class _Unreadable(Exception):
    pass


def read_objects(text: str) -> list[Any]:
    """The outermost objects and lists that stand anywhere in a text, in their order.

    Fences and prose around them, trailing and missing commas, single quotes, quotes within quotes, comments and bare
    keys are taken as they were meant. Of one that is cut off, or broken in the middle, what was whole before stays.
    """
    found: list[Any] = []
    position = n_broken = 0
    while n_broken < MAX_BROKEN and (opening := _OPENS.search(text, position)) is not None:
        reader = _Reader(text, opening.start())
        value = reader.container()
        if value or reader.is_whole:
            found.append(value)
            position = reader.whole_until
        else:
            position = opening.end()
            n_broken += 1
    return found


class _Reader:
    """A recursive descent over one value; what a broken one had that was whole is kept."""

    def __init__(self, text: str, position: int) -> None:
        self.text = text
        self.position = position
        self.whole_until = position + 1  # behind the last object or list that was read to its end
        self.is_whole = True

    def container(self, depth: int = 0) -> Any:
        """The object or list that begins here; `is_whole` says whether it was read to its end."""
        closing = "}" if self.text[self.position] == "{" else "]"
        self.position += 1
        pairs: dict[str, Any] = {}
        items: list[Any] = []
        while self.is_whole:
            self._skip(",")
            if self._at() == closing:
                self.position += 1
                self.whole_until = self.position
                break
            try:
                key = self._key() if closing == "}" else None
                value = self._value(depth)
            except _Unreadable:
                self.is_whole = False
                break
            if key is None:
                items.append(value)
            else:
                pairs[key] = value
        if not self.is_whole:  # of a cut one count its whole parts only
            items = [item for item in items if isinstance(item, dict | list) and item]
            pairs = {key: value for key, value in pairs.items() if isinstance(value, dict | list) and value}
        return pairs if closing == "}" else items

    def _key(self) -> str:
        key = self._scalar()
        self._skip("")
        if self._at() not in (":", "："):
            raise _Unreadable
        self.position += 1
        self._skip("")
        return str(key)

    def _value(self, depth: int) -> Any:
        if self._at() in ("{", "["):
            if depth >= MAX_DEPTH:
                raise _Unreadable
            return self.container(depth + 1)
        return self._scalar()

    def _scalar(self) -> Any:
        if self._at() in _QUOTES:
            return self._string()
        bare = _BARE.match(self.text, self.position)
        if bare is None:
            raise _Unreadable
        self.position = bare.end()
        word = bare.group()
        return _CONSTANTS.get(word.lower(), word)

    def _string(self) -> str:
        closing = _QUOTES[self.text[self.position]]
        start = self.position + 1
        end = start
        while True:
            end = self.text.find(closing, end)
            if end < 0:
                raise _Unreadable  # cut off
            if not self._is_escaped(end) and _BEHIND_STRING.match(self.text, end + 1):
                break
            end += 1
        self.position = end + 1
        plain = _ESCAPES.sub(_unescape, self.text[start:end])
        # Two escapes may be the halves of one character; half a one could not be written to a file.
        return plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    def _is_escaped(self, position: int) -> bool:
        first = position
        while self.text[first - 1] == "\\":  # it ends at the quote that opens the string
            first -= 1
        return (position - first) % 2 == 1

    def _skip(self, also: str) -> None:
        while True:
            self.position = _SPACE.match(self.text, self.position).end()  # type: ignore[union-attr]  # matches nothing
            if not also or self._at() != also:
                return
            self.position += 1

    def _at(self) -> str:
        return self.text[self.position : self.position + 1]


def _unescape(match: re.Match[str]) -> str:
    code = match.group(1)
    if code[0] == "u" and len(code) == 5:
        return chr(int(code[1:], 16))
    return _NAMED_ESCAPES.get(code, code)
