"""Calls of one kind that a run will make. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from radit_job.models.cost import Usage


@dataclass(frozen=True, slots=True)
class EstimatedCalls:
    """Calls of one kind: how many, and how long each is."""

    n: float
    n_prompt_tokens: float = 0.0
    n_answer_tokens: float = 0.0
    max_answer_tokens: float = 0.0
    n_training_tokens: float = 0.0
    max_n: float | None = None  # None: n

    def usage(self, *, margin: float = 0.0) -> Usage:
        """All together; with a margin, at most."""
        n = self.n if not margin or self.max_n is None else self.max_n
        answer = self.max_answer_tokens if margin else self.n_answer_tokens
        times = n * (margin or 1.0)
        return Usage(
            math.ceil(n),
            round(times * self.n_prompt_tokens),
            round(n * answer),
            round(times * self.n_training_tokens),
        )
