"""finetune_lm: examples to a tuned language model, with its card and its loss curve; here or at a fine-tuning API."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from radit_job import observe
from radit_job.config.slices import FinetuneLMSlice
from radit_job.errors import InputError
from radit_job.jobs import ALONE, NodeGroup
from radit_job.models.identity import model_identity
from radit_job.models.ledger import Ledger
from radit_job.models.loading import model_folder
from radit_job.models.packaged import PACKAGED
from radit_job.records import Example, read_rows
from radit_job.training.api_examples import MIN_VALIDATION_ROWS, refuse_mistakes
from radit_job.training.examples import hold_out
from radit_job.training.settings import LMTrainingSettings

if TYPE_CHECKING:  # it imports torch
    from radit_job.training.lm import TrainingSummary


def run(
    config: FinetuneLMSlice,
    *,
    examples: Path,
    out: Path,
    scratch: Path,
    ledger: Ledger | None = None,
    nodes: NodeGroup = ALONE,
) -> dict[str, float]:
    """Tune `config.lm` on `examples/examples.jsonl`; writes `lm/training.json`, `lm/README.md`, and the model.

    Engine local writes `lm/merged/` and `lm/adapter/` (LoRA), and chooses the best weights on a held-out share of the
    examples' groups. Engine openai writes `lm/model.json`, under which the service's model is found, and the files as
    they were sent, `lm/train.jsonl` and `lm/validation.jsonl`. Returns counters, loss (nats per answer token) and
    speed. InputError if there is nothing to train on, or if the service does not do it.

    On several `nodes` the first one writes; the others help, and return nothing. TryAgainError if they lose it.
    """
    rows = list(read_rows(examples / "examples.jsonl", Example))
    train, dev = _held_out(config, rows)
    if not train:
        raise InputError(
            "there are no training examples", where=str(examples), todo="check the split and the questions"
        )
    observe.log("training examples", n_train=len(train), n_dev=len(dev), n_groups=_n_groups(rows))
    if nodes.is_first:
        (out / "lm").mkdir(exist_ok=True)
    if config.finetune_lm.engine == "openai":
        counters = _tune_at_service(
            config, rows, train, dev, out=out / "lm", scratch=scratch, ledger=ledger or Ledger()
        )
    else:
        counters = _tune_here(config, rows, train, dev, out=out / "lm", scratch=scratch, nodes=nodes)
    return {name: value for name, value in counters.items() if value is not None}


def _held_out(config: FinetuneLMSlice, rows: list[Example]) -> tuple[list[Example], list[Example]]:
    train, dev = hold_out(rows, config.finetune_lm.dev_share, config.seed)
    if config.finetune_lm.engine == "openai" and 0 < len(dev) < MIN_VALIDATION_ROWS:
        observe.log(f"{len(dev)} examples are too few for a validation file, so they train, too", n_dev=len(dev))
        return rows, []
    return train, dev


def _tune_here(
    config: FinetuneLMSlice,
    rows: Sequence[Example],
    train: Sequence[Example],
    dev: Sequence[Example],
    *,
    out: Path,
    scratch: Path,
    nodes: NodeGroup,
) -> dict[str, float | None]:
    from radit_job.training.model_card import model_card  # late: it imports torch

    lm = config.lm
    summary = _tuned(config, train, dev, out=out, scratch=scratch, nodes=nodes)
    if summary is None:
        return {}
    (out / "training.json").write_text(json.dumps(summary.to_json(), indent=1))
    card = model_card(
        summary,
        base_name=lm.name,
        base_identity=model_identity(lm.ref()),
        base_license=PACKAGED[lm.name].license if lm.provider == "packaged" else None,
        n_questions=_n_questions(rows),
        n_groups=_n_groups(rows),
    )
    (out / "README.md").write_text(card, encoding="utf-8")
    return {
        "n_train": summary.n_train,
        "n_dev": summary.n_dev,
        "n_truncated": summary.n_truncated,
        "n_dropped": summary.n_dropped,
        "n_steps": len(summary.steps),
        "n_tokens": summary.n_tokens,
        "n_processes": summary.n_processes,
        "training_s": round(summary.training_s, 1),
        "tokens_per_s": round(summary.tokens_per_s, 1),
        "dev_loss_before": summary.dev_loss_before,
        "dev_loss_after": summary.dev_loss_after,
    }


def _tuned(
    config: FinetuneLMSlice,
    train: Sequence[Example],
    dev: Sequence[Example],
    *,
    out: Path,
    scratch: Path,
    nodes: NodeGroup,
) -> TrainingSummary | None:
    """Tune in this process, or with others; None where another machine has the summary."""
    tuning, lm = config.finetune_lm, config.lm
    settings = _settings(config)
    # Without a cluster there is one machine, which has the processes of all.
    n_processes = tuning.processes_per_node * (1 if nodes.count > 1 else tuning.nodes)
    if nodes.count * n_processes == 1:
        from radit_job.training.lm import tune

        return tune(model_folder(lm.ref()), train, dev, settings, out=out, scratch=scratch, base_name=lm.name)
    from radit_job.training.launching import tune_together
    from radit_job.training.meeting import Machines

    machines = Machines(nodes.index, nodes.count, nodes.endpoint, n_processes, nodes.is_over)
    return tune_together(
        machines, model_folder(lm.ref()), train, dev, settings, out=out, scratch=scratch, base_name=lm.name
    )


def _settings(config: FinetuneLMSlice) -> LMTrainingSettings:
    tuning = config.finetune_lm
    return LMTrainingSettings(
        method=tuning.method,
        epochs=tuning.epochs,
        learning_rate=tuning.learning_rate,
        warmup_share=tuning.warmup_share,
        batch_size=tuning.batch_size,
        accumulation_steps=tuning.accumulation_steps,
        max_tokens=tuning.max_tokens,
        lora_rank=tuning.lora_rank,
        weight_decay=tuning.weight_decay,
        patience=tuning.patience,
        evaluations_per_epoch=tuning.evaluations_per_epoch,
        checkpoint_interval_s=tuning.checkpoint_interval_s,
        dtype=config.lm.dtype,
        seed=config.seed,
    )


def _tune_at_service(
    config: FinetuneLMSlice,
    rows: Sequence[Example],
    train: Sequence[Example],
    dev: Sequence[Example],
    *,
    out: Path,
    scratch: Path,
    ledger: Ledger,
) -> dict[str, float | None]:
    from radit_job.training.api_tuning import APISettings, take_given_job, tune_at_service

    tuning, api, ref = config.finetune_lm, config.finetune_lm.api, config.lm.ref()
    settings = APISettings(
        epochs=int(tuning.epochs),
        batch_size=api.batch_size,
        learning_rate_multiplier=api.learning_rate_multiplier,
        suffix=api.suffix,
        seed=config.seed,
        poll_s=api.poll_s,
        wait_s=api.wait_h * 3600,
    )
    if api.job_id is not None:
        tuned = take_given_job(ref, api.job_id, settings)
    else:
        refuse_mistakes(rows, where="examples.jsonl")
        tuned = tune_at_service(ref, train, dev, settings, scratch=scratch, ledger=ledger)
    tuned.write(out, n_questions=_n_questions(rows), n_groups=_n_groups(rows))
    return {
        "n_train": tuned.n_train,
        "n_dev": tuned.n_dev,
        "n_dropped": tuned.n_dropped,
        "n_steps": tuned.losses.n_steps,
        "n_tokens": tuned.n_tokens,
        "dev_loss_after": tuned.dev_loss_after,
    }


def _n_questions(rows: Sequence[Example]) -> int:
    return len({row.question_id for row in rows})


def _n_groups(rows: Sequence[Example]) -> int:
    return len({row.group for row in rows})
