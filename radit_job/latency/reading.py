"""What the figures say, in short sentences; each only where the figures bear it out. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

NAMES = {"radit": "radit", "llamaindex": "LlamaIndex's query engine"}
PART_NAMES = {
    "embed": "Embedding the question",
    "retrieve": "Retrieval",
    "prompt": "Building the prompt",
    "prefill": "Prefill",
    "decode": "Decoding",
    "other": "What is none of these",
}
LARGE_SHARE = 0.5  # of a query's time
LONG_PROMPT_TOKENS = 1000
CLEAR = 1.1  # times; less is noise on a busy machine
Row = Mapping[str, Any]


def readings(rows: Sequence[Row], *, k: int, rewrites: int) -> list[str]:
    """Sentences on the rows of latency.json."""
    found = {(row["engine"], row["task"], row["concurrency"]): row for row in rows if row["n"]}
    counts = sorted({row["concurrency"] for row in rows})
    fewest = counts[0] if counts else 1
    query = found.get(("radit", "query", fewest))
    if query is None:
        return []
    return [
        *_of_one(query, k),
        *_of_rewriting(query, found.get(("radit", "rewrite", fewest)), rewrites),
        *_of_clients([row for count in counts if (row := found.get(("radit", "query", count))) is not None]),
        *_of_baseline(query, found.get(("llamaindex", "query", fewest))),
    ]


def _of_one(row: Row, k: int) -> Iterator[str]:
    clients = "" if row["concurrency"] == 1 else f" with {row['concurrency']} clients"
    start = f"A query takes {seconds(row['p50_s'])} (median){clients}"
    tokens = f"{row['n_prompt_tokens']:,.0f} prompt and {row['n_completion_tokens']:,.0f} answer tokens"
    if row["times_floor"] is not None and row["times_floor"] >= 1:
        yield f"{start}, {row['times_floor']:.1f} times what this machine allows for {tokens}."
    else:
        yield f"{start}, for {tokens}."
    n_calls = row["n_llm_calls"]
    yield f"One query makes {n_calls:.3g} LLM call{'' if n_calls == 1 else 's'}."
    part, share = max(
        ((part, value / row["mean_s"]) for part, value in row["parts_s"].items()), key=lambda item: item[1]
    )
    is_long = row["n_prompt_tokens"] >= LONG_PROMPT_TOKENS
    if part == "prefill" and share >= LARGE_SHARE and is_long:
        yield (
            f"The prompt is {row['n_prompt_tokens']:,.0f} tokens long, because k is {k}: prefill takes "
            f"{100 * share:.0f} % of the time."
        )
    elif share >= LARGE_SHARE:
        yield f"{PART_NAMES[part]} is {100 * share:.0f} % of it."


def _of_rewriting(query: Row, rewrite: Row | None, rewrites: int) -> Iterator[str]:
    if rewrite is None:
        return
    share = rewrite["p50_s"] / query["p50_s"]
    many = "1 search query" if rewrites == 1 else f"{rewrites} search queries"
    yield f"Rewriting a question into {many} takes {seconds(rewrite['p50_s'])}, {share:.1f} times as long as a query."


def _of_clients(rows: Sequence[Row]) -> Iterator[str]:
    """From the fewest clients to those with the most queries a second."""
    if len(rows) < 2:
        return
    first, best = rows[0], max(rows, key=lambda row: float(row["queries_per_s"]))
    times = best["queries_per_s"] / first["queries_per_s"]
    if best is not first and times >= CLEAR:
        yield (
            f"With {best['concurrency']} clients {times:.1f} times as many queries are answered a second, and each "
            f"takes {best['p50_s'] / first['p50_s']:.1f} times as long."
        )
    else:
        yield "More clients at the same time get no more queries answered a second."


def _of_baseline(query: Row, other: Row | None) -> Iterator[str]:
    if other is None:
        return
    times = other["p50_s"] / query["p50_s"]
    name = NAMES["llamaindex"]
    if times >= CLEAR:
        yield f"{name} takes {times:.1f} times as long{_because(query, other)}."
    elif times <= 1 / CLEAR:
        yield f"{name} takes {times:.1f} times as long: it is faster here{_because(query, other)}."
    else:
        yield f"{name} takes about as long{_because(query, other)}."


def _because(query: Row, other: Row) -> str:
    """The lengths, where they differ: then the times are of different work."""
    lengths = [(row["n_prompt_tokens"], row["n_completion_tokens"]) for row in (other, query)]
    if all(0.9 <= mine / ours <= 1.1 for mine, ours in zip(*lengths, strict=True)):
        return ""
    mine, ours = lengths
    return (
        f", with its own prompts: {mine[0]:,.0f} prompt and {mine[1]:,.0f} answer tokens instead of {ours[0]:,.0f} and "
        f"{ours[1]:,.0f}"
    )


def seconds(value: float) -> str:
    """`1.9 s`, `0.21 s`, `3.2 ms`."""
    if value < 0.1:
        return f"{value * 1000:.2g} ms"
    return f"{value:.2g} s" if value < 10 else f"{value:,.0f} s"
