"""The objects that run in a cluster, as plain dicts: a Job for each stage, and the controller's Job.

Pure: the same arguments give the same objects, and nothing changes them afterwards. The fields are those of batch/v1,
https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/job-v1/, from Kubernetes 1.31 on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml

from radit_job.config.cluster import Kubernetes, Profile
from radit_job.executors.kubernetes.node_group import NODES_LABEL
from radit_job.executors.kubernetes.patch import strategic_merge
from radit_job.executors.kubernetes.pods import CONTAINER, CONTROLLER_CONTAINER, controller_pod, stage_pod
from radit_job.hashing import digest, short
from radit_job.jobs import JobSpec

Object = dict[str, Any]

NAME_LABEL = "app.kubernetes.io/name"
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
COMPONENT_LABEL = "app.kubernetes.io/component"  # stage or controller
RUN_LABEL = "radit-job.io/run"  # the run that created the Job; another one may adopt it
STAGE_LABEL = "radit-job.io/stage"
KEY_LABEL = "radit-job.io/key10"
KEY_ANNOTATION = "radit-job.io/key"  # whole: 64 characters are one too many for a label
REPLACE_ANNOTATION = "radit-job.io/replace"
PROFILE_ANNOTATION = "radit-job.io/profile"
DIGEST_ANNOTATION = "radit-job.io/digest"  # of the Job as it was asked for: the API server adds to it
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
APPLICATION = "radit-job"

CONFIG_ERROR, INPUT_ERROR = 64, 65  # exit codes that another try would not change
FINAL_OF_A_RUN = [1, CONFIG_ERROR, INPUT_ERROR]  # 1: a stage failed, and has had its own tries
CONTROLLER_RETRIES = 10  # a controller that is killed goes on where it was; each try is cheap
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9./_-][A-Za-z0-9 :./_-]*|-{1,2}[a-z][a-z-]*")  # no reader takes it for a number
TOLERATED_SHARDS = 0.1  # of all may fail before the others are stopped: what fails more often fails everywhere


def job_name(stage: str, key: str, store_url: str) -> str:
    """The name of a stage's Job, from what it computes and where to: whoever wants the same work finds the same Job.

    Of the store only its place counts: a laptop and a pod may reach one bucket by different endpoints.
    """
    place = store_url.partition("?")[0].rstrip("/")
    return f"radit-{stage.replace('_', '-')}-{short(digest([place, key]))}"


def stage_job(spec: JobSpec, spec_name: str, settings: Kubernetes, *, store_url: str) -> Object:
    """The Job of one stage; ConfigError where the profile's pod_template cannot be merged."""
    placement, profile = settings.placement(spec.stage), settings.profile(spec.stage)
    name = job_name(spec.stage, spec.key, store_url)
    labels = {
        **profile.labels,
        **_own_labels("stage", spec.run),
        STAGE_LABEL: spec.stage,
        KEY_LABEL: spec.key[:10],
        **({NODES_LABEL: str(spec.nodes)} if spec.nodes > 1 else {}),
    }
    annotations = {**profile.annotations, KEY_ANNOTATION: spec.key, PROFILE_ANNOTATION: placement.profile}
    if spec.replace:
        annotations[REPLACE_ANNOTATION] = "true"
    arguments = ["stage", spec.stage, "--spec", spec_name, "--store", store_url]
    template: Object = {
        "metadata": {"labels": labels, "annotations": annotations},
        "spec": stage_pod(
            profile,
            settings.image_pull_policy,
            arguments,
            needs_gib=spec.resources.memory_gib,
            n_processes=_n_processes(spec),
            group=name if spec.nodes > 1 else None,
        ),
    }
    template = _patched(template, profile, placement.profile)
    job_spec: Object = {
        **_completion(spec, settings.retries),
        "podFailurePolicy": {"rules": _stage_rules(is_sharded=spec.shards > 1)},
        # A pod that is being deleted may still commit: its replacement waits until it is gone.
        "podReplacementPolicy": "Failed",
        **_times(placement.deadline_s, settings.ttl_s),
    }
    queue_labels = {}
    if settings.queue is not None:
        queue_labels[QUEUE_LABEL] = settings.queue
        # Kueue would suspend the Job itself; said here, it cannot run past a queue whose webhook is not there.
        job_spec["suspend"] = True
    job_spec["template"] = template
    annotations = {**annotations, DIGEST_ANNOTATION: digest([queue_labels, job_spec])}
    metadata = _metadata(name, settings, {**labels, **queue_labels}, annotations)
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": job_spec}


