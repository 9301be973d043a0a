"""The answer stage with an untrained two-layer model: what is asked, what is kept, and that nothing is lost."""

import dataclasses
import gc
import shutil
import weakref

import numpy as np
import pytest
from facts import PARAGRAPHS, make_config, question, write_questions

from radit_job.config.slices import AnswerSlice
from radit_job.errors import ConfigError
from radit_job.jobs import WHOLE, Shard
from radit_job.model_ref import ModelRef
from radit_job.models.base import Mixture
from radit_job.models.ensemble import answer_mixtures
from radit_job.models.loading import open_embedder, open_generator, tuned_retriever_ref
from radit_job.observe import send_events_to
from radit_job.rag.prompts import Prompts
from radit_job.records import Prediction, read_blocks
from radit_job.stages import answer

ARMS = ["closed_book", "base", "few_shot", "lm"]


@pytest.fixture
def ask(folders, tmp_path, chunks, embeddings, small_lm):
    """Run the stage; the small model is the base model, and the tuned one too."""
    out, scratch = folders

    def run(
        val,
        train,
        *,
        arms=ARMS,
        lm=small_lm,
        retriever=None,
        train_sample=2,
        shots=2,
        retrieval=None,
        temperature=0.05,
        shard=WHOLE,
    ):
        config = make_config(
            models={"lm": {"provider": "huggingface", "name": str(small_lm / "merged")}},
            retrieval={"k": 3, "temperature": temperature} | (retrieval or {}),
            answer={"max_new_tokens": 6, "batch_size": 4, "few_shot_examples": shots},
            evaluate={"arms": arms, "train_sample": train_sample},
        )
        shutil.rmtree(out)
        out.mkdir()
        counters = answer.run(
            AnswerSlice.of(config),
            train_questions=write_questions(tmp_path / "train", train),
            val_questions=write_questions(tmp_path / "val", val),
            chunks=chunks,
            embeddings=embeddings,
            lm=lm,
            retriever=retriever,
            out=out,
            scratch=scratch,
            shard=shard,
        )
        return counters, list(read_blocks(out / "predictions", "*.jsonl", Prediction))

    return run


def test_every_arm_answers_every_question(ask, small_lm):
    val, train = [question(0), question(1, chunk_ids=())], [question(n) for n in range(2, 8)]
    counters, rows = ask(val, train)
    assert list(dict.fromkeys(row.arm for row in rows)) == ARMS
    for arm in ARMS:
        mine = [row for row in rows if row.arm == arm]
        assert [row.split for row in mine] == ["val", "val", "train", "train"]
        assert [row.question_id for row in mine[:2]] == ["q0", "q1"]
        assert all(row.error is None and row.answer_nats_per_token > 0 for row in mine)
    by_arm = {arm: next(row for row in rows if row.arm == arm) for arm in ARMS}
    assert by_arm["closed_book"].chunk_ids == () and by_arm["closed_book"].gold_rank is None
    assert by_arm["base"].chunk_ids[0] == "facts.txt#00000" and by_arm["base"].gold_rank == 1
    assert rows[5].arm == "base" and rows[5].gold_rank is None  # gold unknown
    assert by_arm["lm"].answer == by_arm["base"].answer  # the same weights, the same prompt
    lengths = [by_arm[arm].n_prompt_tokens for arm in ("closed_book", "base", "few_shot")]
    assert lengths == sorted(lengths) and len(set(lengths)) == 3
    assert counters["n_predictions"] == counters["llm_calls"] == 16 and counters["n_errors"] == 0
    assert counters["prompt_tokens"] == sum(row.n_prompt_tokens for row in rows)
    assert counters["completion_tokens"] == sum(row.n_completion_tokens for row in rows) > 0
    lm = open_generator(ModelRef("huggingface", str(small_lm / "merged")))
    prompts = Prompts(make_config().retrieval.system_prompt, "", make_config().retrieval.closed_book_template)
    (score,) = lm.score([prompts.closed_book(val[0].question)], [val[0].answer])
    assert by_arm["closed_book"].answer_nats_per_token == pytest.approx(score.nats_per_token, abs=1e-4)


