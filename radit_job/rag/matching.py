"""Finding one text inside another, whatever happened to its line breaks, hyphens and punctuation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from radit_job.rag.cleaning import clean_characters

SHINGLE_WORDS = 4  # so many words in a row seldom stand in two places by chance

Shingle = tuple[str, ...]

_HYPHEN = re.compile(r"(?<=\w)[-\u2010\u2011]\s*(?=\w)")
_WORD = re.compile(r"\w+")


def match_words(text: str) -> list[str]:
    """The words by which texts are compared: lower case, hyphens closed up (also at a line's end), no punctuation."""
    clean = text if text.isascii() else clean_characters(text)
    return _WORD.findall(_HYPHEN.sub("", clean).lower())


def shingles(words: Sequence[str]) -> Iterator[Shingle]:
    """Every run of four words; a shorter text is one shingle."""
    if not words:
        return iter(())
    if len(words) < SHINGLE_WORDS:
        return iter([tuple(words)])
    return zip(*(words[offset:] for offset in range(SHINGLE_WORDS)), strict=False)


def find_words(words: Sequence[str], inside: Sequence[str], start: int = 0) -> int:
    """Position of the first word of `words` in `inside`, or -1."""
    first, length = words[0], len(words)
    for position in range(start, len(inside) - length + 1):
        if inside[position] == first and inside[position : position + length] == words:
            return position
    return -1


class PhraseIndex:
    """Tells quickly which of many phrases may stand in a text, by their first words."""

    def __init__(self, phrases: Iterable[tuple[int, Sequence[str]]]) -> None:
        self._by_length: dict[int, dict[Shingle, list[int]]] = {}
        for number, words in phrases:
            head = tuple(words[:SHINGLE_WORDS])
            if head:
                self._by_length.setdefault(len(head), {}).setdefault(head, []).append(number)

    def candidates(self, words: Sequence[str]) -> set[int]:
        """Numbers of the phrases whose first words stand in the text."""
        found: set[int] = set()
        for length, by_head in self._by_length.items():
            for head in zip(*(words[offset:] for offset in range(length)), strict=False):
                if head in by_head:
                    found.update(by_head[head])
        return found
