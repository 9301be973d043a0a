"""Sentence boundaries by Punkt, as LlamaIndex finds them."""

from __future__ import annotations

from functools import cache
from typing import Any


def split_sentences(text: str) -> list[str]:
    """The text's sentences, each with the white space behind it; joined, they are the text again."""
    starts = [start for start, _ in _punkt().span_tokenize(text)][1:]
    return [text[start:end] for start, end in zip([0, *starts], [*starts, len(text)], strict=True)]


@cache
def _punkt() -> Any:
    import nltk.redos  # here, because nltk loads scipy with it, and not every stage needs sentences
    from nltk.tokenize import PunktSentenceTokenizer

    # nltk stops a pattern after 5 seconds by the wall clock: a text of 100 MB takes longer, so does a paused process.
    # That limit guards against strangers' patterns; Punkt's own take linear time.
    nltk.redos.DEFAULT_TIMEOUT = None
    return PunktSentenceTokenizer()  # LlamaIndex's choice, without its look for downloads
