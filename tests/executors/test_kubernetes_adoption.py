"""A Job that is there already: adopted, made anew or left alone; against the small API server."""

from __future__ import annotations

from dataclasses import replace

import pytest

from radit_job.jobs import JobState
from radit_job.store import LocalStore
from tests.executors.conftest import plain_job
from tests.executors.job_bench import Cluster, commit, is_pending, is_running, left_by, spec_of, uid


def test_a_controller_that_was_killed_is_replaced_by_one_that_adopts_its_job(cluster: Cluster) -> None:
    spec = spec_of()
    first, second = cluster.executor(cluster.waiting()), cluster.executor(cluster.waiting())
    cluster.run(first, spec)
    cluster.until_running(first)
    first.stop()
    before = uid(cluster, spec)
    cluster.server.slow_next(1, 0.3, verb="list", resource="pods")
    cluster.run(second, spec)
    assert is_running(cluster.until(second, lambda news: True))  # not pending, while its pods are not known yet
    cluster.gate.touch()
    assert cluster.outcome(second).state is JobState.SUCCEEDED
    assert uid(cluster, spec) == before
    assert len(cluster.server.objects("pods")) == 1


def test_a_job_that_is_complete_with_its_artifact_is_the_outcome(cluster: Cluster) -> None:
    spec = spec_of()
    cluster.ended(cluster.executor(), spec)
    before = uid(cluster, spec)
    commit(cluster, spec)
    assert cluster.ended(cluster.executor("exit 64"), spec).state is JobState.SUCCEEDED
    assert uid(cluster, spec) == before


@pytest.mark.parametrize("first", ["exit 64", "true"], ids=["failed", "complete without artifact"])
def test_a_job_that_is_over_without_an_artifact_is_made_anew(cluster: Cluster, first: str) -> None:
    spec = spec_of()
    cluster.ended(cluster.executor(first), spec)
    before = uid(cluster, spec)
    assert cluster.ended(cluster.executor(), spec).state is JobState.SUCCEEDED
    assert uid(cluster, spec) != before


def test_a_forced_stage_takes_the_place_of_a_job_that_is_over(cluster: Cluster) -> None:
    spec = spec_of(replace=True)
    cluster.ended(cluster.executor(), spec)
    before = uid(cluster, spec)
    commit(cluster, spec)
    assert cluster.ended(cluster.executor(), spec).state is JobState.SUCCEEDED
    assert uid(cluster, spec) != before


def test_a_forced_stage_is_done_once_another_run_has_computed_it_anew(cluster: Cluster) -> None:
    spec = spec_of()
    commit(cluster, spec)
    first, second = cluster.executor(cluster.waiting()), cluster.executor("exit 64")
    cluster.run(first, spec)
    cluster.until_running(first)
    before = uid(cluster, spec)
    forced = replace(spec, run="another", replace=True)
    cluster.run(second, forced)
    assert "computed by another run" in cluster.until(second, is_pending).says
    commit(cluster, forced)
    cluster.gate.touch()
    assert cluster.outcome(second).state is JobState.SUCCEEDED
    assert uid(cluster, spec) == before


def test_a_job_that_cannot_start_is_made_anew_once_the_settings_are_corrected(cluster: Cluster) -> None:
    spec = spec_of()
    cluster.server.images = ["right:1"]
    before = left_by(cluster, cluster.executor(image="wrong:1"), spec, "pending")
    assert cluster.ended(cluster.executor(image="right:1"), spec).state is JobState.SUCCEEDED
    assert uid(cluster, spec) != before


def test_a_job_in_a_queue_is_made_anew_for_another_queue(cluster: Cluster) -> None:
    spec = spec_of()
    before = left_by(cluster, cluster.executor(queue="wrong"), spec, "queued")
    assert cluster.ended(cluster.executor(), spec).state is JobState.SUCCEEDED
    assert uid(cluster, spec) != before


def test_a_job_whose_pod_runs_is_adopted_whatever_the_settings_are_now(cluster: Cluster) -> None:
    spec = spec_of()
    before = left_by(cluster, cluster.executor(cluster.waiting()), spec, "running")
    second = cluster.executor(cluster.waiting(), image="other:1")
    cluster.run(second, spec)
    cluster.until_running(second)
    cluster.gate.touch()
    assert cluster.outcome(second).state is JobState.SUCCEEDED
    assert uid(cluster, spec) == before


@pytest.mark.parametrize(("run", "image"), [("helper", "late:1"), ("another", "other:1")], ids=["same", "other run's"])
def test_a_job_that_waits_is_adopted_from_the_same_settings_or_another_run(
    cluster: Cluster, run: str, image: str
) -> None:
    spec = spec_of()
    cluster.server.images = []
    before = left_by(cluster, cluster.executor(image="late:1"), spec, "pending")
    second = cluster.executor(image=image)
    cluster.run(second, replace(spec, run=run))
    cluster.until(second, is_pending)
    cluster.server.images = None
    assert cluster.outcome(second).state is JobState.SUCCEEDED
    assert uid(cluster, spec) == before


def test_the_same_stage_in_another_store_has_a_job_of_its_own(cluster: Cluster) -> None:
    spec = spec_of()
    assert cluster.ended(cluster.executor(), spec).state is JobState.SUCCEEDED
    commit(cluster, spec)
    cluster.store = LocalStore(cluster.folder / "other")
    assert cluster.ended(cluster.executor(), spec).state is JobState.SUCCEEDED
    assert len(cluster.server.objects("jobs")) == 2


def test_a_job_that_is_being_deleted_is_waited_for_and_made_anew(cluster: Cluster) -> None:
    spec = spec_of()
    stubborn = f"trap '' TERM; {cluster.waiting()}"
    first, second = cluster.executor(stubborn), cluster.executor()
    cluster.run(first, spec)
    cluster.until_running(first)
    first.stop()
    before = uid(cluster, spec)
    cluster.client.delete("jobs", cluster.name(spec))
    cluster.run(second, spec)
    waiting = cluster.until(second, is_pending)
    assert "being deleted" in waiting.says
    assert cluster.outcome(second).state is JobState.SUCCEEDED
    assert uid(cluster, spec) != before


def test_two_controllers_over_a_failed_job_converge_on_one_new_job(cluster: Cluster) -> None:
    spec = spec_of()
    cluster.ended(cluster.executor("exit 64"), spec)
    both = [cluster.executor(cluster.waiting()), cluster.executor(cluster.waiting())]
    for executor in both:
        cluster.run(executor, spec)
    for executor in both:
        cluster.until_running(executor)
    cluster.gate.touch()
    assert [cluster.outcome(executor).state for executor in both] == 2 * [JobState.SUCCEEDED]
    assert len(cluster.server.objects("pods")) == 1


def test_a_creation_whose_answer_was_lost_makes_one_job(cluster: Cluster) -> None:
    cluster.server.reset_connections(1, verb="create", resource="jobs", takes_effect=True)
    assert cluster.ended(cluster.executor(), spec_of()).state is JobState.SUCCEEDED
    assert len(cluster.server.objects("jobs")) == 1


def test_a_job_of_that_name_that_is_not_ours_is_left_alone(cluster: Cluster) -> None:
    spec = spec_of()
    cluster.client.create("jobs", plain_job(cluster.name(spec)))
    outcome = cluster.ended(cluster.executor(), spec)
    assert outcome.error is not None
    assert "radit did not make" in outcome.error["what"]
    assert len(cluster.server.objects("jobs")) == 1
