"""finetune_retriever: the query encoder learns from the LM which chunks help it (LSR)."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from radit_job import observe
from radit_job.config.slices import FinetuneRetrieverSlice
from radit_job.models.identity import model_identity
from radit_job.models.loading import model_folder
from radit_job.models.packaged import PACKAGED
from radit_job.rag import lsr
from radit_job.rag.vector_index import VectorIndex
from radit_job.records import CandidateScores, read_blocks
from radit_job.training.examples import hold_out

if TYPE_CHECKING:
    from radit_job.training.retriever import RetrieverSummary
    from radit_job.training.retriever_settings import RetrieverTrainingSettings


def run(
    config: FinetuneRetrieverSlice, *, lm_scores: Path, embeddings: Path, out: Path, scratch: Path
) -> dict[str, float]:
    """Read `lm_scores`, `embeddings`; write `retriever`: a SentenceTransformer, training.json and README.md.

    A held-out share of the questions' groups chooses the best epoch, that before the first step included. Returns
    counters, held-out figures before and after (KL in nats) and seconds. InputError if there is nothing to learn from.
    """
    from radit_job.training.retriever import tune_retriever  # late: it imports torch
    from radit_job.training.retriever_card import retriever_card
    from radit_job.training.retriever_data import check_rows

    start_s = time.monotonic()
    tuning, embedder = config.finetune_retriever, config.embedder
    rows = _of_one_size(list(read_blocks(lm_scores, "*.jsonl", CandidateScores)))
    check_rows(rows, where=str(lm_scores))
    train, dev = hold_out(rows, tuning.dev_share, config.seed)
    n_groups = len({row.group for row in rows})
    observe.log("scored questions", n_train=len(train), n_dev=len(dev), n_groups=n_groups)
    retriever = out / "retriever"
    summary = tune_retriever(
        model_folder(embedder.ref()),
        train,
        dev,
        VectorIndex.open(embeddings),
        _settings(config, train),
        out=retriever,
        scratch=scratch,
    )
    (retriever / "training.json").write_text(json.dumps(summary.to_json(), indent=1), encoding="utf-8")
    card = retriever_card(
        summary,
        base_name=embedder.name,
        base_identity=model_identity(embedder.ref()),
        base_license=PACKAGED[embedder.name].license if embedder.provider == "packaged" else None,
        n_groups=n_groups,
    )
    (retriever / "README.md").write_text(card, encoding="utf-8")
    return _counters(summary) | {"seconds": round(time.monotonic() - start_s, 1)}


def _of_one_size(rows: list[CandidateScores]) -> list[CandidateScores]:
    """The rows with equally many candidates, the nearest ones: of so many that the most pairs are kept.

    Where a chunk was too long for the LM a question has fewer, and shares among more are not comparable with its own.
    """
    sizes = [len(row.chunk_ids) for row in rows]
    size = max(set(sizes), key=lambda size: (size * sum(other >= size for other in sizes), size), default=0)
    kept = [_first(row, size) for row in rows if len(row.chunk_ids) >= size]
    if set(sizes) - {size}:
        observe.warn(
            f"some chunks were too long for the LM: {len(kept)} of {len(rows)} questions are taken, each with {size} "
            "candidates",
            n_questions=len(kept),
            n_candidates=size,
        )
    return kept


def _first(row: CandidateScores, size: int) -> CandidateScores:
    fields = ("chunk_ids", "similarities", "log_probability_nats")
    return replace(row, **{name: getattr(row, name)[:size] for name in fields})


def _settings(config: FinetuneRetrieverSlice, train: list[CandidateScores]) -> RetrieverTrainingSettings:
    from radit_job.training.retriever_settings import RetrieverTrainingSettings

    tuning = config.finetune_retriever
    temperature = tuning.retriever_temperature
    if temperature is None:
        target = lsr.log_target(lsr.likelihoods(train, tuning.likelihood), tuning.lm_temperature)
        temperature = round(lsr.fitted_temperature(train, target), 6)
        observe.log("the retriever's temperature is fitted to the target", retriever_temperature=temperature)
    given = tuning.model_dump() | {"retriever_temperature": temperature}
    return RetrieverTrainingSettings(**given, dtype=config.embedder.dtype, seed=config.seed)


def _counters(summary: RetrieverSummary) -> dict[str, float]:
    found: dict[str, float | None] = {
        "n_train": summary.n_train,
        "n_dev": summary.n_dev,
        "n_flat": summary.target["n_flat"],
        "n_steps": len(summary.steps),
        "best_epoch": summary.best_epoch,
        "target_entropy_nats": summary.target["entropy_nats"],
        "training_s": round(summary.training_s, 1),
    }
    for name, row in (("before", summary.before), ("after", summary.after)):
        if row is not None:
            found |= {f"dev_kl_{name}": row["dev_kl_nats"], f"dev_mrr_{name}": row["dev_mrr"]}
            found |= {f"dev_recall_{name}_at_{k}": value for k, value in row["dev_recall"].items()}
    return {name: value for name, value in found.items() if value is not None}
