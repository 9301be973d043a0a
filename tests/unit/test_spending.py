"""What a run has spent and may spend yet: books in a real store, decided on by a real controller."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from radit_job.config.canonical import config_digest
from radit_job.config.fields import result_values
from radit_job.config.loading import load_config
from radit_job.config.schema import Config
from radit_job.config.slices import AnswerSlice
from radit_job.errors import ConfigError, Interrupted, StageFailed, StoreError
from radit_job.jobs import Condition, JobSpec, JobState, Outcome, Resources
from radit_job.models.cost import Price, Prices, Spent, Usage
from radit_job.pipeline.catalog import CATALOG
from radit_job.pipeline.collect import unreferenced
from radit_job.pipeline.controller import Controller
from radit_job.pipeline.names import spec_file
from radit_job.pipeline.paid_ledger import keep_surely, open_ledger
from radit_job.pipeline.runs import RunRecord, StageRecord, load_results, load_run
from radit_job.pipeline.spending import (
    Book,
    left_for_process,
    lost_book,
    read_books,
    spent_line,
    summary,
    total_usd,
    write_book,
)
from radit_job.store import LocalStore, open_store
from radit_job.store.artifacts import publish
from radit_job.store.shards import joined_result

CONFIG = """
name: paid
corpus: {paths: [corpus.txt]}
questions: {source: generate}
models:
  lm: {provider: openai, name: gpt}
  question_writer: {provider: openai, name: gpt}
  judge: {provider: openai, name: gpt}
