"""The LM half of RA-DIT: tuning on (context, question, answer) conversations, with the loss on the answers only.

L = - sum over the answers' tokens of log p_LM(y_t | y_<t, context, question) / their number (RA-DIT, arXiv
2310.01352, equation 2).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from radit_job.models import precision
from radit_job.models.huggingface import HuggingFaceLM
from radit_job.records import Example
from radit_job.training.examples import EncodedSet, encode_examples
from radit_job.training.history import History
from radit_job.training.loop import TrainingLoop
from radit_job.training.lowrank import MergedProduct, use_merged_products
from radit_job.training.settings import LMTrainingSettings
from radit_job.training.spreading import gathered_weights, kind_of
from radit_job.training.world import ALONE, World

CPU = torch.device("cpu")
LORA_ALPHA_PER_RANK = 2  # the adapters' scaling


@dataclass(frozen=True, slots=True)
class TrainingSummary:
    """What `tune` did."""

    steps: list[dict[str, float]]
    evaluations: list[dict[str, float]]
    best_step: int | None
    stopped_early: bool
    n_train: int
    n_dev: int
    n_truncated: int
    n_dropped: int
    n_trainable_parameters: int
    n_parameters: int
    dtype: str
    settings: dict[str, Any]
    world: dict[str, Any]  # nodes, processes_per_node, kind
    training_s: float  # in steps; evaluations and loading left out

    def to_json(self) -> dict[str, Any]:
        """What `training.json` holds: all but the time it took, so that equal weights are an equal artifact."""
        return {name: value for name, value in asdict(self).items() if name != "training_s"}

    @property
    def n_processes(self) -> int:
        """How many trained together."""
        return int(self.world["nodes"] * self.world["processes_per_node"])

    @property
    def n_tokens(self) -> int:
        """Tokens trained on, prompts and answers, without padding."""
        return int(sum(step["tokens"] for step in self.steps))

    @property
    def tokens_per_s(self) -> float:
        """Speed of the steps."""
        return self.n_tokens / max(self.training_s, 1e-9)

    @property
    def dev_loss_before(self) -> float | None:
        """Held-out loss of the base model, nats per answer token; None without held-out examples."""
        return self.evaluations[0]["dev_loss"] if self.evaluations else None

    @property
    def dev_loss_after(self) -> float | None:
        """Held-out loss of the weights that were kept."""
        return min((row["dev_loss"] for row in self.evaluations), default=None)


def tune(
    folder: Path,
    train: Sequence[Example],
    dev: Sequence[Example],
    settings: LMTrainingSettings,
    *,
    out: Path,
    scratch: Path,
    base_name: str,
    world: World = ALONE,
) -> TrainingSummary:
    """Tune the model in `folder` and write `out/merged/` (and `out/adapter/` for LoRA) with the best weights.

    `dev` chooses the best evaluation and stops early; without it the last weights are kept. `scratch` keeps
    checkpoints: a run that was killed goes on from the last one when it is given the same arguments, and ends with
    the same weights, to the bit on one thread. `base_name` is what the adapter names as its base. InputError if no
    example fits `settings.max_tokens` and the model's context; StageFailed if the loss is not finite any more.

    The processes of a `world` each call it with the same arguments, but a `scratch` of their own machine: they share
    out the examples of each step, and the first one writes.
    """
    torch.manual_seed(settings.seed)
    if world.size > 1:  # "auto" is a measurement: the machines may differ
        chosen = str(precision.choose_dtype(settings.dtype)).removeprefix("torch.")
        settings = replace(settings, dtype=world.broadcast_json(chosen))
    # LoRA leaves the base alone, so that may be in half precision; full tuning keeps float32 and computes in half.
    is_divided = settings.method == "full" and world.size > 1  # then no GPU needs to hold it whole
    dtype = settings.dtype if settings.method == "lora" else "float32"
    lm = HuggingFaceLM.open(folder, dtype=dtype, device=CPU if is_divided else None)
    limit = min(settings.max_tokens, lm.context_tokens)
    encoded = encode_examples(lm.chat, train, limit)
    held_out = encode_examples(lm.chat, dev, limit)
    model, merged = _prepare(lm.model, settings, base_name)
    loop = TrainingLoop(model, merged, settings, encoded.examples, held_out.examples, scratch, world)
    history = loop.run()
    if is_divided:
        weights = gathered_weights(loop.names, world)
        model = _with_weights(folder, weights) if world.is_first else None
    if world.is_first:
        _save(model, lm.tokenizer, settings.method, out)
    return _summary(loop, history, encoded, held_out)


def _prepare(model: Any, settings: LMTrainingSettings, base_name: str) -> tuple[Any, list[MergedProduct]]:
    """The model with nothing but what is to be trained unfrozen, and its layers that compute by merged products."""
    if settings.method == "full":
        return model.requires_grad_(True), []
    config = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=LORA_ALPHA_PER_RANK * settings.lora_rank,
        lora_dropout=0.0,
        target_modules="all-linear",  # every linear layer but the output's
        task_type="CAUSAL_LM",
    )
    tuned = get_peft_model(model, config)
    tuned.peft_config["default"].base_model_name_or_path = base_name  # not a folder of this machine's cache
    return tuned, use_merged_products(tuned)


def _save(model: Any, tokenizer: Any, method: str, out: Path) -> None:
    if method == "lora":
        model.save_pretrained(out / "adapter", save_embedding_layers=False)  # they are not trained; "auto" asks the hub
        (out / "adapter" / "README.md").unlink(missing_ok=True)  # PEFT's empty form; the artifact has a card of its own
        _sort_target_modules(out / "adapter" / "adapter_config.json")
        # PEFT adds float32 adapters to the base's dtype; safe_merge would round them to it before the sum, too.
        model = model.merge_and_unload(safe_merge=False)
    model.save_pretrained(out / "merged")
    tokenizer.save_pretrained(out / "merged")


def _with_weights(folder: Path, weights: dict[str, torch.Tensor]) -> Any:
    """The model of `folder` with other weights, whole."""
    model = HuggingFaceLM.open(folder, dtype="float32", device=CPU).model
    model.load_state_dict(weights, strict=False)  # tied weights have one name only
    return model


def _sort_target_modules(path: Path) -> None:
    """PEFT writes a set in whatever order it has in this process; equal adapters shall have equal files."""
    config = json.loads(path.read_text())
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True))


def _summary(loop: TrainingLoop, history: History, encoded: EncodedSet, held_out: EncodedSet) -> TrainingSummary:
    return TrainingSummary(
        steps=history.steps,
        evaluations=history.evaluations,
        best_step=history.best_step,
        stopped_early=history.stopped_early,
        n_train=len(encoded.examples),
        n_dev=len(held_out.examples),
        n_truncated=encoded.n_truncated + held_out.n_truncated,
        n_dropped=encoded.n_dropped + held_out.n_dropped,
        n_trainable_parameters=sum(p.numel() for p in loop.names),
        n_parameters=sum(p.numel() for p in loop.model.parameters()),
        dtype=str(loop.compute_dtype).removeprefix("torch."),
        settings=asdict(loop.settings) | {"learning_rate": loop.settings.peak_learning_rate},
        world={
            "nodes": loop.world.n_nodes,
            "processes_per_node": loop.world.size // loop.world.n_nodes,
            "kind": kind_of(loop.settings.method, loop.world),
        },
        training_s=history.training_s,
    )
