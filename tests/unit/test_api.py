"""What `open_run` hands out asks the models exactly as training and answering do."""

import gc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from radit_job.api import Run, open_run
from radit_job.config.schema import Config
from radit_job.config.slices import AnswerSlice, AugmentSlice, IndexSlice
from radit_job.errors import ConfigError
from radit_job.model_ref import ModelRef
from radit_job.models import ensemble
from radit_job.models.huggingface import HuggingFaceLM
from radit_job.models.loading import model_folder, open_embedder
from radit_job.pipeline.runs import RunRecord, StageRecord, save_run
from radit_job.rag.vector_index import VectorIndex
from radit_job.records import Chunk, Example, Message, Prediction, Question, read_blocks, read_rows, write_rows
from radit_job.stages import answer, augment, index
from radit_job.store import open_store
from radit_job.store.artifacts import publish

TEXTS = [
    "Cats purr when they are content.",
    "  The loss trains the query encoder.\n",
    "Rain falls on the plain {context}.",
]
QUESTION = "Which animal purrs, ['a'] or {question}?"


class FolderRun(Run):
    """A run whose artifacts lie in a folder: as `Run`, but for the store."""

    def __init__(self, folder, config: Config) -> None:
        self.folder, self.config = folder, config
        self._record = SimpleNamespace(run="small")

    def artifact(self, name):
        return self.folder / name


def config_of(lm_folder, *, context="joined", arms=("closed_book", "base", "few_shot"), temperature=0.05) -> Config:
    return Config.model_validate(
        {
            "name": "small",
            "corpus": {"paths": ["x"]},
            "models": {
                "lm": {"provider": "huggingface", "name": str(lm_folder), "dtype": "float32"},
                "embedder": {"dtype": "float32"},
            },
            "retrieval": {"k": 2, "context": context, "temperature": temperature},
            "answer": {"max_new_tokens": 4},
            "evaluate": {"arms": list(arms)},
        }
    )


