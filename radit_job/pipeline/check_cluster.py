"""What can be known of a cluster before spending its time: access, permissions, secrets, nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from radit_job.config.cluster import EnvFrom, Profile
from radit_job.config.schema import Config
from radit_job.errors import ConfigError
from radit_job.executors.kubernetes.client import KubernetesClient, connect
from radit_job.executors.kubernetes.manifest import stage_job
from radit_job.executors.kubernetes.node_group import service_of
from radit_job.executors.kubernetes.permissions import missing
from radit_job.jobs import JobSpec
from radit_job.model_ref import OPENAI_URL, key_variable
from radit_job.pipeline.catalog import StageRow
from radit_job.pipeline.findings import Finding, attempt
from radit_job.pipeline.graph import needed_rows
from radit_job.pipeline.planner import nodes_of, resources_of
from radit_job.pipeline.served import Use, served_uses
from radit_job.store import ObjectStore

Resource = Mapping[str, Any]
PATIENCE_S = 10.0  # whoever checks wants to hear of a mistyped address soon
KEYS_OBJECT = "radit-openai"  # the Secret in which env_from expects the keys of served models


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
        samples = [_sample(row, config) for row in needed_rows(config)]
        lacking = missing(client, has_node_groups=any(sample.nodes > 1 for sample in samples))
        clients.append(client)
        if not lacking:
            for sample in samples:
                job = stage_job(sample, "sample", settings, store_url=store.url)
                client.try_to_create("jobs", job)
                if service := service_of(job):
                    client.try_to_create("services", service)
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
    uses = served_uses(config)
    for name, profile in sorted(used.items()):
        mine = [use for use in uses if settings.placement(use.stage).profile == name]
        yield from _references(clients[0], name, profile, wants_keys=bool(mine))
        yield from _keys(clients[0], name, profile, mine)
        yield from _nodes(clients[0], name, profile)


def _sample(row: StageRow, config: Config) -> JobSpec:
    """A job of the stage that nobody will run."""
    nodes = nodes_of(row, config)
    resources = resources_of(row, config, nodes)
    return JobSpec("check", row.name, row.version, "0" * 64, {}, (), resources=resources, nodes=nodes)


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
            gets_gib = resources_of(row, config, nodes_of(row, config)).memory_gib
            says = f"{row.name} gets {gets_gib:g} GiB, which is meant for the packaged models, not for its "
            says += f"{' and '.join(others)}: set kubernetes.profiles.{placement.profile}.memory_gib"
            yield Finding("memory", "warn", says)


def _is_not_packaged(model: Any) -> bool:
    return model is not None and model.provider == "huggingface"  # a served one takes no memory here


def _references(client: KubernetesClient, name: str, profile: Profile, *, wants_keys: bool) -> Iterator[Finding]:
    """Secrets and ConfigMaps that the pods take their environment from."""
    for source in profile.env_from:
        if source.secret == KEYS_OBJECT and source.optional and not wants_keys:
            continue
        resource, wanted = _named(source)
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


def _named(source: EnvFrom) -> tuple[str, str]:
    """The resource and the object's name."""
    return ("secrets", source.secret) if source.secret else ("configmaps", str(source.config_map))


def _keys(client: KubernetesClient, name: str, profile: Profile, uses: Sequence[Use]) -> Iterator[Finding]:
    """Whether the pods will have the keys of the served models that they call; no value is looked at."""
    wanted: dict[str, bool] = {}
    for use in uses:
        is_needed = use.model.base_url == OPENAI_URL
        if (variable := key_variable(use.model.ref())) is not None:
            wanted[variable] = wanted.get(variable, False) or is_needed
    if not wanted:
        return
    subject = f"profile {name}"
    sources = [_named(source) for source in profile.env_from]
    hidden = [item for resource, item in sources if not client.is_allowed("get", resource)]
    seen = {item: client.get(resource, item) for resource, item in sources if item not in hidden}
    for variable, is_needed in sorted(wanted.items()):
        holders = [item for item, found in seen.items() if found is not None and variable in (found.get("data") or {})]
        if holders or variable in profile.env:
            yield Finding(subject, "ok", f"pods get {variable} from {holders[0] if holders else 'env'}")
        elif hidden:
            where = f"with these permissions; it may be in {' or '.join(hidden)}"
            yield Finding(subject, "warn", f"whether pods get {variable} cannot be seen {where}")
        elif is_needed:
            todo = f'kubectl create secret generic {KEYS_OBJECT} --from-literal={variable}="${variable}"'
            error = ConfigError(f"nothing gives pods {variable}", where=f"namespace {client.namespace}", todo=todo)
            yield Finding(subject, "fail", str(error), error)
        else:
            yield Finding(subject, "warn", f"nothing gives pods {variable}; a server other than OpenAI's may need none")


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
