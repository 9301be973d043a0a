"""generate by pairs, end to end against the test server, and by a model in this process."""

import json
from collections import Counter

import pytest

from radit_job import observe
from radit_job.config.models import Model
from radit_job.config.slices import GenerateSlice
from radit_job.errors import InputError
from radit_job.jobs import Shard
from radit_job.models.huggingface import HuggingFaceLM
from radit_job.models.ledger import Ledger
from radit_job.rag import asking, pair_blocks
from radit_job.records import Chunk, Dropped, Question, read_blocks, write_rows
from radit_job.stages import generate
from tests.servers.openai_server import openai_server

N_CHUNKS = 40


@pytest.fixture
def server(monkeypatch):
    with openai_server() as server:
        monkeypatch.setenv("OPENAI_API_KEY", server.key)
        yield server


@pytest.fixture
def chunks(tmp_path):
    rows = []
    for number in range(N_CHUNKS):
        text = (
            f"The turbine of hall {number} was inspected by {number + 3} engineers of the northern workshop. "
            f"Pump {number * 17} is driven by a motor that takes {number * 31 + 40} volts on every working day. "
            f"The roof of building {number * 13} can carry {number * 7 + 300} kilograms of wet snow in winter."
        )
        rows.append(Chunk(f"d{number % 4}#{number:05d}", f"d{number % 4}", None, 0, len(text), 60, text))
    rows.append(Chunk("d4#00000", "d4", None, 0, 9, 3, "Chapter 3"))
    rows.sort(key=lambda row: row.chunk_id)
    write_rows(tmp_path / "chunks" / "chunks.jsonl", rows)
    return tmp_path / "chunks"


def config(writer, **questions):
    return GenerateSlice(
        seed=7,
        questions={"source": "generate", "max_similarity": 0.99, **questions},
        question_writer=writer,
        embedder={"name": "all-minilm-l6-v2"},
    )


def served(server, **more):
    served = {"provider": "openai", "name": "gpt-4o-mini", "base_url": server.url, "api_key_env": "OPENAI_API_KEY"}
    return served | more


