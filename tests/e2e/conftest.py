"""One whole run of the command line on small real material, shared by the tests of this folder."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

NAMES = ["amber", "basalt", "cobalt", "diorite", "epidote", "feldspar", "garnet", "halite", "indigo", "jasper"]
NAMES += ["kyanite", "lapis", "mica", "nephrite", "obsidian", "pyrite"]
TONNES = range(17, 17 + 3 * len(NAMES), 3)
WORDS = "harbour lantern meadow orchard pepper quiver ribbon saddle timber umbrella velvet whistle anchor barrel candle"


@dataclass(frozen=True)
class Workplace:
    """A folder with a configuration and its material, in which commands run."""

    folder: Path

    def radit(self, *arguments: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "radit_job", *arguments],
            cwd=self.folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "radit_job", *arguments]
        return subprocess.Popen(
            command, cwd=self.folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def results(self, store: str = ".radit", run: str = "small") -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / store / "runs" / run / "results.json").read_text())
        return found

    def statuses(self, store: str = ".radit", run: str = "small") -> dict[str, str]:
        return {stage["stage"]: stage["status"] for stage in self.results(store, run)["stages"]}


def environment() -> dict[str, str]:
    # One thread each: the order of a sum, and with it the last bit of a result, depends on the number of threads.
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "80"}


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory, tiny_lm_folder: Path) -> Workplace:
    folder = tmp_path_factory.mktemp("workplace")
    write_material(folder, tiny_lm_folder)
    return Workplace(folder)


@pytest.fixture(scope="session")
def finished(workplace: Workplace) -> Workplace:
    """A workplace whose run `small` has ended well."""
    done = workplace.radit("run", "small.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    return workplace


def write_material(folder: Path, lm: Path) -> None:
    """Sixteen quarries, a paragraph and two questions each; small enough for seconds, real enough for every stage."""
    (folder / "corpus").mkdir()
    chance = random.Random(5)
    pairs = []
    for name, tonnes in zip(NAMES, TONNES, strict=True):
        trade = " ".join(chance.sample(WORDS.split(), 8))  # or all documents would read alike, and share their answers
        yields = f"The quarry of {name} yields {tonnes} tonnes a day of {trade} stone."
        road = f"Its road was built by the town of New {name.title()}, where {trade[::-1]} is sold."
        (folder / "corpus" / f"{name}.txt").write_text(f"{yields}\n\n{road}\n")
        asked = f"How much stone does the quarry of {name} yield?"
        pairs.append(
            {"question": asked, "answer": f"{tonnes} tonnes a day", "document": f"{name}.txt", "context": yields}
        )
        asked = f"Who built the road to the {name} quarry?"
        pairs.append({"question": asked, "answer": f"the town of New {name.title()}", "context": road})
    (folder / "questions.jsonl").write_text("\n".join(json.dumps(pair) for pair in pairs))
    (folder / "small.yaml").write_text(
        f"""
name: small
corpus: {{paths: [corpus]}}
questions: {{source: file, path: questions.jsonl}}
chunking: {{size_tokens: 64, overlap_tokens: 8}}
models: {{lm: {{provider: huggingface, name: {lm}}}}}
retrieval: {{k: 2}}
finetune_lm: {{epochs: 2, learning_rate: 1.0e-3, max_tokens: 256, checkpoint_interval_s: 0.2}}
answer: {{max_new_tokens: 8}}
evaluate: {{train_sample: 4, bootstrap_samples: 200}}
"""
    )
