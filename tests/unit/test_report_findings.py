import pytest

from radit_job.report.claims import NO_CLAIM, claim
from radit_job.report.findings import findings, headline
from radit_job.report.results import Difference, Results


def mean(arm, metric, value, low, high, *, split="val", n=38, n_failed=0):
    return {
        "arm": arm,
        "split": split,
        "metric": metric,
        "mean": value,
        "low": low,
        "high": high,
        "n": n,
        "n_failed": n_failed,
    }


def pair(arm, against, metric, delta, low, high, *, n=38):
    return {
        "arm": arm,
        "against": against,
        "split": "val",
        "metric": metric,
        "delta": delta,
        "low": low,
        "high": high,
        "n": n,
    }


def plain(rows, pairs=()):
    return {"arms": list(dict.fromkeys(row["arm"] for row in rows)), "rows": list(rows), "pairs": list(pairs)}


BOTH = [mean("base", "token_f1", 0.24, 0.2, 0.28), mean("lm", "token_f1", 0.49, 0.4, 0.58)]


def difference(delta, low, high, *, n=38, metric="token_f1"):
    return Difference("lm", "base", "val", metric, delta, low, high, n)


def test_the_headline_states_the_gain_with_its_interval():
    results = Results(plain(BOTH, [pair("lm", "base", "token_f1", 0.25, 0.14, 0.36)]))
    assert headline(results) == (
        "Tuned LM against base on 38 held-out questions: token F1 0.24 → 0.49, a difference of +0.25 [0.14, 0.36]."
    )


def test_the_headline_adds_what_a_prompt_alone_gives():
    pairs = [pair("lm", "base", "token_f1", 0.25, 0.14, 0.36), pair("few_shot", "base", "token_f1", 0.07, -0.01, 0.15)]
    assert f"A few-shot prompt alone gives +0.07 [−0.01, 0.15]: {NO_CLAIM}." in headline(Results(plain(BOTH, pairs)))


def test_without_retrieval_the_tuned_lm_is_held_against_the_base_lm_without_it():
    rows = [
        mean("closed_book", "token_f1", 0.3, 0.2, 0.4),
        mean("base", "token_f1", 0.5, 0.4, 0.6),
        mean("lm_closed_book", "token_f1", 0.6, 0.5, 0.7),
    ]
    pairs = [
        pair("few_shot", "base", "token_f1", 0.07, 0.01, 0.15),
        pair("lm_closed_book", "closed_book", "token_f1", 0.3, 0.2, 0.4),
    ]
    assert headline(Results(plain(rows, pairs))) == (
        "Tuned LM against base, both without retrieved chunks, on 38 held-out questions: "
        "token F1 0.30 → 0.60, a difference of +0.30 [0.20, 0.40]."
    )


def test_the_headline_says_what_both_halves_give_beside_the_tuned_lm():
    pairs = [pair("lm", "base", "token_f1", 0.25, 0.14, 0.36), pair("dual", "base", "token_f1", 0.26, 0.15, 0.37)]
    said = headline(Results(plain([*BOTH, mean("dual", "token_f1", 0.5, 0.4, 0.6)], pairs)))
    assert said.endswith("a difference of +0.25 [0.14, 0.36]. With the retriever tuned, too: +0.26 [0.15, 0.37].")


def test_without_the_lm_half_the_headline_is_about_what_was_tuned():
    rows = [BOTH[0], mean("retriever", "token_f1", 0.25, 0.2, 0.3), mean("dual", "token_f1", 0.5, 0.4, 0.6)]
    pairs = [pair(arm, "base", "token_f1", 0.01, -0.02, 0.04) for arm in ("retriever", "dual")]
    assert headline(Results(plain(rows, pairs))).startswith("Tuned LM and retriever against base on 38")
    said = headline(Results(plain(rows[:2], pairs[:1])))
    assert said.startswith("Tuned retriever against base on 38") and said.endswith(f"+0.01 [−0.02, 0.04]: {NO_CLAIM}.")


def test_an_interval_that_includes_zero_is_no_claim():
    results = Results(plain(BOTH, [pair("lm", "base", "token_f1", 0.05, -0.015, 0.09)]))
    assert NO_CLAIM in headline(results)


