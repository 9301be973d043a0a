"""What goes wrong in a cluster, each scenario on the small API server and, with `-m cluster`, on a real one."""

from __future__ import annotations

import json
import random
import signal
import subprocess
from pathlib import Path

import pytest
import yaml

from radit_job.pipeline.catalog import CATALOG
from tests.cluster.bench import Bench

ONCE = {row.name: 1 for row in CATALOG if row.name != "benchmark"}  # which is asked for
SHORT = ("--until", "index")  # two stages suffice where one goes wrong
SHORT_ONCE = {"ingest": 1, "index": 1}
N_KILLS = 10


def test_a_run_goes_through_every_stage_once(bench: Bench) -> None:
    ended = bench.run()
    assert ended.code == 0, ended.output
    assert bench.n_starts() == ONCE
    assert [job.status.succeeded for job in bench.jobs().values()] == [1] * len(ONCE)
    again = bench.run()
    assert again.code == 0, again.output
    assert bench.n_starts() == ONCE
    assert "0 stages ran, 11 cached" in again.output


def test_a_controller_killed_at_random_moments_runs_no_job_twice(bench: Bench) -> None:
    chance = random.Random(3)
    bench.behave("index", gate="gates/go")  # no run can end before half of the kills
    n_killed, n_active = 0, 0
    for number in range(N_KILLS):
        if number == N_KILLS // 2:
            bench.open_gate("gates/go")
        command = bench.start_run()
        try:
            command.process.wait(chance.uniform(0.5, 6.0))
        except subprocess.TimeoutExpired:
            command.kill()
            n_killed += 1
            n_active += any(job.status.active for job in bench.jobs().values())
    assert n_killed >= N_KILLS // 2
    assert n_active >= 1, "no kill hit while a Job was active"
    ended = bench.run()
    assert ended.code == 0, ended.output
    assert bench.n_starts() == ONCE
    ended_otherwise = {
        name for name, stage in bench.record()["stages"].items() if stage["status"] not in ("done", "cached")
    }
    assert ended_otherwise == {"benchmark"}  # it is off


def test_two_controllers_share_the_jobs(bench: Bench, tmp_path: Path) -> None:
    """On two machines: a lock of one machine is not seen on the other."""
    bench.behave("ingest", gate="gates/go")
    commands = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        places = {"TMPDIR": str(tmp_path / name), "XDG_CACHE_HOME": str(tmp_path / name)}
        commands.append(bench.start_run(*SHORT, environment=places))
    bench.running_pod("ingest")
    bench.until(lambda: all(command.has_said("stage_started") for command in commands), "one did not start")
    bench.open_gate("gates/go")
    for command in commands:
        ended = command.wait()
        assert ended.code == 0, ended.output
    assert bench.n_starts() == SHORT_ONCE


def test_a_second_controller_on_the_same_machine_says_try_again(bench: Bench) -> None:
    bench.behave("ingest", gate="gates/go")
    first = bench.start_run(*SHORT)
    bench.running_pod("ingest")
    second = bench.run(*SHORT)
    assert second.code == 75
    assert "another process is working on run-chain" in second.output
    bench.open_gate("gates/go")
    assert first.wait().code == 0


def test_a_deleted_pod_is_replaced(bench: Bench) -> None:
    bench.behave("index", gate="gates/go")
    command = bench.start_run(*SHORT)
    pod = bench.running_pod("index")
    bench.cluster.core.delete_namespaced_pod(pod, bench.namespace, grace_period_seconds=1)
    bench.until(lambda: bench.n_starts()["index"] == 2, "no pod came in its place")
    bench.open_gate("gates/go")
    ended = command.wait()
    assert ended.code == 0, ended.output
    assert bench.n_starts() == {**SHORT_ONCE, "index": 2}


def test_an_evicted_pod_is_replaced_and_not_counted_as_a_failure(bench: Bench) -> None:
    bench.behave("index", gate="gates/go")
    command = bench.start_run(*SHORT, retries=0)
    pod = bench.running_pod("index")
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
    eviction["deleteOptions"] = {"gracePeriodSeconds": 1}
    bench.cluster.core.create_namespaced_pod_eviction(pod, bench.namespace, eviction)
    bench.until(lambda: bench.n_starts()["index"] == 2, "no pod came in its place")
    bench.open_gate("gates/go")
    ended = command.wait()
    assert ended.code == 0, ended.output


def test_a_pod_that_ran_out_of_memory_is_named(bench: Bench) -> None:
    if bench.cluster.small is None:
        bench.behave("index", allocate_mib=400)
        ended = bench.run(*SHORT, retries=0)
    else:
        bench.behave("index", gate="gates/never")
        command = bench.start_run(*SHORT, retries=0)
        bench.cluster.small.oom(bench.running_pod("index"), bench.namespace)
        ended = command.wait()
    assert ended.code == 1
    profile = "kubernetes.profiles.cpu.memory_gib"
    assert ended.says("radit: index: ran out of memory: it may take 256Mi\n", f"Raise {profile}, "), ended.output


