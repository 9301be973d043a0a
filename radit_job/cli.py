"""The commands. Errors become one short message and an exit code; a traceback only with --debug."""

from __future__ import annotations

import json
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from radit_job.errors import ConfigError, Interrupted, RaditError, Terminated

if TYPE_CHECKING:
    from radit_job.config.loading import LoadedConfig
    from radit_job.pipeline.runs import RunRecord
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
""",
)

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
    from radit_job.executors.local import LocalExecutor
    from radit_job.observe.terminal import show_events
    from radit_job.pipeline.runs import run_file

    if executor != "local":
        raise ConfigError(f"there is no executor {executor!r}", where="--executor", todo="This version has: local.")
    loaded, opened = _load(config, store, overrides, name)
    run_name = loaded.config.name
    started_s = time.monotonic()
    with opened.hold(f"run-{run_name}"), show_events():
        log_folder = Path(opened.url, run_file(run_name, "logs"))
        record = _controller(loaded, opened, until, force).run(LocalExecutor(opened, log_folder))
    _print_end(opened, record, time.monotonic() - started_s)


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
    from radit_job.pipeline.runs import require_run  # noqa: F401 - the plan reads the run's last record

    loaded, opened = _load(config, store, overrides, name)
    for decision in _controller(loaded, opened, until, force).plan():
        _print_wrapped(f"{decision.stage:<12} {decision.action:<8} ", decision.why)


@app.command()
def check(config: ConfigArgument, store: StoreOption = None, overrides: SetOption = None) -> None:
    """Check everything that can be known before spending time: settings, files, models, store, memory."""
    from radit_job.pipeline.check import findings

    loaded, opened = _load(config, store, overrides, None)
    errors: list[RaditError] = []
    for finding in findings(loaded, opened):
        _print_wrapped(f"{finding.verdict:<5} {finding.subject:<12} ", finding.says)
        if finding.error is not None:
            errors.append(finding.error)
    if errors:
        raise errors[0]


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
    from radit_job.pipeline.runs import require_run, run_names

    opened = _open(store)
    if run is None:
        for name in run_names(opened):
            record = require_run(opened, name)
            typer.echo(f"{name:<40} {record.status:<12} {record.started_at}")
        return
    while True:
        record = require_run(opened, run)
        _print_status(opened, record)
        if not watch or record.status != "running":
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
    from radit_job.pipeline.graph import check_stage
    from radit_job.pipeline.runs import log_events, require_run

    opened = _open(store)
    check_stage(stage)
    printed = 0
    while True:
        record = require_run(opened, run)
        events = list(log_events(opened, run, stage))
        for event in events[printed:]:
            _print_event(event)
        printed = len(events)
        if not follow or record.stages[stage].status not in ("running", "waiting") or record.status != "running":
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
    from radit_job.pipeline.runs import load_results

    opened = _open(store)
    _print_results([load_results(opened, name) for name in runs], form)


@app.command()
def report(
    run: RunArgument,
    store: RunStoreOption = DEFAULT_STORE,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Copy the page to this file.")] = None,
) -> None:
    """Say where the run's page is, or copy it."""
    from radit_job.pipeline.runs import require_run, run_file

    opened = _open(store)
    page = opened.read(run_file(run, "report.html"))
    if page is None:
        record = require_run(opened, run)
        raise ConfigError(f"run {run!r} has no report yet: it is {record.status}", todo=f"See `radit status {run}`.")
    if output is None:
        typer.echo(Path(opened.url, run_file(run, "report.html")))
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
    """Delete what no run refers to any more: artifacts of older settings, attempts that were cut off."""
    from radit_job.pipeline.collect import delete, unreferenced
    from radit_job.pipeline.runs import run_names

    opened = _open(store)
    with ExitStack() as locks:
        for name in run_names(opened):
            locks.enter_context(opened.hold(f"run-{name}"))  # a running run refers to more than it has saved
        groups = unreferenced(opened)
        n_bytes = sum(info.n_bytes for group in groups.values() for info in group)
        for name, group in groups.items():
            typer.echo(f"{sum(info.n_bytes for info in group) / GIB:8.3f} GiB  {name[:66]}")
        if not groups:
            typer.echo("Nothing to delete.")
            return
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


