import dataclasses
import json
import subprocess
import sys

import pytest
from facts import make_config
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from radit_job.config.slices import EvaluateSlice
from radit_job.errors import InputError
from radit_job.models.loading import open_embedder
from radit_job.records import Chunk, Prediction, Score, read_rows, write_rows
from radit_job.stages import evaluate
from tests.servers.openai_server import KEY, openai_server

LIGHT = ["exact_match", "token_f1", "answer_nats_per_token", "recall_at_k", "mrr"]


def prediction(number, arm, answer, *, split="val", rank=1, nats=1.0, error=None):
    return Prediction(
        question_id=f"q{number}",
        arm=arm,
        split=split,
        question="What is in the hump of a camel?",
        reference="the fat of the camel",
        answer=answer,
        chunk_ids=("c#00000",),
        scores=(0.5,),
        gold_chunk_ids=("c#00000",) if rank else (),
        gold_rank=rank,
        n_prompt_tokens=10,
        n_completion_tokens=2,
        finish_reason="error" if error else "stop",
        answer_nats_per_token=None if error else nats,
        error=error,
    )


def run(folders, rows, **sections):
    out, scratch = folders
    write_rows(out / "in" / "predictions.jsonl", rows)
    write_rows(
        out / "chunks" / "chunks.jsonl", [Chunk("c#00000", "c", None, 0, 30, 6, "A camel stores fat in its hump.")]
    )
    config = EvaluateSlice.of(make_config(**sections))
    counters = evaluate.run(config, predictions=out / "in", chunks=out / "chunks", out=out, scratch=scratch)
    results = json.loads((out / "results" / "results.json").read_text())
    scores = list(read_rows(out / "scores" / "scores.jsonl", Score))
    table = {(row["arm"], row["split"], row["metric"]): row for row in results["rows"]}
    return counters, results, table, scores


def test_the_tables(folders):
    rows = [
        prediction(0, "base", "fat of camel", rank=1, nats=2.0),
        prediction(1, "base", "water", rank=4, nats=3.0),
        prediction(2, "base", "", error="too long", rank=None),
        prediction(3, "base", "The fat", split="train", rank=6),
        prediction(0, "lm", "fat of camel", nats=1.5),
        prediction(1, "lm", "fat of the camel", nats=1.0),
        prediction(2, "lm", "fat", nats=1.0),
    ]
    sections = {"evaluate": {"metrics": LIGHT, "recall_at": [5, 1]}, "retrieval": {"k": 3}}
    counters, results, table, scores = run(folders, rows, **sections)
    assert results["format"] == 1 and results["arms"] == ["base", "lm"]
    f1 = table["base", "val", "token_f1"]
    assert (f1["mean"], f1["n"], f1["n_failed"]) == (0.5, 2, 1) and f1["low"] == 0 and f1["high"] == 1
    assert table["lm", "val", "exact_match"]["mean"] == pytest.approx(2 / 3, abs=1e-6)
    assert table["base", "val", "answer_nats_per_token"]["mean"] == 2.5
    assert table["base", "val", "answer_words"]["mean"] == 2  # "fat of camel" and "water"
    recalls = {name: table["base", "val", name] for name in ("recall_at_1", "recall_at_3", "recall_at_5")}
    assert [row["mean"] for row in recalls.values()] == [0.5, 0.5, 1.0]
    assert {(row["n"], row["n_failed"]) for row in recalls.values()} == {(2, 0)}  # unknown gold is not a failure
    assert table["base", "val", "mrr"]["mean"] == 0.625
    assert table["base", "train", "mrr"]["mean"] == pytest.approx(1 / 6, abs=1e-6)
    assert ("lm", "val", "mrr") not in table  # one retriever, shown once
    pairs = {(row["arm"], row["against"], row["metric"]): row for row in results["pairs"]}
    assert set(pairs) == {
        ("lm", "base", name) for name in ("exact_match", "token_f1", "answer_nats_per_token", "answer_words")
    }
    assert pairs["lm", "base", "token_f1"]["delta"] == 0.5 and pairs["lm", "base", "token_f1"]["n"] == 2
    assert pairs["lm", "base", "answer_nats_per_token"]["delta"] == -1.25
    assert counters["n_predictions"] == 7 and counters["n_scores"] == len(scores)
    assert all((score.value is None) != (score.error is None) for score in scores)
    assert counters["n_failed"] == sum(score.error == "too long" for score in scores) == 4