def test_an_image_that_does_not_exist_is_named(bench: Bench) -> None:
    ended = bench.run(*SHORT, image="no-such-image:1", pending_timeout_s=8)
    # Nodes that reach no registry cannot know that there is no such image.
    assert ended.code in ((64,) if bench.cluster.small is not None else (1, 64)), ended.output
    assert ended.says("radit: ingest: did not start within "), ended.output
    assert ended.says(": the image no-such-image:1 cannot be pulled: "), ended.output
    assert bench.has_no_job()


def test_a_gpu_that_nobody_has_is_named(bench: Bench) -> None:
    ended = bench.run(*SHORT, pending_timeout_s=5, stages={"ingest": {"profile": "gpu"}})
    assert ended.code != 0
    assert ended.says("nvidia.com/gpu", "pending"), ended.output
    assert bench.has_no_job()


def test_a_full_quota_is_waited_for(bench: Bench) -> None:
    core = bench.cluster.core
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "full"}, "spec": {"hard": {"pods": "0"}}}
    if bench.cluster.small is None:
        core.create_namespaced_resource_quota(bench.namespace, quota)
        bench.until(
            lambda: core.read_namespaced_resource_quota("full", bench.namespace).status.hard, "the quota does not bind"
        )
    else:
        bench.cluster.small.set_quota("full", bench.namespace, pods=0)
    command = bench.start_run(*SHORT)
    bench.until(lambda: command.has_said("quota"), "the full quota is not told")
    if bench.cluster.small is None:
        core.delete_namespaced_resource_quota("full", bench.namespace)
    else:
        bench.cluster.small.set_quota("full", bench.namespace)
    ended = command.wait()
    assert ended.code == 0, ended.output


def test_exit_code_65_is_final(bench: Bench) -> None:
    bench.behave("index", exit_codes=[65])
    ended = bench.run(*SHORT)
    assert ended.code == 65
    assert "index was told to exit with 65" in ended.output
    assert bench.n_starts()["index"] == 1


def test_exit_code_75_is_tried_again(bench: Bench) -> None:
    bench.behave("index", exit_codes=[75, 75])
    ended = bench.run(*SHORT)
    assert ended.code == 0, ended.output
    assert bench.n_starts() == {**SHORT_ONCE, "index": 3}
    assert any(event.get("n_retries") == 2 for event in ended.events)


def test_a_failed_stage_is_replaced_by_the_next_run(bench: Bench) -> None:
    bench.behave("index", exit_codes=[65])
    assert bench.run(*SHORT).code == 65
    ended = bench.run(*SHORT)
    assert ended.code == 0, ended.output
    assert bench.n_starts() == {**SHORT_ONCE, "index": 2}


def test_a_stage_that_misses_its_deadline_is_stopped(bench: Bench) -> None:
    bench.behave("index", gate="gates/never")
    ended = bench.run(*SHORT, stages={"index": {"deadline_s": 4}})
    assert ended.code == 1
    assert ended.says("radit: index: was stopped at its deadline of 4 s\n"), ended.output
    assert ended.says("Raise kubernetes.stages.index.deadline_s"), ended.output


def test_a_job_deleted_by_hand_fails_its_stage(bench: Bench) -> None:
    bench.behave("index", gate="gates/never")
    command = bench.start_run(*SHORT)
    bench.running_pod("index")
    name = next(name for name in bench.jobs() if name.startswith("radit-index-"))
    bench.cluster.batch.delete_namespaced_job(name, bench.namespace, propagation_policy="Background")
    ended = command.wait()
    assert ended.code == 1
    assert ended.says("index", "deleted"), ended.output
    bench.behave("index")
    assert bench.run(*SHORT).code == 0


@pytest.mark.parametrize("outage_s", [3.0, pytest.param(30.0, marks=pytest.mark.slow)])
def test_an_api_server_that_is_gone_for_a_while_is_waited_for(bench: Bench, outage_s: float) -> None:
    stop, start = bench.cluster.stop_api, bench.cluster.start_api
    if stop is None or start is None:
        pytest.skip("RADIT_TEST_STOP_API and RADIT_TEST_START_API do not say how to stop this cluster's API server")
    bench.behave("index", gate="gates/go")
    command = bench.start_run(*SHORT)
    bench.running_pod("index")
    try:
        stop()
        bench.open_gate("gates/go")
        bench.until(lambda: command.has_said("trying again for"), "the outage is not told")
        with pytest.raises(subprocess.TimeoutExpired):
            command.process.wait(outage_s)
    finally:  # it is the next scenario's, too
        start()
    ended = command.wait()
    assert ended.code == 0, ended.output
    assert bench.n_starts() == SHORT_ONCE


