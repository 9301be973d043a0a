"""evaluate with a judge behind an API: 60 answers of five arms against the test server, by the official client."""

import dataclasses
import json

import pytest
from facts import PARAGRAPHS, make_config

from radit_job.config.slices import EvaluateSlice
from radit_job.models.cost import Price
from radit_job.models.ledger import Ledger
from radit_job.observe import send_events_to
from radit_job.records import Prediction, Score, read_rows, write_rows
from radit_job.stages import evaluate
from tests.servers.openai_server import Habits, openai_server

ARMS = ("closed_book", "base", "few_shot", "lm", "lm_closed_book")
JUDGED = ["correctness", "faithfulness", "relevancy", "preference"]
N_QUESTIONS = 12


def answer_of(arm, number, text, reference):
    if "closed" in arm:
        return "I do not know that."
    if arm == "lm":
        return f"It is {reference}." if number % 3 else "It is water."
    return text if arm == "base" else f"{reference}, as the text says"


def predictions():
    for number in range(N_QUESTIONS):
        text, question, reference = PARAGRAPHS[number % len(PARAGRAPHS)]
        for arm in ARMS:
            yield Prediction(
                question_id=f"q{number}",
                arm=arm,
                split="val" if number < 10 else "train",
                question=question,
                reference=reference,
                answer=answer_of(arm, number, text, reference),
                chunk_ids=() if "closed" in arm else (f"facts.txt#{number % len(PARAGRAPHS):05d}",),
                scores=() if "closed" in arm else (0.5,),
                gold_chunk_ids=(),
                gold_rank=None,
                n_prompt_tokens=10,
                n_completion_tokens=5,
                finish_reason="stop",
                answer_nats_per_token=None,
                error=None,
            )


@pytest.fixture
def evaluated(chunks, tmp_path, monkeypatch):
    """Runs evaluate; (results, scores) of each call, on the same ledger where it is given again."""

    def run(server, name, *, ledger=None, metrics=JUDGED, rows=None, **evaluate_section):
        for variable, value in server.environment.items():
            monkeypatch.setenv(variable, value)
        folder, out = tmp_path / "predictions", tmp_path / name
        write_rows(folder / "predictions.jsonl", rows or list(predictions()))
        key = {"api_key_env": "OPENAI_API_KEY"}
        judge = {"provider": "openai", "name": "gpt-4o-mini", "base_url": server.url, "timeout_s": 10} | key
        sections = {"metrics": metrics, "arms": list(ARMS), **evaluate_section}
        config = EvaluateSlice.of(make_config(models={"judge": judge}, evaluate=sections))
        evaluate.run(config, predictions=folder, chunks=chunks, out=out, scratch=tmp_path, ledger=ledger)
        results = json.loads((out / "results" / "results.json").read_text())
        return results, list(read_rows(out / "scores" / "scores.jsonl", Score))

    return run


