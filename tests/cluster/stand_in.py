"""What runs in a pod in place of a stage, so that a scenario takes seconds: it commits a small artifact, or misbehaves.

The Job, its pod, the worker's place in it and all that the controller does are real; only the models' work is left
out. A scenario says what a stage shall do by an object in the store, `behaviour/<stage>.json`:

    exit_codes    one for each start, 0 when they are used up; a code but 0 ends the stage before it commits
    gate          the name of an object to wait for before it goes on
    allocate_mib  memory to take, to be killed for
    prints        lines to print first

Every start leaves an object under `starts/<stage>/`, so that a scenario can count them. This file is handed to
`python -c` in the image, and so it stands alone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
import uuid
from pathlib import Path

from radit_job.jobs import JobSpec
from radit_job.pipeline.catalog import CATALOG
from radit_job.store import ObjectStore, open_store
from radit_job.store.artifacts import find, publish

POLL_S = 0.1
GATE_PATIENCE_S = 600.0


def main(stage: str, spec_name: str, store_url: str) -> int:
    store = open_store(store_url)
    spec = JobSpec.from_json(json.loads(store.read(spec_name) or b"{}"))
    behaviour = json.loads(store.read(f"behaviour/{stage}.json") or b"{}")
    n_before = len(list(store.list(f"starts/{stage}/")))
    store.write(f"starts/{stage}/{uuid.uuid4().hex}", b"")
    for line in behaviour.get("prints", []):
        print(json.dumps({"time_s": time.time(), "event": "log", "level": "info", "message": line}), flush=True)
    if gate := behaviour.get("gate"):
        wait_for(store, gate)
    if mib := behaviour.get("allocate_mib"):
        taken = [os.urandom(1 << 20) for _ in range(mib)]
        print(len(taken), flush=True)
    code = (behaviour.get("exit_codes", []) + [0] * (n_before + 1))[n_before]
    if code:
        say_goodbye(stage, code)
        return int(code)
    if find(store, stage, spec.key) is None or spec.replace:
        commit(store, spec)
    return 0


def wait_for(store: ObjectStore, gate: str) -> None:
    deadline_s = time.monotonic() + GATE_PATIENCE_S
    while store.read(gate) is None and time.monotonic() < deadline_s:
        time.sleep(POLL_S)


def say_goodbye(stage: str, code: int) -> None:
    """The error as the worker leaves it for the controller."""
    kind = {64: "ConfigError", 65: "InputError", 69: "ServiceError", 75: "TryAgainError"}.get(code, "StageFailed")
    error = {"type": kind, "what": f"{stage} was told to exit with {code}", "where": None, "todo": None}
    if path := os.environ.get("RADIT_TERMINATION_LOG"):
        Path(path).write_text(json.dumps({**error, "exit_code": code}))


def commit(store: ObjectStore, spec: JobSpec) -> None:
    row = next(row for row in CATALOG if row.name == spec.stage)
    with tempfile.TemporaryDirectory() as folder:
        for artifact in row.writes:
            Path(folder, artifact).mkdir()
            Path(folder, artifact, "rows.jsonl").write_text(spec.key)
        if spec.stage == "evaluate":
            Path(folder, "results", "results.json").write_text(json.dumps({"arms": [], "rows": [], "pairs": []}))
        if spec.stage == "report":
            Path(folder, "report", "report.html").write_text("<html></html>")
        result = {"run": spec.run, "seconds": 0.1, "finished_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        publish(store, spec.stage, spec.key, Path(folder), row.writes, result, replace=spec.replace)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # the first process of a container ignores it
    arguments = dict(zip(sys.argv[3::2], sys.argv[4::2], strict=False))  # stage NAME --spec S --store URL
    raise SystemExit(main(sys.argv[2], arguments["--spec"], arguments["--store"]))
