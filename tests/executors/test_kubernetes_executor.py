"""The executor against the small API server, which runs each Job's command as a process."""

from __future__ import annotations

import json
import re
import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from radit_job.executors.kubernetes.cancel import cancel
from radit_job.executors.kubernetes.client import connect
from radit_job.executors.kubernetes.logs import stage_log
from radit_job.executors.kubernetes.manifest import stage_job
from radit_job.executors.kubernetes.permissions import PERMISSIONS
from radit_job.jobs import Condition, JobSpec, JobState
from tests.executors.conftest import eventually, plain_job, warnings
from tests.executors.job_bench import LOG, Cluster, commit, is_pending, is_running, left_by, spec_of
from tests.servers.kubernetes.server import KubernetesServer

# ---- how a stage ends


def test_a_stage_that_succeeds_keeps_its_last_lines_in_the_store(cluster: Cluster) -> None:
    outcome = cluster.ended(cluster.executor("echo hello"), spec_of())
    assert outcome.state is JobState.SUCCEEDED
    assert cluster.log() == [{"event": "output", "text": "hello"}]


def test_exit_65_fails_at_once_and_says_so(cluster: Cluster) -> None:
    outcome = cluster.ended(cluster.executor("echo no such column; exit 65"), spec_of())
    assert (outcome.state, outcome.exit_code) == (JobState.FAILED, 65)
    assert len(cluster.server.objects("pods")) == 1
    assert cluster.log() == [{"event": "output", "text": "no such column"}]
    assert outcome.log is not None
    assert outcome.log.endswith(LOG.format(stage="split"))


def test_exit_75_is_tried_again_and_then_fails(cluster: Cluster) -> None:
    executor, spec = cluster.executor("echo busy; exit 75", retries=2), spec_of()
    assert cluster.ended(executor, spec).state is JobState.FAILED
    assert len(cluster.server.objects("pods")) == 3
    assert cluster.log() == 3 * [{"event": "output", "text": "busy"}]


def test_exit_75_once_and_then_success_is_a_success(cluster: Cluster) -> None:
    script = f"if [ -e {cluster.gate} ]; then exit 0; fi; touch {cluster.gate}; exit 75"
    executor = cluster.executor(script, retries=2)
    cluster.run(executor, spec_of())
    assert cluster.until(executor, lambda news: isinstance(news, Condition) and news.n_retries == 1)
    assert cluster.outcome(executor).state is JobState.SUCCEEDED


def test_a_failing_shard_fails_the_stage_and_its_lines_are_kept(cluster: Cluster) -> None:
    script = 'echo "I am $JOB_COMPLETION_INDEX"; test "$JOB_COMPLETION_INDEX" != 2 || exit 65'
    outcome = cluster.ended(cluster.executor(script, retries=0), spec_of("answer", shards=3))
    assert outcome.state is JobState.FAILED
    assert {"event": "output", "text": "I am 2", "shard": 2} in cluster.log("answer")


def test_shards_that_are_done_are_counted(cluster: Cluster) -> None:
    script = f'test "$JOB_COMPLETION_INDEX" != 1 || {{ {cluster.waiting()}; }}'
    executor = cluster.executor(script)
    cluster.run(executor, spec_of("answer", shards=3))
    cluster.until(executor, lambda news: is_running(news) and news.n_shards_done == 2 and news.n_shards == 3)
    cluster.gate.touch()
    assert cluster.outcome(executor).state is JobState.SUCCEEDED


def test_what_the_server_finds_wrong_with_the_job_is_that_stage_s_outcome(cluster: Cluster) -> None:
    executor, spec = cluster.executor(), spec_of()
    executor._settings.profiles["cpu"].pod_template["spec"]["restartPolicy"] = "Always"
    outcome = cluster.ended(executor, spec)
    assert outcome.state is JobState.FAILED
    assert outcome.error is not None
    assert (outcome.error["type"], outcome.exit_code) == ("ConfigError", 64)
    assert "restartPolicy" in outcome.error["what"]


