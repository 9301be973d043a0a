"""When a local model's forward passes begin and end: what tells prefill from decode, whoever drives the model."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch

from radit_job.latency.base import Part


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass of the whole model."""

    start_s: float  # of time.perf_counter, as all times here
    end_s: float
    n_rows: int
    n_tokens: int  # that it read of each row, padding included
    is_prefill: bool


class ForwardClock:
    """The passes of one model while the context is open; on a GPU each is waited for, so that its time is its own."""

    def __init__(self, model: Any) -> None:
        self.passes: list[Pass] = []
        self._model = model
        self._start_s = 0.0
        self._hooks: list[Any] = []

    def __enter__(self) -> Self:
        self._hooks = [
            self._model.register_forward_pre_hook(self._begin),
            self._model.register_forward_hook(self._end, with_kwargs=True),
        ]
        return self

    def __exit__(self, *raised: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _begin(self, module: Any, args: Any) -> None:
        self._wait()
        self._start_s = time.perf_counter()

    def _end(self, module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        self._wait()
        read = next(
            value for value in (kwargs.get("input_ids"), *args, kwargs.get("inputs_embeds")) if value is not None
        )
        n_rows, n_tokens = int(read.shape[0]), int(read.shape[1])
        before = self.passes[-1] if self.passes else None
        # Of equal prompts all but one token is read once, as their shared prefix: then the rest is one token a row.
        is_prefill = n_tokens > 1 or before is None or (before.is_prefill and n_rows > before.n_rows)
        self.passes.append(Pass(self._start_s, time.perf_counter(), n_rows, n_tokens, is_prefill))

    def _wait(self) -> None:
        if self._model.device.type == "cuda":
            torch.cuda.synchronize(self._model.device)


def split(passes: Sequence[Pass], start_s: float, end_s: float) -> dict[Part, float]:
    """The time from `start_s` to `end_s` by what it went to: prompt (until the first pass), prefill and decode.

    What stands between two passes (choosing the next token, the bookkeeping of the cache) is part of the first one's.
    """
    parts: dict[Part, float] = {"prompt": 0.0, "prefill": 0.0, "decode": 0.0}
    begins = [one.start_s for one in passes] + [end_s]
    parts["prompt"] = begins[0] - start_s
    for one, next_s in zip(passes, begins[1:], strict=True):
        parts["prefill" if one.is_prefill else "decode"] += next_s - one.start_s
    return parts


def first_token_s(passes: Sequence[Pass]) -> float | None:
    """When the first token of the answer was known: at the end of the last prefill; None without any."""
    return max((one.end_s for one in passes if one.is_prefill), default=None)
