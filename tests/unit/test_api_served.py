"""`open_run` of a run whose models are served: LlamaIndex's own OpenAI class, asking what the pipeline asks."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai import OpenAI

from radit_job.api import open_run
from radit_job.config.schema import Config
from radit_job.config.slices import IndexSlice
from radit_job.errors import ConfigError, InputError
from radit_job.pipeline.names import run_file
from radit_job.pipeline.runs import RunRecord, StageRecord, save_run
from radit_job.records import Chunk, write_rows
from radit_job.stages import index
from radit_job.store import open_store
from radit_job.store.artifacts import publish
from tests.servers.openai_server import KEY, openai_server, routes

ROOT = Path(__file__).parents[2]
BASE, TUNED = "gpt-4o-mini-2024-07-18", "ft:gpt-4o-mini-2024-07-18:radit::7"
UNKNOWN = "Qwen/Qwen9-7B-Instruct"  # to LlamaIndex
TEXTS = [
    "Cats purr when they are content.",
    "The loss trains the query encoder.",
    "Rain falls on the plain.",
]
QUESTION = "When do cats purr?"
SYSTEM = "You are a helpful assistant that answers questions from the given documents. The documents are about cats."
WITH_CHUNKS = [
    {"role": "system", "content": SYSTEM},
    {
        "role": "user",
        "content": f"Context information is below.\n---------------------\n{TEXTS[0]}\n\n{TEXTS[1]}\n"
        "---------------------\nGiven the context information and not prior knowledge, answer the query.\n"
        f"Query: {QUESTION}\nAnswer: ",
    },
]
BARE = [
    {"role": "system", "content": SYSTEM},
    {"role": "user", "content": f"Answer the query.\nQuery: {QUESTION}\nAnswer: "},
]


@pytest.fixture(scope="module")
def server():
    with openai_server(models=(TUNED, UNKNOWN)) as running:
        yield running


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def asked(monkeypatch):
    """The bodies of the chat requests that come to the server."""
    bodies, plain = [], routes.digest_of
    monkeypatch.setattr(
        routes, "digest_of", lambda body: (bodies.append(body) if "messages" in body else None) or plain(body)
    )
    return bodies


def store_of(folder, server, *, context="joined", **lm):
    """A store with one finished run, whose tuned model a service has."""
    served = {"provider": "openai", "base_url": server.url, "api_key_env": "OPENAI_API_KEY"}
    plain = {
        "name": "small",
        "corpus": {"paths": ["x"]},
        "models": {
            "lm": {**served, "name": BASE, **lm},
            "embedder": {**served, "name": "text-embedding-3-small"},
        },
        "finetune_lm": {"engine": "openai"},
        "retrieval": {"k": 2, "context": context, "topic": "cats"},
        "answer": {"max_new_tokens": 12},
        "evaluate": {"arms": ["closed_book", "base", "few_shot", "lm", "lm_closed_book"]},
    }
    config = Config.model_validate(plain)
    made = folder / "made"
    write_rows(
        made / "chunks/chunks.jsonl",
        [Chunk(f"a.txt#{i:05}", "a.txt", i + 1, 0, 9, 7, text) for i, text in enumerate(TEXTS)],
    )
    index.run(IndexSlice.of(config), chunks=made / "chunks", out=made, scratch=folder)
    (made / "lm").mkdir()
    (made / "lm" / "model.json").write_text(json.dumps({"provider": "openai", "name": TUNED, "job_id": "ftjob-1"}))
    url = str(folder / "store")
    store = open_store(url)
    producers = {"ingest": "chunks", "index": "embeddings", "finetune_lm": "lm"}
    for stage, artifact in producers.items():
        publish(store, stage, "k1", made, [artifact], {})
    store.write(run_file("small", "config.yaml"), yaml.safe_dump(plain).encode())
    stages = {stage: StageRecord(stage, "done", key="k1") for stage in producers}
    save_run(store, RunRecord("small", "sha256:0", "local", "2026-01-01T00:00:00Z", status="done", stages=stages))
    return url


@pytest.fixture(scope="module")
def store(server, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", KEY)
        return store_of(tmp_path_factory.mktemp("run"), server)


@pytest.mark.parametrize(
    ("arm", "model", "messages", "n_sources"),
    [
        ("closed_book", BASE, BARE, 0),
        ("base", BASE, WITH_CHUNKS, 2),
        ("lm", TUNED, WITH_CHUNKS, 2),
        ("lm_closed_book", TUNED, BARE, 0),
    ],
)
def test_llamaindex_sends_what_the_pipeline_sends(store, asked, arm, model, messages, n_sources):
    """complete, chat and both streams against the query engine, which goes the pipeline's own way."""
    run = open_run(store, "small")
    response = run.query_engine(arm).query(QUESTION)
    assert len(response.source_nodes) == n_sources
    llm = run.llm(arm)
    assert isinstance(llm, OpenAI)
    system, user = (ChatMessage(role=turn["role"], content=turn["content"]) for turn in messages)
    answers = [
        str(response),
        llm.chat([system, user]).message.content,
        llm.complete(user.content).text,
        list(llm.stream_chat([system, user]))[-1].message.content,
        list(llm.stream_complete(user.content))[-1].text,
        asyncio.run(llm.acomplete(user.content)).text,
    ]
    assert len(set(answers)) == 1 and answers[0]
    wanted = {"model": model, "messages": messages, "temperature": 0.0, "max_tokens": 12}
    assert [{name: body[name] for name in wanted} for body in asked] == [wanted] * len(answers)
    assert {name for body in asked for name in body} == {*wanted, "stream"}, "and nothing else"


