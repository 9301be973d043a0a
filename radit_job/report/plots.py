"""Which numbers of a run go into which figure."""

from __future__ import annotations

from collections.abc import Sequence

from radit_job.report import figures
from radit_job.report.figures import Group, Span
from radit_job.report.findings import headline_metric
from radit_job.report.judge import EVEN
from radit_job.report.labels import arm_name, interval, metric_label, number
from radit_job.report.results import Difference, Mean, Results

LENGTH = "answer_words"
SHORT_NAMES = {"lm_closed_book": "tuned closed"}  # the labels' margin is narrow
SHORT_AGAINST = SHORT_NAMES | {"base": "base", "retriever": "retriever"}  # behind the name of another arm


def overview(results: Results) -> list[str]:
    """The headline's metric for each arm with its interval, and those that see other sides of an answer."""
    measured = results.answer_metrics()
    wanted = [headline_metric(results), "correctness", "semantic_similarity", "answer_nats_per_token"]
    return [_overview(results, metric) for metric in dict.fromkeys(wanted) if metric in measured]


def _overview(results: Results, metric: str) -> str:
    return figures.interval_plot(
        [Group(_heading(metric), _means(results, metric))],
        title=f"{metric_label(metric).name} of each arm",
        description=_in_words(results, metric),
    )


def differences(results: Results) -> list[str]:
    """Forest plots of the paired differences: one for each unit, because an axis is shared by one unit only."""
    by_unit: dict[str, list[str]] = {}
    for metric in results.answer_metrics():
        if metric != LENGTH:
            by_unit.setdefault(metric_label(metric).unit, []).append(metric)
    plots = []
    for unit, metrics in by_unit.items():
        groups = [Group(_heading(metric), rows) for metric in metrics if (rows := _difference_rows(results, metric))]
        plot = figures.interval_plot(
            groups,
            title=f"Paired differences, {unit}",
            description="Differences with 95 % intervals: "
            + "; ".join(f"{group.heading}: {_listed(group.rows)}" for group in groups),
            mark=0.0,
            axis_label=f"difference, {unit}" if unit != "share" else "difference",
        )
        if plot:
            plots.append(plot)
    return plots


def lengths(results: Results, reference_words: float | None) -> str:
    """Words per answer of each arm, against the reference answers' mean."""
    rows = _means(results, LENGTH)
    if not rows:
        return ""
    return figures.interval_plot(
        [Group("", rows)],
        title="Words in an answer",
        description=_in_words(results, LENGTH),
        mark=reference_words,
        mark_label="" if reference_words is None else f"references: {number(reference_words, 1)}",
        axis_label="words, held-out questions",
    )


def preference(results: Results) -> str:
    """How often the judge prefers the tuned LM's answer to the base LM's, against even."""
    rows = _means(results, "preference")
    if not rows:
        return ""
    return figures.interval_plot(
        [Group("", rows)],
        title="Preferred over base",
        description=_in_words(results, "preference"),
        mark=EVEN,
        mark_label="even",
        axis_label="share of held-out questions, undecided ones half",
    )


def _means(results: Results, metric: str) -> tuple[Span, ...]:
    rows = [row for arm in results.arms if (row := results.mean(arm, metric))]
    return tuple(_mean_span(row) for row in rows)


def _mean_span(row: Mean) -> Span:
    decimals = 1 if row.metric == LENGTH else 2
    text = f"{number(row.mean, decimals)} {interval(row.low, row.high, decimals)}"
    return Span(_name(row.arm), row.mean or 0.0, row.low, row.high, f"arm-{row.arm}", text)


def _difference_rows(results: Results, metric: str) -> tuple[Span, ...]:
    found = [results.difference(arm, against, metric) for arm, against in results.shown_pairs()]
    return tuple(_difference_span(row) for row in found if row)


def _difference_span(row: Difference) -> Span:
    text = f"{number(row.delta, 2, signed=True)} {interval(row.low, row.high)}"
    label = f"{_name(row.arm)} − {SHORT_AGAINST.get(row.against) or arm_name(row.against)}"
    faint = "" if row.is_clear else " unclear"
    return Span(
        label, row.delta or 0.0, row.low, row.high, f"arm-{row.arm}{faint}", text, is_hollow=row.against != "base"
    )


def _name(arm: str) -> str:
    return SHORT_NAMES.get(arm, arm_name(arm))


def _heading(metric: str) -> str:
    label = metric_label(metric)
    return f"{label.name} (lower is better)" if label.better == "lower" else label.name


def _listed(rows: Sequence[Span]) -> str:
    return ", ".join(f"{row.label} {row.text}" for row in rows)


def _in_words(results: Results, metric: str) -> str:
    return _listed(_means(results, metric))
