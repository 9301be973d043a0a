"""Fine-tuning by an API, the parts without a service: rows, orders, recognising a job, reading its events."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from radit_job import observe
from radit_job.errors import InputError
from radit_job.records import Example, Message
from radit_job.training.api_examples import TrainingData, mistakes, refuse_mistakes, training_data
from radit_job.training.api_history import losses_of
from radit_job.training.api_order import TAG, JobOrder, JobRecord, order_of
from radit_job.training.api_wait import explain_end

SYSTEM, USER, ANSWER = Message("system", "Answer."), Message("user", "Where?"), Message("assistant", "Here.")


def example(*messages: Message, number: int = 0) -> Example:
    return Example(f"q{number}", "Where?", f"chunk{number}", (), (), None, messages)


def words(messages: Sequence[Message]) -> int:
    return sum(len(message.content.split()) for message in messages)


# ---- rows


@pytest.mark.parametrize(
    ("messages", "wrong"),
    [
        ([SYSTEM, USER, ANSWER], []),
        ([USER, ANSWER], []),
        ([USER, ANSWER, USER, ANSWER], []),
        ([], ["no messages"]),
        ([SYSTEM, USER], ["the last message is not the assistant's"]),
        ([SYSTEM, ANSWER], ["user and assistant do not take turns, the user first"]),
        ([USER, SYSTEM, ANSWER], ["a system message that is not the first"]),
        ([USER, USER, ANSWER], ["user and assistant do not take turns, the user first"]),
        ([SYSTEM, USER, Message("assistant", " \n")], ["an empty answer"]),
        ([SYSTEM, Message("user", ""), ANSWER], ["an empty user message"]),
        (
            [Message("tool", "x"), USER, ANSWER],  # type: ignore[arg-type]
            [
                "a role other than system, user and assistant",
                "user and assistant do not take turns, the user first",
            ],
        ),
    ],
)
def test_what_is_wrong_with_a_conversation_is_named(messages: list[Message], wrong: list[str]) -> None:
    assert mistakes(messages) == wrong


def test_the_three_most_common_mistakes_are_named_with_their_number_and_lines() -> None:
    good, empty = example(SYSTEM, USER, ANSWER), example(SYSTEM, USER, Message("assistant", ""))
    rows = [good, *[empty] * 5, example(), example(), example(USER), good, example(USER, SYSTEM, ANSWER), example()]
    with pytest.raises(InputError) as caught:
        refuse_mistakes(rows, where="examples.jsonl")
    assert str(caught.value) == (
        "examples.jsonl: 10 of 12 training examples cannot be sent: an empty answer: 5, lines 2, 3, 4, ...; "
        "no messages: 3, lines 7, 8, 12; the last message is not the assistant's: 1, line 9; others: 1\n"
        "  Nothing was sent. Correct the questions and answers that they are made from."
    )
    refuse_mistakes([good], where="examples.jsonl")


def test_rows_that_are_too_long_are_dropped_counted_and_said() -> None:
    told: list[dict[str, Any]] = []
    observe.send_events_to(told.append)
    short, long = example(USER, ANSWER), example(Message("user", "word " * 30), ANSWER)
    data = training_data([short] * 10 + [long] * 2, [short, long], words, max_tokens=20)
    assert data.validation is not None
    assert (data.training.n_rows, data.validation.n_rows, data.n_dropped) == (10, 1, 3)
    assert (data.training.n_tokens, data.validation.n_tokens) == (20, 2)
    assert told[-1]["n_dropped"] == 3
    assert "3 of 14 examples are longer than 20 tokens" in told[-1]["message"]


def test_fewer_than_ten_rows_are_refused_with_the_reasons() -> None:
    short, long = example(USER, ANSWER), example(Message("user", "word " * 30), ANSWER)
    training_data([short] * 10, [], words, max_tokens=20)
    with pytest.raises(InputError, match=r"10 training examples or more, and there are 9 \(1 held out, 3 dropped"):
        training_data([short] * 9 + [long] * 3, [short], words, max_tokens=20)


def test_a_row_is_one_line_for_every_reader_of_lines() -> None:
    texts = "one\u2028two\u2029three\x85four\nfive\x0bsix ü"
    rows = [example(Message("user", texts), ANSWER)] * 10
    file = training_data(rows, [], words, max_tokens=100).training
    lines = file.data.decode().splitlines()
    assert len(lines) == 10
    assert json.loads(lines[0]) == {
        "messages": [{"role": "user", "content": texts}, {"role": "assistant", "content": "Here."}]
    }
    assert "ü" in lines[0]


# ---- orders


def data_of(text: str = "Here.", *, held_out: bool = True) -> TrainingData:
    row = example(USER, Message("assistant", text))
    return training_data([row] * 10, [row] if held_out else [], words, max_tokens=100)


def order(data: TrainingData | None = None, **changes: Any) -> JobOrder:
    asked: dict[str, Any] = {
        "training_files": ("file-1", "file-2"),
        "validation_files": ("file-3",),
        "epochs": 3,
        "batch_size": None,
        "learning_rate_multiplier": 1.5,
        "suffix": "mine",
        "seed": 7,
    }
    model = changes.pop("model", "gpt-x")
    return order_of(model, data or data_of(), **{**asked, **changes})


def test_the_request_is_that_of_todays_api() -> None:
    assert order().body() == {
        "model": "gpt-x",
        "training_file": "file-1",
        "validation_file": "file-3",
        "method": {
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 3, "learning_rate_multiplier": 1.5}},
        },
        "suffix": "mine",
        "seed": 7,
        "metadata": {TAG: order().tag},
    }
    assert order(validation_files=(), suffix=None).body().keys().isdisjoint({"validation_file", "suffix"})
    assert 0 <= order(seed=2**40 + 3).body()["seed"] < 2**31


def test_equal_orders_have_equal_tags_whatever_their_files_are_called() -> None:
    assert order().tag == order(training_files=("file-9",), validation_files=()).tag
    others = [
        order(model="gpt-y"),
        order(epochs=4),
        order(batch_size=2),
        order(learning_rate_multiplier=None),
        order(suffix=None),
        order(seed=8),
        order(data_of("There.")),
        order(data_of(held_out=False)),
    ]
    assert len({order().tag, *(other.tag for other in others)}) == len(others) + 1
    assert len(order().tag) < 512  # the API's limit for a metadata value


def told_job(**changes: Any) -> dict[str, Any]:
    """A job for `order()` as a service tells it that drops metadata."""
    return {
        "id": "ftjob-1",
        "created_at": 100,
        "status": "running",
        "model": "gpt-x-2030-01-31",
        "training_file": "file-2",
        "validation_file": "file-3",
        "seed": 7,
        "user_provided_suffix": "mine",
        "hyperparameters": {"n_epochs": 3, "batch_size": "auto", "learning_rate_multiplier": 1.5},
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "is_met"),
    [
        ({}, True),
        ({"metadata": {}}, True),
        ({"metadata": {TAG: order().tag}, "training_file": "file-77"}, True),
        ({"metadata": {TAG: "sha256:0"}}, False),
        ({"metadata": {"by": "hand"}}, False),
        ({"training_file": "file-3"}, False),
        ({"validation_file": None}, False),
        ({"model": "gpt-x-mini"}, False),
        ({"seed": 8}, False),
        ({"user_provided_suffix": "yours"}, False),
        ({"hyperparameters": {"n_epochs": 4}}, False),
        ({"hyperparameters": {}, "method": {"supervised": {"hyperparameters": {"n_epochs": 4}}}}, False),
        ({"hyperparameters": None, "seed": None, "user_provided_suffix": None}, True),
    ],
)
def test_a_job_is_known_by_its_tag_or_else_by_all_that_the_service_tells(changes: dict[str, Any], is_met: bool) -> None:
    assert order().is_met_by(told_job(**changes)) is is_met


def test_the_job_to_go_on_with_is_the_one_that_succeeded_else_the_oldest_that_lives() -> None:
    def job(name: str, status: str, created_at: int) -> dict[str, Any]:
        return told_job(id=name, status=status, created_at=created_at)

    dead = [job("a", "failed", 1), job("b", "cancelled", 2)]
    living = [job("d", "queued", 5), job("c", "running", 4), job("e", "paused", 4)]
    assert order().choose(dead) is None
    assert (order().choose([*dead, *living]) or {})["id"] == "c"
    assert (order().choose([*living, job("f", "succeeded", 9)]) or {})["id"] == "f"


def test_of_several_jobs_for_one_order_only_those_that_are_surely_ours_are_surplus() -> None:
    tagged = {"metadata": {TAG: order().tag}}
    chosen = told_job(id="a", created_at=1, **tagged)
    jobs = [
        chosen,
        told_job(id="b", created_at=2, **tagged),
        told_job(id="c", created_at=3, status="succeeded", **tagged),
        told_job(id="d", created_at=4, status="cancelled", **tagged),
        told_job(id="by-hand", created_at=5),
        told_job(id="own", created_at=6),
        told_job(id="other", created_at=7, metadata={TAG: "sha256:0"}),
    ]
    assert order().surplus(jobs, chosen, own_id="own") == ["b", "own"]
    assert order().surplus(jobs, chosen, own_id="a") == ["b"]


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert JobRecord.load(tmp_path) is None
    record = JobRecord(order(), "http://here/v1", "MY_KEY", "ftjob-1", is_paid_here=False)
    record.save(tmp_path)
    assert JobRecord.load(tmp_path) == record
    JobRecord.delete(tmp_path)
    JobRecord.delete(tmp_path)
    assert JobRecord.load(tmp_path) is None


# ---- what a job tells


def test_the_curve_is_made_of_the_metrics_events() -> None:
    def metrics(**data: Any) -> dict[str, Any]:
        return {"type": "metrics", "data": data}

    events: list[dict[str, Any]] = [
        {"type": "message", "message": "started", "data": {}},
        {"type": "message", "message": "started", "data": None},
        metrics(step=1, train_loss=2.0, valid_loss=2.5, total_steps=4),
        metrics(step=2, train_loss=1.5, valid_loss=float("nan"), total_steps=4),
        metrics(step=4, train_loss=1.0, valid_loss=0.1, total_steps=4),
    ]
    curve = losses_of(events)
    assert curve.steps == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}, {"step": 4, "loss": 1.0}]
    assert curve.evaluations == [{"step": 1, "dev_loss": 2.5}, {"step": 4, "dev_loss": 0.1}]
    assert curve.n_steps == 4
    whole = losses_of([*events, metrics(step=4, full_valid_loss=1.2)])
    assert whole.evaluations == [{"step": 4, "dev_loss": 1.2}], "single held-out batches are another measure"
    assert whole.steps == curve.steps
    assert (losses_of([]).steps, losses_of([]).n_steps) == ([], None)


def test_an_end_is_explained_in_the_services_words() -> None:
    error = {"code": "exceeded_quota", "message": "You have no credit.", "param": None}
    failed = explain_end(told_job(status="failed", error=error), "http://here/v1")
    assert str(failed) == (
        "http://here/v1: the fine-tuning job ftjob-1 failed: You have no credit. (code exceeded_quota)\n"
        "  Put that right; another `radit run` orders a new job."
    )
    error = {"code": "invalid_n_examples", "message": "Too few.", "param": "validation_file"}
    assert "dev_share" in str(explain_end(told_job(status="failed", error=error), ""))
    assert "does not say why" in str(explain_end(told_job(status="failed", error=None), ""))
    assert "orders a new one" in str(explain_end(told_job(status="cancelled"), ""))
