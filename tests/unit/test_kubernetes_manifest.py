import copy
import json
import re
from typing import Any

import kubernetes_validate
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from radit_job.config.cluster import Kubernetes
from radit_job.errors import ConfigError
from radit_job.executors.kubernetes.manifest import as_yaml, controller_objects, job_name, stage_job
from radit_job.jobs import JobSpec, Resources

VERSIONS = [f"1.{minor}" for minor in range(31, 38)]
KEY = "0123456789" + "ab" * 27
MINIMAL: dict[str, Any] = {}
EVERYTHING: dict[str, Any] = {
    "namespace": "team-a",
    "image": "registry.example.org/radit-job:1.0",
    "image_pull_policy": "Always",
    "image_pull_secrets": ["registry"],
    "service_account": "store-user",
    "env": {"AWS_ENDPOINT_URL": "http://minio:9000", "PRICE": "$(HOME) $5"},
    "env_from": [{"secret": "store"}],
    "queue": "research",
    "retries": 5,
    "ttl_s": 60,
    "profiles": {
        "gpu": {
            "image": "registry.example.org/radit-job:1.0-cuda@sha256:" + "a" * 64,
            "cpu": 7.5,
            "memory_gib": 40.3,
            "gpus": 2,
            "gpu_resource": "amd.com/gpu",
            "ephemeral_storage_gib": 100,
            "shared_memory_gib": 0.5,
            "node_selector": {"nvidia.com/gpu.product": "A100"},
            "tolerations": [{"key": "dedicated", "value": "ml", "effect": "NoSchedule"}, {}, {"key": "spot"}],
            "priority_class": "high",
            "runtime_class": "nvidia",
            "image_pull_secrets": ["cuda"],
            "service_account": "trainer",
            "model_cache": {"claim": "models", "mount_path": "/cache"},
            "env": {"OMP_NUM_THREADS": "3", "HF_HUB_OFFLINE": "1"},
            "env_from": [{"config_map": "more", "optional": True}],
            "labels": {"example.org/team": "nlp"},
            "annotations": {"example.org/note": "any text: at all"},
            "pod_template": {
                "metadata": {"annotations": {"sidecar.istio.io/inject": "false"}},
                "spec": {
                    "hostUsers": False,
                    "topologySpreadConstraints": [
                        {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}
                    ],
                    "containers": [{"name": "stage", "env": [{"name": "TOKENIZERS_PARALLELISM", "value": "true"}]}],
                },
            },
        }
    },
    "stages": {"answer": {"profile": "gpu", "shards": 4, "deadline_s": 3600}, "finetune_lm": {"profile": "gpu"}},
}


def render(plain: dict[str, Any], stage: str = "answer", shards: int = 1, *, replace: bool = False) -> dict[str, Any]:
    spec = JobSpec("my-run", stage, 1, KEY, {}, (), resources=Resources(4.0), shards=shards, replace=replace)
    spec_name = f"runs/my-run/jobs/{stage}.json"
    return stage_job(spec, spec_name, Kubernetes.model_validate(plain), store_url="s3://bucket/prefix")


def container(job: dict[str, Any]) -> dict[str, Any]:
    (one,) = job["spec"]["template"]["spec"]["containers"]
    return dict(one)


def env_of(job: dict[str, Any]) -> dict[str, Any]:
    names = [one["name"] for one in container(job)["env"]]
    assert len(names) == len(set(names))
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container(job)["env"]}


