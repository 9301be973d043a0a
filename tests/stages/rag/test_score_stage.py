"""The score stage with an untrained two-layer model: what is scored, what is kept, and that nothing is lost."""

import json
import shutil
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch
from facts import PARAGRAPHS, make_config, question, write_questions
from transformers import AutoModelForCausalLM

from radit_job.config.slices import AnswerSlice, IndexSlice, ScoreSlice
from radit_job.errors import ConfigError, InputError
from radit_job.jobs import WHOLE, Shard
from radit_job.model_ref import ModelRef
from radit_job.models.ledger import Ledger
from radit_job.models.loading import model_folder, open_embedder, open_local_lm
from radit_job.observe import send_events_to
from radit_job.rag.prompts import Prompts
from radit_job.records import CandidateScores, Chunk, Prediction, read_blocks, write_rows
from radit_job.stages import answer, index, score
from tests.servers.local_model import local_model_server

QUESTIONS = [question(n) for n in range(7)]


@pytest.fixture
def config_of(tiny_lm_folder):
    def config(candidates=4, lm=None, **sections):
        return make_config(
            models={"lm": lm or {"provider": "huggingface", "name": str(tiny_lm_folder), "dtype": "float32"}},
            finetune_retriever={"candidates": candidates},
            **sections,
        )

    return config


@pytest.fixture
def run_stage(folders, tmp_path, chunks, embeddings):
    """Run the stage; (counters, rows)."""
    out, scratch = folders

    def run(config, questions=QUESTIONS, *, shard=WHOLE, ledger=None, chunks=chunks, embeddings=embeddings):
        shutil.rmtree(out)
        out.mkdir()
        counters = score.run(
            ScoreSlice.of(config),
            train_questions=write_questions(tmp_path / "train", questions),
            chunks=chunks,
            embeddings=embeddings,
            out=out,
            scratch=scratch,
            ledger=ledger,
            shard=shard,
        )
        return counters, list(read_blocks(out / "lm_scores", "*.jsonl", CandidateScores))

    return run


@pytest.fixture
def told():
    events = []
    send_events_to(events.append)
    yield events
    send_events_to(lambda event: None)


def without_speed(counters):
    return {name: value for name, value in counters.items() if name not in ("scoring_s", "pairs_per_s")}


def test_each_candidate_is_scored_as_plain_transformers_does_it(run_stage, config_of, folders, tiny_lm_folder):
    config = config_of()
    counters, rows = run_stage(config)
    assert [row.question_id for row in rows] == [item.question_id for item in QUESTIONS]
    lm = open_local_lm(ModelRef("huggingface", str(tiny_lm_folder), dtype="float32"))
    model = AutoModelForCausalLM.from_pretrained(tiny_lm_folder, dtype=torch.float32)
    retrieval = config.retrieval
    prompts = Prompts(retrieval.system_message, retrieval.template, retrieval.closed_book_template)
    embedder = open_embedder(ModelRef("packaged", "all-minilm-l6-v2"))
    cosines = (
        embedder.embed_queries([item.question for item in QUESTIONS])
        @ embedder.embed_documents([text for text, _, _ in PARAGRAPHS]).T
    )
    n_read = 0
    for number, (row, item) in enumerate(zip(rows, QUESTIONS, strict=True)):
        nearest = np.argsort(-cosines[number])[:4]
        assert row.chunk_ids == tuple(f"facts.txt#{chunk:05d}" for chunk in nearest)
        assert row.similarities == pytest.approx(cosines[number][nearest].tolist(), abs=1e-5)
        assert (row.question, row.gold_chunk_ids) == (item.question, item.chunk_ids)
        target = lm.chat.answer_ids(item.answer)
        for chunk, found in zip(nearest, row.log_probability_nats, strict=True):
            prompt = lm.chat.prompt_ids(prompts.with_context(item.question, [PARAGRAPHS[chunk][0]]))
            with torch.no_grad():
                logits = model(torch.tensor([prompt + target]), use_cache=False).logits[0].double()
            nats = logits.log_softmax(-1)[range(len(prompt) - 1, len(prompt) + len(target) - 1), target]
            assert found == pytest.approx(float(nats.sum()), abs=1e-4 * len(target))
            n_read += len(prompt)
        assert row.n_answer_tokens == len(target)
        assert max(row.log_probability_nats) - min(row.log_probability_nats) > 0.1, "else nothing is compared"
    assert counters["n_pairs"] == 4 * counters["n_questions"] == 28 and counters["prompt_tokens"] == n_read
    assert counters["pairs_per_s"] > 0 and counters["n_dropped"] == counters["n_too_long"] == 0
    facts = json.loads((folders[0] / "lm_scores" / "score.json").read_text())
    assert (facts["n_questions"], facts["n_candidates"]) == (7, 4) and facts["lm"]["name"] == str(tiny_lm_folder)


