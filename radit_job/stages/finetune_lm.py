"""finetune_lm: examples to a tuned language model, with its card and its loss curve."""

from __future__ import annotations

import json
from pathlib import Path

from radit_job import observe
from radit_job.config.slices import FinetuneLMSlice
from radit_job.errors import InputError
from radit_job.models.identity import model_identity
from radit_job.models.ledger import Ledger
from radit_job.models.loading import model_folder
from radit_job.models.packaged import PACKAGED
from radit_job.records import Example, read_rows
from radit_job.training.examples import hold_out


def run(
    config: FinetuneLMSlice, *, examples: Path, out: Path, scratch: Path, ledger: Ledger | None = None
) -> dict[str, float]:
    """Tune `config.lm` on `examples/examples.jsonl`; writes `lm/merged/`, `lm/adapter/` (LoRA), `lm/training.json`,
    `lm/README.md`.

    A share of the examples' groups is held out to choose the best weights. Returns counters, loss (nats per answer
    token) and speed. InputError if there is nothing to train on.
    """
    from radit_job.training.lm import tune  # late: it imports torch
    from radit_job.training.model_card import model_card
    from radit_job.training.settings import LMTrainingSettings

    tuning, lm = config.finetune_lm, config.lm
    rows = list(read_rows(examples / "examples.jsonl", Example))
    train, dev = hold_out(rows, tuning.dev_share, config.seed)
    if not train:
        raise InputError(
            "there are no training examples", where=str(examples), todo="check the split and the questions"
        )
    observe.log("training examples", n_train=len(train), n_dev=len(dev), n_groups=len({row.group for row in rows}))
    settings = LMTrainingSettings(
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
        dtype=lm.dtype,
        seed=config.seed,
    )
    summary = tune(
        model_folder(lm.ref()),
        train,
        dev,
        settings,
        out=out / "lm",
        scratch=scratch,
        base_name=lm.name,
    )
    (out / "lm" / "training.json").write_text(json.dumps(summary.to_json(), indent=1))
    card = model_card(
        summary,
        base_name=lm.name,
        base_identity=model_identity(lm.ref()),
        base_license=PACKAGED[lm.name].license if lm.provider == "packaged" else None,
        n_questions=len({row.question_id for row in rows}),
        n_groups=len({row.group for row in rows}),
    )
    (out / "lm" / "README.md").write_text(card, encoding="utf-8")
    counters = {
        "n_train": summary.n_train,
        "n_dev": summary.n_dev,
        "n_truncated": summary.n_truncated,
        "n_dropped": summary.n_dropped,
        "n_steps": len(summary.steps),
        "n_tokens": summary.n_tokens,
        "training_s": round(summary.training_s, 1),
        "tokens_per_s": round(summary.tokens_per_s, 1),
        "dev_loss_before": summary.dev_loss_before,
        "dev_loss_after": summary.dev_loss_after,
    }
    return {name: value for name, value in counters.items() if value is not None}
