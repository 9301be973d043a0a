"""Log-probabilities of a small language model with a memory, for POST /v1/completions with echo, as vLLM gives them.

Tokens are words with the blank before them, runs of punctuation, and single other white space. The probability of a
token is 0.4 x its share after the same last token so far + 0.4 x its share of all tokens so far + 0.2 x a base
probability that falls with its length: what stood in the text before is likelier, so a chunk that holds the answer
gives the answer a higher probability. It is deterministic, and only nearly a distribution (the base does not sum to 1).
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from typing import Any

_TOKEN = re.compile(r" ?[^\W_]+| ?[^\w\s]+| ?_+|\s", re.UNICODE)


def split(text: str) -> list[tuple[str, int]]:
    """Tokens and where they start; together they are the text."""
    return [(found[0], found.start()) for found in _TOKEN.finditer(text)]


def log_probabilities(text: str) -> list[float | None]:
    """Natural logarithms, one a token; None for the first, which follows nothing."""
    seen: Counter[str] = Counter()
    after: defaultdict[str, Counter[str]] = defaultdict(Counter)
    found: list[float | None] = []
    last = ""
    for at, (token, _) in enumerate(split(text)):
        key = token.strip().lower() or token
        if at == 0:
            found.append(None)
        else:
            follows = after[last]
            n_follows = follows.total()
            cached = seen[key] / at
            bigram = follows[key] / n_follows if n_follows else cached
            found.append(math.log(0.4 * bigram + 0.4 * cached + 0.2 * _base(key)))
        seen[key] += 1
        after[last][key] += 1
        last = key
    return found


def logprobs_of(text: str, offset: int = 0) -> dict[str, Any]:
    """The `logprobs` field of a choice: tokens, token_logprobs, top_logprobs, text_offset."""
    parts = split(text)
    values = log_probabilities(text)
    return {
        "tokens": [token for token, _ in parts],
        "token_logprobs": values,
        "top_logprobs": [
            None if value is None else {token: value} for (token, _), value in zip(parts, values, strict=True)
        ],
        "text_offset": [start + offset for _, start in parts],
    }


def _base(token: str) -> float:
    return 2.0 ** -(7 + min(len(token), 12))
