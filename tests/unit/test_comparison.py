from radit_job.rag.comparison import compare, summarize
from radit_job.records import Score


def scores(arm, values, *, split="val", metric="token_f1"):
    return [
        Score(f"q{number}", arm, split, metric, value, None if value is not None else "failed")
        for number, value in enumerate(values)
    ]


def test_failures_are_counted_and_never_become_numbers():
    rows = summarize([*scores("base", [1.0, None, 0.5]), *scores("lm", [None, None, None])], samples=200, seed=1)
    mean = {"mean": 0.75, "low": 0.5, "high": 1.0, "n": 2}
    assert rows[0] == {"arm": "base", "split": "val", "metric": "token_f1", **mean, "n_failed": 1}
    nothing = {"mean": None, "low": None, "high": None, "n": 0}
    assert rows[1] == {"arm": "lm", "split": "val", "metric": "token_f1", **nothing, "n_failed": 3}


def test_pairs_are_taken_over_the_questions_that_both_arms_have():
    all_scores = [*scores("base", [0.0, 0.5, None, 1.0]), *scores("lm", [1.0, 1.0, 1.0, None])]
    (pair,) = compare(all_scores, ["token_f1"], samples=200, seed=1)
    assert pair["arm"] == "lm" and pair["against"] == "base"
    assert (pair["delta"], pair["n"]) == (0.75, 2)
    assert 0.5 <= pair["low"] <= 0.75 <= pair["high"] <= 1.0


def test_which_arms_are_compared():
    all_scores = [
        score
        for arm in ("closed_book", "base", "few_shot", "lm", "lm_closed_book", "retriever", "dual")
        for split in ("val", "train")
        for score in scores(arm, [0.1, 0.2], split=split)
    ]
    pairs = compare(all_scores, ["token_f1"], samples=100, seed=1)
    assert [(row["arm"], row["against"]) for row in pairs if row["split"] == "val"] == [
        ("few_shot", "base"),
        ("lm", "base"),
        ("lm_closed_book", "base"),
        ("retriever", "base"),
        ("dual", "base"),
        ("lm", "few_shot"),
        ("dual", "few_shot"),
        ("dual", "lm"),
        ("dual", "retriever"),
        ("base", "closed_book"),
        ("lm_closed_book", "closed_book"),
    ]
    assert len(pairs) == 22
    assert all(row["delta"] == row["low"] == row["high"] == 0 for row in pairs)


def test_other_pairs_can_be_named():
    all_scores = [*scores("few_shot", [0.5, 0.5]), *scores("dual", [1.0, 0.5]), *scores("base", [0.0, 0.0])]
    (pair,) = compare(all_scores, ["token_f1"], samples=100, seed=1, pairs=[("base", "dual")])
    assert (pair["arm"], pair["against"], pair["delta"]) == ("base", "dual", -0.75)
    assert compare(all_scores, ["token_f1"], samples=100, seed=1, pairs=[("lm", "dual")]) == []


def test_a_row_does_not_depend_on_the_other_metrics():
    alone = scores("base", [0.2, 0.9, 0.4, 0.1])
    more = [*alone, *scores("base", [5.0, 1.0, 2.0, 3.0], metric="answer_words")]
    assert summarize(more, samples=500, seed=3)[0] == summarize(alone, samples=500, seed=3)[0]
