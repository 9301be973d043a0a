"""From raw to clean text: character repair, white space, words broken across lines, running headers and footers."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence

# NFKC would expand these too, but it also turns 10² into 102 and ½ into 1⁄2: only what carries no meaning is replaced.
_LIGATURES = {chr(code): unicodedata.normalize("NFKC", chr(code)) for code in range(0xFB00, 0xFB07)}
_SPACES = dict.fromkeys(
    "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000", " "
)
_LINE_ENDS = dict.fromkeys("\u0085\u2028\u2029\f\v", "\n")
_INVISIBLE = dict.fromkeys("\u00ad\u200b\u2060\ufeff")
_CONTROLS = {chr(code): None for code in (*range(0x00, 0x20), 0x7F) if chr(code) not in "\t\n\r\f\v"}
_REPLACEMENTS = str.maketrans({**_LIGATURES, **_SPACES, **_LINE_ENDS, **_INVISIBLE, **_CONTROLS})

_BROKEN_WORD = re.compile(r"(\w[\w-]*)[-\u2010]\n+([^\W_]+)")
_WORD = re.compile(r"\w+(?:-\w+)*")

MIN_PAGES_WITH_RUNNING_LINES = 3
RUNNING_LINE_SHARE = 0.4  # left and right pages often carry different headers: each is on half of the pages


def clean_characters(text: str) -> str:
    """Compose accents (NFC), expand ligatures, unify spaces and line ends, drop invisible and control characters."""
    return unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n").translate(_REPLACEMENTS))


def tidy_whitespace(text: str) -> str:
    """No spaces at line ends, no more than one empty line in a row, nothing at either end; indentation stays."""
    text = re.sub(r"[ \t]+\n", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def words_of(texts: Sequence[str]) -> Counter[str]:
    """How often each word stands in the texts, hyphenated words as one; what `join_broken_words` decides by."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(word.lower() for word in _WORD.findall(text))
    return counts


def join_broken_words(text: str, known: Counter[str]) -> str:
    """Put words together again that a hyphen breaks across two lines; the rest of the word moves up to the first line.

    The hyphen stays where it belongs to the word: beside a capital or a digit (`LLaMA-` / `65B`), in a chain of hyphens
    (`state-of-` / `the-art`), and where the document writes the hyphenated form elsewhere more often than the joined.
    """

    def join(match: re.Match[str]) -> str:
        head, tail = match.groups()
        joined, hyphenated = head + tail, f"{head}-{tail}"
        if not (head[-1].islower() and tail[0].islower()) or "-" in head:
            return hyphenated
        return hyphenated if known[hyphenated.lower()] > known[joined.lower()] else joined

    return _BROKEN_WORD.sub(join, text)


def running_line_key(line: str) -> str:
    """What a header keeps from page to page: its text, each number replaced (`Page 3 of 9` meets `Page 4 of 9`)."""
    return re.sub(r"\d+", "#", " ".join(line.split())).lower()


def find_running_lines(margins: Sequence[Collection[str]]) -> frozenset[str]:
    """Keys of the lines that are headers, footers or page numbers.

    `margins` holds, for each page, the keys of the lines near its top and bottom edge. A key that stands there on at
    least 40 % of the pages, and on three of them, is a running line.
    """
    if len(margins) < MIN_PAGES_WITH_RUNNING_LINES:
        return frozenset()
    counts = Counter(key for keys in margins for key in set(keys))
    needed = max(MIN_PAGES_WITH_RUNNING_LINES, RUNNING_LINE_SHARE * len(margins))
    return frozenset(key for key, count in counts.items() if count >= needed)
