"""finetune_retriever: the query encoder learns from the LM which chunks help it (LSR)."""

from __future__ import annotations

import json
import time
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
    from radit_job.training.retriever_settings import RetrieverTrainingSettings

    start_s = time.monotonic()
    tuning, embedder = config.finetune_retriever, config.embedder
    rows = _with_all_candidates(list(read_blocks(lm_scores, "*.jsonl", CandidateScores)))
    check_rows(rows, where=str(lm_scores))
    train, dev = hold_out(rows, tuning.dev_share, config.seed)
    n_groups = len({row.group for row in rows})
    observe.log("scored questions", n_train=len(train), n_dev=len(dev), n_groups=n_groups)
    temperature = tuning.retriever_temperature
    if temperature is None:
        target = lsr.log_target(lsr.likelihoods(train, tuning.likelihood), tuning.lm_temperature)
        temperature = lsr.fitted_temperature(train, target, tuning.divergence)
        observe.log("the retriever's temperature is fitted to the target", retriever_temperature=round(temperature, 4))
    settings = RetrieverTrainingSettings(
        **tuning.model_dump() | {"retriever_temperature": round(temperature, 6)},
        recall_at=tuple(sorted({*config.recall_at, config.k})),
        dtype=embedder.dtype,
        seed=config.seed,
    )
    retriever = out / "retriever"
    summary = tune_retriever(
        model_folder(embedder.ref()),
        train,
        dev,
        VectorIndex.open(embeddings),
        settings,
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


def _with_all_candidates(rows: list[CandidateScores]) -> list[CandidateScores]:
    """The rows without those that lost a candidate, which was too long for the LM: their shares are not comparable."""
    most = max((len(row.chunk_ids) for row in rows), default=0)
    whole = [row for row in rows if len(row.chunk_ids) == most]
    if len(whole) < len(rows):
        n_left_out = len(rows) - len(whole)
        observe.warn(
            f"{n_left_out} of {len(rows)} questions lost a candidate, and are left out", n_questions=n_left_out
        )
    return whole


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
