"""What a run leaves for its reader: results.json, latency.json and report.html, and each failure in words."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from radit_job.errors import CorruptArtifact, RaditError, ServiceError, StageFailed, TryAgainError, error_from_json
from radit_job.jobs import ArtifactRef, JobState, Outcome
from radit_job.pipeline.names import run_file
from radit_job.pipeline.runs import RunRecord
from radit_job.pipeline.spending import read_books, summary
from radit_job.store import ObjectStore
from radit_job.store.artifacts import fetch, find


def publish_results(store: ObjectStore, record: RunRecord, artifacts: Mapping[str, ArtifactRef]) -> None:
    """Write results.json, latency.json and report.html beside the run, as far as their stages have come."""
    results = artifacts.get("results")
    if results is not None:
        measured = json.loads(_read_file(store, results, "results.json"))
        whole = results_of(record, store.url, measured, summary(record, read_books(store, record.run)))
        data = json.dumps(whole, indent=1, ensure_ascii=False).encode()
        store.write(run_file(record.run, "results.json"), data)
    latency = artifacts.get("latency")
    if latency is not None:
        store.write(run_file(record.run, "latency.json"), _read_file(store, latency, "latency.json"))
    report = artifacts.get("report")
    if report is not None:
        store.write(run_file(record.run, "report.html"), _read_file(store, report, "report.html"))


def latency_calls(store: ObjectStore, record: RunRecord) -> list[dict[str, Any]]:
    """The prompts and completions that the run's benchmark kept: the rows of latency/calls.jsonl."""
    reference = ArtifactRef("latency", "benchmark", record.stages["benchmark"].key or "", "")
    lines = _read_file(store, reference, "calls.jsonl").splitlines()
    return [json.loads(line) for line in lines]


def _read_file(store: ObjectStore, reference: ArtifactRef, name: str) -> bytes:
    manifest = find(store, reference.stage, reference.key)
    if manifest is None:
        raise CorruptArtifact(f"the artifact of {reference.stage} is gone", where=store.url, todo="Run again.")
    with tempfile.TemporaryDirectory(prefix="radit-") as folder:
        return (fetch(store, manifest, reference.artifact, Path(folder)) / name).read_bytes()


def results_of(record: RunRecord, store_url: str, measured: dict[str, Any], spent: dict[str, Any]) -> dict[str, Any]:
    """The run's results.json: what `evaluate` measured, the state of the stages, and what paid services cost."""
    stages = [
        {"stage": item.stage, "key": item.key, "status": item.status, "seconds": item.seconds}
        for item in record.stages.values()
    ]
    return {
        "format": 1,
        "run": record.run,
        "store": store_url,
        "config_digest": record.config_digest,
        "arms": measured["arms"],
        "rows": measured["rows"],
        "pairs": measured["pairs"],
        **({"judge": measured["judge"]} if "judge" in measured else {}),
        "stages": stages,
        "spent": spent,
    }


def error_of(stage: str, outcome: Outcome, *, had_retries: bool) -> RaditError:
    """The stage's own last word, or what its exit code tells.

    `had_retries`: it was tried as often as it may be. A trouble that might have passed (69, 75) is the stage's failure
    then: the controller must not end as if another try of its own could help, or its Job would begin all again.
    """
    if outcome.error is not None:
        error = error_from_json(outcome.error)
        error.where = error.where or stage
        if had_retries and isinstance(error, ServiceError | TryAgainError):
            return StageFailed(error.what, where=error.where, todo=error.todo)
        return error
    if outcome.state is JobState.SUCCEEDED:
        todo = f"See {outcome.log}." if outcome.log else "Run again."
        return StageFailed("its process ended well but committed nothing", where=stage, todo=todo)
    code = outcome.exit_code or 0
    if code in (-9, 137):
        return StageFailed(
            "its process was killed (signal 9)",
            where=stage,
            todo="If memory ran out, take a smaller batch_size or model; then run again: what is committed is kept.",
        )
    cause = f"signal {-code}" if code < 0 else f"exit code {code}"
    return StageFailed(
        f"its process ended with {cause} and said nothing", where=stage, todo=f"See {outcome.log}; then run again."
    )
