"""Where the objects of a run stand in the store."""

from __future__ import annotations


def run_file(run: str, name: str) -> str:
    """Where a file of a run stands in the store."""
    return f"runs/{run}/{name}"


def spent_file(run: str, stage: str, key: str, process: str = "") -> str:
    """Where a stage's process tells what it has spent; `process` is "" or, say, "-2-of-4": see Book.name."""
    return run_file(run, f"spent/{stage}-{key[:10]}{process}.json")


def spec_file(run: str, stage: str, key: str) -> str:
    """Where the JobSpec of a stage stands; a Job that waits finds its own there, whatever became of the run since."""
    return run_file(run, f"jobs/{stage}-{key[:10]}.json")
