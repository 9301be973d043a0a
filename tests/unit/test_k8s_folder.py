"""What k8s/ holds: valid for every supported Kubernetes, and of one mind with the manifests that the code writes."""

import json
import re
import shutil
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from radit_job.config.cluster import Kubernetes
from radit_job.config.loading import load_config
from radit_job.config.models import Model
from radit_job.executors.kubernetes.manifest import controller_objects
from radit_job.executors.kubernetes.node_group import NODES_LABEL
from radit_job.executors.kubernetes.permissions import NODE_GROUP_PERMISSIONS, PERMISSIONS
from radit_job.model_ref import key_variable

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
FOLDERS = ["base", "overlays/kind", "overlays/gpu", "overlays/cron", "overlays/kueue"]
VERSIONS = [f"1.{minor}" for minor in range(31, 38)]
OF_KUEUE = {"ResourceFlavor", "ClusterQueue", "LocalQueue"}  # Kubernetes' own schemas do not have them

needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl renders the overlays")
each_folder = pytest.mark.parametrize("folder", FOLDERS)


@cache
def rendered(folder: str) -> tuple[dict[str, Any], ...]:
    """Every object of a kustomization, as kubectl would apply it."""
    done = subprocess.run(
        ["kubectl", "kustomize", str(K8S / folder)], capture_output=True, text=True, check=True, timeout=60
    )
    assert not done.stderr, done.stderr  # kustomize warns of fields that it will drop
    return tuple(yaml.safe_load_all(done.stdout))


def object_of(folder: str, kind: str, name: str) -> dict[str, Any]:
    found = [one for one in rendered(folder) if one["kind"] == kind and one["metadata"]["name"] == name]
    assert len(found) == 1, f"{folder} has {len(found)} of {kind} {name}"
    return found[0]


def controller_of(folder: str) -> dict[str, Any]:
    """The controller's Job, or what the CronJob makes it from: metadata and spec."""
    if folder == "overlays/cron":
        return object_of(folder, "CronJob", "radit")["spec"]["jobTemplate"]
    return object_of(folder, "Job", "radit")


def pods_of(folder: str) -> dict[str, dict[str, Any]]:
    """The pod templates, by what makes them."""
    pods = {}
    for one in rendered(folder):
        spec = one.get("spec", {})
        template = spec.get("jobTemplate", {}).get("spec", spec).get("template")
        if template:
            pods[f"{one['kind']} {one['metadata']['name']}"] = template
    return pods


def written_by_the_code() -> dict[str, Any]:
    """The controller's Job as `radit render` writes it."""
    return controller_objects("quickstart", "name: quickstart\n", Kubernetes(), store_url="s3://bucket")[-1]


@needs_kubectl
@each_folder
def test_every_object_is_valid_for_every_supported_kubernetes(folder: str) -> None:
    for one in rendered(folder):
        if one["kind"] not in OF_KUEUE:
            validate(yaml.safe_dump(one))


@cache  # most of an overlay is the base again
def validate(text: str) -> None:
    for version in VERSIONS:
        kubernetes_validate.validate(yaml.safe_load(text), version, strict=True)


def test_the_example_secrets_are_valid_and_named_as_the_settings_expect_them() -> None:
    secrets = list(yaml.safe_load_all((K8S / "secret.example.yaml").read_text()))
    for secret in secrets:
        validate(yaml.safe_dump(secret))
        assert set(secret["stringData"].values()) == {"REPLACE-ME"}
    assert {one["metadata"]["name"] for one in secrets} == {one.secret for one in Kubernetes().env_from if one.secret}
    assert key_variable(Model(provider="openai", name="gpt").ref()) in secrets[1]["stringData"]


@needs_kubectl
@each_folder
def test_no_secret_is_in_a_kustomization(folder: str) -> None:
    assert "Secret" not in {one["kind"] for one in rendered(folder)}
    assert "SECRET_ACCESS_KEY=" not in yaml.safe_dump_all(rendered(folder))