def test_the_prompt_is_that_of_the_stage_answer(run_stage, config_of, folders, tmp_path, chunks, embeddings):
    config = config_of(
        retrieval={"k": 1, "context": "separate"}, answer={"max_new_tokens": 1}, evaluate={"arms": ["base"]}
    )
    _, rows = run_stage(config)
    answer.run(
        AnswerSlice.of(config),
        train_questions=write_questions(tmp_path / "none", []),
        val_questions=write_questions(tmp_path / "val", QUESTIONS),
        chunks=chunks,
        embeddings=embeddings,
        out=folders[0],
        scratch=tmp_path,
    )
    predictions = list(read_blocks(folders[0] / "predictions", "*.jsonl", Prediction))
    assert [row.answer_nats_per_token for row in predictions] == pytest.approx(
        [-row.log_probability_nats[0] / row.n_answer_tokens for row in rows], abs=1e-4
    )


def test_questions_that_hang_together_have_one_group_across_blocks(run_stage, config_of, monkeypatch):
    monkeypatch.setattr(score, "BLOCK_QUESTIONS", 2)
    gold = [
        ("facts.txt#00000",),
        ("facts.txt#00001",),
        (),
        ("facts.txt#00001", "facts.txt#00003"),
        ("facts.txt#00003",),
    ]
    _, rows = run_stage(config_of(2), [question(n, chunk_ids=ids) for n, ids in enumerate(gold)])
    members = defaultdict(list)
    for number, row in enumerate(rows):
        members[row.group].append(number)
    assert sorted(members.values()) == [[0], [1, 3, 4], [2]]


def test_shards_write_what_one_process_writes(run_stage, config_of, folders, monkeypatch):
    monkeypatch.setattr(score, "BLOCK_QUESTIONS", 2)
    out, scratch = folders
    whole, _ = run_stage(config_of(3))
    expected = {path.name: path.read_bytes() for path in (out / "lm_scores").iterdir()}
    assert sorted(expected) == [*(f"{number:06d}.jsonl" for number in range(4)), "score.json"]
    found, totals = {}, defaultdict(float)
    for number in range(2):
        shutil.rmtree(scratch)
        scratch.mkdir()
        counters, _ = run_stage(config_of(3), shard=Shard(number, 2))
        mine = {path.name: path.read_bytes() for path in (out / "lm_scores").iterdir()}
        assert not mine.keys() & found.keys()
        found |= mine
        for name, value in without_speed(counters).items():
            totals[name] += value
    assert found == expected and totals == without_speed(whole)


def test_a_killed_run_goes_on_with_the_blocks_that_are_left(run_stage, config_of, folders, monkeypatch):
    monkeypatch.setattr(score, "BLOCK_QUESTIONS", 2)
    scratch = folders[1]
    counters, rows = run_stage(config_of(3))
    first, last = scratch / "000000.jsonl", scratch / "000003.jsonl"
    first.write_text(first.read_text().replace('"q0"', '"kept"'))
    last.rename(scratch / "000003.jsonl.partial")  # it was being written
    again, found = run_stage(config_of(3))
    assert [row.question_id for row in found] == ["kept", *(row.question_id for row in rows[1:])]
    assert found[1:] == rows[1:] and without_speed(again) == without_speed(counters)


