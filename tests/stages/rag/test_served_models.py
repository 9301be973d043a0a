"""The stages with models behind an address: what they ask, what is paid for once, and what a server may refuse."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from facts import PARAGRAPHS, make_config, question, write_questions

from radit_job.config.schema import Config
from radit_job.config.slices import AnswerSlice, AugmentSlice, IndexSlice
from radit_job.model_ref import ModelRef
from radit_job.models.ledger import Ledger
from radit_job.models.loading import open_local_lm
from radit_job.observe import send_events_to
from radit_job.rag.vector_index import VectorIndex
from radit_job.records import Example, Prediction, read_blocks, read_rows
from radit_job.stages import answer, augment, index
from tests.servers.local_model import local_model_server
from tests.servers.openai_server import KEY, openai_server

ROOT = Path(__file__).parents[3]
TUNED = "ft:gpt-4o-mini-2024-07-18:radit::7"
ARMS = ["closed_book", "base", "few_shot", "lm", "lm_closed_book"]
WHOLE_STAGE = """
import json, sys
from pathlib import Path
from radit_job.config.slices import AnswerSlice
from radit_job.models.ledger import Ledger
from radit_job.stages import answer
config, folders = json.loads(sys.stdin.read())
answer.run(AnswerSlice.model_validate(config), ledger=Ledger(Path(folders["scratch"], "paid")),
           **{name: Path(path) for name, path in folders.items()})
