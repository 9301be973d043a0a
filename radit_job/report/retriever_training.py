"""What the page says of the retriever's training: its curves, the epochs as a table, the facts, and what to expect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from radit_job.report import curves
from radit_job.report.curves import Line
from radit_job.report.labels import number
from radit_job.report.preferences import Preferences

FLAT = 0.95  # of the highest entropy there is: from here on the target says next to nothing
ONE_HOT = 0.05  # up to here it is the LM's likeliest chunk alone
RECALLS_DRAWN = 3  # as many lines as there are colours beside MRR's
DIVERGENCES = {"reverse": "KL(retriever ‖ target)", "forward": "KL(target ‖ retriever)"}


def section(training: Mapping[str, Any] | None, found: Preferences | None) -> dict[str, Any] | None:
    """Curves as SVG with the keys to their lines, the epochs as rows, facts by name; None without a tuned retriever.

    Args:
        training: retriever/training.json.
        found: what the LM's scores, from which it learned, say.
    """
    if training is None:
        return None
    epochs = training.get("epochs") or []
    ranks = _ranks(epochs)
    return {
        "divergence": _divergence(epochs, training.get("best_epoch")),
        "recall": _recall(epochs, ranks, training.get("best_epoch")),
        "keys": [*((f"recall-{at}", f"recall@{rank}") for at, rank in enumerate(_drawn(ranks))), ("mrr", "MRR")],
        "ranks": ranks,
        "n_gold": _n_gold(epochs),
        "has_phases": any(row.get("phase") == "contrastive" for row in epochs),
        "epochs": epochs,
        "best_epoch": training.get("best_epoch"),
        "cautions": cautions(training),
        "facts": {name: value for name, value in _facts(training, found).items() if value is not None},
    }


def cautions(training: Mapping[str, Any] | None) -> list[str]:
    """Why the tuned retriever cannot be expected to differ much, or to be trusted; empty where nothing says so."""
    if training is None:
        return []
    target = training.get("target") or {}
    entropy, highest = target.get("entropy_nats"), target.get("max_entropy_nats")
    said = []
    if entropy is not None and highest:
        amount = f"{_small(entropy)} of at most {number(highest)} nats"
        if entropy > FLAT * highest:
            said.append(
                f"The retriever’s target is nearly flat ({amount}): the LM hardly prefers any chunk to another, so "
                "there is next to nothing to learn. A lower finetune_retriever.lm_temperature makes it more pointed."
            )
        elif entropy < ONE_HOT * highest:
            said.append(
                f"The retriever’s target is nearly one-hot ({amount}): it is the LM’s likeliest chunk alone, however "
                "small its lead. A higher finetune_retriever.lm_temperature softens it."
            )
    if training.get("best_epoch") == 0:
        why = "No epoch was better on the training questions held out" if training.get("steps") else "No step was taken"
        said.append(
            f"{why}, so the untuned encoder was kept: the tuned retriever finds the same chunks as the untuned one."
        )
    return said


def _divergence(epochs: Sequence[Mapping[str, Any]], best: float | None) -> str:
    points = [(row["epoch"], row["dev_kl_nats"]) for row in epochs if row.get("dev_kl_nats") is not None]
    if not points:
        return ""
    lowest = min(value for _, value in points)
    return curves.epoch_curve(
        [Line("dev", points, name="KL, ")],
        best_epoch=best,
        title="Held-out KL divergence by epoch",
        description=f"KL in nats, from {points[0][1]:.3f} before training to {lowest:.3f} at its lowest",
    )


def _recall(epochs: Sequence[Mapping[str, Any]], ranks: Sequence[str], best: float | None) -> str:
    lines = [
        Line(f"recall-{at}", _series(epochs, rank), name=f"recall@{rank}, ") for at, rank in enumerate(_drawn(ranks))
    ]
    mrr = [(row["epoch"], row["dev_mrr"]) for row in epochs if row.get("dev_mrr") is not None]
    lines = [line for line in [*lines, Line("mrr", mrr, name="MRR, ")] if line.points]
    said = [f"{line.name}from {line.points[0][1]:.3f} to {line.points[-1][1]:.3f} in the last epoch" for line in lines]
    return curves.epoch_curve(
        lines, best_epoch=best, title="Held-out recall and MRR by epoch", description="; ".join(said)
    )


def _series(epochs: Sequence[Mapping[str, Any]], rank: str) -> list[tuple[float, float]]:
    found = [(row["epoch"], (row.get("dev_recall") or {}).get(rank)) for row in epochs]
    return [(epoch, value) for epoch, value in found if value is not None]


def _ranks(epochs: Sequence[Mapping[str, Any]]) -> list[str]:
    measured = {rank for row in epochs for rank, value in (row.get("dev_recall") or {}).items() if value is not None}
    return sorted(measured, key=int)


def _drawn(ranks: Sequence[str]) -> Sequence[str]:
    """Recall at the first ranks: they differ the most."""
    return ranks[:RECALLS_DRAWN]


def _facts(training: Mapping[str, Any], found: Preferences | None) -> dict[str, Any]:
    settings, target = training.get("settings") or {}, training.get("target") or {}
    steps = training.get("steps") or []
    rates = [row["learning_rate"] for row in steps if row.get("learning_rate") is not None]
    temperatures = settings.get("lm_temperature"), settings.get("retriever_temperature")
    return {
        "training questions": training.get("n_train"),
        "LSR learns nothing from, because the LM finds their chunks alike": target.get("n_flat") or None,
        "held out to choose the epoch": _held_out(training),
        "chunks weighed per question": training.get("n_candidates"),
        "entropy of the target": _entropy(target),
        "entropy of the retriever, first and last step": _from_to(steps, "retriever_entropy_nats"),
        "the LM’s likeliest and least likely chunk": _spread(found),
        "likeliest is a gold chunk": _gold(target, found),
        "loss": DIVERGENCES.get(settings.get("divergence", "")),
        "temperatures": None if None in temperatures else "LM {:g}, retriever {:g}".format(*temperatures),
        "kept encoder": _kept(training),
        "peak learning rate": f"{max(rates):.1e}" if rates else None,
        "trained parameters": _trained(training.get("n_trainable_parameters"), training.get("n_parameters")),
        "arithmetic": training.get("dtype"),
    }


def _held_out(training: Mapping[str, Any]) -> str | None:
    if not training.get("n_dev"):
        return None
    n_gold = next(
        (row["dev_n_gold"] for row in training.get("epochs") or [] if row.get("dev_n_gold") is not None), None
    )
    return f"{training['n_dev']}" + (f", gold chunk known of {n_gold}" if n_gold is not None else "")


def _n_gold(epochs: Sequence[Mapping[str, Any]]) -> int | None:
    return next((row["dev_n_gold"] for row in epochs if row.get("dev_n_gold") is not None), None)


def _entropy(target: Mapping[str, Any]) -> str | None:
    entropy, highest = target.get("entropy_nats"), target.get("max_entropy_nats")
    if entropy is None or not highest:
        return None
    return f"{_small(entropy)} of at most {number(highest)} nats ({100 * entropy / highest:.0f} %)"


def _from_to(steps: Sequence[Mapping[str, Any]], name: str) -> str | None:
    values = [row[name] for row in steps if row.get(name) is not None]
    return f"{_small(values[0])} → {_small(values[-1])} nats" if values else None


def _spread(found: Preferences | None) -> str | None:
    if found is None:
        return None
    return f"{_small(found.spread_nats_per_token)} nats per token apart (median of {found.n_questions})"


def _gold(target: Mapping[str, Any], found: Preferences | None) -> str | None:
    if found and found.n_gold:
        lm, retriever = (100 * n / found.n_gold for n in (found.n_lm_prefers_gold, found.n_retriever_prefers_gold))
        return f"{lm:.0f} % of {found.n_gold} (the untuned retriever’s first: {retriever:.0f} %)"
    share, n = target.get("top_is_gold_share"), target.get("n_gold_among_candidates")
    return f"{100 * share:.0f} % of {n}" if share is not None and n else None


def _kept(training: Mapping[str, Any]) -> str | None:
    if "best_epoch" not in training:
        return None
    best = training["best_epoch"]
    if best is None:
        held_out = "no held-out target said anything" if training.get("n_dev") else "nothing was held out to choose by"
        return f"the last weights: {held_out}"
    kept = f"epoch {best:g}" if best else "epoch 0: the untuned one, no later one was better"
    return f"{kept}; stopped early" if training.get("stopped_early") else kept


def _trained(n_trainable: int | None, n_all: int | None) -> str | None:
    return f"{n_trainable:,} of {n_all:,}" if n_trainable and n_all else None


def _small(value: float) -> str:
    """Two decimals, or three where two would show next to nothing."""
    return number(value, 2 if abs(value) >= 0.1 else 3)
