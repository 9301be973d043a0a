"""The commands around a configuration: run it, plan it, check it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from radit_job.cli.options import (
    DEFAULT_STORE,
    ConfigArgument,
    ExecutorOption,
    ForceOption,
    NameOption,
    RunStoreOption,
    SetOption,
    StoreOption,
    UntilOption,
    check_executor,
    controller_of,
    load,
    open_at,
)
from radit_job.errors import ConfigError, RaditError

if TYPE_CHECKING:
    from radit_job.config.loading import LoadedConfig
    from radit_job.executors.base import Executor
    from radit_job.pipeline.controller import Controller
    from radit_job.pipeline.runs import RunRecord
    from radit_job.store import ObjectStore

BEAT_PATIENCE_S = 5.0  # a sign of life that comes later says nothing
CHECK_PATIENCE_S = 10.0  # whoever checks wants to hear of a mistyped endpoint soon


def run(
    config: ConfigArgument,
    store: StoreOption = None,
    overrides: SetOption = None,
    until: UntilOption = None,
    force: ForceOption = None,
    name: NameOption = None,
    executor: ExecutorOption = "local",
) -> None:
    """Run the chain; what is committed already is reused.

    \b
      radit run my.yaml
      radit run my.yaml --set retrieval.k=5 --name k5
      radit run my.yaml --until split
      radit run my.yaml --executor kubernetes --store s3://bucket/prefix
    """
    from radit_job.console import print_end

    check_executor(executor)
    loaded, opened = load(config, store, overrides, name)
    started_s = time.monotonic()
    record = run_chain(loaded, opened, lambda: controller_of(loaded, opened, until, force), executor)
    print_end(opened, record, time.monotonic() - started_s)


def run_chain(
    loaded: LoadedConfig, store: ObjectStore, make_controller: Callable[[], Controller], executor: str
) -> RunRecord:
    """Let a controller do its work, with the run's lock, events and signs of life; the finished record.

    The controller is made under the lock: it reads at once how the run stands.
    """
    from radit_job.cli.cost import warn_of_cost
    from radit_job.console import print_spent
    from radit_job.observe.terminal import show_events
    from radit_job.pipeline.check_served import refuse_unpriced
    from radit_job.pipeline.heartbeat import heartbeat

    run_name = loaded.config.name
    with ExitStack() as stack:
        stack.enter_context(store.hold(f"run-{run_name}"))
        stack.enter_context(show_events())
        refuse_unpriced(loaded.config)
        warn_of_cost(loaded, store)
        controller = make_controller()
        if "://" in store.url:
            controller.refuse_another_configuration()
            stack.enter_context(heartbeat(open_at(store.url, patience_s=BEAT_PATIENCE_S), run_name))
        try:
            return controller.run(_executor(executor, loaded, store, stack))
        except RaditError:
            with suppress(RaditError):  # the store may be what failed
                print_spent(store, run_name)
            raise


def plan(
    config: ConfigArgument,
    store: StoreOption = None,
    overrides: SetOption = None,
    until: UntilOption = None,
    force: ForceOption = None,
    name: NameOption = None,
) -> None:
    """Say for each stage whether it would run or is cached, and why; change nothing."""
    from radit_job.console import print_wrapped

    loaded, opened = load(config, store, overrides, name)
    for decision in controller_of(loaded, opened, until, force).plan():
        print_wrapped(f"{decision.stage:<12} {decision.action:<8} ", decision.why)


def check(
    config: ConfigArgument,
    store: StoreOption = None,
    overrides: SetOption = None,
    executor: ExecutorOption = "local",
) -> None:
    """Check everything that can be known before spending time and money: settings, files, models, store, machine or
    cluster, and what the run will cost at paid services.

    \b
      radit check my.yaml
      radit check my.yaml --executor kubernetes
    """
    from radit_job.cli.cost import cost_findings
    from radit_job.console import print_wrapped
    from radit_job.pipeline.check import findings, local_findings

    check_executor(executor)
    loaded, opened = load(config, store, overrides, None, patience_s=CHECK_PATIENCE_S)
    looked_at = [findings(loaded, opened, by_pods=executor == "kubernetes")]
    if executor == "kubernetes":
        from radit_job.pipeline.check_cluster import cluster_findings

        looked_at.append(cluster_findings(loaded.config, opened))
    else:
        looked_at.append(local_findings(loaded))
    looked_at.append(cost_findings(loaded, opened))
    errors: list[RaditError] = []
    for finding in (found for group in looked_at for found in group):
        print_wrapped(f"{finding.verdict:<5} {finding.subject:<12} ", finding.says)
        if finding.error is not None:
            errors.append(finding.error)
    if errors:
        raise type(errors[0])(f"{len(errors)} of these checks failed")


def show_config() -> None:
    """Print every setting as commented YAML: its meaning, unit, default, and where the default comes from."""
    from radit_job.config.show import schema_as_yaml

    typer.echo(schema_as_yaml())


def stage(
    name: Annotated[str, typer.Argument()],
    spec: Annotated[str, typer.Option(help="The JobSpec's name in the store.")],
    store: RunStoreOption = DEFAULT_STORE,
) -> None:
    """Run one stage in this process, as a JobSpec in the store describes it (what an executor calls)."""
    from radit_job.worker import run_stage

    raise typer.Exit(run_stage(name, spec, store))


def _executor(name: str, loaded: LoadedConfig, store: ObjectStore, stack: ExitStack) -> Executor:
    if name == "kubernetes":
        from radit_job.executors.kubernetes.client import connect
        from radit_job.executors.kubernetes.executor import KubernetesExecutor

        if "://" not in store.url:
            todo = "Give a store that pods reach too: --store s3://bucket/prefix."
            raise ConfigError("pods cannot see a folder of this machine", where=f"store: {store.url}", todo=todo)
        settings = loaded.config.kubernetes
        return KubernetesExecutor(connect(settings.context, settings.namespace), settings, store)
    from radit_job.executors.local import LocalExecutor
    from radit_job.pipeline.names import run_file

    if "://" not in store.url:
        return LocalExecutor(store, Path(store.url, run_file(loaded.config.name, "logs")))
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="radit-logs-"))
    return LocalExecutor(store, Path(folder), keeps_logs_in_store=True)
