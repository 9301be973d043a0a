"""finetune_lm with a fine-tuning API: a given job, and every end of one, in the service's words."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

import pytest

from radit_job.errors import InputError, ServiceError, Terminated, TryAgainError
from radit_job.models.ledger import Ledger
from tests.stages.tuning_bench import MODEL, Bench, eventually, meanwhile

# ---- a given job


def given_job(bench: Bench, model: str = MODEL) -> str:
    bench.tune(lm={"name": model})
    for path in (*bench.lm.iterdir(), bench.scratch / "fine_tuning_job.json"):
        path.unlink()
    bench.server.books.rows.clear()
    bench.told.clear()
    return str(bench.jobs[0]["id"])


def test_a_given_job_is_taken_and_none_is_made(bench: Bench) -> None:
    job = given_job(bench)
    ledger = Ledger()
    counters = bench.tune(job_id=job, ledger=ledger)
    assert {row.method for row in bench.server.requests} == {"GET"}
    assert ledger.spent == {} and bench.ordered is None
    assert json.loads((bench.lm / "model.json").read_text())["name"] == bench.jobs[0]["fine_tuned_model"]
    training = json.loads((bench.lm / "training.json").read_text())
    assert training["n_train"] is None and len(training["steps"]) > 2 and counters["n_steps"] == 144
    assert "given to radit-job" in (bench.lm / "README.md").read_text()
    assert not any(event.get("level") == "warning" for event in bench.told)


def test_a_given_job_of_another_base_model_is_said(bench: Bench) -> None:
    job = given_job(bench, "gpt-3.5-turbo-0125")
    bench.tune(job_id=job)
    assert any(
        f"the job {job} tuned gpt-3.5-turbo-0125, but models.lm is gpt-4o-mini" in said for said in bench.messages
    )


def test_a_given_job_that_is_none_or_has_died_is_refused(bench: Bench) -> None:
    said = bench.refused(InputError, job_id="ftjob-none")
    assert "Could not find fine tune: ftjob-none" in said and "It was given as finetune_lm.api.job_id" in said
    bench.server.misbehave(kind="job_fails", on="fine_tuning.jobs", times=1)
    bench.refused(InputError)
    said = bench.refused(InputError, job_id=bench.jobs[0]["id"])
    assert "It was given as finetune_lm.api.job_id" in said


# ---- ends and refusals


def test_a_job_that_fails_is_told_in_the_services_words_and_another_run_orders_anew(bench: Bench) -> None:
    rule = {"kind": "job_fails", "code": "exceeded_quota", "message": "Creating this job would exceed your hard limit."}
    bench.server.misbehave(rule | {"on": "fine_tuning.jobs", "times": 1})
    said = bench.refused(InputError)
    job = bench.jobs[0]["id"]
    assert said == (
        f"URL: the fine-tuning job {job} failed: Creating this job would exceed your hard limit. (code exceeded_quota)"
        "\n  Put that right; another `radit run` orders a new job."
    )
    bench.tune()
    assert bench.n_ordered == 2


def test_a_job_that_is_cancelled_is_told_and_another_run_orders_anew(bench: Bench) -> None:
    bench.server.change({"pace": {"polls": [1, 1, 1000]}})
    beside = meanwhile(lambda: bench.jobs, lambda: bench.server.jobs.cancel(bench.jobs[0]["id"]))
    said = bench.refused(InputError)
    beside.join()
    assert "was cancelled\n  By `radit cancel`, or by somebody else" in said
    bench.server.change({"pace": {"polls": [1, 1, 1]}})
    bench.tune()
    assert bench.n_ordered == 2


def test_a_job_that_the_service_no_longer_knows_is_not_forgotten_and_both_ways_out_are_named(bench: Bench) -> None:
    bench.server.change({"pace": {"polls": [1, 1, 10_000]}})
    bench.refused(TryAgainError, wait_h=0.05 / 3600)
    [job] = bench.jobs
    bench.server.jobs._jobs.pop(job["id"])
    said = bench.refused(InputError)
    assert f"the service does not know the fine-tuning job {job['id']}: Could not find fine tune" in said
    assert "put that one into OPENAI_API_KEY" in said
    assert "`--force finetune_lm` or another finetune_lm.api.suffix" in said
    assert bench.ordered is not None and bench.ordered.job_id == job["id"]
    bench.server.change({"pace": {"polls": [1, 1, 1]}})
    (bench.scratch / "fine_tuning_job.json").unlink()  # another suffix is another key, with a scratch of its own
    bench.tune(suffix="another")
    assert bench.n_ordered == 2


def test_held_out_examples_that_are_too_few_for_a_file_train_too(bench: Bench) -> None:
    bench.tune(dev_share=0.1)
    assert bench.jobs[0]["validation_file"] is None


def test_a_state_that_nobody_knows_is_waited_through(bench: Bench) -> None:
    bench.server.change({"pace": {"polls": [1, 5, 1]}})

    def pause() -> None:
        job = bench.server.jobs._jobs[bench.jobs[0]["id"]]
        job.shown["status"] = "paused"
        eventually(lambda: any("'paused'" in message for message in bench.messages))
        job.shown["status"] = "queued"

    beside = meanwhile(lambda: bench.jobs and bench.jobs[0]["status"] == "queued", pause)
    bench.tune()
    beside.join()
    assert sum("is 'paused'; waiting" in message for message in bench.messages) == 1


def test_an_outage_while_the_job_runs_is_survived(bench: Bench) -> None:
    bench.server.change({"pace": {"polls": [1, 1, 20]}})

    def stop_and_start() -> None:
        bench.server.stop()
        time.sleep(0.3)  # the length of the outage
        bench.server.start()

    beside = meanwhile(lambda: bench.jobs and bench.jobs[0]["status"] == "running", stop_and_start)
    bench.tune()
    beside.join()
    assert bench.n_ordered == 1


def test_sigterm_in_the_midst_of_a_call_ends_the_stage(bench: Bench) -> None:
    def terminate(number: int, frame: object) -> None:
        raise Terminated("terminated")  # as the command line does

    before = signal.signal(signal.SIGTERM, terminate)
    bench.server.misbehave(kind="hang", on="fine_tuning.jobs.get", seconds=5)

    def is_asked() -> bool:
        return bench.server.books.n_requests["fine_tuning.jobs.get"] > 0

    beside = meanwhile(is_asked, lambda: os.kill(os.getpid(), signal.SIGTERM))
    try:
        bench.refused(Terminated)
    finally:
        beside.join()
        signal.signal(signal.SIGTERM, before)
    bench.server.behave()
    bench.tune()
    assert bench.n_ordered == 1


def test_a_service_that_does_not_answer_ends_the_stage(bench: Bench) -> None:
    bench.server.stop()
    said = bench.refused(ServiceError, lm={"patience_s": 0.3})
    assert "cannot be reached" in said
    bench.server.start()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"kind": "insufficient_quota", "on": "fine_tuning.jobs"}, "You exceeded your current quota"),
        ({"kind": "insufficient_quota", "on": "files"}, "You exceeded your current quota"),
        ({"kind": "refused_file", "on": "files"}, "Invalid file format for Fine-Tuning API"),
        ({"kind": "forbidden", "on": "fine_tuning.jobs"}, "does not have access to model"),
    ],
)
def test_a_refusal_stops_the_stage_at_once_in_the_services_words(
    bench: Bench, fault: dict[str, Any], words: str
) -> None:
    bench.server.misbehave(fault)
    assert words in bench.refused(InputError)
    assert bench.n_ordered == 0
    assert bench.ordered is None, "nothing is to be looked for"
    assert sum(row.fault is not None for row in bench.server.requests) == 1
    bench.server.behave()
    bench.tune()
    assert bench.n_ordered == 1


def test_a_wrong_model_and_a_bad_key_are_refused_in_the_services_words(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Model gpt-9 is not available for fine-tuning" in bench.refused(InputError, lm={"name": "gpt-9"})
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-0123456789abcdef")
    said = bench.refused(InputError)
    assert "refused the key" in said and "0123456789abcdef" not in said + repr(bench.told)
    assert bench.n_ordered == 0