names = st.from_regex(r"\A[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?\Z")
labels = st.dictionaries(names, st.from_regex(r"\A[A-Za-z0-9]([A-Za-z0-9_.-]{0,20}[A-Za-z0-9])?\Z"), max_size=2)
tolerations = st.fixed_dictionaries(
    {"key": names},
    optional={"value": names, "effect": st.sampled_from(["NoSchedule", "PreferNoSchedule", "NoExecute"])},
)
profiles = st.fixed_dictionaries(
    {},
    optional={
        "cpu": st.floats(0.001, 256),
        "memory_gib": st.floats(0.01, 4096),
        "gpus": st.integers(0, 16),
        "ephemeral_storage_gib": st.floats(0.01, 4096),
        "shared_memory_gib": st.floats(0.01, 64),
        "node_selector": labels,
        "tolerations": st.lists(tolerations, max_size=2),
        "priority_class": names,
        "runtime_class": names,
        "image_pull_secrets": st.lists(names, max_size=2),
        "service_account": names,
        "model_cache": st.one_of(
            names.map(lambda name: {"claim": name}), names.map(lambda name: {"host_path": f"/data/{name}"})
        ),
        "env": st.dictionaries(
            st.from_regex(r"\AMY_[A-Z]{1,9}\Z").filter(lambda name: "KEY" not in name), st.text("a$()\n")
        ),
        "env_from": st.lists(names.map(lambda name: {"secret": name}), max_size=2),
        "labels": labels,
        "annotations": labels,
    },
)
wholes = st.fixed_dictionaries(
    {"profiles": st.fixed_dictionaries({"cpu": profiles})},
    optional={
        "namespace": names,
        "queue": names,
        "retries": st.integers(0, 9),
        "ttl_s": st.one_of(st.none(), st.integers(0, 10**6)),
        "image_pull_policy": st.sampled_from(["IfNotPresent", "Always", "Never"]),
    },
)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("plain", "shards"), [(MINIMAL, 4), (EVERYTHING, 1)], ids=["minimal", "everything"])
def test_every_supported_version_takes_the_jobs(version: str, plain: dict[str, Any], shards: int) -> None:
    kubernetes_validate.validate(render(plain, shards=shards), version, strict=True)
    settings_ = Kubernetes.model_validate(plain)
    for one in controller_objects(
        "my-run", "name: my-run\n", settings_, store_url="s3://b", arguments=["--until", "split"]
    ):
        kubernetes_validate.validate(one, version, strict=True)


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(plain=wholes, shards=st.sampled_from([1, 2, 10_000]), version=st.sampled_from(VERSIONS))
def test_whatever_the_configuration_allows_the_api_takes(plain: dict[str, Any], shards: int, version: str) -> None:
    job = render(plain, shards=shards)
    kubernetes_validate.validate(job, version, strict=True)
    check_what_the_schemas_miss(job)
    (again,) = yaml.safe_load_all(as_yaml([job]))
    assert again == job