# ---- while it runs


def test_progress_and_log_lines_of_a_pod_are_passed_on_once(cluster: Cluster, told: list[dict[str, Any]]) -> None:
    line = json.dumps({"event": "progress", "label": "rows", "done": 1, "total": 2, "unit": "rows"})
    more = line.replace('"done": 1', '"done": 2')
    executor = cluster.executor(f"echo '{line}'; echo other; {cluster.waiting()}; echo '{more}'")
    cluster.run(executor, spec_of())
    eventually(lambda: [event for event in told if event["event"] == "progress"])
    cluster.server.stop()
    cluster.gate.touch()
    cluster.server.start()
    assert cluster.outcome(executor).state is JobState.SUCCEEDED
    eventually(lambda: len([event for event in told if event["event"] == "progress"]) >= 2)
    passed_on = [event for event in told if event["event"] in ("progress", "output")]
    assert [(event["stage"], event["done"]) for event in passed_on] == [("split", 1), ("split", 2)]


def test_an_outage_in_mid_run_is_survived_without_listing_again(cluster: Cluster, told: list[dict[str, Any]]) -> None:
    executor = cluster.executor(cluster.waiting())
    cluster.run(executor, spec_of())
    cluster.until_running(executor)
    cluster.server.stop()
    eventually(lambda: warnings(told))
    cluster.gate.touch()
    cluster.server.start()
    assert cluster.outcome(executor).state is JobState.SUCCEEDED
    assert cluster.server.count("list", "jobs") == 1
    assert "answers again" in warnings(told)[-1]


def test_dropped_watches_and_a_forgotten_history_lose_no_outcome(cluster: Cluster) -> None:
    executor = cluster.executor(cluster.waiting())
    cluster.run(executor, spec_of())
    cluster.until_running(executor)
    cluster.server.stop()
    cluster.server.compact()
    cluster.gate.touch()
    cluster.server.start()
    assert cluster.outcome(executor).state is JobState.SUCCEEDED
    assert cluster.server.count("list", "jobs") == 2


def test_a_job_that_is_deleted_by_hand_fails_its_stage_with_what_it_printed(cluster: Cluster) -> None:
    spec, executor = spec_of(), cluster.executor(cluster.waiting())
    cluster.run(executor, spec)
    cluster.until_running(executor)
    eventually(lambda: [one for one in executor._followers._followed.values() if one.lines])
    cluster.client.delete("jobs", cluster.name(spec))
    outcome = cluster.outcome(executor)
    assert outcome.state is JobState.FAILED
    assert outcome.error is not None
    assert "was deleted" in outcome.error["what"]
    assert cluster.log() == [{"event": "output", "text": "waiting"}]


def test_a_job_that_is_deleted_after_its_artifact_was_committed_has_succeeded(cluster: Cluster) -> None:
    spec, executor = spec_of(), cluster.executor(cluster.waiting())
    cluster.run(executor, spec)
    cluster.until_running(executor)
    commit(cluster, spec)
    cluster.client.delete("jobs", cluster.name(spec))
    assert cluster.outcome(executor).state is JobState.SUCCEEDED


def test_a_forced_stage_whose_job_is_deleted_is_not_done_with_the_old_artifact(cluster: Cluster) -> None:
    spec, executor = spec_of(replace=True), cluster.executor(cluster.waiting())
    commit(cluster, spec)
    cluster.run(executor, spec)
    cluster.until_running(executor)
    cluster.client.delete("jobs", cluster.name(spec))
    outcome = cluster.outcome(executor)
    assert outcome.error is not None
    assert "was deleted" in outcome.error["what"]


