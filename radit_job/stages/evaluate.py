"""evaluate: metrics of each answer, means with intervals, paired comparisons."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np

from radit_job import observe
from radit_job.config.models import Model
from radit_job.config.schema import JUDGED_METRICS
from radit_job.config.slices import EvaluateSlice
from radit_job.errors import InputError
from radit_job.models.ledger import Ledger
from radit_job.rag import metrics
from radit_job.rag.comparison import compare, summarize
from radit_job.rag.judged_scores import Repeats, judged_scores
from radit_job.rag.judging import Judge
from radit_job.records import NEED_CONTEXT, Chunk, Prediction, Score, read_blocks, read_rows, write_rows

RESULTS_FORMAT = 1
RETRIEVAL_METRICS = ("recall_at_k", "mrr")
# Arms with the same retriever: the first one present speaks for it.
UNTUNED_RETRIEVER_ARMS = ("base", "few_shot", "lm")
TUNED_RETRIEVER_ARMS = ("retriever", "dual")


def run(
    config: EvaluateSlice, *, predictions: Path, chunks: Path, out: Path, scratch: Path, ledger: Ledger | None = None
) -> dict[str, float]:
    """Read `predictions`; write `scores` (one row per answer and metric) and `results` (the tables)."""
    rows = list(read_blocks(predictions, "*.jsonl", Prediction))
    if not rows:
        raise InputError("there are no answers to evaluate", where=str(predictions))
    answer_metrics = [name for name in config.metrics if name not in RETRIEVAL_METRICS] + ["answer_words"]
    judged, judge = _judge(config, rows, chunks, ledger)
    scores: list[Score] = []
    for name in answer_metrics:
        scores += judged[name] if name in judged else _answer_scores(config, name, rows, ledger)
    retrieval_scores = list(_retrieval_scores(config, rows))
    scores += retrieval_scores
    arms = list(dict.fromkeys(row.arm for row in rows))
    splits = ["val", "train"]
    scores.sort(
        key=lambda score: (arms.index(score.arm), splits.index(score.split))
    )  # stable: metrics keep their order
    write_rows(out / "scores" / "scores.jsonl", scores)
    samples, seed = config.bootstrap_samples, config.seed
    pairs = compare(scores, answer_metrics, samples=samples, seed=seed)
    results = {
        "format": RESULTS_FORMAT,
        "arms": arms,
        "rows": summarize(scores, samples=samples, seed=seed),
        "pairs": pairs + _retriever_pairs(retrieval_scores, samples=samples, seed=seed),
        "judge": judge,
    }
    (out / "results").mkdir()
    (out / "results" / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    n_failed = sum(score.value is None for score in scores)
    return {"n_predictions": len(rows), "n_scores": len(scores), "n_failed": n_failed}


def _answer_scores(
    config: EvaluateSlice, metric: str, rows: Sequence[Prediction], ledger: Ledger | None
) -> Iterator[Score]:
    """One score per answer; an answer that failed fails in every metric."""
    answered = [row for row in rows if row.error is None]
    yield from (_score(row, metric, None, row.error) for row in rows if row.error is not None)
    if metric in metrics.TEXT_METRICS:
        measure = metrics.TEXT_METRICS[metric]
        yield from (_score(row, metric, measure(row.answer, row.reference)) for row in answered)
    elif metric == "answer_nats_per_token":
        measured = [row for row in answered if row.answer_nats_per_token is not None]
        yield from (_score(row, metric, row.answer_nats_per_token) for row in measured)
    elif metric == "semantic_similarity":
        yield from _semantic_similarity(config.embedder, answered, ledger)


def _retrieval_scores(config: EvaluateSlice, rows: Sequence[Prediction]) -> Iterator[Score]:
    """Recall and reciprocal rank of the questions whose gold chunk is known; they do not depend on the answer.

    Each retriever's are reported once, under one of its arms.
    """
    arms = {arm for arm in _speakers({row.arm for row in rows}) if arm is not None}
    known = [(row, row.gold_rank) for row in rows if row.arm in arms and row.gold_rank is not None]
    if "recall_at_k" in config.metrics:
        for k in sorted({*config.recall_at, config.k}):
            yield from (_score(row, f"recall_at_{k}", metrics.recall_at(k, rank)) for row, rank in known)
    if "mrr" in config.metrics:
        yield from (_score(row, "mrr", metrics.reciprocal_rank(rank)) for row, rank in known)


def _speakers(present: Set[str]) -> tuple[str | None, str | None]:
    """The arms that speak for the tuned retriever and for the untuned one; None where no arm uses it."""
    tuned = next((arm for arm in TUNED_RETRIEVER_ARMS if arm in present), None)
    return tuned, next((arm for arm in UNTUNED_RETRIEVER_ARMS if arm in present), None)


def _retriever_pairs(scores: Sequence[Score], *, samples: int, seed: int) -> list[dict[str, Any]]:
    """The tuned retriever against the untuned one, in each metric of retrieval."""
    tuned, untuned = _speakers({score.arm for score in scores})
    if tuned is None or untuned is None:
        return []
    metrics = dict.fromkeys(score.metric for score in scores)
    return compare(scores, metrics, samples=samples, seed=seed, pairs=[(tuned, untuned)])


def _semantic_similarity(model: Model, rows: Sequence[Prediction], ledger: Ledger | None) -> Iterator[Score]:
    """Cosine of the embedder's vectors of answer and reference."""
    from radit_job.models.loading import open_embedder  # late: it imports torch, which the other metrics do not need

    texts = sorted({text for row in rows for text in (row.answer, row.reference)})
    embedder = open_embedder(model.ref(), ledger)
    with observe.progress("embedding answers", total=len(texts), unit="texts") as bar:
        # An answer may be empty, and OpenAI refuses an empty text.
        vectors = embedder.embed_documents([text or " " for text in texts], on_done=bar.advance)  # rows of length 1
    row_of = {text: row for row, text in enumerate(texts)}
    for row in rows:
        cosine = float(np.dot(vectors[row_of[row.answer]], vectors[row_of[row.reference]]))
        yield _score(row, "semantic_similarity", cosine)


