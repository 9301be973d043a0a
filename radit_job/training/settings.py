"""How a language model is tuned: the settings, and the learning rate of each step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

LEARNING_RATES = {"lora": 5e-4, "full": 5e-5}  # measured on SmolLM2-135M; alike in quality


@dataclass(frozen=True, slots=True)
class LMTrainingSettings:
    """How to tune; the configuration's section finetune_lm documents each field."""

    method: Literal["lora", "full"] = "lora"
    epochs: float = 3
    learning_rate: float | None = None  # None: LEARNING_RATES
    warmup_share: float = 0.05
    batch_size: int = 4
    accumulation_steps: int = 1
    max_tokens: int = 1024
    lora_rank: int = 16
    weight_decay: float = 0.0
    patience: int = 2
    evaluations_per_epoch: int = 1
    checkpoint_interval_s: float = 60.0
    dtype: str = "auto"
    seed: int = 7

    @property
    def peak_learning_rate(self) -> float:
        """The rate after the warm-up."""
        return self.learning_rate or LEARNING_RATES[self.method]


def learning_rate_at(step: int, n_steps: int, peak: float, warmup_share: float) -> float:
    """The rate of step 0, 1, ...: up linearly to `peak`, then down as half a cosine to almost 0 at the last step."""
    n_warmup = math.ceil(n_steps * warmup_share)
    if step < n_warmup:
        return peak * (step + 1) / n_warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - n_warmup) / max(1, n_steps - n_warmup)))
