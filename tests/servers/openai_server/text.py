"""Sentences, words and their overlap: all that the test server's models know of language."""

from __future__ import annotations

import functools
import hashlib
import re
from collections import Counter

_STOP_WORDS = """
    a about after again all also am an and any are as at be because been before being between both but by can cannot
    could did do does doing during each else ever every few for from further had has have having he her here hers him
    his how i if in into is it its itself just many may me might more most much must my no nor not now of off on once
    one only or other our out over own same shall she should so some such than that the their them then there these they
    this those through to too under until up upon us very was we were what when where which while who whom whose why
    will with within without would you your yours according based provided given"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
_WORD = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"”’)\]]*\s+(?=[\"“‘(\[]?[A-Z0-9])|\n\s*\n")
_ABBREVIATION = re.compile(r"\b(?:et al|e\.g|i\.e|Fig|Figs|Tab|Eq|Sec|vs|cf|Dr|Mr|Mrs|Prof|No|approx|[A-Z])\.$")


def words(text: str) -> list[str]:
    """Words in lower case."""
    return [word.lower() for word in _WORD.findall(text)]


@functools.lru_cache(maxsize=16384)
def stems(text: str) -> tuple[str, ...]:
    """Content words without their endings."""
    return tuple(_stem(word) for word in words(text) if word not in STOP_WORDS)


@functools.lru_cache(maxsize=256)
def sentences(text: str) -> tuple[str, ...]:
    """Sentences with their white space made plain."""
    found: list[str] = []
    for part in _SENTENCE_END.split(text):
        part = " ".join(part.split())
        if not part:
            continue
        if found and _ABBREVIATION.search(found[-1]):
            found[-1] += " " + part
        else:
            found.append(part)
    return tuple(found)


def share_in(part: str, whole: str) -> float:
    """Which share of the content words of `part` stands in `whole`; 0 where it has none."""
    wanted = set(stems(part))
    return len(wanted.intersection(stems(whole))) / len(wanted) if wanted else 0.0


def f1(one: str, other: str) -> float:
    """Overlap of content words, both ways."""
    a, b = _counts(one), _counts(other)
    common = sum(min(n, b[stem]) for stem, n in a.items() if stem in b)
    return 2 * common / (len(stems(one)) + len(stems(other))) if common else 0.0


def draw(*parts: object) -> float:
    """A number in [0, 1) that depends on nothing but its arguments."""
    digest = hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


@functools.lru_cache(maxsize=16384)
def _counts(text: str) -> Counter[str]:
    return Counter(stems(text))


@functools.lru_cache(maxsize=65536)
def _stem(word: str) -> str:
    for ending in ("ization", "ations", "ation", "ments", "ment", "ings", "ing", "ies", "ied", "ed", "es", "s", "ly"):
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            word = word[: -len(ending)]
            break
    return word.rstrip("e") if len(word) > 4 else word
