"""The pods' side of the manifests: what a pod may do, where it may run, what it sees.

Every pod keeps to the restricted pod security standard,
https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted.
"""

from __future__ import annotations

import math
from typing import Any

from radit_job.config.cluster import EnvFrom, Kubernetes, ModelCache, Profile, Toleration
from radit_job.executors.kubernetes.node_group import PORT, endpoint

Object = dict[str, Any]

CONTAINER = "stage"  # the name of a stage's one container, which a pod_template patch may use
CONTROLLER_CONTAINER = "controller"
USER_ID = 10001  # the image's own user
GRACE_S = 60  # from SIGTERM to SIGKILL: time to save a checkpoint
TERMINATION_LOG = "/dev/termination-log"
SERVICE_ACCOUNT = "radit"  # the controller's, from k8s/base
CONTROLLER = Profile(cpu=0.1, memory_gib=1.0, ephemeral_storage_gib=1.0)  # it waits most of the time


def stage_pod(
    profile: Profile,
    pull_policy: str,
    arguments: list[str],
    *,
    needs_gib: float,
    n_processes: int = 1,
    group: str | None = None,
) -> Object:
    """The pod of a stage, or of one of its shards. `needs_gib` holds where the profile does not say how much.

    `n_processes` share the pod's cores. `group` names the Job, and its Service, where several pods do the stage
    together.
    """
    env = {
        "HOME": "/tmp",  # noqa: S108 - the one place in the pod where a process may write
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # torch takes every core that it sees, and it sees the node's.
        "OMP_NUM_THREADS": str(max(1, math.ceil(profile.cpu) // n_processes)),
        **({"HF_HOME": profile.model_cache.mount_path} if profile.model_cache else {}),
        **({"RADIT_ENDPOINT": endpoint(group)} if group else {}),
    }
    # From the Job's uid: the tries of one Job, and of nothing before it, may go on from each other's checkpoints.
    job_uid = {"valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['batch.kubernetes.io/controller-uid']"}}}
    return {
        **_ground(profile.service_account, mounts_token=False),
        **_where(profile),
        **_pull_secrets(profile.image_pull_secrets),
        **({"subdomain": group} if group else {}),
        "containers": [
            {
                **_container(CONTAINER, profile.image or "", pull_policy, arguments),
                "env": [
                    *_values({**env, **profile.env}),
                    *_exit_env(profile.image or ""),
                    {"name": "RADIT_TRY", **job_uid},
                ],
                **_env_from(profile.env_from),
                **({"ports": [{"name": "rendezvous", "containerPort": PORT, "protocol": "TCP"}]} if group else {}),
                "resources": _resources(profile, needs_gib),
                "volumeMounts": [_mount("tmp", "/tmp"), _mount("shm", "/dev/shm"), *_cache_mount(profile.model_cache)],  # noqa: S108
            }
        ],
        "volumes": [
            {"name": "tmp", "emptyDir": {"sizeLimit": _gib(profile.ephemeral_storage_gib)}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": _gib(profile.shared_memory_gib)}},
            *_cache_volume(profile.model_cache),
        ],
    }


def controller_pod(settings: Kubernetes, arguments: list[str], *, config_map: str) -> Object:
    """The pod of the controller: it talks to the API server and to the store, and computes nothing."""
    env = {"HOME": "/tmp", "PYTHONUNBUFFERED": "1", **settings.env}  # noqa: S108
    return {
        **_ground(SERVICE_ACCOUNT, mounts_token=True),
        **_pull_secrets(settings.image_pull_secrets),
        "containers": [
            {
                **_container(CONTROLLER_CONTAINER, settings.image, settings.image_pull_policy, arguments),
                "env": [*_values(env), *_exit_env(settings.image), *_whose_events()],
                **_env_from(settings.env_from),
                "resources": _resources(CONTROLLER, 0),
                "volumeMounts": [_mount("tmp", "/tmp"), {**_mount("config", "/etc/radit"), "readOnly": True}],  # noqa: S108
            }
        ],
        "volumes": [
            {"name": "tmp", "emptyDir": {"sizeLimit": _gib(CONTROLLER.ephemeral_storage_gib)}},
            {"name": "config", "configMap": {"name": config_map}},
        ],
    }


def _ground(service_account: str | None, *, mounts_token: bool) -> Object:
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE_S,
        **({"serviceAccountName": service_account} if service_account else {}),
        "automountServiceAccountToken": mounts_token,
        "enableServiceLinks": False,  # else each Service of the namespace adds its variables
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "fsGroupChangePolicy": "OnRootMismatch",  # else a large model cache is walked at each start
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }


