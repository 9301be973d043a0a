"""A stage on several nodes, in a cluster: its Job, its Service, and what is said of how it stands and how it fails."""

from __future__ import annotations

import re
from typing import Any

import kubernetes_validate
import pytest

from radit_job.config.cluster import Kubernetes
from radit_job.errors import error_from_json
from radit_job.executors.kubernetes.diagnose import condition_of, failure_of_pending, outcome_of
from radit_job.executors.kubernetes.manifest import stage_job
from radit_job.executors.kubernetes.node_group import is_of_another, service_of
from radit_job.jobs import Condition, JobSpec, Resources

Object = dict[str, Any]
VERSIONS = [f"1.{minor}" for minor in range(31, 38)]
KEY = "0123456789" + "ab" * 27


def render(nodes: int = 2, **settings: Any) -> Object:
    spec = JobSpec("my-run", "finetune_lm", 1, KEY, {}, (), resources=Resources(4.0), nodes=nodes)
    return stage_job(spec, "runs/x.json", Kubernetes.model_validate(settings), store_url="s3://bucket/prefix")


def taken(job: Object, **status: Any) -> Object:
    """The Job as the API server shows it."""
    return {**job, "metadata": {**job["metadata"], "uid": "uid-1", "namespace": "team"}, "status": status}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_supported_version_takes_the_job_and_its_service(version: str) -> None:
    for nodes in (2, 64):
        job = render(nodes, queue="research", namespace="team")
        for one in (job, service_of(job), service_of(taken(job))):
            kubernetes_validate.validate(one, version, strict=True)


def test_the_pods_find_each_other_by_names_that_are_dns_labels() -> None:
    job = render(64)
    service = service_of(taken(job))
    assert service is not None
    pod, name = job["spec"]["template"]["spec"], job["metadata"]["name"]
    (container,) = pod["containers"]
    endpoint = next(one["value"] for one in container["env"] if one["name"] == "RADIT_ENDPOINT")
    host, port = endpoint.split(":")
    assert host == f"{name}-0.{pod['subdomain']}"  # the host name that an index's pod gets, in the Service's domain
    assert pod["subdomain"] == service["metadata"]["name"]
    assert [one["containerPort"] for one in container["ports"]] == [int(port)]
    assert [one["port"] for one in service["spec"]["ports"]] == [int(port)]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    for label in (f"{name}-63", service["metadata"]["name"]):
        assert re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", label)


def test_the_service_goes_with_its_job_and_not_with_another_of_the_name() -> None:
    job = taken(render())
    service = service_of(job)
    assert service is not None
    assert service["metadata"]["namespace"] == "team"
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": job["metadata"]["name"], "uid": "uid-1"}
    assert service["metadata"]["ownerReferences"] == [owner]
    assert not is_of_another(service, job)
    assert is_of_another(service, {**job, "metadata": {**job["metadata"], "uid": "uid-2"}})
    by_hand = service_of(render())  # `radit render` knows no uid
    assert by_hand is not None and not is_of_another(by_hand, job)


