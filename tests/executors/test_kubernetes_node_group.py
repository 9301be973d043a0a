"""A stage on several nodes against the small API server: its Service is made, adopted, waited for, and goes with it."""

from __future__ import annotations

from typing import Any

import pytest

from radit_job.config.schema import Config
from radit_job.executors.kubernetes import group_service
from radit_job.executors.kubernetes.permissions import NODE_GROUP_PERMISSIONS, PERMISSIONS
from radit_job.jobs import JobState
from radit_job.pipeline.check_cluster import cluster_findings
from tests.executors.conftest import eventually
from tests.executors.job_bench import Cluster, commit, is_pending, left_by, spec_of, uid

ENVIRONMENT = 'echo "$JOB_COMPLETION_INDEX $RADIT_ENDPOINT"'


def services(cluster: Cluster) -> list[dict[str, Any]]:
    return cluster.server.objects("services")


def owners(cluster: Cluster) -> list[str]:
    return [owner["uid"] for one in services(cluster) for owner in one["metadata"]["ownerReferences"]]


def test_every_node_is_told_its_number_and_where_they_meet(cluster: Cluster) -> None:
    spec = spec_of("finetune_lm", nodes=2)
    assert cluster.ended(cluster.executor(ENVIRONMENT), spec).state is JobState.SUCCEEDED
    name = cluster.name(spec)
    told = eventually(lambda: cluster.log("finetune_lm"))
    assert sorted((line["node"], line["text"]) for line in told) == [
        (node, f"{node} {name}-0.{name}:29400") for node in (0, 1)
    ]
    assert {pod["spec"]["subdomain"] for pod in cluster.server.objects("pods")} == {name}
    assert [one["metadata"]["name"] for one in services(cluster)] == [name]
    assert owners(cluster) == [uid(cluster, spec)]


def test_the_service_goes_with_the_job_and_a_new_job_gets_a_new_one(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_service, "GONE_S", 0.05)
    spec = spec_of("finetune_lm", nodes=2)
    cluster.ended(cluster.executor("exit 64"), spec)
    before = uid(cluster, spec)
    assert owners(cluster) == [before]
    executor = cluster.executor(cluster.waiting())
    cluster.run(executor, spec)
    cluster.until_running(executor)
    after = uid(cluster, spec)
    assert after != before
    eventually(lambda: owners(cluster) == [after])
    cluster.gate.touch()
    assert cluster.outcome(executor).state is JobState.SUCCEEDED
    cluster.client.delete("jobs", cluster.name(spec))
    eventually(lambda: not services(cluster))


def test_an_adopted_job_whose_maker_died_before_the_service_gets_it(cluster: Cluster) -> None:
    spec = spec_of("finetune_lm", nodes=2)
    job = left_by(cluster, cluster.executor(cluster.waiting()), spec, "running")
    cluster.server.registry.delete(_services(), cluster.server.namespace, cluster.name(spec), {})
    eventually(lambda: not services(cluster))
    executor = cluster.executor()
    cluster.run(executor, spec)
    eventually(lambda: owners(cluster) == [job])
    cluster.gate.touch()
    assert cluster.outcome(executor).state is JobState.SUCCEEDED


def test_one_node_has_no_service(cluster: Cluster) -> None:
    cluster.ended(cluster.executor(), spec_of("finetune_lm"))
    assert not services(cluster)


def test_without_the_right_to_make_it_the_stage_says_so_and_leaves_no_job(cluster: Cluster) -> None:
    cluster.server.allow_only(_rules(PERMISSIONS))
    spec = spec_of("finetune_lm", nodes=2)
    cluster.server.set_quota(pods=0)  # nothing begins meanwhile
    outcome = cluster.ended(cluster.executor(), spec)
    assert outcome.state is JobState.FAILED
    assert outcome.error is not None and "cannot create services" in outcome.error["what"]
    eventually(lambda: not cluster.server.objects("jobs"))


def test_it_asks_for_what_the_tables_of_permissions_say_and_for_nothing_else(cluster: Cluster) -> None:
    cluster.server.allow_only(_rules(PERMISSIONS + NODE_GROUP_PERMISSIONS))
    spec = spec_of("finetune_lm", nodes=2)
    left_by(cluster, cluster.executor(cluster.waiting()), spec, "running")
    executor = cluster.executor()
    cluster.run(executor, spec)

    def used() -> set[tuple[str, str]]:
        return {(verb, resource) for _, resource, verb in cluster.server.verbs_used() if resource == "services"}

    needed = {(need.verb, need.resource) for need in NODE_GROUP_PERMISSIONS}
    eventually(lambda: needed <= used())  # before the Job ends: then nobody asks for its Service any more
    cluster.gate.touch()
    assert cluster.outcome(executor).state is JobState.SUCCEEDED
    assert used() == needed


