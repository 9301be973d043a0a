"""What the stage `benchmark` costs where models are served: as many calls and tokens as it will send."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from radit_job.cli.measuring import expected_rows
from radit_job.config.loading import load_config
from radit_job.config.schema import Config
from radit_job.latency.task_prompts import rewriting
from radit_job.model_ref import ModelRef
from radit_job.models.openai_api.tokens import ServedTokens
from radit_job.pipeline.served import served_uses
from radit_job.pipeline.timed_questions import n_embedded, n_timed_questions
from radit_job.rag.prompts import Prompts
from radit_job.store import LocalStore

QUESTION = "Who built machine 33?"
CONFIG = """
name: mill
corpus: {paths: [plant.txt]}
questions: {source: file, path: questions.jsonl}
retrieval: {k: 2}
models: {lm: {provider: openai, name: gpt-4o-mini}}
evaluate: {arms: [closed_book], metrics: [token_f1], train_sample: 0}
answer: {max_new_tokens: 50}
benchmark: {enabled: true, queries: 4, rewrites: 3, warmup: 1, repetitions: 3, concurrency: [1, 3]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    paragraphs = [f"Machine {n} was built by Ida in hall {n % 7}, and it spins wool for coats." for n in range(60)]
    (tmp_path / "plant.txt").write_text("\n\n".join(paragraphs))
    line = '{"question": "Who built machine 33?", "answer": "Ida built it in hall 5."}\n'
    (tmp_path / "questions.jsonl").write_text("".join(line.replace("33", str(n)) for n in range(30, 50)))
    (tmp_path / "run.yaml").write_text(CONFIG)
    return tmp_path


def config(*, served_embedder: bool = False, **benchmark: Any) -> Config:
    embedder = {"embedder": {"provider": "openai", "name": "embed"}} if served_embedder else {}
    times = {"enabled": True, "queries": 2, "repetitions": 2, "warmup": 1, "concurrency": [1, 3]} | benchmark
    return Config.model_validate({"name": "x", "corpus": {"paths": ["d"]}, "models": embedder, "benchmark": times})


def test_as_many_questions_are_expected_as_the_stage_asks() -> None:
    # tests/stages/rag/test_benchmark_stage.py counts them at the server: 3 tasks of these.
    assert n_timed_questions(config(), 6) == (1 + 3) + 2 * (2 + 3)
    assert n_timed_questions(config(concurrency=[1, 7]), 6) == 1 + 2 * 2, "more clients than questions are left out"
    assert n_timed_questions(config(warmup=0, repetitions=1, concurrency=[4]), 6) == 4


def test_a_served_embedder_gets_the_queries_and_once_those_whose_bare_prompts_are_wanted() -> None:
    n_queries = n_timed_questions(config(), 6)
    assert n_embedded(config(baseline=False), 6) == n_queries + 3
    assert n_embedded(config(), 6) == 2 * (n_queries + 3), "the baseline's too"


def test_the_stage_is_priced_only_where_it_runs() -> None:
    stages = {use.stage for use in served_uses(config(served_embedder=True))}
    assert "benchmark" in stages
    assert "benchmark" not in {use.stage for use in served_uses(config(served_embedder=True, enabled=False))}


def test_the_estimate_counts_the_prompts_that_the_stage_sends(folder: Path) -> None:
    loaded = load_config(folder / "run.yaml")
    expected = expected_rows(loaded, LocalStore(folder / "store"))
    assert expected is not None
    row = next(row for row in expected[0] if row.stage == "benchmark")
    n_timed = (1 + 3) + 3 * (4 + 6)
    assert row.usage.n_calls == 3 * n_timed
    assert row.most.n_completion_tokens == 3 * n_timed * 50
    assert row.usage.n_completion_tokens == n_timed * (3 * 15 + 2 * 40), "rewritten queries; answers of 40 tokens"
    tokens = ServedTokens(ModelRef("openai", "gpt-4o-mini"))
    retrieval = loaded.config.retrieval
    prompts = Prompts(retrieval.system_message, retrieval.template, retrieval.closed_book_template)
    n_query = tokens.n_prompt(prompts.with_context(QUESTION, ["", ""])) + 2 * expected[1].chunk_tokens["lm"]
    n_rewrite = tokens.n_prompt(rewriting(QUESTION, 3))
    assert row.usage.n_prompt_tokens == pytest.approx(n_timed * (n_rewrite + 2 * n_query), rel=0.01)
