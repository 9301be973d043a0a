"""What a training run has seen so far: losses, rates, and which weights were the best."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from radit_job.errors import StageFailed


@dataclass(slots=True)
class History:
    """What happened so far; a checkpoint carries it."""

    steps: list[dict[str, float]] = field(
        default_factory=list
    )  # step, loss (nats per answer token), learning_rate, tokens
    evaluations: list[dict[str, float]] = field(default_factory=list)  # step, epoch, dev_loss (nats per answer token)
    best_step: int | None = None  # None without held-out examples
    training_s: float = 0.0  # in steps, evaluations and loading left out
    stopped_early: bool = False

    def best_loss(self) -> float:
        """The lowest held-out loss so far."""
        return min((row["dev_loss"] for row in self.evaluations), default=math.inf)


def check_finite(step: int, *values: float) -> None:
    """StageFailed where a loss or a gradient is not a number any more."""
    if not all(map(math.isfinite, values)):
        raise StageFailed(f"training diverged at step {step}", todo="lower finetune_lm.learning_rate")
