"""The stage on real files: what it writes opens with sentence-transformers, and a killed process goes on."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from radit_job.config.finetuning import FinetuneRetriever
from radit_job.config.models import Model
from radit_job.config.slices import FinetuneRetrieverSlice
from radit_job.errors import InputError
from radit_job.models.sentence_encoder import HuggingFaceEmbedder
from radit_job.records import CandidateScores, read_rows, write_rows
from radit_job.stages.finetune_retriever import run
from tests.unit.retriever_bench import SUBJECTS, chunk_texts, folder_bytes, planted_rows, tiny_encoder, write_index

RUN = """
import sys, json
from pathlib import Path
import torch
torch.set_num_threads(1)
from radit_job import observe
from radit_job.config.slices import FinetuneRetrieverSlice
from radit_job.stages.finetune_retriever import run
observe.send_events_to(lambda event: print(event, file=sys.stderr))
inputs, at = Path(sys.argv[1]), Path(sys.argv[2])
config = FinetuneRetrieverSlice(**json.loads(sys.argv[3]))
run(config, lm_scores=inputs / "lm_scores", embeddings=inputs / "embeddings", out=at / "out", scratch=at / "scratch")
"""


class Inputs:
    """The artifacts that the stage reads, in one folder."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        self.folder, self.encoder = folder, tiny_encoder(folder)
        embedder = HuggingFaceEmbedder.open(self.encoder, dtype="float32")
        index = write_index(folder / "embeddings", embedder, chunk_texts(SUBJECTS[:24]))
        rows = planted_rows(embedder, index, subjects=SUBJECTS[:24])
        for block in range(3):
            write_rows(folder / f"lm_scores/{block:06d}.jsonl", rows[block * 24 : (block + 1) * 24])
        (folder / "lm_scores/score.json").write_text("{}")

    def config(self, **settings) -> FinetuneRetrieverSlice:
        tuning = {"epochs": 2, "learning_rate": 3e-3, "dev_share": 0.25, **settings}
        embedder = Model(provider="huggingface", name=str(self.encoder), dtype="float32")
        return FinetuneRetrieverSlice(
            seed=7,
            embedder=embedder.model_dump(),
            finetune_retriever=FinetuneRetriever(**tuning).model_dump(),
        )

    def run(self, at: Path, **settings) -> dict[str, float]:
        for name in ("out", "scratch"):
            (at / name).mkdir(parents=True)
        return run(
            self.config(**settings),
            lm_scores=self.folder / "lm_scores",
            embeddings=self.folder / "embeddings",
            out=at / "out",
            scratch=at / "scratch",
        )

    def start(self, at: Path, **settings) -> subprocess.Popen[bytes]:
        for name in ("out", "scratch"):
            (at / name).mkdir(parents=True, exist_ok=True)
        config = self.config(**settings).model_dump_json()
        command = [sys.executable, "-c", RUN, str(self.folder), str(at), config]
        return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Inputs:
    return Inputs(tmp_path_factory.mktemp("inputs"))


def test_it_writes_an_encoder_a_curve_and_a_card_and_reads_only(inputs, tmp_path):
    read = [inputs.folder / name for name in ("lm_scores", "embeddings", "encoder")]
    before = [folder_bytes(folder) for folder in read]
    counters = inputs.run(tmp_path)
    assert [folder_bytes(folder) for folder in read] == before
    assert counters["n_train"] + counters["n_flat"] + counters["n_dev"] == 72
    assert counters["dev_kl_after"] < counters["dev_kl_before"] and counters["seconds"] > 0
    assert {"dev_recall_before_at_1", "dev_recall_after_at_5", "dev_mrr_after", "n_steps"} <= counters.keys()
    assert all(isinstance(value, int | float) for value in counters.values())

    retriever = tmp_path / "out/retriever"
    tuned, base = (SentenceTransformer(str(at), device="cpu") for at in (retriever, inputs.encoder))
    question = ["Tell me about Oslo."]
    assert abs(tuned.encode_query(question) - base.encode_query(question)).max() > 1e-3
    assert np.isclose(np.linalg.norm(tuned.encode_query(question)), 1)

    training = json.loads((retriever / "training.json").read_text())
    assert training["settings"]["lm_temperature"] == 0.1 and training["settings"]["epochs"] == 2
    assert [row["epoch"] for row in training["epochs"]] == [0, 1, 2]
    assert list(training["epochs"][0]["dev_recall"]) == ["1", "5", "10"]
    assert len(training["steps"]) == counters["n_steps"]
    assert training["target"].keys() == {
        "entropy_nats",
        "max_entropy_nats",
        "top_is_gold_share",
        "n_gold_among_candidates",
        "n_flat",
    }
    card = (retriever / "README.md").read_text()
    for said in ("encodes questions only", "sha256:", "(kept)", "KL(target \\|\\| retriever)", "recall@5"):
        assert said in card
    for clock in ("training_s", "seconds", "steps/s"):
        assert clock not in card and clock not in (retriever / "training.json").read_text()


