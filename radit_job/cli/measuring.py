"""How long this run's chunks, prompts and questions are, for the estimate of its cost. Takes time, and spends nothing.

It builds the prompts that the stages build, with nothing filled in, and counts their tokens as the models do.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from radit_job.errors import InputError
from radit_job.pipeline.estimate import Row, estimate, is_in_pairs
from radit_job.pipeline.measures import Limits, Measures
from radit_job.pipeline.served import served_uses
from radit_job.pipeline.spending import prices_of

if TYPE_CHECKING:
    from radit_job.config.loading import LoadedConfig
    from radit_job.config.schema import Config
    from radit_job.models.base import Conversation
    from radit_job.models.openai_api.tokens import ServedTokens
    from radit_job.pipeline.planner import Planner
    from radit_job.rag.pair_blocks import PairPlan
    from radit_job.store import ObjectStore

SAMPLED_CHUNKS = 300  # whose tokens are counted for each model: their mean is steady by then
COMMITTED = ("chunks", "questions")  # artifacts that are read where they are there


def expected_rows(
    loaded: LoadedConfig, store: ObjectStore, *, only_if_cut: bool = False
) -> tuple[list[Row], Measures] | None:
    """What is yet to be spent, by stage, and what that was measured on; None where no served model is called.

    `only_if_cut`: None, too, where the documents would have to be cut first.
    """
    from radit_job.cli.options import identity_of
    from radit_job.models.cost import Price, Prices
    from radit_job.pipeline.planner import Planner
    from radit_job.pipeline.runs import load_run

    config = loaded.config
    if not served_uses(config):
        return None
    planner = Planner(loaded, store, identity_of, load_run(store, config.name))
    decisions = list(planner.plan())
    cached = {decision.stage for decision in decisions if decision.action == "cached"}
    skipped = {decision.stage for decision in decisions if decision.action == "skipped"}
    uses = [use for use in served_uses(config) if use.stage not in cached | skipped]
    if not uses or (only_if_cut and "chunks" not in planner.artifacts):
        return None
    with tempfile.TemporaryDirectory(prefix="radit-") as folder:
        measures = _measures(loaded, store, planner, Path(folder))
    prices = Prices({name: Price(**plain) for name, plain in prices_of(config).items()})
    return estimate(config, measures, prices, cached | skipped), measures


def _measures(loaded: LoadedConfig, store: ObjectStore, planner: Planner, folder: Path) -> Measures:
    from radit_job.models.openai_api.tokens import ServedTokens
    from radit_job.rag.pair_blocks import plan_pairs

    config = loaded.config
    chunk_file = _chunk_file(loaded, store, planner, folder)
    questions = config.questions
    plan = plan_pairs(chunk_file, per_chunk=questions.per_chunk, limit=questions.limit, seed=config.seed)
    served = {use.role: use.model.ref() for use in served_uses(config)}
    counters = {role: ServedTokens(ref) for role, ref in served.items()}
    texts = _sample(chunk_file, plan)
    chunk_tokens = {role: fmean(map(counter.n_text, texts)) for role, counter in counters.items()}
    n_chunks, n_tokens = _all_chunks(chunk_file, counters.get("embedder"))
    pairs = _pairs(loaded, store, planner, folder)
    known = [] if pairs is None else pairs[: questions.limit]
    return Measures(
        n_chunks=n_chunks,
        n_askable=plan.n_chunks,
        all_chunk_tokens=n_tokens,
        chunk_tokens=chunk_tokens,
        frame_tokens=dict(_frames(config, counters)),
        limits=_limits(),
        n_questions=None if pairs is None else len(known),
        question_tokens=_means(counters, [question for question, _ in known]),
        reference_tokens=_means(counters, [answer for _, answer in known]),
        margins={role: counter.margin for role, counter in counters.items()},
    )


def _means(counters: Mapping[str, ServedTokens], texts: Sequence[str]) -> dict[str, float]:
    sampled = texts[:: max(1, len(texts) // SAMPLED_CHUNKS)]
    return {role: fmean(map(counter.n_text, sampled)) for role, counter in counters.items() if sampled}


def _chunk_file(loaded: LoadedConfig, store: ObjectStore, planner: Planner, folder: Path) -> Path:
    """The committed chunks, or else what `ingest` makes of the documents now."""
    committed = _fetched(store, planner, "chunks", folder)
    if committed is not None:
        return committed / "chunks.jsonl"
    from radit_job.config.slices import IngestSlice
    from radit_job.pipeline.sources import DOCUMENTS, find_sources
    from radit_job.stages import ingest

    corpus = find_sources(loaded.config, loaded.folder)[0]
    for file in corpus.files:
        link = folder / "corpus" / DOCUMENTS / file.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file.path)
    out, scratch = folder / "out", folder / "scratch"
    out.mkdir()
    scratch.mkdir()
    ingest.run(IngestSlice.of(loaded.config), corpus=folder / "corpus", out=out, scratch=scratch)
    return out / "chunks" / "chunks.jsonl"


def _fetched(store: ObjectStore, planner: Planner, artifact: str, folder: Path) -> Path | None:
    from radit_job.store.artifacts import fetch, find

    reference = planner.artifacts.get(artifact)
    manifest = find(store, reference.stage, reference.key) if reference else None
    if manifest is None:
        return None
    target = folder / f"fetched-{artifact}"
    target.mkdir()
    return fetch(store, manifest, artifact, target)


def _sample(chunk_file: Path, plan: PairPlan) -> list[str]:
    """Texts of chunks that can be asked about; of any, where there are none."""
    from radit_job.records import Chunk, read_rows

    wanted = sorted({position for block in plan.blocks for position in block.positions})
    chosen = set(wanted[:: max(1, len(wanted) // SAMPLED_CHUNKS)])
    texts = [chunk.text for number, chunk in enumerate(read_rows(chunk_file, Chunk)) if number in chosen or not chosen]
    return texts or [""]


def _all_chunks(chunk_file: Path, embedder: ServedTokens | None) -> tuple[int, int]:
    """How many chunks there are, and how many tokens they have together for a served embedder."""
    from radit_job.records import Chunk, read_rows

    n_chunks = n_tokens = 0
    for chunk in read_rows(chunk_file, Chunk):
        n_chunks += 1
        n_tokens += embedder.n_text(chunk.text) if embedder is not None else 0
    if not n_chunks:
        raise InputError("no readable document in corpus", todo="check corpus.paths")
    return n_chunks, n_tokens


def _pairs(loaded: LoadedConfig, store: ObjectStore, planner: Planner, folder: Path) -> list[tuple[str, str]] | None:
    """The questions and answers that are there already: written ones, or the user's file's."""
    from radit_job.pipeline.sources import find_sources
    from radit_job.rag.pair_checks import usable_pairs
    from radit_job.rag.pair_files import read_pairs
    from radit_job.records import Question, read_blocks

    written = _fetched(store, planner, "questions", folder)
    if written is not None:
        return [(row.question, row.answer) for row in read_blocks(written, "*/questions.jsonl", Question)]
    for source in find_sources(loaded.config, loaded.folder):
        if source.artifact == "question_file":
            usable, _ = usable_pairs(read_pairs(source.files[0].path), loaded.config.questions.max_answer_words)
            return [(pair.question, pair.answer) for pair in usable]
    return None


def _frames(config: Config, counters: Mapping[str, ServedTokens]) -> Iterator[tuple[tuple[str, str], float]]:
    """Tokens of each kind of prompt without what is filled in."""
    for role, frames in (
        ("question_writer", _writing_frames),
        ("lm", _answering_frames),
        ("judge", _judging_frames),
    ):
        if role in counters:
            for kind, conversation in frames(config):
                yield (role, kind), float(counters[role].n_prompt(conversation))


def _writing_frames(config: Config) -> Iterator[tuple[str, Conversation]]:
    from radit_job.rag.pair_answers import WrittenPair
    from radit_job.rag.pair_writing import checking_prompt, writing_prompt
    from radit_job.rag.question_writing import question_prompt

    if is_in_pairs(config):
        yield "write", writing_prompt("", 1)
        yield "check", checking_prompt("", WrittenPair("", ""))
    else:
        yield "sentence", question_prompt("")


def _answering_frames(config: Config) -> Iterator[tuple[str, Conversation]]:
    from radit_job.latency.task_prompts import rewriting
    from radit_job.rag.answering import builder_of
    from radit_job.rag.prompts import Prompts
    from radit_job.records import CLOSED_BOOK_ARMS, Message, Question

    retrieval = config.retrieval
    prompts = Prompts(retrieval.system_message, retrieval.template, retrieval.closed_book_template)
    shots = [Question("", "", "", "", (), "file")] * config.answer.few_shot_examples
    for arm in config.evaluate.arms:
        n_chunks = 0 if arm in CLOSED_BOOK_ARMS else 1 if retrieval.context == "separate" else retrieval.k
        yield arm, builder_of(arm, prompts, shots)("", [""] * n_chunks)
    if config.benchmark.enabled:
        n_chunks = 1 if retrieval.context == "separate" else retrieval.k
        yield "query", prompts.with_context("", [""] * n_chunks)
        yield "rewrite", rewriting("", config.benchmark.rewrites)
    yield "candidate", prompts.with_context("", [""])
    yield "example", [*prompts.with_context("", [""] * retrieval.k), Message("assistant", "")]
    yield "bare example", [*prompts.closed_book(""), Message("assistant", "")]


def _judging_frames(config: Config) -> Iterator[tuple[str, Conversation]]:
    from radit_job.rag.judging import METRICS, Judged, preference_prompt

    nothing = Judged("", "", " ")  # without any reference the prompt would say that there is none
    for metric in config.evaluate.metrics:
        if metric in METRICS:
            yield metric, METRICS[metric][0](nothing)
        elif metric == "preference":
            yield metric, preference_prompt(nothing, nothing)


def _limits() -> Limits:
    from radit_job.rag.pair_blocks import CHUNKS_PER_QUESTION
    from radit_job.rag.pair_writing import CHECK_TOKENS, TOKENS_PER_PAIR
    from radit_job.rag.question_blocks import SENTENCES_PER_QUESTION
    from radit_job.rag.question_writing import MAX_NEW_TOKENS, N_SAMPLES

    return Limits(
        pair=TOKENS_PER_PAIR,
        check=CHECK_TOKENS,
        sentence_question=MAX_NEW_TOKENS,
        n_samples=N_SAMPLES,
        chunks_per_question=CHUNKS_PER_QUESTION,
        sentences_per_question=SENTENCES_PER_QUESTION,
    )
