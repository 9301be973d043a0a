"""The retriever half of RA-DIT: the query encoder learns which chunks make the LM find the answers likely (LSR).

L = mean over the questions of KL(p_R(c|x) || p_LSR(c|x,y)), over each question's candidate chunks (RA-DIT, arXiv
2310.01352, section 2.4; REPLUG, arXiv 2301.12652, section 4). `rag/lsr.py` makes the target, `retriever_loss.py` the
loss. Only the query encoder learns; documents keep the vectors that the index has, so nothing is indexed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from radit_job import observe
from radit_job.models import precision
from radit_job.rag.lsr import TargetFigures
from radit_job.rag.vector_index import VectorIndex
from radit_job.records import CandidateScores
from radit_job.training.checkpoint import Checkpoints
from radit_job.training.query_encoder import QueryEncoder
from radit_job.training.retriever_data import Candidates
from radit_job.training.retriever_held_out import HeldOut
from radit_job.training.retriever_loop import RetrieverHistory, RetrieverLoop
from radit_job.training.retriever_settings import RetrieverTrainingSettings


@dataclass(frozen=True, slots=True)
class RetrieverSummary:
    """What `tune_retriever` did."""

    settings: dict[str, Any]
    n_train: int  # questions trained on: those whose target says something
    n_dev: int  # held-out questions
    n_candidates: int  # of each question
    n_trainable_parameters: int
    n_parameters: int
    dtype: str
    best_epoch: int | None  # 0: the untuned encoder; None: nothing was held out, and the last weights were kept
    stopped_early: bool
    steps: list[dict[str, Any]]
    epochs: list[dict[str, Any]]
    target: dict[str, Any]
    training_s: float  # in steps; evaluations and loading left out

    def to_json(self) -> dict[str, Any]:
        """What `training.json` holds: all but the time it took, so that equal weights are an equal artifact."""
        return {name: value for name, value in asdict(self).items() if name != "training_s"}

    @property
    def before(self) -> dict[str, Any] | None:
        """The held-out figures of the untuned encoder; None without held-out questions."""
        return self.epochs[0] if self.epochs else None

    @property
    def after(self) -> dict[str, Any] | None:
        """The held-out figures of the weights that were kept."""
        kept = [row for row in self.epochs if row["epoch"] == self.best_epoch]
        return kept[0] if kept else (self.epochs[-1] if self.epochs else None)


def tune_retriever(
    folder: Path,
    train: Sequence[CandidateScores],
    dev: Sequence[CandidateScores],
    index: VectorIndex,
    settings: RetrieverTrainingSettings,
    *,
    out: Path,
    scratch: Path,
) -> RetrieverSummary:
    """Tune the query side of the encoder in `folder`, and write it to `out` as a SentenceTransformer.

    `dev` chooses the best epoch and stops early; without it the last weights are kept. `index` has the documents'
    vectors, which are only read. `scratch` keeps checkpoints: a run that was killed goes on from the last one when it
    is given the same arguments, and ends with the same weights, to the bit on one thread. InputError if rows and index
    do not fit together; StageFailed if the loss is not finite any more.
    """
    torch.manual_seed(settings.seed)
    questions = Candidates.of(train, index, likelihood=settings.likelihood, temperature=settings.lm_temperature)
    held_out = None
    if dev:
        asked = Candidates.of(dev, index, likelihood=settings.likelihood, temperature=settings.lm_temperature)
        held_out = HeldOut(asked, index.vectors, settings)
    encoder = QueryEncoder.open(folder, precision.choose_dtype(settings.dtype))
    target = TargetFigures.of(train, questions.log_target)
    observe.log("what the LM prefers", n_questions=len(train), **target.to_json())
    loop = RetrieverLoop(encoder, settings, questions, held_out, Checkpoints(scratch))
    if not loop.steps:
        _say_that_the_target_is_flat(target)
    history = loop.run()
    if loop.steps and history.best_epoch == 0:
        observe.warn(
            "the held-out KL fell in no epoch: the untuned encoder is kept, and tuning the retriever gained nothing",
            kl_nats=history.epochs[0]["dev_kl_nats"],
        )
    encoder.save(out)
    return _summary(loop, history, target)


def _say_that_the_target_is_flat(target: TargetFigures) -> None:
    observe.warn(
        f"the LM finds the answers alike after every candidate (target's entropy {target.entropy_nats:.4f} nats of at "
        f"most {target.max_entropy_nats:.4f}): there is nothing to learn, and the untuned encoder is kept; a lower "
        "finetune_retriever.lm_temperature, or likelihood: per_token, makes the target more pointed",
        n_questions=target.n_flat,
    )


def _summary(loop: RetrieverLoop, history: RetrieverHistory, target: TargetFigures) -> RetrieverSummary:
    encoder = loop.encoder
    return RetrieverSummary(
        settings=asdict(loop.settings),
        n_train=len(loop.taught),
        n_dev=len(loop.dev.questions) if loop.dev else 0,
        n_candidates=loop.train.places.shape[1],
        n_trainable_parameters=encoder.n_trainable_parameters,
        n_parameters=encoder.n_parameters,
        dtype=str(encoder.compute_dtype).removeprefix("torch."),
        best_epoch=history.best_epoch,
        stopped_early=history.stopped_early,
        steps=history.steps,
        epochs=history.epochs,
        target=target.to_json(),
        training_s=history.training_s,
    )