@needs_kubectl
def test_the_role_grants_what_the_client_calls_and_nothing_else() -> None:
    role = object_of("base", "Role", "radit")
    granted = {
        (verb, resource, group)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    groups = {"jobs": "batch"}
    called = {
        (
            one.verb,
            f"{one.resource}/{one.subresource}" if one.subresource else one.resource,
            groups.get(one.resource, ""),
        )
        for one in PERMISSIONS + NODE_GROUP_PERMISSIONS
    }
    assert granted == called


@needs_kubectl
@each_folder
def test_the_controller_is_who_the_role_is_bound_to(folder: str) -> None:
    binding = object_of(folder, "RoleBinding", "radit")
    account = object_of(folder, "ServiceAccount", "radit")
    pod = controller_of(folder)["spec"]["template"]["spec"]
    assert [(one["name"], one["namespace"]) for one in binding["subjects"]] == [("radit", "radit")]
    assert pod["serviceAccountName"] == account["metadata"]["name"] == binding["roleRef"]["name"]
    assert written_by_the_code()["spec"]["template"]["spec"]["serviceAccountName"] == "radit"
    tokens = {name: pod["spec"]["automountServiceAccountToken"] for name, pod in pods_of(folder).items()}
    assert [name for name, mounted in tokens.items() if mounted] == [
        "CronJob radit" if folder == "overlays/cron" else "Job radit"
    ]


@needs_kubectl
@each_folder
def test_the_controller_is_what_the_code_would_start(folder: str) -> None:
    """The labels, the exit codes that are final, the pod's rights and its environment by reference."""
    here, there = controller_of(folder), written_by_the_code()
    # Whose run it is no fixed label can say: the run's record names its controller's Job.
    own_labels = {name: value for name, value in there["metadata"]["labels"].items() if "job.io/run" not in name}
    for metadata in (here["metadata"], here["spec"]["template"]["metadata"]):
        assert own_labels.items() <= metadata["labels"].items()
        assert "radit-job.io/run" not in metadata["labels"]
    assert _rules(here) == _rules(there)
    for name in ("backoffLimit", "podReplacementPolicy"):
        assert here["spec"][name] == there["spec"][name]
    pod, other = here["spec"]["template"]["spec"], there["spec"]["template"]["spec"]
    assert pod["securityContext"].items() <= other["securityContext"].items()
    for name in ("restartPolicy", "terminationGracePeriodSeconds", "enableServiceLinks"):
        assert pod[name] == other[name]
    container, wanted = pod["containers"][0], other["containers"][0]
    assert container["securityContext"] == wanted["securityContext"]
    assert _references(container) == _references(wanted)
    elsewhere = {"HOME", "PYTHONUNBUFFERED", "RADIT_IMAGE"}  # the image's own; the last is in radit-settings
    assert container["env"] == [one for one in wanted["env"] if one["name"] not in elsewhere]
    assert container["terminationMessagePolicy"] == wanted["terminationMessagePolicy"]
    assert container["resources"] == CONTROLLER_RESOURCES
    assert container["volumeMounts"] == sorted(wanted["volumeMounts"], key=lambda mount: mount["name"])
    assert pod["volumes"] == [
        {"name": "config", "configMap": {"name": "radit-config"}},
        {"name": "tmp", "emptyDir": {"sizeLimit": "4Gi"}},
    ]


CONTROLLER_RESOURCES = {
    "requests": {"cpu": "100m", "memory": "512Mi", "ephemeral-storage": "1Gi"},
    "limits": {"memory": "1Gi", "ephemeral-storage": "4Gi"},
}


def _rules(job: dict[str, Any]) -> list[tuple[str, Any]]:
    return sorted(
        (rule["action"], tuple(sorted(rule.get("onExitCodes", {}).get("values", []))))
        for rule in job["spec"]["podFailurePolicy"]["rules"]
    )


def _references(container: dict[str, Any]) -> set[str]:
    return {reference["name"] for source in container["envFrom"] for reference in source.values()}


@needs_kubectl
@each_folder
def test_the_stages_run_the_controllers_image(folder: str) -> None:
    settings = object_of(folder, "ConfigMap", "radit-settings")["data"]
    container = controller_of(folder)["spec"]["template"]["spec"]["containers"][0]
    assert settings["RADIT_IMAGE"] == container["image"]
    assert "--set=kubernetes.image=$(RADIT_IMAGE)" in container["args"]
    assert "--store=$(RADIT_STORE)" in container["args"] and settings["RADIT_STORE"].startswith("s3://")


@needs_kubectl
@each_folder
def test_every_pod_keeps_to_the_restricted_standard(folder: str) -> None:
    namespace = object_of(folder, "Namespace", "radit")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for name, template in pods_of(folder).items():
        pod = template["spec"]
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True and context["runAsUser"] == 10001, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), name
        assert all("hostPath" not in volume for volume in pod["volumes"]), name
        for container in pod["containers"]:
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False and own["capabilities"] == {"drop": ["ALL"]}, name
            assert own["readOnlyRootFilesystem"] is True and "privileged" not in own, name
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), name


