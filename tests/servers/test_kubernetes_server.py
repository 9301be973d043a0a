"""The small Kubernetes API server speaks the protocol: checked with the official client, unchanged."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config, watch
from kubernetes.client.exceptions import ApiException

from tests.servers.kubernetes import KubernetesServer
from tests.servers.kubernetes_jobs import job, until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[KubernetesServer]:
    with KubernetesServer(tmp_path) as server:
        server.on_command = lambda argv, env: int(argv[1]) if argv[0] == "exit" else None
        yield server


@pytest.fixture
def api(server: KubernetesServer) -> Iterator[client.ApiClient]:
    settings = client.Configuration()
    settings.retries = False  # urllib3 would wait for Retry-After by itself
    config.load_kube_config(str(server.kubeconfig), client_configuration=settings)
    with client.ApiClient(settings) as api:
        yield api


@pytest.fixture
def batch(api: client.ApiClient) -> client.BatchV1Api:
    return client.BatchV1Api(api)


@pytest.fixture
def core(api: client.ApiClient) -> client.CoreV1Api:
    return client.CoreV1Api(api)


def config_map(name: str, **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": labels}}


def refused(call: Any, *args: Any, **options: Any) -> Any:
    """The Status with which a request is refused."""
    with pytest.raises(ApiException) as caught:
        call(*args, **options)
    return json.loads(caught.value.body)


def test_the_official_client_creates_watches_reads_and_deletes_a_job(server, batch, core):
    created = batch.create_namespaced_job("default", job("a", ["sh", "-c", "echo hello"]))
    seen = []
    for event in watch.Watch().stream(batch.list_namespaced_job, "default", timeout_seconds=20,
                                      resource_version=created.metadata.resource_version):  # fmt: skip
        conditions = event["object"].status.conditions or []
        seen.append([one.type for one in conditions])
        if "Complete" in seen[-1]:
            break
    assert seen[-2:] == [["SuccessCriteriaMet"], ["SuccessCriteriaMet", "Complete"]]
    pods = core.list_namespaced_pod("default", label_selector="batch.kubernetes.io/job-name=a").items
    assert [pod.status.phase for pod in pods] == ["Succeeded"]
    assert core.read_namespaced_pod_log(pods[0].metadata.name, "default") == "hello\n"
    batch.delete_namespaced_job("a", "default", propagation_policy="Foreground")
    until(lambda: not server.objects("jobs") and not server.objects("pods"))


def test_what_cannot_be_done_is_answered_with_the_real_status(batch):
    assert refused(batch.read_namespaced_job, "a", "default")["message"] == 'jobs.batch "a" not found'
    made = batch.create_namespaced_job("default", job("a", ["exit", "0"], suspend=True))
    again = refused(batch.create_namespaced_job, "default", job("a", ["exit", "0"]))
    assert (again["code"], again["reason"]) == (409, "AlreadyExists")
    assert again["details"] == {"name": "a", "group": "batch", "kind": "jobs"}
    options = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid="another"))
    wrong_uid = refused(batch.delete_namespaced_job, "a", "default", body=options)
    assert (wrong_uid["code"], wrong_uid["reason"]) == (409, "Conflict") and made.metadata.uid in wrong_uid["message"]
    stale = batch.read_namespaced_job("a", "default")
    batch.patch_namespaced_job("a", "default", {"metadata": {"labels": {"x": "y"}}})
    assert refused(batch.replace_namespaced_job, "a", "default", stale)["reason"] == "Conflict"


def test_an_invalid_job_is_refused_with_every_cause(batch):
    body = job("Wrong_Name", ["true"], completionMode="Indexed", parallelism=2)
    body["spec"]["template"]["spec"]["restartPolicy"] = "Always"
    said = refused(batch.create_namespaced_job, "default", body)
    assert (said["code"], said["reason"]) == (422, "Invalid")
    fields = {cause["field"] for cause in said["details"]["causes"]}
    assert fields == {"metadata.name", "spec.completions", "spec.template.spec.restartPolicy"}


def test_lists_come_in_pages_until_their_version_is_compacted(server, core):
    for number in range(5):
        core.create_namespaced_config_map("default", config_map(f"c{number}"))
    first = core.list_namespaced_config_map("default", limit=2)
    assert first.metadata.remaining_item_count == 3
    second = core.list_namespaced_config_map("default", limit=2, _continue=first.metadata._continue)
    names = [item.metadata.name for page in (first, second) for item in page.items]
    assert names == ["c0", "c1", "c2", "c3"]
    server.compact()
    expired = refused(core.list_namespaced_config_map, "default", limit=2, _continue=second.metadata._continue)
    assert (expired["code"], expired["reason"]) == (410, "Expired")


@pytest.mark.parametrize(
    ("selector", "found"),
    [("a=1", "x"), ("a==1", "x"), ("a!=1", "yz"), ("a in (1, 2)", "xy"), ("a notin (1)", "yz"), ("a", "xy"),
     ("!a", "z"), ("a,b=2", "y")],
)  # fmt: skip
def test_label_selectors_select(core, selector, found):
    for body in (config_map("x", a="1"), config_map("y", a="2", b="2"), config_map("z")):
        core.create_namespaced_config_map("default", body)
    listed = core.list_namespaced_config_map("default", label_selector=selector)
    assert "".join(item.metadata.name for item in listed.items) == found


def test_a_watch_sees_objects_come_into_and_leave_its_selector(core):
    version = core.list_namespaced_config_map("default").metadata.resource_version
    core.create_namespaced_config_map("default", config_map("x", a="1"))
    core.patch_namespaced_config_map("x", "default", {"metadata": {"labels": {"a": "2"}}})
    core.patch_namespaced_config_map("x", "default", {"metadata": {"labels": {"a": "1"}}, "data": {"k": "v"}})
    core.delete_namespaced_config_map("x", "default")
    events = watch.Watch().stream(core.list_namespaced_config_map, "default", label_selector="a=1",
                                  resource_version=version, timeout_seconds=1)  # fmt: skip
    assert [event["type"] for event in events] == ["ADDED", "DELETED", "ADDED", "DELETED"]


def test_a_watch_from_a_forgotten_version_gets_gone_and_a_quiet_one_gets_bookmarks(server, core):
    version = core.list_namespaced_config_map("default").metadata.resource_version
    server.compact()
    with pytest.raises(ApiException) as gone:
        list(watch.Watch().stream(core.list_namespaced_config_map, "default", resource_version=version,
                                  timeout_seconds=1))  # fmt: skip
    assert gone.value.status == 410
    current = core.list_namespaced_config_map("default").metadata.resource_version
    events = watch.Watch().stream(core.list_namespaced_config_map, "default", resource_version=current,
                                  timeout_seconds=1, allow_watch_bookmarks=True)  # fmt: skip
    marks = [event for event in events if event["type"] == "BOOKMARK"]
    assert marks[-1]["raw_object"]["metadata"]["resourceVersion"] == current


def test_dropped_watches_end_and_a_stopped_server_comes_back_with_its_state(server, core):
    core.create_namespaced_config_map("default", config_map("x"))
    ended = threading.Event()

    def follow() -> None:
        answer = core.list_namespaced_config_map("default", watch=True, _preload_content=False)
        with contextlib.suppress(Exception):  # however it ends
            answer.read()
        ended.set()

    threading.Thread(target=follow, daemon=True).start()
    until(lambda: server.n_watches() == 1)
    assert server.drop_watches() == 1
    assert ended.wait(10)
    server.stop()
    with pytest.raises(Exception, match="refused"):
        core.list_namespaced_config_map("default")
    server.start()
    assert core.read_namespaced_config_map("x", "default").metadata.name == "x"


def test_faults_come_as_ordered_and_then_no_more(server, core):
    server.fail_next(1, 429, retry_after=3, verb="list", resource="configmaps")
    with pytest.raises(ApiException) as slow_down:
        core.list_namespaced_config_map("default")
    assert (slow_down.value.status, slow_down.value.headers["Retry-After"]) == (429, "3")
    server.reset_connections(1, verb="create", takes_effect=True)
    with pytest.raises(Exception, match=r"reset|aborted|closed"):
        core.create_namespaced_config_map("default", config_map("x"))
    assert [item.metadata.name for item in core.list_namespaced_config_map("default").items] == ["x"]


def test_a_role_allows_what_it_names_and_the_rest_is_forbidden_and_recorded(server, api, core, batch):
    server.allow_only([{"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "list"]}])
    batch.list_namespaced_job("default")
    said = refused(core.list_namespaced_pod, "default")
    assert said["message"] == (
        'pods is forbidden: User "system:serviceaccount:default:radit" cannot list resource "pods" '
        'in API group "" in the namespace "default"'
    )
    assert refused(core.list_node)["message"].endswith("at the cluster scope")
    review = client.V1SelfSubjectAccessReview(spec=client.V1SelfSubjectAccessReviewSpec(
        resource_attributes=client.V1ResourceAttributes(group="batch", resource="jobs", verb="create",
                                                        namespace="default")))  # fmt: skip
    answer = client.AuthorizationV1Api(api).create_self_subject_access_review(review)
    assert answer.status.allowed is False
    assert {("batch", "jobs", "list"), ("", "pods", "list")} <= server.verbs_used()
    server.users.clear()  # its token is no longer known
    assert refused(batch.list_namespaced_job, "default")["code"] == 401


def test_deleting_a_namespace_deletes_what_is_in_it(server, core):
    core.create_namespace({"metadata": {"name": "other"}})
    core.create_namespaced_config_map("other", config_map("x"))
    core.delete_namespace("other")
    until(lambda: [one["metadata"]["name"] for one in server.objects("namespaces")] == ["default"])
    assert refused(core.create_namespaced_config_map, "other", config_map("x"))["message"] == (
        'namespaces "other" not found'
    )


def test_a_job_deleted_without_a_propagation_policy_leaves_its_pods_behind(server, batch):
    batch.create_namespaced_job("default", job("a", ["exit", "0"]))
    until(lambda: (server.object("jobs", "a")["status"].get("succeeded")) == 1)
    batch.delete_namespaced_job("a", "default")  # batch/v1 orphans by default; kubectl asks for Background
    until(lambda: not server.objects("jobs"))
    assert ["ownerReferences" in pod["metadata"] for pod in server.objects("pods")] == [False]


def test_events_are_found_by_the_object_they_are_about(core):
    about = {"kind": "Job", "name": "a", "namespace": "default"}
    body = {"metadata": {"generateName": "a-"}, "involvedObject": about, "reason": "StageDone", "message": "ingest"}
    core.create_namespaced_event("default", body)
    selector = "involvedObject.name=a,involvedObject.kind=Job"
    assert [one.reason for one in core.list_namespaced_event("default", field_selector=selector).items] == ["StageDone"]
