"""Language-model-supervised retrieval (LSR): which of its candidate chunks the LM likes, as a distribution.

p_LSR(c|x,y) = exp(L(c) / tau) / sum over the candidates c' of exp(L(c') / tau)

L(c) is how likely the LM finds the answer y after the chunk c and the question x, and tau the LM's temperature. RA-DIT
(arXiv 2310.01352, section 2.4) and REPLUG (arXiv 2301.12652, section 4) take the probability of the whole answer for L.
That is about 1e-13 for a sentence, so all candidates get the same share, and nothing can be learned from it: hence the
probability per token (a geometric mean) as the other choice. The target's entropy tells how much it says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from radit_job.records import CandidateScores

Matrix = npt.NDArray[np.float64]
Likelihood = Literal["per_token", "whole_answer"]

# A target within this many nats of the uniform one says nothing: the LM finds the answer alike after every chunk. Equal
# likelihoods but for 0.5 % of a probability have as much, at a temperature of 0.1.
MIN_INFORMATION_NATS = 1e-3
DEFAULT_TEMPERATURE = 0.05  # of a retriever to which nothing can be fitted
TEMPERATURES = tuple(float(t) for t in np.geomspace(0.01, 2.0, 107))


def likelihoods(rows: Sequence[CandidateScores], kind: Likelihood) -> Matrix:
    """L(c) of each question's candidates, [questions, candidates], between 0 and 1.

    per_token: exp(mean log-probability of the answer's tokens); whole_answer: exp of the sum. All rows must have the
    same number of candidates.
    """
    nats = np.array([row.log_probability_nats for row in rows], dtype=np.float64)
    if kind == "per_token":
        nats = nats / np.array([row.n_answer_tokens for row in rows], dtype=np.float64)[:, None]
    return np.exp(nats)


def log_target(likelihood: Matrix, temperature: float) -> Matrix:
    """The logarithm of p_LSR, [questions, candidates]; exact where p_LSR itself is too small for a float."""
    scaled = (likelihood - likelihood.max(axis=1, keepdims=True)) / temperature  # the best one is 0: nothing overflows
    shares: Matrix = scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))
    return shares


def entropy_nats(log_shares: Matrix) -> npt.NDArray[np.float64]:
    """Entropy of each row of log-probabilities, [questions]: 0 for one chunk alone, ln(candidates) for all alike."""
    shares = np.exp(log_shares)
    terms = np.zeros_like(log_shares)
    np.multiply(shares, log_shares, out=terms, where=shares > 0)  # 0 log 0 is 0
    found: npt.NDArray[np.float64] = np.maximum(-terms.sum(axis=1), 0.0)
    return found


def teaches(log_shares: Matrix) -> npt.NDArray[np.bool_]:
    """Which questions' targets say anything, [questions]; a flat one would only teach to rank nothing above anything.

    KL(target || uniform) = ln(candidates) - entropy must reach MIN_INFORMATION_NATS; one candidate alone never does.
    """
    told: npt.NDArray[np.bool_] = math.log(log_shares.shape[1]) - entropy_nats(log_shares) >= MIN_INFORMATION_NATS
    return told


def fitted_temperature(rows: Sequence[CandidateScores], log_shares: Matrix) -> float:
    """The retriever temperature t at which the untuned retriever is as sure of its candidates as the target is.

    The mean entropy of softmax(cosine / t) is then that of the target. Without it most of the divergence is a
    difference in sharpness, and lowering that squeezes or stretches the cosines, and the ranking with them. Questions
    whose target says nothing take no part; where all are such, DEFAULT_TEMPERATURE. Within TEMPERATURES, 5 % apart.
    """
    told = teaches(log_shares)
    if not told.any():
        return DEFAULT_TEMPERATURE
    wanted_nats = entropy_nats(log_shares[told]).mean()
    cosines = np.array([row.similarities for row in rows], dtype=np.float64)[told]
    return min(TEMPERATURES, key=lambda t: abs(entropy_nats(log_target(cosines, t)).mean() - wanted_nats))


@dataclass(frozen=True, slots=True)
class TargetFigures:
    """What the targets of the training questions are like."""

    entropy_nats: float  # mean
    max_entropy_nats: float  # ln(candidates): that of a target that says nothing
    top_is_gold_share: float | None  # of the questions with a known gold chunk among the candidates; None without any
    n_gold_among_candidates: int
    n_flat: int  # questions whose target says nothing; they are not trained on

    @classmethod
    def of(cls, rows: Sequence[CandidateScores], log_shares: Matrix) -> TargetFigures:
        """The figures of these questions; where several candidates share the first place, each counts for its part."""
        gold = [
            [chunk_id in row.gold_chunk_ids for chunk_id in row.chunk_ids] for row in rows
        ]  # [questions, candidates]
        hits = [
            float(np.mean(np.array(is_gold)[shares == shares.max()]))
            for is_gold, shares in zip(gold, log_shares, strict=True)
            if any(is_gold)
        ]
        return cls(
            entropy_nats=float(entropy_nats(log_shares).mean()),
            max_entropy_nats=math.log(log_shares.shape[1]),
            top_is_gold_share=float(np.mean(hits)) if hits else None,
            n_gold_among_candidates=len(hits),
            n_flat=int((~teaches(log_shares)).sum()),
        )

    def to_json(self) -> dict[str, Any]:
        """What stands under "target" in training.json, rounded to what is worth reading."""
        return {
            "entropy_nats": round(self.entropy_nats, 6),
            "max_entropy_nats": round(self.max_entropy_nats, 6),
            "top_is_gold_share": None if self.top_is_gold_share is None else round(self.top_is_gold_share, 6),
            "n_gold_among_candidates": self.n_gold_among_candidates,
            "n_flat": self.n_flat,
        }
