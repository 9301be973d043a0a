"""What can be known of a cluster before spending its time: access, permissions, secrets, nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from radit_job.config.cluster import Profile
from radit_job.config.schema import Config
from radit_job.errors import ConfigError
from radit_job.executors.kubernetes.client import KubernetesClient, connect
from radit_job.executors.kubernetes.manifest import stage_job
from radit_job.executors.kubernetes.permissions import missing
from radit_job.jobs import JobSpec, Resources
from radit_job.pipeline.catalog import StageRow
from radit_job.pipeline.check import Finding, attempt
from radit_job.pipeline.graph import needed_rows
from radit_job.store import ObjectStore

Resource = Mapping[str, Any]
PATIENCE_S = 10.0  # whoever checks wants to hear of a mistyped address soon


def cluster_findings(config: Config, store: ObjectStore) -> Iterator[Finding]:
    """Look at the cluster that `kubernetes` names; nothing is created."""
    if "://" not in store.url:
        todo = "Give a store that pods reach too: --store s3://bucket/prefix."
        error = ConfigError("pods cannot see a folder of this machine", where=f"store: {store.url}", todo=todo)
        yield Finding("store", "fail", str(error), error)
    settings = config.kubernetes
    clients: list[KubernetesClient] = []

    def access() -> Finding:
        client = connect(settings.context, settings.namespace, patience_s=PATIENCE_S)
        lacking = missing(client)
        clients.append(client)
        if not lacking:
            for row in needed_rows(config):
                client.try_to_create("jobs", stage_job(_sample(row), "sample", settings, store_url=store.url))
        if lacking:
            todo = "k8s/base/role.yaml has what a run needs; whoever administers the namespace can bind it to you."
            raise ConfigError(f"you may not {'; '.join(lacking)}", where=f"namespace {client.namespace}", todo=todo)
        says = f"namespace {client.namespace}: every verb that a run needs is allowed, its Jobs would be accepted"
        return Finding("cluster", "ok", says)

    yield from attempt("cluster", access)
    yield from _local_models(config)
    yield from _memory(config)
    if not clients:
        return
    used = {settings.placement(row.name).profile: settings.profile(row.name) for row in needed_rows(config)}
    for name, profile in sorted(used.items()):
        yield from _references(clients[0], name, profile)
        yield from _nodes(clients[0], name, profile)


def _sample(row: StageRow) -> JobSpec:
    """A job of the stage that nobody will run."""
    return JobSpec("check", row.name, row.version, "0" * 64, {}, (), resources=Resources(row.memory_gib, row.is_heavy))


def _local_models(config: Config) -> Iterator[Finding]:
    """A model folder of this machine is not in the image."""
    for role, model in (("embedder", config.models.embedder), ("lm", config.models.lm)):
        if model.provider == "huggingface" and Path(model.name).expanduser().is_dir():
            says = f"{model.name} is a folder here; pods must find it at the same path (image, model_cache or volume)"
            yield Finding(role, "warn", says)


def _memory(config: Config) -> Iterator[Finding]:
    """A pod's memory limit is what the stage needs with the packaged models, unless its profile says more."""
    settings = config.kubernetes
    for row in needed_rows(config):
        others = [name for name in row.models if _is_not_packaged(getattr(row.sees.of(config), name))]
        placement = settings.placement(row.name)
        if others and settings.profile(row.name).memory_gib is None:
            says = f"{row.name} gets {row.memory_gib:g} GiB, which is meant for the packaged models, not for its "
            says += f"{' and '.join(others)}: set kubernetes.profiles.{placement.profile}.memory_gib"
            yield Finding("memory", "warn", says)


def _is_not_packaged(model: Any) -> bool:
    return model is not None and model.provider != "packaged"


def _references(client: KubernetesClient, name: str, profile: Profile) -> Iterator[Finding]:
    """Secrets and ConfigMaps that the pods take their environment from."""
    for source in profile.env_from:
        resource, wanted = ("secrets", source.secret) if source.secret else ("configmaps", source.config_map)
        subject, kind = f"profile {name}", resource.removesuffix("s")
        if not client.is_allowed("get", resource):
            yield Finding(subject, "warn", f"whether the {kind} {wanted} exists cannot be seen with these permissions")
        elif client.get(resource, str(wanted)) is not None:
            yield Finding(subject, "ok", f"{kind} {wanted} exists")
        elif source.optional:
            says = f"there is no {kind} {wanted}: pods start without what it would give them (credentials, endpoint)"
            yield Finding(subject, "warn", says)
        else:
            todo = "Create it, or write optional: true where env_from names it."
            error = ConfigError(f"there is no {kind} {wanted}", where=f"namespace {client.namespace}", todo=todo)
            yield Finding(subject, "fail", str(error), error)


def _nodes(client: KubernetesClient, name: str, profile: Profile) -> Iterator[Finding]:
    """Whether a node has what the profile selects. A cluster that scales up may get one later, so it is a warning."""
    if not profile.gpus and not profile.node_selector:
        return
    subject = f"profile {name}"
    if not client.is_allowed("list", "nodes"):
        yield Finding(subject, "warn", "whether a node fits cannot be seen with these permissions")
        return
    nodes, _ = client.list("nodes")
    fitting = [node for node in nodes if _fits(node, profile)]
    wanted = [f"{key}={value}" for key, value in profile.node_selector.items()]
    if profile.gpus:
        wanted.append(f"{profile.gpus} {profile.gpu_resource}")
    if fitting:
        yield Finding(subject, "ok", f"{len(fitting)} of {len(nodes)} nodes have {', '.join(wanted)}")
    else:
        says = f"none of {len(nodes)} nodes has {', '.join(wanted)}: its stages will wait unless the cluster scales up"
        yield Finding(subject, "warn", says)


def _fits(node: Resource, profile: Profile) -> bool:
    labels = node["metadata"].get("labels", {})
    allocatable = node.get("status", {}).get("allocatable", {})
    has_labels = all(labels.get(key) == value for key, value in profile.node_selector.items())
    return has_labels and int(allocatable.get(profile.gpu_resource, 0)) >= profile.gpus
