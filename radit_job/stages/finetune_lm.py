"""finetune_lm: examples to a tuned language model, with its card and its loss curve."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from radit_job import observe
from radit_job.config.slices import FinetuneLMSlice
from radit_job.errors import InputError
from radit_job.models.identity import model_identity
from radit_job.models.loading import model_folder
from radit_job.models.packaged import PACKAGED
from radit_job.records import Example, read_rows


def run(config: FinetuneLMSlice, *, examples: Path, out: Path, scratch: Path) -> dict[str, float]:
    """Tune `config.lm` on `examples/examples.jsonl`; writes `lm/merged/`, `lm/adapter/` (LoRA), `lm/training.json`,
    `lm/README.md`.

    A share of the examples' groups is held out to choose the best weights. Returns counters, loss (nats per answer
    token) and speed. InputError if there is nothing to train on.
    """
    from radit_job.training.lm import LMTrainingSettings, tune  # late: it imports torch
    from radit_job.training.model_card import model_card

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
        model_folder(lm.provider, lm.name, lm.revision),
        [row.messages for row in train],
        [row.messages for row in dev],
        settings,
        out=out / "lm",
        scratch=scratch,
        base_name=lm.name,
    )
    (out / "lm" / "training.json").write_text(json.dumps(asdict(summary), indent=1))
    card = model_card(
        summary,
        base_name=lm.name,
        base_identity=model_identity(lm.provider, lm.name, lm.revision),
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
        "n_tokens": sum(step["tokens"] for step in summary.steps),
        "tokens_per_s": summary.tokens_per_s,
        "dev_loss_before": summary.dev_loss_before,
        "dev_loss_after": summary.dev_loss_after,
    }
    return {name: value for name, value in counters.items() if value is not None}


def hold_out(rows: Sequence[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Examples to train on and held-out ones: whole groups, so that no gold chunk stands on both sides.

    `share` of the groups (rounded, at least one if it is above 0 and there are two) is drawn with the seed.
    """
    groups = sorted({row.group for row in rows})
    n_held_out = round(len(groups) * share)
    if share > 0 and len(groups) > 1:
        n_held_out = min(max(1, n_held_out), len(groups) - 1)
    held_out = set(random.Random(seed).sample(groups, n_held_out))
    return [row for row in rows if row.group not in held_out], [row for row in rows if row.group in held_out]
