"""The commands around a cluster: what would be applied, and the end of what runs there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from radit_job.cli.options import (
    DEFAULT_STORE,
    ConfigArgument,
    ContextOption,
    NameOption,
    NamespaceOption,
    RunArgument,
    RunStoreOption,
    SetOption,
    StoreOption,
    cluster_of,
    identity_of,
    load,
    open_at,
)
from radit_job.errors import ConfigError

if TYPE_CHECKING:
    from radit_job.config.schema import Config
    from radit_job.pipeline.runs import RunRecord
    from radit_job.store import ObjectStore


def render(
    config: ConfigArgument,
    store: StoreOption = None,
    overrides: SetOption = None,
    name: NameOption = None,
    stage: Annotated[
        str | None,
        typer.Option("--stage", metavar="STAGE", help="This stage's Job alone; its inputs must be committed."),
    ] = None,
) -> None:
    """Print what `kubectl apply` needs: the run's controller and its configuration, or one stage's Job (with the
    Service by which its pods find each other, where it has several nodes).

    With --stage, the job's description and the documents are put into the store, where the Job will look for them.

    \b
      radit render my.yaml --store s3://bucket/prefix | kubectl apply -f -
      radit render my.yaml --store s3://bucket/prefix --stage index | kubectl apply -f -
    """
    from radit_job.executors.kubernetes.manifest import as_yaml, controller_objects, stage_job
    from radit_job.executors.kubernetes.node_group import service_of
    from radit_job.pipeline.names import spec_file
    from radit_job.pipeline.planner import Planner
    from radit_job.pipeline.runs import load_run

    loaded, opened = load(config, store, overrides, name)
    run, settings = loaded.config.name, loaded.config.kubernetes
    if "://" not in opened.url:
        todo = "Give a store that pods reach too: --store s3://bucket/prefix."
        raise ConfigError("pods cannot see a folder of this machine", where=f"store: {opened.url}", todo=todo)
    if stage is None:
        _refuse_paths_of_this_machine(loaded.config)
        objects = controller_objects(run, loaded.text, settings, store_url=opened.url)
    else:
        spec = Planner(loaded, opened, identity_of, load_run(opened, run)).job_of(stage, run)
        spec_name = spec_file(run, stage, spec.key)
        opened.write(spec_name, json.dumps(spec.to_json(), indent=1, ensure_ascii=False).encode())
        job = stage_job(spec, spec_name, settings, store_url=opened.url)
        objects = [one for one in (service_of(job), job) if one is not None]
    typer.echo(as_yaml(objects), nl=False)


def _refuse_paths_of_this_machine(config: Config) -> None:
    """The controller's pod reads the documents itself; a relative path would start at its /etc/radit."""
    named = [("corpus.paths", path) for path in config.corpus.paths]
    named += [("questions.path", config.questions.path)] if config.questions.path else []
    for field, path in named:
        if "://" not in path and not Path(path).is_absolute():
            raise ConfigError(
                "the controller's pod does not have this file of yours",
                where=f"{field}: {path}",
                todo="Copy it into the bucket and name it s3://bucket/folder, or give a path of the image or a volume; "
                "or start the run from here: radit run CONFIG --executor kubernetes.",
            )


def cancel(
    run: RunArgument,
    store: RunStoreOption = DEFAULT_STORE,
    context: ContextOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """End what runs for a run: its Jobs in the cluster, with their pods, and its fine-tuning job at a service.

    What is committed is kept.
    """
    from radit_job.pipeline.fine_tuning import cancel_fine_tuning
    from radit_job.pipeline.runs import require_run

    opened = open_at(store)
    record = require_run(opened, run)
    is_in_cluster = record.executor == "kubernetes"
    # The Jobs first: a pod that was still there would report a failure.
    n_ended = _delete_jobs(opened, record, context, namespace) if is_in_cluster else 0
    for line in cancel_fine_tuning(opened, record):
        typer.echo(line)
        n_ended += 1
    if n_ended == 0 and not is_in_cluster:
        what = (
            f"run {run!r} has no Jobs and no fine-tuning job: its stages are processes of the machine that started it"
        )
        raise ConfigError(what, todo="Stop it there with Ctrl-C.")
    if n_ended == 0:
        typer.echo(f"run {run} has no Job that runs")


def _delete_jobs(store: ObjectStore, record: RunRecord, context: str | None, namespace: str | None) -> int:
    from radit_job.executors.kubernetes.cancel import cancel as cancel_jobs
    from radit_job.executors.kubernetes.manifest import job_name

    started = [(item.stage, item.key) for item in record.stages.values() if item.key and item.status != "cached"]
    jobs = [job_name(stage, key, store.url) for stage, key in started]
    # The controller's Job of a run that has ended may have the name of one that another run has now.
    controllers = [record.controller_job] if record.controller_job and record.status == "running" else []
    deleted = cancel_jobs(cluster_of(record, context, namespace), record.run, jobs, controllers=controllers)
    for job in deleted:
        typer.echo(f"deleted {job}")
    return len(deleted)
