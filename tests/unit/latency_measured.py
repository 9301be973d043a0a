"""A latency.json as the stage writes it: a local model, LlamaIndex beside it, three tasks, up to eight clients."""

from __future__ import annotations

from typing import Any

CLIENTS = (1, 2, 4, 8)
TOKENS = {"rewrite": (96, 60), "query": (212, 32), "complete": (212, 32)}


def row(engine: str, task: str, n: int, seconds: float, floor: bool = True) -> dict[str, Any]:
    """Figures that fit each other: the parts add up to the mean."""
    n_in, n_out = TOKENS[task]
    is_query = task == "query"
    waiting = seconds * (1 - 1 / n) / 2 if engine == "llamaindex" else 0.0
    outside = {"embed": 0.018, "retrieve": 0.0007, "prompt": 0.003} if is_query else {"prompt": 0.002}
    left = seconds - sum(outside.values()) - waiting - 0.01
    parts = dict.fromkeys(("embed", "retrieve"), 0.0) | outside
    parts |= {"prefill": 0.27 * left, "decode": 0.73 * left, "other": waiting + 0.01}
    low_floor = {"prefill": 0.11 * n, "decode": 0.9 + 0.05 * n}
    return {
        "engine": engine,
        "task": task,
        "concurrency": n,
        "n": 12,
        "n_failed": 0,
        "p50_s": 0.98 * seconds,
        "p90_s": 1.2 * seconds,
        "p99_s": 1.35 * seconds,
        "mean_s": seconds,
        "low_s": 0.93 * seconds,
        "high_s": 1.08 * seconds,
        "parts_s": parts,
        "first_token_s": 0.3 * seconds,
        "n_llm_calls": 1.0,
        "n_prompt_tokens": float(n_in),
        "n_completion_tokens": float(n_out),
        "completion_tokens_per_s": n * n_out / seconds,
        "queries_per_s": n / seconds,
        "floor_s": low_floor if floor else None,
        "times_floor": 0.98 * seconds / sum(low_floor.values()) if floor else None,
    }


def failed_row(engine: str, task: str, n: int) -> dict[str, Any]:
    """Every question failed: no figure, and no number in place of one."""
    nothing: dict[str, Any] = dict.fromkeys(row(engine, task, n, 1.0))
    return nothing | {"engine": engine, "task": task, "concurrency": n, "n": 0, "n_failed": 12}


def measured(**changes: Any) -> dict[str, Any]:
    """A whole latency.json; keyword arguments replace its fields."""
    once = {"rewrite": 2.9, "query": 1.45, "complete": 1.38}
    rows = [row("radit", task, n, once[task] * (0.8 + 0.2 * n)) for task in once for n in CLIENTS]
    rows += [row("llamaindex", task, n, 1.4 * once[task] * (0.5 + 0.5 * n)) for task in once for n in CLIENTS]
    plain = {
        "format": 1,
        "measured_at": "2026-11-21T20:15:00Z",
        "model": {
            "name": "smollm2-135m-instruct",
            "provider": "packaged",
            "dtype": "float32",
            "n_weights": 134515008,
            "context_tokens": 8192,
        },
        "embedder": {"name": "all-minilm-l6-v2", "provider": "packaged"},
        "machine": {
            "device": "AMD EPYC, 2 threads",
            "bandwidth_gb_per_s": 21.4,
            "matrix_gflop_per_s": 298.0,
            "dtype": "float32",
        },
        "n_chunks": 1204,
        "k": 2,
        "context": "joined",
        "max_new_tokens": 32,
        "queries": 4,
        "rewrites": 4,
        "warmup": 1,
        "repetitions": 3,
        "peak_memory_gib": 1.42,
        "rows": rows,
        "readings": [
            "A query takes 1.4 s (median), 1.3 times what this machine allows for 212 prompt and 32 answer tokens.",
            "Decoding is 71 % of it.",
            "One query makes 1 LLM call; rewriting it into 4 search queries would add another, of 2.8 s.",
            "LlamaIndex's query engine takes 1.4 times as long.",
        ],
        "warnings": ["generation_config.json sets temperature 0.2 while do_sample is false; it is set aside here."],
    }
    return plain | changes


CALLS = [
    {
        "engine": "radit",
        "task": "query",
        "question": "What is LSR?",
        "prompt": "<|im_start|>user\nContext: <b>LSR</b> trains the query encoder.\nWhat is LSR?<|im_end|>\n",
        "completion": "A way to train the query encoder.",
        "n_prompt_tokens": 212,
        "n_completion_tokens": 9,
    }
]
