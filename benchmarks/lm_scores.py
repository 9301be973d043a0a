"""How likely answers are after their candidate chunks, beside plain transformers: `python benchmarks/lm_scores.py`.

    python benchmarks/lm_scores.py [--document FILE] [--questions FILE] [--chunk-tokens 256] [--n 32] [--candidates 8]

The pairs are those of the stage `score`: each question with each of its nearest chunks. The peer is one forward pass of
prompt and answer a pair, as one would write it. The others are HuggingFaceLM.score, without what several pairs
share, and the way of the stage `answer`: prompts first, then answers. All in one run, in turn; the largest difference
from the peer in nats a token says whether all give the same. CPU seconds are what to look at on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, median
from typing import Any

QUICKSTART = Path(__file__).parent.parent / "examples" / "quickstart"
MODEL, EMBEDDER = "smollm2-135m-instruct", "all-minilm-l6-v2"
SYSTEM = "You are a helpful assistant that answers questions from the given documents."
TEMPLATE = "Context information is below.\n---------------------\n{context}\n---------------------\n" + (
    "Given the context information and not prior knowledge, answer the query.\nQuery: {question}\nAnswer: "
)

PEER = "plain transformers, one at a time"

Score = Callable[[], list[Any]]


def make_pairs(args: argparse.Namespace) -> tuple[list, list[str], int]:
    """The prompts and the answers of n questions with each of their candidates, and how many chunks there are."""
    from radit_job.model_ref import ModelRef
    from radit_job.models.loading import open_embedder
    from radit_job.models.token_counter import open_token_counter
    from radit_job.rag.chunking import Chunker
    from radit_job.rag.documents import Document, read_documents
    from radit_job.rag.pair_files import read_pairs
    from radit_job.rag.prompts import Prompts
    from radit_job.rag.retrieval import search

    ref = ModelRef("packaged", EMBEDDER)
    chunker = Chunker(args.chunk_tokens, args.chunk_tokens // 8, open_token_counter(ref))
    documents = [item for item in read_documents(args.document, args.document.name) if isinstance(item, Document)]
    texts = [chunk.text for document in documents for chunk in chunker.cut(document)]
    pairs = list(read_pairs(args.questions))[: args.n]
    embedder = open_embedder(ref)
    found = search(
        embedder.embed_documents(texts),
        embedder.embed_queries([pair.question for pair in pairs]),
        k=min(args.candidates, len(texts)),
    )
    prompts = Prompts(SYSTEM, TEMPLATE, "{question}")
    conversations = [
        prompts.with_context(pair.question, [texts[row]])
        for pair, rows in zip(pairs, found.rows.tolist(), strict=True)
        for row in rows
    ]
    return conversations, [pair.answer for pair in pairs for _ in range(found.rows.shape[1])], len(texts)


def one_at_a_time(lm: Any, conversations: list, answers: list[str]) -> list[Any]:
    """No cache, no batch, no padding; logits at the answer's places only, as the others have them."""
    import torch

    from radit_job.models.base import AnswerScore

    scores = []
    for conversation, answer in zip(conversations, answers, strict=True):
        prompt, target = lm.chat.prompt_ids(conversation), lm.chat.answer_ids(answer)
        with torch.inference_mode():
            ids = torch.tensor([prompt + target], device=lm.model.device)
            logits = lm.model(ids, use_cache=False, logits_to_keep=len(target) + 1).logits
        nats = logits[0, :-1].double().log_softmax(-1)
        picked = nats.gather(1, torch.tensor(target, device=nats.device)[:, None])
        scores.append(AnswerScore(float(picked.sum()), len(target)))
    return scores


def ways(lm: Any, conversations: list, answers: list[str], batch_size: int) -> dict[str, Score]:
    """By name, how the pairs are scored."""
    from radit_job.models import pair_scoring, shared_prefixes
    from radit_job.models.shared_prefixes import prefills

    def unshared() -> list[Any]:
        kept, shared_prefixes.MIN_SAVED_TOKENS = shared_prefixes.MIN_SAVED_TOKENS, 10**9
        try:
            return lm.score(conversations, answers, batch_size=batch_size)
        finally:
            shared_prefixes.MIN_SAVED_TOKENS = kept

    def prompts_first() -> list[Any]:
        prompts = [lm.chat.prompt_ids(conversation) for conversation in conversations]
        targets = [lm.chat.answer_ids(answer) for answer in answers]
        scores = {}
        for rows, prefill in prefills(lm.model, prompts, batch_size):
            found = pair_scoring.score_behind(lm.model, prefill, [targets[row] for row in rows])
            scores |= dict(zip(rows, found, strict=True))
        return [scores[row] for row in range(len(prompts))]

    return {
        PEER: lambda: one_at_a_time(lm, conversations, answers),
        "HuggingFaceLM.score": lambda: lm.score(conversations, answers, batch_size=batch_size),
        "... each chunk for each question": unshared,
        "... prompts first, then answers": prompts_first,
    }


