"""The small Kubernetes server's Jobs and pods behave as the real ones: phases, counts, conditions and reasons."""

from __future__ import annotations

import base64
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers.kubernetes import KubernetesServer
from tests.servers.kubernetes.resources import JOBS, PODS
from tests.servers.kubernetes_jobs import job, until

SLEEP = ["sleep", "60"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[KubernetesServer]:
    with KubernetesServer(tmp_path) as server:
        server.on_command = lambda argv, env: int(argv[1]) if argv[0] == "exit" else None
        yield server


def start(server: KubernetesServer, command: list[str], **spec: Any) -> None:
    server.create("jobs", job("a", command, **spec))


def status(server: KubernetesServer) -> dict[str, Any]:
    found: dict[str, Any] = server.object("jobs", "a")["status"]
    return found


def conditions(server: KubernetesServer) -> list[tuple[str, str]]:
    return [(one["type"], one["reason"]) for one in status(server).get("conditions", ()) if one["status"] == "True"]


def ended(server: KubernetesServer) -> bool:
    return any(kind in ("Complete", "Failed") for kind, _ in conditions(server))


def pods(server: KubernetesServer, phase: str = "") -> list[dict[str, Any]]:
    return [pod for pod in server.objects("pods") if phase in ("", pod["status"]["phase"])]


def name(pod: dict[str, Any]) -> str:
    return str(pod["metadata"]["name"])


def state(pod: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(iter(pod["status"]["containerStatuses"][0]["state"].values()))
    return found


def events(server: KubernetesServer, reason: str) -> list[str]:
    return [event["message"] for event in server.objects("events") if event["reason"] == reason]


def test_a_failing_pod_is_replaced_until_the_backoff_limit(server):
    start(server, ["exit", "75"], backoffLimit=2)
    until(lambda: ended(server))
    assert conditions(server) == [("FailureTarget", "BackoffLimitExceeded"), ("Failed", "BackoffLimitExceeded")]
    assert (status(server)["failed"], len(pods(server, "Failed")), status(server).get("active")) == (3, 3, None)
    assert events(server, "BackoffLimitExceeded") == ["Job has reached the specified backoff limit"]


def test_a_backoff_between_retries_is_kept_where_it_is_set(server):
    server.retry_backoff_s = 30.0
    start(server, ["exit", "75"], backoffLimit=2)
    until(lambda: status(server).get("failed") == 1)
    assert (len(pods(server)), ended(server)) == (1, False)


POLICY = {
    "rules": [
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [64, 65]}},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
    ]
}


def test_an_exit_code_of_the_failure_policy_fails_the_job_at_once(server):
    start(server, ["exit", "65"], podFailurePolicy=POLICY)
    until(lambda: ended(server))
    [pod] = pods(server)
    failed = status(server)["conditions"][-1]
    assert (failed["type"], failed["reason"]) == ("Failed", "PodFailurePolicy")
    assert failed["message"] == (
        f"Container main for pod default/{name(pod)} failed with exit code 65 matching FailJob rule at index 0"
    )


def test_an_evicted_pod_is_ignored_by_the_policy_and_replaced_when_it_has_ended(server):
    start(server, SLEEP, podFailurePolicy=POLICY, backoffLimit=0)
    until(lambda: pods(server, "Running"))
    [pod] = pods(server)
    server.registry.evict("default", name(pod), {})
    until(lambda: [name(one) for one in pods(server, "Running") if name(one) != name(pod)])
    assert (status(server).get("failed", 0), conditions(server)) == (0, [])
    assert len(pods(server)) == 1  # the first one is gone


def test_a_pod_deleted_by_hand_is_replaced_and_counts(server):
    start(server, SLEEP)
    until(lambda: pods(server, "Running"))
    [pod] = pods(server)
    server.registry.delete(PODS, "default", name(pod), {})
    until(lambda: status(server).get("failed") == 1 and pods(server, "Running"))
    assert name(pods(server)[0]) != name(pod)


