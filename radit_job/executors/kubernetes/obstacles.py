"""Why a stage that was started has no running pod, and what to do: pure, from Job, pods and events."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from radit_job.errors import ConfigError, RaditError, ServiceError, TryAgainError
from radit_job.executors.kubernetes.failures import Whose, container_of, shortened
from radit_job.executors.kubernetes.manifest import QUEUE_LABEL

Object = dict[str, Any]

RESOURCE_FIELDS = {"cpu": "cpu", "memory": "memory_gib", "ephemeral-storage": "ephemeral_storage_gib"}
IMAGE_REASONS = ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError")
CREATION_REASONS = ("CreateContainerError", "RunContainerError", "CrashLoopBackOff", "CreatePodSandboxError")
VOLUME_EVENTS = ("FailedMount", "FailedAttachVolume", "FailedMapVolume")


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What is in a stage's way."""

    says: str
    todo: str | None = None
    kind: type[RaditError] = TryAgainError  # of the error, once it has lasted too long


def obstacle_of(job: Object, pods: Sequence[Object], events: Sequence[Object], whose: Whose) -> Obstacle:
    """What is in the way, the most telling first; that a pod is on its way where nothing is known to be wrong."""
    if is_suspended(job):
        return _suspended(job)
    events = sorted(events, key=_happened_at)
    waiting = [pod for pod in pods if is_pending(pod)]
    found = [_of_pod(pod, events, whose) for pod in waiting]
    refused = _refused(job, pods, events, whose)
    named = [one for one in (*found, refused) if one is not None and one.todo]
    harmless = [one for one in found if one is not None]
    return next(iter([*named, *harmless]), Obstacle("waits for its pod to be created"))


def is_suspended(job: Object) -> bool:
    """Whether a queue, or a person, holds the Job back."""
    return bool(job.get("spec", {}).get("suspend"))


def is_pending(pod: Object) -> bool:
    """Whether a pod is yet to run."""
    return pod.get("status", {}).get("phase") == "Pending" and not pod.get("metadata", {}).get("deletionTimestamp")


def _suspended(job: Object) -> Obstacle:
    queue = job.get("metadata", {}).get("labels", {}).get(QUEUE_LABEL)
    if queue is None:
        name = job.get("metadata", {}).get("name", "")
        return Obstacle("suspended", f'To go on: kubectl patch job {name} -p \'{{"spec":{{"suspend":false}}}}\'')
    todo = "kubectl get workloads, localqueue tells its place; it waits for ever where Kueue is not installed."
    return Obstacle(f"waits in the queue {queue}", todo)


def _of_pod(pod: Object, events: Sequence[Object], whose: Whose) -> Obstacle | None:
    status = pod.get("status", {})
    scheduled: Object = next((one for one in status.get("conditions") or [] if one.get("type") == "PodScheduled"), {})
    if scheduled.get("status") == "False":
        if scheduled.get("reason") == "SchedulingGated":
            return Obstacle("held back by a scheduling gate", "kubectl get pod -o yaml shows spec.schedulingGates.")
        return _unschedulable(str(scheduled.get("message", "")), pod, whose)
    own = [event for event in events if event.get("involvedObject", {}).get("uid") == pod["metadata"].get("uid")]
    statuses = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    for one in statuses:
        waiting = (one.get("state") or {}).get("waiting") or {}
        reason, message = str(waiting.get("reason", "")), str(waiting.get("message", ""))
        if reason in IMAGE_REASONS:
            return _image(reason, message, str(one.get("image") or container_of(pod).get("image")), own, whose)
        if reason == "CreateContainerConfigError":
            todo = f"Create it in the stage's namespace, or correct kubernetes.env_from and {whose.field('env_from')}."
            if "runAsNonRoot" in message:
                todo = "Build the image as the Dockerfile does: its user is 10001."
            return Obstacle(f"its container cannot be set up: {shortened(message)}", todo, ConfigError)
        if reason in CREATION_REASONS:
            todo = f"Look at kubernetes.image and {whose.field('runtime_class')}; kubectl describe pod tells more."
            return Obstacle(f"its container cannot be created: {shortened(message) or reason}", todo, ConfigError)
    return _on_its_way(pod, own, scheduled, whose)


