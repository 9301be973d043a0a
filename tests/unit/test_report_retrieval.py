"""What is said of the tuned retriever: its own figures, what they are worth for answers; no gain out of an interval."""

import io

import pytest
from rich.console import Console

from radit_job.report.findings import findings
from radit_job.report.results import Results
from radit_job.report.retrieval import table
from radit_job.report.terminal import results_table, runs_table

ENDS = {"better": (0.08, 0.02, 0.15), "worse": (-0.08, -0.15, -0.02), "unclear": (0.08, -0.01, 0.15)}


def mean(arm, metric, value, n=38):
    ends = {"mean": value, "low": value - 0.1, "high": value + 0.1, "n": n, "n_failed": 0}
    return {"arm": arm, "split": "val", "metric": metric} | ends


def pair(arm, against, metric, ends, n=38):
    delta, low, high = ends
    fields = {"split": "val", "metric": metric, "delta": delta, "low": low, "high": high, "n": n}
    return {"arm": arm, "against": against} | fields


def results(recall="better", answers="unclear", *, untuned="base", tuned="retriever", n=38, run=""):
    arms = ["base", "lm", "retriever", "dual"]
    rows = [mean(arm, "token_f1", 0.4, n) for arm in arms]
    rows += [mean(arm, metric, value, n) for metric in ("mrr", "recall_at_10", "recall_at_3", "recall_at_1")
             for arm, value in ((untuned, 0.6), (tuned, 0.68))]  # fmt: skip
    pairs = [pair(arm, "base", "token_f1", ENDS[answers], n) for arm in arms[1:]]
    pairs.append(pair("dual", "lm", "token_f1", ENDS[answers], n))
    pairs += [
        pair(tuned, untuned, metric, ENDS[recall], n) for metric in ("recall_at_1", "recall_at_3", "recall_at_10")
    ]
    pairs.append(pair(tuned, untuned, "mrr", ENDS["unclear"], n))
    return {"run": run, "arms": arms, "rows": rows, "pairs": pairs}


def said(plain, k=3):
    settings = {"retrieval": {"k": k}, "lm": {}, "judge": None}
    return {found.topic: found for found in findings(Results(plain), settings=settings)}


def printed(renderable):
    console = Console(width=80, file=io.StringIO(), force_terminal=False)
    console.print(renderable)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("verdict", "text"),
    [
        ("better", "The tuned retriever gained: recall@3 0.60 → 0.68, a difference of +0.08 [0.02, 0.15]."),
        ("worse", "The tuned retriever lost: recall@3 0.60 → 0.68, a difference of −0.08 [−0.15, −0.02]."),
        (
            "unclear",
            "The tuned retriever shows no gain that one could claim: recall@3 0.60 → 0.68, "
            "a difference of +0.08 [−0.01, 0.15].",
        ),
    ],
)
def test_one_sentence_says_whether_the_retriever_gained(verdict, text):
    found = said(results(verdict))["Retriever"]
    assert (found.text, found.verdict) == (text, verdict)


@pytest.mark.parametrize("verdict", ["better", "worse", "unclear"])
def test_its_worth_for_answers_is_claimed_only_outside_zero(verdict):
    found = said(results("better", verdict))
    begins = {
        "better": "The tuned retriever makes the tuned LM better: token F1 0.40 → 0.40, ",
        "worse": "The tuned retriever makes the tuned LM worse: ",
        "unclear": "The tuned retriever adds nothing that one could claim to the tuned LM: ",
    }
    assert found["Both halves"].text.startswith(begins[verdict]) and found["Both halves"].verdict == verdict
    assert ("no difference one could claim" in found["Answers on its chunks"].text) == (verdict == "unclear")


def test_few_questions_are_no_gain():
    found = said(results("better", "better", n=7))
    assert (
        "shows no gain" in found["Retriever"].text and "on 7 questions, too few for a claim" in found["Retriever"].text
    )
    assert "adds nothing that one could claim" in found["Both halves"].text
    assert "*" not in printed(results_table(results("better", "better", n=7)))


def test_the_recall_that_counts_is_that_of_the_chunks_the_lm_sees():
    assert "recall@10" in said(results(), k=10)["Retriever"].text
    assert "MRR" in said(results(), k=4)["Retriever"].text  # not measured at 4


@pytest.mark.parametrize(("untuned", "tuned"), [("base", "retriever"), ("few_shot", "dual"), ("lm", "dual")])
def test_each_retriever_is_found_under_whatever_arm_it_was_measured(untuned, tuned):
    rows = Results(results(untuned=untuned, tuned=tuned)).retrieval()
    assert [row.metric for row in rows] == ["recall_at_1", "recall_at_3", "recall_at_10", "mrr"]
    for row in rows:
        assert (row.untuned.arm, row.tuned.arm) == (untuned, tuned)
        assert (row.difference.arm, row.difference.against) == (tuned, untuned)


def test_equal_figures_of_two_retrievers_stay_two():
    plain = results()
    for row in plain["rows"]:
        row["mean"] = 0.6
    assert all(row.untuned and row.tuned for row in Results(plain).retrieval())
    assert table(Results(plain))["has_both"]


def test_without_a_tuned_retriever_nothing_is_said_of_one():
    plain = results()
    plain["rows"] = [row for row in plain["rows"] if row["arm"] in ("base", "lm")]
    plain["pairs"] = [row for row in plain["pairs"] if (row["arm"], row["against"]) == ("lm", "base")]
    plain["arms"] = ["base", "lm"]
    assert not {"Retriever", "Answers on its chunks", "Both halves"} & set(said(plain))
    assert not table(Results(plain))["has_both"]
    text = printed(results_table(plain))
    assert "retrieval, n = 38: recall@1 0.60" in text and "vs untuned" not in text
    assert "tuned - untuned" not in printed(runs_table([plain]))


def test_a_retriever_s_pair_is_no_comparison_of_answers():
    plain = results(untuned="few_shot")
    assert ("retriever", "few_shot") not in Results(plain).shown_pairs()
    assert Results(plain).shown_pairs()[:3] == [("lm", "base"), ("dual", "base"), ("dual", "lm")]


def test_the_terminal_shows_both_retrievers_and_marks_only_what_is_clear():
    text = printed(results_table(results("better", "unclear")))
    below = text[text.index("retrieval, 38 questions whose gold chunk is known") :]
    lines = [line.split() for line in below.splitlines()]
    assert lines[1] == ["recall@1", "recall@3", "recall@10", "MRR"]
    tuned = [line for line in lines if line and line[0] == "tuned"]
    assert tuned == [["tuned", "0.68", "0.68", "0.68", "0.68"], ["tuned", "+0.08*", "+0.08*", "+0.08*", "+0.08"]]
    assert "*: the difference's interval excludes 0." in text  # though that of no answer does
    assert "No difference's interval" in printed(results_table(results("unclear", "unclear")))
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80


def test_several_runs_show_their_retrievers_side_by_side():
    text = printed(runs_table([results("better", run="seed-1"), results("unclear", run="seed-2")]))
    lines = [line.split() for line in text[text.index("retrieval, ") :].splitlines() if line.strip()]
    at = lines.index(["tuned", "-", "untuned"])
    assert lines[at + 1] == ["seed-1", "+0.08*", "+0.08*", "+0.08*", "+0.08"]
    assert lines[at + 3] == ["seed-2", "+0.08", "+0.08", "+0.08", "+0.08"]
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