def conversations_of(row):
    """The row's question with each of its chunks."""
    retrieval = make_config().retrieval
    prompts = Prompts(retrieval.system_prompt, retrieval.template, retrieval.closed_book_template)
    texts = [PARAGRAPHS[int(chunk_id[-5:])][0] for chunk_id in row.chunk_ids]
    return [prompts.with_context(row.question, [text]) for text in texts]


@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_separate_gives_one_prompt_per_chunk_and_one_answer(ask, small_lm, temperature):
    counters, rows = ask([question(3)], [question(n) for n in range(4, 8)], arms=["base"], train_sample=0,
                         retrieval={"context": "separate"}, temperature=temperature)  # fmt: skip
    (row,) = rows
    assert counters["llm_calls"] == 3 and len(row.chunk_ids) == 3
    lm = open_generator(ModelRef("huggingface", str(small_lm / "merged")))
    conversations = conversations_of(row)
    scores = lm.score(conversations, [row.reference] * 3)
    weights = np.exp(np.array(row.scores) / temperature)
    probability = np.average([np.exp(score.log_probability_nats) for score in scores], weights=weights)
    assert row.answer_nats_per_token == pytest.approx(-np.log(probability) / scores[0].n_tokens, abs=1e-4)
    assert row.answer in [completion.text for completion in lm.complete(conversations, max_new_tokens=6)]


@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_ensemble_mixes_one_prompt_per_chunk_into_one_answer(ask, small_lm, temperature):
    val, train = [question(3), question(6, question="why " * 400), question(8)], [question(n) for n in range(4, 8)]
    arms = ["closed_book", "base", "few_shot"]
    counters, rows = ask(val, train, arms=arms, train_sample=0, retrieval={"context": "ensemble"},
                         temperature=temperature)  # fmt: skip
    closed, base, few_shot = [[row for row in rows if row.arm == arm] for arm in arms]
    assert [len(row.chunk_ids) for row in base] == [len(row.chunk_ids) for row in few_shot] == [3, 0, 3]
    assert all(row.error is None and row.chunk_ids == () for row in (closed[0], closed[2]))
    assert [row.finish_reason for row in (closed[1], base[1], few_shot[1])] == ["error"] * 3
    assert "leaves no room for an answer" in base[1].error
    assert counters["llm_calls"] == 2 + 2 * 3 + 2 * 3 and counters["n_errors"] == 3
    lm = open_generator(ModelRef("huggingface", str(small_lm / "merged")))
    for row in (base[0], base[2]):
        weights = np.exp(np.array(row.scores) / temperature)
        turns = tuple(conversations_of(row))
        mixture = Mixture(turns, tuple(weights / weights.sum()))
        (alone,) = answer_mixtures(lm, [mixture], [row.reference], max_new_tokens=6)
        assert row.answer == alone.completion.text and row.finish_reason == alone.completion.finish_reason
        assert row.answer_nats_per_token == pytest.approx(alone.reference.nats_per_token, abs=1e-5)
        assert row.n_prompt_tokens == sum(map(lm.n_prompt_tokens, turns))
        assert row.n_completion_tokens == alone.completion.n_completion_tokens


def test_with_one_chunk_all_forms_are_one(ask, tmp_path):
    val, train = [question(n) for n in range(3)], [question(n) for n in range(3, 6)]
    found = []
    for context in ("joined", "separate", "ensemble"):
        shutil.rmtree(tmp_path / "scratch")
        (tmp_path / "scratch").mkdir()
        counters, rows = ask(val, train, arms=["base", "few_shot"], retrieval={"k": 1, "context": context})
        assert counters["llm_calls"] == len(rows) == 8
        found.append(rows)
    joined, separate, ensemble = found
    assert separate == joined
    for mixed, plain in zip(ensemble, joined, strict=True):
        assert mixed.answer_nats_per_token == pytest.approx(plain.answer_nats_per_token, abs=1e-5)
        assert dataclasses.replace(mixed, answer_nats_per_token=plain.answer_nats_per_token) == plain