def _on_its_way(pod: Object, events: list[Object], scheduled: Object, whose: Whose) -> Obstacle:
    for event in reversed(events):
        reason, message = event.get("reason"), str(event.get("message", ""))
        if reason in VOLUME_EVENTS:
            todo = f"Look at {whose.field('model_cache')}: kubectl describe pvc tells more."
            return Obstacle(f"a volume cannot be mounted: {shortened(message)}", todo)
        if reason == "FailedCreatePodSandBox":
            return Obstacle(f"its node cannot start it: {shortened(message)}", "kubectl describe pod tells more.")
        if reason == "Pulling":
            return Obstacle(f"pulls the image {container_of(pod).get('image')}")
        if reason in ("Pulled", "Created", "Started"):
            break
    return Obstacle("its container is being created" if scheduled else "waits for the scheduler")


def _image(reason: str, message: str, image: str, events: list[Object], whose: Whose) -> Obstacle:
    told = [str(event.get("message", "")) for event in events if "Failed to pull" in str(event.get("message", ""))]
    cause = (
        message if ": " in message else next(reversed(told), message)
    )  # the back-off of older versions says no cause
    fields = f"kubernetes.image or {whose.field('image')}"
    if reason == "InvalidImageName":
        return Obstacle(f"{image!r} is no image: {_end(cause)}", f"Correct {fields}.", ConfigError)
    if reason == "ErrImageNeverPull":
        todo = f"Load it (`kind load docker-image`), set kubernetes.image_pull_policy, or correct {fields}."
        return Obstacle(f"the image {image} is not on the node, and must not be pulled", todo, ConfigError)
    what = f"the image {image} cannot be pulled: {_end(cause)}"
    if re.search(r"unauthorized|denied|forbidden|authentication", cause, re.IGNORECASE):
        todo = f"Correct {fields}, or name its registry's Secret in kubernetes.image_pull_secrets."
        return Obstacle(what, todo, ConfigError)
    if re.search(r"not found|manifest unknown|does not exist", cause, re.IGNORECASE):
        return Obstacle(what, f"Push it, load it (`kind load docker-image`), or correct {fields}.", ConfigError)
    return Obstacle(what, f"Correct {fields}, if it is not the network.", ServiceError)


def _end(cause: str) -> str:
    """The end of a chain of causes: what the first three said is which image it was about."""
    return shortened(": ".join(cause.strip().split(": ")[-3:]))


def _unschedulable(message: str, pod: Object, whose: Whose) -> Obstacle:
    """Take the scheduler's sum over all nodes apart.

    Such as "0/3 nodes are available: 1 node(s) had untolerated taint {a: b}, 2 Insufficient cpu. preemption: ...".
    """
    claim = re.search(r'persistentvolumeclaim "([^"]*)" not found', message)
    if claim:
        todo = f"Create it, or correct {whose.field('model_cache.claim')}."
        return Obstacle(f"there is no PersistentVolumeClaim {claim[1]}", todo, ConfigError)
    found = re.match(r"0/(\d+) nodes are available: (.*)", message, re.DOTALL)
    if not found:
        return Obstacle(f"no node takes it: {shortened(message)}", "kubectl describe pod tells more.")
    n_nodes, rest = int(found[1]), found[2]
    reasons = re.split(r"\.? (?:preemption: |no new claims to deallocate)", rest)[0].rstrip(". ")
    is_hopeless = bool(re.search(rf"preemption: 0/{n_nodes} nodes are available: {n_nodes} Preemption is not", message))
    told = list(_per_reason(reasons, pod, whose, is_hopeless=is_hopeless))
    if not told:
        return Obstacle(f"no node takes it: {shortened(reasons)}", "kubectl describe pod tells more.")
    parts = [f"{n} of {n_nodes} {says}" for n, says, _ in told]
    kind = ConfigError if is_hopeless else TryAgainError
    return Obstacle(f"no node takes it: {', '.join(parts)}", " ".join(dict.fromkeys(todo for _, _, todo in told)), kind)