evaluate: {arms: [closed_book, base], metrics: [token_f1, correctness]}
spending: {budget_usd: 1.0, prices: {gpt: {input_usd: 1.0, output_usd: 2.0}}}
"""
PAYING = ["generate", "answer", "evaluate"]


def spent(usd: float | None, n_calls: int = 1, n_prompt_tokens: int = 1000) -> Spent:
    return Spent(Usage(n_calls, n_prompt_tokens, 10), usd)


class PayingExecutor:
    """Commits what a stage would, and writes the book that a worker would have written."""

    name = "local"
    context: str | None = None
    namespace: str | None = None
    afterwards = "Come again."

    def __init__(self, store: LocalStore, costs: dict[str, float]) -> None:
        self.store = store
        self.costs = costs
        self.fails_at: str | None = None
        self.killed_at: str | None = None
        self.specs: dict[str, JobSpec] = {}
        self.side_by_side: list[set[str]] = []
        self._running: deque[JobSpec] = deque()

    def has_room(self, resources: Resources) -> bool:
        return True

    def start(self, spec: JobSpec, spec_name: str) -> None:
        self.specs[spec.stage] = spec
        self._running.append(spec)
        self.side_by_side.append({other.stage for other in self._running})

    def wait(self) -> list[tuple[str, Outcome | Condition]]:
        spec = self._running.popleft()
        paid = {"gpt": spent(self.costs[spec.stage])} if spec.stage in self.costs else {}
        if paid:
            write_book(self.store, spec.run, Book(spec.stage, spec.key, spent=paid))
        if spec.stage == self.killed_at:
            raise KeyboardInterrupt
        if spec.stage == self.fails_at:
            return [(spec.stage, Outcome(JobState.FAILED, 1))]
        row = next(row for row in CATALOG if row.name == spec.stage)
        out = self.store.scratch(f"out/{spec.key}")
        for artifact in row.writes:
            (out / artifact).mkdir(exist_ok=True)
            (out / artifact / "rows.jsonl").write_text(spec.key)
        if spec.stage == "evaluate":
            measured = {"arms": ["base"], "rows": [], "pairs": [], "judge": {"n_repeated": 20}}
            (out / "results" / "results.json").write_text(json.dumps(measured))
        if spec.stage == "report":
            (out / "report" / "report.html").write_text("<html></html>")
        result = {
            "run": spec.run,
            "seconds": 1.0,
            "finished_at": "2999-01-01T00:00:00Z",
            "spent": {model: item.to_json() for model, item in paid.items()},
        }
        publish(self.store, spec.stage, spec.key, out, row.writes, result, replace=spec.replace)
        return [(spec.stage, Outcome(JobState.SUCCEEDED, 0))]

    def stop(self) -> None:
        pass


class Bench:
    def __init__(self, folder: Path) -> None:
        (folder / "corpus.txt").write_text("one document")
        (folder / "paid.yaml").write_text(CONFIG)
        self.folder = folder
        self.store = LocalStore(folder / "store")

    def run(self, costs: dict[str, float], *overrides: str, run: str = "paid", **how: Any) -> PayingExecutor:
        executor = PayingExecutor(self.store, costs)
        executor.fails_at, executor.killed_at = how.pop("fails_at", None), how.pop("killed_at", None)
        loaded = load_config(self.folder / "paid.yaml", overrides)
        self.executor = executor
        Controller(loaded, self.store, lambda model: model.name, run=run, **how).run(executor)
        return executor

    def budgets(self) -> dict[str, float | None]:
        return {stage: spec.budget_usd and round(spec.budget_usd, 6) for stage, spec in self.executor.specs.items()}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_each_paying_stage_gets_what_the_others_have_left_and_a_local_one_gets_nothing(bench: Bench) -> None:
    executor = bench.run({"generate": 0.25, "answer": 0.125, "evaluate": 0.0625})
    paying = {stage: usd for stage, usd in bench.budgets().items() if stage in PAYING}
    assert paying == {"generate": 1.0, "answer": 0.75, "evaluate": 0.625}
    assert {usd for stage, usd in bench.budgets().items() if stage not in PAYING} == {None}
    assert {stage for stage, spec in executor.specs.items() if spec.prices} == set(PAYING)
    assert executor.specs["answer"].prices["gpt"] == {"input_usd": 1.0, "output_usd": 2.0, "training_usd": None}


def test_a_killed_and_a_failed_try_count_until_the_run_is_done_and_the_next_run_begins_anew(bench: Bench) -> None:
    with pytest.raises(Interrupted):
        bench.run({"generate": 0.5}, killed_at="generate")
    with pytest.raises(StageFailed):  # the same key goes on with its own book: it is not taken off twice
        bench.run({"generate": 0.625, "answer": 0.25}, fails_at="answer")
    assert bench.budgets()["generate"] == 1.0
    assert bench.budgets()["answer"] == 0.375
    with pytest.raises(Interrupted):  # another key: what the old one has cost stays spent
        bench.run({"generate": 0.125}, "questions.per_chunk=3", killed_at="generate")
    assert bench.budgets()["generate"] == 0.125
    bench.run({"evaluate": 0.5}, "spending.budget_usd=2")
    assert bench.budgets() | {"report": None} == {"answer": 1.25, "evaluate": 1.0, "report": None}
    assert load_results(bench.store, "paid")["spent"]["usd"] == 1.5
    bench.run({"evaluate": 0.5}, "evaluate.judge_repeats=3")
    assert bench.budgets()["evaluate"] == 1.0
    assert load_results(bench.store, "paid")["spent"]["usd"] == 0.5


def test_the_budget_of_a_run_in_parts_is_one_until_its_last_part_is_done(bench: Bench) -> None:
    bench.run({"generate": 0.5}, until="generate")
    bench.run({"answer": 0.25}, until="answer")
    assert bench.budgets()["answer"] == 0.5
    bench.run({"evaluate": 0.125})
    assert bench.budgets()["evaluate"] == 0.25
    assert load_results(bench.store, "paid")["spent"]["usd"] == 0.875
    bench.run({"evaluate": 0.5}, "evaluate.judge_repeats=3")  # all of it was done: another run
    assert bench.budgets()["evaluate"] == 1.0


def test_a_budget_that_is_used_up_leaves_nothing_but_does_not_go_below(bench: Bench) -> None:
    bench.run({"generate": 1.5})
    assert bench.budgets()["answer"] == 0.0


def test_paying_stages_run_side_by_side_only_without_a_budget(bench: Bench) -> None:
    served = "models.embedder={provider: openai, name: gpt, tokenizer: all-minilm-l6-v2}"
    together = {"index", "generate"}
    with_budget = bench.run({}, served)
    assert not any(len(running & {*PAYING, "index"}) > 1 for running in with_budget.side_by_side)
    without = bench.run({}, served, "spending.budget_usd=null", "seed=8", "chunking.size_tokens=64")
    assert any(together <= running for running in without.side_by_side)
    assert set(bench.budgets().values()) == {None}


def test_what_was_spent_without_a_price_needs_one_before_there_can_be_a_budget(bench: Bench) -> None:
    write_book(bench.store, "paid", Book("generate", "other", spent={"old": spent(None, n_prompt_tokens=500_000)}))
    with pytest.raises(ConfigError, match="called old, whose price is unknown"):
        bench.run({})
    bench.run({}, "spending.prices={gpt: {input_usd: 1}, old: {input_usd: 0.5}}")
    assert bench.budgets()["generate"] == 0.75


def test_results_tell_what_was_paid_now_and_what_the_reused_had_cost(bench: Bench) -> None:
    bench.run({"generate": 0.25, "answer": 0.125, "evaluate": 0.0625})
    whole = load_results(bench.store, "paid")
    assert whole["judge"] == {"n_repeated": 20}
    assert (whole["spent"]["usd"], whole["spent"]["budget_usd"]) == (0.4375, 1.0)
    assert whole["spent"]["stages"][0] == {
        "stage": "generate",
        "model": "gpt",
        "n_calls": 1,
        "n_prompt_tokens": 1000,
        "n_completion_tokens": 10,
        "n_training_tokens": 0,
        "usd": 0.25,
        "now": True,
    }
    bench.run({"evaluate": 0.03125}, "evaluate.judge_repeats=3", run="other")
    other = load_results(bench.store, "other")["spent"]
    assert [(row["stage"], row["usd"], row["now"]) for row in other["stages"]] == [
        ("generate", 0.25, False),
        ("answer", 0.125, False),
        ("evaluate", 0.03125, True),
    ]
    assert other["usd"] == 0.03125
    assert spent_line(other) == "Spent: $0.0312 of $1.00 (1 call); what was reused had cost $0.3750"


def record(**statuses: str) -> RunRecord:
    stages = {name: StageRecord(name, status, key="k") for name, status in statuses.items()}  # type: ignore[arg-type]
    return RunRecord("r", "d", "local", "now", stages=stages)


def test_one_unknown_price_makes_the_sum_unknown_and_the_known_part_is_said() -> None:
    books = [Book("answer", "k", spent={"a": spent(0.5), "b": spent(None, n_calls=3)})]
    told = summary(record(answer="failed"), books)
    assert (told["usd"], told["known_usd"]) == (None, 0.5)
    assert spent_line(told) == "Spent: an unknown sum, $0.5000 of it known: no price for b (4 calls)"


def test_a_run_that_pays_for_nothing_says_nothing() -> None:
    assert spent_line(summary(record(answer="done"), [])) == ""


def test_shards_and_tries_of_a_stage_are_one_row_for_each_model() -> None:
    books = [Book("answer", "k", "", number, 3, spent={"a": spent(0.25)}) for number in range(3)]
    told = summary(record(answer="done"), [*books, Book("answer", "k", "uid", spent={"a": spent(0.5)})])
    assert [(row["n_calls"], row["usd"]) for row in told["stages"]] == [(4, 1.25)]


def test_shards_share_what_earlier_tries_of_their_key_have_left() -> None:
    own = Book("answer", "k", "try-2", 1, 4)
    siblings = [replace(own, shard=number, spent={"a": spent(0.1)}) for number in range(4)]
    earlier = [Book("answer", "k", "", spent={"a": spent(0.25)}), replace(own, n_lost=1, spent={"a": spent(0.125)})]
    other_key = Book("answer", "k2", spent={"a": spent(9.0)})  # the controller has taken it off already
    left = left_for_process(1.0, own, [*siblings, *earlier, other_key], Prices({}))
    assert left == pytest.approx((1.0 - 0.375) / 4)
    assert left_for_process(None, own, earlier, Prices({})) is None


def test_books_of_several_processes_stand_beside_each_other(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    books = [
        Book("answer", "0123456789ab", spent={"m": spent(0.1)}),
        Book("answer", "0123456789ab", "uid", spent={"m": spent(None)}),
        Book("answer", "0123456789ab", "uid", 2, 4),
        Book("answer", "0123456789ab", "uid", 2, 4, n_lost=1),
        Book("evaluate", "0123456789ab"),
    ]
    for book in books:
        write_book(store, "r", book)
    assert sorted(read_books(store, "r"), key=str) == sorted(books, key=str)
    assert read_books(store, "r", "evaluate") == books[-1:]


def test_what_a_ledger_no_longer_holds_is_kept_beside_it_and_nothing_twice() -> None:
    before = Book("answer", "k", spent={"m": spent(0.5, n_calls=5), "n": spent(0.25, n_calls=2)})
    assert lost_book(before, before, 0) is None
    assert lost_book(replace(before, spent={}), before, 1) == replace(before, n_lost=2)
    assert lost_book(before, None, 0) is None
    own = replace(before, spent={"m": Spent(Usage(4, 800, 7), 0.375), "n": spent(0.5, n_calls=3)})
    assert lost_book(own, before, 0) == replace(before, n_lost=1, spent={"m": Spent(Usage(1, 200, 3), 0.125)})
    unpriced = replace(before, spent={"m": spent(None, n_calls=5)})
    kept = lost_book(own, unpriced, 0)
    assert kept is not None and total_usd([kept], Prices({"m": Price(1.0, 0.0)})) == pytest.approx(200e-6)
    settled = replace(before, spent={"m": Spent(Usage(5, 100), 0.05), "n": before.spent["n"]})
    assert lost_book(settled, before, 0) is None, "a job in training has cost less than was booked"


def test_a_book_that_is_ahead_of_its_ledger_adds_only_what_the_ledger_lacks(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    spec = JobSpec("r", "answer", 1, "k" * 64, {}, (), budget_usd=1.0, prices={"m": {"input_usd": 1.0}})
    own, usage = Book("answer", spec.key), Usage(1, 100_000)
    ledger = open_ledger(store, spec, own, "answer/k", store.scratch("answer/k"), tmp_path / "earlier")
    for key in "abc":
        ledger.keep(key, "yes", ledger.reserve("m", usage), usage)
    write_book(store, "r", replace(own, spent={"m": Spent(Usage(4, 400_000), 0.4)}))  # and the process was killed
    again = open_ledger(store, spec, own, "answer/k", store.scratch("answer/k"), tmp_path / "earlier")
    assert again.budget_usd == pytest.approx(0.9)  # 0.3 of it are in the ledger
    books = read_books(store, "r")
    assert total_usd(books, again.prices) == pytest.approx(0.4)
    assert sum(book.spent["m"].usage.n_calls for book in books) == 4


class UnsteadyStore(LocalStore):
    """A store whose scratch folder stands still only now and then."""

    n_refusals = 0
    n_asked = 0

    def keep_scratch(self, name: str) -> bool:
        self.n_asked += 1
        return self.n_asked > self.n_refusals


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_what_failed_under_other_settings_is_found_and_not_paid_again(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    if kind == "bucket":
        server = request.getfixturevalue("s3_environment")
        store: Any = open_store(server.store_url(f"bucket/{tmp_path.name}"))
    else:
        store = LocalStore(tmp_path / "store")
    usage = Usage(1, 1000)

    def opened(run: str, key: str, **more: Any) -> Any:
        spec = JobSpec(run, "answer", 1, key * 64, {}, (), prices={"m": {"input_usd": 1.0}}, **more)
        store.write(spec_file(run, "answer", spec.key), json.dumps(spec.to_json()).encode())
        name = f"answer/{spec.key}"
        return open_ledger(store, spec, Book("answer", spec.key), name, store.scratch(name), tmp_path / run / key)

    first = opened("r", "a")
    first.keep("asked", {"text": "yes"}, first.reserve("m", usage), usage)
    first.book("lost", first.reserve("m", usage), usage)
    other = opened("r", "b")
    assert other.find("asked") == {"text": "yes"} and other.find("lost") is None and other.spent == {}
    assert opened("another run", "b").find("asked") is None
    assert opened("r", "c", replace=True).find("asked") is None, "who forces a stage wants it anew"
    assert total_usd(read_books(store, "r"), other.prices) == pytest.approx(0.002)


def test_a_process_goes_on_from_its_own_ledger_and_loses_no_money_where_that_is_gone(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    prices = {"m": {"input_usd": 1.0}}
    spec = JobSpec("r", "answer", 1, "k" * 64, {}, (), budget_usd=1.0, prices=prices)
    own = Book("answer", spec.key)

    def opened() -> Any:
        return open_ledger(store, spec, own, "answer/k", store.scratch("answer/k"), tmp_path / "earlier")

    def pay(ledger: Any, key: str) -> None:
        usage = Usage(1, 250_000)
        ledger.keep(key, "yes", ledger.reserve("m", usage), usage)

    pay(opened(), "a")
    again = opened()
    assert (again.budget_usd, again.find("a"), again.spent["m"].usd) == (1.0, "yes", 0.25)
    store.drop_scratch("answer/k")
    anew = opened()
    assert (anew.budget_usd, anew.find("a")) == (0.75, None)
    for key in "bcd":
        pay(anew, key)
    with pytest.raises(ConfigError, match="may cost"):
        pay(anew, "e")
    assert sum(book.spent["m"].usd or 0 for book in read_books(store, "r")) == 1.0
    assert opened().budget_usd == 0.75  # the lost book is not written twice


def test_answers_paid_before_their_price_was_known_count_against_the_budget(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    spec = JobSpec("r", "answer", 1, "k" * 64, {}, ())
    own, usage = Book("answer", spec.key), Usage(1, 750_000)
    first = open_ledger(store, spec, own, "answer/k", store.scratch("answer/k"), tmp_path / "earlier")
    first.keep("a", "yes", first.reserve("m", usage), usage)
    assert read_books(store, "r")[0].spent["m"].usd is None
    priced = replace(spec, budget_usd=1.0, prices={"m": {"input_usd": 1.0}})
    second = open_ledger(store, priced, own, "answer/k", store.scratch("answer/k"), tmp_path / "earlier")
    assert read_books(store, "r")[0].spent["m"].usd == 0.75
    with pytest.raises(ConfigError, match=r"\$0.7500 of the \$1.0000"):
        second.reserve("m", usage)


def test_paid_answers_are_saved_again_until_the_folder_stands_still_or_the_stage_ends(tmp_path: Path) -> None:
    store = UnsteadyStore(tmp_path)
    store.n_refusals = 2
    keep_surely(store, "answer/k")
    assert store.n_asked == 3
    store.n_refusals = 10**6
    with pytest.raises(StoreError, match="paid answers could not be saved"):
        keep_surely(store, "answer/k")


def test_gc_spares_the_books_and_the_paid_answers_of_a_run_that_failed(bench: Bench) -> None:
    with pytest.raises(StageFailed):
        bench.run({"generate": 0.5}, fails_at="generate")
    key = bench.executor.specs["generate"].key
    (bench.store.scratch(f"generate/{key}") / "answers").write_text("paid")
    assert [name for name in unreferenced(bench.store) if "generate" in name] == []
    assert len(read_books(bench.store, "paid")) == 1


def test_a_failed_run_keeps_its_budget_where_status_finds_it(bench: Bench) -> None:
    with pytest.raises(StageFailed):
        bench.run({"generate": 0.5}, fails_at="generate")
    left = load_run(bench.store, "paid")
    assert left is not None
    assert spent_line(summary(left, read_books(bench.store, "paid"))) == "Spent: $0.5000 of $1.00 (1 call)"


def test_the_result_of_shards_holds_what_all_of_them_spent() -> None:
    common = {
        "run": "r",
        "started_s": 0.0,
        "ended_s": 1.0,
        "cpu_seconds": 1.0,
        "peak_memory_gib": 1.0,
        "counters": {},
        "inputs": [],
        "versions": {},
        "finished_at": "now",
    }
    known = {"m": spent(0.25).to_json()}
    both = joined_result([{**common, "spent": known}, {**common, "spent": known}, common])["spent"]
    assert (both["m"]["usd"], both["m"]["n_calls"]) == (0.5, 2)
    unknown = {"m": spent(None).to_json(), "n": spent(1.0).to_json()}
    mixed = joined_result([{**common, "spent": known}, {**common, "spent": unknown}])["spent"]
    assert (mixed["m"]["usd"], mixed["m"]["n_calls"], mixed["n"]["usd"]) == (None, 2, 1.0)


@pytest.mark.parametrize(
    ("changed", "is_in_key"),
    [
        ({"api_key_env": "OTHER"}, False),
        ({"concurrency": 2, "requests_per_minute": 5, "tokens_per_minute": 9}, False),
        ({"timeout_s": 5.0, "patience_s": 9.0}, False),
        ({"base_url": "http://localhost:1/v1"}, True),
        ({"context_tokens": 4096}, True),
        ({"name": "gpt-2"}, True),
    ],
)
def test_how_a_server_is_asked_is_in_no_key_and_who_is_asked_is(changed: dict[str, Any], is_in_key: bool) -> None:
    def config(**lm: Any) -> Config:
        plain = {"name": "x", "corpus": {"paths": ["y"]}, "evaluate": {"arms": ["base"]}}
        return Config.model_validate({**plain, "models": {"lm": {"provider": "openai", "name": "gpt", **lm}}})

    before, after = config(), config(**changed)
    assert (config_digest(before) != config_digest(after)) == is_in_key
    slices = [result_values(AnswerSlice.of(one)) for one in (before, after)]
    assert (slices[0] != slices[1]) == is_in_key


def test_the_waiting_for_a_tuning_job_is_in_no_key_and_its_rate_is() -> None:
    def digest_with(**api: Any) -> str:
        models = {"lm": {"provider": "openai", "name": "gpt"}}
        plain = {"name": "x", "corpus": {"paths": ["y"]}, "models": models}
        return config_digest(Config.model_validate({**plain, "finetune_lm": {"engine": "openai", "api": api}}))

    assert digest_with(wait_h=1, poll_s=1) == digest_with()
    assert digest_with(learning_rate_multiplier=2) != digest_with()


def test_every_price_can_be_carried_by_a_spec() -> None:
    plain = {"name": "x", "corpus": {"paths": ["y"]}, "spending": {"prices": {"m": {"input_usd": 1}}}}
    [price] = Config.model_validate(plain).spending.prices.values()
    assert Price(**price.model_dump(mode="json")) == Price(1.0)