def test_every_judged_metric_is_measured_and_paid_for_once(evaluated, tmp_path):
    ledger = Ledger(tmp_path / "paid", prices={"gpt-4o-mini": Price(0.15, 0.6)})
    with openai_server() as server:
        results, scores = evaluated(server, "first", ledger=ledger)
        n_billed = server.billed["chat"]
        assert list(server.books.duplicates("chat").values()) == [2] * 20  # the repeats, and nothing else
        again, _ = evaluated(server, "again", ledger=Ledger(tmp_path / "paid"))
        assert server.billed["chat"] == n_billed  # a killed pod pays for nothing twice
    assert again == results
    table = {(row["arm"], row["split"], row["metric"]): row for row in results["rows"]}
    by_metric = {metric: [score for score in scores if score.metric == metric] for metric in JUDGED}
    assert [len(by_metric[metric]) for metric in JUDGED] == [60, 36, 36, 12]
    assert all(score.value is not None for judged in by_metric.values() for score in judged)
    assert table["lm", "val", "correctness"]["mean"] > table["closed_book", "val", "correctness"]["mean"] + 1
    assert table["base", "val", "faithfulness"]["mean"] == 1 > table["lm", "val", "faithfulness"]["mean"]
    assert ("lm_closed_book", "val", "faithfulness") not in table
    preference = table["lm", "val", "preference"]
    assert preference["n"] == 10 and preference["low"] < preference["mean"] < preference["high"]
    assert not any(row["metric"] == "preference" for row in results["pairs"])
    judge = results["judge"]
    assert judge["model"] == "gpt-4o-mini"
    counts = judge["preference"]
    assert sum(counts[name] for name in ("n_wins", "n_losses", "n_ties", "n_inconsistent")) == counts["n"] == 10
    assert preference["mean"] == pytest.approx(
        (counts["n_wins"] + (10 - counts["n_wins"] - counts["n_losses"]) / 2) / 10
    )
    assert counts["first_position_share"] == 0.5
    assert judge["repeated"] == {"n": 20, "n_equal": 20, "mean_abs_difference": 0.0, "n_failed": 0}
    asked = sum(item["n"] for item in judge["asked"].values())
    assert n_billed == asked + 20 == ledger.spent["gpt-4o-mini"].usage.n_calls
    assert ("lm_closed_book", "closed_book") in {(row["arm"], row["against"]) for row in results["pairs"]}


def test_a_judge_that_wavers_is_found_out(evaluated):
    with openai_server(habits=Habits(judge_unsteady_share=0.3)) as server:
        results, _ = evaluated(server, "out", metrics=["correctness"], judge_repeats=30)
    repeated = results["judge"]["repeated"]
    assert repeated["n"] == 30 and 5 < repeated["n_equal"] < 28
    assert 0 < repeated["mean_abs_difference"] < 1


def test_a_judge_that_likes_what_stands_first_prefers_nobody(evaluated):
    with openai_server(habits=Habits(judge_prefers_first_share=1.0)) as server:
        results, _ = evaluated(server, "out", metrics=["preference"])
    counts = results["judge"]["preference"]
    assert (counts["n_inconsistent"], counts["first_position_share"]) == (10, 1.0)
    (row,) = [row for row in results["rows"] if row["metric"] == "preference" and row["split"] == "val"]
    assert (row["mean"], row["low"], row["high"]) == (0.5, 0.5, 0.5)


def test_a_judge_that_gives_no_score_is_counted_by_reason(evaluated):
    events = []
    send_events_to(events.append)
    try:
        with openai_server(habits=Habits(judge_forms=("Score: {score:g}/10\n{reason}", "{reason}"))) as server:
            results, scores = evaluated(server, "out", metrics=["correctness"])
    finally:
        send_events_to(lambda event: None)
    judged = [score for score in scores if score.metric == "correctness"]
    assert all(score.value is None and score.error for score in judged)
    asked = results["judge"]["asked"]["correctness"]
    assert asked["n_failed"] == asked["n"] and set(asked["reasons"]) == {"another scale than 1 to 5", "no score"}
    (warning,) = [event["message"] for event in events if event.get("level") == "warning"]
    commonest = max(asked["reasons"], key=asked["reasons"].get)
    assert warning == f"correctness: {asked['n']} of {asked['n']} judgements failed, most often: {commonest}"
    assert results["judge"]["repeated"] == {"n": 0, "n_equal": 0, "mean_abs_difference": None, "n_failed": 0}
    assert {row["n"] for row in results["rows"] if row["metric"] == "correctness"} == {0}


def test_a_failed_answer_is_not_judged(evaluated):
    rows = [dataclasses.replace(row, answer="", error="refused") if row.arm == "lm" else row for row in predictions()]
    with openai_server() as server:
        results, scores = evaluated(server, "out", rows=rows, metrics=["correctness", "preference"])
    failed = [score for score in scores if score.arm == "lm" and score.metric in ("correctness", "preference")]
    assert len(failed) == 24 and {score.error for score in failed} == {"refused"}
    assert results["judge"]["preference"]["n_failed"] == 10
    assert results["judge"]["asked"]["preference"]["n"] == 0
