"""What the numbers say, as sentences made by rule: no claim where the interval includes zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from radit_job.report import judge, retrieval
from radit_job.report.claims import Finding, claim
from radit_job.report.labels import arm_name, interval, metric_label, number
from radit_job.report.results import FEWEST_TO_CLAIM, TUNED_PAIRS, Results

HEADLINE_METRICS = ("token_f1", "rouge_l", "semantic_similarity", "correctness", "exact_match")
SUBJECTS = {"dual": "Tuned LM and retriever", "retriever": "Tuned retriever"}  # of the headline; else the tuned LM


def headline_metric(results: Results, split: str = "val") -> str | None:
    """The metric that the headline is about: the first of the usual ones that was measured."""
    measured = results.answer_metrics(split)
    return next((metric for metric in HEADLINE_METRICS if metric in measured), None)


def headline(results: Results) -> str:
    """The run's answer in one sentence."""
    metric = headline_metric(results)
    n = results.n_questions()
    if metric is None or n == 0:
        return "No held-out question was answered, so there is nothing to compare."
    name = metric_label(metric).name
    for arm, against in TUNED_PAIRS:
        tuned, base = results.mean(arm, metric), results.mean(against, metric)
        difference = results.difference(arm, against, metric)
        if tuned and base and difference:
            change = f"{name} {number(base.mean)} → {number(tuned.mean)}"
            prompted = results.difference("few_shot", "base", metric) if against == "base" else None
            alone = f" A few-shot prompt alone gives {claim(prompted)}." if prompted else ""
            both = results.difference("dual", "base", metric) if arm == "lm" else None
            besides = f" With the retriever tuned, too: {claim(both)}." if both else ""
            gain = f"{change}, a difference of {claim(difference)}."
            how = "" if against == "base" else ", both without retrieved chunks,"
            subject = SUBJECTS.get(arm, "Tuned LM")
            return f"{subject} against base{how} on {_questions(difference.n)}: {gain}{besides}{alone}"
    arms = [f"{arm_name(arm)} {_mean(results, arm, metric)}" for arm in results.arms if results.mean(arm, metric)]
    measured = "; ".join(arms) or "nothing could be measured"
    return f"{name[0].upper()}{name[1:]} on {_questions(n)}: {measured}. In this run {_missing(results, metric)}."


def _missing(results: Results, metric: str) -> str:
    """Why tuned and base LM cannot be compared."""
    if not any(results.mean(arm, metric) for arm, _ in TUNED_PAIRS):
        return "no tuned LM was evaluated"
    if not any(results.mean(against, metric) for _, against in TUNED_PAIRS):
        return "there is no base LM to compare it with"
    if any(results.mean(arm, metric) and results.mean(against, metric) for arm, against in TUNED_PAIRS):
        return "no question was measured for both the tuned and the base LM"
    return "one of tuned and base LM was asked with retrieved chunks and the other without, so they cannot be compared"


def findings(
    results: Results,
    *,
    reference_words: float | None = None,
    n_leaked: int = 0,
    settings: Mapping[str, Any] | None = None,
    retriever_training: Sequence[str] = (),
) -> list[Finding]:
    """What explains or limits the headline, most telling first; what was not measured is left out.

    Args:
        reference_words: mean length of the reference answers.
        n_leaked: held-out questions that stand with their answer in the corpus itself.
        settings: the run's; which model judges is looked up there, and how many chunks a question gets.
        retriever_training: what its training says of what can be expected of the tuned retriever.
    """
    metric = headline_metric(results)
    found = [
        _leakage(results, n_leaked),
        *(_decomposition(results, metric) if metric else []),
        _preference(results),
        _reference_loss(results),
        *retrieval.findings(results, metric, k=((settings or {}).get("retrieval") or {}).get("k")),
        Finding("The retriever’s training", " ".join(retriever_training), "note") if retriever_training else None,
        _length(results, reference_words),
        _retrieval(results, metric) if metric else None,
        _without_retrieval(results, metric) if metric else None,
        _over_fitting(results, metric) if metric else None,
        _failures(results),
        _judge(results, settings),
        _few_questions(results),
    ]
    return [finding for finding in found if finding]


def _leakage(results: Results, n_leaked: int) -> Finding | None:
    if not n_leaked:
        return None
    share = f"{n_leaked} of {_questions(results.n_questions())}"
    text = f"{share} stand with their answer as a record in the corpus itself: retrieval can hand the answer over."
    return Finding("Leakage", text, "worse")