@pytest.mark.parametrize(
    ("delta", "low", "high", "metric", "verdict"),
    [
        (0.2, 0.1, 0.3, "token_f1", "better"),
        (-0.2, -0.3, -0.1, "token_f1", "worse"),
        (-0.2, -0.3, -0.1, "answer_nats_per_token", "better"),
        (0.2, 0.1, 0.3, "answer_nats_per_token", "worse"),
        (-9.0, -12.0, -5.0, "answer_words", "different"),
        (0.2, 0.0, 0.3, "token_f1", "unclear"),
        (0.2, -0.1, 0.3, "token_f1", "unclear"),
    ],
)
def test_a_verdict_knows_which_way_is_better(delta, low, high, metric, verdict):
    assert difference(delta, low, high, metric=metric).verdict == verdict


def test_few_questions_are_never_a_claim():
    one = difference(0.4, 0.4, 0.4, n=1)
    assert one.verdict == "unclear"
    assert claim(one) == "+0.40 [0.40, 0.40] on 1: too few questions for a claim"


def test_a_small_end_keeps_its_side_of_zero():
    assert claim(difference(0.05, 0.002, 0.098)) == "+0.050 [0.002, 0.098]"


def test_a_pair_is_found_in_both_directions():
    results = Results(plain(BOTH, [pair("closed_book", "base", "token_f1", -0.1, -0.2, -0.05)]))
    turned = results.difference("base", "closed_book", "token_f1")
    assert (turned.delta, turned.low, turned.high) == (0.1, 0.05, 0.2)


def test_length_is_named_as_part_of_the_gain_only_when_it_is():
    words = [mean("base", "answer_words", 38.0, 30, 46), mean("lm", "answer_words", 21.0, 18, 24)]
    said = {finding.topic: finding.text for finding in findings(Results(plain(BOTH + words)), reference_words=19.0)}
    assert "part of any gain in word overlap is just this" in said["Length and style"]
    said = {finding.topic: finding.text for finding in findings(Results(plain(BOTH + words)), reference_words=40.0)}
    assert "part of any gain" not in said["Length and style"]


def test_over_fitting_is_said_when_the_intervals_part():
    apart = [*BOTH, mean("lm", "token_f1", 0.8, 0.7, 0.9, split="train", n=16)]
    together = [*BOTH, mean("lm", "token_f1", 0.6, 0.5, 0.7, split="train", n=16)]
    by_rows = {
        name: {f.topic: f for f in findings(Results(plain(rows)))}
        for name, rows in (("apart", apart), ("together", together))
    }
    assert by_rows["apart"]["Over-fitting"].verdict == "worse"
    assert by_rows["together"]["Over-fitting"].verdict == "note"


def test_few_questions_are_no_sign_of_over_fitting_nor_of_anything():
    rows = [
        mean("lm", "token_f1", 0.49, 0.4, 0.58, n=7),
        mean("lm", "token_f1", 0.8, 0.7, 0.9, split="train", n=16),
    ]
    found = {finding.topic: finding for finding in findings(Results(plain(rows)))}
    assert found["Over-fitting"].verdict == "note" and "too few questions for a claim" in found["Over-fitting"].text
    assert found["Sample"].text == "7 held-out questions: too few for any claim."
    more = {finding.topic: finding for finding in findings(Results(plain([{**row, "n": 8} for row in rows])))}
    assert "only large differences can be told from chance" in more["Sample"].text


def test_failed_questions_are_named():
    rows = [mean("base", "token_f1", 0.24, 0.2, 0.28), mean("lm", "token_f1", 0.49, 0.4, 0.58, n=35, n_failed=3)]
    assert any(f.topic == "Failures" and "tuned LM 3" in f.text for f in findings(Results(plain(rows))))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], "nothing to compare"),
        ([mean("base", "token_f1", None, None, None, n=0)], "nothing to compare"),
        (BOTH[:1], "no tuned LM was evaluated"),
        (BOTH[1:], "no base LM to compare it with"),
        ([BOTH[0], mean("lm_closed_book", "token_f1", 0.4, 0.3, 0.5)], "with retrieved chunks and the other without"),
        ([BOTH[1], mean("closed_book", "token_f1", 0.1, 0.0, 0.2)], "with retrieved chunks and the other without"),
        (BOTH, "no question was measured for both"),
        ([mean("base", "token_f1", None, None, None, n=0, n_failed=4)], "nothing could be measured"),
    ],
)
def test_a_run_without_a_comparison_says_so(rows, expected):
    results = Results(plain(rows))
    assert expected in headline(results)
    findings(results)
