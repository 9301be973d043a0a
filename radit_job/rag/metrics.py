"""How good one answer is, and how well retrieval found its source."""

from __future__ import annotations

import functools
import re
import string
from collections import Counter
from collections.abc import Callable
from typing import Any

_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # kana and Han: no spaces
_ROUGE_WORD = re.compile(rf"(?![\W_])[{_UNSPACED}]|(?:(?![{_UNSPACED}])[^\W_])+")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(text: str) -> str:
    """Lower case, without punctuation, articles and extra white space: SQuAD v1.1's `normalize_answer`."""
    lowered = text.lower().translate(_WITHOUT_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", lowered).split())


def exact_match(answer: str, reference: str) -> float:
    """1 if the normalised texts are equal, else 0 (SQuAD v1.1's `exact_match_score`)."""
    return float(normalize(answer) == normalize(reference))


def token_f1(answer: str, reference: str) -> float:
    """Harmonic mean of precision and recall over normalised words (SQuAD v1.1's `f1_score`).

    As there, 0 when no word is shared, also when both texts are empty after normalisation.
    """
    answer_words, reference_words = normalize(answer).split(), normalize(reference).split()
    n_shared = sum((Counter(answer_words) & Counter(reference_words)).values())
    if n_shared == 0:
        return 0.0
    precision, recall = n_shared / len(answer_words), n_shared / len(reference_words)
    return 2 * precision * recall / (precision + recall)


def rouge_l(answer: str, reference: str) -> float:
    """F-measure of the longest common subsequence (Lin 2004), as Google Research's rouge-score computes it.

    Its own tokenizer drops all but a-z and 0-9; `RougeWords` gives the same words of such a text, and keeps the others.
    """
    return float(_rouge().score(reference, answer)["rougeL"].fmeasure)


def answer_words(answer: str, reference: str) -> float:
    """Length of the answer in words; how much of a gain is only style shows here first."""
    return float(len(answer.split()))


# The metrics that need nothing but the two texts.
TEXT_METRICS: dict[str, Callable[[str, str], float]] = {
    "exact_match": exact_match,
    "token_f1": token_f1,
    "rouge_l": rouge_l,
    "answer_words": answer_words,
}


def recall_at(k: int, gold_rank: int) -> float:
    """1 if a gold chunk stands among the first k, else 0."""
    return float(gold_rank <= k)


def reciprocal_rank(gold_rank: int) -> float:
    """1 / rank of the best gold chunk among all chunks; its mean is MRR."""
    return 1 / gold_rank


class RougeWords:
    """Words for ROUGE: runs of letters and digits, in lower case; each character of Chinese and Japanese."""

    def tokenize(self, text: str) -> list[str]:
        """See `rouge_score.tokenizers.Tokenizer`."""
        return _ROUGE_WORD.findall(text.lower())


@functools.cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # late: it imports nltk

    return RougeScorer(["rougeL"], tokenizer=RougeWords())
