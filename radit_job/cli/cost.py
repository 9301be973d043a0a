"""What a run will cost, as `radit check` tells it and `radit run` warns of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import typer

from radit_job.errors import RaditError

if TYPE_CHECKING:
    from radit_job.config.loading import LoadedConfig
    from radit_job.pipeline.findings import Finding
    from radit_job.store import ObjectStore


def cost_findings(loaded: LoadedConfig, store: ObjectStore) -> Iterator[Finding]:
    """The expected cost as a finding; the table behind it is printed."""
    from radit_job.cli.measuring import expected_rows
    from radit_job.console import print_wrapped
    from radit_job.pipeline.estimate_text import assumptions, beyond_budget, headline, table
    from radit_job.pipeline.findings import Finding
    from radit_job.report.spending import dollars

    try:
        with _progress():
            expected = expected_rows(loaded, store)
    except RaditError as error:
        yield Finding("cost", "warn", f"cannot be estimated: {error}")
        return
    if expected is None:
        return
    rows, measures = expected
    budget_usd = loaded.config.spending.budget_usd
    beyond = beyond_budget(rows, budget_usd)
    of = "" if budget_usd is None else f", of a budget of {dollars(budget_usd)}"
    yield Finding("cost", "warn" if beyond else "ok", beyond or f"{headline(rows)}{of}")
    typer.echo("\n".join(table(rows)))
    print_wrapped("  ", assumptions(loaded.config, measures))


@contextmanager
def _progress() -> Iterator[None]:
    """How far the cutting of the documents is, in one line of a terminal; elsewhere nothing."""
    from radit_job.observe.events import progress_text, send_events_to

    def show(event: dict[str, Any]) -> None:
        if event["event"] == "progress":
            typer.echo(f"\r\033[Kmeasuring: {progress_text(event)}", nl=False, err=True)

    if not sys.stderr.isatty():
        yield
        return
    send_events_to(show)
    try:
        yield
    finally:
        send_events_to(lambda event: None)
        typer.echo("\r\033[K", nl=False, err=True)


def warn_of_cost(loaded: LoadedConfig, store: ObjectStore) -> None:
    """Say at the start of a run that its budget will not do, where no documents must be cut to know it.

    Of a run that goes on nothing is said: what it has paid for already cannot be told from here.
    """
    from radit_job.pipeline.served import served_uses

    budget_usd = loaded.config.spending.budget_usd
    if budget_usd is None or not served_uses(loaded.config):
        return
    from radit_job.cli.measuring import expected_rows
    from radit_job.pipeline.estimate_text import beyond_budget
    from radit_job.pipeline.runs import load_run

    before = load_run(store, loaded.config.name)
    if before is not None and not before.is_over:
        return
    with suppress(RaditError):  # the run itself will say it better
        expected = expected_rows(loaded, store, only_if_cut=True)
        if expected and (beyond := beyond_budget(expected[0], budget_usd)):
            typer.echo(f"warning: {beyond}; radit check shows the stages", err=True)
