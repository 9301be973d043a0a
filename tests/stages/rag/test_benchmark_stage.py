"""The stage `benchmark`: real engines on a very small model and on a server, and what stands in its files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from facts import PARAGRAPHS, make_config, question

from radit_job.config.slices import BenchmarkSlice
from radit_job.errors import ConfigError, InputError, RaditError
from radit_job.latency.base import PARTS
from radit_job.latency.summary import CallRow, Timing
from radit_job.models.cost import Price
from radit_job.models.ledger import Ledger
from radit_job.observe import send_events_to
from radit_job.records import read_rows, write_rows
from radit_job.stages import benchmark
from tests.servers.openai_server import KEY, openai_server

N_QUESTIONS = 6


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("questions")
    write_rows(folder / "000000" / "questions.jsonl", [question(number) for number in range(N_QUESTIONS)])
    return folder


@pytest.fixture
def server(monkeypatch):
    with openai_server() as running:
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        yield running


def local_config(folder, *, benchmark=None, **sections):
    times = {"queries": 2, "repetitions": 2, "warmup": 1, "concurrency": [1, 3], **(benchmark or {})}
    models = {"lm": {"provider": "huggingface", "name": str(folder), "dtype": "float32"}}
    return make_config(
        models=models, benchmark=times, answer={"max_new_tokens": 5}, **{"retrieval": {"k": 2}, **sections}
    )


def served_config(server, *, benchmark=None, lm=None, embedder=None, **sections):
    at = {"provider": "openai", "base_url": server.url, "api_key_env": "OPENAI_API_KEY"}
    lm = at | {"name": "gpt-4o-mini-2024-07-18"} | (lm or {})
    models = {"lm": lm} | ({"embedder": at | {"name": "text-embedding-3-small"}} if embedder else {})
    times = {"queries": 2, "repetitions": 2, "warmup": 1, "concurrency": [1, 3], **(benchmark or {})}
    evaluate = {"arms": ["base"]}
    return make_config(
        models=models, benchmark=times, evaluate=evaluate, answer={"max_new_tokens": 12}, retrieval={"k": 2}, **sections
    )


def run_stage(config, questions, chunks, embeddings, folders, ledger=None):
    """(latency.json, timings, calls, counters)."""
    out, scratch = folders
    counters = benchmark.run(
        BenchmarkSlice.of(config),
        questions=questions,
        chunks=chunks,
        embeddings=embeddings,
        out=out,
        scratch=scratch,
        ledger=ledger,
    )
    folder = out / "latency"
    latency = json.loads((folder / "latency.json").read_text())
    timings = list(read_rows(folder / "timings.jsonl", Timing))
    return latency, timings, list(read_rows(folder / "calls.jsonl", CallRow)), counters


@pytest.fixture(scope="module")
def local(questions, chunks, embeddings, tiny_lm_folder, tmp_path_factory):
    folders = tmp_path_factory.mktemp("out"), tmp_path_factory.mktemp("scratch")
    return run_stage(local_config(tiny_lm_folder), questions, chunks, embeddings, folders)


def test_every_engine_task_and_number_of_clients_has_a_row_whose_parts_add_up(local):
    latency, timings, _, counters = local
    rows = {(row["engine"], row["task"], row["concurrency"]): row for row in latency["rows"]}
    tasks = ("rewrite", "query", "complete")
    assert set(rows) == {(engine, task, n) for engine in ("radit", "llamaindex") for task in tasks for n in (1, 3)}
    for row in rows.values():
        assert list(row["parts_s"]) == list(PARTS)
        assert sum(row["parts_s"].values()) == pytest.approx(row["mean_s"], rel=1e-6)
        assert all(value >= 0 for value in row["parts_s"].values())
        assert 0 < row["first_token_s"] < row["p50_s"] <= row["p90_s"] <= row["p99_s"]
        assert row["floor_s"]["prefill"] > 0 and row["floor_s"]["decode"] > 0
        assert row["n_failed"] == 0
    assert rows["radit", "query", 1]["n"] == 2 * 2
    assert rows["radit", "query", 3]["n"] == 2 * 3, "as many questions as clients"
    assert rows["llamaindex", "query", 3]["n"] == 3, "whose clients stand in line is asked in one round"
    assert counters == {"n_timed": sum(row["n"] for row in latency["rows"]), "n_failed": 0} and len(timings) == 51


def test_each_task_pays_for_its_own_parts_only(local):
    rows = {(row["engine"], row["task"]): row["parts_s"] for row in local[0]["rows"] if row["concurrency"] == 1}
    for engine in ("radit", "llamaindex"):
        assert rows[engine, "rewrite"]["embed"] == rows[engine, "complete"]["retrieve"] == 0
        assert rows[engine, "query"]["embed"] > 0 and rows[engine, "query"]["retrieve"] > 0
        assert all(
            rows[engine, task]["prefill"] > 0 and rows[engine, task]["decode"] > 0 for task in ("query", "complete")
        )


def test_clients_of_a_serial_engine_wait_in_line_and_those_of_a_batch_do_not(local):
    timings = [row for row in local[1] if (row.task, row.concurrency, row.repetition) == ("query", 3, 0)]
    line = [row for row in timings if row.engine == "llamaindex"]
    assert line[0].total_s < line[1].total_s < line[2].total_s
    assert line[2].parts_s["other"] > line[1].total_s - line[1].parts_s["other"], "it waited for those before it"
    assert line[2].first_token_s > line[1].total_s
    batch = [row for row in timings if row.engine == "radit"]
    assert len(batch) == 3 and len({row.total_s for row in batch}) == 1


def test_the_calls_show_prompt_and_completion_of_one_repetition(local):
    calls = local[2]
    assert len(calls) == 2 * 3 * 2, "of two engines, three tasks, two questions"
    by_task = {(row.engine, row.task, row.question): row for row in calls}
    asked = {row.question for row in calls}
    for engine in ("radit", "llamaindex"):
        for one in asked:
            query, bare = by_task[engine, "query", one], by_task[engine, "complete", one]
            assert (query.prompt, query.n_prompt_tokens) == (bare.prompt, bare.n_prompt_tokens)
            assert query.completion == bare.completion and query.n_completion_tokens == 5
            assert one in query.prompt and any(text in query.prompt for text, _, _ in PARAGRAPHS)
            assert "Generate 4 search queries" in by_task[engine, "rewrite", one].prompt
    assert "expert Q&A system" in by_task["llamaindex", "query", min(asked)].prompt
    assert "expert Q&A system" not in by_task["radit", "query", min(asked)].prompt


def test_what_is_known_of_model_machine_and_settings_is_written_down(local, tiny_lm_folder):
    latency = local[0]
    assert latency["format"] == 1 and latency["n_chunks"] == len(PARAGRAPHS)
    assert latency["model"] == {
        "name": str(tiny_lm_folder),
        "provider": "huggingface",
        "dtype": "float32",
        "n_weights": latency["model"]["n_weights"],
        "context_tokens": 1024,
    }
    assert latency["model"]["n_weights"] > 1_000_000
    machine = latency["machine"]
    assert machine["bandwidth_gb_per_s"] > 0 and machine["matrix_gflop_per_s"] > 0 and "thread" in machine["device"]
    assert (latency["k"], latency["context"], latency["rewrites"], latency["queries"]) == (2, "joined", 4, 2)
    assert latency["readings"] and latency["warnings"] == []


@pytest.mark.parametrize(("context", "n_calls"), [("separate", 2), ("ensemble", 2)])
def test_chunks_in_prompts_of_their_own_are_so_many_calls(
    context, n_calls, questions, chunks, embeddings, tiny_lm_folder, folders
):
    once = {"baseline": False, "repetitions": 1, "warmup": 0, "concurrency": [2]}
    config = local_config(tiny_lm_folder, benchmark=once, retrieval={"k": 2, "context": context})
    latency, _, calls, _ = run_stage(config, questions, chunks, embeddings, folders)
    rows = {row["task"]: row for row in latency["rows"]}
    assert (rows["query"]["n_llm_calls"], rows["complete"]["n_llm_calls"]) == (n_calls, n_calls)
    assert rows["rewrite"]["n_llm_calls"] == 1
    mine = [row for row in calls if row.task == "query" and row.question == calls[0].question]
    assert len({row.prompt for row in mine}) == n_calls and {row.n_completion_tokens for row in mine} <= {1, 2, 3, 4, 5}
    assert rows["query"]["n_prompt_tokens"] == sum(row.n_prompt_tokens for row in calls if row.task == "query") / 2
    assert all(row["parts_s"]["prefill"] > 0 and row["parts_s"]["decode"] > 0 for row in rows.values())


def test_mistakes_are_told(questions, chunks, embeddings, tiny_lm_folder, folders, tmp_path):
    spoilt = tmp_path / "lm"
    spoilt.mkdir()
    for path in tiny_lm_folder.iterdir():
        (spoilt / path.name).write_bytes(path.read_bytes())
    own = json.loads((spoilt / "generation_config.json").read_text())
    (spoilt / "generation_config.json").write_text(json.dumps(own | {"temperature": 0.7, "top_p": 0.9}))
    template = "[INST] {context} {question} [/INST]</s>"
    said = []
    send_events_to(lambda event: said.append(event.get("message", "")) if event.get("level") == "warning" else None)
    once = {"baseline": False, "repetitions": 1, "warmup": 0, "concurrency": [1], "queries": 1}
    config = local_config(spoilt, benchmark=once, retrieval={"k": 2, "template": template})
    try:
        warnings = run_stage(config, questions, chunks, embeddings, folders)[0]["warnings"]
    finally:
        send_events_to(lambda event: None)
    assert len(warnings) == 2 and set(warnings) <= set(said)
    assert "</s> behind its last [/INST]" in warnings[0]
    assert "temperature 0.7 and top_p 0.9 while do_sample is false" in warnings[1]


def test_more_clients_than_questions_are_left_out(questions, chunks, embeddings, tiny_lm_folder, folders, tmp_path):
    once = {"baseline": False, "repetitions": 1, "warmup": 0, "queries": 1}
    config = local_config(tiny_lm_folder, benchmark=once | {"concurrency": [2, 7]})
    latency, *_ = run_stage(config, questions, chunks, embeddings, folders)
    assert {row["concurrency"] for row in latency["rows"]} == {2}
    with pytest.raises(InputError, match="6 questions for 7 clients"):
        config = local_config(tiny_lm_folder, benchmark=once | {"concurrency": [7]})
        run_stage(config, questions, chunks, embeddings, (tmp_path, tmp_path))


def test_a_served_model_is_asked_anew_each_time_and_each_call_is_paid_for(
    server, questions, chunks, embeddings, folders, tmp_path
):
    ledger = Ledger(tmp_path / "paid", prices={"gpt-4o-mini-2024-07-18": Price(1.0, 2.0)})
    latency, timings, calls, counters = run_stage(served_config(server), questions, chunks, embeddings, folders, ledger)
    # Three tasks; a warm-up by each client once, then two rounds of two questions, and of three.
    n_asked = 3 * ((1 + 3) + 2 * (2 + 3))
    assert server.billed["chat"] == n_asked
    spent = ledger.spent["gpt-4o-mini-2024-07-18"]
    assert spent.usage.n_calls == n_asked and spent.usd > 0
    assert ledger.find("anything") is None and counters == {"n_timed": 3 * 2 * (2 + 3), "n_failed": 0}
    assert latency["machine"] is None and latency["model"]["dtype"] is None
    for row in latency["rows"]:
        assert row["engine"] == "radit" and row["floor_s"] is None and row["times_floor"] is None
        assert 0 < row["first_token_s"] <= row["p50_s"]
        assert sum(row["parts_s"].values()) == pytest.approx(row["mean_s"])
        assert row["parts_s"]["prefill"] > 0 and row["parts_s"]["decode"] >= 0
    assert {row.task for row in calls} == {"rewrite", "query", "complete"}
    assert all(row.prompt.startswith(("system: ", "user: ")) and row.completion for row in calls)
    assert sum(row.n_prompt_tokens for row in timings) < spent.usage.n_prompt_tokens, "the warm-up is paid for, too"


def test_a_served_embedder_is_asked_anew_and_its_calls_are_paid_for(server, questions, chunks, folders, tmp_path):
    from radit_job.config.slices import IndexSlice
    from radit_job.stages import index

    once = {"repetitions": 2, "warmup": 0, "concurrency": [1], "queries": 1}
    config = served_config(server, embedder=True, benchmark=once)
    for name in ("index", "kept"):
        (tmp_path / name).mkdir()
    index.run(IndexSlice.of(config), chunks=chunks, out=tmp_path / "index", scratch=tmp_path / "kept")
    ledger = Ledger(tmp_path / "paid")
    run_stage(config, questions, chunks, tmp_path / "index" / "embeddings", folders, ledger)
    spent = ledger.spent["text-embedding-3-small"].usage
    assert spent.n_calls == 3, "two rounds, and once before the clock of the bare prompt started"


def test_a_question_that_fails_is_counted_and_no_number(server, questions, chunks, embeddings, folders, tmp_path):
    once = {"repetitions": 1, "warmup": 0, "concurrency": [1], "queries": 4}
    server.misbehave(kind="rate_limit", on="chat", times=2, after=1)
    ledger = Ledger(tmp_path / "paid")
    config = served_config(server, benchmark=once)
    latency, timings, _, counters = run_stage(config, questions, chunks, embeddings, folders, ledger)
    rewrite = latency["rows"][0]
    assert (rewrite["n"], rewrite["n_failed"]) == (2, 2) and counters["n_failed"] == 2
    assert sum(row.error is not None for row in timings) == 2
    assert ledger.spent["gpt-4o-mini-2024-07-18"].usage.n_calls == 3 * 4 - 2, "what was refused cost nothing"


def test_a_row_whose_every_question_failed_has_no_figures(server, questions, chunks, embeddings, folders):
    once = {"repetitions": 1, "warmup": 0, "concurrency": [1], "queries": 2}
    server.misbehave(kind="reset_mid_body", on="chat")
    latency, *_ = run_stage(served_config(server, benchmark=once), questions, chunks, embeddings, folders)
    assert [(row["n"], row["n_failed"], row["p50_s"], row["parts_s"]) for row in latency["rows"]] == [
        (0, 2, None, None)
    ] * 3
    assert latency["readings"] == []


def test_a_refusal_that_is_final_ends_the_stage(server, questions, chunks, embeddings, folders):
    server.misbehave(kind="insufficient_quota", on="chat")
    with pytest.raises(RaditError, match="quota"):
        run_stage(served_config(server), questions, chunks, embeddings, folders)


def test_the_budget_holds(server, questions, chunks, embeddings, folders, tmp_path):
    ledger = Ledger(tmp_path / "paid", prices={"gpt-4o-mini-2024-07-18": Price(1000.0, 1000.0)}, budget_usd=0.5)
    with pytest.raises(ConfigError, match="are spent or set aside"):
        run_stage(served_config(server), questions, chunks, embeddings, folders, ledger)
    spent = ledger.spent.get("gpt-4o-mini-2024-07-18")
    assert spent is not None and 0 < spent.usd <= 0.5


def test_a_served_model_needs_no_deep_learning_library(server, questions, chunks, tmp_path):
    from radit_job.config.slices import IndexSlice
    from radit_job.stages import index

    config = served_config(server, embedder=True, benchmark={"repetitions": 1, "warmup": 0, "concurrency": [1]})
    for name in ("index", "kept", "out", "scratch"):
        (tmp_path / name).mkdir()
    index.run(IndexSlice.of(config), chunks=chunks, out=tmp_path / "index", scratch=tmp_path / "kept")
    folders = {"questions": questions, "chunks": chunks, "embeddings": tmp_path / "index" / "embeddings"}
    folders |= {"out": tmp_path / "out", "scratch": tmp_path / "scratch"}
    plain = [BenchmarkSlice.of(config).model_dump(), {name: str(path) for name, path in folders.items()}]
    whole = """
import json, sys
from pathlib import Path
from radit_job.config.slices import BenchmarkSlice
from radit_job.stages import benchmark
config, folders = json.loads(sys.stdin.read())
benchmark.run(BenchmarkSlice.model_validate(config), **{name: Path(path) for name, path in folders.items()})
assert not {"torch", "transformers", "llama_index"} & set(sys.modules)
"""
    root = Path(__file__).parents[3]
    subprocess.run(
        [sys.executable, "-c", whole], input=json.dumps(plain), text=True, check=True, cwd=root, env={**os.environ}
    )
