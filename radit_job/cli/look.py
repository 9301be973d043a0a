"""The commands that look at runs: their state, logs and results."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from radit_job.cli.options import (
    DEFAULT_STORE,
    ContextOption,
    NamespaceOption,
    RunArgument,
    RunStoreOption,
    cluster_of,
    open_at,
)
from radit_job.errors import ConfigError, ServiceError

if TYPE_CHECKING:
    from radit_job.pipeline.runs import RunRecord
    from radit_job.store import ObjectStore

WATCH_INTERVAL_S = 1.0
HOUR_S = 3600.0
GIB = 1 << 30


def status(
    run: Annotated[str | None, typer.Argument(help="The run's name; without it, all runs.")] = None,
    store: RunStoreOption = DEFAULT_STORE,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on until the run ends.")] = False,
) -> None:
    """Show a run's stages (what waits and why, how far it is, retries), or all runs.

    \b
      radit status
      radit status my-run --watch --store s3://bucket/prefix
    """
    from radit_job.console import show_status, status_lines
    from radit_job.pipeline.runs import is_cut_off, require_run, run_names

    opened = open_at(store)
    if run is None:
        for name in run_names(opened):
            record = require_run(opened, name)
            state = "cut off" if is_cut_off(opened, record) else record.status
            typer.echo(f"{name:<40} {state:<12} {record.started_at}")
        return
    with show_status() as show:
        while True:
            record = require_run(opened, run)
            cut_off = is_cut_off(opened, record)
            show(status_lines(opened, record, cut_off=cut_off))
            if not watch or cut_off or record.status != "running":
                return
            time.sleep(WATCH_INTERVAL_S)


def logs(
    run: RunArgument,
    stage: Annotated[str, typer.Argument(help="The stage.")],
    store: RunStoreOption = DEFAULT_STORE,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the stage ends.")] = False,
    context: ContextOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Print what a stage printed: from its pods while there are any, else from the store.

    \b
      radit logs my-run finetune_lm -f
    """
    from radit_job.console import print_event
    from radit_job.pipeline.graph import check_stage
    from radit_job.pipeline.runs import log_events, require_run

    opened = open_at(store)
    check_stage(stage)
    record = _once_started(opened, run, stage) if follow else require_run(opened, run)
    n_printed = 0
    if record.executor == "kubernetes":
        for event in _pod_events(opened.url, record, stage, context, namespace, follow=follow):
            n_printed += print_event(event)
        if not n_printed:
            for event in log_events(opened, run, stage):
                n_printed += print_event(event)
    else:
        for event in _kept_events(opened, run, stage, follow=follow):
            n_printed += print_event(event)
    if not n_printed:
        state = require_run(opened, run).stages[stage].status
        typer.echo(f"{stage} printed nothing in run {run}: it is {state}.", err=True)


def _once_started(store: ObjectStore, run: str, stage: str) -> RunRecord:
    """The run's record, once the stage has begun, or the run has ended without it."""
    from radit_job.pipeline.runs import is_cut_off, require_run

    while True:
        record = require_run(store, run)
        is_to_come = record.stages[stage].status == "waiting" and record.status == "running"
        if not is_to_come or is_cut_off(store, record):
            return record
        time.sleep(WATCH_INTERVAL_S)


def _pod_events(
    store_url: str, record: RunRecord, stage: str, context: str | None, namespace: str | None, *, follow: bool
) -> Iterator[dict[str, Any]]:
    from radit_job.executors.kubernetes.logs import stage_log

    key = record.stages[stage].key
    if key is None:
        return
    try:
        yield from stage_log(cluster_of(record, context, namespace), store_url, stage, key, follow=follow)
    except (ServiceError, ConfigError) as error:
        typer.echo(f"note: the cluster cannot be asked, so this is what the store kept: {error}", err=True)


def _kept_events(store: ObjectStore, run: str, stage: str, *, follow: bool) -> Iterator[dict[str, Any]]:
    """What a stage of this machine printed so far and, with `follow`, prints until it ends."""
    from radit_job.pipeline.runs import is_cut_off, log_events, require_run

    n_seen = 0
    while True:
        record = require_run(store, run)
        has_ended = record.stages[stage].status not in ("running", "waiting") or record.status != "running"
        events = list(log_events(store, run, stage))
        yield from events[n_seen:]
        n_seen = len(events)
        if not follow or has_ended or is_cut_off(store, record):
            return
        time.sleep(WATCH_INTERVAL_S)


