"""benchmark: how long one query takes, split into its parts, beside what the machine allows."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radit_job import observe
from radit_job.config.slices import BenchmarkSlice
from radit_job.errors import InputError
from radit_job.latency.base import Engine
from radit_job.latency.deferred_books import DeferredBooks
from radit_job.latency.finding import Finder
from radit_job.latency.mistakes import answers_in_the_corpus, chunks_twice, prompt_mistakes, sampling_without_sampling
from radit_job.latency.reading import readings
from radit_job.latency.rounds import Group, Plan, n_asked, run_rounds
from radit_job.latency.summary import FloorOf, calls, summarize, timings
from radit_job.latency.task_prompts import TaskPrompts
from radit_job.models.base import AnsweringLM
from radit_job.models.ledger import Ledger
from radit_job.models.loading import model_folder, open_embedder, open_generator, open_local_lm
from radit_job.observe.usage import usage_since
from radit_job.rag.answering import ArmPrompts
from radit_job.rag.prompts import Prompts
from radit_job.rag.retrieval import check_k
from radit_job.rag.vector_index import VectorIndex
from radit_job.records import Chunk, Question, read_blocks, read_rows, write_rows

if TYPE_CHECKING:
    from radit_job.models.huggingface import HuggingFaceLM

LATENCY_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of the rounds, and what is known of the model and the machine."""

    groups: list[Group]
    floor_of: FloorOf
    model: dict[str, Any]
    machine: dict[str, Any] | None
    warnings: list[str]


def run(
    config: BenchmarkSlice,
    *,
    questions: Path,
    chunks: Path,
    embeddings: Path,
    out: Path,
    scratch: Path,
    ledger: Ledger | None = None,
) -> dict[str, float]:
    """Read the questions, `chunks` and `embeddings`; write `latency`.

    Nothing is kept in `scratch`: times of two processes are no figures of one. What a paid service answers is paid for
    each time, and stands in the ledger's books alone.
    """
    pairs = list(read_blocks(questions, "*/questions.jsonl", Question))
    plan = _plan(config, sorted({pair.question for pair in pairs}))
    books = DeferredBooks(ledger or Ledger())
    finder = _finder(config, chunks, embeddings, books)
    measure = _served if config.lm.provider == "openai" else _local
    measured = measure(config, plan, finder, books)
    rows = summarize(measured.groups, measured.floor_of, seed=config.seed)
    warnings = [*_of_corpus(pairs, finder), *measured.warnings]
    for warning in warnings:
        observe.warn(warning)
    latency = {
        "format": LATENCY_FORMAT,
        "measured_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "model": measured.model,
        "embedder": {"name": config.embedder.name, "provider": config.embedder.provider},
        "machine": measured.machine,
        "n_chunks": len(finder.texts),
        **_settings(config),
        "peak_memory_gib": usage_since(0.0)["peak_memory_gib"],
        "rows": rows,
        "readings": readings(rows, k=config.retrieval.k, rewrites=config.benchmark.rewrites),
        "warnings": warnings,
    }
    _write(out / "latency", latency, measured.groups)
    return {"n_timed": sum(row["n"] for row in rows), "n_failed": sum(row["n_failed"] for row in rows)}


def _write(folder: Path, latency: dict[str, Any], groups: Sequence[Group]) -> None:
    write_rows(folder / "timings.jsonl", timings(groups))
    write_rows(folder / "calls.jsonl", calls(groups))
    text = json.dumps(latency, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / "latency.json").write_text(text + "\n", encoding="utf-8")


def _of_corpus(pairs: Sequence[Question], finder: Finder) -> list[str]:
    """What is wrong with what was indexed."""
    chunks = zip(finder.index.chunk_ids, finder.texts, strict=True)
    leaked = answers_in_the_corpus([(pair.question, pair.answer) for pair in pairs], chunks)
    return [warning for warning in (leaked, chunks_twice(finder.texts)) if warning is not None]


def _settings(config: BenchmarkSlice) -> dict[str, Any]:
    benchmark, retrieval = config.benchmark, config.retrieval
    return {
        "k": retrieval.k,
        "context": retrieval.context,
        "max_new_tokens": config.answer.max_new_tokens,
        "queries": benchmark.queries,
        "rewrites": benchmark.rewrites,
        "warmup": benchmark.warmup,
        "repetitions": benchmark.repetitions,
    }


def _plan(config: BenchmarkSlice, asked: Sequence[str]) -> Plan:
    """Questions drawn with the seed; as many clients as there are questions, for equal prompts would be read once."""
    benchmark = config.benchmark
    concurrency = [n for n in benchmark.concurrency if n <= len(asked)]
    if not concurrency:
        raise InputError(
            f"there are {len(asked)} questions for {benchmark.concurrency[0]} clients or more",
            where="benchmark.concurrency",
            todo="Name a smaller number of clients, or give more questions.",
        )
    if left_out := benchmark.concurrency[len(concurrency) :]:
        observe.warn(
            f"there are {len(asked)} questions, one for each client, so {', '.join(map(str, left_out))} are left out"
        )
    order = list(asked)
    random.Random(f"{config.seed}/benchmark").shuffle(order)
    most = max(n_asked(benchmark.queries, n, len(order)) for n in concurrency)
    return Plan(order[:most], benchmark.queries, concurrency, benchmark.warmup, benchmark.repetitions)