def run(settings, chunks, folder, **how):
    out, scratch = folder / "out", folder / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    out.mkdir(exist_ok=True)
    counters = generate.run(settings, chunks=chunks, out=out, scratch=scratch, **how)
    return counters, {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*.json*")}


def questions_in(folder):
    return list(read_blocks(folder / "out" / "questions", "*/questions.jsonl", Question))


def test_a_served_model_writes_pairs_that_stand_in_their_chunks(tmp_path, chunks, server):
    counters, files = run(config(served(server), limit=24), chunks, tmp_path)
    rows = questions_in(tmp_path)
    assert len(rows) == counters["n_questions"] == 24
    assert [row.question_id for row in rows] == [f"g0000-{number:05d}" for number in range(24)]
    assert set(Counter(row.chunk_ids[0] for row in rows).values()) == {1}
    assert set(Counter(row.document for row in rows).values()) <= {5, 6, 7}
    texts = {row.chunk_id: row.text for row in read_blocks(chunks, "*.jsonl", Chunk)}
    assert all(row.question.endswith("?") and row.answer in texts[row.chunk_ids[0]] for row in rows)
    assert server.billed["chat"] == counters["n_llm_calls"] == 24 + counters["n_dropped"]
    assert counters["n_prompt_tokens"] > 100 * counters["n_llm_calls"] and counters["n_completion_tokens"] > 0
    summary = json.loads(files["questions/000000/summary.json"])
    dropped = Counter(row.reason for row in read_blocks(tmp_path / "out" / "questions", "*/dropped.jsonl", Dropped))
    assert summary["dropped"] == dropped == {name[10:]: n for name, n in counters.items() if name[:10] == "n_dropped_"}
    assert dropped["points_outside"] > 0  # the test server writes some on purpose
    assert (summary["skipped_chunks"], summary["n_chunks"], summary["n_wanted"]) == ({"short": 1}, N_CHUNKS, 24)


def test_what_was_paid_once_is_not_paid_again(tmp_path, chunks, server):
    settings = config(served(server), limit=24, check="call")
    first = run(settings, chunks, tmp_path / "first", ledger=Ledger(tmp_path / "paid"))
    n_billed = server.billed["chat"]
    assert n_billed > 2 * 24  # a pair costs two calls
    assert run(settings, chunks, tmp_path / "again", ledger=Ledger(tmp_path / "paid")) == first
    assert server.billed["chat"] == n_billed


def test_how_many_calls_are_made_at_once_changes_nothing(tmp_path, chunks, server):
    one = run(config(served(server, concurrency=1), limit=24), chunks, tmp_path / "one")
    assert run(config(served(server, concurrency=16), limit=24), chunks, tmp_path / "many") == one


def test_shards_write_together_what_one_process_writes(tmp_path, chunks, server, monkeypatch):
    monkeypatch.setattr(pair_blocks, "BLOCK_QUESTIONS", 7)
    settings = config(served(server), limit=24)
    counters, files = run(settings, chunks, tmp_path / "whole")
    assert len(files) == 3 * 3 and counters["n_skipped_chunks"] == 1
    total, together = Counter(), {}
    for number in range(2):
        part, together = run(settings, chunks, tmp_path / "parts", shard=Shard(number, 2))
        total.update(part)
    assert together == files and total == counters


def test_a_model_in_this_process_goes_on_where_it_was_killed(tmp_path, chunks, tiny_lm_folder, monkeypatch):
    """The tiny model writes only junk: every answer is counted, and the block ends after its first round."""
    monkeypatch.setattr(generate, "_refuse_nothing", lambda blocks: None)
    monkeypatch.setattr(asking, "KEPT_TOGETHER", 8)
    monkeypatch.setattr("radit_job.rag.pair_writing.TOKENS_PER_PAIR", 8)
    settings = config(Model(provider="huggingface", name=str(tiny_lm_folder)), writing="pairs", limit=20)
    n_calls, die_at = 0, 0
    real = HuggingFaceLM.complete

    def counted(lm, *conversations, **how):
        nonlocal n_calls
        n_calls += 1
        if n_calls == die_at:
            raise KeyboardInterrupt
        return real(lm, *conversations, **how)

    monkeypatch.setattr(HuggingFaceLM, "complete", counted)
    messages = []
    observe.send_events_to(lambda event: messages.append(event.get("message", "")))
    undisturbed = run(settings, chunks, tmp_path / "undisturbed")
    observe.send_events_to(lambda event: None)
    assert undisturbed[0]["n_questions"] == 0 and undisturbed[0]["n_dropped_unreadable"] == 20
    assert (n_calls, undisturbed[0]["n_llm_calls"]) == (3, 20) and undisturbed[0]["n_prompt_tokens"] > 20 * 100
    assert any("not asked further" in message for message in messages)
    n_calls, die_at = 0, 3
    with pytest.raises(KeyboardInterrupt):
        run(settings, chunks, tmp_path / "killed")
    n_calls, die_at = 0, 0
    assert run(settings, chunks, tmp_path / "killed") == undisturbed
    assert n_calls == 1  # of three: two were kept


def test_auto_takes_pairs_for_a_served_model_and_sentences_for_a_small_one():
    small, large = {"name": "smollm2-135m-instruct"}, {"provider": "openai", "name": "gpt-4o-mini"}
    choices = {
        (name, writing): generate._writes_pairs(config(writer, writing=writing))
        for name, writer in (("small", small), ("large", large))
        for writing in ("auto", "sentences", "pairs")
    }
    assert [name for name, by_pairs in choices.items() if by_pairs] == [
        ("small", "pairs"),
        ("large", "auto"),
        ("large", "pairs"),
    ]


def test_too_few_chunks_fail_before_anything_is_paid(tmp_path, server):
    row = Chunk("d#0", "d", None, 0, 100, 30, "The turbine of the hall was inspected by many engineers. " * 4)
    write_rows(tmp_path / "chunks" / "chunks.jsonl", [row])
    with pytest.raises(InputError, match="only 1 chunks can be asked about"):
        run(config(served(server)), tmp_path / "chunks", tmp_path)
    assert not server.requests


def test_a_model_that_writes_nothing_leaves_no_artifact_and_is_said_why(tmp_path, chunks, server):
    server.misbehave(kind="null_content", on="chat", share=1)
    with pytest.raises(InputError, match=r"no pair that can be used \(\d+ x unreadable\)"):
        run(config(served(server), limit=12), chunks, tmp_path)
    assert not list((tmp_path / "out").iterdir())
