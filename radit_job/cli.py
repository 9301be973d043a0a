"""The commands. Errors become one short message and an exit code; a traceback only with --debug."""

from __future__ import annotations

import signal
import sys
import time
import traceback
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from radit_job.errors import ConfigError, Interrupted, RaditError, Terminated

if TYPE_CHECKING:
    from radit_job.config.loading import LoadedConfig
    from radit_job.store import ObjectStore

DEFAULT_STORE = ".radit"
WATCH_INTERVAL_S = 1.0
GIB = 1 << 30

app = typer.Typer(
    name="radit",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="""RA-DIT as a batch job: documents in; a tuned model and an honest evaluation out.

\b
  radit run examples/quickstart.yaml        the whole chain
  radit plan examples/quickstart.yaml       what would run, and why
  radit results quickstart                  the table
  radit ask quickstart "What is LSR?"       ask the tuned model
\b
Errors are one short message; with --debug, which any command takes, a traceback stands before it.
""",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        typer.echo(f"radit-job {metadata.version('radit-job')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """What stands before a command."""


ConfigArgument = Annotated[
    Path, typer.Argument(help="The configuration file (YAML); `radit config` prints all it may hold.")
]
StoreOption = Annotated[str | None, typer.Option("--store", help="The store's folder; overrides the configuration's.")]
RunStoreOption = Annotated[str, typer.Option("--store", help="The store's folder.")]
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


@app.command()
def run(
    config: ConfigArgument,
    store: StoreOption = None,
    overrides: SetOption = None,
    until: UntilOption = None,
    force: ForceOption = None,
    name: NameOption = None,
    executor: Annotated[str, typer.Option(help="Where the stages run: local.")] = "local",
) -> None:
    """Run the chain; what is committed already is reused.

    \b
      radit run my.yaml
      radit run my.yaml --set retrieval.k=5 --name k5
      radit run my.yaml --until split
    """
    from radit_job.console import place, print_end
    from radit_job.executors.local import LocalExecutor
    from radit_job.observe.terminal import show_events

    if executor != "local":
        raise ConfigError(f"there is no executor {executor!r}", where="--executor", todo="This version has: local.")
    loaded, opened = _load(config, store, overrides, name)
    run_name = loaded.config.name
    started_s = time.monotonic()
    with opened.hold(f"run-{run_name}"), show_events():
        local = LocalExecutor(opened, place(opened, run_name, "logs"))
        record = _controller(loaded, opened, until, force).run(local)
    print_end(opened, record, time.monotonic() - started_s)


@app.command()
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

    loaded, opened = _load(config, store, overrides, name)
    for decision in _controller(loaded, opened, until, force).plan():
        print_wrapped(f"{decision.stage:<12} {decision.action:<8} ", decision.why)


@app.command()
def check(config: ConfigArgument, store: StoreOption = None, overrides: SetOption = None) -> None:
    """Check everything that can be known before spending time: settings, files, models, store, memory."""
    from radit_job.console import print_wrapped
    from radit_job.pipeline.check import findings

    loaded, opened = _load(config, store, overrides, None)
    errors: list[RaditError] = []
    for finding in findings(loaded, opened):
        print_wrapped(f"{finding.verdict:<5} {finding.subject:<12} ", finding.says)
        if finding.error is not None:
            errors.append(finding.error)
    if errors:
        raise type(errors[0])(f"{len(errors)} of these checks failed")


@app.command("config")
def show_config() -> None:
    """Print every setting as commented YAML: its meaning, unit, default, and where the default comes from."""
    from radit_job.config.show import schema_as_yaml

    typer.echo(schema_as_yaml())


@app.command(hidden=True)
def stage(
    name: Annotated[str, typer.Argument()],
    spec: Annotated[str, typer.Option(help="The JobSpec's name in the store.")],
    store: RunStoreOption = DEFAULT_STORE,
) -> None:
    """Run one stage in this process, as a JobSpec in the store describes it (what an executor calls)."""
    from radit_job.worker import run_stage

    raise typer.Exit(run_stage(name, spec, store))


@app.command()
def status(
    run: Annotated[str | None, typer.Argument(help="The run's name; without it, all runs.")] = None,
    store: RunStoreOption = DEFAULT_STORE,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until the run ends.")] = False,
) -> None:
    """Show a run's stages, or all runs."""
    from radit_job.console import print_status
    from radit_job.pipeline.runs import is_cut_off, require_run, run_names

    opened = _open(store)
    if run is None:
        for name in run_names(opened):
            record = require_run(opened, name)
            state = "cut off" if is_cut_off(opened, record) else record.status
            typer.echo(f"{name:<40} {state:<12} {record.started_at}")
        return
    while True:
        record = require_run(opened, run)
        cut_off = is_cut_off(opened, record)
        print_status(opened, record, cut_off=cut_off)
        if not watch or cut_off or record.status != "running":
            return
        time.sleep(WATCH_INTERVAL_S)


@app.command()
def logs(
    run: RunArgument,
    stage: Annotated[str, typer.Argument(help="The stage.")],
    store: RunStoreOption = DEFAULT_STORE,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the stage ends.")] = False,
) -> None:
    """Print what a stage printed."""
    from radit_job.console import print_event
    from radit_job.pipeline.graph import check_stage
    from radit_job.pipeline.runs import is_cut_off, log_events, require_run

    opened = _open(store)
    check_stage(stage)
    printed = 0
    while True:
        record = require_run(opened, run)
        has_ended = record.stages[stage].status not in ("running", "waiting") or record.status != "running"
        events = list(log_events(opened, run, stage))
        for event in events[printed:]:
            if event.get("event") != "progress":  # what `radit status` is for
                print_event(event)
        printed = len(events)
        if not follow or has_ended or is_cut_off(opened, record):
            break
        time.sleep(WATCH_INTERVAL_S)
    if not printed:
        typer.echo(f"{stage} printed nothing in run {run}: it is {record.stages[stage].status}.", err=True)


@app.command()
def results(
    runs: Annotated[list[str], typer.Argument(help="One run, or several to compare.")],
    store: RunStoreOption = DEFAULT_STORE,
    form: Annotated[str, typer.Option("--format", help="table, json or csv.")] = "table",
) -> None:
    """Print one run's results, or several side by side."""
    from radit_job.console import print_results, warn_if_older
    from radit_job.pipeline.runs import load_results

    opened = _open(store)
    print_results([load_results(opened, name) for name in runs], form)
    for name in runs:
        warn_if_older(opened, name)


@app.command()
def report(
    run: RunArgument,
    store: RunStoreOption = DEFAULT_STORE,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Copy the page to this file.")] = None,
) -> None:
    """Say where the run's page is, or copy it."""
    from radit_job.console import place, warn_if_older
    from radit_job.pipeline.runs import require_run, run_file

    opened = _open(store)
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


@app.command()
def ask(
    run: RunArgument,
    question: Annotated[str, typer.Argument(help="The question.")],
    arm: Annotated[str, typer.Option(help="closed_book, base or lm.")] = "lm",
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


@app.command()
def gc(
    store: RunStoreOption = DEFAULT_STORE,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete what no run refers to any more: artifacts of older settings, attempts that were cut off.

    A run refers to its artifacts as long as its folder runs/RUN is in the store; delete that to let go of one.
    """
    from radit_job.pipeline.collect import delete, unreferenced
    from radit_job.pipeline.runs import run_names

    opened = _open(store)
    with ExitStack() as locks:
        for name in run_names(opened):
            locks.enter_context(opened.hold(f"run-{name}"))  # it refers to more than it has saved
        groups = unreferenced(opened)
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
        delete(opened, groups.values())


def _load(
    path: Path, store: str | None, overrides: list[str] | None, name: str | None
) -> tuple[LoadedConfig, ObjectStore]:
    from radit_job.config.loading import load_config

    named = [f"name={name}"] if name else []
    stored = [f"store={store}"] if store else []
    loaded = load_config(path, [*(overrides or []), *named, *stored])
    return loaded, _open(loaded.config.store)


def _open(url: str) -> ObjectStore:
    from radit_job.store import open_store

    return open_store(url)


def _controller(loaded: LoadedConfig, store: ObjectStore, until: str | None, force: list[str] | None) -> Any:
    from radit_job.models.identity import model_identity
    from radit_job.pipeline.controller import Controller

    return Controller(
        loaded,
        store,
        lambda model: model_identity(model.provider, model.name, model.revision),
        run=loaded.config.name,
        until=until,
        force=force or [],
    )


def main() -> None:
    """The entry point: runs a command, prints its error, exits with its code."""
    debug = "--debug" in sys.argv[1:]
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = app(args=arguments or ["--help"], standalone_mode=False) or 0
    except Exception as error:
        code = _explain(error, debug=debug)
    except KeyboardInterrupt:
        typer.echo("radit: stopped", err=True)
        code = Interrupted.exit_code
    raise SystemExit(code)


def _explain(error: Exception, *, debug: bool) -> int:
    """One short message on standard error; returns the exit code."""
    if debug:
        traceback.print_exception(error)
    if isinstance(error, RaditError):
        typer.echo(f"radit: {error}", err=True)
        return error.exit_code
    if isinstance(error, typer.Abort):
        return Interrupted.exit_code
    says = getattr(error, "format_message", None)  # the command line parser's own errors have it
    if says is not None:
        typer.echo(f"radit: {says()}\n  See `radit --help`.", err=True)
        return ConfigError.exit_code
    typer.echo(f"radit: a fault in radit itself: {type(error).__name__}: {error}\n  --debug shows where.", err=True)
    return RaditError.exit_code


def _terminate(number: int, frame: object) -> None:
    raise Terminated("terminated", todo="What is committed is kept; the same command goes on from there.")
