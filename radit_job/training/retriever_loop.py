"""The training loop of the query encoder: steps, held-out figures, checkpoints, and the choice of the best epoch.

A plain loop rather than sentence-transformers' trainer, whose losses encode the documents, too: here the documents'
vectors are constants of the index, and only the questions are encoded. It resumes to the bit on one thread, stops
between two steps, and counts the untuned encoder among the epochs to choose from.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from radit_job import observe
from radit_job.errors import StageFailed
from radit_job.hashing import digest
from radit_job.rag import lsr
from radit_job.training.checkpoint import Checkpoints, optimizer_tensors, restore_optimizer, restore_weights
from radit_job.training.query_encoder import QueryEncoder
from radit_job.training.retriever_data import Candidates, epoch_batches
from radit_job.training.retriever_held_out import HeldOut
from radit_job.training.retriever_loss import contrastive_nats, entropy_nats, lsr_nats, retriever_log_shares
from radit_job.training.retriever_settings import RetrieverTrainingSettings
from radit_job.training.settings import learning_rate_at
from radit_job.training.stopping import StopRequest, stop_request

GRADIENT_NORM_LIMIT = 1.0
Phase = Literal["untuned", "contrastive", "lsr"]


@dataclass(slots=True)
class RetrieverHistory:
    """What happened so far; a checkpoint carries it."""

    steps: list[dict[str, Any]] = field(default_factory=list)  # as in training.json
    epochs: list[dict[str, Any]] = field(default_factory=list)  # as in training.json; empty if nothing is held out
    best_epoch: int | None = None  # None where no held-out KL can be measured
    stopped_early: bool = False
    training_s: float = 0.0  # in steps, evaluations and loading left out

    def best_kl(self) -> float:
        """The lowest held-out KL so far."""
        return min((row["dev_kl_nats"] for row in self.epochs if row["dev_kl_nats"] is not None), default=math.inf)


@dataclass(frozen=True, slots=True)
class _Step:
    """One step of the optimizer: its number, the epoch (from 1) and phase it belongs to, its training questions."""

    number: int
    epoch: int
    phase: Phase
    questions: list[int]
    ends_epoch: bool


class RetrieverLoop:
    """The state of one training run: weights, optimizer, history."""

    def __init__(
        self,
        encoder: QueryEncoder,
        settings: RetrieverTrainingSettings,
        train: Candidates,
        dev: HeldOut | None,
        checkpoints: Checkpoints,
    ) -> None:
        """`dev` is None where nothing is held out."""
        self.encoder, self.settings, self.train, self.dev = encoder, settings, train, dev
        self.checkpoints, self.names = checkpoints, encoder.names
        self.device = encoder.model.device
        self.optimizer = torch.optim.AdamW(self._parameter_groups(), fused=True)
        self.history = RetrieverHistory()
        self.vectors = train.vectors.to(self.device)
        self.log_target = torch.from_numpy(train.log_target).to(self.device, torch.float32)
        told = lsr.teaches(train.log_target)
        # A flat target would only teach to rank nothing above anything. A known gold chunk teaches without a target.
        self.taught = np.flatnonzero(told).tolist()
        self.contrasted = [i for i in range(len(train)) if told[i] or train.gold_rows[i]]
        self.steps = list(self._all_steps()) if self.taught else []
        self.fingerprint = self._fingerprint()

    def run(self) -> RetrieverHistory:
        """Train to the end, from the last checkpoint if there is one; the encoder has the best weights afterwards."""
        done = self._resume()
        if self.dev and not self.history.epochs:
            self._evaluate(0, "untuned")
        if not self.steps:
            self.history.best_epoch = 0
            return self.history
        with stop_request() as stop, observe.progress("LSR", total=len(self.steps), unit="steps") as bar:
            bar.advance(done)
            for step in self.steps[done:] if not self.history.stopped_early else []:
                bar.advance(1, loss=self._step(step))
                done = step.number + 1
                self._between(step, stop)
                if self.history.stopped_early:
                    break
            # A request behind the last look is obeyed at the block's end: everything is in the last checkpoint.
        if self.history.best_epoch is not None and self.history.best_epoch != self.steps[done - 1].epoch:
            restore_weights(self.names, self.checkpoints.load_best(self.history.best_epoch))
        return self.history

    def _parameter_groups(self) -> list[dict[str, Any]]:
        matrices = [p for p in self.names if p.ndim >= 2]
        others = [p for p in self.names if p.ndim < 2]  # norms and biases are not decayed
        groups = [
            {"params": matrices, "weight_decay": self.settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]

    def _all_steps(self) -> Iterator[_Step]:
        """The warm start's epochs, then LSR's; a step's questions depend on seed and epoch alone."""
        settings, number = self.settings, 0
        for epoch in range(1, settings.warm_start_epochs + settings.epochs + 1):
            phase: Phase = "contrastive" if epoch <= settings.warm_start_epochs else "lsr"
            questions = self.contrasted if phase == "contrastive" else self.taught
            batches = epoch_batches(questions, settings.batch_size, settings.seed, epoch)
            for i, batch in enumerate(batches):
                yield _Step(number, epoch, phase, batch, i == len(batches) - 1)
                number += 1

    def _fingerprint(self) -> str:
        decisive = asdict(self.settings) | {"dtype": str(self.encoder.compute_dtype)}  # "auto" may mean another one
        sides = [self.train, *([self.dev.questions] if self.dev else [])]
        vectors = [hashlib.sha256(side.vectors.numpy().tobytes()).hexdigest() for side in sides]
        return digest([decisive, [[asdict(row) for row in side.rows] for side in sides], vectors])

    def _step(self, step: _Step) -> float:
        """One step of the optimizer; returns the loss before it, in nats per question."""
        start_s = time.perf_counter()
        settings = self.settings
        rate = learning_rate_at(step.number, len(self.steps), settings.learning_rate, settings.warmup_share)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss, told = self._loss(step.questions, step.phase)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.names, GRADIENT_NORM_LIMIT)
        _check_finite(f"step {step.number + 1}", loss.item(), float(norm))
        self.optimizer.step()
        self.optimizer.zero_grad()
        row = {"step": step.number + 1, "phase": step.phase, "loss": round(loss.item(), 6), **told}
        self.history.steps.append(row | {"learning_rate": rate})
        self.history.training_s += time.perf_counter() - start_s
        return round(loss.item(), 4)

    def _loss(self, questions: Sequence[int], phase: Phase) -> tuple[torch.Tensor, dict[str, float]]:
        """The mean loss of these training questions, and the figures of the step, all in nats."""
        settings, train = self.settings, self.train
        queries = self.encoder.vectors([train.rows[i].question for i in questions])  # [B, d]
        candidates = self.vectors[torch.from_numpy(train.places[list(questions)]).to(self.device)]  # [B, C, d]
        log_p_r = retriever_log_shares(queries, candidates, settings.retriever_temperature)
        log_target = self.log_target[list(questions)]
        kl = lsr_nats(log_p_r, log_target, settings.divergence).mean()
        loss = kl if phase == "lsr" else torch.zeros_like(kl)
        weight = 1.0 if phase == "contrastive" else settings.contrastive_weight
        if weight:
            loss = loss + weight * self._contrastive(queries, questions).mean()
        with torch.no_grad():
            told = {
                "kl_nats": kl.item(),
                "target_entropy_nats": entropy_nats(log_target).mean().item(),
                "retriever_entropy_nats": entropy_nats(log_p_r).mean().item(),
            }
        return loss, {name: round(value, 6) for name, value in told.items()}

    def _contrastive(self, queries: torch.Tensor, questions: Sequence[int]) -> torch.Tensor:
        others, wrong = self.train.negatives(questions)
        positives = self.train.positives[list(questions)]
        return contrastive_nats(
            queries,
            self.vectors[torch.from_numpy(positives).to(self.device)],
            self.vectors[torch.from_numpy(others).to(self.device)],
            torch.from_numpy(wrong).to(self.device),
            self.settings.retriever_temperature,
        )

    def _between(self, step: _Step, stop: StopRequest) -> None:
        """What is due after a step: the epoch's figures, a checkpoint, and the end, if somebody asked for it."""
        if step.ends_epoch:
            self._evaluate(step.epoch, step.phase)
        is_asked = stop.is_made  # looked at once: what is obeyed here has its checkpoint
        if step.ends_epoch or is_asked:
            self._save_checkpoint(step.number + 1)
        if is_asked:
            stop.obey()

    def _evaluate(self, epoch: int, phase: Phase) -> None:
        """Measure the held-out questions after an epoch; keep the weights if they are the best, or decide to stop."""
        if self.dev is None:
            return
        found = self.dev.measure(self.encoder)
        kl, told = found.kl_nats, found.to_json()
        history = self.history
        if kl is not None:
            _check_finite(f"epoch {epoch}", kl)
            if kl < history.best_kl():
                history.best_epoch = epoch
                self.checkpoints.save_best(epoch, {name: p for p, name in self.names.items()})
        history.epochs.append({"epoch": epoch, "phase": phase, **told})
        observe.log("held out", epoch=epoch, phase=phase, **told, best_epoch=history.best_epoch)
        if history.best_epoch is not None:
            since_best = sum(row["epoch"] > history.best_epoch for row in history.epochs if row["phase"] == "lsr")
            last = self.settings.warm_start_epochs + self.settings.epochs
            history.stopped_early = 0 < self.settings.patience <= since_best and epoch < last

    def _save_checkpoint(self, done: int) -> None:
        weights = {f"weights.{name}": p for p, name in self.names.items()}
        tensors = weights | optimizer_tensors(self.optimizer, self.names)
        self.checkpoints.save(done, tensors, {"fingerprint": self.fingerprint, "history": asdict(self.history)})
        self.checkpoints.forget_best_before(self.history.best_epoch or 0)

    def _resume(self) -> int:
        """Go back to the last checkpoint of the same run; returns how many steps are done."""
        found = self.checkpoints.load()
        if found is None or found[1]["fingerprint"] != self.fingerprint:
            return 0
        tensors, state = found
        restore_weights(self.names, {name.removeprefix("weights."): tensor for name, tensor in tensors.items()})
        restore_optimizer(self.optimizer, self.names, tensors)
        self.history = RetrieverHistory(**state["history"])
        observe.log("going on from a checkpoint", step=state["step"], n_steps=len(self.steps))
        return int(state["step"])


def _check_finite(when: str, *values: float) -> None:
    if not all(map(math.isfinite, values)):
        raise StageFailed(
            f"training diverged at {when}",
            todo="lower finetune_retriever.learning_rate, or raise its lm_temperature and retriever_temperature",
        )
