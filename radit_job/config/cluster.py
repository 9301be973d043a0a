"""The configuration's section `kubernetes`: where each stage runs in a cluster, and what its pods ask for."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationInfo, field_validator, model_validator

from radit_job.config.fields import Section, setting
from radit_job.config.kubernetes_names import (
    check_annotations,
    check_env,
    check_labels,
    check_own_labels,
    check_template,
)

SHARDED_STAGES = ("index", "generate", "score", "answer")  # tests/unit/test_catalog.py holds it against the catalog
StageName = Literal[
    "ingest",
    "index",
    "generate",
    "split",
    "augment",
    "finetune_lm",
    "score",
    "finetune_retriever",
    "answer",
    "evaluate",
    "benchmark",
    "report",
]  # tests/unit/test_catalog.py holds it against the catalog
SUBDOMAIN = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*"  # RFC 1123
KubernetesName = Annotated[
    str,
    StringConstraints(pattern=f"^{SUBDOMAIN}$", max_length=253),
    Field(json_schema_extra={"form": "a Kubernetes name: lower-case letters, digits, inner dashes and dots"}),
]
NamespaceName = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length=63),
    Field(json_schema_extra={"form": "a namespace: up to 63 lower-case letters, digits and inner dashes"}),
]
Image = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9][a-zA-Z0-9._:/@-]*$"),
    Field(json_schema_extra={"form": "an image, such as registry.example.org/radit-job:1.0"}),
]
ResourceName = Annotated[
    str,
    StringConstraints(pattern=f"^{SUBDOMAIN}/[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$"),
    Field(json_schema_extra={"form": "an extended resource, such as nvidia.com/gpu"}),
]
MountPath = Annotated[
    str,
    StringConstraints(pattern=r"^/[^:]+$"),
    Field(json_schema_extra={"form": "an absolute path without a colon"}),
]
BUILT_IN_PROFILES: dict[str, dict[str, Any]] = {"cpu": {}, "gpu": {"gpus": 1}}
OWN_MOUNTS = ("/tmp", "/dev/shm", "/etc/radit")  # noqa: S108 - paths inside the pod


class Toleration(Section):
    """A taint that a profile's pods accept."""

    key: str | None = setting(None, "The taint's key. null: every taint.", origin="any")
    operator: Literal["Exists", "Equal"] | None = setting(
        None, "How the value is compared. null: Equal where a value is given, else Exists.", origin="the obvious one"
    )
    value: str | None = setting(None, "The taint's value.", origin="any value")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = setting(
        None, "Which effect is tolerated. null: all.", origin="all"
    )

    @model_validator(mode="after")
    def _the_api_takes_it(self) -> Toleration:
        if self.operator == "Exists" and self.value:
            raise ValueError("operator Exists takes no value")
        if self.key is None and (self.operator == "Equal" or self.value):
            raise ValueError("a value needs a key; without a key every taint is tolerated")
        return self


class ModelCache(Section):
    """A volume that keeps downloaded models from one pod to the next; without it each pod fetches its own."""

    claim: KubernetesName | None = setting(None, "A PersistentVolumeClaim.", origin="none")
    host_path: MountPath | None = setting(
        None, "A folder of the node; restricted pod security refuses it.", origin="none"
    )
    mount_path: MountPath = setting("/models", "Where the pods see it; HF_HOME points there.", origin="short")

    @model_validator(mode="after")
    def _one_volume(self) -> ModelCache:
        if (self.claim is None) == (self.host_path is None):
            raise ValueError("give either a claim or a host_path")
        if self.mount_path.rstrip("/") in OWN_MOUNTS:
            raise ValueError(f"mount_path cannot be one of {', '.join(OWN_MOUNTS)}: something stands there already")
        return self


class EnvFrom(Section):
    """Environment variables taken from an object of the cluster, by reference: no value passes through here."""

    secret: KubernetesName | None = setting(None, "A Secret's name.", origin="none")
    config_map: KubernetesName | None = setting(None, "A ConfigMap's name.", origin="none")
    optional: bool = setting(False, "Whether a pod may start without it.", origin="a missing secret should be seen")

    @model_validator(mode="after")
    def _one_source(self) -> EnvFrom:
        if (self.secret is None) == (self.config_map is None):
            raise ValueError("give either a secret or a config_map")
        return self