@pytest.fixture(scope="module")
def artifacts(tiny_lm_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("artifacts")
    chunks = [Chunk(f"a.txt#{i:05}", "a.txt", None, 0, 9, 7, text) for i, text in enumerate(TEXTS)]
    write_rows(folder / "chunks/chunks.jsonl", chunks)
    question = Question("q1", QUESTION, "Cats.", "a.txt", ("a.txt#00000",), "file")
    write_rows(folder / "train_questions/questions.jsonl", [question])
    config = config_of(tiny_lm_folder)
    index.run(IndexSlice.of(config), chunks=folder / "chunks", out=folder, scratch=folder)
    (folder / "lm").mkdir()
    (folder / "lm" / "merged").symlink_to(tiny_lm_folder)
    save_other_encoder(folder / "retriever")
    return folder


def save_other_encoder(folder):
    """A `retriever` artifact: the packaged encoder with other weights, so that it ranks otherwise."""
    encoder = SentenceTransformer(str(model_folder(ModelRef("packaged", "all-minilm-l6-v2"))), local_files_only=True)
    torch.manual_seed(0)
    with torch.no_grad():
        for weights in encoder.parameters():
            weights += 0.4 * weights.std() * torch.randn_like(weights)
    encoder.save_pretrained(str(folder))


@pytest.fixture
def asked(monkeypatch):
    """The conversations that a model is asked, also as a mixture."""
    found, plain, mixing = [], HuggingFaceLM.complete, ensemble.answer_mixtures
    monkeypatch.setattr(
        HuggingFaceLM, "complete", lambda self, turns, **more: found.extend(turns) or plain(self, turns, **more)
    )

    def mixed(lm, mixtures, references, **more):
        (mixture,) = mixtures
        found.extend(mixture.conversations)
        return mixing(lm, mixtures, references, **more)

    monkeypatch.setattr(ensemble, "answer_mixtures", mixed)
    return found


@pytest.mark.parametrize("context", ["joined", "separate", "ensemble"])
def test_the_query_engine_asks_what_training_shows(artifacts, tiny_lm_folder, tmp_path, asked, context):
    config = config_of(tiny_lm_folder, context=context)
    augment.run(
        AugmentSlice.of(config),
        train_questions=artifacts / "train_questions",
        chunks=artifacts / "chunks",
        embeddings=artifacts / "embeddings",
        out=tmp_path,
        scratch=tmp_path,
    )
    examples = list(read_rows(tmp_path / "examples/examples.jsonl", Example))
    response = FolderRun(artifacts, config).query_engine("base").query(QUESTION)
    assert [list(turns) for turns in asked] == [list(row.messages[:-1]) for row in examples]
    assert {row.question for row in examples} == {QUESTION}
    names = [name for row in examples for name in row.chunk_ids]
    assert [found.node.node_id for found in response.source_nodes] == names
    scores = [score for row in examples for score in row.scores]
    assert [found.score for found in response.source_nodes] == pytest.approx(scores, abs=1e-6)


@pytest.mark.parametrize("context", ["joined", "separate", "ensemble"])
def test_an_arm_is_asked_as_the_pipeline_asks_it(artifacts, tiny_lm_folder, tmp_path, context):
    arms = ["closed_book", "base", "retriever", "dual"]
    config = config_of(tiny_lm_folder, context=context, arms=arms, temperature=0.5)
    folders = {name: artifacts / name for name in ("train_questions", "chunks", "embeddings", "lm", "retriever")}
    answer.run(
        AnswerSlice.of(config), val_questions=folders["train_questions"], **folders, out=tmp_path, scratch=tmp_path
    )
    run = FolderRun(artifacts, config)
    for row in read_blocks(tmp_path / "predictions", "*.jsonl", Prediction):
        if row.split == "val":
            response = run.query_engine(row.arm).query(QUESTION)
            assert str(response) == row.answer
            assert tuple(found.node.node_id for found in response.source_nodes) == row.chunk_ids
            assert [found.score for found in response.source_nodes] == pytest.approx(row.scores, abs=1e-6)


def test_the_tuned_retriever_encodes_the_question_and_not_the_chunks(artifacts, tiny_lm_folder):
    run = FolderRun(artifacts, config_of(tiny_lm_folder, arms=["base", "lm", "retriever", "dual"]))
    scores = {
        arm: [found.score for found in run.retriever(arm).retrieve(QUESTION)]
        for arm in ("base", "lm", "retriever", "dual")
    }
    assert scores["base"] == scores["lm"] != scores["retriever"] == scores["dual"]
    vectors = VectorIndex.open(artifacts / "embeddings").vectors.take(np.arange(len(TEXTS)))
    (query,) = open_embedder(ModelRef("huggingface", str(artifacts / "retriever"), dtype="float32")).embed_queries(
        [QUESTION]
    )
    assert scores["dual"] == pytest.approx(sorted(vectors @ query, reverse=True)[:2], abs=1e-5)


def test_closed_book_is_asked_without_documents(artifacts, tiny_lm_folder, asked):
    run = FolderRun(artifacts, config_of(tiny_lm_folder))
    response = run.query_engine("closed_book").query("Why?")
    system = run.config.retrieval.system_prompt
    assert asked == [[Message("system", system), Message("user", "Answer the query.\nQuery: Why?\nAnswer: ")]]
    assert response.source_nodes == []
    with pytest.raises(ConfigError, match="reads no documents"):
        run.retriever("closed_book")


@pytest.mark.parametrize("arm", ["lm", "few_shot", "best"])
@pytest.mark.parametrize("what", ["query_engine", "retriever", "llm"])
def test_an_arm_that_the_run_does_not_have_is_an_error_that_names_those_it_has(tiny_lm_folder, tmp_path, arm, what):
    run = FolderRun(tmp_path, config_of(tiny_lm_folder))
    with pytest.raises(ConfigError, match=f"{arm}.*\n.*are: closed_book, base"):
        getattr(run, what)(arm)


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_an_artifact_s_folder_outlives_the_run_it_came_from(kind, request, tmp_path):
    url = str(tmp_path / "store")
    if kind == "bucket":
        url = request.getfixturevalue("s3_environment").store_url(f"bucket/{tmp_path.name}")
    (tmp_path / "out" / "chunks").mkdir(parents=True)
    (tmp_path / "out" / "chunks" / "chunks.jsonl").write_text("{}\n")
    store = open_store(url)
    publish(store, "ingest", "k1", tmp_path / "out", ["chunks"], {})
    stages = {"ingest": StageRecord("ingest", "done", key="k1")}
    save_run(store, RunRecord("small", "sha256:0", "local", "2026-01-01T00:00:00Z", stages=stages))
    folder = open_run(url, "small").artifact("chunks")
    gc.collect()
    assert (Path(folder) / "chunks.jsonl").read_text() == "{}\n"