def test_indexes_are_counted_one_by_one_and_fail_one_by_one(server):
    tries: Counter[str] = Counter()

    def command(argv: list[str], env: dict[str, str]) -> int:
        index = env["JOB_COMPLETION_INDEX"]
        tries[index] += 1
        return {"1": 75, "4": 65}.get(index, 0)

    server.on_command = command
    rules = {"rules": [{"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [65]}}]}
    start(server, ["radit"], completions=9, parallelism=3, completionMode="Indexed", backoffLimitPerIndex=2,
          podFailurePolicy=rules)  # fmt: skip
    until(lambda: ended(server))
    assert (status(server)["completedIndexes"], status(server)["failedIndexes"]) == ("0,2,3,5-8", "1,4")
    assert conditions(server)[-1] == ("Failed", "FailedIndexes")
    assert (tries["1"], tries["4"], tries["0"]) == (3, 1, 1)
    assert (status(server)["succeeded"], status(server)["failed"]) == (7, 4)


def test_too_many_failed_indexes_end_the_job_early(server):
    start(server, ["exit", "1"], completions=50, parallelism=1, completionMode="Indexed", backoffLimitPerIndex=0,
          maxFailedIndexes=1)  # fmt: skip
    until(lambda: ended(server))
    assert conditions(server)[-1] == ("Failed", "MaxFailedIndexesExceeded")
    assert len(pods(server)) < 10


def test_the_deadline_ends_the_job_and_its_pods_before_it_is_failed(server):
    start(server, ["sh", "-c", "trap 'sleep 0.5; exit 3' TERM; while :; do sleep 0.05; done"], activeDeadlineSeconds=1)
    until(lambda: conditions(server))
    assert conditions(server) == [("FailureTarget", "DeadlineExceeded")]
    assert status(server)["terminating"] == 1
    until(lambda: ended(server))
    assert conditions(server)[-1] == ("Failed", "DeadlineExceeded")
    assert (status(server)["terminating"], status(server)["failed"]) == (0, 1)


def test_a_suspended_job_has_no_pods_until_it_is_resumed(server):
    start(server, SLEEP, suspend=True)
    until(lambda: conditions(server) == [("Suspended", "JobSuspended")])
    assert not pods(server) and "startTime" not in status(server)
    merge = "application/merge-patch+json"
    server.registry.patch(JOBS, "default", "a", {"spec": {"suspend": False}}, merge, "")
    until(lambda: pods(server, "Running"))
    server.registry.patch(JOBS, "default", "a", {"spec": {"suspend": True}}, merge, "")
    until(lambda: not pods(server) and "active" not in status(server))
    assert "failed" not in status(server)


def test_an_ended_job_is_deleted_with_its_pods_after_its_time(server):
    server.set_time_scale(0.001)
    start(server, ["exit", "0"], ttlSecondsAfterFinished=60)
    until(lambda: not server.objects("jobs") and not pods(server))


def test_a_full_quota_is_an_event_on_the_job_until_it_is_freed(server):
    server.set_quota(pods=0)
    start(server, ["exit", "0"])
    until(lambda: events(server, "FailedCreate"))
    said = events(server, "FailedCreate")[0]
    assert said.startswith('Error creating: pods "a-')
    assert said.endswith("is forbidden: exceeded quota: test-quota, requested: pods=1, used: pods=0, limited: pods=0")
    assert not pods(server)
    server.set_quota()
    until(lambda: ended(server))
    assert conditions(server)[-1] == ("Complete", "CompletionsReached")


def test_an_image_that_does_not_exist_is_backed_off_from_until_it_does(server):
    server.images = {"another"}
    start(server, ["exit", "0"])
    until(lambda: pods(server) and pods(server)[0]["status"].get("containerStatuses"))
    until(lambda: state(pods(server)[0])["reason"] == "ImagePullBackOff")
    assert state(pods(server)[0])["message"].startswith('Back-off pulling image "image"')
    server.images = {"image"}
    until(lambda: ended(server))


def test_a_pod_that_no_node_can_take_says_which_resource_or_label(server):
    gpu = {"resources": {"limits": {"nvidia.com/gpu": "1"}}}
    start(server, ["exit", "0"], container=gpu)
    server.create("jobs", job("b", ["exit", "0"], pod={"nodeSelector": {"disk": "fast"}}))
    until(lambda: len(events(server, "FailedScheduling")) == 2)
    said = {name(pod)[0]: pod["status"]["conditions"][0] for pod in pods(server)}
    assert (said["a"]["type"], said["a"]["status"], said["a"]["reason"]) == ("PodScheduled", "False", "Unschedulable")
    assert said["a"]["message"].startswith("0/1 nodes are available: 1 Insufficient nvidia.com/gpu. ")
    assert said["b"]["message"].startswith(
        "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. "
    )
    server.add_node("gpu-1", {"disk": "fast"}, {"nvidia.com/gpu": "1"})
    until(lambda: len(pods(server, "Succeeded")) == 2)


def test_a_missing_secret_holds_the_container_and_a_present_one_fills_its_environment(server):
    print_it = ["sh", "-c", "echo $WORD $(WORD) $WHO > /dev/termination-log; exit 1"]
    who = {"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['job-name']"}}}
    log = {"name": "LOG", "value": "/dev/termination-log"}
    print_it[2] = "echo $WORD $(WORD) $WHO > $LOG; exit 1"
    start(server, print_it, container={"envFrom": [{"secretRef": {"name": "s"}}], "env": [who, log]}, backoffLimit=0)
    until(lambda: pods(server) and pods(server)[0]["status"].get("containerStatuses"))
    until(lambda: state(pods(server)[0])["reason"] == "CreateContainerConfigError")
    assert state(pods(server)[0])["message"] == 'secret "s" not found'
    server.create("secrets", {"metadata": {"name": "s"}, "data": {"WORD": base64.b64encode(b"canary").decode()}})
    until(lambda: ended(server))
    assert state(pods(server)[0])["message"] == "canary canary a\n"
    assert (state(pods(server)[0])["reason"], state(pods(server)[0])["exitCode"]) == ("Error", 1)


def test_a_pod_killed_for_memory_says_so(server):
    start(server, SLEEP, backoffLimit=0)
    until(lambda: pods(server, "Running"))
    server.oom(name(pods(server)[0]))
    until(lambda: ended(server))
    assert (state(pods(server)[0])["reason"], state(pods(server)[0])["exitCode"]) == ("OOMKilled", 137)


def test_a_pod_evicted_by_its_node_stays_and_says_why(server):
    start(server, SLEEP, backoffLimit=0)
    until(lambda: pods(server, "Running"))
    server.evict_by_kubelet(name(pods(server)[0]), "The node was low on resource: memory.")
    until(lambda: ended(server))
    [pod] = pods(server)
    assert (pod["status"]["phase"], pod["status"]["reason"]) == ("Failed", "Evicted")


def test_a_stopped_pod_gets_its_grace_period_and_is_then_killed(server, tmp_path):
    trapped = tmp_path / "trapped"
    pod = {"terminationGracePeriodSeconds": 1}
    start(server, ["sh", "-c", f"trap '' TERM; touch {trapped}; while :; do sleep 0.05; done"], pod=pod)
    until(trapped.exists)
    stopped = time.monotonic()
    server.registry.delete(JOBS, "default", "a", {"propagationPolicy": "Foreground"})
    until(lambda: pods(server)[0]["metadata"].get("deletionTimestamp"))
    assert server.object("jobs", "a")["metadata"]["finalizers"] == ["foregroundDeletion"]
    until(lambda: not server.objects("jobs") and not pods(server))
    assert time.monotonic() - stopped >= 1.0


def test_containers_run_on_while_the_api_server_is_down(server, tmp_path):
    mark = tmp_path / "mark"
    start(server, ["sh", "-c", f"while [ ! -e {mark} ]; do sleep 0.02; done"])
    until(lambda: pods(server, "Running"))
    server.stop()
    mark.touch()
    until(lambda: server.kubelet._ended)
    assert not pods(server, "Succeeded")
    server.start()
    until(lambda: ended(server))


def test_a_thousand_indexes_run_without_a_process_each(server):
    started = time.monotonic()
    start(server, ["exit", "0"], completions=1000, parallelism=1000, completionMode="Indexed")
    until(lambda: ended(server), 60)
    assert (status(server)["completedIndexes"], status(server)["succeeded"]) == ("0-999", 1000)
    assert time.monotonic() - started < 45
