"""The packaged language model behind a server of its own, beside the same model in this process.

    python -c "from radit_job.models.conversion import packaged_folder; print(packaged_folder('smollm2-135m-instruct'))"
    transformers serve --device cpu --dtype float32 --port 8765 FOLDER         # needs fastapi and uvicorn
    python benchmarks/served_model.py http://127.0.0.1:8765/v1 FOLDER [--prompts 16] [--concurrency 1 4] [--threads 2]

Both get the same prompts (stretches of the quickstart's handbook with a question) and answer greedily; give the server
as many threads as --threads (OMP_NUM_THREADS). The share of equal answers says whether both are asked the same thing.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

HANDBOOK = Path(__file__).parent.parent / "examples" / "quickstart" / "handbook.md"
MODEL = "smollm2-135m-instruct"


def conversations(n: int) -> list:
    """A stretch of the handbook of about 200 tokens, and a question about it."""
    from radit_job.records import Message

    rng = random.Random(7)
    text = HANDBOOK.read_text(encoding="utf-8")
    system = Message("system", "You are a helpful assistant that answers questions from the given documents.")
    found = []
    for _ in range(n):
        start = rng.randrange(len(text) - 900)
        context = text[start : start + 800]
        asked = f"Context information is below.\n---\n{context}\n---\nQuery: What does this part say?\nAnswer: "
        found.append([system, Message("user", asked)])
    return found


def timed(name: str, answers: Callable[[], list]) -> list:
    """Run once and print the row."""
    began_s = time.monotonic()
    found = answers()
    seconds = time.monotonic() - began_s
    n_prompt, n_new = sum(a.n_prompt_tokens for a in found), sum(a.n_completion_tokens for a in found)
    print(
        f"{name:24}{seconds:9.1f}{len(found) / seconds:11.2f}{n_prompt / seconds:15.0f}{n_new / seconds:12.1f}",
        end="",
        flush=True,
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("base_url", help="the server, up to and with its /v1")
    parser.add_argument("name", help="the name by which it knows the packaged model")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(given.threads)

    from radit_job.model_ref import ModelRef
    from radit_job.models.ledger import Ledger
    from radit_job.models.loading import open_local_lm
    from radit_job.models.openai_api.lm import OpenAILM

    asked = conversations(given.prompts)
    local = open_local_lm(ModelRef("packaged", MODEL, dtype="float32"), n_threads=given.threads)
    print(f"{'':24}{'seconds':>9}{'answers/s':>11}{'prompt tok/s':>15}{'new tok/s':>12}{'equal':>9}{'kept':>7}")
    local.complete(asked[:1], max_new_tokens=2)  # the first is slower
    found = {}
    for batch_size in (1, 8):

        def in_process(batch_size: int = batch_size) -> list:
            return local.complete(asked, max_new_tokens=given.new_tokens, batch_size=batch_size)

        found[batch_size] = timed(f"in process, batch {batch_size}", in_process)
        print(f"{_equal(found[batch_size], found[1]):>9.0%}")
    for concurrency in given.concurrency:
        ref = ModelRef("openai", given.name, base_url=given.base_url, tokenizer=MODEL, concurrency=concurrency)
        ledger = Ledger()
        served = OpenAILM.open(ref, ledger)
        served.n_prompt_tokens(asked[0])  # opens the tokenizer
        served.complete([asked[0]], max_new_tokens=2)

        def behind(served: OpenAILM = served) -> list:
            return served.complete(asked, max_new_tokens=given.new_tokens)

        answers = timed(f"served, {concurrency} at once", behind)
        usage = ledger.spent[given.name].usage
        print(f"{_equal(answers, found[1]):>9.0%}{usage.n_calls - 1:>7}")


def _equal(some: list, others: list) -> float:
    return sum(a.text == b.text for a, b in zip(some, others, strict=True)) / len(some)


if __name__ == "__main__":
    main()