def _where(profile: Profile) -> Object:
    tolerations = [_toleration(one) for one in profile.tolerations]
    if profile.gpus:
        # The taint that keeps other pods off GPU nodes bears the resource's name by convention.
        tolerations.append({"key": profile.gpu_resource, "operator": "Exists", "effect": "NoSchedule"})
    fields = {
        "nodeSelector": profile.node_selector,
        "tolerations": tolerations,
        "priorityClassName": profile.priority_class,
        "runtimeClassName": profile.runtime_class,
    }
    return {name: value for name, value in fields.items() if value}


def _toleration(one: Toleration) -> Object:
    fields = {
        "key": one.key,
        "operator": one.operator or ("Equal" if one.value else "Exists"),
        "value": one.value,
        "effect": one.effect,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _container(name: str, image: str, pull_policy: str, arguments: list[str]) -> Object:
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": pull_policy,
        "command": ["radit"],
        "args": arguments,
        "terminationMessagePath": TERMINATION_LOG,
        # A process that dies without a word leaves its last log lines.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def _exit_env(image: str) -> list[Object]:
    return _values({"RADIT_TERMINATION_LOG": TERMINATION_LOG, "RADIT_IMAGE": image})


def _whose_events() -> list[Object]:
    """The controller writes its Events about its own Job, whose name and uid the Job's labels tell."""
    return [
        {"name": name, "valueFrom": {"fieldRef": {"fieldPath": f"metadata.labels['batch.kubernetes.io/{label}']"}}}
        for name, label in (("RADIT_CONTROLLER_JOB", "job-name"), ("RADIT_CONTROLLER_JOB_UID", "controller-uid"))
    ]


def _values(env: dict[str, str]) -> list[Object]:
    # "$$" is a dollar sign; "$(NAME)" would be another variable's value, and the configuration expands nothing.
    return [{"name": name, "value": value.replace("$(", "$$(")} for name, value in env.items()]


def _env_from(references: list[EnvFrom]) -> Object:
    sources = [
        {
            "secretRef" if one.secret else "configMapRef": {
                "name": one.secret or one.config_map,
                **({"optional": True} if one.optional else {}),
            }
        }
        for one in references
    ]
    return {"envFrom": sources} if sources else {}


def _resources(profile: Profile, needs_gib: float) -> Object:
    """Requests always; memory is limited to its request, for a node that runs out of it kills whom it likes."""
    memory = _gib(profile.memory_gib or needs_gib)
    devices = {profile.gpu_resource: str(profile.gpus)} if profile.gpus else {}
    requests = {
        "cpu": _cores(profile.cpu),
        "memory": memory,
        "ephemeral-storage": _gib(profile.ephemeral_storage_gib),
        **devices,
    }
    return {"requests": requests, "limits": {"memory": memory, **devices}}


def _gib(amount_gib: float) -> str:
    """As the API writes it itself: whole GiB where they are whole, else MiB, rounded up."""
    mib = math.ceil(round(amount_gib * 1024, 6))
    return f"{mib // 1024}Gi" if mib % 1024 == 0 else f"{mib}Mi"


def _cores(amount: float) -> str:
    thousandths = math.ceil(round(amount * 1000, 6))
    return str(thousandths // 1000) if thousandths % 1000 == 0 else f"{thousandths}m"


def _pull_secrets(names: list[str]) -> Object:
    return {"imagePullSecrets": [{"name": name} for name in names]} if names else {}


def _mount(name: str, path: str) -> Object:
    return {"name": name, "mountPath": path}


def _cache_mount(cache: ModelCache | None) -> list[Object]:
    return [_mount("models", cache.mount_path)] if cache else []


def _cache_volume(cache: ModelCache | None) -> list[Object]:
    if cache is None:
        return []
    if cache.claim is not None:
        return [{"name": "models", "persistentVolumeClaim": {"claimName": cache.claim}}]
    return [{"name": "models", "hostPath": {"path": cache.host_path, "type": "Directory"}}]