def test_what_the_model_cannot_read_is_left_out_counted_and_told(run_stage, config_of, tmp_path, folders, told):
    """One chunk of 800 tokens among short ones; an answer so long that no chunk fits before it."""
    long = "A heron catches fish with its bill. " * 90
    texts = [PARAGRAPHS[0][0], long, PARAGRAPHS[1][0]]
    rows = [Chunk(f"a#{n}", "a", None, 0, len(text), 1, text) for n, text in enumerate(texts)]
    write_rows(tmp_path / "chunks" / "chunks.jsonl", rows)
    config = config_of(8)
    index.run(IndexSlice.of(config), chunks=tmp_path / "chunks", out=tmp_path, scratch=tmp_path)
    asked = [
        question(0, chunk_ids=("a#1",)),
        question(1, chunk_ids=(), answer="very " * 400),
        question(2, chunk_ids=(), answer="so " * 1000),
    ]
    counters, found = run_stage(config, asked, chunks=tmp_path / "chunks", embeddings=tmp_path / "embeddings")
    assert [(row.question_id, len(row.chunk_ids)) for row in found] == [("q0", 3), ("q1", 2)]
    assert "a#1" in found[0].chunk_ids and "a#1" not in found[1].chunk_ids
    assert (counters["n_questions"], counters["n_dropped"], counters["n_pairs"]) == (2, 1, 5)
    assert counters["n_too_long"] == 4
    warnings = [event["message"] for event in told if event.get("level") == "warning"][-2:]
    assert warnings[0].startswith("4 candidates are left out") and warnings[1].startswith("1 training questions are")
    bars = [event for event in told if event["event"] == "progress" and event["label"] == "scoring candidates"]
    assert bars[-1]["done"] == bars[-1]["total"] == 9
    shutil.rmtree(folders[1])
    folders[1].mkdir()
    with pytest.raises(InputError, match="no training question has two candidate chunks"):
        run_stage(config, asked[2:], chunks=tmp_path / "chunks", embeddings=tmp_path / "embeddings")


def test_one_chunk_is_nothing_to_choose_from(run_stage, config_of, tmp_path):
    write_rows(tmp_path / "chunks" / "chunks.jsonl", [Chunk("a#0", "a", None, 0, 4, 1, "text")])
    index.run(IndexSlice.of(config_of()), chunks=tmp_path / "chunks", out=tmp_path, scratch=tmp_path)
    with pytest.raises(InputError, match="the corpus is one chunk"):
        run_stage(config_of(), [question(0, chunk_ids=())], embeddings=tmp_path / "embeddings")


def test_a_served_model_scores_as_in_process_and_is_paid_once(run_stage, config_of, folders, tiny_lm_folder):
    _, expected = run_stage(config_of())
    scratch = folders[1]
    with local_model_server(open_local_lm(ModelRef("huggingface", str(tiny_lm_folder), dtype="float32"))) as url:
        served = {"provider": "openai", "name": "tiny", "base_url": url, "tokenizer": str(tiny_lm_folder)}
        config = config_of(
            lm=served | {"can_score": True, "context_tokens": 1024}, evaluate={"arms": ["base", "retriever"]}
        )
        for _ in range(2):
            for kept in scratch.glob("*.jsonl"):
                kept.unlink()
            ledger = Ledger(scratch / "paid")  # knows what earlier tries have paid
            _, rows = run_stage(config, ledger=ledger)
            assert ledger.spent["tiny"].usage.n_calls == 28
            for row, local in zip(rows, expected, strict=True):
                assert row.log_probability_nats == pytest.approx(local.log_probability_nats, abs=1e-3)
                assert (row.chunk_ids, row.n_answer_tokens) == (local.chunk_ids, local.n_answer_tokens)


def test_a_served_model_that_does_not_tell_is_refused(run_stage, config_of):
    config = ScoreSlice.of(config_of())
    silent = config.lm.model_copy(update={"provider": "openai", "base_url": "http://127.0.0.1:9/v1", "name": "silent"})
    with pytest.raises(ConfigError, match="does not tell how likely"):
        score.open_scorer(silent.ref())
    assert model_folder(config.lm.ref()).is_dir()


def test_an_unanswerable_question_teaches_no_preference(run_stage, config_of):
    first = QUESTIONS[0]
    refused = replace(first, question_id="none", answer="Nobody says.", chunk_ids=(), passage_chunk_ids=first.chunk_ids)
    _, rows = run_stage(config_of(), [refused, *QUESTIONS[1:3]])
    assert [row.question_id for row in rows] == [item.question_id for item in QUESTIONS[1:3]]
