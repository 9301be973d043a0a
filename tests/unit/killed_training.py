"""A training run that is killed within one of its optimizer's steps, and how many steps it makes when it goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch


def kill_at_step(number: int, train: Callable[[], object]) -> None:
    """Train, and be killed where the optimizer's step of this number (from 1) would begin."""
    n_calls, plain_step = 0, torch.optim.AdamW.step

    def step_that_dies(self: torch.optim.AdamW, *arguments: Any) -> Any:
        nonlocal n_calls
        n_calls += 1
        if n_calls == number:
            raise KeyboardInterrupt
        return plain_step(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step_that_dies)
        with pytest.raises(KeyboardInterrupt):
            train()


def count_steps(train: Callable[[], object]) -> int:
    """Train to the end; how many steps the optimizer made."""
    n_steps, plain_step = 0, torch.optim.AdamW.step

    def counted_step(self: torch.optim.AdamW, *arguments: Any) -> Any:
        nonlocal n_steps
        n_steps += 1
        return plain_step(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", counted_step)
        train()
    return n_steps
