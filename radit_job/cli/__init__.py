"""The commands. Errors become one short message and an exit code; a traceback only with --debug."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable
from typing import Annotated

import typer

from radit_job.cli import bench, chain, cluster, look
from radit_job.errors import ConfigError, Interrupted, RaditError, Terminated

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
  radit bench quickstart                    how long a query takes, and where the time goes
  radit run my.yaml --executor kubernetes --store s3://bucket/prefix
                                            the same chain, a Job per stage
\b
Errors are one short message; with --debug, which any command takes, a traceback stands before it.
""",
)
COMMANDS: tuple[Callable[..., None], ...] = (
    *(chain.run, chain.plan, chain.check, cluster.render),
    *(look.status, look.logs, cluster.cancel),
    *(look.results, look.report, bench.bench, look.ask, look.gc),
)
for command in COMMANDS:
    app.command()(command)
app.command("config")(chain.show_config)
app.command(hidden=True)(chain.stage)


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
