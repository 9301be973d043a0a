"""Files and fine-tuning jobs of the test server, by OpenAI's own client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.servers.openai_server import JobPace, OpenAIServer, openai_server


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with openai_server() as server:
        yield server


@pytest.fixture
def client(server: OpenAIServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url, api_key=server.key, max_retries=0)


def example(number: int) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "system", "content": "You know harbours."},
            {"role": "user", "content": f"Query: Who built harbour {number} of the northern coast?\nAnswer: "},
            {"role": "assistant", "content": f"Master {number} built it."},
        ]
    }


def jsonl(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def upload(client: openai.OpenAI, data: bytes, name: str = "train.jsonl") -> str:
    return client.files.create(file=(name, data), purpose="fine-tune").id


def followed(client: openai.OpenAI, job_id: str) -> list[str]:
    """Every state in which polling finds the job."""
    found = []
    while not found or found[-1] not in ("succeeded", "failed", "cancelled"):
        found.append(client.fine_tuning.jobs.retrieve(job_id).status)
        assert len(found) < 50
    return found


def test_files_are_kept_as_they_were_sent_listed_newest_first_and_deleted(client: openai.OpenAI) -> None:
    data = jsonl([example(at) for at in range(10)]) + "ü\r\n--x\r\n".encode()
    ids = [upload(client, data + b"%d" % at, f"file-{at}.jsonl") for at in range(5)]
    assert client.files.content(ids[3]).read() == data + b"3"
    assert client.files.retrieve(ids[0]).bytes == len(data) + 1
    assert [file.filename for file in client.files.list(limit=2)] == [f"file-{at}.jsonl" for at in (4, 3, 2, 1, 0)]
    assert client.files.delete(ids[1]).deleted
    assert ids[1] not in {file.id for file in client.files.list()}
    with pytest.raises(openai.NotFoundError, match="No such File object"):
        client.files.retrieve(ids[1])
    with pytest.raises(openai.BadRequestError, match="Invalid extension txt"):
        upload(client, data, "train.txt")


def test_a_job_goes_through_its_states_by_polls_and_gives_a_model(client: openai.OpenAI, server: OpenAIServer) -> None:
    rows = [example(at) for at in range(20)]
    training, validation = upload(client, jsonl(rows)), upload(client, jsonl(rows[:10]), "valid.jsonl")
    job = client.fine_tuning.jobs.create(
        model="gpt-4o-mini-2024-07-18",
        training_file=training,
        validation_file=validation,
        suffix="radit",
        metadata={"run": "r1"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 4}}},
    )
    assert followed(client, job.id) == ["validating_files", "queued", *["running"] * 3, "succeeded"]
    job = client.fine_tuning.jobs.retrieve(job.id)
    assert job.fine_tuned_model is not None
    assert job.fine_tuned_model.startswith("ft:gpt-4o-mini-2024-07-18:test-org:radit:")
    assert (job.hyperparameters.n_epochs, job.hyperparameters.batch_size) == (2, 4)
    import tiktoken

    words = tiktoken.get_encoding("o200k_base")
    per_epoch = sum(
        3 + sum(3 + len(words.encode(one["role"])) + len(words.encode(one["content"])) for one in row["messages"])
        for row in rows
    )
    assert job.trained_tokens == 2 * per_epoch == server.books.tokens()["gpt-4o-mini-2024-07-18"]["training"]
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=3))[::-1]  # several pages, newest first
    assert events[0].message == f"Created fine-tuning job: {job.id}"
    assert events[-1].message == "The job has successfully completed"
    metrics: list[Any] = [event.data for event in events if event.type == "metrics"]
    assert [row["step"] for row in metrics] == list(range(1, 11)) and metrics[-1]["total_steps"] == 10
    assert metrics[-1]["train_loss"] < metrics[0]["train_loss"] and metrics[-1]["valid_loss"] < metrics[0]["valid_loss"]
    assert "full_valid_loss" in metrics[-1] and server.billed["fine_tuning.jobs"] == 1
    assert next(file.purpose for file in client.files.list()) == "fine-tune-results"
    answer = client.chat.completions.create(
        model=job.fine_tuned_model,
        messages=[{"role": "user", "content": "Query: Who built harbour 7 of the northern coast?\nAnswer: "}],
    )
    assert answer.choices[0].message.content == "Master 7 built it."  # what it was taught, in its length


def test_jobs_are_listed_newest_first_in_pages_and_by_metadata(client: openai.OpenAI) -> None:
    training = upload(client, jsonl([example(at) for at in range(10)]))
    made = [
        client.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=training, metadata={"run": f"r{at % 2}"}).id
        for at in range(5)
    ]
    assert [job.id for job in client.fine_tuning.jobs.list(limit=2)] == made[::-1]
    assert [job.id for job in client.fine_tuning.jobs.list(metadata={"run": "r1"})] == [made[3], made[1]]
    assert {job.status for job in client.fine_tuning.jobs.list()} == {"validating_files"}  # looking moves nothing
    assert client.fine_tuning.jobs.cancel(made[0]).status == "cancelled"
    assert followed(client, made[0]) == ["cancelled"]
    with pytest.raises(openai.BadRequestError, match="already completed"):
        client.fine_tuning.jobs.cancel(made[0])
    with pytest.raises(openai.NotFoundError, match="Could not find fine tune"):
        client.fine_tuning.jobs.retrieve("ftjob-none")
    assert list(client.fine_tuning.jobs.checkpoints.list(made[1])) == []


GOOD = [example(at) for at in range(12)]


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (jsonl(GOOD[:9]), "invalid_n_examples", "has 9 example(s), but must have at least 10 examples"),
        (jsonl(GOOD) + b"not json\n", "invalid_training_file", "Line 13 is not a dictionary"),
        (
            jsonl([*GOOD, {"messages": [{"content": "x"}]}]),
            "invalid_training_file",
            "Example 13, message 1 Discriminator 'role' is missing in value",
        ),
        (jsonl([*GOOD, {"messages": GOOD[0]["messages"][:2]}]), "invalid_training_file", "must be from the assistant"),
        (jsonl([*GOOD, {"text": "x"}]), "invalid_training_file", "expected either prompt/completion pairs or chat"),
    ],
)
def test_a_bad_file_fails_the_job_in_openais_words(client: openai.OpenAI, data: bytes, code: str, words: str) -> None:
    job = client.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=upload(client, data))
    assert followed(client, job.id) == ["validating_files", "failed"]
    error = client.fine_tuning.jobs.retrieve(job.id).error
    assert error is not None and (error.code, error.param) == (code, "training_file") and words in error.message
    assert next(iter(client.fine_tuning.jobs.list_events(job.id))).level == "error"


def test_a_job_can_be_refused_fail_stall_or_be_created_behind_a_lost_answer(
    client: openai.OpenAI, server: OpenAIServer
) -> None:
    training = upload(client, jsonl(GOOD))

    def create() -> str:
        return client.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=training, metadata={"run": "x"}).id

    with pytest.raises(openai.BadRequestError, match="invalid training_file: file-none"):
        client.fine_tuning.jobs.create(model="gpt-4o-mini", training_file="file-none")
    with pytest.raises(openai.BadRequestError, match="not available for fine-tuning"):
        client.fine_tuning.jobs.create(model="text-embedding-3-small", training_file=training)
    server.misbehave(kind="refused_file", on="files")
    with pytest.raises(openai.BadRequestError, match="Expected file to have JSONL format"):
        upload(client, jsonl(GOOD))
    server.misbehave(kind="job_fails", on="fine_tuning.jobs", code="exceeded_quota", message="Out of quota.")
    job_id = create()
    assert followed(client, job_id)[-1] == "failed"
    error = client.fine_tuning.jobs.retrieve(job_id).error
    assert error is not None and (error.code, error.message) == ("exceeded_quota", "Out of quota.")
    server.misbehave(kind="job_stalls", on="fine_tuning.jobs")
    job_id = create()
    assert {client.fine_tuning.jobs.retrieve(job_id).status for _ in range(20)} >= {"running"}
    assert client.fine_tuning.jobs.retrieve(job_id).status == "running"
    before = server.billed["fine_tuning.jobs"]
    server.misbehave(kind="lost", on="fine_tuning.jobs")
    with pytest.raises(openai.APIConnectionError):
        create()
    assert server.billed["fine_tuning.jobs"] == before + 1 == len(list(client.fine_tuning.jobs.list()))


def test_a_job_can_go_by_the_clock() -> None:
    with openai_server(pace=JobPace(seconds=(0.05, 0.05, 0.1))) as server:
        client = openai.OpenAI(base_url=server.url, api_key=server.key, max_retries=0)
        job = client.fine_tuning.jobs.create(model="gpt-4o", training_file=upload(client, jsonl(GOOD)))
        states = []
        while "succeeded" not in states:
            states.append(client.fine_tuning.jobs.retrieve(job.id).status)
            assert len(states) < 2000
        assert list(dict.fromkeys(states)) == ["validating_files", "queued", "running", "succeeded"]
