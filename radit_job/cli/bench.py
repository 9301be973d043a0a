"""The command that measures how long a query takes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from radit_job.cli.chain import run_chain
from radit_job.cli.options import (
    DEFAULT_STORE,
    ExecutorOption,
    NameOption,
    SetOption,
    StoreOption,
    check_executor,
    controller_of,
    load,
    open_at,
)
from radit_job.errors import ConfigError, CorruptArtifact

if TYPE_CHECKING:
    from radit_job.config.loading import LoadedConfig
    from radit_job.pipeline.controller import Controller
    from radit_job.pipeline.plan import Decision
    from radit_job.store import ObjectStore

STAGE = "benchmark"
WITH_BENCHMARK = f"{STAGE}.enabled=true"
CONFIG_SUFFIXES = (".yaml", ".yml")


def bench(
    target: Annotated[
        str, typer.Argument(metavar="CONFIG|RUN", help="A configuration file, or the name of a run of the store.")
    ],
    store: StoreOption = None,
    overrides: SetOption = None,
    name: NameOption = None,
    executor: ExecutorOption = "local",
    show_prompts: Annotated[
        bool, typer.Option("--show-prompts", help="Print what the models were sent, and what they answered.")
    ] = False,
    last: Annotated[bool, typer.Option("--last", help="Show what was measured last; measure nothing.")] = False,
) -> None:
    """Measure how long a query takes, and where the time goes, beside what the machine allows.

    What is committed already is reused; the measurement itself is always made anew. The report of a finished run gets
    it too.

    \b
      radit bench my.yaml
      radit bench my-run --show-prompts
      radit bench my-run --set retrieval.k=8 --name my-run-k8
      radit bench my-run --last
    """
    from radit_job.console import place, print_latency

    check_executor(executor)
    loaded, opened, sources = open_target(target, store, overrides, name)
    run = loaded.config.name
    if last:
        print_latency(opened, run, show_prompts=show_prompts)
        return
    record = run_chain(loaded, opened, lambda: controller_for(loaded, opened, sources), executor)
    print_latency(opened, run, show_prompts=show_prompts)
    if record.stages["report"].status in ("done", "cached"):
        typer.echo(f"\nreport: {place(opened, run, 'report.html')}")


def open_target(
    target: str, store: str | None, overrides: list[str] | None, name: str | None
) -> tuple[LoadedConfig, ObjectStore, Mapping[str, str] | None]:
    """The configuration with the benchmark, its store, and of a run the documents that it was made from."""
    path, overrides = Path(target), [*(overrides or []), WITH_BENCHMARK]
    if path.is_file() or path.suffix in CONFIG_SUFFIXES:
        return *load(path, store, overrides, name), None
    from radit_job.pipeline.names import run_file
    from radit_job.pipeline.runs import require_run

    url = store or os.environ.get("RADIT_STORE") or DEFAULT_STORE
    opened = open_at(url)
    record = require_run(opened, target)
    text = opened.read(run_file(target, "config.yaml"))
    if text is None:
        raise CorruptArtifact("the run has no config.yaml", where=f"{opened.url}: {target}")
    with tempfile.TemporaryDirectory(prefix="radit-") as folder:
        copy = Path(folder, "config.yaml")
        copy.write_bytes(text)
        loaded, opened = load(copy, url, overrides, name)
    return loaded, opened, record.sources


def controller_for(loaded: LoadedConfig, store: ObjectStore, sources: Mapping[str, str] | None) -> Controller:
    """The controller that measures and, where all else is committed, writes the report anew."""
    from radit_job.pipeline.names import run_file

    run = loaded.config.name
    decisions = controller_of(loaded, store, None, [STAGE], sources).plan()
    has_results = store.read(run_file(run, "results.json")) is not None
    return controller_of(loaded, store, until_of(decisions, run, has_results=has_results), [STAGE], sources)


def until_of(decisions: Iterable[Decision], run: str, *, has_results: bool) -> str | None:
    """Behind which stage to stop: None where nothing but the benchmark and the report would run.

    ConfigError where a run that has results would get stages that these are not of.
    """
    missing = [
        decision
        for decision in decisions
        if decision.action in ("run", "waits") and decision.stage not in (STAGE, "report")
    ]
    if missing and has_results:
        first = missing[0]
        raise ConfigError(
            f"run {run!r} has results, and they would no longer be of its stages: {first.stage} would run anew "
            f"({first.why})",
            todo=f"Give the measurement a run of its own: --name {run}-bench. Or bring the run up to date first: radit "
            "run.",
        )
    return STAGE if missing else None