def test_a_forced_stage_whose_job_is_deleted_after_it_committed_has_succeeded(cluster: Cluster) -> None:
    spec, executor = spec_of(replace=True), cluster.executor(cluster.waiting())
    commit(cluster, spec)
    cluster.run(executor, spec)
    cluster.until_running(executor)
    commit(cluster, spec)
    cluster.client.delete("jobs", cluster.name(spec))
    assert cluster.outcome(executor).state is JobState.SUCCEEDED


def test_a_job_that_vanished_while_nobody_could_look_is_noticed(cluster: Cluster) -> None:
    spec, executor = spec_of(), cluster.executor(cluster.waiting())
    cluster.run(executor, spec)
    cluster.until_running(executor)
    admin_delete_while_cut_off(cluster, spec)
    outcome = cluster.outcome(executor)
    assert outcome.error is not None
    assert "was deleted" in outcome.error["what"]


def admin_delete_while_cut_off(cluster: Cluster, spec: JobSpec) -> None:
    """The watches break and cannot come back until the Job is gone and the history is forgotten."""
    server = cluster.server
    server.fail_next(1_000_000, 503, verb="watch")
    server.drop_watches()
    cluster.client.delete("jobs", cluster.name(spec))
    eventually(lambda: not server.objects("jobs"))
    server.compact()
    server.faults.clear()


# ---- waiting


def test_a_pod_that_cannot_start_fails_after_the_timeout_and_its_job_is_deleted(cluster: Cluster) -> None:
    cluster.server.images = []
    executor = cluster.executor(pending_timeout_s=1)
    began_s = time.monotonic()
    outcome = cluster.ended(executor, spec_of())
    assert outcome.state is JobState.FAILED
    assert outcome.error is not None
    assert time.monotonic() - began_s >= 1
    what, todo = outcome.error["what"], outcome.error["todo"]
    assert re.match(r"did not start within \d+ s: the image radit-job:latest cannot be pulled: .*not found$", what)
    assert todo.endswith("or correct kubernetes.image or kubernetes.profiles.cpu.image.")
    assert outcome.error["type"] == "ConfigError"
    eventually(lambda: not cluster.server.objects("jobs"))


def test_the_events_say_why_no_pod_is_made(cluster: Cluster) -> None:
    cluster.server.set_quota(pods=0)
    executor = cluster.executor(cluster.waiting())
    cluster.run(executor, spec_of())
    cluster.until(executor, lambda news: is_pending(news) and "quota" in news.says)
    cluster.server.set_quota(pods=10)
    cluster.until_running(executor)
    eventually(lambda: cluster.server.n_watches() == 2)  # the events are let go of
    cluster.gate.touch()
    assert cluster.outcome(executor).state is JobState.SUCCEEDED
    assert cluster.server.count("list", "events") == 1