@needs_kubectl
def test_the_scheduled_controller_is_the_controller() -> None:
    scheduled = yaml.safe_load((K8S / "overlays/cron/cronjob.yaml").read_text())["spec"]
    once = yaml.safe_load((K8S / "base/controller.yaml").read_text())
    assert scheduled["jobTemplate"]["spec"] == once["spec"]
    assert scheduled["jobTemplate"]["metadata"]["labels"] == once["metadata"]["labels"]
    assert (scheduled["concurrencyPolicy"], scheduled["timeZone"]) == ("Forbid", "Etc/UTC")
    assert not [one for one in rendered("overlays/cron") if one["kind"] == "Job"]


@needs_kubectl
def test_stages_queue_where_the_local_queue_is() -> None:
    queue = object_of("overlays/kueue", "LocalQueue", "radit")
    assert f"--set=kubernetes.queue={queue['metadata']['name']}" in _arguments("overlays/kueue")
    flavors = object_of("overlays/kueue", "ClusterQueue", "radit")["spec"]["resourceGroups"][0]
    requested = {"cpu", "memory", "ephemeral-storage", "nvidia.com/gpu"}  # a quota that lacks one admits nothing
    assert set(flavors["coveredResources"]) == requested
    assert {one["name"] for one in flavors["flavors"][0]["resources"]} == requested


def _arguments(folder: str) -> list[str]:
    return controller_of(folder)["spec"]["template"]["spec"]["containers"][0]["args"]


@needs_kubectl
@each_folder
def test_the_configuration_and_the_arguments_are_ones_that_radit_takes(folder: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(object_of(folder, "ConfigMap", "radit-config")["data"]["config.yaml"])
    data = object_of(folder, "ConfigMap", "radit-settings")["data"]
    sets = [argument.removeprefix("--set=") for argument in _arguments(folder) if argument.startswith("--set=")]
    overrides = [re.sub(r"\$\((\w+)\)", lambda match: data[match[1]], override) for override in sets]
    config = load_config(path, overrides).config
    quickstart = load_config(ROOT / "examples/quickstart.yaml").config
    differs = {"corpus", "questions", "kubernetes"}  # where the files are, and where the stages run
    assert config.model_dump(exclude=differs) == quickstart.model_dump(exclude=differs)
    in_the_image = [*config.corpus.paths, config.questions.path]
    for name in in_the_image:
        assert (ROOT / str(name).removeprefix("/opt/radit/")).is_file(), name


def _out(pods: dict[str, Any], *rules: dict[str, Any]) -> dict[str, Any]:
    return {"podSelector": pods, "policyTypes": ["Egress"], "egress": list(rules)}


def _tcp(*ports: int) -> list[dict[str, Any]]:
    return [{"protocol": "TCP", "port": port} for port in ports]


KUBE_SYSTEM = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}
NOT_METADATA = {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}}
CONTROLLER_PODS = {"matchLabels": {"app.kubernetes.io/component": "controller"}}
NODE_PODS = {"matchExpressions": [{"key": NODES_LABEL, "operator": "Exists"}]}
MINIO_PODS = {"matchLabels": {"app.kubernetes.io/name": "minio"}}
POLICIES = {
    "default-deny": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
    "dns": _out({}, {"to": [KUBE_SYSTEM], "ports": [{"protocol": "UDP", "port": 53}, *_tcp(53)]}),
    "https": _out({}, {"to": [NOT_METADATA, {"ipBlock": {"cidr": "::/0"}}], "ports": _tcp(443)}),
    "api-server": _out(CONTROLLER_PODS, {"ports": _tcp(443, 6443)}),
    "nodes": {
        "podSelector": NODE_PODS,
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [{"podSelector": NODE_PODS}]}],
        "egress": [{"to": [{"podSelector": NODE_PODS}]}],
    },
}
MINIO_POLICIES = {
    "s3-endpoint": _out({}, {"to": [{"podSelector": MINIO_PODS}], "ports": _tcp(9000)}),
    "minio": {
        "podSelector": MINIO_PODS,
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": {}}], "ports": _tcp(9000)}],
    },
}


