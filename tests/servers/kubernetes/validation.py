"""What the API server fills in for a Job or a Pod, and what it refuses as invalid."""

from __future__ import annotations

import re
from typing import Any

from tests.servers.kubernetes.resources import CONFIG_MAPS, EVENTS, JOBS, PODS, QUOTAS, SECRETS, Resource
from tests.servers.kubernetes.status import bad_request, invalid

Json = dict[str, Any]
Cause = tuple[str, str, str]

_LABEL_NAME = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
_SUBDOMAIN = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
_LABEL_VALUE = re.compile(r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$")
_WRONG_NAME = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
    "and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_UNLIMITED = 2_147_483_647


def with_defaults(resource: Resource, body: Json) -> Json:
    """The object as the API server completes it."""
    if resource is PODS:
        spec = pod_spec_defaults(body.get("spec") or {})
        return {**body, "spec": spec, "status": body.get("status") or {"phase": "Pending", "qosClass": "Burstable"}}
    if resource is not JOBS:
        return body
    spec = {"suspend": False, "completionMode": "NonIndexed", "manualSelector": False, **(body.get("spec") or {})}
    if spec.get("completions") is None and spec.get("parallelism") is None:
        spec["completions"] = 1
    if spec.get("parallelism") is None:
        spec["parallelism"] = 1
    if spec.get("backoffLimit") is None:
        spec["backoffLimit"] = 6 if spec.get("backoffLimitPerIndex") is None else _UNLIMITED
    if spec.get("podReplacementPolicy") is None:
        spec["podReplacementPolicy"] = "Failed" if spec.get("podFailurePolicy") else "TerminatingOrFailed"
    if policy := spec.get("podFailurePolicy"):
        spec["podFailurePolicy"] = {**policy, "rules": [_rule_defaults(rule) for rule in policy.get("rules") or ()]}
    meta = body["metadata"]
    template = spec.get("template") or {}
    if not meta.get("labels") and (template.get("metadata") or {}).get("labels"):
        meta = {**meta, "labels": template["metadata"]["labels"]}
    if template.get("spec") is not None:
        spec["template"] = {**template, "spec": pod_spec_defaults(template["spec"])}
    return {**body, "metadata": meta, "spec": spec, "status": body.get("status") or {}}


def with_selector(job: Json) -> Json:
    """The Job with the labels that tie its pods to it; its name and uid are known by now."""
    spec, name, uid = job["spec"], job["metadata"]["name"], job["metadata"]["uid"]
    ours = {
        "batch.kubernetes.io/controller-uid": uid,
        "batch.kubernetes.io/job-name": name,
        "controller-uid": uid,
        "job-name": name,
    }
    meta = spec["template"].get("metadata") or {}
    template = {**spec["template"], "metadata": {**meta, "labels": {**(meta.get("labels") or {}), **ours}}}
    selector = {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
    return {**job, "spec": {**spec, "selector": selector, "template": template}}


def pod_spec_defaults(spec: Json) -> Json:
    """A pod's spec, completed."""
    return {
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 30,
        "dnsPolicy": "ClusterFirst",
        "securityContext": {},
        "schedulerName": "default-scheduler",
        **spec,
        "containers": [
            {
                "resources": {},
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
                "imagePullPolicy": "IfNotPresent",
                **container,
            }
            for container in spec.get("containers") or ()
        ],
    }


def check(resource: Resource, body: Json) -> None:
    """BadRequest or Invalid, with every cause, where the object cannot be stored."""
    meta = body.get("metadata") or {}
    name = str(meta.get("name") or meta.get("generateName") or "")
    causes: list[Cause] = []
    if not name:
        causes.append(("FieldValueRequired", "Required value: name or generateName is required", "metadata.name"))
    elif not _SUBDOMAIN.match(name if meta.get("name") else name.rstrip("-.")) or len(name) > 253:
        field = "metadata.name" if meta.get("name") else "metadata.generateName"
        causes.append(("FieldValueInvalid", f'Invalid value: "{name}": {_WRONG_NAME}', field))
    causes += _wrong_labels(meta.get("labels"), "metadata.labels")
    if resource is JOBS:
        causes += _wrong_job(body.get("spec") or {}, name)
    elif resource is PODS:
        causes += _wrong_pod(body.get("spec") or {}, "spec")
    elif resource is EVENTS and not (body.get("involvedObject") or {}).get("name"):
        causes.append(("FieldValueRequired", "Required value", "involvedObject.name"))
    if causes:
        raise invalid(resource, name, causes)


def check_type(resource: Resource, body: Any, request_namespace: str) -> None:
    """BadRequest where the body is another kind of object, or one of another namespace."""
    if not isinstance(body, dict):
        raise bad_request("the object provided is unrecognized (must be of type object)")
    kind, version = body.get("kind", resource.kind), body.get("apiVersion", resource.api_version)
    if (kind, version) != (resource.kind, resource.api_version):
        raise bad_request(f"the object provided is unrecognized: {version} {kind}, expected {resource.api_version}")
    namespace = (body.get("metadata") or {}).get("namespace")
    if resource.namespaced and namespace and namespace != request_namespace:
        raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
    if resource in (SECRETS, CONFIG_MAPS, QUOTAS) and not isinstance(body.get("metadata"), dict):
        raise bad_request("metadata is required")


def _wrong_job(spec: Json, name: str) -> list[Cause]:
    causes: list[Cause] = []
    for field in ("parallelism", "completions", "backoffLimit", "backoffLimitPerIndex", "maxFailedIndexes",
                  "activeDeadlineSeconds", "ttlSecondsAfterFinished"):  # fmt: skip
        value = spec.get(field)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            message = f"Invalid value: {value}: must be greater than or equal to 0"
            causes.append(("FieldValueInvalid", message, f"spec.{field}"))
    indexed = spec.get("completionMode") == "Indexed"
    if indexed and spec.get("completions") is None and spec.get("parallelism") is not None:
        message = "Required value: when completion mode is Indexed"
        causes.append(("FieldValueRequired", message, "spec.completions"))
    if indexed and len(f"{name}-{max(int(spec.get('completions') or 1) - 1, 0)}") > 63:
        message = f'Invalid value: "{name}": must be no more than 63 characters with its index, for the host name'
        causes.append(("FieldValueInvalid", message, "metadata.name"))
    if not indexed and spec.get("backoffLimitPerIndex") is not None:
        message = f"Invalid value: {spec['backoffLimitPerIndex']}: requires indexed completion mode"
        causes.append(("FieldValueInvalid", message, "spec.backoffLimitPerIndex"))
    if spec.get("maxFailedIndexes") is not None and spec.get("backoffLimitPerIndex") is None:
        message = "Required value: when maxFailedIndexes is specified"
        causes.append(("FieldValueRequired", message, "spec.backoffLimitPerIndex"))
    pod = (spec.get("template") or {}).get("spec") or {}
    policy = pod.get("restartPolicy", "Always")
    if policy not in ("OnFailure", "Never"):
        message = 'Required value: valid values: "OnFailure", "Never"'
        causes.append(("FieldValueRequired", message, "spec.template.spec.restartPolicy"))
    causes += _wrong_rules(spec, policy)
    causes += _wrong_labels(((spec.get("template") or {}).get("metadata") or {}).get("labels"), "spec.template.labels")
    return causes + _wrong_pod(pod, "spec.template.spec")


def _wrong_rules(spec: Json, restart_policy: str) -> list[Cause]:
    policy, causes = spec.get("podFailurePolicy"), []
    if policy is None:
        return []
    if restart_policy != "Never":
        message = f'Invalid value: "{restart_policy}": only "Never" is supported when podFailurePolicy is specified'
        causes.append(("FieldValueInvalid", message, "spec.template.spec.restartPolicy"))
    if spec.get("podReplacementPolicy") not in (None, "Failed"):
        message = f'Unsupported value: "{spec["podReplacementPolicy"]}": supported values: "Failed"'
        causes.append(("FieldValueNotSupported", message, "spec.podReplacementPolicy"))
    for at, rule in enumerate(policy.get("rules") or ()):
        where = f"spec.podFailurePolicy.rules[{at}]"
        if (rule.get("onExitCodes") is None) == (not rule.get("onPodConditions")):
            message = "Invalid value: specify one of onExitCodes and onPodConditions"
            causes.append(("FieldValueInvalid", message, where))
        if rule.get("action") not in ("FailJob", "FailIndex", "Ignore", "Count"):
            causes.append(("FieldValueNotSupported", f'Unsupported value: "{rule.get("action")}"', f"{where}.action"))
        if rule.get("action") == "FailIndex" and spec.get("backoffLimitPerIndex") is None:
            message = 'Invalid value: "FailIndex": requires the backoffLimitPerIndex to be set'
            causes.append(("FieldValueInvalid", message, f"{where}.action"))
        codes = rule.get("onExitCodes") or {"values": [1], "operator": "In"}
        values = codes.get("values") or []
        if not values or values != sorted(set(values)) or (codes.get("operator") == "In" and 0 in values):
            message = "Invalid value: must be ordered, unique, and without 0 for operator In"
            causes.append(("FieldValueInvalid", message, f"{where}.onExitCodes.values"))
    return causes


def _wrong_pod(spec: Json, where: str) -> list[Cause]:
    causes: list[Cause] = []
    containers = spec.get("containers") or []
    if not containers:
        causes.append(("FieldValueRequired", "Required value", f"{where}.containers"))
    for at, container in enumerate(containers):
        if not _LABEL_NAME.match(str(container.get("name") or "")):
            causes.append(("FieldValueRequired", "Required value", f"{where}.containers[{at}].name"))
        if not container.get("image"):
            causes.append(("FieldValueRequired", "Required value", f"{where}.containers[{at}].image"))
        mounts = {mount.get("name") for mount in container.get("volumeMounts") or ()}
        for missing in sorted(mounts - {volume.get("name") for volume in spec.get("volumes") or ()}):
            field = f"{where}.containers[{at}].volumeMounts.name"
            causes.append(("FieldValueNotFound", f'Not found: "{missing}"', field))
    return causes


def _wrong_labels(labels: Any, where: str) -> list[Cause]:
    return [
        ("FieldValueInvalid", f'Invalid value: "{value}": a valid label must be an empty string or consist of '
         "alphanumeric characters, '-', '_' or '.', and be no more than 63 characters", where)
        for value in (labels or {}).values()
        if not isinstance(value, str) or len(value) > 63 or not _LABEL_VALUE.match(value)
    ]  # fmt: skip


def _rule_defaults(rule: Json) -> Json:
    if not rule.get("onPodConditions"):
        return rule
    return {**rule, "onPodConditions": [{"status": "True", **one} for one in rule["onPodConditions"]]}