def _judge(
    config: EvaluateSlice, rows: Sequence[Prediction], chunks: Path, ledger: Ledger | None
) -> tuple[dict[str, list[Score]], dict[str, Any] | None]:
    """The judged metrics' scores, and what results.json says of the judge; None without one."""
    judged = [name for name in config.metrics if name in JUDGED_METRICS]
    if config.judge is None or not judged:
        return {}, None
    from radit_job.models.loading import open_generator
    from radit_job.models.openai_api.lm import OpenAILM

    model = open_generator(config.judge.ref(), ledger)
    # A local model is greedy: it would say the same again.
    repeats = Repeats(model, config.judge_repeats, config.seed) if isinstance(model, OpenAILM) else None
    texts = _context_texts(rows, chunks) if NEED_CONTEXT & set(judged) else {}
    scores, section = judged_scores(Judge(model, config.judge_max_tokens), rows, texts, judged, repeats)
    for metric, asked in section["asked"].items():
        if asked["n_failed"]:
            commonest = next(iter(asked["reasons"]))
            observe.warn(
                f"{metric}: {asked['n_failed']} of {asked['n']} judgements failed, most often: {commonest}", **asked
            )
    return scores, {"model": config.judge.name, "provider": config.judge.provider, **section}


def _context_texts(rows: Sequence[Prediction], chunks: Path) -> dict[str, str]:
    """The texts of the chunks that the answers were given; the chunks are streamed, for a corpus may not fit memory."""
    wanted = {chunk_id for row in rows for chunk_id in row.chunk_ids}
    texts = {row.chunk_id: row.text for row in read_rows(chunks / "chunks.jsonl", Chunk) if row.chunk_id in wanted}
    if missing := wanted - texts.keys():
        raise InputError(
            f"an answer names the chunk {min(missing)}, which is not there",
            where=str(chunks),
            todo="Answers and chunks must come from the same run.",
        )
    return texts


def _score(row: Prediction, metric: str, value: float | None, error: str | None = None) -> Score:
    rounded = None if value is None else round(value, 6)
    return Score(row.question_id, row.arm, row.split, metric, rounded, error)
