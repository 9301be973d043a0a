"""One answer out of k: how prompts with one chunk each are weighed against each other (RA-DIT, section 2.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from radit_job.rag.metrics import normalize


def retrieval_weights(scores: Sequence[float], temperature: float) -> list[float]:
    """p_R(c|x): softmax of the retrieval scores over the chunks at hand (RA-DIT, eq. 2, with a temperature).

    Cosines lie close together: without a temperature below 1 all weights would be alike.
    """
    best = max(scores)
    powers = [math.exp((score - best) / temperature) for score in scores]
    total = sum(powers)
    return [power / total for power in powers]


def vote(answers: Sequence[str], weights: Sequence[float]) -> int:
    """Which answer wins: equal normalised answers add up their weights, the heaviest member speaks for them.

    Ties go to the answer that stands first.
    """
    together: dict[str, float] = {}
    for answer, weight in zip(answers, weights, strict=True):
        together[normalize(answer)] = together.get(normalize(answer), 0.0) + weight
    winner = max(together, key=together.__getitem__)
    members = [i for i, answer in enumerate(answers) if normalize(answer) == winner]
    return max(members, key=lambda i: weights[i])


def mixture_log_probability(log_probabilities_nats: Sequence[float], weights: Sequence[float]) -> float:
    """The log of p(y|x) in nats, where p(y|x) = sum over the chunks c of p_R(c|x) * p_LM(y|c,x) (RA-DIT eq. 1)."""
    pairs = zip(log_probabilities_nats, weights, strict=True)
    terms = [log_probability + math.log(weight) for log_probability, weight in pairs if weight > 0]
    best = max(terms)
    return best + math.log(sum(math.exp(term - best) for term in terms))