def test_all_nodes_start_at_once_and_one_that_is_out_of_tries_ends_the_stage() -> None:
    spec = render(4, retries=2)["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 4, 4)
    assert (spec["maxFailedIndexes"], spec["podReplacementPolicy"]) == (0, "Failed")
    assert spec["backoffLimitPerIndex"] == 2 + 3  # each of the other three may be taken away once
    assert "backoffLimit" not in spec
    rules = spec["podFailurePolicy"]["rules"]
    assert [(rule["action"], rule.get("onExitCodes", {}).get("values")) for rule in rules] == [
        ("Ignore", None),
        ("FailJob", [64, 65]),
    ]


def test_one_node_needs_none_of_it() -> None:
    alone = render(1)
    assert service_of(alone) is None
    assert alone["spec"]["completionMode"] == "NonIndexed"
    text = str(alone)
    assert not [word for word in ("subdomain", "RADIT_ENDPOINT", "radit-job.io/nodes", "containerPort") if word in text]


# ---- how it stands


def pod(index: int, phase: str = "Running", *, code: int | None = None, at: int = 0, **metadata: Any) -> Object:
    labels = {"batch.kubernetes.io/job-completion-index": str(index), "radit-job.io/nodes": "2"}
    states = []
    if code is not None:
        told = {"exitCode": code, "finishedAt": f"2026-11-21T13:{at:02d}:00Z", "message": f"last words of {index}"}
        states = [{"name": "stage", "state": {"terminated": told}}]
    status = {"phase": phase, "containerStatuses": states}
    name = f"job-{index}-{at}"
    return {"metadata": {"name": name, "uid": name, "labels": labels, **metadata}, "spec": {}, "status": status}


def unschedulable(index: int) -> Object:
    waiting = pod(index, "Pending")
    message = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. no new claims to deallocate"
    told = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    waiting["status"]["conditions"] = [told]
    return waiting


def test_it_waits_until_all_nodes_run() -> None:
    job = taken(render())
    assert condition_of(job, [pod(0), pod(1)], []) == Condition("running")
    assert condition_of(job, [pod(0, "Succeeded"), pod(1)], []) == Condition("running")
    half = condition_of(job, [pod(0), unschedulable(1)], [])
    assert half.phase == "pending"  # so that the time limit counts: the one that runs waits for the other
    assert half.says.startswith("1 of 2 nodes run; no node takes it: 1 of 1 has no nvidia.com/gpu left")
    error = failure_of_pending(job, [pod(0), unschedulable(1)], [], 900)
    assert str(error).startswith("finetune_lm: did not have all of its 2 nodes within 900 s: no node takes it")
    lost = condition_of(taken(render(), failed=1), [pod(0), pod(1, "Failed", code=137)], [])
    assert lost == Condition("pending", "1 of 2 nodes run; waits for its pod to be created; 1 try failed", n_retries=1)


def test_in_a_queue_it_is_queued() -> None:
    job = taken(render(queue="research"))
    assert condition_of(job, [], []) == Condition("queued", "waits in the queue research")


# ---- how it fails


def failed(*pods: Object, **status: Any) -> tuple[str, int | None]:
    said = "Job has exceeded the specified maximal number of failed indexes"
    condition = {"type": "Failed", "status": "True", "reason": "MaxFailedIndexesExceeded", "message": said}
    outcome = outcome_of(taken(render(), **{"conditions": [condition], **status}), list(pods))
    assert outcome is not None and outcome.error is not None
    return str(error_from_json(outcome.error)), outcome.exit_code


def test_the_node_that_failed_is_named_and_not_one_that_lost_it() -> None:
    """Node 0 is the first to be out of tries, for it lost node 1 once more often; node 1 is what is wrong."""
    first, at_fault = pod(0, "Failed", code=75, at=1), pod(1, "Failed", code=1, at=0)
    last, stopped = pod(0, "Failed", code=75, at=3), pod(1, "Failed", code=143, at=4, deletionTimestamp="now")
    for pods in ([first, at_fault, last, stopped], [stopped, last, at_fault, first]):
        text, code = failed(*pods, failedIndexes="0", failed=4)
        assert code == 1
        assert "ended with exit code 1; its last line: last words of 1 (node 1; 4 pods failed)" in text


def test_of_nodes_that_failed_together_the_first_is_the_cause_and_not_one_that_failed_long_before() -> None:
    mended, cause, after = (pod(index, "Failed", code=1, at=at) for index, at in ((0, 1), (1, 30), (0, 31)))
    for pods in ([mended, cause, after], [after, cause, mended]):
        text, _ = failed(*pods, failedIndexes="0,1", failed=3)
        assert "last words of 1 (node 1; 3 pods failed)" in text


def test_where_all_only_lost_each_other_the_last_one_speaks() -> None:
    disrupted = pod(1, "Failed", code=137, at=3)
    disrupted["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True"}]
    text, code = failed(pod(0, "Failed", code=75, at=1), disrupted, pod(0, "Failed", code=75, at=2), failed=2)
    assert code == 75
    assert "last words of 0 (node 0; 2 pods failed)" in text


def test_an_exit_that_no_retry_mends_is_told_by_the_job_itself() -> None:
    said = "Container stage for pod team/job-1-0 failed with exit code 64 matching FailJob rule at index 1"
    condition = {"type": "Failed", "status": "True", "reason": "PodFailurePolicy", "message": said}
    other = pod(0, "Failed", code=1, at=5)
    text, code = failed(other, pod(1, "Failed", code=64), conditions=[condition], failed=1)
    assert code == 64
    assert "(node 1)" in text
