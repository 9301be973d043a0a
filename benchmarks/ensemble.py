"""What the three ways to use k chunks cost, beside each other: `python benchmarks/ensemble.py [--k 3] [--rounds 3]`.

The same questions and the same chunks (stretches of the quickstart's handbook) for the packaged language model: joined
has them in one prompt, separate answers k prompts, ensemble mixes the k prompts' next tokens. The reference answers are
measured too, as in the stage `answer`. The three take turns, round by round, so a busy machine hurts all alike, and the
processor's seconds (of all threads) say what it would be on a machine that does nothing else.
Tokens are those that the model reads: of the prompts, and one per row and step of the answers. --rows is the batch size
in prompts, for all three.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

QUICKSTART = Path(__file__).parent.parent / "examples" / "quickstart"
MODEL = "smollm2-135m-instruct"


def conversations(n: int, k: int, chunk_chars: int) -> tuple[list, list, list[str]]:
    """Of n questions the joined conversation, the k separate ones, and the reference answer."""
    from radit_job.rag.prompts import Prompts

    rng = random.Random(7)
    text = (QUICKSTART / "handbook.md").read_text(encoding="utf-8")
    lines = (QUICKSTART / "questions.jsonl").read_text(encoding="utf-8").splitlines()[:n]
    rows = [json.loads(line) for line in lines]
    template = "Context information is below.\n---\n{context}\n---\nQuery: {question}\nAnswer: "
    prompts = Prompts("You answer questions from the given documents.", template, "{question}")
    joined, separate = [], []
    for row in rows:
        starts = [rng.randrange(len(text) - chunk_chars) for _ in range(k)]
        chunks = [text[start : start + chunk_chars] for start in starts]
        joined.append(prompts.with_context(row["question"], chunks))
        separate.append([prompts.with_context(row["question"], [chunk]) for chunk in chunks])
    return joined, separate, [row["answer"] for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--questions", type=int, default=12)
    parser.add_argument("--k", type=int, default=3)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--chunk-chars", type=int, default=1000)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="float32")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(given.threads)

    from radit_job.model_ref import ModelRef
    from radit_job.models.base import Mixture
    from radit_job.models.ensemble import answer_mixtures
    from radit_job.models.loading import open_local_lm

    lm = open_local_lm(ModelRef("packaged", MODEL, dtype=given.dtype), n_threads=given.threads)
    joined, separate, references = conversations(given.questions, given.k, given.chunk_chars)
    mixtures = [Mixture(tuple(mine), (1 / given.k,) * given.k) for mine in separate]
    repeated = [reference for reference in references for _ in range(given.k)]
    limits = {"max_new_tokens": given.new_tokens, "batch_size": given.rows}
    ways: dict[str, Callable[[], list]] = {
        "joined": lambda: lm.answer(joined, references, **limits),
        "separate": lambda: lm.answer([turns for mine in separate for turns in mine], repeated, **limits),
        "ensemble": lambda: answer_mixtures(lm, mixtures, references, **limits),
    }
    lm.complete(joined[:1], max_new_tokens=2)  # the first is slower
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}  # on the clock, of the processor
    tokens: dict[str, tuple[int, int]] = {}
    for _ in range(given.rounds):
        for name, answer in ways.items():
            began_s, began_cpu_s = time.monotonic(), time.process_time()
            found = [item.completion for item in answer()]
            seconds[name].append((time.monotonic() - began_s, time.process_time() - began_cpu_s))
            tokens[name] = (sum(a.n_prompt_tokens for a in found), sum(a.n_completion_tokens for a in found))
    report(seconds, tokens, given.questions)


def report(seconds: dict[str, list[tuple[float, float]]], tokens: dict[str, tuple[int, int]], n_questions: int) -> None:
    """Medians over the rounds; the ratio is the median of the rounds' own ratios."""
    columns = ("s/question", "x joined", "CPU s/question", "x joined", "prompt tokens", "answer tokens")
    print(" " * 10 + "".join(f"{column:>16}" for column in columns))
    for name, mine in seconds.items():
        row = f"{name:10}"
        for clock in (0, 1):
            ratios = [one[clock] / other[clock] for one, other in zip(mine, seconds["joined"], strict=True)]
            row += (
                f"{statistics.median(one[clock] for one in mine) / n_questions:16.2f}{statistics.median(ratios):16.2f}"
            )
        n_prompt, n_new = tokens[name]
        print(f"{row}{n_prompt / n_questions:16.0f}{n_new / n_questions:16.1f}")


if __name__ == "__main__":
    main()
