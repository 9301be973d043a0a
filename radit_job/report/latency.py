"""latency.json as typed rows, and what the page says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from radit_job.report.labels import number

PART_MEANINGS = {
    "embed": "the question becomes a vector",
    "retrieve": "the nearest chunks are found",
    "prompt": "template, chunks and question become token ids",
    "prefill": "the LM reads the prompt",
    "decode": "the LM writes the answer, token by token",
    "other": "everything else, waiting in line included",
}
# On the wire nobody can tell the server's queue and prefill from the network.
SERVED_MEANINGS = PART_MEANINGS | {
    "prefill": "until the first token: network, the server's queue, its prefill",
    "decode": "from the first token to the last",
}
PARTS = tuple(PART_MEANINGS)
TASK_NAMES = {"rewrite": "query rewriting", "query": "RAG query", "complete": "LM call alone"}
TASK_MEANINGS = {
    "rewrite": "the LM makes search queries of the question",
    "query": "from the question to its answer: embed, retrieve, prompt, LM",
    "complete": "the prompt of that query, straight to the LM",
}
ENGINE_NAMES = {"radit": "radit", "llamaindex": "LlamaIndex"}


@dataclass(frozen=True, slots=True)
class LatencyRow:
    """One engine, task and number of clients; a row whose every question failed has figures of None, and n is 0."""

    engine: str
    task: str
    concurrency: int
    n: int
    n_failed: int
    p50_s: float | None
    p90_s: float | None
    p99_s: float | None
    mean_s: float | None
    low_s: float | None  # of the mean's 95 % interval
    high_s: float | None
    parts_s: Mapping[str, float] | None  # means, which add up to mean_s
    first_token_s: float | None
    n_llm_calls: float | None  # means of a question
    n_prompt_tokens: float | None
    n_completion_tokens: float | None
    completion_tokens_per_s: float | None  # of all clients together
    queries_per_s: float | None
    floor_s: Mapping[str, float] | None  # prefill and decode; None where the machine is not known
    times_floor: float | None

    @property
    def engine_name(self) -> str:
        """In running text."""
        return ENGINE_NAMES.get(self.engine, self.engine)

    @property
    def task_name(self) -> str:
        """In running text."""
        return TASK_NAMES.get(self.task, self.task)

    @property
    def floor_total_s(self) -> float | None:
        """The least that prefill and decode together could take."""
        return sum(self.floor_s.values()) if self.floor_s else None

    def share(self, part: str) -> float | None:
        """A part's share of the mean, 0 to 1."""
        return (self.parts_s or {}).get(part, 0.0) / self.mean_s if self.mean_s else None


class Latency:
    """One latency.json; missing parts are empty, unknown fields are ignored."""

    def __init__(self, plain: Mapping[str, Any]) -> None:
        self.rows = [_row(row) for row in plain.get("rows") or []]
        self.model: Mapping[str, Any] = plain.get("model") or {}
        self.embedder: Mapping[str, Any] = plain.get("embedder") or {}
        self.machine: Mapping[str, Any] | None = plain.get("machine") or None
        self.readings = [str(text) for text in plain.get("readings") or []]
        self.warnings = [str(text) for text in plain.get("warnings") or []]
        self.plain = plain

    @property
    def engines(self) -> list[str]:
        """In the order of the rows."""
        return list(dict.fromkeys(row.engine for row in self.rows))

    @property
    def concurrencies(self) -> list[int]:
        """Every number of clients, ascending."""
        return sorted({row.concurrency for row in self.rows})

    @property
    def is_served(self) -> bool:
        """Whether the LM answers over a network."""
        return self.model.get("provider") == "openai"

    def of(self, engine: str, task: str, concurrency: int) -> LatencyRow | None:
        """One row; None where it was not measured, or where every question failed."""
        wanted = (engine, task, concurrency)
        found = (row for row in self.rows if (row.engine, row.task, row.concurrency) == wanted)
        return next((row for row in found if row.p50_s is not None), None)

    def tasks(self, engine: str) -> list[str]:
        """The engine's tasks, in the order of the rows."""
        return list(dict.fromkeys(row.task for row in self.rows if row.engine == engine))


