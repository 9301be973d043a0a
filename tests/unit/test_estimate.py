"""What a run will cost: the table from numbers, the numbers from real prompts, and what `radit check` says of both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from radit_job.cli.measuring import expected_rows
from radit_job.config.loading import load_config
from radit_job.config.schema import Config
from radit_job.errors import ConfigError, InputError, RaditError, ServiceError
from radit_job.model_ref import ModelRef
from radit_job.models.cost import Price, Prices, Usage
from radit_job.models.openai_api.tokens import ServedTokens
from radit_job.pipeline import check_served
from radit_job.pipeline.check_served import served_findings
from radit_job.pipeline.estimate import Row, estimate
from radit_job.pipeline.estimate_text import beyond_budget, headline, table, total
from radit_job.pipeline.findings import Finding
from radit_job.pipeline.measures import Limits, Measures
from radit_job.pipeline.served import served_uses
from radit_job.rag.prompts import Prompts
from radit_job.store import LocalStore
from tests.servers.openai_server import openai_server

LIMITS = Limits(pair=256, check=64, sentence_question=40, n_samples=4, chunks_per_question=6, sentences_per_question=6)
PRICES = Prices({"gpt": Price(1.0, 10.0, 3.0), "ft:gpt": Price(2.0, 20.0), "embed": Price(0.1)})
SERVED = {"provider": "openai", "name": "gpt"}


def config(**sections: Any) -> Config:
    models = {
        "embedder": {"provider": "openai", "name": "embed"},
        "lm": SERVED,
        "question_writer": SERVED,
        "judge": SERVED,
    }
    plain = {"name": "x", "corpus": {"paths": ["d.txt"]}, "models": models, "finetune_lm": {"engine": "openai"}}
    return Config.model_validate({**plain, **sections})


def measures(**changes: Any) -> Measures:
    roles = ("embedder", "question_writer", "lm", "judge")
    kinds = ("closed_book", "base", "few_shot", "lm", "lm_closed_book", "example", "bare example", "write", "check")
    kinds = (*kinds, "candidate", "retriever")
    metrics = ("correctness", "faithfulness", "relevancy", "preference")
    frames = {("lm", kind): 50.0 for kind in kinds} | {
        ("question_writer", kind): 300.0 for kind in (*kinds, "sentence")
    }
    plain: dict[str, Any] = {
        "n_chunks": 64,
        "n_askable": 60,
        "all_chunk_tokens": 16_000,
        "chunk_tokens": dict.fromkeys(roles, 250.0),
        "frame_tokens": frames | {("judge", metric): 200.0 for metric in metrics},
        "limits": LIMITS,
        "n_questions": 100,
        "question_tokens": dict.fromkeys(roles, 10.0),
        "reference_tokens": dict.fromkeys(roles, 20.0),
    }
    return Measures(**{**plain, **changes})


def row_of(rows: list[Row], stage: str, model: str) -> Row:
    return next(row for row in rows if (row.stage, row.model) == (stage, model))


def test_training_is_charged_for_every_epoch_of_what_is_not_held_out() -> None:
    whole = config(retrieval={"k": 2}, finetune_lm={"engine": "openai", "epochs": 2, "dev_share": 0.2})
    row = row_of(estimate(whole, measures(), PRICES), "finetune_lm", "gpt")
    assert row.usage.n_training_tokens == round(0.8 * 70 * (50 + 2 * 250 + 10 + 20) * 2)
    assert row.usd == pytest.approx(row.usage.n_training_tokens * 3.0 / 1e6)


def test_what_is_too_little_to_be_held_out_is_charged_too() -> None:
    whole = config(retrieval={"k": 2}, finetune_lm={"engine": "openai", "epochs": 2, "dev_share": 0.1})
    row = row_of(estimate(whole, measures(), PRICES), "finetune_lm", "gpt")
    assert row.usage.n_training_tokens == 70 * (50 + 2 * 250 + 10 + 20) * 2


def test_without_retrieval_the_examples_have_no_chunks_and_a_given_job_costs_nothing() -> None:
    bare = config(finetune_lm={"engine": "openai", "context": "none", "epochs": 1, "dev_share": 0})
    assert row_of(estimate(bare, measures(), PRICES), "finetune_lm", "gpt").usage.n_training_tokens == 70 * 80
    given = config(finetune_lm={"engine": "openai", "api": {"job_id": "ftjob-1"}})
    assert "finetune_lm" not in {row.stage for row in estimate(given, measures(), PRICES)}


def test_tuned_and_untuned_arms_are_priced_apart() -> None:
    whole = config(
        retrieval={"k": 2},
        evaluate={"arms": ["closed_book", "base", "lm"], "train_sample": 20, "metrics": ["token_f1"]},
        answer={"max_new_tokens": 128},
    )
    rows = estimate(whole, measures(), PRICES)
    base, tuned = row_of(rows, "answer", "gpt"), row_of(rows, "answer", "ft:gpt")
    assert (base.usage.n_calls, tuned.usage.n_calls) == (100, 50)
    assert base.usage.n_prompt_tokens == 50 * (50 + 10) + 50 * (50 + 10 + 500)
    assert tuned.usage.n_completion_tokens == 50 * 20  # as it was taught
    assert tuned.most.n_completion_tokens == 50 * 128
    assert tuned.usd is not None and tuned.most_usd is not None and tuned.usd < tuned.most_usd


def test_each_candidate_of_a_training_question_is_sent_with_the_answer_and_one_token_comes_back() -> None:
    models = {"embedder": {"provider": "packaged", "name": "all-minilm-l6-v2"}}
    models["lm"] = {**SERVED, "can_score": True, "tokenizer": "smollm2-135m-instruct", "base_url": "http://here/v1"}
    tuned = {"arms": ["base", "retriever"], "metrics": ["token_f1"]}
    whole = config(models=models, evaluate=tuned, finetune_lm={})
    usage = row_of(estimate(whole, measures(), PRICES), "score", "gpt").usage
    assert (usage.n_calls, usage.n_completion_tokens) == (70 * 8, 70 * 8)
    assert usage.n_prompt_tokens == 70 * 8 * (50 + 250 + 10 + 20)
    few = row_of(estimate(whole, measures(n_chunks=3), PRICES), "score", "gpt")
    assert few.usage.n_calls == 70 * 3, "there are no more chunks"
    plain = config(models=models, evaluate={**tuned, "arms": ["base"]}, finetune_lm={})
    assert "score" not in {row.stage for row in estimate(plain, measures(), PRICES)}


def test_the_judge_is_asked_by_metric_both_orders_and_some_again() -> None:
    evaluate = {
        "arms": ["closed_book", "base", "lm"],
        "train_sample": 20,
        "metrics": ["correctness", "faithfulness", "preference"],
        "judge_repeats": 20,
    }
    row = row_of(estimate(config(evaluate=evaluate), measures(), PRICES), "evaluate", "gpt")
    assert row.usage.n_calls == 3 * 50 + 20 + 2 * 50 + 2 * 50  # faithfulness: not of the closed book
    assert row.most.n_completion_tokens == row.usage.n_calls * 300


def test_writing_makes_up_for_what_is_dropped_and_a_check_is_a_call_for_each_pair() -> None:
    some = measures(n_questions=None)
    plain = config(questions={"limit": 35})
    row = row_of(estimate(plain, some, PRICES), "generate", "gpt")
    assert row.usage.n_calls == 50  # at 30 % dropped
    checked = row_of(estimate(config(questions={"limit": 35, "check": "call"}), some, PRICES), "generate", "gpt")
    assert checked.usage.n_calls == 100
    many = row_of(estimate(config(questions={"per_chunk": 3}), some, PRICES), "generate", "gpt")
    assert many.usage.n_calls == 60  # three pairs a call, and no chunk gives more
    assert many.most.n_completion_tokens == 60 * 3 * 256


def test_at_most_every_chunk_is_asked_that_may_be() -> None:
    def most(n_askable: int, **questions: Any) -> Usage:
        some = measures(n_questions=None, n_askable=n_askable)
        return row_of(estimate(config(questions={"per_chunk": 1, **questions}), some, PRICES), "generate", "gpt").most

    assert most(60, limit=35).n_calls == 60  # there are no more chunks
    assert most(1000, limit=35).n_calls == 6 * 35  # the stage gives up
    assert most(1000, limit=35, check="call").n_calls == 2 * 6 * 35
    assert most(1000, limit=35, per_chunk=2).n_calls == 2 * 6 * 35  # one pair a call
    assert most(1000, limit=35).n_completion_tokens == 6 * 35 * 256
    assert most(1000, limit=35, writing="sentences").n_calls == 6 * 35 * 4
    embedded = [
        row_of(
            estimate(
                config(questions={"limit": 320, "per_chunk": 1, **way}),
                measures(n_questions=None, n_askable=9000),
                PRICES,
            ),
            "generate",
            "embed",
        ).most
        for way in ({}, {"writing": "sentences"})
    ]
    assert [one.n_calls for one in embedded] == [6 * 10, 6 * 10 * (1 + 4)]  # 32 texts a call


def test_a_stage_that_is_in_the_store_already_costs_nothing() -> None:
    rows = estimate(config(), measures(), PRICES, skipped=["generate", "evaluate"])
    assert {row.stage for row in rows} == {"index", "augment", "finetune_lm", "answer"}


def test_local_models_cost_nothing() -> None:
    assert estimate(Config.model_validate({"name": "x", "corpus": {"paths": ["d"]}}), measures(), PRICES) == []


def test_an_unknown_price_is_said_beside_what_is_known() -> None:
    rows = estimate(config(), measures(), Prices({"gpt": Price(1.0, 10.0, 3.0), "embed": Price(0.1)}))
    assert total(rows).usd is None
    assert headline(rows).startswith("unknown: no price for ft:gpt; the rest is about $")
    assert "unknown" in next(line for line in table(rows) if "ft:gpt" in line)


def test_a_tokenizer_that_only_estimates_raises_the_most_alone() -> None:
    sure, unsure = measures(), measures(margins={"lm": 2.0})
    for stage in ("finetune_lm", "answer"):
        one, other = (row_of(estimate(config(), some, PRICES), stage, "gpt") for some in (sure, unsure))
        assert one.usage == other.usage
        assert other.most.n_prompt_tokens + other.most.n_training_tokens == pytest.approx(
            2 * (one.most.n_prompt_tokens + one.most.n_training_tokens), abs=8
        )


def test_what_the_budget_cannot_hold_is_said() -> None:
    rows = estimate(config(), measures(), PRICES)
    usd = total(rows).usd
    assert usd is not None
    assert beyond_budget(rows, None) == beyond_budget(rows, usd) == ""
    assert "the run will stop before its end" in beyond_budget(rows, usd - 0.01)


def test_the_table_keeps_to_100_columns() -> None:
    long = [Row("finetune_lm", "ft:" + "m" * 80, total([]).usage, total([]).usage, 1234.5, None)]
    assert all(len(line) <= 100 for line in table(long))


# Measured on documents


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sentences = [f"Machine {n} of the plant was built by workshop {n % 7} in the year {1900 + n}." for n in range(200)]
    (tmp_path / "plant.txt").write_text("\n\n".join(" ".join(sentences[at : at + 10]) for at in range(0, 200, 10)))
    pairs = [{"question": f"Who built machine {n}?", "answer": f"It was workshop {n % 7}."} for n in range(30)]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    (tmp_path / "run.yaml").write_text(
        """