@pytest.mark.parametrize("outage_s", [3.0, pytest.param(30.0, marks=pytest.mark.slow)])
def test_an_s3_server_that_is_gone_for_a_while_is_waited_for(bench: Bench, outage_s: float) -> None:
    bench.behave("index", gate="gates/go")
    command = bench.start_run(*SHORT)
    bench.running_pod("index")
    try:
        bench.s3.kill()
        with pytest.raises(subprocess.TimeoutExpired):
            command.process.wait(outage_s)
    finally:  # it is the next scenario's, too
        bench.s3.start()
    bench.open_gate("gates/go")
    ended = command.wait()
    assert ended.code == 0, ended.output
    assert bench.n_starts() == SHORT_ONCE


def test_ctrl_c_lets_the_jobs_go_on_and_the_next_run_adopts_them(bench: Bench) -> None:
    bench.behave("index", gate="gates/go")
    command = bench.start_run(*SHORT)
    bench.running_pod("index")
    command.process.send_signal(signal.SIGINT)
    ended = command.wait()
    assert ended.code == 130
    assert "The Jobs go on" in ended.output
    bench.open_gate("gates/go")
    assert bench.run(*SHORT).code == 0
    assert bench.n_starts() == SHORT_ONCE


def test_cancel_deletes_the_jobs_and_waits_for_their_pods(bench: Bench) -> None:
    bench.behave("index", gate="gates/never")
    command = bench.start_run(*SHORT)
    bench.running_pod("index")
    command.process.send_signal(signal.SIGTERM)
    assert command.wait().code == 143
    ended = bench.radit("cancel", "chain", "--store", bench.url)
    assert ended.code == 0, ended.output
    assert "deleted radit-index-" in ended.output
    assert not bench.pods("index")


def test_logs_are_there_while_a_pod_runs_and_when_it_is_gone(bench: Bench) -> None:
    bench.behave("index", gate="gates/go", prints=["hello from the pod"], exit_codes=[65])
    command = bench.start_run(*SHORT)
    bench.running_pod("index")
    follower = bench.start("logs", "chain", "index", "-f", "--store", bench.url)
    bench.until(lambda: follower.has_said("hello from the pod"), "the log of the running pod is not shown")
    bench.open_gate("gates/go")
    assert command.wait().code == 65
    assert follower.wait().code == 0
    for name in bench.jobs():
        bench.cluster.batch.delete_namespaced_job(name, bench.namespace, propagation_policy="Background")
    bench.until(lambda: not bench.pods("index"), "the pod does not go")
    ended = bench.radit("logs", "chain", "index", "--store", bench.url)
    assert "hello from the pod" in ended.output


def test_without_the_role_check_names_the_verbs_and_with_it_alone_a_run_goes_through(bench: Bench) -> None:
    kubeconfig = bench.login_without_rights()
    refused = bench.radit("check", str(bench.config()), "--executor", "kubernetes", KUBECONFIG=kubeconfig)
    assert refused.code == 64
    for verb in ("create jobs", "delete jobs", "watch pods", "get pods/log"):
        assert verb in " ".join(refused.output.split()), refused.output
    bench.grant_the_role()
    allowed = bench.radit("check", str(bench.config()), "--executor", "kubernetes", KUBECONFIG=kubeconfig)
    assert "every verb that a run needs is allowed" in " ".join(allowed.output.split()), allowed.output
    ended = bench.start_run(*SHORT, environment={"KUBECONFIG": kubeconfig}).wait()
    assert ended.code == 0, ended.output


def test_no_secret_is_seen_anywhere(bench: Bench) -> None:
    bench.behave("index", exit_codes=[65], prints=["a line"])
    bench.store.write("documents/a.txt", b"One document.")
    bench.store.write("questions.jsonl", b'{"question": "Which?", "answer": "One."}')
    place = f"bucket/{bench.namespace}"
    documents = json.dumps([bench.s3.store_url(f"{place}/documents/")])
    questions = json.dumps(bench.s3.store_url(f"{place}/questions.jsonl"))
    inputs = ("--set", f"corpus.paths={documents}", "--set", f"questions.path={questions}")
    ended = bench.run(*SHORT, *inputs)
    assert ended.code == 65, ended.output
    said, rendered = ended.output, ""
    for which, kinds in ((), ["ConfigMap", "Job"]), (("--stage", "index"), ["Job"]):
        ended = bench.radit("render", str(bench.config()), *inputs, *which)
        assert ended.code == 0, ended.output
        assert [one["kind"] for one in yaml.safe_load_all(ended.output)] == kinds
        rendered += ended.output
    jobs = bench.cluster.api.sanitize_for_serialization(list(bench.jobs().values()))
    events = bench.cluster.api.sanitize_for_serialization(
        bench.cluster.core.list_namespaced_event(bench.namespace).items
    )
    stored = b"".join(bench.store.read(info.name) or b"" for info in bench.store.list(""))
    for secret in bench.s3.environment["AWS_SECRET_ACCESS_KEY"], bench.s3.environment["AWS_ACCESS_KEY_ID"]:
        for text in (said, rendered, str(jobs), str(events), stored.decode(errors="replace")):
            assert secret not in text
