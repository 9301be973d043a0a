"""The retriever's held-out questions: how far it is from what the LM prefers, and how well it finds gold chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from radit_job.models.base import Vectors
from radit_job.rag import lsr
from radit_job.rag.metrics import recall_at, reciprocal_rank
from radit_job.rag.retrieval import search
from radit_job.rag.row_blocks import RowBlocks
from radit_job.training.query_encoder import QueryEncoder
from radit_job.training.retriever_data import Candidates
from radit_job.training.retriever_loss import lsr_nats, retriever_log_shares
from radit_job.training.retriever_settings import RetrieverTrainingSettings


@dataclass(frozen=True, slots=True)
class Measured:
    """The figures of one epoch."""

    kl_nats: float | None  # mean over the questions whose target says something; None if none does
    recall: dict[int, float]  # by k; empty where no gold chunk is known
    mrr: float | None
    n_gold: int  # questions with a known gold chunk: those that recall and MRR are about

    def to_json(self) -> dict[str, Any]:
        """As a row under "epochs" in training.json has it."""
        return {
            "dev_kl_nats": self.kl_nats,
            "dev_recall": {str(k): round(value, 6) for k, value in self.recall.items()},
            "dev_mrr": None if self.mrr is None else round(self.mrr, 6),
            "dev_n_gold": self.n_gold,
        }


class HeldOut:
    """The questions that choose the best epoch; no weight is ever changed by one of them."""

    def __init__(self, questions: Candidates, documents: RowBlocks, settings: RetrieverTrainingSettings) -> None:
        """`documents` are the vectors of all chunks: recall and MRR are over them, not over the candidates."""
        self.questions, self.documents, self.settings = questions, documents, settings
        self.taught = np.flatnonzero(lsr.teaches(questions.log_target))
        self.with_gold = [i for i, gold in enumerate(questions.gold_rows) if gold]

    def measure(self, encoder: QueryEncoder) -> Measured:
        """Encode the questions as an answering stage would, and compare."""
        vectors = encoder.embed([row.question for row in self.questions.rows])
        ranks = self._gold_ranks(vectors)
        return Measured(
            kl_nats=self._kl_nats(vectors) if len(self.taught) else None,
            recall={k: _mean([recall_at(k, rank) for rank in ranks]) for k in self.settings.recall_at if ranks},
            mrr=_mean([reciprocal_rank(rank) for rank in ranks]) if ranks else None,
            n_gold=len(ranks),
        )

    def _kl_nats(self, vectors: Vectors) -> float:
        chosen = self.taught
        candidates = self.questions.vectors[torch.from_numpy(self.questions.places[chosen])]  # [n, candidates, d]
        log_p_r = retriever_log_shares(
            torch.from_numpy(vectors[chosen]), candidates, self.settings.retriever_temperature
        )
        log_target = torch.from_numpy(self.questions.log_target[chosen]).float()
        return lsr_nats(log_p_r, log_target, self.settings.divergence).mean().item()

    def _gold_ranks(self, vectors: Vectors) -> list[int]:
        if not self.with_gold:
            return []
        gold_rows = [self.questions.gold_rows[i] for i in self.with_gold]
        found = search(self.documents, vectors[self.with_gold], k=1, gold_rows=gold_rows)
        return [rank for rank in found.gold_ranks if rank is not None]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
