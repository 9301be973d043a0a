"""What `open_run` hands out asks the models exactly as training and answering do."""

import gc
from pathlib import Path
from types import SimpleNamespace

import pytest

from radit_job.api import Run, open_run
from radit_job.config.schema import Config
from radit_job.config.slices import AugmentSlice, IndexSlice
from radit_job.errors import ConfigError
from radit_job.models.huggingface import HuggingFaceLM
from radit_job.pipeline.runs import RunRecord, StageRecord, save_run
from radit_job.records import Chunk, Example, Message, Question, read_rows, write_rows
from radit_job.stages import augment, index
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


def config_of(lm_folder, *, context="joined", arms=("closed_book", "base", "few_shot")) -> Config:
    return Config.model_validate(
        {
            "name": "small",
            "corpus": {"paths": ["x"]},
            "models": {
                "lm": {"provider": "huggingface", "name": str(lm_folder), "dtype": "float32"},
                "embedder": {"dtype": "float32"},
            },
            "retrieval": {"k": 2, "context": context},
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
    return folder


@pytest.fixture
def asked(monkeypatch):
    """The conversations that a model is asked."""
    found, plain = [], HuggingFaceLM.complete
    monkeypatch.setattr(
        HuggingFaceLM, "complete", lambda self, turns, **more: found.extend(turns) or plain(self, turns, **more)
    )
    return found


@pytest.mark.parametrize("context", ["joined", "separate"])
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