def _per_reason(reasons: str, pod: Object, whose: Whose, *, is_hopeless: bool) -> Iterator[tuple[str, str, str]]:
    """(number of nodes, what is wrong with them, what to do)."""
    asked = container_of(pod).get("resources", {}).get("requests", {})
    for n, reason in re.findall(r"(\d+) ((?:Insufficient|Too many|node\(s\)) .*?)(?=, \d+ |$)", reasons):
        has, lacks = ("has", "lacks") if n == "1" else ("have", "lack")
        if reason.startswith("Insufficient "):
            resource = reason.removeprefix("Insufficient ").rstrip(".")
            field = whose.field(RESOURCE_FIELDS.get(resource, "gpus"))
            asks = f" (asks for {asked[resource]})" if resource in asked else ""
            if is_hopeless:
                yield n, f"{lacks} {resource}{asks}", f"Lower {field}, or add nodes that have it."
            else:
                yield n, f"{has} no {resource} left{asks}", f"Wait for others to end, or lower {field}."
        elif "affinity/selector" in reason:
            selector = pod.get("spec", {}).get("nodeSelector") or {}
            labels = ", ".join(f"{name}={value}" for name, value in selector.items())
            yield n, f"{lacks} the label {labels}" if labels else reason, f"Correct {whose.field('node_selector')}."
        elif "taint" in reason:
            taint = re.search(r"\{(.*?)\}", reason)
            says = f"{has} the taint {taint[1].rstrip(': ')}" if taint else f"{has} a taint that it does not accept"
            yield n, says, f"Name it in {whose.field('tolerations')} (kubectl describe nodes shows taints)."
        elif "unschedulable" in reason:
            yield n, f"{has} been cordoned", "kubectl uncordon ends that."
        else:
            yield n, reason.removeprefix("node(s) "), "kubectl describe pod tells more."


def _happened_at(event: Object) -> str:
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    return str(next(filter(None, times), event.get("metadata", {}).get("creationTimestamp", "")))


def _refused(job: Object, pods: Sequence[Object], events: Sequence[Object], whose: Whose) -> Obstacle | None:
    """Pods that the API server does not let the Job create."""
    missing = (job.get("spec", {}).get("parallelism") or 1) - sum(
        pod.get("status", {}).get("phase") != "Failed" for pod in pods
    )
    told = [event for event in events if event.get("reason") == "FailedCreate"]
    if missing <= 0 or not told:
        return None
    message = re.sub(r'^Error creating: (pods "[^"]*" is forbidden: )?', "", str(told[-1].get("message", "")))
    quota = re.match(r"exceeded quota: (\S+), requested: (.*), used: (.*), limited: (.*)", message)
    if quota:
        says = f"the quota {quota[1]!r} is used up: {quota[2]} asked, {quota[3]} used, {quota[4]} allowed"
        return Obstacle(says, "It starts when others end; or ask for less, or for more quota.")
    if message.startswith("failed quota: "):  # the quota wants every pod to say a resource
        return Obstacle(shortened(message), f"Set it in {whose.field('pod_template')}.", ConfigError)
    if "violates PodSecurity" in message:
        todo = (
            f"Look at {whose.field('pod_template')} and {whose.field('model_cache')}: the rest keeps to `restricted`."
        )
        return Obstacle(f"its pod is refused: {shortened(message)}", todo, ConfigError)
    account = re.search(r'serviceaccount "([^"]*)" not found', message)
    if account:
        todo = f"Create it, or correct kubernetes.service_account and {whose.field('service_account')}."
        return Obstacle(f"there is no service account {account[1]}", todo, ConfigError)
    priority = re.search(r"no PriorityClass with name (\S+)", message)
    if priority:
        todo = f"Correct {whose.field('priority_class')}."
        return Obstacle(f"there is no PriorityClass {priority[1]}", todo, ConfigError)
    return Obstacle(f"its pod is refused: {shortened(message)}", "kubectl describe job tells more.", ConfigError)