def _row(plain: Mapping[str, Any]) -> LatencyRow:
    return LatencyRow(**{field.name: plain.get(field.name) for field in fields(LatencyRow)})  # type: ignore[arg-type]


def model_text(latency: Latency) -> str:
    """`SmolLM2-135M (135 million weights, float32)`, or a served model's name and who serves it."""
    n_weights = latency.model.get("n_weights")
    known = [_counted(n_weights) if n_weights else "", latency.model.get("dtype") or ""]
    if latency.is_served:
        known.append("served")
    inside = ", ".join(text for text in known if text)
    return f"{latency.model.get('name', 'unknown')}{f' ({inside})' if inside else ''}"


def _counted(n_weights: float) -> str:
    if n_weights >= 1e9:
        return f"{n_weights / 1e9:.1f} billion weights"
    return f"{n_weights / 1e6:.0f} million weights" if n_weights >= 1e6 else f"{n_weights:,.0f} weights"


def machine_text(latency: Latency) -> str:
    """What was measured of the machine; empty where the model is not on it."""
    machine = latency.machine
    if not machine:
        return ""
    bandwidth, matrix = machine.get("bandwidth_gb_per_s"), machine.get("matrix_gflop_per_s")
    speeds = [
        f"{bandwidth:,.0f} GB/s" if bandwidth is not None else "",
        f"{matrix:,.0f} GFLOP/s" if matrix is not None else "",
    ]
    measured = " and ".join(text for text in speeds if text)
    dtype = f" in {machine['dtype']}" if measured and machine.get("dtype") else ""
    return ": ".join(text for text in (str(machine.get("device") or ""), f"{measured}{dtype}") if text)


def asked_text(latency: Latency) -> str:
    """How much was asked."""
    plain = latency.plain
    n, rounds, warmup = plain.get("queries") or 0, plain.get("repetitions") or 0, plain.get("warmup") or 0
    return f"{_of(n, 'question')} in {_of(rounds, 'round')}, after {_of(warmup, 'round')} of warm-up"


def _of(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def facts(latency: Latency) -> dict[str, str]:
    """What was timed, by name."""
    plain = latency.plain
    k, form = plain.get("k"), plain.get("context")
    found = {
        "language model": model_text(latency),
        "embedder": str(latency.embedder.get("name") or ""),
        "machine": machine_text(latency),
        "asked": asked_text(latency),
        "context": f"{_of(k, 'chunk')} of {plain.get('n_chunks') or 0:,}, {form}" if k else "",
        "answers": f"up to {_of(plain.get('max_new_tokens') or 0, 'token')}",
        "peak memory": f"{number(plain['peak_memory_gib'], 2)} GiB" if plain.get("peak_memory_gib") else "",
        "measured": str(plain.get("measured_at") or "").replace("T", " ").replace("Z", " UTC"),
    }
    return {name: value for name, value in found.items() if value}


def failures(latency: Latency) -> list[str]:
    """Per row with failed questions: which one, and how many; they are in no figure."""
    return [
        f"{row.engine_name}, {row.task_name}, {_of(row.concurrency, 'client')}: "
        f"{row.n_failed} of {row.n + row.n_failed}"
        for row in latency.rows
        if row.n_failed
    ]


def seconds(value: float | None) -> str:
    """Three figures and no unit: `0.042`, `1.94`, `12.3`, `1,204`; a dash where there is none."""
    if value is None:
        return "–"
    decimals = 3 if abs(value) < 0.0995 else 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:,.{decimals}f}"


def rate(value: float | None) -> str:
    """A rate or a mean count: one decimal below 100, none above; a dash where there is none."""
    return "–" if value is None else f"{value:,.{0 if abs(value) >= 99.95 else 1}f}"


def percent(share: float | None) -> str:
    """`71`, `< 1` for what is there and would round to nothing; a dash where it is not known."""
    if share is None:
        return "–"
    return "< 1" if 0 < share < 0.005 else f"{100 * share:.0f}"


def shown_parts(rows: Sequence[LatencyRow]) -> list[str]:
    """The parts that any row has, in the order in which they happen."""
    return [part for part in PARTS if any((row.parts_s or {}).get(part) for row in rows)]
