"""What the LM's scores of the training questions' candidate chunks say, before anything is learned from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from radit_job.records import CandidateScores


@dataclass(frozen=True, slots=True)
class Preferences:
    """How much the LM prefers one candidate to another, and how often that is a gold chunk."""

    n_questions: int
    spread_nats_per_token: float  # median over questions: the answer's log-probability, likeliest minus least likely
    n_gold: int  # questions with a gold chunk among their candidates, and another chunk beside it
    n_lm_prefers_gold: int  # of these, where the answer is likeliest after a gold chunk
    n_retriever_prefers_gold: int  # of these, where the untuned retriever has a gold chunk first


def preferences(rows: Iterable[CandidateScores]) -> Preferences | None:
    """Counted over all rows, one in memory at a time; None without any."""
    spreads: list[float] = []
    n_gold = n_lm = n_retriever = 0
    for row in rows:
        scores = row.log_probability_nats
        if not scores:
            continue
        spreads.append((max(scores) - min(scores)) / max(1, row.n_answer_tokens))
        is_gold = [chunk in row.gold_chunk_ids for chunk in row.chunk_ids]
        if any(is_gold) and not all(is_gold):
            n_gold += 1
            n_lm += is_gold[scores.index(max(scores))]
            n_retriever += is_gold[row.similarities.index(max(row.similarities))]
    return Preferences(len(spreads), median(spreads), n_gold, n_lm, n_retriever) if spreads else None