assert not {"torch", "transformers"} & set(sys.modules), "a served model needs no deep learning library"
"""


@pytest.fixture
def server(monkeypatch):
    """A server that also has a model which somebody tuned."""
    with openai_server(models=(TUNED,)) as running:
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        yield running


@pytest.fixture
def tuned(tmp_path):
    """The `lm` artifact of a fine-tuning API."""
    (tmp_path / "lm").mkdir()
    (tmp_path / "lm" / "model.json").write_text(json.dumps({"provider": "openai", "name": TUNED}))
    return tmp_path / "lm"


def served_config(server, *, lm=None, answering=None, **sections):
    at = {"provider": "openai", "base_url": server.url, "api_key_env": "OPENAI_API_KEY"}
    models = {
        "lm": at | {"name": "gpt-4o-mini-2024-07-18"} | (lm or {}),
        "embedder": at | {"name": "text-embedding-3-small"},
    }
    return make_config(
        models=models,
        answer={"max_new_tokens": 24, "few_shot_examples": 2} | (answering or {}),
        finetune_lm={"engine": "openai", **sections.pop("finetune_lm", {})},
        evaluate={"arms": ARMS, "train_sample": 2} | sections.pop("evaluate", {}),
        **sections,
    )


@pytest.fixture
def ask(server, chunks, tuned, folders, tmp_path):
    """Index the chunks and answer by the server; the ledger is kept in scratch, as the worker keeps it."""
    out, scratch = folders

    def run(config, val, train, ledger=None):
        if not (tmp_path / "embeddings").exists():
            index.run(IndexSlice.of(config), chunks=chunks, out=tmp_path, scratch=scratch)
        shutil.rmtree(out)
        out.mkdir()
        counters = answer.run(
            AnswerSlice.of(config),
            train_questions=write_questions(tmp_path / "train", train),
            val_questions=write_questions(tmp_path / "val", val),
            chunks=chunks,
            embeddings=tmp_path / "embeddings",
            lm=tuned,
            out=out,
            scratch=scratch,
            ledger=ledger,
        )
        return counters, list(read_blocks(out / "predictions", "*.jsonl", Prediction))

    return run


def questions_of(n):
    """So many different ones, all about the paragraphs."""
    return [
        question(row % 10, question_id=f"v{row}", question=f"{PARAGRAPHS[row % 10][1]} ({row})") for row in range(n)
    ]


def test_every_arm_is_answered_by_its_model(ask, server):
    ledger = Ledger()
    counters, rows = ask(
        served_config(server), [question(n) for n in range(4)], [question(n) for n in range(4, 8)], ledger
    )
    assert list(dict.fromkeys(row.arm for row in rows)) == ARMS
    assert counters["n_predictions"] == counters["llm_calls"] == 6 * len(ARMS) and counters["n_errors"] == 0
    by_arm = {arm: [row for row in rows if row.arm == arm] for arm in ARMS}
    for arm in ("base", "few_shot", "lm"):
        assert [row.gold_rank for row in by_arm[arm][:4]] == [1, 1, 1, 1]
        assert all(len(row.chunk_ids) == 3 for row in by_arm[arm])
    for arm in ("closed_book", "lm_closed_book"):
        assert all(row.chunk_ids == () and row.gold_rank is None for row in by_arm[arm])
    assert by_arm["base"][0].answer.endswith("stabs at fish with its bill."), "the sentence nearest to the question"
    assert {row.answer_nats_per_token for row in rows} == {None}, "this server does not tell it"
    asked = [row.model for row in server.requests if row.operation == "chat"]
    assert asked == ["gpt-4o-mini-2024-07-18"] * 18 + [TUNED] * 12, "one model after the other"
    invoice = server.books.tokens()
    assert counters["prompt_tokens"] == sum(invoice[model]["prompt"] for model in set(asked))
    assert counters["completion_tokens"] == sum(invoice[model]["completion"] for model in set(asked))
    assert {model: spent.usage.n_calls for model, spent in ledger.spent.items()} == {
        "text-embedding-3-small": 1,
        "gpt-4o-mini-2024-07-18": 18,
        TUNED: 12,
    }


def test_a_killed_stage_pays_for_nothing_twice(server, chunks, tuned, folders, tmp_path):
    """Killed in the middle of a block; the block begins again, and what was answered of it is found."""
    out, scratch = folders
    concurrency, val, train = 4, questions_of(40), [question(n) for n in range(4, 8)]
    config = served_config(
        server, lm={"concurrency": concurrency}, evaluate={"arms": ["base", "lm"]}, answering={"temperature": 0.7}
    )
    index.run(IndexSlice.of(config), chunks=chunks, out=tmp_path, scratch=scratch)
    server.change({"latency_s": 0.05})  # so that it is killed in time on a busy machine
    places = {
        "train_questions": write_questions(tmp_path / "train", train),
        "val_questions": write_questions(tmp_path / "val", val),
        "chunks": chunks,
        "embeddings": tmp_path / "embeddings",
        "lm": tuned,
        "scratch": scratch,
    }
    given = json.dumps(
        [AnswerSlice.of(config).model_dump(), {name: str(path) for name, path in places.items()} | {"out": str(out)}]
    )
    command, environment = [sys.executable, "-c", WHOLE_STAGE], {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, text=True) as process:
        process.stdin.write(given)
        process.stdin.close()
        deadline_s = time.monotonic() + 60
        while server.billed["chat"] < 15:
            assert process.poll() is None and time.monotonic() < deadline_s
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert not list(scratch.glob("*.jsonl")) and 15 <= server.billed["chat"] < 42, "in the middle of the first block"
    embedded = server.billed["embeddings"]
    subprocess.run(command, input=given, env=environment, text=True, check=True, timeout=60)
    rows = list(read_blocks(out / "predictions", "*.jsonl", Prediction))
    assert len(rows) == 84 and all(row.answer and not row.error for row in rows)
    assert sum(server.books.duplicates("chat").values()) / 2 <= concurrency, "at most those that were under way"
    assert 84 <= server.billed["chat"] <= 84 + concurrency
    assert server.billed["embeddings"] == embedded, "nor are the questions embedded again"


def test_an_answer_that_the_content_filter_cuts_is_a_failure_of_that_answer(ask, server):
    val, train = [question(n) for n in range(4)], [question(n) for n in range(4, 8)]
    server.misbehave(kind="filtered", on="chat", containing=PARAGRAPHS[2][1])
    counters, rows = ask(
        served_config(server, evaluate={"arms": ["closed_book", "base"], "train_sample": 0}), val, train
    )
    cut = [row for row in rows if row.question_id == "q2"]
    assert [(row.error, row.answer, row.finish_reason) for row in cut] == [
        ("the service's content filter cut the answer", "", "content_filter")
    ] * 2
    assert all(row.error is None and row.answer for row in rows if row.question_id != "q2")
    assert counters["n_errors"] == 2 and counters["llm_calls"] == 8, "it is paid for all the same"


@pytest.mark.parametrize(("n_questions", "warned"), [(4, ["closed_book", "base"]), (5, [])])
def test_a_model_that_thinks_up_to_the_limit_gave_no_answer_and_many_of_them_are_warned_of(
    ask, server, n_questions, warned
):
    val, train = [question(n) for n in range(n_questions)], [question(9)]
    server.misbehave(kind="only_thoughts", on="chat", containing=PARAGRAPHS[2][1])
    config = served_config(
        server, answering={"max_new_tokens": 200}, evaluate={"arms": ["closed_book", "base"], "train_sample": 0}
    )
    events = []
    send_events_to(events.append)
    try:
        counters, rows = ask(config, val, train)
    finally:
        send_events_to(lambda event: None)
    cut = [row for row in rows if row.question_id == "q2"]
    assert [(row.answer, row.finish_reason) for row in cut] == [("", "length")] * 2
    assert all("the limit of 200 tokens was used up before any text came" in row.error for row in cut)
    assert all(row.error is None and row.answer for row in rows if row.question_id != "q2")
    assert counters["n_errors"] == 2 and counters["llm_calls"] == 2 * n_questions
    warnings = [event for event in events if event.get("level") == "warning"]
    assert [event["arm"] for event in warnings] == warned
    assert all("1 of 4 answers were cut at the limit of 200 tokens" in event["message"] for event in warnings)
    assert all("1 of them before any text came" in event["message"] for event in warnings)


def test_separate_goes_on_with_the_answers_that_were_not_cut(ask, server):
    config = served_config(
        server, retrieval={"k": 3, "context": "separate"}, evaluate={"arms": ["base"], "train_sample": 0}
    )
    server.misbehave(kind="filtered", on="chat", containing=PARAGRAPHS[3][0])
    counters, (row,) = ask(config, [question(3)], [question(5)])
    assert row.error is None and row.finish_reason == "stop" and row.answer and row.answer != PARAGRAPHS[3][0]
    assert row.chunk_ids[0] == "facts.txt#00003" and counters["llm_calls"] == 3


def test_chunks_are_left_out_only_where_the_context_is_known(ask, server, folders):
    val, train = [question(5, answer="very long " * 150)], [question(0)]
    evaluate = {"arms": ["base"], "train_sample": 0}
    _, (whole,) = ask(served_config(server, evaluate=evaluate), val, train)
    assert len(whole.chunk_ids) == 3
    shutil.rmtree(folders[1])
    folders[1].mkdir()
    _, (short,) = ask(served_config(server, lm={"context_tokens": 120}, evaluate=evaluate), val, train)
    assert 0 < len(short.chunk_ids) < 3 and short.error is None, "the reference is not measured, and takes no room"


def test_a_served_index_keeps_its_vectors_once_and_pays_for_none_again(server, chunks, folders, tmp_path, monkeypatch):
    monkeypatch.setattr(index, "BLOCK_ROWS", 4)
    out, scratch = folders
    config = IndexSlice.of(served_config(server))
    server.misbehave(kind="forbidden", on="embeddings", after=2)
    with pytest.raises(Exception, match="does not have access"):
        index.run(config, chunks=chunks, out=out, scratch=scratch, ledger=Ledger(scratch / "paid"))
    server.behave()
    shutil.rmtree(out)
    out.mkdir()
    index.run(config, chunks=chunks, out=out, scratch=scratch, ledger=Ledger(scratch / "paid"))
    assert server.billed["embeddings"] == 3 and not server.books.duplicates("embeddings")
    assert not list(scratch.glob("*.npy"))
    facts = json.loads((out / "embeddings" / "index.json").read_text())
    assert facts["embedder"]["base_url"] == server.url and "concurrency" not in facts["embedder"]
    vectors = np.concatenate([rows for _, rows in VectorIndex.open(out / "embeddings").vectors.parts(100)])
    assert vectors.shape == (10, facts["dimension"]) and np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)


def test_bare_questions_to_train_on_need_no_embedder(server, folders, tmp_path):
    out, scratch = folders
    config = served_config(server, retrieval={"k": 3, "topic": "all sorts"}, finetune_lm={"context": "none"})
    counters = augment.run(
        AugmentSlice.of(config),
        train_questions=write_questions(tmp_path / "train", [question(4), question(7, chunk_ids=())]),
        chunks=tmp_path / "none",
        embeddings=tmp_path / "none",
        out=out,
        scratch=scratch,
    )
    assert counters == {"n_examples": 2, "n_questions": 2} and not server.requests
    first, second = read_rows(out / "examples" / "examples.jsonl", Example)
    system, user, assistant = first.messages
    assert system.content.endswith("from the given documents. The documents are about all sorts.")
    assert (
        user.content == f"Answer the query.\nQuery: {PARAGRAPHS[4][1]}\nAnswer: " and assistant.content == "wild yeast"
    )
    assert (first.chunk_ids, first.gold_in_context, second.gold_in_context) == ((), False, None)
    figures = json.loads((out / "examples" / "augment.json").read_text())
    assert (figures["context"], figures["k"], figures["n_gold_known"]) == ("none", 0, 0)
    (line, _) = (out / "examples" / "openai.jsonl").read_text().splitlines()
    assert [turn["role"] for turn in json.loads(line)["messages"]] == ["system", "user", "assistant"]
    rows = json.loads((out / "examples" / "llamaindex.json").read_text())["examples"]
    assert [row["reference_contexts"] for row in rows] == [[], []]


def test_a_model_that_is_served_and_can_score_gives_what_it_gives_in_process(ask, server, small_lm, folders):
    """A local model's answers, its measured references and its left-out chunks, through the protocol and without it."""
    folder = str(small_lm / "merged")
    val = [question(n) for n in range(4)] + [question(5, answer="very long " * 100)]
    train = [question(n) for n in range(4, 8)]
    common = {"evaluate": {"arms": ARMS[:3], "train_sample": 1}, "answering": {"max_new_tokens": 6}}
    local = served_config(server, **common).model_dump()
    local["models"]["lm"] = {"provider": "huggingface", "name": folder}
    local["finetune_lm"]["engine"] = "local"
    expected_counters, expected = ask(Config.model_validate(local), val, train)
    lm = open_local_lm(ModelRef("huggingface", folder))
    with local_model_server(lm) as url:
        known = {"name": "small", "base_url": url, "tokenizer": folder, "context_tokens": 300, "can_score": True}
        for kept in folders[1].glob("*.jsonl"):
            kept.unlink()
        counters, rows = ask(served_config(server, lm=known, **common), val, train)
    assert counters == expected_counters and counters["n_errors"] == 1, "few_shot leaves no room for the long reference"
    assert min(len(row.chunk_ids) for row in rows if row.arm == "base") < 3
    assert [row.answer_nats_per_token for row in rows] == pytest.approx(
        [row.answer_nats_per_token for row in expected], abs=1e-4
    )
    without_nats = [dataclasses.replace(row, answer_nats_per_token=None) for row in rows]
    assert without_nats == [dataclasses.replace(row, answer_nats_per_token=None) for row in expected]
