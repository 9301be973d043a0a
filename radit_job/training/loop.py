"""The training loop: steps, held-out losses, checkpoints, and the choice of the best weights.

A plain loop rather than transformers.Trainer: it computes logits at the answers' positions only, pads nothing on a
CPU, resumes to the bit, and chooses the best of its evaluations, the one before the first step included.
`benchmarks/finetune_lm.py` runs both: on one Zen 3 core an example of 315 tokens took 2.9 s of CPU here
and 4.2 s there, with a peak of 2.3 and 4.9 GiB.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from radit_job import observe
from radit_job.errors import Terminated
from radit_job.hashing import digest
from radit_job.models import precision
from radit_job.training.batches import Pass, collate, epoch_batches, shared_passes
from radit_job.training.examples import EncodedExample
from radit_job.training.history import History, check_finite
from radit_job.training.keeping import keeper_of
from radit_job.training.lowrank import MergedProduct
from radit_job.training.settings import LMTrainingSettings, learning_rate_at
from radit_job.training.spreading import keeping_gradients, let_go, spread, whole
from radit_job.training.stopping import stop_request
from radit_job.training.world import ALONE, World

GRADIENT_NORM_LIMIT = 1.0


class StopHere(Exception):
    """Somebody asked one of the processes to stop; the step at hand is let go."""


class TrainingLoop:
    """The state of one training run: weights, optimizer, history; the same in every process that trains with it.

    Decisions are taken on what all processes have told one another, so all take the same.
    """

    def __init__(
        self,
        model: Any,
        merged: Sequence[MergedProduct],
        settings: LMTrainingSettings,
        train: Sequence[EncodedExample],
        dev: Sequence[EncodedExample],
        scratch: Path,
        world: World = ALONE,
    ) -> None:
        self.model, self.merged, self.settings, self.train, self.dev, self.world = (
            model,
            merged,
            settings,
            train,
            dev,
            world,
        )
        self.compute_dtype = precision.choose_dtype(settings.dtype)
        self.forward = spread(model, settings.method, world)
        self.device = model.device
        self.names = {p: name for name, p in model.named_parameters() if p.requires_grad}
        matrices = [p for p in self.names if p.ndim >= 2]
        others = [p for p in self.names if p.ndim < 2]  # norms and biases are not decayed
        groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW([group for group in groups if group["params"]], fused=True)
        self.keeper = keeper_of(settings.method, scratch, self.names, self.optimizer, world)
        self.history = History()
        self.done = 0  # steps
        self._saved = -1  # steps that the last checkpoint has; -1: there is more to keep
        per_step = settings.batch_size * settings.accumulation_steps
        self.steps_per_epoch = math.ceil(len(train) / per_step)
        self.n_steps = max(1, math.ceil(self.steps_per_epoch * settings.epochs))
        self.evaluation_interval = max(1, round(self.steps_per_epoch / settings.evaluations_per_epoch))
        decisive = asdict(settings) | {"dtype": str(self.compute_dtype)}  # "auto" may mean another one next time
        del decisive["checkpoint_interval_s"]
        self.fingerprint = digest([decisive, [list(example.ids) for example in (*train, *dev)]])

    def run(self) -> History:
        """Train to the end, from the last checkpoint if there is one; the model holds the best weights afterwards.

        On SIGTERM, to whichever of the processes, all keep a checkpoint of the same step and then obey.
        """
        with stop_request(patient=self.world.size > 1) as self._stop:
            try:
                self._run()
                if self.world.any(self._stop.is_made):  # since the last pass
                    raise StopHere
            except StopHere:
                if self._saved != self.done:
                    self._save_checkpoint()
                self.world.wait()  # until all have kept their share: the first to go takes the others with it
                observe.log("told to stop: the steps done so far are kept", step=self.done, n_steps=self.n_steps)
                self._stop.obey()
                raise Terminated("terminated") from None
        if self.history.best_step is not None and self.history.best_step != self.done:
            self.keeper.restore_best(self.history.best_step)
        return self.history

    def _run(self) -> None:
        self._resume()
        if self._is_evaluation_due():
            self._evaluate()
        saved_at_s = time.monotonic()
        with observe.progress("fine-tuning", total=self.n_steps, unit="steps") as bar:
            bar.advance(self.done)
            for step, rows in self._remaining_steps(self.done):
                bar.advance(1, loss=self._step(step, rows), tokens_per_s=round(self.tokens_per_s))
                self.done = step + 1
                evaluated = self._is_evaluation_due()
                if evaluated:
                    self._evaluate()
                is_late = time.monotonic() - saved_at_s >= self.settings.checkpoint_interval_s
                if evaluated or self.world.any(is_late and self.world.is_first):  # all by one clock
                    self._save_checkpoint()
                    saved_at_s = time.monotonic()
                if self.history.stopped_early:
                    break

    def _is_evaluation_due(self) -> bool:
        """Whether the held-out loss after the steps done is wanted and not measured yet."""
        at_end = self.done == self.n_steps or self.history.stopped_early
        is_wanted = self.done % self.evaluation_interval == 0 or at_end
        return is_wanted and self.done not in {row["step"] for row in self.history.evaluations}

    @property
    def tokens_per_s(self) -> float:
        """Tokens (prompts and answers, no padding) per second of training."""
        return sum(row["tokens"] for row in self.history.steps) / max(self.history.training_s, 1e-9)

    def _remaining_steps(self, done: int) -> Iterator[tuple[int, list[int]]]:
        """(step, rows of the training set) from `done` on; what a step gets depends on seed and step alone."""
        if self.history.stopped_early:
            return
        n = self.settings.accumulation_steps
        for epoch in range(done // self.steps_per_epoch, math.ceil(self.n_steps / self.steps_per_epoch)):
            batches = epoch_batches(self.train, self.settings.batch_size, self.settings.seed, epoch)
            for i in range(self.steps_per_epoch):
                step = epoch * self.steps_per_epoch + i
                if done <= step < self.n_steps:
                    yield step, [row for batch in batches[i * n : (i + 1) * n] for row in batch]

    def _step(self, step: int, rows: list[int]) -> float:
        """One step of the optimizer; returns the loss before it, in nats per answer token."""
        start_s = time.perf_counter()
        rate = learning_rate_at(step, self.n_steps, self.settings.peak_learning_rate, self.settings.warmup_share)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._set_mode(training=True)
        examples = [self.train[row] for row in rows]
        n_answer_tokens = sum(example.n_answer_tokens for example in examples)
        total_nats = self._accumulate(examples, n_answer_tokens)
        norm = whole(torch.nn.utils.clip_grad_norm_(self.names, GRADIENT_NORM_LIMIT))
        check_finite(step + 1, total_nats, float(norm))
        self.optimizer.step()
        self.optimizer.zero_grad()
        loss = round(total_nats / n_answer_tokens, 4)
        tokens = sum(len(example.ids) for example in examples)
        self.history.steps.append({"step": step + 1, "loss": loss, "learning_rate": rate, "tokens": tokens})
        self.history.training_s += time.perf_counter() - start_s
        return loss

    def _accumulate(self, examples: Sequence[EncodedExample], n_answer_tokens: int) -> float:
        """Add up the gradients of these examples' mean loss, in all processes; returns their summed loss in nats."""
        own_nats = 0.0
        rng = torch.get_rng_state()
        passes = self._passes(examples)
        for number, part in enumerate(passes, start=1):
            self._stop_if_asked(rng)
            with keeping_gradients(self.forward, is_last=number == len(passes)):
                nats = self._nats(part.examples)
                # Each answer token weighs the same, however the step is cut into passes and shared out; the mean that
                # is taken over the processes' gradients becomes their sum.
                (nats / n_answer_tokens * (self.world.size if part.counts else 0)).backward()
            own_nats += nats.item() if part.counts else 0.0
        return self.world.sum(own_nats)

    def _evaluate(self) -> None:
        """Measure the held-out loss after the steps done; keep the weights if they are the best, or decide to stop."""
        if not self.dev:
            return
        done, history = self.done, self.history
        loss = self._held_out_nats() / sum(example.n_answer_tokens for example in self.dev)
        check_finite(done, loss)
        if loss < history.best_loss():
            history.best_step = done
            self.keeper.save_best(done)
        history.evaluations.append({"step": done, "epoch": round(done / self.steps_per_epoch, 3), "dev_loss": loss})
        observe.log("held-out loss", step=done, nats_per_token=round(loss, 4), best_step=history.best_step)
        since_best = sum(row["step"] > (history.best_step or 0) for row in history.evaluations)
        history.stopped_early = 0 < self.settings.patience <= since_best and done < self.n_steps
        self._saved = -1  # a checkpoint of this step, if there is one, does not know of the evaluation

    def _held_out_nats(self) -> float:
        self._set_mode(training=False)
        own_nats = 0.0
        with torch.no_grad(), observe.progress("held-out loss", total=len(self.dev), unit="examples") as bar:
            for part in self._passes(self.dev):
                self._stop_if_asked(torch.get_rng_state())
                nats = self._nats(part.examples).item()
                own_nats += nats if part.counts else 0.0
                bar.advance(part.n_examples)
        let_go(self.model)
        return self.world.sum(own_nats)

    def _stop_if_asked(self, rng: torch.Tensor) -> None:
        """Let the step at hand go as if it had not begun, `rng` being the random numbers' state before it."""
        if self.world.any(self._stop.is_made):
            self.optimizer.zero_grad()
            torch.set_rng_state(rng)
            raise StopHere

    def _set_mode(self, *, training: bool) -> None:
        self.model.train(training)
        for product in self.merged:
            product.refresh()

    def _passes(self, examples: Sequence[EncodedExample]) -> list[Pass]:
        """The forward passes that fall to this process; on a CPU of one row each, for then nothing is padded."""
        n_rows = 1 if self.device.type == "cpu" else self.settings.batch_size
        return shared_passes(examples, n_rows, self.world.rank, self.world.size)

    def _nats(self, examples: Sequence[EncodedExample]) -> torch.Tensor:
        """Summed negative log-probability of the answers' tokens; logits are computed at their positions only."""
        batch = collate(examples, self.device)
        with self._autocast():
            out = self.forward(input_ids=batch.input_ids, logits_to_keep=batch.positions, use_cache=False)
        logits = out.logits[batch.rows, batch.columns].float()  # [answer tokens, vocabulary]
        return functional.cross_entropy(logits, batch.targets, reduction="sum")

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.compute_dtype == torch.bfloat16)

    def _save_checkpoint(self) -> None:
        self.keeper.save(self.done, {"fingerprint": self.fingerprint, "history": asdict(self.history)})
        self._saved = self.done

    def _resume(self) -> None:
        """Go back to the last checkpoint of the same run, if there is one."""
        state = self.keeper.load(self.fingerprint)
        if state is None:
            return
        self.history = History(**state["history"])
        self.done = self._saved = int(state["step"])
        observe.log("going on from a checkpoint", step=self.done, n_steps=self.n_steps)