def results(
    runs: Annotated[list[str], typer.Argument(help="One run, or several to compare.")],
    store: RunStoreOption = DEFAULT_STORE,
    form: Annotated[str, typer.Option("--format", help="table, json or csv.")] = "table",
) -> None:
    """Print one run's results, or several side by side."""
    from radit_job.console import print_results, warn_if_older
    from radit_job.pipeline.runs import load_results

    opened = open_at(store)
    print_results([load_results(opened, name) for name in runs], form)
    for name in runs:
        warn_if_older(opened, name)


def report(
    run: RunArgument,
    store: RunStoreOption = DEFAULT_STORE,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Copy the page to this file.")] = None,
) -> None:
    """Say where the run's page is, or copy it."""
    from radit_job.console import place, warn_if_older
    from radit_job.pipeline.names import run_file
    from radit_job.pipeline.runs import require_run

    opened = open_at(store)
    page = opened.read(run_file(run, "report.html"))
    if page is None:
        record = require_run(opened, run)
        raise ConfigError(f"run {run!r} has no report yet: it is {record.status}", todo=f"See `radit status {run}`.")
    warn_if_older(opened, run)
    if output is None:
        typer.echo(place(opened, run, "report.html"))
        return
    try:
        output.write_bytes(page)
    except OSError as error:
        raise ConfigError(f"cannot write: {error.strerror}", where=str(output)) from error


def ask(
    run: RunArgument,
    question: Annotated[str, typer.Argument(help="The question.")],
    arm: Annotated[str, typer.Option(help="closed_book, base, lm, lm_closed_book, retriever or dual.")] = "lm",
    store: RunStoreOption = DEFAULT_STORE,
) -> None:
    """Ask one of a run's arms, and see which pages it read."""
    from radit_job.api import open_run

    response = open_run(store, run).query_engine(arm).query(question)
    typer.echo(str(response).strip())
    if response.source_nodes:
        typer.echo("\nSources:")
    for found in response.source_nodes:
        page = found.node.metadata.get("page")
        place = f"{found.node.metadata['document']}{f', page {page}' if page else ''}"
        typer.echo(f"  {found.score:.3f}  {place}")


def gc(
    store: RunStoreOption = DEFAULT_STORE,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    older_than: Annotated[
        float | None,
        typer.Option(
            "--older-than",
            metavar="HOURS",
            min=0,
            help="Keep what is younger, for a job may be about to commit it. Default: 24; in a folder, 0.",
        ),
    ] = None,
) -> None:
    """Delete what no run refers to any more: artifacts of older settings, attempts that were cut off.

    A run refers to its artifacts as long as its folder runs/RUN is in the store; delete that to let go of one.
    """
    from radit_job.pipeline.collect import delete, grace_s_of, refuse_while_alive, unreferenced
    from radit_job.pipeline.runs import run_names

    opened = open_at(store)
    with ExitStack() as locks:
        for name in run_names(opened):
            locks.enter_context(opened.hold(f"run-{name}"))  # it refers to more than it has saved
        refuse_while_alive(opened)
        groups = unreferenced(opened, grace_s=grace_s_of(opened) if older_than is None else older_than * HOUR_S)
        n_bytes = sum(info.n_bytes for group in groups.values() for info in group)
        for name, group in groups.items():
            typer.echo(f"{sum(info.n_bytes for info in group) / GIB:8.3f} GiB  {name[:66]}")
        if not groups:
            typer.echo("Nothing to delete.")
            return
        if not yes and not sys.stdin.isatty():
            raise ConfigError("there is no terminal to ask on", todo="Say --yes to delete these.")
        if not yes and not typer.confirm(f"Delete these {len(groups)}, {n_bytes / GIB:.2f} GiB in all?"):
            return
        refuse_while_alive(opened)  # one may have begun while we asked, and go on from what is listed here
        delete(opened, groups.values())
