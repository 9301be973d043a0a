"""Inside one stage's process: fetch and verify the inputs, call the stage, publish and commit, or say what went wrong.

The controller trusts the exit code and the manifest; the JSON lines on standard output are for eyes.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import platform
import resource
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from radit_job import observe
from radit_job.errors import CorruptArtifact, RaditError, StageFailed
from radit_job.jobs import JobSpec
from radit_job.pipeline.catalog import CATALOG, StageRow
from radit_job.store import ObjectStore, open_store
from radit_job.store.artifacts import Manifest, find, publish, read_result
from radit_job.store.artifacts import fetch as fetch_artifact
from radit_job.store.local import store_error

REPORTED_PACKAGES = ("torch", "transformers", "peft", "sentence-transformers", "llama-index-core", "pymupdf", "numpy")

StageFunction = Callable[..., dict[str, float]]


def run_stage(stage: str, spec_name: str, store_url: str) -> int:
    """Run one stage as its JobSpec says; returns the process's exit code."""
    observe.send_events_to(_print_event)
    _end_with_the_controller()
    try:
        store = open_store(store_url)
        spec = _read_spec(store, stage, spec_name)
        # Two runs may want the same artifact at once. The second waits, and then finds it committed.
        with store.hold(f"{spec.stage}-{spec.key}", wait=True):
            _run_and_commit(store, spec)
    except RaditError as error:
        _print_event({"event": "error", **error.to_json()})
        return error.exit_code
    except Exception as error:  # the process's outermost frame: whatever it was, the controller must be able to name it
        failure = _failure(error, stage, store_url)
        _print_event({"event": "error", **failure.to_json(), "traceback": traceback.format_exc()})
        return failure.exit_code
    return 0


def _failure(error: Exception, stage: str, store_url: str) -> RaditError:
    """A full disk is the store's trouble, for stages write there; all else is the stage's own."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return store_error(error, store_url, "write to")
    todo = f"The traceback: radit logs RUN {stage}"
    return StageFailed(f"{type(error).__name__}: {error}", where=stage, todo=todo)


def _read_spec(store: ObjectStore, stage: str, spec_name: str) -> JobSpec:
    data = store.read(spec_name)
    if data is None:
        raise StageFailed(f"no job is described at {spec_name}", where=store.url)
    spec = JobSpec.from_json(json.loads(data))
    if spec.stage != stage:
        raise StageFailed(f"{spec_name} describes {spec.stage}, not {stage}", where=store.url)
    return spec


def _run_and_commit(store: ObjectStore, spec: JobSpec) -> None:
    row = next(row for row in CATALOG if row.name == spec.stage)
    if not spec.replace and find(store, spec.stage, spec.key):
        observe.log("already committed; nothing to do", key=spec.key)
        return
    started_s = time.time()
    scratch_name = f"{spec.stage}/{spec.key}"
    scratch = store.scratch(scratch_name)
    out = Path(tempfile.mkdtemp(prefix="out-", dir=scratch))
    try:
        with tempfile.TemporaryDirectory(prefix="radit-") as fetched:
            counters = _call(row, store, spec, Path(fetched), out, scratch)
        _check_written(row, out)
        result = _result(spec, counters, started_s)
        manifest, won = publish(store, spec.stage, spec.key, out, row.writes, result, replace=spec.replace)
        observe.log("committed" if won else "another attempt was first; its artifact stands", attempt=manifest.attempt)
    finally:
        shutil.rmtree(out, ignore_errors=True)
    store.drop_scratch(scratch_name)


def _call(
    row: StageRow, store: ObjectStore, spec: JobSpec, fetched: Path, out: Path, scratch: Path
) -> dict[str, float]:
    arguments: dict[str, Any] = {"out": out, "scratch": scratch}
    for reference in spec.inputs:
        arguments[reference.artifact] = _fetch(store, reference.stage, reference.key, reference.artifact, fetched)
    if row.wants_lineage:
        arguments["lineage"] = [_lineage_entry(store, stage, key) for stage, key in spec.lineage]
    stage: StageFunction = importlib.import_module(f"radit_job.stages.{row.name}").run
    return stage(row.sees.model_validate(spec.config), **arguments)


def _fetch(store: ObjectStore, stage: str, key: str, artifact: str, fetched: Path) -> Path:
    manifest = _committed(store, stage, key)
    folder = fetched / artifact
    folder.mkdir()
    return fetch_artifact(store, manifest, artifact, folder)


def _committed(store: ObjectStore, stage: str, key: str) -> Manifest:
    manifest = find(store, stage, key)
    if manifest is None:
        raise CorruptArtifact(f"the artifact of {stage} is gone from the store", where=store.url, todo="Run again.")
    return manifest


def _lineage_entry(store: ObjectStore, stage: str, key: str) -> dict[str, Any]:
    """One stage behind this one, as the report shows it."""
    manifest = _committed(store, stage, key)
    artifacts = [
        {
            "artifact": name,
            "digest": manifest.digest_of(name),
            "n_bytes": manifest.n_bytes_of(name),
            "n_files": len(files),
        }
        for name, files in manifest.artifacts.items()
    ]
    return {"stage": stage, "key": key, "artifacts": artifacts, **read_result(store, manifest)}


def _check_written(row: StageRow, out: Path) -> None:
    missing = [name for name in row.writes if not any((out / name).rglob("*"))]
    if missing:
        raise StageFailed(f"the stage wrote no {' and no '.join(missing)}", where=row.name)


def _result(spec: JobSpec, counters: dict[str, float], started_s: float) -> dict[str, Any]:
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    kib_per_unit = 1 / 1024 if sys.platform == "darwin" else 1  # macOS counts bytes, Linux KiB
    return {
        "run": spec.run,
        "seconds": round(time.time() - started_s, 3),
        "cpu_seconds": round(sum(part.ru_utime + part.ru_stime for part in usage), 3),
        "peak_memory_gib": round(max(part.ru_maxrss for part in usage) * kib_per_unit / (1 << 20), 3),
        "counters": counters,
        "inputs": [
            {"artifact": item.artifact, "stage": item.stage, "key": item.key, "digest": item.digest}
            for item in spec.inputs
        ],
        "versions": _versions(),
        "finished_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "radit-job": metadata.version("radit-job")}
    for package in REPORTED_PACKAGES:
        if package.replace("-", "_") in sys.modules or package in sys.modules:
            found[package] = metadata.version(package)
    return found


def _print_event(event: dict[str, Any]) -> None:
    print(json.dumps({"time_s": round(time.time(), 3), **event}, ensure_ascii=False, default=str), flush=True)


def _end_with_the_controller() -> None:
    """A local worker's standard input is a pipe that only the controller holds: when it closes, the controller is gone.

    A worker that went on alone would race with the one that the next `radit run` starts. RADIT_PARENT_PIPE says that
    there is such a pipe; a pod and a person at a shell have none.
    """
    if os.environ.get("RADIT_PARENT_PIPE") != "1":
        return

    def wait_for_the_end() -> None:
        os.read(0, 1)
        os._exit(143)

    threading.Thread(target=wait_for_the_end, daemon=True, name="parent-pipe").start()