@pytest.mark.parametrize(("nodes", "verdict"), [(1, "ok"), (2, "fail")])
def test_check_misses_the_right_only_where_a_stage_has_several_nodes(
    cluster: Cluster, nodes: int, verdict: str
) -> None:
    plain = {"name": "x", "corpus": {"paths": ["d"]}, "finetune_lm": {"nodes": nodes}}
    config = Config.model_validate(plain)
    cluster.server.allow_only(_rules(PERMISSIONS))
    found = next(one for one in cluster_findings(config, cluster.store) if one.subject == "cluster")
    assert found.verdict == verdict
    assert ("you may not create services; get services" in found.says) is (nodes == 2)
    cluster.server.allow_only(_rules(PERMISSIONS + NODE_GROUP_PERMISSIONS))
    found = next(one for one in cluster_findings(config, cluster.store) if one.subject == "cluster")
    assert found.verdict == "ok"
    assert not services(cluster) and not cluster.server.objects("jobs")  # it asks, and creates nothing


def test_a_node_that_nothing_has_room_for_fails_the_stage_although_the_other_runs(cluster: Cluster) -> None:
    cluster.server.set_quota(pods=1)
    spec = spec_of("finetune_lm", nodes=2)
    executor = cluster.executor(cluster.waiting(), pending_timeout_s=2)
    cluster.run(executor, spec)
    assert cluster.until(executor, lambda news: is_pending(news) and "1 of 2 nodes run; the quota" in news.says)
    outcome = cluster.outcome(executor)
    assert outcome.state is JobState.FAILED
    assert outcome.error is not None and "did not have all of its 2 nodes within" in outcome.error["what"]
    eventually(lambda: not cluster.server.objects("jobs"))


def test_a_lost_node_is_replaced_and_its_peers_that_fail_of_it_are_tried_again(cluster: Cluster) -> None:
    """Node 1 is taken away once, and node 0 ends with 75 for it; then both go on."""
    once = cluster.folder / "once"
    script = (
        f'if [ "$JOB_COMPLETION_INDEX" = 0 ]; then [ -e {once} ] || {{ {cluster.waiting()}; touch {once}; exit 75; }}; '
        f"else [ -e {once} ] || {{ touch {cluster.folder}/up; exec sleep 60; }}; fi"
    )
    spec = spec_of("finetune_lm", nodes=2)
    executor = cluster.executor(script, retries=0)
    cluster.run(executor, spec)
    eventually((cluster.folder / "up").exists)
    [victim] = [pod["metadata"]["name"] for pod in cluster.server.objects("pods") if "-1-" in pod["metadata"]["name"]]
    cluster.gate.touch()
    eventually(once.exists)
    cluster.server.evict_by_kubelet(victim, "the node is drained")
    assert cluster.outcome(executor).state is JobState.SUCCEEDED
    assert len(cluster.server.objects("pods")) == 4


def test_the_node_that_failed_is_the_one_that_is_told_of(cluster: Cluster) -> None:
    script = 'echo "node $JOB_COMPLETION_INDEX"; [ "$JOB_COMPLETION_INDEX" = 1 ] && exit 3; sleep 0.3; exit 75'
    outcome = cluster.ended(cluster.executor(script, retries=1), spec_of("finetune_lm", nodes=2))
    assert outcome.exit_code == 3
    assert outcome.error is not None and "exit code 3; its last line: node 1 (node 1;" in outcome.error["what"]


def test_a_committed_group_whose_job_is_gone_has_succeeded(cluster: Cluster) -> None:
    spec = spec_of("finetune_lm", nodes=2)
    executor = cluster.executor(cluster.waiting())
    cluster.run(executor, spec)
    cluster.until_running(executor)
    commit(cluster, spec)
    cluster.client.delete("jobs", cluster.name(spec))
    assert cluster.outcome(executor).state is JobState.SUCCEEDED


def _services() -> Any:
    from tests.servers.kubernetes.resources import RESOURCES

    return RESOURCES["", "services"]


def _rules(permissions: Any) -> list[dict[str, Any]]:
    return [
        {
            "apiGroups": ["batch"] if needed.resource == "jobs" else [""],
            "resources": [f"{needed.resource}/{needed.subresource}".rstrip("/")],
            "verbs": [needed.verb],
        }
        for needed in permissions
    ]
