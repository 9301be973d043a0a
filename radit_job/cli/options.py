"""The options that several commands share, and how a command opens what they name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from radit_job.errors import ConfigError

if TYPE_CHECKING:
    from radit_job.config.loading import LoadedConfig
    from radit_job.executors.kubernetes.client import KubernetesClient
    from radit_job.pipeline.controller import Controller
    from radit_job.pipeline.runs import RunRecord
    from radit_job.store import ObjectStore

DEFAULT_STORE = ".radit"
EXECUTORS = ("local", "kubernetes")
LOOK_PATIENCE_S = 10.0  # for an API server that does not answer a command at which somebody sits

ConfigArgument = Annotated[
    Path, typer.Argument(help="The configuration file (YAML); `radit config` prints all it may hold.")
]
STORE_HELP = "A folder, or s3://bucket/prefix"
StoreOption = Annotated[str | None, typer.Option("--store", help=f"{STORE_HELP}; overrides the configuration's.")]
RunStoreOption = Annotated[str, typer.Option("--store", envvar="RADIT_STORE", help=f"{STORE_HELP}.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.FIELD=VALUE", help="Override a setting; may be repeated.")
]
RunArgument = Annotated[str, typer.Argument(help="The run's name.")]
NameOption = Annotated[str | None, typer.Option("--name", help="The run's name; the configuration's by default.")]
UntilOption = Annotated[str | None, typer.Option("--until", metavar="STAGE", help="Stop behind this stage.")]
ForceOption = Annotated[
    list[str] | None,
    typer.Option("--force", metavar="STAGE", help="Run this stage even if it is cached; may be repeated."),
]
ExecutorOption = Annotated[str, typer.Option(help="Where the stages run: local, or kubernetes.")]
ContextOption = Annotated[str | None, typer.Option("--context", help="Of the kubeconfig; the run's by default.")]
NamespaceOption = Annotated[str | None, typer.Option("--namespace", "-n", help="The run's by default.")]


def load(
    path: Path, store: str | None, overrides: list[str] | None, name: str | None, *, patience_s: float | None = None
) -> tuple[LoadedConfig, ObjectStore]:
    """The configuration with its overrides, and the store that it names; see open_store for the patience."""
    from radit_job.config.loading import load_config

    named = [f"name={name}"] if name else []
    stored = [f"store={store}"] if store else []
    loaded = load_config(path, [*(overrides or []), *named, *stored])
    return loaded, open_at(loaded.config.store, patience_s=patience_s)


def open_at(url: str, *, patience_s: float | None = None) -> ObjectStore:
    """The store at an address."""
    from radit_job.store import open_store

    return open_store(url, patience_s=patience_s)


def controller_of(
    loaded: LoadedConfig,
    store: ObjectStore,
    until: str | None,
    force: list[str] | None,
    sources: Mapping[str, str] | None = None,
) -> Controller:
    """The controller of the configuration's run; `sources`: documents that the store has, instead of the user's own."""
    from radit_job.pipeline.controller import Controller

    run = loaded.config.name
    return Controller(loaded, store, identity_of, run=run, until=until, force=force or [], sources=sources)


def identity_of(model: Any) -> str:
    """What tells one model from another, as the stages' keys hold it."""
    from radit_job.models.identity import model_identity

    return model_identity(model.ref())


def check_executor(name: str) -> None:
    """ConfigError for an executor that there is not."""
    if name not in EXECUTORS:
        todo = f"There are: {', '.join(EXECUTORS)}."
        raise ConfigError(f"there is no executor {name!r}", where="--executor", todo=todo)


def cluster_of(record: RunRecord, context: str | None, namespace: str | None) -> KubernetesClient:
    """The cluster in which a run's Jobs are; ConfigError where it ran on a machine of its own."""
    from radit_job.executors.kubernetes.client import connect

    if record.executor != "kubernetes":
        raise ConfigError(f"run {record.run!r} has no Jobs: its stages ran as processes of the machine that started it")
    return connect(context or record.context, namespace or record.namespace, patience_s=LOOK_PATIENCE_S)