def _decomposition(results: Results, metric: str) -> list[Finding]:
    """How much of a gain a prompt gives without any training, and what training adds to that."""
    name = metric_label(metric).name
    found = []
    if prompted := results.difference("few_shot", "base", metric):
        text = f"A few training pairs in the base LM’s prompt, without training, change {name} by {claim(prompted)}."
        found.append(Finding("Prompt alone", text, prompted.verdict))
    if beyond := results.difference("lm", "few_shot", metric):
        text = f"Against that few-shot prompt the tuned LM differs by {claim(beyond)}."
        found.append(Finding("Beyond the prompt", text, beyond.verdict))
    return found


def _preference(results: Results) -> Finding | None:
    row = results.mean("lm", "preference")
    if row is None:
        return None
    text = f"The judge’s choice between the tuned LM’s answer and the base LM’s: {judge.preferred(row)}."
    return Finding("Preference", text, judge.preference_verdict(row))


def _reference_loss(results: Results) -> Finding | None:
    difference = results.difference("lm", "base", "answer_nats_per_token")
    tuned, base = results.mean("lm", "answer_nats_per_token"), results.mean("base", "answer_nats_per_token")
    if not (difference and tuned and base):
        return None
    change = f"{number(base.mean)} → {number(tuned.mean)} nats per token"
    text = f"Loss of the held-out reference answers: {change}, {claim(difference)} (lower is better)."
    return Finding("Reference loss", text, difference.verdict)


def _length(results: Results, reference_words: float | None) -> Finding | None:
    words = {
        arm: row.mean for arm in results.arms if (row := results.mean(arm, "answer_words")) and row.mean is not None
    }
    if not words:
        return None
    listed = ", ".join(f"{arm_name(arm)} {number(value, 0)}" for arm, value in words.items())
    text = f"Words in an answer: {listed}"
    if reference_words is not None:
        text += f"; the reference answers have {number(reference_words, 0)}"
        if {"lm", "base"} <= words.keys() and _gap(words["lm"], reference_words) < _gap(words["base"], reference_words):
            text += ". Tuned answers come closer to that length, and part of any gain in word overlap is just this"
    difference = results.difference("lm", "base", "answer_words")
    return Finding("Length and style", text + ".", difference.verdict if difference else "note")


def _gap(words: float, reference_words: float) -> float:
    return abs(words - reference_words)


def _retrieval(results: Results, metric: str) -> Finding | None:
    difference = results.difference("base", "closed_book", metric)
    if difference is None:
        return None
    text = f"The retrieved chunks change the base LM’s {metric_label(metric).name} by {claim(difference)}."
    return Finding("Retrieval", text, difference.verdict)


def _without_retrieval(results: Results, metric: str) -> Finding | None:
    difference = results.difference("lm_closed_book", "closed_book", metric)
    if difference is None:
        return None
    text = f"Without retrieved chunks, tuning changes {metric_label(metric).name} by {claim(difference)}."
    return Finding("Knowledge in the weights", text, difference.verdict)


def _over_fitting(results: Results, metric: str) -> Finding | None:
    trained, held_out = results.mean("lm", metric, "train"), results.mean("lm", metric)
    if not (trained and held_out and trained.low is not None and held_out.high is not None):
        return None
    text = (
        f"On {trained.n} questions it was trained on, the tuned LM reaches {_mean(results, 'lm', metric, 'train')}, "
        f"held out {_mean(results, 'lm', metric)}"
    )
    if trained.low > held_out.high:
        if min(trained.n, held_out.n) < FEWEST_TO_CLAIM:
            return Finding("Over-fitting", f"{text}: too few questions for a claim.", "note")
        return Finding("Over-fitting", f"{text}: it has learned some of them by heart.", "worse")
    return Finding("Over-fitting", f"{text}: the intervals overlap.", "note")


def _judge(results: Results, settings: Mapping[str, Any] | None) -> Finding | None:
    cautions = judge.cautions(results, settings)
    return Finding("The judge", " ".join(cautions), "note") if cautions else None


def _failures(results: Results) -> Finding | None:
    failed = {arm: results.n_failed(arm) for arm in results.arms if results.n_failed(arm)}
    if not failed:
        return None
    listed = ", ".join(f"{arm_name(arm)} {count}" for arm, count in failed.items())
    return Finding("Failures", f"Questions that could not be measured, and count in no mean: {listed}.", "worse")


def _few_questions(results: Results) -> Finding | None:
    n = results.n_questions()
    if n >= 30:
        return None
    if n < FEWEST_TO_CLAIM:
        return Finding("Sample", f"{_questions(n)}: too few for any claim.", "note")
    text = f"With {_questions(n)} only large differences can be told from chance; more questions narrow every interval."
    return Finding("Sample", text, "note")


def _questions(n: int) -> str:
    return f"{n} held-out question{'' if n == 1 else 's'}"


def _mean(results: Results, arm: str, metric: str, split: str = "val") -> str:
    row = results.mean(arm, metric, split)
    return f"{number(row.mean)} {interval(row.low, row.high)}".strip() if row else "–"