@pytest.mark.parametrize(
    ("arms", "untuned", "tuned"),
    [
        (["closed_book", "base", "few_shot", "lm", "retriever", "dual"], "base", "retriever"),
        (["dual", "retriever", "few_shot"], "few_shot", "retriever"),
        (["lm", "dual"], "lm", "dual"),
        (["closed_book", "dual"], None, "dual"),
        (["base", "lm"], "base", None),
        (["closed_book", "lm_closed_book"], None, None),
    ],
)
def test_each_retriever_is_measured_once_and_they_are_compared(folders, arms, untuned, tuned):
    found_at = {True: [1, 1, 2, 9], False: [1, 2, 4, 3]}  # by the tuned retriever, by the untuned one
    rows = [
        prediction(number, arm, "fat", rank=None if "closed_book" in arm or number == 4 else ranks[number])
        for arm in arms
        for ranks in [found_at[arm in ("retriever", "dual")]]
        for number in range(5 if arm == "base" else 4)
    ]
    _, results, table, _ = run(folders, rows, evaluate={"metrics": [*LIGHT], "recall_at": [1]}, retrieval={"k": 3})
    names = ["recall_at_1", "recall_at_3", "mrr"]
    measured = {arm for arm, _, metric in table if metric in names}
    assert measured == {untuned, tuned} - {None}
    if untuned:
        assert [table[untuned, "val", name]["mean"] for name in names] == [0.25, 0.75, 0.520833]
    if tuned:
        assert [table[tuned, "val", name]["mean"] for name in names] == [0.5, 0.75, 0.652778]
    pairs = [row for row in results["pairs"] if row["metric"] in names]
    if not (untuned and tuned):
        assert pairs == []
        return
    assert [(row["arm"], row["against"], row["metric"]) for row in pairs] == [(tuned, untuned, name) for name in names]
    assert [row["delta"] for row in pairs] == [0.25, 0.0, pytest.approx(0.131944, abs=1e-5)]
    assert all(row["n"] == 4 and row["low"] <= row["delta"] <= row["high"] for row in pairs)


def test_semantic_similarity_orders_answers_by_meaning(folders):
    answers = ["the fat of the camel", "camel fat", "the string of a violin"]
    rows = [prediction(number, "base", text) for number, text in enumerate(answers)]
    _, _, _, scores = run(folders, rows, evaluate={"metrics": ["semantic_similarity"]})
    same, close, far = [score.value for score in scores if score.metric == "semantic_similarity"]
    assert same == pytest.approx(1, abs=1e-5)
    assert same > close > 0.6 > 0.4 > far


def test_a_served_embedder_is_sent_no_empty_answer(folders, monkeypatch):
    rows = [prediction(number, "base", text) for number, text in enumerate(["the fat of the camel", ""])]
    with openai_server() as server:
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        key = {"api_key_env": "OPENAI_API_KEY"}
        embedder = {"provider": "openai", "name": "text-embedding-3-small", "base_url": server.url} | key
        metrics = {"metrics": ["semantic_similarity"]}
        counters, _, _, scores = run(folders, rows, models={"embedder": embedder}, evaluate=metrics)
        assert server.books.n_requests["embeddings"] == 1
    same, empty = [score.value for score in scores if score.metric == "semantic_similarity"]
    assert same == pytest.approx(1, abs=1e-5) and empty < 0.5 and counters["n_failed"] == 0


def test_an_empty_answer_and_a_blank_are_one_to_the_packaged_embedder():
    empty, blank = open_embedder(make_config().models.embedder.ref()).embed_documents(["", " "])
    assert empty.tobytes() == blank.tobytes()