def check_what_the_schemas_miss(job: dict[str, Any]) -> None:
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert len(job["metadata"]["name"]) <= 63
    assert spec["completionMode"] in ("Indexed", "NonIndexed")
    assert spec["podReplacementPolicy"] in ("Failed", "TerminatingOrFailed")
    assert pod["restartPolicy"] == "Never"  # podFailurePolicy asks for it
    assert ("backoffLimitPerIndex" in spec) == (spec["completionMode"] == "Indexed")
    assert spec.get("maxFailedIndexes", 0) <= spec["completions"]
    for rule in spec["podFailurePolicy"]["rules"]:
        assert rule["action"] in ("Ignore", "FailJob", "FailIndex", "Count")
        assert rule["action"] != "FailIndex" or "backoffLimitPerIndex" in spec
        assert ("onExitCodes" in rule) != ("onPodConditions" in rule)
    for name, value in job["spec"]["template"]["metadata"]["labels"].items():
        assert re.fullmatch(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?", value), name
    for one in pod.get("tolerations", []):
        assert one["operator"] in ("Exists", "Equal")
        assert one["operator"] == "Equal" or "value" not in one
    quantities = [*container(job)["resources"]["requests"].values(), *container(job)["resources"]["limits"].values()]
    assert all(re.fullmatch(r"[1-9][0-9]*(m|Mi|Gi)?", value) for value in quantities), quantities
    mounts = [one["mountPath"] for one in container(job)["volumeMounts"]]
    assert len(mounts) == len(set(mounts))
    volumes = [one["name"] for one in pod["volumes"]]
    assert sorted(volumes) == sorted(one["name"] for one in container(job)["volumeMounts"])


@pytest.mark.parametrize("component", ["stage", "controller"])
def test_pods_keep_to_the_restricted_standard(component: str) -> None:
    plain = copy.deepcopy(EVERYTHING)
    objects = [render(plain)]
    if component == "controller":
        objects = controller_objects("my-run", "", Kubernetes.model_validate(plain), store_url=None)[1:]
    pod = objects[0]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(objects[0])["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    assert {kind for volume in pod["volumes"] for kind in volume if kind != "name"} <= allowed
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert pod["automountServiceAccountToken"] is (component == "controller")
    assert pod["enableServiceLinks"] is False


def test_a_stage_is_one_command_whose_name_comes_from_what_it_computes() -> None:
    job = render(MINIMAL, "finetune_lm")
    assert job["metadata"]["name"] == job_name("finetune_lm", KEY, "s3://bucket/prefix")
    assert re.fullmatch("radit-finetune-lm-[0-9a-f]{10}", job["metadata"]["name"])
    assert "namespace" not in job["metadata"]
    assert container(job)["command"] == ["radit"]
    assert container(job)["args"] == [
        *("stage", "finetune_lm", "--spec", "runs/my-run/jobs/finetune_lm.json", "--store", "s3://bucket/prefix")
    ]
    assert job == render(MINIMAL, "finetune_lm")  # again the same


def test_the_same_work_for_another_place_has_another_name_however_the_place_is_reached() -> None:
    name = job_name("index", KEY, "s3://bucket/prefix")
    assert job_name("index", KEY, "s3://bucket/prefix?endpoint_url=http://127.0.0.1:9000&region=x") == name
    others = ["s3://bucket/prefix2", "s3://bucket", "s3://bucket2/prefix"]
    assert len({name, *(job_name("index", KEY, url) for url in others), job_name("index", KEY[::-1], others[0])}) == 5


@pytest.mark.parametrize(
    "changed", [{"image": "fixed:1"}, {"queue": "other"}, {"profiles": {"cpu": {"memory_gib": 9}}}, {"retries": 9}]
)
def test_the_digest_changes_with_what_the_job_is_made_of_and_with_nothing_else(changed: dict[str, Any]) -> None:
    def digest_of(plain: dict[str, Any]) -> str:
        return str(render(plain)["metadata"]["annotations"]["radit-job.io/digest"])

    assert digest_of(MINIMAL) == digest_of({"pending_timeout_s": 5, "context": "laptop", "namespace": "team"})
    assert digest_of(MINIMAL) != digest_of(changed)


def test_labels_find_the_job_and_annotations_hold_what_is_too_long_for_them() -> None:
    job = render(EVERYTHING, replace=True)
    assert job["metadata"]["labels"] == {
        "example.org/team": "nlp",
        "app.kubernetes.io/name": "radit-job",
        "app.kubernetes.io/managed-by": "radit-job",
        "app.kubernetes.io/component": "stage",
        "radit-job.io/run": "my-run",
        "radit-job.io/stage": "answer",
        "radit-job.io/key10": "0123456789",
        "kueue.x-k8s.io/queue-name": "research",
    }
    template = job["spec"]["template"]["metadata"]
    assert template["labels"].items() <= job["metadata"]["labels"].items()
    assert job["metadata"]["annotations"] == {
        "example.org/note": "any text: at all",
        "radit-job.io/key": KEY,
        "radit-job.io/profile": "gpu",
        "radit-job.io/replace": "true",
        "radit-job.io/digest": job["metadata"]["annotations"]["radit-job.io/digest"],
    }
    assert "radit-job.io/digest" not in template["annotations"]
    assert "radit-job.io/replace" not in render(EVERYTHING)["metadata"]["annotations"]
    assert template["annotations"]["sidecar.istio.io/inject"] == "false"


def test_exits_that_no_retry_mends_end_the_job_at_once() -> None:
    rules = render(MINIMAL)["spec"]["podFailurePolicy"]["rules"]
    assert rules == [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": {"containerName": "stage", "operator": "In", "values": [64, 65]}},
    ]
    assert render(MINIMAL)["spec"]["backoffLimit"] == 2
    assert render(MINIMAL)["spec"]["podReplacementPolicy"] == "Failed"
    assert not {"activeDeadlineSeconds", "suspend"} & set(render(MINIMAL)["spec"])


def test_shards_are_an_indexed_job_in_which_each_has_its_own_retries() -> None:
    spec = render(EVERYTHING, shards=4)["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 4, 4)
    assert (spec["backoffLimitPerIndex"], spec["maxFailedIndexes"], "backoffLimit" in spec) == (5, 1, False)
    actions = [
        (rule["action"], rule.get("onExitCodes", {}).get("values")) for rule in spec["podFailurePolicy"]["rules"]
    ]
    assert actions == [("Ignore", None), ("FailJob", [64]), ("FailIndex", [65])]
    assert render(EVERYTHING, shards=1000)["spec"]["maxFailedIndexes"] == 100


def test_a_queue_gets_the_job_suspended_and_a_deadline_is_the_jobs() -> None:
    spec = render(EVERYTHING)["spec"]
    assert spec["suspend"] is True
    assert (spec["activeDeadlineSeconds"], spec["ttlSecondsAfterFinished"]) == (3600, 60)
    assert "ttlSecondsAfterFinished" not in render({"ttl_s": None})["spec"]


def test_a_gpu_profile_reaches_the_pod() -> None:
    job = render(EVERYTHING)
    pod = job["spec"]["template"]["spec"]
    assert container(job)["resources"] == {
        "requests": {"cpu": "7500m", "memory": "41268Mi", "ephemeral-storage": "100Gi", "amd.com/gpu": "2"},
        "limits": {"memory": "41268Mi", "amd.com/gpu": "2"},
    }
    assert pod["tolerations"] == [
        {"key": "dedicated", "operator": "Equal", "value": "ml", "effect": "NoSchedule"},
        {"operator": "Exists"},
        {"key": "spot", "operator": "Exists"},
        {"key": "amd.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
    ]
    assert (pod["priorityClassName"], pod["runtimeClassName"], pod["serviceAccountName"]) == (
        "high",
        "nvidia",
        "trainer",
    )
    assert pod["imagePullSecrets"] == [{"name": "registry"}, {"name": "cuda"}]
    assert {"name": "models", "persistentVolumeClaim": {"claimName": "models"}} in pod["volumes"]
    assert {"name": "models", "mountPath": "/cache"} in container(job)["volumeMounts"]
    assert env_of(job)["HF_HOME"] == "/cache"
    assert container(job)["image"].endswith("a" * 64)


def test_memory_comes_from_the_stage_where_the_profile_does_not_say() -> None:
    resources = container(render(MINIMAL))["resources"]
    assert resources["requests"] == {"cpu": "1", "memory": "4Gi", "ephemeral-storage": "8Gi"}
    assert resources["limits"] == {"memory": "4Gi"}


def test_threads_follow_the_requested_cores_unless_the_user_says_otherwise() -> None:
    assert env_of(render({"profiles": {"cpu": {"cpu": 2.5}}}))["OMP_NUM_THREADS"] == "3"
    assert env_of(render(EVERYTHING))["OMP_NUM_THREADS"] == "3"
    assert env_of(render(EVERYTHING))["TOKENIZERS_PARALLELISM"] == "true"  # by the patch


@pytest.mark.parametrize(
    ("stage", "cores", "n_processes", "n_threads"),
    [("finetune_lm", 8, 2, "4"), ("finetune_lm", 2.5, 2, "1"), ("finetune_lm", 1, 4, "1"), ("report", 8, 2, "8")],
)
def test_processes_of_one_pod_share_its_cores(stage: str, cores: float, n_processes: int, n_threads: str) -> None:
    spec = JobSpec("my-run", stage, 1, KEY, {"finetune_lm": {"processes_per_node": n_processes}}, ())
    settings = Kubernetes.model_validate({"profiles": {"cpu": {"cpu": cores}}})
    job = stage_job(spec, "runs/my-run/jobs/x.json", settings, store_url="s3://bucket/prefix")
    assert env_of(job)["OMP_NUM_THREADS"] == n_threads


def test_the_environment_tells_the_worker_where_it_is_and_expands_nothing_of_the_users() -> None:
    env = env_of(render(EVERYTHING))
    assert env["RADIT_TERMINATION_LOG"] == container(render(EVERYTHING))["terminationMessagePath"]
    assert env["RADIT_IMAGE"] == container(render(EVERYTHING))["image"]
    assert env["RADIT_TRY"] == {"fieldRef": {"fieldPath": "metadata.labels['batch.kubernetes.io/controller-uid']"}}
    assert env["HOME"] == "/tmp"
    assert env["PRICE"] == "$$(HOME) $5"  # Kubernetes makes "$(HOME) $5" of it
    assert "JOB_COMPLETION_INDEX" not in env  # Kubernetes sets it, and only where it does not stand yet


def test_secrets_come_by_reference_only() -> None:
    assert container(render(EVERYTHING))["envFrom"] == [
        {"secretRef": {"name": "store"}},
        {"configMapRef": {"name": "more", "optional": True}},
    ]
    assert container(render(MINIMAL))["envFrom"] == [
        {"configMapRef": {"name": "radit-settings", "optional": True}},
        {"secretRef": {"name": "radit-s3", "optional": True}},
        {"secretRef": {"name": "radit-openai", "optional": True}},
    ]


def test_a_patch_that_cannot_be_merged_names_its_setting() -> None:
    plain = {"profiles": {"cpu": {"pod_template": {"spec": {"volumes": [{"emptyDir": {}}]}}}}}
    with pytest.raises(ConfigError) as caught:
        render(plain)
    assert caught.value.where == "kubernetes.profiles.cpu.pod_template.spec.volumes"


def test_the_controller_runs_the_configuration_that_is_beside_it() -> None:
    plain = Kubernetes.model_validate(EVERYTHING)
    config_map, job = controller_objects(
        "my-run", "name: my-run\n", plain, store_url="s3://b/p", arguments=["--until", "x"]
    )
    assert config_map["data"] == {"config.yaml": "name: my-run\n"}
    assert config_map["metadata"]["name"] == job["metadata"]["name"]
    assert config_map["metadata"]["namespace"] == job["metadata"]["namespace"] == "team-a"
    pod = job["spec"]["template"]["spec"]
    assert {"name": "config", "configMap": {"name": config_map["metadata"]["name"]}} in pod["volumes"]
    assert {"name": "config", "mountPath": "/etc/radit", "readOnly": True} in container(job)["volumeMounts"]
    assert container(job)["args"] == [
        *("run", "/etc/radit/config.yaml", "--executor", "kubernetes", "--store", "s3://b/p", "--until", "x")
    ]
    assert pod["serviceAccountName"] == "radit"
    assert container(job)["envFrom"] == [{"secretRef": {"name": "store"}}]
    rule = job["spec"]["podFailurePolicy"]["rules"][1]
    assert (rule["action"], rule["onExitCodes"]["values"]) == ("FailJob", [1, 64, 65])
    assert rule["onExitCodes"]["containerName"] == container(job)["name"]
    assert job["metadata"]["labels"]["app.kubernetes.io/component"] == "controller"
    assert {"RADIT_CONTROLLER_JOB", "RADIT_CONTROLLER_JOB_UID"} <= set(env_of(job))


def test_another_configuration_is_another_controller() -> None:
    def name(text: str, run: str = "r", **more: Any) -> str:
        return str(controller_objects(run, text, Kubernetes(), store_url=None, **more)[1]["metadata"]["name"])

    assert name("a") == name("a") != name("b")
    assert name("a") != name("a", arguments=["--until", "split"])
    assert len(name("a", run="x" * 40)) <= 63


@pytest.mark.parametrize(
    "text", ["0123456789", "12345e6789", "1_000", "y", "no", "0x1f", ".5", "1:30", "~", "2026-11-21"]
)
def test_text_that_kubectl_would_take_for_something_else_is_quoted(text: str) -> None:
    assert as_yaml([{"name": text}]).replace("'", '"') == f'name: "{text}"\n'


def test_the_yaml_has_no_anchors_and_shows_the_configuration_as_it_is() -> None:
    objects = controller_objects("r", "name: r\nseed: 7\n", Kubernetes(), store_url="s3://b/p")
    text = as_yaml(objects)
    assert "&id" not in text
    assert "  config.yaml: |\n    name: r\n    seed: 7\n" in text
    assert list(yaml.safe_load_all(text)) == objects


def test_no_secret_can_come_into_a_manifest_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    whole = [render(EVERYTHING), *controller_objects("r", "", Kubernetes(), store_url="s3://b")]
    assert "canary" not in json.dumps(whole)