def _finder(config: BenchmarkSlice, chunks: Path, embeddings: Path, books: DeferredBooks) -> Finder:
    index = VectorIndex.open(embeddings)
    check_k(config.retrieval.k, len(index.chunk_ids))
    texts = {chunk.chunk_id: chunk.text for chunk in read_rows(chunks / "chunks.jsonl", Chunk)}
    if missing := [chunk_id for chunk_id in index.chunk_ids if chunk_id not in texts]:
        raise InputError(
            f"the index names chunks that are not here, such as {missing[0]}",
            where=str(chunks / "chunks.jsonl"),
            todo="Index and chunks must come from the same ingest.",
        )
    embedder = open_embedder(config.embedder.ref(), books)
    return Finder(index, [texts[chunk_id] for chunk_id in index.chunk_ids], embedder, config.retrieval.k)


def _task_prompts(config: BenchmarkSlice, finder: Finder, lm: AnsweringLM) -> TaskPrompts:
    """The prompts of the arm `base`."""
    retrieval = config.retrieval
    prompts = Prompts(retrieval.system_message, retrieval.template, retrieval.closed_book_template)
    arm = ArmPrompts(
        lm,
        "base",
        prompts.with_context,
        max_new_tokens=config.answer.max_new_tokens,
        context=retrieval.context,
        retriever_temperature=retrieval.temperature,
        measures_references=False,
    )
    return TaskPrompts(finder, arm, config.benchmark.rewrites)


def _served(config: BenchmarkSlice, plan: Plan, finder: Finder, books: DeferredBooks) -> Measured:
    """A server's machine is not here: nothing is known of what it allows."""
    from radit_job.latency.served_engine import ServedEngine

    ref = config.lm.ref()
    prompts = _task_prompts(config, finder, open_generator(ref, books))
    engine = ServedEngine(ref, prompts, books, max_new_tokens=config.answer.max_new_tokens)
    groups = run_rounds([engine], plan, books.settle)
    model = {"dtype": None, "n_weights": None, "context_tokens": config.lm.context_tokens}
    return Measured(groups, lambda group: None, {**_name(config), **model}, None, [])


def _local(config: BenchmarkSlice, plan: Plan, finder: Finder, books: DeferredBooks) -> Measured:
    from radit_job.latency.machine import Limits

    lm = open_local_lm(config.lm.ref())
    sampling = sampling_without_sampling(lm.model.generation_config.to_dict())  # before a baseline sets it aside
    engines = _local_engines(config, finder, lm)
    limits = Limits(lm)
    groups = run_rounds(engines, plan, books.settle)
    limits.measure()
    model = {
        "dtype": str(lm.model.dtype).removeprefix("torch."),
        "n_weights": lm.model.num_parameters(),
        "context_tokens": lm.context_tokens,
    }
    warnings = [*_of_prompts(groups, lm), *([sampling] if sampling else [])]
    return Measured(groups, limits.floor_of, {**_name(config), **model}, limits.to_json(), warnings)


def _local_engines(config: BenchmarkSlice, finder: Finder, lm: HuggingFaceLM) -> list[Engine]:
    from radit_job.latency.own_engine import OwnEngine

    limit, rewrites = config.answer.max_new_tokens, config.benchmark.rewrites
    prompts = _task_prompts(config, finder, lm)
    own = OwnEngine(lm, prompts, max_new_tokens=limit, mixes=config.retrieval.context == "ensemble")
    if not config.benchmark.baseline:
        return [own]
    from radit_job.latency.llamaindex_engine import LlamaIndexEngine

    encoder = None if config.embedder.provider == "openai" else model_folder(config.embedder.ref())
    return [own, LlamaIndexEngine(lm, finder, encoder, max_new_tokens=limit, rewrites=rewrites)]


def _name(config: BenchmarkSlice) -> dict[str, Any]:
    return {"name": config.lm.name, "provider": config.lm.provider}


def _of_prompts(groups: Sequence[Group], lm: HuggingFaceLM) -> list[str]:
    """What is wrong with some prompt; each mistake once, and whose it is."""
    bos, ends = lm.tokenizer.bos_token, [lm.tokenizer.convert_ids_to_tokens(token) for token in lm.chat.end_ids]
    found: dict[str, str] = {}  # mistake -> the first engine
    for group in groups:
        for timed in group.timed:
            for call in timed.calls:
                for mistake in prompt_mistakes(call.prompt, bos=bos, ends=ends):
                    found.setdefault(mistake, group.engine)
    return [f"{mistake} (seen in a prompt of {engine})" for mistake, engine in found.items()]