def test_a_quota_of_jobs_is_waited_for(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("radit_job.executors.kubernetes.tracked.QUOTA_S", 0.05)
    cluster.server.set_quota(**{"count/jobs.batch": 0})
    executor = cluster.executor()
    cluster.run(executor, spec_of())
    cluster.until(executor, lambda news: is_pending(news) and "exceeded quota" in news.says)
    cluster.server.set_quota(**{"count/jobs.batch": 10})
    assert cluster.outcome(executor).state is JobState.SUCCEEDED


def test_time_in_a_queue_is_not_counted(cluster: Cluster) -> None:
    executor, spec = cluster.executor(queue="team", pending_timeout_s=1), spec_of()
    cluster.run(executor, spec)
    cluster.until(executor, lambda news: isinstance(news, Condition) and news.phase == "queued")
    began_s = time.monotonic()
    eventually(lambda: time.monotonic() - began_s > 1.3)
    assert cluster.server.objects("jobs")
    resume(cluster, spec)
    assert cluster.outcome(executor).state is JobState.SUCCEEDED


def test_a_job_that_is_deleted_and_does_not_go_is_named_after_the_timeout(cluster: Cluster) -> None:
    spec = spec_of()
    job = stage_job(spec, "x", cluster.settings("true", queue="team"), store_url=cluster.store.url)
    job["metadata"]["finalizers"] = ["example.org/stuck"]
    cluster.client.create("jobs", job)
    cluster.client.delete("jobs", cluster.name(spec))
    outcome = cluster.ended(cluster.executor(pending_timeout_s=1), spec)
    assert outcome.error is not None
    assert f"its Job {cluster.name(spec)}" in outcome.error["what"]
    assert "not gone" in outcome.error["what"]
    assert "--force" in outcome.error["todo"]


def test_another_run_s_job_that_does_not_go_on_is_named_after_the_timeout(cluster: Cluster) -> None:
    spec = spec_of()
    left_by(cluster, cluster.executor(queue="team"), spec, "queued")
    outcome = cluster.ended(cluster.executor(pending_timeout_s=1), replace(spec, run="another", replace=True))
    assert outcome.error is not None
    assert f"the Job {cluster.name(spec)} of run helper is in the way" in outcome.error["what"]
    assert "waits in the queue team" in outcome.error["what"]
    assert cluster.server.objects("jobs")


def test_another_run_s_job_that_works_is_waited_for_as_long_as_it_takes(cluster: Cluster) -> None:
    spec = spec_of()
    left_by(cluster, cluster.executor(cluster.waiting()), spec, "running")
    second = cluster.executor(pending_timeout_s=1)
    cluster.run(second, replace(spec, run="another", replace=True))
    cluster.until(second, is_pending)
    began_s = time.monotonic()
    eventually(lambda: time.monotonic() - began_s > 1.3)
    cluster.gate.touch()
    assert cluster.outcome(second).state is JobState.SUCCEEDED


def resume(cluster: Cluster, spec: JobSpec) -> None:
    from tests.servers.kubernetes.resources import BY_KEY

    jobs = next(one for one in BY_KEY.values() if one.plural == "jobs")
    body = {"spec": {"suspend": False}}
    name = cluster.name(spec)
    cluster.server.registry.patch(jobs, "default", name, body, "application/merge-patch+json", "")


def test_a_server_that_stays_away_ends_the_wait(server: KubernetesServer, cluster: Cluster) -> None:
    cluster.client = connect(patience_s=0.5)
    executor = cluster.executor(cluster.waiting())
    cluster.run(executor, spec_of())
    cluster.until_running(executor)
    server.stop()
    with pytest.raises(Exception, match="cannot be reached"):
        cluster.outcome(executor)


# ---- what it asks of the API server


def test_the_client_asks_for_what_the_table_of_permissions_says_and_for_nothing_else(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RADIT_CONTROLLER_JOB", "radit-1")
    monkeypatch.setenv("RADIT_CONTROLLER_JOB_UID", "00000000-0000-0000-0000-000000000001")
    everything = [
        {
            "apiGroups": ["batch"] if needed.resource == "jobs" else [""],
            "resources": [f"{needed.resource}/{needed.subresource}".rstrip("/")],
            "verbs": [needed.verb],
        }
        for needed in PERMISSIONS
    ]
    cluster.server.allow_only(everything)
    spec = spec_of()
    cluster.server.set_quota(pods=0)
    executor = cluster.executor("exit 64")
    cluster.run(executor, spec)
    cluster.until(executor, lambda news: is_pending(news) and "quota" in news.says)
    cluster.server.set_quota(pods=10)
    assert cluster.outcome(executor).exit_code == 64
    executor.stop()
    assert cluster.ended(cluster.executor("true"), spec).state is JobState.SUCCEEDED
    assert list(stage_log(cluster.client, cluster.store.url, spec.stage, spec.key)) == []
    told = {event["reason"]: event for event in cluster.server.objects("events") if event["reason"].startswith("Stage")}
    assert set(told) == {"StageFailed", "StageDone"}
    assert told["StageFailed"]["involvedObject"]["name"] == "radit-1"
    used = {(resource, verb) for _, resource, verb in cluster.server.verbs_used()}
    assert used == {(f"{need.resource}/{need.subresource}".rstrip("/"), need.verb) for need in PERMISSIONS}


def test_the_number_of_requests_does_not_grow_with_the_time_that_a_stage_takes(cluster: Cluster) -> None:
    executor = cluster.executor(cluster.waiting())
    cluster.run(executor, spec_of("answer", shards=8))
    cluster.until(executor, lambda news: is_running(news))
    eventually(lambda: cluster.server.count(resource="pods/log") == 4)
    eventually(lambda: cluster.server.n_watches() == 2)  # why it waits is no longer asked
    n_before = cluster.server.count()
    began_s = time.monotonic()
    eventually(lambda: time.monotonic() > began_s + 1.0)
    assert cluster.server.count() == n_before


# ---- radit logs, radit cancel


@pytest.mark.parametrize("shards", [1, 3])
def test_a_log_is_followed_from_before_the_pod_starts_until_the_job_ends(cluster: Cluster, shards: int) -> None:
    cluster.server.images = []
    spec = spec_of("answer", shards=shards)
    executor = cluster.executor("echo one; echo two")
    cluster.run(executor, spec)
    cluster.until(executor, is_pending)
    lines: list[dict[str, Any]] = []
    follower = threading.Thread(
        target=lambda: lines.extend(stage_log(cluster.client, cluster.store.url, spec.stage, spec.key, follow=True)),
        daemon=True,
    )
    follower.start()
    eventually(lambda: cluster.server.n_watches() >= 4)
    cluster.server.images = None
    assert cluster.outcome(executor).state is JobState.SUCCEEDED
    follower.join(20)
    wanted = [(None if shards == 1 else shard, text) for shard in range(shards) for text in ("one", "two")]
    assert sorted(((line.get("shard"), line["text"]) for line in lines), key=str) == sorted(wanted, key=str)
    once_more = list(stage_log(cluster.client, cluster.store.url, spec.stage, spec.key))
    assert [(line.get("shard"), line["text"]) for line in once_more] == wanted


def test_the_log_of_a_job_that_is_not_there_is_empty(cluster: Cluster) -> None:
    assert list(stage_log(cluster.client, cluster.store.url, "split", "0123456789", follow=True)) == []


def test_cancel_deletes_the_controller_first_and_waits_until_the_pods_are_gone(cluster: Cluster) -> None:
    spec, done = spec_of(), spec_of("ingest")
    cluster.ended(cluster.executor("true"), done)
    executor = cluster.executor(cluster.waiting())
    cluster.run(executor, spec)
    cluster.until_running(executor)
    labels = stage_job(spec, "x", cluster.settings("true"), store_url="s3://b")["metadata"]["labels"]
    cluster.client.create(
        "jobs", plain_job("controller", {**labels, "app.kubernetes.io/component": "controller"}, cluster.waiting())
    )
    assert cancel(cluster.client, "helper") == ["controller", cluster.name(spec)]
    left = [job["metadata"]["name"] for job in cluster.server.objects("jobs")]
    assert left == [cluster.name(done)]
    assert not [pod for pod in cluster.server.objects("pods") if pod["status"]["phase"] in ("Pending", "Running")]
    assert cluster.outcome(executor).state is JobState.FAILED


def test_cancelling_a_run_without_jobs_does_nothing(cluster: Cluster) -> None:
    assert cancel(cluster.client, "another") == []


def test_a_role_without_events_still_runs_stages(cluster: Cluster, told: list[dict[str, Any]]) -> None:
    cluster.server.allow_only(
        [
            {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["*"]},
            {"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["*"]},
        ]
    )
    cluster.server.set_quota(pods=0)
    executor = cluster.executor()
    cluster.run(executor, spec_of())
    eventually(lambda: any("why stages wait cannot be seen" in message for message in warnings(told)))
    cluster.server.set_quota(pods=10)
    assert cluster.outcome(executor).state is JobState.SUCCEEDED