class Profile(Section):
    """What the pods of a stage ask for, and where they may run."""

    image: Image | None = setting(
        None, "Another image than kubernetes.image, say one with CUDA.", origin="one image for all"
    )
    cpu: float = setting(
        1.0,
        "Requested cores. Rounded up, it is the number of threads too (OMP_NUM_THREADS): one per core of a large node "
        "would slow all its pods down. Training processes of one pod share them.",
        unit="cores",
        origin="fits any node; the model stages gain from more",
        ge=0.001,
        le=1024,
    )
    memory_gib: float | None = setting(
        None,
        "Requested memory, and its limit. null: what the stage needs with the packaged models.",
        unit="GiB",
        origin="the catalog of stages",
        ge=0.01,
    )
    gpus: int = setting(0, "Devices of each pod.", unit="devices", origin="none", ge=0)
    gpu_resource: ResourceName = setting(
        "nvidia.com/gpu",
        "The devices' resource name. A taint of the same name is tolerated.",
        origin="NVIDIA's device plugin",
    )
    ephemeral_storage_gib: float = setting(
        8.0,
        "Requested disk, for models and files in the making, and the size of /tmp.",
        unit="GiB",
        origin="two copies of a small model",
        ge=0.01,
    )
    shared_memory_gib: float = setting(
        1.0,
        "Size of /dev/shm at most; what is in it counts as memory.",
        unit="GiB",
        origin="PyTorch's data loaders",
        ge=0.01,
    )
    node_selector: dict[str, str] = setting({}, "Labels that a node must have.", origin="any node")
    tolerations: list[Toleration] = setting([], "Taints that the pods accept.", origin="none")
    priority_class: KubernetesName | None = setting(None, "PriorityClass of the pods.", origin="the cluster's")
    runtime_class: KubernetesName | None = setting(None, "RuntimeClass, such as nvidia.", origin="the cluster's")
    image_pull_secrets: list[KubernetesName] = setting(
        [], "Secrets for the image's registry, beside kubernetes.image_pull_secrets.", origin="none"
    )
    service_account: KubernetesName | None = setting(
        None, "Another ServiceAccount than kubernetes.service_account.", origin="one for all"
    )
    model_cache: ModelCache | None = setting(None, "A volume for downloaded models.", origin="none")
    env: dict[str, str] = setting(
        {}, "Environment variables, over kubernetes.env. Never a secret: that is what env_from is for.", origin="none"
    )
    env_from: list[EnvFrom] = setting(
        [], "Environment variables by reference, beside kubernetes.env_from.", origin="none"
    )
    labels: dict[str, str] = setting({}, "More labels of Job and pods.", origin="none")
    annotations: dict[str, str] = setting({}, "More annotations of Job and pods.", origin="none")
    pod_template: dict[str, Any] = setting(
        {},
        "A strategic-merge patch of the pod template (metadata, spec), applied last: for what no field above covers. "
        "The container is called stage.",
        origin="nothing to patch",
    )

    _env_names = field_validator("env")(check_env)
    _label_syntax = field_validator("labels")(check_own_labels)
    _selector_syntax = field_validator("node_selector")(check_labels)
    _annotation_syntax = field_validator("annotations")(check_annotations)
    _template_fields = field_validator("pod_template")(check_template)


class Placement(Section):
    """Where and how one stage runs."""

    profile: KubernetesName = setting("cpu", "One of kubernetes.profiles.", origin="works everywhere")
    shards: int = setting(
        1,
        "Pods that share the stage's work: for index, generate, score and answer.",
        unit="pods",
        origin="one",
        ge=1,
        le=10_000,
    )
    deadline_s: int | None = setting(
        None, "The stage is stopped, and fails, when it is not done by then.", unit="seconds", origin="none", ge=1
    )


