"""The whole chain with real models, in pods of the built image; minutes long, so with `-m cluster` only."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.bench import Bench
from tests.cluster.conftest import ON_BOTH
from tests.e2e.conftest import write_material

pytestmark = pytest.mark.cluster
REAL = ON_BOTH[1:]
TIMED = {"run", "store", "config_digest"}


def material(folder: Path, namespace: str, image: str) -> Path:
    """The small run of tests/e2e, with the packaged language model: a folder of this machine is in no pod."""
    folder.mkdir()
    write_material(folder, Path("unused"))
    plain = yaml.safe_load((folder / "small.yaml").read_text())
    plain["models"] = {"lm": {"provider": "packaged"}}
    plain["finetune_lm"]["epochs"] = 1
    # Two whole cores would not go into pods of a machine with two; a thread each, as the local run has it.
    profile: dict[str, Any] = {"cpu": 0.5, "env_from": [{"secret": "radit-s3"}], "env": {"OMP_NUM_THREADS": "1"}}
    plain["kubernetes"] = {
        "namespace": namespace,
        "image": image,
        "profiles": {"cpu": profile},
        "stages": {"answer": {"shards": 2}},
    }
    (folder / "small.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
    return folder / "small.yaml"


@pytest.mark.parametrize("cluster", REAL, indirect=True)
def test_pods_come_to_the_results_of_local_processes(bench: Bench, tmp_path: Path) -> None:
    config = material(tmp_path / "small", bench.namespace, bench.cluster.image)
    ended = bench.radit("run", str(config), "--executor", "kubernetes", "--store", bench.url, timeout_s=1800)
    assert ended.code == 0, ended.output
    in_pods = results(bench, bench.url)
    here = bench.radit("run", str(config), "--store", str(tmp_path / "store"), timeout_s=1800, OMP_NUM_THREADS="1")
    assert here.code == 0, here.output
    on_this_machine = results(bench, str(tmp_path / "store"))
    assert in_pods == on_this_machine

    started_s = time.monotonic()
    again = bench.radit("run", str(config), "--executor", "kubernetes", "--store", bench.url)
    assert "0 stages ran, 11 cached" in again.output
    assert time.monotonic() - started_s < 20


def results(bench: Bench, store: str) -> dict[str, Any]:
    """results.json without times and names."""
    ended = subprocess.run(
        [sys.executable, "-m", "radit_job", "results", "small", "--store", store, "--format", "json"],
        env={**os.environ, **bench.environment()},
        capture_output=True,
        text=True,
        check=True,
    )
    plain = yaml.safe_load(ended.stdout)
    stages = [{**stage, "seconds": None} for stage in plain.pop("stages")]
    return {name: value for name, value in plain.items() if name not in TIMED} | {"stages": stages}