def test_the_tuned_retriever_asks_and_the_documents_keep_their_vectors(ask, other_retriever, chunks, embeddings):
    arms = ["base", "lm", "retriever", "dual"]
    val, train = [question(n) for n in range(10)], [question(0)]
    before = {path: path.read_bytes() for path in embeddings.rglob("*") if path.is_file()}
    counters, rows = ask(val, train, arms=arms, train_sample=0, retriever=other_retriever)
    base, lm, retriever, dual = [[row for row in rows if row.arm == arm] for arm in arms]
    assert before == {path: path.read_bytes() for path in embeddings.rglob("*") if path.is_file()}
    assert [row.scores for row in base] == [row.scores for row in lm]
    assert [row.scores for row in retriever] == [row.scores for row in dual] != [row.scores for row in base]
    encoder = open_embedder(tuned_retriever_ref(other_retriever, make_config().models.embedder.ref()))
    documents = open_embedder(make_config().models.embedder.ref()).embed_documents([text for text, _, _ in PARAGRAPHS])
    similarities = encoder.embed_queries([row.question for row in val]) @ documents.T
    for row, mine in zip(retriever, similarities, strict=True):
        best = np.argsort(-mine)[:3]
        assert row.chunk_ids == tuple(f"facts.txt#{number:05d}" for number in best)
        assert row.scores == pytest.approx(mine[best], abs=1e-4)
        gold = int(row.gold_chunk_ids[0][-5:])
        assert row.gold_rank == 1 + int((mine > mine[gold]).sum())
    assert any(row.gold_rank != other.gold_rank for row, other in zip(retriever, base, strict=True))
    same = [(mine, other) for mine, other in zip(retriever, base, strict=True) if mine.chunk_ids == other.chunk_ids]
    assert all(mine.answer == other.answer for mine, other in same)
    assert counters["n_predictions"] == 40 and counters["n_errors"] == 0


def test_one_model_is_in_memory_at_a_time(ask, other_retriever, monkeypatch):
    opened = []
    for name in ("open_embedder", "open_generator"):
        real = getattr(answer, name)

        def watched(ref, ledger=None, name=name, real=real):
            gc.collect()
            assert not any(found() for _, found in opened), "the last one is still there"
            model = real(ref, ledger)
            opened.append((name, weakref.ref(model)))
            return model

        monkeypatch.setattr(answer, name, watched)
    arms = ["closed_book", "retriever", "base", "dual", "lm"]
    _, rows = ask([question(0)], [question(n) for n in range(2, 6)], arms=arms, retriever=other_retriever)
    assert [name for name, _ in opened] == ["open_embedder"] * 2 + ["open_generator"] * 2
    assert list(dict.fromkeys(row.arm for row in rows)) == arms


def test_what_the_model_cannot_read_is_left_out_and_said(ask):
    events = []
    send_events_to(events.append)
    long_answer = question(5, answer="very long " * 100)  # its 200 tokens must fit behind the prompt
    too_long = question(6, question="why " * 400)
    too_long_an_answer = question(8, answer="very long " * 200)
    try:
        counters, rows = ask(
            [long_answer, too_long, question(7), too_long_an_answer],
            [question(0)],
            arms=["base"],
            train_sample=0,
            shots=1,
        )
    finally:
        send_events_to(lambda event: None)
    shortened, failed, whole, unmeasured = rows
    assert 0 < len(shortened.chunk_ids) < 3 and shortened.error is None
    assert shortened.chunk_ids[0] == "facts.txt#00005"  # the best stays
    assert "the question (" in failed.error and "the reference answer (" in unmeasured.error
    assert failed.finish_reason == "error" and failed.answer == "" and failed.chunk_ids == ()
    assert len(whole.chunk_ids) == 3
    assert counters["n_errors"] == 2 and counters["llm_calls"] == 2
    warnings = [event for event in events if event.get("level") == "warning" and event.get("arm") == "base"]
    shortened_in, cut = warnings
    assert shortened_in["n_questions"] == 3
    assert cut["n_cut"] == 2 and "base: 2 of 2 answers were cut at the limit of 6 tokens" in cut["message"]