def test_separate_asks_once_for_each_chunk(server, tmp_path, asked):
    run = open_run(store_of(tmp_path, server, context="separate"), "small")
    response = run.query_engine("base").query(QUESTION)
    texts = [body["messages"][1]["content"].split("---------------------\n")[1].strip() for body in asked]
    assert sorted(texts) == TEXTS[:2] and len(response.source_nodes) == 2
    assert "purr" in str(response)


def test_the_retriever_finds_by_the_served_embedder(store):
    (first, second) = open_run(store, "small").retriever("lm").retrieve(QUESTION)
    assert (first.node.node_id, first.node.metadata["page"]) == ("a.txt#00000", 1)
    assert first.score > second.score
    for arm in ("closed_book", "lm_closed_book"):
        with pytest.raises(ConfigError, match=f"{arm} reads no documents"):
            open_run(store, "small").retriever(arm)


def test_a_model_that_llamaindex_does_not_know_is_asked_by_chat(server, tmp_path, asked):
    run = open_run(store_of(tmp_path, server, name=UNKNOWN, context_tokens=5000), "small")
    llm = run.llm("base")
    assert (llm.metadata.context_window, llm.metadata.is_chat_model) == (5000, True)
    assert llm.complete("Why?").text and asked[0]["messages"][1] == {"role": "user", "content": "Why?"}
    assert open_run(store_of(tmp_path / "b", server, name=UNKNOWN), "small").llm("base").metadata.context_window == 3900
    assert run.llm("lm").model == TUNED


def test_neither_the_object_nor_a_pickle_of_it_holds_the_key(store):
    llm = open_run(store, "small").llm("lm")
    assert llm.complete("Why?").text
    assert KEY not in f"{llm!r} {llm} {llm.to_dict()} {llm.to_json()} {llm.model_dump()} {llm.__getstate__()}"
    assert "$OPENAI_API_KEY" in repr(llm)


def test_a_key_that_openai_needs_and_nobody_set_is_named(server, tmp_path, monkeypatch):
    run = open_run(store_of(tmp_path, server), "small")
    plain = run.config.model_dump()
    plain["models"]["lm"] |= {"base_url": "https://api.openai.com/v1", "api_key_env": "NO_SUCH_KEY"}
    run.config = Config.model_validate(plain)
    for ask in (run.llm, run.query_engine):
        with pytest.raises(ConfigError, match="NO_SUCH_KEY"):
            ask("base")


def test_an_answer_that_the_content_filter_cut_is_an_error(store, server):
    server.misbehave(kind="filtered", on="chat")
    try:
        with pytest.raises(InputError, match="content filter"):
            open_run(store, "small").query_engine("base").query(QUESTION)
    finally:
        server.behave()


def test_radit_ask_needs_no_deep_learning_library(store):
    code = (
        "import sys; from radit_job.cli import main\ntry: main()\n"
        "finally: print('loaded:', sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "ask", "small", QUESTION, "--arm", "lm", "--store", store],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer, rest = done.stdout.split("\n\nSources:\n")
    assert "purr" in answer and "a.txt, page 1" in rest and "loaded: []" in rest
