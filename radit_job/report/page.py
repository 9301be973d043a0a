"""The report: one self-contained HTML page, assembled from plain rows.

Everything from outside is escaped: by the template (autoescape), and in the figures by themselves.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from radit_job.hashing import short
from radit_job.records import CandidateScores, DocumentRow, Dropped, Prediction, Score
from radit_job.report import (
    figures,
    judge,
    labels,
    latency,
    latency_section,
    plots,
    provenance,
    retrieval,
    retriever_training,
    served,
    training,
)
from radit_job.report.answers import Comparison, compared_arms, comparisons, extremes
from radit_job.report.findings import findings, headline, headline_metric
from radit_job.report.preferences import preferences
from radit_job.report.results import FEWEST_TO_CLAIM, Mean, Results
from radit_job.report.spending import spending

FOLDER = Path(__file__).parent
ANSWERS_LISTED = 500  # questions in the list of all answers; more would make the page slow to open


@dataclass(frozen=True)
class Material:
    """Everything that the page shows, as plain rows."""

    results: Mapping[str, Any]  # results.json
    documents: Sequence[DocumentRow]
    dropped: Iterable[Dropped]
    questions_summary: Mapping[str, Any]  # questions/summary.json; empty where there is none
    n_questions: Mapping[str, int]  # "train" and "val"
    n_passages: int  # on which the held-out questions stand; a question whose passage is unknown has one of its own
    n_unknown_passages: int  # held-out questions whose passage is unknown
    training: Mapping[str, Any] | None  # lm/training.json; None when no LM was tuned
    retriever_training: Mapping[str, Any] | None  # retriever/training.json; None when no retriever was tuned
    lm_scores: Iterable[CandidateScores]  # what it learned from
    predictions: Sequence[Prediction]
    scores: Iterable[Score]
    pages: Mapping[str, int | None]  # chunk id -> page, of the retrieved chunks
    lineage: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any]
    latency: Mapping[str, Any] | None = None  # latency/latency.json; None where it was not measured


def render(material: Material) -> str:
    """The whole page as one HTML text without any reference to another resource."""
    results = Results(dict(material.results))
    reference_words = _reference_words(material.predictions)
    leaks = provenance.leaks(material.questions_summary, material.predictions)
    script = (FOLDER / "page.js").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals.update(
        number=labels.number,
        interval=labels.interval,
        short=short,
        duration=labels.duration,
        size=labels.size,
        bar=lambda share: _figure(figures.bar(share)),
        seconds=latency.seconds,
        rate=latency.rate,
        percent=latency.percent,
    )
    return environment.get_template("page.html.jinja").render(
        style=Markup((FOLDER / "page.css").read_text(encoding="utf-8")),  # noqa: S704 - our own file, not input
        script=Markup(script),  # noqa: S704 - our own file, not input
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        title=_title(material.documents),
        headline=headline(results),
        fewest_to_claim=FEWEST_TO_CLAIM,
        has_too_few=results.has_too_few(),
        facts=_facts(material),
        is_served=any(
            served.address(material.settings, role) for role in served.SHOWN
        ),  # long names and addresses want wide cells
        arms=[(arm, labels.arm_name(arm), labels.ARM_MEANINGS.get(arm, "")) for arm in results.arms],
        findings=findings(
            results,
            reference_words=reference_words,
            n_leaked=sum(row.is_held_out for row in leaks),
            settings=material.settings,
            retriever_training=retriever_training.cautions(material.retriever_training),
        ),
        overview=[_figure(svg) for svg in plots.overview(results)],
        tables=[_results_table(results, "val"), _results_table(results, "train")],
        differences=[_figure(svg) for svg in plots.differences(results)],
        lengths=_figure(plots.lengths(results, reference_words)),
        training=_training(material),
        retriever_training=_retriever_training(material),
        retrieval=retrieval.table(results),
        latency=_latency(material.latency),
        judge=judge.section(results, material.settings),
        judge_address=served.address(material.settings, "judge"),
        preference=_figure(plots.preference(results)),
        answers=_answers(material, results),
        losses=provenance.losses(material.documents, material.dropped, material.training, material.questions_summary),
        leaks=leaks,
        stages=provenance.stages(material.lineage),
        spending=spending(material.lineage),
        settings=yaml.safe_dump(dict(material.settings), sort_keys=False, allow_unicode=True, width=100),
        versions=provenance.versions(material.lineage),
    )


def _figure(svg: str) -> Markup:
    """Tell the template not to escape a figure."""
    return Markup(svg)  # noqa: S704 - the figures escape every text themselves


def _title(documents: Sequence[DocumentRow]) -> str:
    names = [row.document for row in documents if row.status == "read"]
    if not names:
        return "no document"
    return (
        names[0]
        if len(names) == 1
        else f"{names[0]} and {len(names) - 1} more document{'' if len(names) == 2 else 's'}"
    )


def _facts(material: Material) -> list[tuple[str, str, str]]:
    """(label, value, what more there is to say) of what was run."""
    read = [row for row in material.documents if row.status == "read"]
    n_pages, n_chunks = sum(row.n_pages for row in read), sum(row.n_chunks for row in read)
    n_val = material.n_questions.get("val", 0)
    seconds = sum(item.get("seconds") or 0.0 for item in material.lineage)
    return [
        ("documents", f"{len(read):,}", f"{n_pages:,} pages, {n_chunks:,} chunks"),
        ("training questions", f"{material.n_questions.get('train', 0):,}", ""),
        ("held-out questions", f"{n_val:,}", _passages(material)),
        *served.facts(material.settings, material.training),
        _context_fact(material.settings["retrieval"]),
        ("computing time", labels.duration(seconds), "all stages, cached ones included"),
    ]


def _passages(material: Material) -> str:
    """Where the held-out questions stand; those of which it is not known could not be kept apart from training."""
    n_unknown, n_known = material.n_unknown_passages, material.n_passages - material.n_unknown_passages
    known = f"on {n_known:,} passages, never asked in training"
    if not n_unknown:
        return known
    unknown = f"the chunks of {n_unknown:,} are not known, so training questions may stand on the same passages"
    return unknown + (f"; the others {known}" if n_known else "")


def _context_fact(settings: Mapping[str, Any]) -> tuple[str, str, str]:
    form = str(settings["context"])
    n_chunks = f"{settings['k']} chunk{'' if settings['k'] == 1 else 's'}"
    return "context of a question", n_chunks, labels.CONTEXT_MEANINGS.get(form, form)


def _reference_words(predictions: Sequence[Prediction]) -> float | None:
    references = {row.question_id: row.reference for row in predictions if row.split == "val"}
    return sum(len(text.split()) for text in references.values()) / len(references) if references else None


def _results_table(results: Results, split: str) -> dict[str, Any]:
    metrics = results.answer_metrics(split)
    rows = []
    for arm in results.arms:
        cells = [_cell(results, arm, metric, split) for metric in metrics]
        n = max((cell["row"].n for cell in cells if cell["row"]), default=0)
        rows.append(
            {"arm": arm, "name": labels.arm_name(arm), "cells": cells, "n": n, "n_failed": results.n_failed(arm, split)}
        )
    return {
        "split": split,
        "metrics": [labels.metric_label(metric) for metric in metrics],
        "rows": rows if metrics else [],
    }


def _cell(results: Results, arm: str, metric: str, split: str) -> dict[str, Any]:
    row: Mean | None = results.mean(arm, metric, split)
    difference = results.difference(arm, "base", metric, split) if arm != "base" else None
    verdict = difference.verdict if difference else ""
    if metric == "preference":  # is a comparison with base already
        verdict = judge.preference_verdict(row)
    return {"row": row, "verdict": verdict, "decimals": labels.metric_label(metric).decimals}


def _counters(lineage: Sequence[Mapping[str, Any]], stage: str) -> Mapping[str, Any]:
    return next((item.get("counters") or {} for item in lineage if item["stage"] == stage), {})


def _training(material: Material) -> dict[str, Any] | None:
    found = training.section(
        material.training, _counters(material.lineage, "finetune_lm"), _counters(material.lineage, "augment")
    )
    return found and {**found, "curve": _figure(found["curve"])}


def _retriever_training(material: Material) -> dict[str, Any] | None:
    found = retriever_training.section(material.retriever_training, preferences(material.lm_scores))
    return found and {**found, "curves": [_figure(found[name]) for name in ("divergence", "recall")]}


def _latency(plain: Mapping[str, Any] | None) -> dict[str, Any] | None:
    found = latency_section.section(plain)
    return found and {**found, **{name: _figure(found[name]) for name in latency_section.FIGURES}}


def _answers(material: Material, results: Results) -> dict[str, Any] | None:
    arms = results.arms or list(dict.fromkeys(row.arm for row in material.predictions))
    metric = headline_metric(results) or "token_f1"
    if not arms or not any(row.split == "val" for row in material.predictions):
        return None
    found = comparisons(material.predictions, material.scores, arms=arms, metric=metric, pages=material.pages)
    first, second = compared_arms(arms)
    worst, best = extremes(found)
    ordered = sorted(found, key=_by_difference)
    return {
        "metric": labels.metric_label(metric).name,
        "first": labels.arm_name(first),
        "second": labels.arm_name(second) if second else None,
        "worst": worst,
        "best": best,
        "all": ordered[:ANSWERS_LISTED],
        "n": len(ordered),
        "groups": Counter(row.group for row in found),
    }


def _by_difference(row: Comparison) -> tuple[bool, float, str]:
    return (row.difference is not None, row.difference or 0.0, row.question_id)