def test_a_block_that_is_done_is_not_answered_again(ask, monkeypatch):
    val, train = [question(0)], [question(n) for n in range(2, 6)]
    opened = []
    real = answer.open_generator

    def failing_for_the_tuned_model(*model):
        opened.append(model)
        if len(opened) == 2:
            raise KeyboardInterrupt
        return real(*model)

    monkeypatch.setattr(answer, "open_generator", failing_for_the_tuned_model)
    with pytest.raises(KeyboardInterrupt):
        ask(val, train)
    _, rows = ask(val, train)
    assert len(opened) == 3  # base; lm, killed; lm again, and base is not opened again
    assert list(dict.fromkeys(row.arm for row in rows)) == ARMS


@pytest.mark.parametrize(
    ("n_shards", "arms", "context"),
    [
        (2, ARMS, "joined"),
        (4, ARMS, "joined"),
        (5, ARMS, "joined"),
        (2, ["base", "retriever", "dual"], "ensemble"),
    ],
)
def test_shards_write_together_what_one_process_writes(
    ask, tmp_path, monkeypatch, other_retriever, n_shards, arms, context
):
    more = {"arms": arms, "retriever": other_retriever, "retrieval": {"context": context}, "train_sample": 1}
    monkeypatch.setattr(answer, "MIN_BLOCK_QUESTIONS", 3)
    monkeypatch.setattr(answer, "BLOCK_BATCHES", 0)
    val, train = [question(n) for n in range(4)], [question(n) for n in range(4, 8)]
    _, rows = ask(val, train, **more)
    alone = {path.name: path.read_bytes() for path in (tmp_path / "out" / "predictions").iterdir()}
    assert len(alone) == 2 * len(arms)  # five questions: runs of three and two
    shared, seen, totals = {}, [], 0
    for number in range(n_shards):
        shutil.rmtree(tmp_path / "scratch")
        (tmp_path / "scratch").mkdir()
        counters, mine = ask(val, train, **more, shard=Shard(number, n_shards))
        shared |= {path.name: path.read_bytes() for path in (tmp_path / "out" / "predictions").iterdir()}
        seen += mine
        totals += counters["n_predictions"]
    assert shared == alone
    assert totals == len(seen) == len(rows) == 5 * len(arms)


def test_the_arms_of_a_tuned_retriever_need_one(ask, other_retriever):
    with pytest.raises(ConfigError, match="dual and retriever: there is no tuned retriever"):
        ask([question(0)], [question(1)], arms=["dual", "base", "retriever"])
    with pytest.raises(ConfigError, match="dual: there is no tuned model"):
        ask([question(0)], [question(1)], arms=["base", "dual"], lm=None, retriever=other_retriever)
    _, rows = ask([question(0)], [question(1)], arms=["retriever"], lm=None, retriever=other_retriever, train_sample=0)
    assert [row.arm for row in rows] == ["retriever"]


def test_the_arm_lm_needs_a_tuned_model(ask):
    with pytest.raises(ConfigError, match="lm: there is no tuned model"):
        ask([question(0)], [question(1)], lm=None)
    with pytest.raises(ConfigError, match="lm_closed_book: there is no tuned model"):
        ask([question(0)], [question(1)], lm=None, arms=["base", "lm_closed_book"])
    _, rows = ask([question(0)], [question(1), question(2)], lm=None, arms=["closed_book"], train_sample=0)
    assert len(rows) == 1
