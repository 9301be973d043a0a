"""Which of the pairs that a large model wrote are kept: one pair at a time, without another call.

Nothing here is for one language alone but the phrases of `standing_alone` and of answers that are none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from radit_job.rag.pair_answers import WrittenPair
from radit_job.rag.question_writing import content_words
from radit_job.rag.standing_alone import is_question, points_outside

MIN_QUESTION_WORDS = 3
MAX_QUESTION_WORDS = 80
# Of what an answer adds to its question, this much must stand in the chunk: "most of it". Measured on 91 pairs of one
# paper by GPT-3.5, long answers in words of their own: 0.5 keeps 80 % of them on their own text, and 2 % on another of
# the same paper; at 0.7 it would be 62 % and 1 %.
MIN_SHARE_IN_CHUNK = 0.5
COMMON_SHARE = 0.25  # a word of more chunks than this says little about any of them, in whatever language
MIN_COMMON_CHUNKS = 8

# Scripts without spaces (Thai, Lao, Burmese, Khmer, kana, Han), and Korean, whose words carry their particles.
_UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]+"
)
_YES_AND_NO = frozenset({"yes", "no", "ja", "nein", "oui", "non", "sí", "si", "sim", "não", "да", "нет"})  # in no chunk
_NO_ANSWER = re.compile(
    r"^\W*(?:n/?a|none|unknown|i (?:do not|don['’]t) know|not (?:mentioned|specified|stated|given|available|applicable"
    r"|provided)\b.*)\W*$"
    r"|\b(?:text|passage|document|excerpt|context|paragraph|article)\s+(?:does\s+not|doesn['’]t|do\s+not)\s+"
    r"(?:\w+ly\s+)?(?:say|state|mention|specify|provide|tell|contain|give|answer|include|discuss|explain)"
    r"|\b(?:is|are|was|were)\s+not\s+(?:\w+ly\s+)?(?:mentioned|specified|stated|provided|given)\s+in\s+the\s+"
    r"(?:text|passage|document|excerpt|context|paragraph|article)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class PairRules:
    """What a pair must keep to."""

    max_answer_words: int
    check_overlap: bool  # with its chunk
    common_words: frozenset[str] = frozenset()  # see `common_words`


def refusal(pair: WrittenPair, chunk: str, rules: PairRules) -> str | None:
    """Why a pair is not kept, as a short name that can be counted; None where nothing is against it."""
    if not is_question(pair.question) or n_words(pair.question) < MIN_QUESTION_WORDS:
        return "not_a_question"
    if n_words(pair.question) > MAX_QUESTION_WORDS:
        return "long_question"
    if points_outside(pair.question):
        return "points_outside"
    if not any(character.isalnum() for character in pair.answer):
        return "empty_answer"
    if n_words(pair.answer) > rules.max_answer_words:
        return "long_answer"
    if is_question(pair.answer) or meaning_in_order(pair.answer) == meaning_in_order(pair.question):
        return "repeats_question"
    if _NO_ANSWER.search(pair.answer):
        return "no_answer"
    if rules.check_overlap and share_in_chunk(pair, chunk, rules.common_words) < MIN_SHARE_IN_CHUNK:
        return "not_answerable"
    return None


def share_in_chunk(pair: WrittenPair, chunk: str, common: Collection[str] = frozenset()) -> float:
    """How much of what the answer adds to its question stands in the chunk, 0 to 1; common words count only alone."""
    answer = meaning(pair.answer)
    added = answer - meaning(pair.question) - _YES_AND_NO
    words = (added - set(common)) or added or answer
    return len(words & meaning(chunk)) / len(words) if words else 0.0


def meaning(text: str) -> set[str]:
    """What texts are compared by: `content_words`, and pairs of neighbouring characters in scripts without spaces."""
    return content_words(_UNSPACED.sub(" ", text)).union(*map(_neighbours, _UNSPACED.findall(text)))


def meaning_in_order(text: str) -> list[str]:
    """As `meaning`, in the order of the text."""
    spaced = _UNSPACED.sub(lambda run: f" {' '.join(run.group())} ", text)
    return [word for piece in spaced.split() for word in sorted(content_words(piece) or _UNSPACED.findall(piece))]


def n_words(text: str) -> int:
    """Words; of scripts without spaces two characters count as one."""
    n_characters = sum(map(len, _UNSPACED.findall(text)))
    return len(_UNSPACED.sub(" ", text).split()) + (n_characters + 1) // 2


def common_words(texts: Iterable[str]) -> frozenset[str]:
    """What stands in so many of the texts that it tells them apart no more: small words of any language, the topic."""
    counts: Counter[str] = Counter()
    n_texts = 0
    for text in texts:
        counts.update(meaning(text))
        n_texts += 1
    n_common = max(MIN_COMMON_CHUNKS, COMMON_SHARE * n_texts)
    return frozenset(word for word, count in counts.items() if count >= n_common)


def _neighbours(run: str) -> set[str]:
    return {run[at : at + 2] for at in range(max(1, len(run) - 1))}
