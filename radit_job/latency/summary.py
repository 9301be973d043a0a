"""From timings to the rows of latency.json. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

import numpy as np

from radit_job.latency.base import PARTS, Task, Timed
from radit_job.latency.floor import Floor
from radit_job.latency.rounds import Group
from radit_job.rag.stats import interval

BOOTSTRAP_SAMPLES = 10_000
FloorOf = Callable[[Group], Floor | None]  # None: nothing is known of the machine, or of the model


@dataclass(frozen=True, slots=True)
class Timing:
    """`latency/timings.jsonl`: one question, asked once."""

    engine: str
    task: Task
    concurrency: int
    repetition: int
    question: str
    total_s: float
    parts_s: dict[str, float]
    first_token_s: float | None
    n_llm_calls: int
    n_prompt_tokens: int
    n_completion_tokens: int
    error: str | None


@dataclass(frozen=True, slots=True)
class CallRow:
    """`latency/calls.jsonl`: one call of the language model, prompt and completion in full."""

    engine: str
    task: Task
    question: str
    prompt: str
    completion: str
    n_prompt_tokens: int
    n_completion_tokens: int


def timings(groups: Sequence[Group]) -> Iterator[Timing]:
    """A row for each question of each group."""
    for group in groups:
        for question, timed in zip(group.questions, group.timed, strict=True):
            yield Timing(
                group.engine,
                group.task,
                group.concurrency,
                group.repetition,
                question,
                round(timed.total_s, 6),
                {part: round(timed.parts_s[part], 6) for part in PARTS},
                None if timed.first_token_s is None else round(timed.first_token_s, 6),
                len(timed.calls),
                _n_prompt(timed),
                _n_completion(timed),
                timed.error,
            )


def calls(groups: Sequence[Group]) -> Iterator[CallRow]:
    """The calls of the first repetition with the fewest clients."""
    fewest = min((group.concurrency for group in groups), default=0)
    for group in groups:
        if group.repetition == 0 and group.concurrency == fewest:
            for question, timed in zip(group.questions, group.timed, strict=True):
                for call in timed.calls:
                    yield CallRow(group.engine, group.task, question, **asdict(call))


def summarize(groups: Sequence[Group], floor_of: FloorOf, *, seed: int) -> list[dict[str, Any]]:
    """One row for each engine, task and number of clients, in the order in which they were first asked."""
    together: dict[tuple[str, Task, int], list[Group]] = {}
    for group in groups:
        together.setdefault((group.engine, group.task, group.concurrency), []).append(group)
    return [
        {"engine": engine, "task": task, "concurrency": n_clients, **_figures(mine, floor_of, seed)}
        for (engine, task, n_clients), mine in together.items()
    ]


def _figures(groups: Sequence[Group], floor_of: FloorOf, seed: int) -> dict[str, Any]:
    good = [timed for group in groups for timed in group.timed if timed.error is None]
    n_failed = sum(timed.error is not None for group in groups for timed in group.timed)
    if not good:
        return {"n": 0, "n_failed": n_failed, **dict.fromkeys(FIGURES)}
    totals = [timed.total_s for timed in good]
    p50_s, p90_s, p99_s = (float(value) for value in np.quantile(totals, [0.5, 0.9, 0.99]))
    spread = interval(totals, samples=BOOTSTRAP_SAMPLES, seed=seed)
    first = [timed.first_token_s for timed in good]
    # While any client waited; for what failed none did.
    busy_s = sum(max((one.total_s for one in group.timed if one.error is None), default=0.0) for group in groups)
    floor_s = _mean_floor([floor_of(group) for group in groups])
    return {
        "n": len(good),
        "n_failed": n_failed,
        "p50_s": p50_s,
        "p90_s": p90_s,
        "p99_s": p99_s,
        "mean_s": spread.mean,
        "low_s": spread.low,
        "high_s": spread.high,
        "parts_s": {part: fmean(timed.parts_s[part] for timed in good) for part in PARTS},
        "first_token_s": None if None in first else median(value for value in first if value is not None),
        "n_llm_calls": fmean(len(timed.calls) for timed in good),
        "n_prompt_tokens": fmean(map(_n_prompt, good)),
        "n_completion_tokens": fmean(map(_n_completion, good)),
        "completion_tokens_per_s": sum(map(_n_completion, good)) / busy_s,
        "queries_per_s": len(good) / busy_s,
        "floor_s": floor_s,
        "times_floor": None if floor_s is None else p50_s / sum(floor_s.values()),
    }


FIGURES = (
    "p50_s", "p90_s", "p99_s", "mean_s", "low_s", "high_s", "parts_s", "first_token_s", "n_llm_calls",
    "n_prompt_tokens", "n_completion_tokens", "completion_tokens_per_s", "queries_per_s", "floor_s", "times_floor",
)  # fmt: skip


def _mean_floor(floors: Sequence[Floor | None]) -> dict[str, float] | None:
    known = [floor for floor in floors if floor is not None]
    if not known:
        return None
    return {"prefill": fmean(one.prefill_s for one in known), "decode": fmean(one.decode_s for one in known)}


def _n_prompt(timed: Timed) -> int:
    return sum(call.n_prompt_tokens for call in timed.calls)


def _n_completion(timed: Timed) -> int:
    return sum(call.n_completion_tokens for call in timed.calls)
