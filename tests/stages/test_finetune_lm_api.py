"""finetune_lm with a fine-tuning API, over HTTP: one job, whatever happens, and its cost."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from radit_job.config.models import Model
from radit_job.errors import ConfigError, InputError, TryAgainError
from radit_job.models.cost import Price, Usage
from radit_job.models.ledger import Ledger
from radit_job.models.loading import tuned_ref
from radit_job.pipeline.fine_tuning import cancel_fine_tuning
from radit_job.pipeline.names import spec_file
from radit_job.pipeline.runs import RunRecord, StageRecord
from radit_job.records import write_rows
from radit_job.store import LocalStore
from radit_job.store.scratch import saved_files
from radit_job.training.api_order import JobRecord
from tests.stages.tuning_bench import MODEL, Bench, example, meanwhile

# ---- what comes of it


def test_it_writes_the_models_name_the_curve_the_card_and_what_was_sent(bench: Bench) -> None:
    ledger = bench.ledger(budget_usd=1.0)
    counters = bench.tune(ledger=ledger, suffix="boxes", learning_rate_multiplier=1.5, batch_size=4)
    [job] = bench.jobs
    assert {path.name for path in bench.lm.iterdir()} == {
        *("model.json", "training.json", "README.md"),
        *("train.jsonl", "validation.jsonl"),
    }
    name = job["fine_tuned_model"]
    assert json.loads((bench.lm / "model.json").read_text()) == {
        "provider": "openai",
        "name": name,
        "base_url": bench.server.url,
        "job_id": job["id"],
        "base_model": MODEL,
    }
    base = Model(provider="openai", name=MODEL, base_url=bench.server.url).ref()
    assert tuned_ref(bench.lm, base).name == name and "boxes" in name
    for file, sent in (("train.jsonl", job["training_file"]), ("validation.jsonl", job["validation_file"])):
        assert (bench.lm / file).read_bytes() == bench.server.files.data(sent)
    rows = [json.loads(line) for line in (bench.lm / "train.jsonl").read_text().splitlines()]
    assert [message["role"] for message in rows[0]["messages"]] == ["system", "user", "assistant"]
    assert job["method"]["supervised"]["hyperparameters"] == {
        "n_epochs": 3,
        "batch_size": 4,
        "learning_rate_multiplier": 1.5,
    }

    billed = bench.server.books.tokens()[MODEL]["training"]
    assert counters["n_train"] == len(rows) == 48 and counters["n_dev"] == 12
    assert counters["n_tokens"] == billed
    [spent] = ledger.spent.values()
    assert spent.usage.n_training_tokens == billed and spent.usd == pytest.approx(billed * 25e-6)
    training = json.loads((bench.lm / "training.json").read_text())
    assert training["steps"][-1]["step"] == training["n_steps"] == counters["n_steps"] == 36
    assert training["steps"][-1]["loss"] < training["steps"][0]["loss"]
    assert training["evaluations"][-1]["dev_loss"] == counters["dev_loss_after"]
    assert training["files"]["training"]["n_tokens"] * 3 == billed, "the count made here is the service's"
    card = (bench.lm / "README.md").read_text()
    for said in (name, job["id"], job["training_file"], f"{billed:,}", "60 questions and 30 source passages"):
        assert said in card
    assert any(event["event"] == "progress" and event.get("total") == 36 and "loss" in event for event in bench.told)
    assert bench.server.key not in repr(bench.told) + card + repr(training)


def test_the_report_draws_the_curve(bench: Bench) -> None:
    from radit_job.report.training import section

    counters = bench.tune()
    told = section(json.loads((bench.lm / "training.json").read_text()), counters)
    assert told is not None and "<svg" in told["curve"]


def test_nothing_is_sent_before_the_rows_are_right(bench: Bench) -> None:
    write_rows(bench.folder / "examples/examples.jsonl", [*map(example, range(20)), example(20, answer=" ")])
    assert "an empty answer: 1, line 21" in bench.refused(InputError)
    write_rows(bench.folder / "examples/examples.jsonl", map(example, range(9)))
    assert "there are 9 (0 held out" in bench.refused(InputError)
    write_rows(
        bench.folder / "examples/examples.jsonl", [example(i, "In room {}." + i * " So it is.") for i in range(40)]
    )
    assert "dropped because they are longer than 64 tokens" in bench.refused(InputError, lm={"context_tokens": 64})
    assert bench.server.requests == []


def test_without_held_out_rows_there_is_no_validation_file(bench: Bench) -> None:
    counters = bench.tune(dev_share=0)
    assert counters["n_dev"] == 0 and "dev_loss_after" not in counters
    assert bench.jobs[0]["validation_file"] is None and not (bench.lm / "validation.jsonl").exists()
    assert "no loss on held-out examples" in (bench.lm / "README.md").read_text()


# ---- one job


def test_a_later_try_goes_on_with_the_job_that_is_written_down(bench: Bench) -> None:
    bench.server.change({"pace": {"polls": [1, 1, 1000]}})
    said = bench.refused(TryAgainError, wait_h=0.2 / 3600)
    assert "is running after 5.55556e-05 h" in said and "waits for it again" in said
    bench.server.change({"pace": {"polls": [1, 1, 1]}})
    ledger = bench.ledger()
    bench.tune(ledger=ledger)
    assert bench.n_ordered == 1 and bench.server.billed["files"] == 0
    assert sum(row.operation == "files" for row in bench.server.requests) == 2, "uploaded once each"
    assert [spent.usage.n_calls for spent in ledger.spent.values()] == [1]
    bench.tune(ledger=bench.ledger())  # killed after the job's end, before the artifact was committed
    assert bench.n_ordered == 1
    assert [spent.usage.n_calls for spent in bench.ledger().spent.values()] == [1]


def test_the_order_is_written_down_and_saved_before_it_is_given_and_its_id_right_after(bench: Bench) -> None:
    seen: list[tuple[int, str | None]] = []

    def save(spent: object) -> None:
        record = bench.ordered
        seen.append((bench.n_ordered, record.job_id if record else None))

    bench.tune(ledger=Ledger(bench.scratch / "paid", save=save))
    job = bench.jobs[0]["id"]
    assert seen[:2] == [(0, None), (1, job)]
    assert bench.ordered is not None and bench.ordered.order.tag == bench.jobs[0]["metadata"]["radit"]


@pytest.mark.parametrize("kind", ["lost", "truncated", "html_200", "reset_mid_body", "hang"])
def test_an_order_whose_answer_is_lost_is_not_given_again(bench: Bench, kind: str) -> None:
    bench.server.misbehave(kind=kind, on="fine_tuning.jobs", times=1, seconds=5)
    ledger = bench.ledger()
    bench.tune(lm={"timeout_s": 0.5}, ledger=ledger)
    assert bench.n_ordered == 1
    assert [spent.usage.n_calls for spent in ledger.spent.values()] == [1]
    assert any("has this job already" in message for message in bench.messages)


@pytest.mark.parametrize("kind", ["server_error", "unavailable", "rate_limit", "reset", "html"])
def test_an_order_that_did_not_arrive_is_given_again(bench: Bench, kind: str) -> None:
    bench.server.misbehave(kind=kind, on="fine_tuning.jobs", times=2, retry_after_s=0.01)
    bench.tune()
    assert bench.n_ordered == 1


def test_a_storm_on_every_route_leaves_one_job(bench: Bench) -> None:
    kinds = ["rate_limit", "server_error", "reset", "lost", "truncated", "html", "cut"]
    bench.server.misbehave(*({"kind": kind, "share": 0.06, "retry_after_s": 0.01} for kind in kinds))
    bench.tune()
    assert bench.n_ordered == 1
    assert sum(row.fault is not None for row in bench.server.requests) > 2


def test_a_job_of_another_run_for_the_same_is_taken_and_not_paid_again(bench: Bench) -> None:
    bench.tune()
    (bench.scratch / "fine_tuning_job.json").unlink()
    bench.ledger().save()
    for path in (bench.scratch / "paid").iterdir():
        path.unlink()
    ledger = bench.ledger()
    bench.tune(ledger=ledger)
    assert bench.n_ordered == 1 and ledger.spent == {}
    assert any("from an earlier run; none is ordered" in message for message in bench.messages)
    assert not any("does not list" in message for message in bench.messages)
    bench.scratch.joinpath("fine_tuning_job.json").unlink()
    bench.tune(suffix="another")
    assert bench.n_ordered == 2


def test_an_earlier_job_whose_model_was_deleted_is_said_with_the_way_out(bench: Bench) -> None:
    bench.tune()
    JobRecord.delete(bench.scratch)
    [name] = bench.server.jobs.models()
    bench.server.jobs._models.pop(name)
    bench.tune()
    [said] = [message for message in bench.messages if "does not list" in message]
    assert name in said and "another finetune_lm.api.suffix makes a new one" in said


def test_a_service_that_drops_metadata_has_one_job_all_the_same(bench: Bench) -> None:
    create = bench.server.jobs.create
    bench.server.jobs.create = lambda body, *rest: create({**body, "metadata": None}, *rest)  # type: ignore[method-assign]
    bench.server.misbehave(kind="lost", on="fine_tuning.jobs", times=1)
    bench.tune()
    assert bench.n_ordered == 1 and bench.jobs[0]["metadata"] is None
    (bench.scratch / "fine_tuning_job.json").unlink()
    bench.tune()
    assert bench.n_ordered == 1
    (bench.scratch / "fine_tuning_job.json").unlink()
    bench.tune(batch_size=2)
    assert bench.n_ordered == 2


def test_of_two_jobs_for_one_order_one_is_cancelled(bench: Bench) -> None:
    create = bench.server.jobs.create
    made: list[dict[str, Any]] = []

    def create_two(body: dict[str, Any], *rest: Any) -> dict[str, Any]:
        made.extend(create(body, *rest) for _ in range(2))  # the first one is an order that seemed lost
        return made[-1]

    bench.server.jobs.create = create_two  # type: ignore[assignment, method-assign]
    ledger = bench.ledger(budget_usd=0.2)
    bench.tune(ledger=ledger)
    by_status = {job["status"]: job for job in bench.jobs}
    assert by_status.keys() == {"succeeded", "cancelled"} and len(made) == 2
    stands = by_status["succeeded"]
    assert ledger.spent[MODEL].usage.n_training_tokens == stands["trained_tokens"], "the other one is free"
    assert json.loads((bench.lm / "model.json").read_text())["job_id"] == stands["id"]


def test_what_the_service_has_already_is_not_uploaded_again(bench: Bench) -> None:
    bench.server.misbehave(kind="lost", on="files", times=1)
    bench.tune()
    assert [row.operation for row in bench.server.requests].count("files") == 2
    assert len([file for file in bench.server.files.list() if file["purpose"] == "fine-tune"]) == 2


# ---- money


def test_no_job_is_ordered_beyond_the_budget(bench: Bench) -> None:
    said = bench.refused(ConfigError, ledger=bench.ledger(budget_usd=0.01))
    assert said.startswith("spending.budget_usd: the next call to gpt-4o-mini may cost $0.14")
    assert bench.n_ordered == 0 and bench.ordered is None
    unpriced = Ledger(bench.scratch / "paid", prices={MODEL: Price(1.0)}, budget_usd=1)
    assert "no price for gpt-4o-mini in training" in bench.refused(ConfigError, ledger=unpriced)
    bench.tune(ledger=bench.ledger(budget_usd=0.2))
    bench.tune(ledger=bench.ledger(budget_usd=0.0))  # ordered and paid already: the budget is no reason to let it go
    assert bench.n_ordered == 1


def test_a_job_counts_with_its_most_until_its_end_tells_what_it_has_cost(bench: Bench) -> None:
    bench.server.change({"pace": {"polls": [1, 1, 10_000]}})
    ledger = bench.ledger(budget_usd=1.0)
    bench.refused(TryAgainError, wait_h=0.05 / 3600, ledger=ledger)
    most = ledger.spent[MODEL]
    assert most.usage.n_calls == 1 and most.usd is not None and most.usd > 0.1
    again = bench.ledger(budget_usd=1.0)
    assert again.spent == {MODEL: most}, "whoever comes next has it in the books"
    with pytest.raises(ConfigError, match="may cost"):
        again.reserve(MODEL, Usage(n_training_tokens=int((1.0 - most.usd) / 25e-6) + 1000))
    bench.refused(TryAgainError, wait_h=0.05 / 3600, ledger=again)
    assert again.spent == {MODEL: most}, "and counts it once"
    bench.server.change({"pace": {"polls": [1, 1, 1]}})
    last = bench.ledger(budget_usd=1.0)
    bench.tune(ledger=last)
    billed = bench.server.books.tokens()[MODEL]["training"]
    assert last.spent[MODEL].usage == Usage(n_calls=1, n_training_tokens=billed)
    assert bench.ledger().spent == last.spent


def test_a_job_whose_try_was_killed_before_it_could_book_it_is_booked_by_the_next(bench: Bench) -> None:
    bench.server.change({"pace": {"polls": [1, 1, 10_000]}})
    bench.refused(TryAgainError, wait_h=0.05 / 3600)
    most = bench.ledger().spent
    for path in (bench.scratch / "paid").iterdir():
        path.unlink()
    bench.refused(TryAgainError, wait_h=0.05 / 3600)
    assert bench.ledger().spent == most != {}


def test_a_job_that_fails_has_cost_nothing(bench: Bench) -> None:
    bench.server.misbehave(kind="job_fails", on="fine_tuning.jobs", times=1)
    ledger = bench.ledger(budget_usd=0.2)
    bench.refused(InputError, ledger=ledger)
    assert [(spent.usage.n_training_tokens, spent.usd) for spent in ledger.spent.values()] == [(0, 0.0)]
    bench.tune(ledger=bench.ledger(budget_usd=0.2))  # there is money for another one
    assert bench.n_ordered == 2


def test_what_a_cancelled_job_has_trained_is_counted(bench: Bench) -> None:
    bench.server.change({"pace": {"polls": [1, 1, 1000]}})

    def cancel() -> None:
        job = bench.server.jobs._jobs[bench.jobs[0]["id"]]
        job.shown["trained_tokens"] = 1000
        bench.server.jobs.cancel(job.shown["id"])

    beside = meanwhile(lambda: bench.jobs and bench.jobs[0]["status"] == "running", cancel)
    ledger = bench.ledger()
    bench.refused(InputError, ledger=ledger)
    beside.join()
    assert [spent.usage.n_training_tokens for spent in ledger.spent.values()] == [1000]


# ---- radit cancel


def test_cancel_ends_the_jobs_of_all_settings_that_the_run_had_and_of_no_other_run(bench: Bench) -> None:
    store = LocalStore(bench.folder / "store")
    bench.server.change({"pace": {"polls": [1, 1, 10_000]}})
    jobs: dict[str, str] = {}
    for run_name, key in (("r", "a" * 64), ("r", "b" * 64), ("another", "c" * 64)):
        bench.refused(TryAgainError, wait_h=0.02 / 3600, suffix=key[0])
        assert bench.ordered is not None and bench.ordered.job_id is not None
        jobs[key[0]] = bench.ordered.job_id
        bench.ordered.save(store.scratch(f"finetune_lm/{key}"))
        store.write(spec_file(run_name, "finetune_lm", key), json.dumps({"key": key}).encode())
        JobRecord.delete(bench.scratch)
    record = RunRecord("r", "d", "local", "now")
    record.stages["finetune_lm"] = StageRecord("finetune_lm", "running", key="b" * 64)
    saved = {path: store.read(name) for _, path, name in saved_files(store, "finetune_lm/a")}
    gone = replace(JobRecord.parse(saved["fine_tuning_job.json"] or b""), job_id="ftjob-gone")
    gone.save(store.scratch(f"finetune_lm/{'a' * 64}-first"))

    told: list[str] = []
    with pytest.raises(InputError, match="ftjob-gone is not cancelled") as caught:
        for line in cancel_fine_tuning(store, record):
            told.append(line)
    assert "curl -X POST" in str(caught.value)
    assert told == [f"cancelled fine-tuning job {jobs[name]} of {MODEL}" for name in "ab"]
    statuses = {job["id"]: job["status"] for job in bench.jobs}
    assert [statuses[jobs[name]] == "cancelled" for name in "abc"] == [True, True, False]
