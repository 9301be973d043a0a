"""Inside one stage's process: fetch and verify the inputs, call the stage, publish and commit, or say what went wrong.

The controller trusts the exit code and the manifest; the JSON lines on standard output are for eyes.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from radit_job import observe
from radit_job.errors import RaditError, StageFailed
from radit_job.jobs import JobSpec, Shard
from radit_job.models.ledger import Ledger
from radit_job.observe.stage_output import StageOutput
from radit_job.observe.usage import usage_since
from radit_job.pipeline.catalog import CATALOG, StageRow
from radit_job.pipeline.inputs import fetch_input, lineage_entry
from radit_job.pipeline.paid_ledger import open_ledger
from radit_job.pipeline.spending import Book
from radit_job.share import Share, await_commit, is_done, share_of, standing_of, try_of, watching
from radit_job.store import ObjectStore, open_store
from radit_job.store.artifacts import publish
from radit_job.store.kept import KEEP_INTERVAL_S, kept_scratch
from radit_job.store.local import store_error
from radit_job.store.shards import FIRST_TRY, find_part, join, publish_part

SHOWN_KEY = 10  # characters of it in every event


def run_stage(stage: str, spec_name: str, store_url: str) -> int:
    """Run one stage, or this process's share of it, as its JobSpec says; returns the process's exit code.

    Environment: JOB_COMPLETION_INDEX, the shard's or the node's number, where the spec has several; RADIT_ENDPOINT,
    host:port where the nodes meet; RADIT_TRY, a name that all processes of one try share, where the stage is to replace
    what is committed; RADIT_KEEP_SCRATCH_S, seconds between savings of the scratch folder; RADIT_TERMINATION_LOG, a
    file for the error; RADIT_IMAGE, for the result.
    """
    output = StageOutput(stage=stage)
    _end_with_the_controller()
    try:
        store = open_store(store_url)
        spec = _read_spec(store, stage, spec_name)
        output.labels |= {"run": spec.run, "key": spec.key[:SHOWN_KEY]}
        row = next(row for row in CATALOG if row.name == spec.stage)
        share = share_of(row, spec)
        output.labels |= share.labels
        # Two runs may want the same artifact at once. The second waits, and then finds it committed.
        with store.hold(f"{spec.stage}-{spec.key}{share.suffix}", wait=True):
            _run_and_commit(store, row, spec, share)
    except RaditError as error:
        output.show_error(error)
        return error.exit_code
    except Exception as error:  # the process's outermost frame: whatever it was, the controller must be able to name it
        failure = _failure(error, stage, store_url)
        output.show_error(failure, traceback=traceback.format_exc())
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


def _run_and_commit(store: ObjectStore, row: StageRow, spec: JobSpec, share: Share) -> None:
    standing = standing_of(store, spec)
    if standing and not spec.replace:
        observe.log("already committed; nothing to do")
        _drop_of_node(store, spec, share, FIRST_TRY)
        return
    nth_try = try_of(spec, share, standing)
    shard = share.shard
    if shard.count == 1 and is_done(store, spec, standing, nth_try):
        observe.log("this try has committed already; nothing to do")  # and was killed before it could end
        _drop_of_node(store, spec, share, nth_try)
        return
    if shard.count == 1:
        _compute(store, row, spec, share, nth_try)
        return
    if find_part(store, spec.stage, spec.key, shard, nth_try):
        observe.log("this shard is already committed")
    else:
        _compute(store, row, spec, share, nth_try)
    manifest = join(store, spec.stage, spec.key, shard.count, nth_try=nth_try, replace=spec.replace)
    if manifest is not None:
        observe.log("all shards are there; the artifact is committed", attempt=manifest.attempt)


def _drop_of_node(store: ObjectStore, spec: JobSpec, share: Share, nth_try: str) -> None:
    """What a node kept that was lost after its work, and finds the others done."""
    if share.nodes.count > 1:
        store.drop_scratch(_scratch_name(spec, share, nth_try))


def _scratch_name(spec: JobSpec, share: Share, nth_try: str) -> str:
    return f"{spec.stage}/{spec.key}{f'-{nth_try}' if nth_try else ''}{share.suffix}"


def _compute(store: ObjectStore, row: StageRow, spec: JobSpec, share: Share, nth_try: str) -> None:
    started_s = time.time()
    scratch_name = _scratch_name(spec, share, nth_try)
    work_name = f"{scratch_name}.work"  # on the store's own file system, where it can link files, and never saved
    store.drop_scratch(work_name)
    work = store.scratch(work_name)
    fetched, out = work / "in", work / "out"
    fetched.mkdir()
    out.mkdir()
    interval_s = float(os.environ.get("RADIT_KEEP_SCRATCH_S") or KEEP_INTERVAL_S)
    try:
        with kept_scratch(store, scratch_name, interval_s=interval_s) as scratch:
            own = Book(spec.stage, spec.key, nth_try, share.index, share.count)
            ledger = open_ledger(store, spec, own, scratch_name, scratch, work / "earlier") if row.pays else Ledger()
            nodes = watching(store, spec, share, nth_try)
            counters = _call(row, store, spec, Share(share.shard, nodes), fetched, out, scratch, ledger)
            if share.nodes.is_first:
                result = _result(spec, counters, started_s, nth_try, ledger)
                _publish(store, row, spec, share.shard, nth_try, out, result)
            else:
                await_commit(store, spec, share, nth_try)
    finally:
        with suppress(RaditError):  # whatever went wrong before it is the one to tell
            store.drop_scratch(work_name)
    store.drop_scratch(scratch_name)


def _publish(
    store: ObjectStore, row: StageRow, spec: JobSpec, shard: Shard, nth_try: str, out: Path, result: dict[str, Any]
) -> None:
    if shard.count > 1:  # it may have had nothing to do
        won = publish_part(store, spec.stage, spec.key, shard, out, row.writes, result, nth_try=nth_try)
    else:
        _check_written(row, out)
        _, won = publish(store, spec.stage, spec.key, out, row.writes, result, replace=spec.replace)
    observe.log("committed" if won else "another attempt was first; its artifact stands")


def _call(
    row: StageRow,
    store: ObjectStore,
    spec: JobSpec,
    share: Share,
    fetched: Path,
    out: Path,
    scratch: Path,
    ledger: Ledger,
) -> dict[str, float]:
    arguments: dict[str, Any] = {"out": out, "scratch": scratch}
    if row.pays:
        arguments["ledger"] = ledger
    if row.is_sharded:
        arguments["shard"] = share.shard
    if row.spans_nodes:
        arguments["nodes"] = share.nodes
    for reference in spec.inputs:
        arguments[reference.artifact] = fetch_input(store, reference, fetched)
    if row.wants_lineage:
        arguments["lineage"] = [lineage_entry(store, stage, key) for stage, key in spec.lineage]
    stage: Callable[..., dict[str, float]] = importlib.import_module(f"radit_job.stages.{row.name}").run
    return stage(row.sees.model_validate(spec.config), **arguments)


def _check_written(row: StageRow, out: Path) -> None:
    missing = [name for name in row.writes if not any((out / name).rglob("*"))]
    if missing:
        raise StageFailed(f"the stage wrote no {' and no '.join(missing)}", where=row.name)


def _result(
    spec: JobSpec, counters: dict[str, float], started_s: float, nth_try: str, ledger: Ledger
) -> dict[str, Any]:
    inputs = [
        {"artifact": item.artifact, "stage": item.stage, "key": item.key, "digest": item.digest} for item in spec.inputs
    ]
    return {
        "run": spec.run,
        "counters": counters,
        "spent": {model: item.to_json() for model, item in ledger.spent.items()},
        "inputs": inputs,
        **({"try": nth_try} if nth_try else {}),
        **({"n_nodes": spec.nodes} if spec.nodes > 1 else {}),
        **usage_since(started_s),
    }


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