def print_json(
    seconds: dict[str, list[float]], scores: dict[str, list[Any]], shape: str, lm: Any, n_tokens_each: float
) -> None:
    """What side_by_side.show prints; the share of the limit counts the peer's work, which ours in part saves."""
    n_head = lm.model.get_output_embeddings().weight.numel()
    n_body = sum(p.numel() for p in lm.model.parameters()) - n_head
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    rows = []
    for name, took in seconds.items():
        ratios = [theirs / mine for theirs, mine in zip(seconds[PEER], took, strict=True)]
        off = max(abs(a.nats_per_token - b.nats_per_token) for a, b in zip(scores[name], scores[PEER], strict=True))
        facts = {
            "flop": 2 * n_body * n_tokens_each * len(scores[name]),
            "dtype": "bfloat16" if name.endswith("bfloat16") else "float32",
        }
        rows.append(
            {
                "way": name,
                "ratio": median(ratios),
                "low": min(ratios),
                "high": max(ratios),
                "seconds": median(took),
                "peak_gib": peak_gib,
                "check": f"{shape}, {off:.1e} nats a token off at most",
                "facts": facts,
            }
        )
    print(json.dumps(rows), flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--document", type=Path, default=QUICKSTART / "handbook.md")
    options.add_argument("--questions", type=Path, default=QUICKSTART / "questions.jsonl")
    options.add_argument("--chunk-tokens", type=int, default=64)
    options.add_argument("--n", type=int, default=32, help="questions")
    options.add_argument("--candidates", type=int, default=8)
    options.add_argument("--batch-size", type=int, default=8)
    options.add_argument("--dtype", default="float32", choices=["auto", "float32", "bfloat16"])
    options.add_argument("--threads", type=int, default=os.cpu_count())
    options.add_argument("--repetitions", type=int, default=3)
    options.add_argument("--bfloat16", action="store_true", help="HuggingFaceLM.score in bfloat16, too")
    options.add_argument("--json", action="store_true", help="HuggingFaceLM.score only, as one JSON line")
    args = options.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)

    from radit_job.model_ref import ModelRef
    from radit_job.models.loading import open_local_lm

    conversations, answers, n_chunks = make_pairs(args)
    lm = open_local_lm(ModelRef("packaged", MODEL, dtype=args.dtype), n_threads=args.threads)
    n_prompt, n_answer = (
        fmean(map(*of)) for of in ((lm.n_prompt_tokens, conversations), (lm.n_answer_tokens, answers))
    )
    shape = (
        f"{len(answers)} pairs of {args.n} questions and {n_chunks} chunks, {n_prompt:.0f} + {n_answer:.0f} tokens; "
        f"{args.dtype}, batches of {args.batch_size}, {args.threads} threads; median of {args.repetitions}"
    )
    candidates = ways(lm, conversations, answers, args.batch_size)
    lm.score(conversations[:2], answers[:2])  # the first is slower
    if args.bfloat16:
        half = open_local_lm(ModelRef("packaged", MODEL, dtype="bfloat16"), n_threads=args.threads)
        half.score(conversations[:2], answers[:2])
        candidates["radit-job bfloat16"] = lambda: half.score(conversations, answers, batch_size=args.batch_size)
    if args.json:
        kept = {
            PEER: candidates[PEER],
            "radit-job float32": candidates["HuggingFaceLM.score"],
            "radit-job bfloat16": candidates.get("radit-job bfloat16"),
        }
        candidates = {name: score for name, score in kept.items() if score is not None}
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    cpu_s: dict[str, list[float]] = {name: [] for name in candidates}
    scores: dict[str, list[Any]] = {}
    for _ in range(args.repetitions):
        for name, score in candidates.items():
            start_s, start_cpu_s = time.perf_counter(), time.process_time()
            scores[name] = score()
            seconds[name].append(time.perf_counter() - start_s)
            cpu_s[name].append(time.process_time() - start_cpu_s)
    if args.json:
        print_json(
            seconds, scores, f"{len(answers)} pairs of {n_prompt:.0f} + {n_answer:.0f} tokens", lm, n_prompt + n_answer
        )
        return
    print(shape)
    print(f"{'':37}{'pairs/s':>9}{'spread':>14}{'times':>8}{'CPU s/pair':>12}{'times':>8}{'nats/token off':>16}")
    for name, took in seconds.items():
        rate = [len(answers) / second for second in took]
        off = max(abs(a.nats_per_token - b.nats_per_token) for a, b in zip(scores[name], scores[PEER], strict=True))
        spread = f"{min(rate):.2f}-{max(rate):.2f}"
        times, cpu_times = median(seconds[PEER]) / median(took), median(cpu_s[PEER]) / median(cpu_s[name])
        each_s = median(cpu_s[name]) / len(answers)
        print(f"{name:37}{median(rate):9.2f}{spread:>14}{times:8.2f}{each_s:12.3f}{cpu_times:8.2f}{off:16.1e}")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB, all together")


if __name__ == "__main__":
    main()
