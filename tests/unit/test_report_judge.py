"""What is said of the judge and of the money: on the page, in the findings and on the terminal."""

import io

import pytest
from rich.console import Console

from radit_job.report.findings import findings
from radit_job.report.judge import agreement, cautions, preferred, section
from radit_job.report.results import Mean, Results
from radit_job.report.spending import dollars, spending
from radit_job.report.terminal import results_table

COUNTS = {"n": 30, "n_wins": 12, "n_losses": 5, "n_ties": 9, "n_inconsistent": 4, "n_failed": 2}
JUDGE = {
    "model": "gpt-4o",
    "provider": "openai",
    "repeated": {"n": 20, "n_equal": 17, "mean_abs_difference": 0.2, "n_failed": 0},
    "preference": COUNTS | {"first_position_share": 0.55},
    "asked": {"correctness": {"n": 120, "n_failed": 3, "reasons": {"no score": 3}}},
}


def row(arm, metric, mean, low, high, n=30, n_failed=0):
    ends = {"mean": mean, "low": low, "high": high, "n": n, "n_failed": n_failed}
    return {"arm": arm, "split": "val", "metric": metric} | ends


def results(judge, *, share=(0.62, 0.52, 0.71), n=30):
    rows = [row(arm, "correctness", 3.0, 2.5, 3.5) for arm in ("base", "lm")]
    return {"arms": ["base", "lm"], "rows": [*rows, row("lm", "preference", *share, n=n)], "pairs": [], "judge": judge}


def text_of(found):
    console = Console(width=80, file=io.StringIO(), force_terminal=False)
    console.print(results_table(found))
    return " ".join(console.file.getvalue().split())


def test_the_terminal_tells_how_far_to_trust_the_judge():
    text = text_of(results(JUDGE))
    assert "The judge gave the same score to 17 of 20 answers when asked again; mean difference 0.2." in text
    assert "prefers the tuned LM on 12 and the base LM on 5; 9 tied, and on 4 its verdict changed" in text
    assert "2 could not be judged" in text and "judge: gpt-4o." in text
    assert "judge" not in text_of(results(None))


def test_a_preference_is_held_against_even():
    def verdict(low, high, n=30):
        found = results(JUDGE, share=((low + high) / 2, low, high), n=n)
        return next(item for item in findings(Results(found)) if item.topic == "Preference")

    assert verdict(0.52, 0.71).verdict == "better"
    assert verdict(0.3, 0.49).verdict == "worse"
    undecided = verdict(0.45, 0.71)
    assert undecided.verdict == "unclear" and "no preference one could claim" in undecided.text
    few = verdict(0.9, 1.0, n=5)
    assert few.verdict == "unclear" and "too few questions" in few.text
    assert preferred(Mean("lm", "val", "preference", 0.62, 0.52, 0.71, 30, 0)) == "0.62 [0.52, 0.71], where 0.5 is even"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"repeated": {"n": 20, "n_equal": 13, "mean_abs_difference": 0.3}}, "contradicts itself"),
        ({"repeated": {"n": 20, "n_equal": 18, "mean_abs_difference": 0.6}}, "contradicts itself"),
        ({"preference": COUNTS | {"first_position_share": 0.8}}, "stands first"),
        ({"preference": COUNTS | {"first_position_share": 0.3}}, "stands second"),
        (
            {"asked": {"faithfulness": {"n": 100, "n_failed": 6, "reasons": {}}}},
            "6 of 100 judgements of faithfulness failed: ",
        ),
        (
            {"asked": {"faithfulness": {"n": 100, "n_failed": 6, "reasons": {"no score": 2, "a content filter": 4}}}},
            "6 of 100 judgements of faithfulness failed (most often: a content filter): ",
        ),
        ({}, None),
        ({"repeated": None, "preference": None, "asked": {}}, None),
    ],
)
def test_a_judge_that_is_not_to_be_trusted_is_called_so(changes, said):
    found = Results(results(JUDGE | changes))
    texts = cautions(found)
    assert (len(texts), [said in text for text in texts]) == ((1, [True]) if said else (0, []))
    assert any(item.topic == "The judge" for item in findings(found)) == bool(said)


def test_a_model_that_judges_itself_is_named():
    lm = {"provider": "openai", "name": "gpt-4o", "base_url": "https://api.openai.com/v1", "concurrency": 8}
    found = Results(results(JUDGE))
    assert "whose answers it judges" in cautions(found, {"lm": lm, "judge": {**lm, "concurrency": 2}})[0]
    assert cautions(found, {"lm": lm, "judge": {**lm, "base_url": "http://localhost:8000/v1"}}) == []
    assert cautions(found, {"lm": lm, "judge": None}) == []


def test_why_a_judge_was_not_asked_again_is_said():
    assert "a local model" in agreement(JUDGE | {"repeated": None, "provider": "packaged"})
    assert "was not asked again" in agreement(JUDGE | {"repeated": None})
    assert agreement(JUDGE | {"repeated": None, "asked": {"preference": {"n": 2, "n_failed": 0, "reasons": {}}}}) == ""
    assert "3 of its second answers" in agreement(JUDGE | {"repeated": JUDGE["repeated"] | {"n_failed": 3}})


def test_without_a_judge_there_is_no_section():
    assert section(Results(results(None)), {}) is None
    found = section(Results(results(JUDGE)), {})
    assert found["rows"][0]["reasons"] == "no score: 3" and len(found["sentences"]) == 4


def spent(usd, n_calls=10, n_training_tokens=0):
    tokens = {"n_prompt_tokens": 100, "n_completion_tokens": 20, "n_training_tokens": n_training_tokens}
    return {"n_calls": n_calls, **tokens, "usd": usd}


def test_the_money_is_summed_and_what_has_no_price_is_said():
    lineage = [
        {"stage": "ingest", "spent": {}},
        {"stage": "generate", "run": "first", "spent": {"a": spent(0.5), "b": spent(0.0123)}},
        {"stage": "evaluate", "run": "second", "spent": {"a": spent(1.0)}},
    ]
    found = spending(lineage)
    assert [(row["stage"], row["model"], row["cost"]) for row in found["rows"]] == [
        ("generate", "a", "$0.5000"),
        ("generate", "b", "$0.0123"),
        ("evaluate", "a", "$1.00"),
    ]
    assert found["cost"] == "$1.51" and found["total"]["n_calls"] == 30 and not found["has_unknown"]
    unknown = spending([*lineage, {"stage": "answer", "spent": {"c": spent(None)}}])
    assert unknown["cost"] == "$1.51 and an unknown sum" and unknown["has_unknown"]
    assert spending([{"stage": "answer", "spent": {"c": spent(None)}}])["cost"] == "unknown"
    assert spending([{"stage": "ingest"}, {"stage": "index", "spent": {}}]) is None


def test_a_small_sum_is_not_nothing():
    assert [dollars(usd) for usd in (0.0, 0.00001, 0.0042, 12.3, None)] == [
        "$0.00",
        "< $0.0001",
        "$0.0042",
        "$12.30",
        "unknown",
    ]