class Kubernetes(Section):
    """How the stages run as Jobs, with --executor kubernetes."""

    context: str | None = setting(
        None, "The kubeconfig's context. null: the current one. Inside a cluster it is not used.", origin="as kubectl"
    )
    namespace: NamespaceName | None = setting(
        None, "Where the Jobs run. null: the context's namespace.", origin="as kubectl"
    )
    image: Image = setting("radit-job:latest", "The image of every stage.", origin="what `make image` builds")
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = setting(
        "IfNotPresent", "When nodes pull it.", origin="an image loaded by hand works"
    )
    image_pull_secrets: list[KubernetesName] = setting(
        [], "Secrets for the image's registry, of every pod.", origin="none"
    )
    service_account: KubernetesName | None = setting(
        None,
        "ServiceAccount whose cloud identity the stages' pods use to reach the bucket; no token of the cluster is "
        "mounted. null: the namespace's default.",
        origin="the namespace's",
    )
    env: dict[str, str] = setting(
        {},
        "Environment variables of every pod, the controller's among them. Never a secret: that is what env_from is "
        "for.",
        origin="none",
    )
    env_from: list[EnvFrom] = setting(
        [
            {"config_map": "radit-settings", "optional": True},
            {"secret": "radit-s3", "optional": True},
            {"secret": "radit-openai", "optional": True},
        ],
        "Environment variables of every pod by reference, the controller's among them: the store's address and "
        "credentials, and the keys of served models. A cloud's own identity needs none for the store.",
        origin="as k8s/ names them; each is left out where it does not exist",
    )
    queue: KubernetesName | None = setting(
        None,
        "Kueue's LocalQueue. Each Job is created suspended, and waits until the queue admits it.",
        origin="no queue",
    )
    retries: int = setting(
        2,
        "How often Kubernetes starts a failed pod (or shard) again. Exit codes 64 and 65 (configuration, input data) "
        "are final at once; an eviction or a lost node is not counted. Of a stage on several nodes each pod has one "
        "more for every other, for it fails when it loses them.",
        unit="retries",
        origin="a passing trouble is gone by then",
        ge=0,
    )
    pending_timeout_s: int | None = setting(
        900,
        "A stage with no running pod for so long fails, and its Job is deleted; where it spans nodes all must run. "
        "null: it waits for ever. Waiting in a queue is not counted.",
        unit="seconds",
        origin="a node group that scales up takes minutes",
        ge=1,
    )
    ttl_s: int | None = setting(
        86_400,
        "Ended Jobs are deleted after this time; null: kept.",
        unit="seconds",
        origin="a day to look at them",
        ge=0,
    )
    profiles: dict[KubernetesName, Profile] = setting(
        BUILT_IN_PROFILES,
        "Kinds of pods. cpu and gpu exist without being named; naming one changes the fields that are given.",
        origin="one without and one with a device",
    )
    stages: dict[StageName, Placement] = setting(
        {}, "Where each stage runs; what is not named runs on cpu, in one pod.", origin="works everywhere"
    )

    _env_names = field_validator("env")(check_env)

    @field_validator("profiles", mode="before")
    @classmethod
    def _built_in_profiles_exist(cls, value: Any) -> Any:
        if value is not None and not isinstance(value, dict):
            return value
        given = {name: {} if fields is None else fields for name, fields in (value or {}).items()}
        merged = {**BUILT_IN_PROFILES, **given}
        for name, fields in BUILT_IN_PROFILES.items():
            if isinstance(merged[name], dict):
                merged[name] = {**fields, **merged[name]}
        return merged

    @field_validator("stages")
    @classmethod
    def _placements_are_possible(
        cls, value: dict[StageName, Placement], info: ValidationInfo
    ) -> dict[StageName, Placement]:
        problems = []
        profiles = info.data.get("profiles")  # absent when it has errors of its own
        for stage, placement in value.items():
            if profiles is not None and placement.profile not in profiles:
                known = ", ".join(profiles)
                problems.append(f"{stage} names the profile {placement.profile!r}; there are: {known}")
            if placement.shards > 1 and stage not in SHARDED_STAGES:
                problems.append(f"{stage} cannot be divided into shards; these can: {', '.join(SHARDED_STAGES)}")
        if problems:
            raise ValueError("; ".join(problems))
        return value

    def placement(self, stage: str) -> Placement:
        """Where a stage runs; what the configuration does not place runs on cpu, in one pod."""
        return next((placed for name, placed in self.stages.items() if name == stage), Placement())

    def profile(self, stage: str) -> Profile:
        """The profile of a stage's pods, with what the section says for every pod."""
        own = self.profiles[self.placement(stage).profile]
        return own.model_copy(
            update={
                "image": own.image or self.image,
                "service_account": own.service_account or self.service_account,
                "image_pull_secrets": list(dict.fromkeys([*self.image_pull_secrets, *own.image_pull_secrets])),
                "env": {**self.env, **own.env},
                "env_from": list(
                    {(one.secret, one.config_map): one for one in [*self.env_from, *own.env_from]}.values()
                ),
            }
        )
