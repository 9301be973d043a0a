import csv
import io
import subprocess
import sys

import pytest
from rich.console import Console

from radit_job.report.terminal import results_csv, results_table, runs_table

METRICS = ("exact_match", "token_f1", "rouge_l", "semantic_similarity", "answer_nats_per_token", "answer_words")
ARMS = ("closed_book", "base", "few_shot", "lm")


def results(run="quickstart", *, metrics=METRICS, arms=ARMS, pairs=True, n=38):
    worst = {"answer_words": (110.4, 101.2, 121.9)}
    rows = [
        {"arm": arm, "split": "val", "metric": metric, "mean": value, "low": low, "high": high, "n": n, "n_failed": 0}
        for arm in arms
        for metric in metrics
        for value, low, high in [worst.get(metric, (0.61, 0.54, 0.67))]
    ]
    rows += [
        {"arm": "base", "split": "val", "metric": metric, "mean": 0.7, "low": 0.6, "high": 0.8, "n": n, "n_failed": 0}
        for metric in ("recall_at_1", "recall_at_3", "recall_at_5", "mrr")
    ]
    compared = [("lm", "base"), ("few_shot", "base"), ("lm", "few_shot"), ("closed_book", "base")] if pairs else []
    ends = {"lm": (-0.28, -0.42, -0.12), "few_shot": (0.07, -0.02, 0.17), "closed_book": (-0.28, -0.42, -0.12)}
    return {
        "run": run,
        "arms": list(arms),
        "rows": rows,
        "pairs": [
            {
                "arm": arm,
                "against": against,
                "split": "val",
                "metric": metric,
                "delta": delta,
                "low": low,
                "high": high,
                "n": n,
            }
            for arm, against in compared
            for metric in metrics
            for delta, low, high in [ends[arm]]
        ],
    }


def printed(renderable):
    console = Console(width=80, file=io.StringIO(), force_terminal=False)
    console.print(renderable)
    return console.file.getvalue()


@pytest.mark.parametrize("metrics", [METRICS, (*METRICS, "correctness"), ("token_f1",)])
def test_no_line_is_wider_than_80_columns(metrics):
    for text in (
        printed(results_table(results(metrics=metrics))),
        printed(
            runs_table([results(metrics=metrics), results("a-run-with-a-name-of-forty-characters-xx", metrics=metrics)])
        ),
    ):
        assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
        assert "…" not in text.replace("a-run-with-a-name-of-fo…", "")


def test_the_usual_metrics_fit_one_table():
    assert printed(results_table(results())).count("closed_book") == 2  # once with its means, once against base


def test_a_difference_is_marked_where_its_interval_excludes_zero():
    text = printed(results_table(results()))
    assert "-0.28*" in text
    assert "-.42, -.12" in text
    assert "+0.07 " in text
    assert "+0.07*" not in text


def test_a_rounded_zero_has_no_sign():
    plain = results(metrics=("token_f1",))
    plain["rows"][0] |= {"mean": -0.001, "low": -0.004, "high": 0.003}
    plain["pairs"][0] |= {"delta": 0.001, "low": -0.004, "high": 0.1}
    text = printed(results_table(plain))
    assert "-0.00" not in text
    assert "+0.00" not in text
    assert "-.00" not in text


def test_nothing_is_marked_on_few_questions():
    text = printed(results_table(results(n=3)))
    assert "0.28*" not in text
    assert "too few" in text
    assert "excludes 0" not in text  # the intervals do


def test_the_legend_says_of_each_sample_what_is_true():
    def legend(*samples):
        plain = results(metrics=("token_f1",))
        pairs = [plain["pairs"][0] | {"low": low, "high": high, "n": n} for low, high, n in samples]
        return " ".join(printed(results_table(plain | {"pairs": pairs})).split("(lower): lower is better.")[1].split())

    none = "interval excludes 0: no difference one could claim."
    few = "Fewer than 8 questions: too few for a claim."
    assert legend((-0.1, 0.2, 38)) == f"No difference's {none}"
    assert legend((0.1, 0.2, 7)) == legend((-0.1, 0.2, 7)) == few
    assert legend((0.1, 0.2, 7), (-0.1, 0.2, 8)) == (
        f"No difference's interval on 8 or more questions excludes 0: no difference one could claim. {few}"
    )
    assert legend((0.1, 0.2, 8)) == "*: the difference's interval excludes 0."


def test_without_pairs_or_rows_the_table_still_prints():
    assert "vs base" not in printed(results_table(results(pairs=False)))
    assert "No results" in printed(results_table({"arms": [], "rows": [], "pairs": []}))
    assert "No results" in printed(runs_table([]))


def test_runs_stand_below_each_other_for_each_arm():
    lines = [line.split() for line in printed(runs_table([results("one"), results("two")])).splitlines()]
    labels = [line[0] for line in lines if line]
    position = labels.index("base")
    assert labels[position : position + 3] == ["base", "one", "two"]


def test_runs_of_one_name_are_told_apart():
    text = printed(runs_table([results("same"), results("same")]))
    assert "same (1)" in text
    assert "same (2)" in text


def test_the_csv_holds_every_row_and_pair():
    plain = results()
    rows = list(csv.DictReader(io.StringIO(results_csv(plain, results("two")))))
    assert len(rows) == 2 * (len(plain["rows"]) + len(plain["pairs"]))
    found = [
        row
        for row in rows
        if (row["run"], row["kind"], row["arm"], row["against"], row["metric"])
        == ("two", "difference", "lm", "base", "token_f1")
    ]
    assert [(row["value"], row["low"], row["high"], row["n"]) for row in found] == [("-0.28", "-0.42", "-0.12", "38")]


def test_the_controller_can_import_it_cheaply():
    code = "import sys, radit_job.report.terminal; print({'torch', 'numpy', 'jinja2', 'yaml'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "set()"
    )