name: served
corpus: {paths: [plant.txt]}
chunking: {size_tokens: 64, overlap_tokens: 8}
questions: {source: file, path: q.jsonl}
retrieval: {k: 2}
models:
  lm: {provider: openai, name: gpt-4o-mini}
  judge: {provider: openai, name: gpt-4o-mini}
evaluate: {arms: [closed_book, base], metrics: [token_f1, correctness], train_sample: 0}
spending: {prices: {gpt-4o-mini: {input_usd: 1, output_usd: 2}}}
"""
    )
    return tmp_path


def test_the_estimate_counts_the_prompts_that_the_stages_would_send(folder: Path) -> None:
    loaded = load_config(folder / "run.yaml")
    expected = expected_rows(loaded, LocalStore(folder / "store"))
    assert expected is not None
    rows, measured = expected
    assert measured.n_questions == 30
    row = row_of(rows, "answer", "gpt-4o-mini")
    assert row.usage.n_calls == 2 * 9
    # The same prompts, built with texts of this corpus: two chunks are about eight of its sentences.
    tokens = ServedTokens(ModelRef("openai", "gpt-4o-mini"))
    retrieval = loaded.config.retrieval
    prompts = Prompts(retrieval.system_message, retrieval.template, retrieval.closed_book_template)
    paragraph = (folder / "plant.txt").read_text().split("\n\n")[3]
    half = paragraph[: paragraph.index(" Machine 34")]
    n_chunk = tokens.n_text(half)
    in_words = tokens.n_prompt(prompts.with_context("Who built machine 33?", [half, half]))
    n_base = in_words - 2 * n_chunk + 2 * measured.chunk_tokens["lm"]
    n_closed = tokens.n_prompt(prompts.closed_book("Who built machine 33?"))
    assert row.usage.n_prompt_tokens == pytest.approx(9 * (n_base + n_closed), rel=0.02)
    assert measured.chunk_tokens["lm"] == pytest.approx(64, rel=0.35)  # of another tokenizer
    assert list((folder / "store").rglob("*")) == []  # nothing is changed


def test_no_documents_are_cut_where_only_what_is_there_may_be_read(folder: Path) -> None:
    loaded = load_config(folder / "run.yaml")
    assert expected_rows(loaded, LocalStore(folder / "store"), only_if_cut=True) is None


# What check says of served models

KEYED: dict[str, Any] = {"api_key_env": "OPENAI_API_KEY"}


def findings(by_pods: bool = False, **lm: Any) -> list[Finding]:
    plain = {
        "name": "x",
        "corpus": {"paths": ["d.txt"]},
        "models": {"lm": {"provider": "openai", "name": "gpt-4o-mini", **lm}},
        "evaluate": {"arms": ["base"]},
        "spending": lm.pop("spending", {"prices": {"gpt-4o-mini": {"input_usd": 1}}}),
    }
    plain["models"] = {"lm": {"provider": "openai", "name": "gpt-4o-mini", **lm}}
    return list(served_findings(Config.model_validate(plain), by_pods=by_pods))


def verdicts(found: list[Finding]) -> dict[str, str]:
    return {one.subject: one.verdict for one in found}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_served, "PATIENCE_S", 0.2)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def test_a_model_that_the_server_lists_is_fine_and_one_that_it_does_not_list_is_a_warning(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with openai_server() as server:
        monkeypatch.setenv("OPENAI_API_KEY", server.key)
        assert verdicts(findings(base_url=server.url, **KEYED)) == {"lm": "ok", "prices": "ok"}
        found = findings(base_url=server.url, name="gpt-4o-minni", **KEYED)
        assert verdicts(found) == {"lm": "warn", "prices": "warn"}
        assert "is it spelt right?" in found[0].says


def test_a_key_that_is_refused_fails_with_the_servers_words_and_without_the_key(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-0123456789abcdef")
    with openai_server() as server:
        [found, _] = findings(base_url=server.url, **KEYED)
    assert isinstance(found.error, InputError)
    assert "refused the key" in found.says
    assert "0123456789abcdef" not in found.says


def test_openai_itself_wants_a_key_here_and_for_pods_it_is_enough_that_they_have_one(quick: None) -> None:
    [found, _] = findings()
    assert (found.verdict, type(found.error)) == ("fail", ConfigError)
    assert "OPENAI_API_KEY" in found.says
    [found, _] = findings(by_pods=True)
    assert (found.verdict, found.error) == ("warn", None)


def test_a_server_that_is_down_fails_and_for_pods_it_may_be_reached_from_inside(quick: None) -> None:
    with openai_server() as server:
        url = server.url
    [found, _] = findings(base_url=url)
    assert isinstance(found.error, ServiceError)
    [found, _] = findings(base_url=url, by_pods=True)
    assert found.verdict == "warn" and "the pods may reach it" in found.says


def test_a_missing_price_is_a_warning_and_with_a_budget_a_failure(quick: None) -> None:
    with openai_server(key=None) as server:
        free = findings(base_url=server.url, spending={})
        limited = findings(base_url=server.url, spending={"budget_usd": 1})
    assert (free[-1].verdict, limited[-1].verdict) == ("warn", "fail")
    assert "gpt-4o-mini" in limited[-1].says
    assert isinstance(limited[-1].error, RaditError)


def test_training_and_the_tuned_model_want_prices_of_their_own() -> None:
    whole = config(evaluate={"arms": ["base", "lm"]}, spending={"prices": {"gpt": {"input_usd": 1}}})
    assert check_served.missing_prices(whole, served_uses(whole)) == ["embed", "training gpt (training_usd)", "ft:gpt"]


def test_only_what_is_called_is_a_use() -> None:
    local = {"lm": SERVED, "judge": SERVED}
    base = {"name": "x", "corpus": {"paths": ["d"]}, "models": local}
    plain = Config.model_validate({**base, "evaluate": {"arms": ["base"], "metrics": ["token_f1"]}})
    assert [(use.stage, use.priced_as) for use in served_uses(plain)] == [("answer", "gpt")]
