import json
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from radit_job.errors import ConfigError
from radit_job.executors.kubernetes.patch import MERGE_KEYS, strategic_merge

BASE: dict[str, Any] = {
    "metadata": {"labels": {"a": "1"}},
    "spec": {
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": True, "fsGroup": 10001},
        "tolerations": [{"key": "gpu"}],
        "containers": [
            {
                "name": "stage",
                "args": ["stage", "index"],
                "env": [{"name": "HOME", "value": "/tmp"}, {"name": "A", "value": "1"}],
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
            }
        ],
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}],
    },
}


def merged(patch: dict[str, Any]) -> dict[str, Any]:
    before = json.dumps([BASE, patch])
    result = strategic_merge(BASE, patch, "pod_template")
    assert json.dumps([BASE, patch]) == before  # neither is changed
    return result


def at(value: Any, *path: str | int) -> Any:
    for key in path:
        value = value[key]
    return value


META = "apimachinery.pkg.apis.meta.v1.ObjectMeta"
STAGE = ("spec", "containers", 0)


@pytest.mark.parametrize(
    ("patch", "path", "expected"),
    [
        ({}, (), BASE),
        ({"metadata": {"labels": {"b": "2"}}}, ("metadata", "labels"), {"a": "1", "b": "2"}),
        ({"metadata": {"labels": {"a": None}}}, ("metadata", "labels"), {}),
        (
            {"spec": {"hostIPC": None, "affinity": {"nodeAffinity": {"x": None}}}},
            ("spec", "affinity"),
            {"nodeAffinity": {}},
        ),
        ({"spec": {"securityContext": {"fsGroup": None}}}, ("spec", "securityContext"), {"runAsNonRoot": True}),
        (
            {"spec": {"securityContext": {"$patch": "replace", "runAsUser": 1}}},
            ("spec", "securityContext"),
            {"runAsUser": 1},
        ),
        ({"spec": {"securityContext": {"$patch": "delete"}}}, ("spec", "securityContext"), {}),
        ({"spec": {"tolerations": [{"key": "b"}]}}, ("spec", "tolerations"), [{"key": "b"}]),
        ({"spec": {"containers": [{"name": "stage", "args": ["x"]}]}}, (*STAGE, "args"), ["x"]),
        (
            {"spec": {"containers": [{"name": "stage", "env": [{"name": "A", "value": "2"}, {"name": "B"}]}]}},
            (*STAGE, "env"),
            [{"name": "HOME", "value": "/tmp"}, {"name": "A", "value": "2"}, {"name": "B"}],
        ),
        (
            {"spec": {"containers": [{"name": "stage", "env": [{"name": "A", "$patch": "delete"}]}]}},
            (*STAGE, "env"),
            [{"name": "HOME", "value": "/tmp"}],
        ),
        (
            {"spec": {"containers": [{"name": "stage", "env": [{"$patch": "replace"}, {"name": "C"}]}]}},
            (*STAGE, "env"),
            [{"name": "C"}],
        ),
        (
            {"spec": {"containers": [{"name": "stage", "volumeMounts": [{"mountPath": "/x", "name": "tmp"}]}]}},
            (*STAGE, "volumeMounts"),
            [{"name": "tmp", "mountPath": "/tmp"}, {"mountPath": "/x", "name": "tmp"}],
        ),
        (
            {"spec": {"volumes": [{"name": "tmp", "emptyDir": None, "ephemeral": {"x": 1}}]}},
            ("spec", "volumes"),
            [{"name": "tmp", "ephemeral": {"x": 1}}],
        ),
        (
            {"spec": {"volumes": [{"name": "tmp", "$retainKeys": ["name", "csi"], "csi": {"driver": "d"}}]}},
            ("spec", "volumes"),
            [{"name": "tmp", "csi": {"driver": "d"}}],
        ),
        (
            {"spec": {"containers": [{"name": "sidecar", "image": "x"}]}},
            ("spec", "containers", 1),
            {"name": "sidecar", "image": "x"},
        ),
        (
            {"spec": {"initContainers": [{"name": "a", "env": []}]}},
            ("spec", "initContainers"),
            [{"name": "a", "env": []}],
        ),
    ],
)
def test_a_patch_is_merged_as_the_api_server_would(
    patch: dict[str, Any], path: tuple[str | int, ...], expected: Any
) -> None:
    assert at(merged(patch), *path) == expected


@pytest.mark.parametrize(
    ("patch", "where", "what"),
    [
        ({"spec": {"containers": [{"image": "x"}]}}, "pod_template.spec.containers", "each item needs its name"),
        ({"spec": {"containers": {"stage": {}}}}, "pod_template.spec.containers", "where the pod template has"),
        ({"spec": {"volumes": "x"}}, "pod_template.spec.volumes", "must be a list"),
        ({"spec": {"tolerations": "x"}}, "pod_template.spec.tolerations", "must be a list"),
        ({"spec": {"securityContext": 3}}, "pod_template.spec.securityContext", "must be fields"),
        ({"spec": {"restartPolicy": {"a": 1}}}, "pod_template.spec.restartPolicy", "fields stand here"),
        (
            {"spec": {"containers": [{"name": "stage", "$patch": "replace", "image": "x"}]}},
            "pod_template.spec.containers[stage]",
            "one item of a list cannot be replaced",
        ),
        ({"spec": {"$patch": "remove"}}, "pod_template.spec", "must be one of merge, replace, delete"),
        ({"spec": {"$setElementOrder/containers": []}}, "pod_template.spec", "is not supported"),
        (
            {"spec": {"containers": [{"name": "stage", "env": [{"value": "x"}]}]}},
            "pod_template.spec.containers[stage].env",
            "each item needs its name",
        ),
    ],
)
def test_a_patch_that_cannot_be_merged_is_refused_at_its_place(patch: dict[str, Any], where: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what) as caught:
        merged(patch)
    assert caught.value.where == where


def test_the_merge_keys_are_the_apis() -> None:
    package = Path(kubernetes_validate.__file__).parent
    path = package / "kubernetes-json-schema/v1.37.0-local/_definitions.json"
    definitions = json.loads(path.read_text(encoding="utf-8"))["$defs"]
    found: dict[str, str] = {}
    n_lists = 0
    for kind in ("api.core.v1.PodSpec", "api.core.v1.Container", "api.core.v1.EphemeralContainer", META):
        for name, schema in definitions[f"io.k8s.{kind}"]["properties"].items():
            n_lists += "items" in schema
            if "x-kubernetes-patch-merge-key" in schema:
                found[name] = schema["x-kubernetes-patch-merge-key"]
    assert n_lists > 20
    assert found == MERGE_KEYS