def _print_end(store: ObjectStore, record: RunRecord, seconds: float) -> None:
    from radit_job.pipeline.runs import run_file

    page = run_file(record.run, "report.html")
    if store.read(run_file(record.run, "results.json")) is not None and record.stages["evaluate"].status in (
        "done",
        "cached",
    ):
        from radit_job.pipeline.runs import load_results

        _print_results([load_results(store, record.run)], "table")
    n_cached = sum(item.status == "cached" for item in record.stages.values())
    n_ran = sum(item.status == "done" for item in record.stages.values())
    typer.echo(f"{record.run}: {n_ran} stages ran, {n_cached} cached, {seconds:.1f} s")
    if record.stages["report"].status in ("done", "cached"):
        typer.echo(f"report: {Path(store.url, page)}")


def _print_results(found: list[dict[str, Any]], form: str) -> None:
    from rich.console import Console

    from radit_job.report.terminal import results_csv, results_table, runs_table

    if form == "json":
        typer.echo(json.dumps(found[0] if len(found) == 1 else found, indent=1, ensure_ascii=False))
    elif form == "csv":
        typer.echo(results_csv(*found), nl=False)
    elif form == "table":
        Console().print(results_table(found[0]) if len(found) == 1 else runs_table(found))
    else:
        raise ConfigError(f"unknown format {form!r}", where="--format", todo="Choose table, json or csv.")


def _print_status(store: ObjectStore, record: RunRecord) -> None:
    from radit_job.pipeline.runs import log_events

    typer.echo(f"{record.run}: {record.status}, started {record.started_at}")
    for item in record.stages.values():
        says = item.why
        if item.status == "running":
            progress = [
                event for event in log_events(store, record.run, item.stage) if event.get("event") == "progress"
            ]
            if progress:
                last = progress[-1]
                says = f"{last['label']} {last['done']}/{last['total'] or '?'} {last['unit']}"
        seconds = f"{item.seconds:8.1f} s" if item.seconds is not None and item.status != "running" else " " * 10
        _print_wrapped(f"  {item.stage:<12} {item.status:<8} {seconds}  ", says)


def _print_event(event: dict[str, Any]) -> None:
    from radit_job.observe.terminal import fields_of

    if event["event"] == "output":
        typer.echo(event["text"])
        return
    clock = time.strftime("%H:%M:%S", time.localtime(event.get("time_s", 0)))
    says = event.get("message") or event.get("what") or event["event"]
    typer.echo(f"{clock} {event.get('level', event['event']):<8} {says} {fields_of(event)}".rstrip())
    if "traceback" in event:
        typer.echo(event["traceback"])


def _print_wrapped(start: str, text: str) -> None:
    import shutil
    import textwrap

    width = max(60, min(shutil.get_terminal_size().columns, 120))
    lines = [line for part in text.splitlines() or [""] for line in textwrap.wrap(part, width - len(start)) or [""]]
    typer.echo("\n".join((start if i == 0 else " " * len(start)) + line for i, line in enumerate(lines)).rstrip())


def main() -> None:
    """The entry point: runs a command, prints its error, exits with its code."""
    debug = "--debug" in sys.argv[1:]
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = app(args=arguments, standalone_mode=False) or 0
    except RaditError as error:
        if debug:
            raise
        typer.echo(f"radit: {error}", err=True)
        code = error.exit_code
    except KeyboardInterrupt:
        typer.echo("radit: stopped", err=True)
        code = Interrupted.exit_code
    except (typer.Abort, EOFError):
        code = Interrupted.exit_code
    except BrokenPipeError:
        code = 0  # the reader has seen enough: `radit logs … | head`
    except Exception as error:
        show = getattr(error, "format_message", None)  # the command line parser's own errors
        if debug or show is None:
            raise
        typer.echo(f"radit: {show()}\n  See `radit --help`.", err=True)
        code = ConfigError.exit_code
    raise SystemExit(code)


def _terminate(number: int, frame: object) -> None:
    raise Terminated("terminated", todo="What is committed is kept; the same command goes on from there.")