def test_nothing_of_this_machine_and_nothing_pickled_stands_in_the_artifact(inputs, tmp_path):
    inputs.run(tmp_path, epochs=1)
    files = folder_bytes(tmp_path / "out/retriever")
    assert {"modules.json", "config.json", "model.safetensors", "training.json", "README.md"} <= files.keys()
    assert {Path(name).suffix for name in files} <= {".json", ".safetensors", ".md", ".txt"}
    for name, content in files.items():
        if name != "README.md":  # there the configuration's own name of the base model, which is a path here
            assert str(tmp_path).encode() not in content and str(inputs.folder).encode() not in content, name
    assert not re.search(rb'"(?:/|~)[^"]*"', files["modules.json"] + files["config.json"])


def test_equal_runs_are_equal_artifacts(inputs, tmp_path):
    for name in "ab":
        inputs.run(tmp_path / name, epochs=1)
    assert folder_bytes(tmp_path / "a/out") == folder_bytes(tmp_path / "b/out")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_is_killed_goes_on_and_ends_bit_identical(inputs, tmp_path, number):
    settings = {"epochs": 12, "patience": 0}
    inputs.run(tmp_path / "whole", **settings)
    killed = tmp_path / "killed"
    process = inputs.start(killed, **settings)
    until_s = time.monotonic() + 120
    while not list((killed / "scratch").glob("step-*")):
        assert process.poll() is None and time.monotonic() < until_s, process.communicate()[1].decode()
        time.sleep(0.005)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == -number
    [kept] = (killed / "scratch").glob("step-*")
    assert 0 < int(kept.name.removeprefix("step-")) < 36 and not (killed / "out/retriever").exists()
    again = inputs.start(killed, **settings)
    said = again.communicate(timeout=120)[1].decode()
    assert again.returncode == 0 and "going on from a checkpoint" in said
    assert folder_bytes(killed / "out") == folder_bytes(tmp_path / "whole/out")


def test_sigterm_keeps_the_step_at_which_it_came(inputs, tmp_path, monkeypatch):
    from radit_job.errors import Terminated

    def end(number, frame):
        raise Terminated("told to stop")

    before = signal.signal(signal.SIGTERM, end)
    plain_step, n_steps = torch.optim.AdamW.step, []

    def step_and_signal(self, *arguments):
        n_steps.append(1)
        if len(n_steps) == 2:
            signal.raise_signal(signal.SIGTERM)  # in the middle of a step: it must be finished
        return plain_step(self, *arguments)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(torch.optim.AdamW, "step", step_and_signal)
            with pytest.raises(Terminated):
                inputs.run(tmp_path, epochs=2)
        assert signal.getsignal(signal.SIGTERM) is end
    finally:
        signal.signal(signal.SIGTERM, before)
    assert [path.name for path in (tmp_path / "scratch").glob("step-*")] == ["step-00000002"]


def test_nothing_to_learn_from_is_an_input_error(inputs, tmp_path):
    (tmp_path / "lm_scores").mkdir()
    with pytest.raises(InputError, match="0 scored questions"):
        run(
            inputs.config(),
            lm_scores=tmp_path / "lm_scores",
            embeddings=inputs.folder / "embeddings",
            out=tmp_path,
            scratch=tmp_path / "scratch",
        )


def test_importing_the_stage_does_not_import_torch():
    code = "import sys, radit_job.stages.finetune_retriever; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_questions_that_lost_a_candidate_are_cut_to_what_most_have(inputs, tmp_path):
    shutil.copytree(inputs.folder / "lm_scores", tmp_path / "lm_scores")
    path = tmp_path / "lm_scores/000000.jsonl"
    rows = list(read_rows(path, CandidateScores))
    names = ("chunk_ids", "similarities", "log_probability_nats")
    n_all = len(rows[0].chunk_ids)
    shorter = [replace(row, **{name: getattr(row, name)[:-1] for name in names}) for row in rows[:2]]
    single = replace(rows[2], **{name: getattr(rows[2], name)[:1] for name in names})
    write_rows(path, [*shorter, single, *rows[3:]])
    (tmp_path / "out").mkdir()
    run(
        inputs.config(epochs=1),
        lm_scores=tmp_path / "lm_scores",
        embeddings=inputs.folder / "embeddings",
        out=tmp_path / "out",
        scratch=tmp_path / "scratch",
    )
    training = json.loads((tmp_path / "out/retriever/training.json").read_text())
    flat = training["target"]["n_flat"]
    assert training["n_candidates"] in (n_all, n_all - 1)
    assert training["n_train"] + training["n_dev"] + flat == (69 if training["n_candidates"] == n_all else 71)
