"""How a retriever is tuned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class RetrieverTrainingSettings:
    """How to tune; the configuration's section finetune_retriever documents each field."""

    candidates: int = 8
    likelihood: Literal["per_token", "whole_answer"] = "per_token"
    lm_temperature: float = 0.1
    retriever_temperature: float = 0.05
    divergence: Literal["reverse", "forward"] = "forward"
    warm_start_epochs: int = 0
    contrastive_weight: float = 0.0
    epochs: int = 6
    learning_rate: float = 2e-5
    warmup_share: float = 0.1
    batch_size: int = 16
    weight_decay: float = 0.01
    dev_share: float = 0.15
    patience: int = 2
    recall_at: tuple[int, ...] = (1, 5, 10)  # of which k the held-out recall is told
    dtype: str = "auto"
    seed: int = 7
