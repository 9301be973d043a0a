"""evaluate: metrics of each answer, means with intervals, paired comparisons."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from radit_job import observe
from radit_job.config.schema import Model
from radit_job.config.slices import EvaluateSlice
from radit_job.errors import InputError, Interrupted, RaditError
from radit_job.models.ledger import Ledger
from radit_job.rag import metrics
from radit_job.rag.comparison import compare, summarize
from radit_job.records import Prediction, Score, read_blocks, write_rows

RESULTS_FORMAT = 1
RETRIEVAL_METRICS = ("recall_at_k", "mrr")
RETRIEVAL_ARMS = ("base", "few_shot", "lm")  # all with the same retriever, so the first one present speaks for it
JUDGEMENT_TOKENS = 200  # a score and its reasons
# What LlamaIndex and transformers raise for a single judgement, above all where the prompt is too long for the judge.
JUDGE_ERRORS = (RaditError, ValueError, RuntimeError, IndexError)


def run(
    config: EvaluateSlice, *, predictions: Path, chunks: Path, out: Path, scratch: Path, ledger: Ledger | None = None
) -> dict[str, float]:
    """Read `predictions`; write `scores` (one row per answer and metric) and `results` (the tables)."""
    rows = list(read_blocks(predictions, "*.jsonl", Prediction))
    if not rows:
        raise InputError("there are no answers to evaluate", where=str(predictions))
    answer_metrics = [name for name in config.metrics if name not in RETRIEVAL_METRICS] + ["answer_words"]
    scores = [score for name in answer_metrics for score in _answer_scores(config, name, rows, ledger)]
    scores += _retrieval_scores(config, rows)
    arms = list(dict.fromkeys(row.arm for row in rows))
    splits = ["val", "train"]
    scores.sort(
        key=lambda score: (arms.index(score.arm), splits.index(score.split))
    )  # stable: metrics keep their order
    write_rows(out / "scores" / "scores.jsonl", scores)
    results = {
        "format": RESULTS_FORMAT,
        "arms": arms,
        "rows": summarize(scores, samples=config.bootstrap_samples, seed=config.seed),
        "pairs": compare(scores, answer_metrics, samples=config.bootstrap_samples, seed=config.seed),
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
    elif metric == "correctness" and config.judge is not None:
        yield from _correctness(config.judge, answered)


def _retrieval_scores(config: EvaluateSlice, rows: Sequence[Prediction]) -> Iterator[Score]:
    """Recall and reciprocal rank of the questions whose gold chunk is known; they do not depend on the answer."""
    present = {row.arm for row in rows}
    arm = next((arm for arm in RETRIEVAL_ARMS if arm in present), None)
    known = [(row, row.gold_rank) for row in rows if row.arm == arm and row.gold_rank is not None]
    if "recall_at_k" in config.metrics:
        for k in sorted({*config.recall_at, config.k}):
            yield from (_score(row, f"recall_at_{k}", metrics.recall_at(k, rank)) for row, rank in known)
    if "mrr" in config.metrics:
        yield from (_score(row, "mrr", metrics.reciprocal_rank(rank)) for row, rank in known)


def _semantic_similarity(model: Model, rows: Sequence[Prediction], ledger: Ledger | None) -> Iterator[Score]:
    """Cosine of the embedder's vectors of answer and reference."""
    from radit_job.models.loading import open_embedder  # late: it imports torch, which the other metrics do not need

    texts = sorted({text for row in rows for text in (row.answer, row.reference)})
    embedder = open_embedder(model.ref(), ledger)
    with observe.progress("embedding answers", total=len(texts), unit="texts") as bar:
        vectors = embedder.embed_documents(texts, on_done=bar.advance)  # [texts, d], rows of length 1
    row_of = {text: row for row, text in enumerate(texts)}
    for row in rows:
        cosine = float(np.dot(vectors[row_of[row.answer]], vectors[row_of[row.reference]]))
        yield _score(row, "semantic_similarity", cosine)


def _correctness(model: Model, rows: Sequence[Prediction]) -> Iterator[Score]:
    """LlamaIndex's CorrectnessEvaluator, 1 to 5; a judgement that is no score is a failure, never a number."""
    from llama_index.core.evaluation import CorrectnessEvaluator  # late: only a run with a judge needs it

    from radit_job.models.llamaindex import as_llm
    from radit_job.models.loading import open_local_lm

    generator = open_local_lm(model.ref())
    judge = as_llm(generator, max_new_tokens=JUDGEMENT_TOKENS)
    evaluator = CorrectnessEvaluator(llm=judge, parser_function=metrics.parse_judgement)
    with observe.progress("judging answers", total=len(rows), unit="answers") as bar:
        for row in rows:
            try:
                result = evaluator.evaluate(query=row.question, response=row.answer, reference=row.reference)
                error = (
                    None if result.score is not None else f"no score in the judge's answer: {result.feedback!r:.120}"
                )
                yield _score(row, "correctness", result.score, error)
            except Interrupted:
                raise
            except JUDGE_ERRORS as failure:
                yield _score(row, "correctness", None, f"{type(failure).__name__}: {failure}")
            bar.advance()


def _score(row: Prediction, metric: str, value: float | None, error: str | None = None) -> Score:
    rounded = None if value is None else round(value, 6)
    return Score(row.question_id, row.arm, row.split, metric, rounded, error)
