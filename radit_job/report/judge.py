"""The judge in words: how far it agrees with itself, what it prefers, and when to be careful with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from radit_job.report.labels import interval, metric_label, number
from radit_job.report.results import FEWEST_TO_CLAIM, Mean, Results, Verdict

EVEN = 0.5
POOR_AGREEMENT = 0.7  # of the scores that were the same again
POOR_DIFFERENCE = 0.5  # points
SWAYED = 0.1  # how far the first position's share may be from a half
MANY_FAILED = 0.05


def agreement(judge: Mapping[str, Any]) -> str:
    """How often it gave the same score again, or why nobody knows."""
    repeated = judge.get("repeated")
    if not judge.get("asked", {}).get("correctness"):
        return ""
    if repeated is None and judge.get("provider") not in (None, "openai"):
        return "It was not asked again: a local model that takes the most likely token would say the same."
    if not repeated or not repeated["n"]:
        return "Whether it agrees with itself is not known: it was not asked again."
    text = (
        f"The judge gave the same score to {repeated['n_equal']} of {repeated['n']} answers when asked again; "
        f"mean difference {repeated['mean_abs_difference']:.2g}."
    )
    n_failed = repeated.get("n_failed")
    return f"{text} {n_failed} of its second answers could not be read." if n_failed else text


def preference(judge: Mapping[str, Any]) -> str:
    """Wins, losses and what was neither, of the tuned LM against base."""
    counts = judge.get("preference")
    if not counts or not counts["n"]:
        return ""
    text = (
        f"Of {counts['n']} questions the judge prefers the tuned LM on {counts['n_wins']} and the base LM on "
        f"{counts['n_losses']}; {counts['n_ties']} tied, and on {counts['n_inconsistent']} its verdict changed with "
        f"the order of the answers"
    )
    return f"{text}; {counts['n_failed']} could not be judged." if counts["n_failed"] else f"{text}."


def position(judge: Mapping[str, Any]) -> str:
    """Whether the first answer has an advantage."""
    share = (judge.get("preference") or {}).get("first_position_share")
    if share is None:
        return ""
    went = f"{100 * share:.0f} % of its verdicts went to the answer that stood first"
    return f"{went}; each pair was asked in both orders."


def cautions(results: Results, settings: Mapping[str, Any] | None = None) -> list[str]:
    """What speaks against trusting the judge; empty where nothing does.

    Args:
        settings: the run's, of which the models are looked at; None where they are not known.
    """
    judge = results.judge
    if judge is None:
        return []
    found = []
    if settings and _same_model(settings.get("judge"), settings.get("lm")):
        found.append("The judge is the model whose answers it judges, and models tend to prefer their own kind.")
    repeated = judge.get("repeated") or {}
    if repeated.get("n") and _is_poor(repeated):
        text = "The judge often contradicts itself: of a difference no larger than its own nothing can be said"
        found.append(f"{text} ({repeated['mean_abs_difference']:.2g} points).")
    counts = judge.get("preference") or {}
    share = counts.get("first_position_share")
    if share is not None and abs(share - EVEN) > SWAYED:
        place = "first" if share > EVEN else "second"
        found.append(f"The judge leans to the answer that stands {place}; such verdicts count as undecided.")
    for metric, asked in judge.get("asked", {}).items():
        if asked["n"] and asked["n_failed"] / asked["n"] > MANY_FAILED:
            text = f"{asked['n_failed']} of {asked['n']} judgements of {metric_label(metric).name} failed"
            if reasons := asked["reasons"]:
                text += f" (most often: {max(reasons, key=reasons.__getitem__)})"
            found.append(f"{text}: the mean is of those that did not, which may be the easy ones.")
    return found


def _is_poor(repeated: Mapping[str, Any]) -> bool:
    share: float = repeated["n_equal"] / repeated["n"]
    return share < POOR_AGREEMENT or repeated["mean_abs_difference"] > POOR_DIFFERENCE


def _same_model(judge: Any, lm: Any) -> bool:
    names = ("provider", "name", "base_url")
    return bool(judge and lm) and [judge.get(name) for name in names] == [lm.get(name) for name in names]


def preferred(row: Mean | None) -> str:
    """`0.62 [0.51, 0.72], where 0.5 is even`, and what may not be concluded from it."""
    if row is None:
        return ""
    text = f"{number(row.mean)} {interval(row.low, row.high)}, where 0.5 is even"
    if row.n < FEWEST_TO_CLAIM:
        return f"{text}, on {row.n}: too few questions for a claim"
    return f"{text}: no preference one could claim" if preference_verdict(row) == "unclear" else text


def preference_verdict(row: Mean | None) -> Verdict:
    """Whether the interval of a preference excludes 0.5, on enough questions to mean something."""
    if row is None or row.low is None or row.high is None or row.n < FEWEST_TO_CLAIM:
        return "unclear"
    return "better" if row.low > EVEN else "worse" if row.high < EVEN else "unclear"


def section(results: Results, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the page says of the judge; None without one."""
    if results.judge is None:
        return None
    preferred_share = preferred(results.mean("lm", "preference"))
    said = [
        preference(results.judge),
        f"That is {preferred_share}." if preferred_share else "",
        position(results.judge),
        agreement(results.judge),
    ]
    return {
        "model": results.judge.get("model") or "unknown",
        "rows": asked_rows(results.judge),
        "sentences": [text for text in said if text],
        "cautions": cautions(results, settings),
    }


def asked_rows(judge: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Per metric: how many judgements were asked for, how many failed, and why."""
    return [
        {
            "label": metric_label(metric),
            "n": asked["n"],
            "n_failed": asked["n_failed"],
            "reasons": ", ".join(f"{reason}: {count}" for reason, count in asked["reasons"].items()),
        }
        for metric, asked in judge.get("asked", {}).items()
    ]
