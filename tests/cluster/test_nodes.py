"""Training in two pods that find each other by name; minutes long, and with `-m cluster` only."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from radit_job.store import ObjectStore, artifacts, open_store
from tests.cluster.bench import Bench, Command
from tests.cluster.conftest import ON_BOTH
from tests.e2e.conftest import write_material

pytestmark = pytest.mark.cluster
REAL = ON_BOTH[1:]
PATIENCE_S = 3600.0
POLL_S = 0.5
SOME_STEPS = 4  # of twelve: so many are done, and kept, before a pod is taken away


def configuration(folder: Path, bench: Bench) -> Path:
    """The small run of tests/e2e with the packaged language model, which is in the image."""
    folder.mkdir()
    write_material(folder, Path("unused"))
    plain = yaml.safe_load((folder / "small.yaml").read_text())
    plain["models"] = {"lm": {"provider": "packaged", "dtype": "float32"}}
    plain["split"] = {"train_share": 0.5}
    plain["retrieval"] = {"k": 1}
    plain["finetune_lm"] |= {"epochs": 3, "learning_rate": 1e-4, "patience": 0, "checkpoint_interval_s": 0.1}
    # A cluster without DNS has something in its place, which the pods must be told.
    patch = os.environ.get("RADIT_TEST_POD_TEMPLATE", "{}").replace("NAMESPACE", bench.namespace)
    profile = {
        **{"cpu": 0.2, "memory_gib": 4, "env_from": [{"secret": "radit-s3"}], "pod_template": json.loads(patch)},
        "env": {"OMP_NUM_THREADS": "1", "RADIT_KEEP_SCRATCH_S": "1"},
    }
    image = bench.cluster.image
    plain["kubernetes"] = {"namespace": bench.namespace, "image": image, "profiles": {"cpu": profile}}
    (folder / "small.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
    return folder / "small.yaml"


def training(store: ObjectStore, folder: Path) -> dict[str, Any]:
    """The committed training.json."""
    run = json.loads(store.read("runs/small/run.json") or b"{}")
    [key] = [stage["key"] for stage in _stages(run) if stage["stage"] == "finetune_lm"]
    manifest = artifacts.find(store, "finetune_lm", key)
    assert manifest is not None
    lm = artifacts.fetch(store, manifest, "lm", folder / manifest.attempt)
    plain: dict[str, Any] = json.loads((lm / "training.json").read_text())
    return plain


def _stages(run: dict[str, Any]) -> list[dict[str, Any]]:
    stages = run["stages"]
    return list(stages.values()) if isinstance(stages, dict) else list(stages)


def losses(trained: dict[str, Any]) -> list[float]:
    return [step["loss"] for step in trained["steps"]] + [row["dev_loss"] for row in trained["evaluations"]]


def until_it_has_kept(bench: Bench, command: Command, step: int) -> None:
    """Until the first node has done a step and the store has a checkpoint of it."""
    until_s = time.monotonic() + PATIENCE_S

    def has_kept() -> bool:
        indexes = [info.name for info in bench.store.list("scratch/finetune_lm/") if info.name.endswith("index.json")]
        told = b"".join(bench.store.read(name) or b"" for name in indexes)
        return any(f"step-{n:08d}/state.json".encode() in told for n in range(step, step + 20))

    while not has_kept():
        assert command.process.poll() is None, command.wait().output
        assert time.monotonic() < until_s
        time.sleep(POLL_S)


@pytest.fixture(scope="module")
def alone() -> dict[str, list[float]]:
    """What one process on this machine makes of it, once it is known."""
    return {}


@pytest.mark.parametrize("cluster", REAL, indirect=True)
@pytest.mark.parametrize(
    ("victim", "grace_s"), [(None, 0), (1, 0), (0, 30)], ids=["undisturbed", "one is killed", "the first is stopped"]
)
def test_two_pods_learn_what_one_process_learns(
    bench: Bench, tmp_path: Path, victim: int | None, grace_s: int, alone: dict[str, list[float]]
) -> None:
    config = str(configuration(tmp_path / "small", bench))
    # The stages before it need no cluster; all on one thread.
    early = bench.radit("run", config, "--store", bench.url, "--until", "augment", timeout_s=PATIENCE_S)
    assert early.code == 0, early.output
    nodes = ("--store", bench.url, "--set", "finetune_lm.nodes=2")
    rendered = bench.radit("render", config, "--stage", "finetune_lm", *nodes)
    assert [one["kind"] for one in yaml.safe_load_all(rendered.output)] == ["Service", "Job"], rendered.output
    command = bench.start("run", config, "--executor", "kubernetes", "--until", "finetune_lm", *nodes)
    if victim is not None:
        until_it_has_kept(bench, command, SOME_STEPS)
        [name] = [pod.metadata.name for pod in bench.pods("finetune_lm") if f"-{victim}-" in pod.metadata.name]
        bench.cluster.core.delete_namespaced_pod(name, bench.namespace, grace_period_seconds=grace_s)
    ended = command.wait(PATIENCE_S)
    assert ended.code == 0, ended.output
    trained = training(bench.store, tmp_path)
    assert trained["world"] == {"nodes": 2, "processes_per_node": 1, "kind": "DDP"}
    assert [step["step"] for step in trained["steps"]] == list(range(1, 13))
    if not alone:
        store = str(tmp_path / "store")
        here = bench.radit("run", config, "--store", store, "--until", "finetune_lm", timeout_s=PATIENCE_S)
        assert here.code == 0, here.output
        alone["losses"] = losses(training(open_store(store), tmp_path))
    assert losses(trained) == pytest.approx(alone["losses"], abs=1e-3)
    print(json.dumps({"two pods": losses(trained), "alone": alone["losses"]}))