def test_metrics_that_need_no_model_import_none(folders):
    out, _ = folders
    write_rows(out / "in" / "predictions.jsonl", [prediction(0, "base", "fat")])
    config = EvaluateSlice.of(make_config(evaluate={"metrics": [*LIGHT, "rouge_l"]}))
    code = (
        "import sys, pathlib\n"
        "from radit_job.config.slices import EvaluateSlice\n"
        "from radit_job.stages import evaluate\n"
        f"out = pathlib.Path({str(out)!r})\n"
        f"config = EvaluateSlice.model_validate_json({config.model_dump_json()!r})\n"
        "evaluate.run(config, predictions=out / 'in', chunks=out, out=out, scratch=out)\n"
        "sys.exit('torch' in sys.modules or 'llama_index' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_nothing_to_evaluate(folders):
    with pytest.raises(InputError, match="no answers"):
        run(folders, [])


def test_a_judge_that_cannot_judge_gives_failures_and_no_numbers(folders):
    answers = ["the fat of the camel", "water", ""]
    rows = [prediction(number, "base", text) for number, text in enumerate(answers)]
    rows.append(prediction(3, "base", "", error="too long"))
    judge = {"provider": "packaged", "name": "smollm2-135m-instruct"}
    sections = {"metrics": ["correctness"], "judge_max_tokens": 16}
    counters, results, table, scores = run(folders, rows, models={"judge": judge}, evaluate=sections)
    judged = [score for score in scores if score.metric == "correctness"]
    row = table["base", "val", "correctness"]
    assert len(judged) == 4 and row["n"] + row["n_failed"] == 4
    for score in judged:
        assert (score.value is None) != (score.error is None)
        assert score.value is None or 1 <= score.value <= 5
    errors = [score.error for score in judged if score.error]
    assert errors[-1] == "too long" and len(errors) >= 2  # this model opens with prose, not with a score
    assert all(" in the judge's answer: " in error for error in errors[:-1])
    asked = results["judge"]["asked"]["correctness"]
    assert (asked["n"], asked["n_failed"]) == (3, row["n_failed"] - 1)
    assert results["judge"]["repeated"] is None  # greedy: it would say the same again
    assert counters["n_failed"] == row["n_failed"] + 1  # the failed answer has no length either


def test_a_prompt_that_the_judge_cannot_read_fails_alone(folders, small_lm, tmp_path):
    """A GPT-2 has a vector for each of its 1024 positions and none for a longer prompt."""
    tokenizer = AutoTokenizer.from_pretrained(small_lm / "merged")
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 1024}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path / "judge")
    tokenizer.save_pretrained(tmp_path / "judge")
    rows = [prediction(0, "base", "water " * 2000), prediction(1, "base", "water")]
    judge = {"provider": "huggingface", "name": str(tmp_path / "judge")}
    sections = {"metrics": ["correctness"], "judge_max_tokens": 16}
    _, results, table, scores = run(folders, rows, models={"judge": judge}, evaluate=sections)
    too_long, unreadable = [score for score in scores if score.metric == "correctness"]
    assert too_long.error.startswith("the judge reads 1024 tokens") and "in the judge's answer" in unreadable.error
    assert table["base", "val", "correctness"]["n_failed"] == 2
    assert results["judge"]["asked"]["correctness"]["reasons"]["a prompt that is too long"] == 1


def test_without_a_judge_the_results_say_so(folders):
    assert run(folders, [prediction(0, "base", "fat")], evaluate={"metrics": LIGHT})[1]["judge"] is None


def test_a_chunk_that_is_not_there_is_named(folders):
    rows = [dataclasses.replace(prediction(0, "base", "fat"), chunk_ids=("c#00007",))]
    judge = {"provider": "packaged", "name": "smollm2-135m-instruct"}
    with pytest.raises(InputError, match="c#00007"):
        run(folders, rows, models={"judge": judge}, evaluate={"metrics": ["faithfulness"]})