def controller_objects(
    run: str, config_text: str, settings: Kubernetes, *, store_url: str | None, arguments: Sequence[str] = ()
) -> list[Object]:
    """What starts a run from inside the cluster: its configuration, and the Job whose pod creates the stages' Jobs.

    The pod has the token of the service account `radit`, with the Role of k8s/base. `arguments` stand behind `radit
    run CONFIG --executor kubernetes`.
    """
    whole = ["run", "/etc/radit/config.yaml", "--executor", "kubernetes"]
    whole += ["--store", store_url] if store_url is not None else []
    whole += arguments
    # A Job's pod cannot be changed: what would start another pod has another name.
    name = f"radit-run-{run}-{digest([config_text, whole, settings.image]).removeprefix('sha256:')[:8]}"
    labels = _own_labels("controller", run)
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(name, settings, labels, {}),
        "immutable": True,
        "data": {"config.yaml": config_text},
    }
    job_spec = {
        **_one_pod(CONTROLLER_RETRIES),
        "podFailurePolicy": {
            "rules": [_ignore_disruption(), _at_exit(FINAL_OF_A_RUN, "FailJob", CONTROLLER_CONTAINER)]
        },
        "podReplacementPolicy": "Failed",
        **_times(None, settings.ttl_s),
        "template": {"metadata": {"labels": labels}, "spec": controller_pod(settings, whole, config_map=name)},
    }
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(name, settings, labels, {}),
        "spec": job_spec,
    }
    return [config_map, job]


def as_yaml(objects: Sequence[Object]) -> str:
    """The objects as YAML for `kubectl apply -f -`, without anchors.

    Text that another reader might take for a number or a switch is quoted: PyYAML leaves 12345e6789 as it is, for YAML
    1.1 sees no number there, and kubectl does.
    """
    return yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = "|" if "\n" in text else None if _PLAIN.fullmatch(text) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _own_labels(component: str, run: str) -> dict[str, str]:
    return {
        NAME_LABEL: APPLICATION,
        MANAGED_BY_LABEL: APPLICATION,
        COMPONENT_LABEL: component,
        RUN_LABEL: run,
    }


def _metadata(name: str, settings: Kubernetes, labels: dict[str, str], annotations: dict[str, str]) -> Object:
    metadata: Object = {"name": name}
    if settings.namespace is not None:
        metadata["namespace"] = settings.namespace
    metadata["labels"] = labels
    if annotations:
        metadata["annotations"] = annotations
    return metadata


def _n_processes(spec: JobSpec) -> int:
    """Training processes in each pod."""
    tuning = spec.config.get("finetune_lm", {}) if spec.stage == "finetune_lm" else {}
    return int(tuning.get("processes_per_node", 1))


def _completion(spec: JobSpec, retries: int) -> Object:
    if spec.nodes > 1:
        return _of_nodes(spec.nodes, retries)
    if spec.shards == 1:
        return _one_pod(retries)
    return {
        "completionMode": "Indexed",
        "completions": spec.shards,
        "parallelism": spec.shards,
        "backoffLimitPerIndex": retries,  # one unlucky shard does not use up the others' retries
        "maxFailedIndexes": max(1, int(spec.shards * TOLERATED_SHARDS)),
    }


def _one_pod(retries: int) -> Object:
    return {"completionMode": "NonIndexed", "completions": 1, "parallelism": 1, "backoffLimit": retries}


def _of_nodes(nodes: int, retries: int) -> Object:
    """Pods of which all must come to the end, and none gets there alone.

    When one is lost the others end with exit code 75, and that is a try of each. A disruption is not counted for the
    pod that it took, but it is for the others: hence one try more for each of them.
    """
    return {
        "completionMode": "Indexed",
        "completions": nodes,
        "parallelism": nodes,
        "backoffLimitPerIndex": retries + nodes - 1,
        "maxFailedIndexes": 0,  # a node that has no try left ends the stage
    }


def _stage_rules(*, is_sharded: bool) -> list[Object]:
    """In this order, for the first that matches decides; what none names counts as a try."""
    if not is_sharded:
        return [_ignore_disruption(), _at_exit([CONFIG_ERROR, INPUT_ERROR], "FailJob")]
    # The configuration is every shard's; a document that cannot be used is one's.
    return [_ignore_disruption(), _at_exit([CONFIG_ERROR], "FailJob"), _at_exit([INPUT_ERROR], "FailIndex")]


def _ignore_disruption() -> Object:
    """A pod that was evicted, preempted or lost with its node is started again without counting."""
    return {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}


def _at_exit(codes: list[int], action: str, container: str = CONTAINER) -> Object:
    return {"action": action, "onExitCodes": {"containerName": container, "operator": "In", "values": codes}}


def _times(deadline_s: int | None, ttl_s: int | None) -> Object:
    times = {"activeDeadlineSeconds": deadline_s, "ttlSecondsAfterFinished": ttl_s}
    return {name: value for name, value in times.items() if value is not None}


def _patched(template: Object, profile: Profile, profile_name: str) -> Object:
    if not profile.pod_template:
        return template
    return strategic_merge(template, profile.pod_template, f"kubernetes.profiles.{profile_name}.pod_template")