@needs_kubectl
@each_folder
def test_nothing_is_let_in_or_out_but_what_is_named(folder: str) -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in rendered(folder) if one["kind"] == "NetworkPolicy"}
    assert policies == (POLICIES | MINIO_POLICIES if folder == "overlays/kind" else POLICIES)
    template = controller_of(folder)["spec"]["template"]["metadata"]["labels"]
    assert policies["api-server"]["podSelector"]["matchLabels"].items() <= template.items()


@needs_kubectl
def test_minio_takes_the_credentials_and_the_port_that_the_run_uses() -> None:
    settings = object_of("overlays/kind", "ConfigMap", "radit-settings")["data"]
    service = object_of("overlays/kind", "Service", "minio")
    [port] = service["spec"]["ports"]
    assert settings["AWS_ENDPOINT_URL_S3"] == f"http://{service['metadata']['name']}:{port['port']}"
    [container] = pods_of("overlays/kind")["StatefulSet minio"]["spec"]["containers"]
    secrets = {one["valueFrom"]["secretKeyRef"]["name"] for one in container["env"] if "valueFrom" in one}
    assert secrets == {"radit-s3"} <= {source.secret for source in Kubernetes().env_from}


def test_versions_agree_in_the_image_the_manifests_and_the_project() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    dockerfile, makefile = (ROOT / "Dockerfile").read_text(), (ROOT / "Makefile").read_text()
    assert f"ARG VERSION={version}\n" in dockerfile
    for path in ("base/controller.yaml", "minio/bucket.yaml", "base/settings.env"):
        assert f"radit-job:{version}" in (K8S / path).read_text()
    models = re.search(r"^MODELS := (.*)$", makefile, re.MULTILINE)
    assert models and models[1] in dockerfile


def test_the_policies_in_the_cluster_page_are_ones_that_can_be_pasted() -> None:
    page = (ROOT / "docs/cluster.md").read_text()
    policy, lifecycle = (json.loads(text) for text in re.findall(r"```json\n(.*?)```", page, re.DOTALL))
    actions = {
        action
        for one in policy["Statement"]
        for action in ([one["Action"]] if isinstance(one["Action"], str) else one["Action"])
    }
    needed = {"s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"}
    assert actions == needed and lifecycle["Rules"][0]["Status"] == "Enabled"
    for text in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL):
        plain = yaml.safe_load(text)
        if plain.get("kind") == "NetworkPolicy":
            validate(yaml.safe_dump(plain))


def test_every_make_target_and_file_that_the_cluster_page_names_is_there() -> None:
    page, makefile = (ROOT / "docs/cluster.md").read_text(), (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake ([a-z][a-z0-9-]*)", page)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for name in set(re.findall(r"\bk8s/[\w./-]*", page)):
        assert name.startswith("k8s/overlays/mine") or (ROOT / name.rstrip(".")).exists(), name
    assert "docs/cluster.md" in (ROOT / "README.md").read_text()
