"""What the page says of the training: the curve, what its lines are, and the facts beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from radit_job.report import curves

API = "openai"  # training.json's engine; a local one names none


def section(
    training: Mapping[str, Any] | None, counters: Mapping[str, Any], augmented: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """The curve as SVG, the keys to its lines as (CSS class, text), the facts by name; None without a tuned LM.

    Args:
        training: lm/training.json; that of a fine-tuning API tells some of the steps, and lacks what only a local
            engine knows.
        counters: of the stage that tuned.
        augmented: those of the stage that made the examples.
    """
    if training is None:
        return None
    train, dev = _points(training.get("steps", []), "loss"), _points(training.get("evaluations", []), "dev_loss")
    return {
        "curve": _curve(training, train, dev),
        "keys": _keys(training, train, dev),
        "facts": {
            name: value
            for name, value in {**_facts(training, counters), **_contexts(augmented or {})}.items()
            if value is not None
        },
    }


def is_by_api(training: Mapping[str, Any] | None) -> bool:
    """Whether a fine-tuning API tuned: it keeps its last weights, and chooses no checkpoint."""
    return training is not None and training.get("engine") == API


def _points(rows: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    return [(float(row["step"]), float(row[name])) for row in rows if row.get(name) is not None]


def _n_steps(training: Mapping[str, Any]) -> int:
    """All optimizer steps; of a local training every one is listed."""
    return int(training.get("n_steps") or len(training.get("steps", [])))


def _curve(
    training: Mapping[str, Any], train: Sequence[tuple[float, float]], dev: Sequence[tuple[float, float]]
) -> str:
    if not train and not dev:
        return ""
    # A mean over a few points far apart would lag far behind the loss that it stands for.
    is_whole = len(train) >= _n_steps(training)
    said = [f"held-out loss from {dev[0][1]:.3f} to {min(loss for _, loss in dev):.3f} at its lowest"] if dev else []
    if train and is_whole:
        last = curves.smoothed(train)[-1][1]
        said.insert(0, f"training loss from {train[0][1]:.3f} to {last:.3f} (smoothed)")
    elif train:
        said.insert(0, f"training loss from {train[0][1]:.3f} to {train[-1][1]:.3f}")
    return curves.loss_curve(
        train,
        dev,
        best_step=training.get("best_step"),
        title="Loss over training",
        description="; ".join(said),
        smooth=is_whole,
        fit_every_point=is_by_api(training),
    )


def _keys(
    training: Mapping[str, Any], train: Sequence[tuple[float, float]], dev: Sequence[tuple[float, float]]
) -> list[tuple[str, str]]:
    keys = []
    if train and len(train) < (n_steps := _n_steps(training)):
        keys.append(("train", f"training loss at the {len(train)} of {n_steps:,} steps that the service tells of"))
    elif train:
        keys += [("train", "training loss, smoothed"), ("train-raw", "each step")]
    if dev:
        purpose = "" if is_by_api(training) else " to choose the checkpoint"
        keys.append(("dev", f"loss on training questions held out{purpose}"))
    return keys


def _facts(training: Mapping[str, Any], counters: Mapping[str, Any]) -> dict[str, Any]:
    rates = [step["learning_rate"] for step in training.get("steps", []) if step.get("learning_rate") is not None]
    by_api = is_by_api(training)
    held_out = "examples held out to measure the loss" if by_api else "examples held out to choose the checkpoint"
    return {
        "tuned model": training.get("model"),
        "fine-tuning job": training.get("job_id"),
        "training examples": training.get("n_train"),
        held_out: training.get("n_dev") or None,
        "optimizer steps": _n_steps(training) or None,
        "peak learning rate": f"{max(rates):.1e}" if rates else None,
        "kept checkpoint": _kept(training.get("best_step"), stopped_early=bool(training.get("stopped_early"))),
        "examples that lost context to fit": training.get("n_truncated"),
        "trained parameters": _trained(training.get("n_trainable_parameters"), training.get("n_parameters")),
        "speed": f"{counters['tokens_per_s']:,.0f} tokens/s" if counters.get("tokens_per_s") else None,
        "arithmetic": training.get("dtype"),
    }


def _contexts(augmented: Mapping[str, Any]) -> dict[str, Any]:
    """What the training questions' contexts held, where it was not simply what retrieval found."""
    n_without, n_left_out = augmented.get("n_without_gold"), augmented.get("n_gold_left_out")
    left_out = f"{n_without:.0f}, {n_left_out:.0f} of them on purpose" if n_without and n_left_out is not None else None
    n_distracted = augmented.get("n_with_distractors")
    return {
        "training questions without their gold chunk": left_out,
        "with the gold chunk among near misses": f"{n_distracted:.0f}" if n_distracted else None,
    }


def _kept(best_step: int | None, *, stopped_early: bool) -> str | None:
    if best_step is None:
        return None
    step = "step 0: the base model’s own weights, no later ones were better" if best_step == 0 else f"step {best_step}"
    return f"{step}; stopped early" if stopped_early else step


def _trained(n_trainable: int | None, n_all: int | None) -> str | None:
    return f"{n_trainable:,} of {n_all:,}" if n_trainable and n_all else None
