"""The pure parts of the latency benchmark: floors, parts, rounds, rows, readings and warnings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from radit_job.latency.base import PARTS, TASKS, Call, Part, Task, Timed
from radit_job.latency.floor import Floor, Machine, ModelSize, Work, floor, shared_tokens
from radit_job.latency.mistakes import answers_in_the_corpus, chunks_twice, prompt_mistakes, sampling_without_sampling
from radit_job.latency.reading import readings
from radit_job.latency.rounds import Group, Plan, n_asked, run_rounds
from radit_job.latency.summary import calls, summarize, timings

SIZE = ModelSize(n_body=90, n_head=10, bytes_per_weight=2, kv_bytes_per_token=4, attention_width=3)
FAST = 1e12  # so much of one that only the other counts


def timed(total_s: float, *, first_s: float | None = 0.5, error: str | None = None, **parts_s: float) -> Timed:
    known: dict[Part, float] = {part: parts_s.get(part, 0.0) for part in PARTS}
    known["other"] = total_s - sum(known.values())
    return Timed(total_s, known, first_s, () if error else (Call("prompt", "answer", 100, 10),), error)


def group(engine: str, task: Task, n_clients: int, *answers: Timed, repetition: int = 0) -> Group:
    return Group(engine, task, n_clients, repetition, [f"q{n}" for n in range(len(answers))], answers)


# The floor


def test_prefill_takes_at_least_its_arithmetic() -> None:
    found = floor(SIZE, Machine(FAST, 1.0), Work([7], [1], [0]))
    # Each of 7 tokens with 90 weights, the last one with the 10 of the head, and 7 * 7 / 2 pairs with 3 numbers each.
    assert found.prefill_s == 2 * 90 * 7 + 2 * 10 + 4 * 3 * 7 * 7 / 2
    assert found.decode_s == 0, "the first token comes with the prefill"


def test_prefill_reads_the_weights_at_least_once() -> None:
    assert floor(SIZE, Machine(1.0, FAST), Work([7, 9], [1, 1], [0, 0])).prefill_s == 100 * 2


def test_what_prompts_share_is_read_once() -> None:
    alone, shared = (floor(SIZE, Machine(FAST, 1.0), Work([7, 7], [1, 1], [0, n])).prefill_s for n in (0, 5))
    pairs = (7 * 7 + 7 * 7 - 5 * 5) / 2
    assert shared == 2 * 90 * (7 + 7 - 5) + 2 * 10 * 2 + 4 * 3 * pairs
    assert alone == 2 * 90 * 14 + 2 * 10 * 2 + 4 * 3 * 7 * 7


def test_each_step_reads_the_weights_and_the_keys_and_values_so_far() -> None:
    found = floor(SIZE, Machine(1.0, FAST), Work([7], [3], [0]))
    assert found.decode_s == 2 * 200 + 4 * (8 + 9)


def test_a_batch_reads_the_weights_once_a_step_and_who_has_ended_is_read_no_more() -> None:
    found = floor(SIZE, Machine(1.0, FAST), Work([7, 20], [3, 2], [0, 0]))
    assert found.decode_s == (200 + 4 * (8 + 21)) + (200 + 4 * 9)
    busy = floor(SIZE, Machine(FAST, 1.0), Work([7, 20], [3, 2], [0, 0]))
    assert busy.decode_s == 2 * 100 * 3 + 4 * 3 * (8 + 21 + 9), "three tokens, though in two steps"


def test_what_is_shared_is_read_in_no_step_twice() -> None:
    assert floor(SIZE, Machine(1.0, FAST), Work([7, 7], [2, 2], [0, 5])).decode_s == 200 + 4 * (8 + 8 - 5)


def test_each_prompt_shares_the_most_that_another_has() -> None:
    prompts = [[1, 2, 3, 4], [5, 6], [1, 2, 3, 9], [1, 7], [5, 6]]
    assert shared_tokens(prompts) == [0, 0, 3, 1, 2] and shared_tokens([]) == []


# The rounds


class Recorder:
    """An engine that writes down what it is asked."""

    def __init__(self, name: str, asked: list[tuple[Any, ...]], *, is_serial: bool) -> None:
        self.name, self.is_serial, self._asked = name, is_serial, asked

    def ask(self, task: Task, questions: Sequence[str]) -> list[Timed]:
        self._asked.append((self.name, task, tuple(questions)))
        return [timed(1.0) for _ in questions]


def run_recorded(plan: Plan) -> tuple[list[tuple[Any, ...]], list[Group], list[int]]:
    asked: list[tuple[Any, ...]] = []
    behind: list[int] = []
    engines = [Recorder("own", asked, is_serial=False), Recorder("line", asked, is_serial=True)]
    groups = run_rounds(engines, plan, lambda: behind.append(len(asked)))
    return asked, groups, behind


def test_engines_take_turns_and_who_begins_changes_from_round_to_round() -> None:
    asked, _, behind = run_recorded(Plan(["a", "b"], 2, [1], warmup=0, repetitions=2))
    half = len(asked) // 2
    assert [row[0] for row in asked[:4]] == ["own", "line"] * 2
    assert [row[0] for row in asked[half : half + 4]] == ["line", "own"] * 2
    assert [row[1:] for row in asked[::2]] == [row[1:] for row in asked[1::2]], "on the same question"
    assert behind == list(range(1, len(asked) + 1))


def test_warm_up_counts_nowhere_and_each_number_of_clients_has_one() -> None:
    asked, groups, _ = run_recorded(Plan(["a", "b", "c", "d"], 2, [1, 4], warmup=1, repetitions=1))
    own = [row for row in asked if row[0] == "own" and row[1] == "query"]
    assert [len(row[2]) for row in own] == [1, 4, 1, 1, 4]
    mine = [(one.concurrency, one.repetition) for one in groups if (one.engine, one.task) == ("own", "query")]
    assert mine == [(1, 0), (1, 0), (4, 0)]


def test_a_line_of_clients_is_asked_in_one_round_only() -> None:
    _, groups, _ = run_recorded(Plan(["a", "b"], 2, [1, 2], warmup=1, repetitions=3))
    for task in TASKS:
        mine = [(one.concurrency, one.repetition) for one in groups if (one.engine, one.task) == ("line", task)]
        assert [row for row in mine if row[0] == 2] == [(2, 0)] and len([row for row in mine if row[0] == 1]) == 6


@pytest.mark.parametrize(
    ("n_questions", "concurrency", "n_available", "n"),
    [(4, 1, 99, 4), (4, 3, 99, 6), (4, 8, 99, 8), (4, 3, 5, 3), (4, 8, 7, 0), (1, 1, 1, 1)],
)
def test_each_client_asks_as_often_as_any_other(n_questions: int, concurrency: int, n_available: int, n: int) -> None:
    assert n_asked(n_questions, concurrency, n_available) == n


# The rows


def test_a_row_is_made_of_all_its_questions() -> None:
    groups = [
        group("radit", "query", 2, timed(1.0, decode=0.6, first_s=0.2), timed(3.0, decode=1.0, first_s=0.4)),
        group(
            "radit", "query", 2, timed(2.0, decode=0.5, first_s=0.3), timed(2.0, decode=0.5, first_s=0.5), repetition=1
        ),
    ]
    (row,) = summarize(groups, lambda one: Floor(0.25, 0.5 + one.repetition / 2), seed=0)
    assert (row["engine"], row["task"], row["concurrency"], row["n"], row["n_failed"]) == ("radit", "query", 2, 4, 0)
    assert (row["p50_s"], row["mean_s"]) == (2.0, 2.0)
    assert row["p90_s"] == pytest.approx(2.7) and row["p99_s"] == pytest.approx(2.97)
    assert 1.0 <= row["low_s"] < 2.0 < row["high_s"] <= 3.0
    assert row["parts_s"]["decode"] == pytest.approx(0.65) and sum(row["parts_s"].values()) == pytest.approx(2.0)
    assert row["first_token_s"] == pytest.approx(0.35)
    # The clients of a group ask together: 3 s, and then 2 s.
    assert row["completion_tokens_per_s"] == 4 * 10 / 5 and row["queries_per_s"] == 4 / 5
    assert row["floor_s"] == {"prefill": 0.25, "decode": 0.75} and row["times_floor"] == 2.0
    assert (row["n_llm_calls"], row["n_prompt_tokens"], row["n_completion_tokens"]) == (1, 100, 10)


def test_a_failed_question_is_in_no_figure() -> None:
    groups = [group("radit", "query", 2, timed(1.0), timed(50.0, error="refused"))]
    (row,) = summarize(groups, lambda one: None, seed=0)
    assert (row["n"], row["n_failed"], row["p99_s"], row["floor_s"]) == (1, 1, 1.0, None)
    assert row["queries_per_s"] == 1.0, "nor is the time that it took"
    (none,) = summarize([group("radit", "query", 1, timed(1.0, error="refused"))], lambda one: None, seed=0)
    assert (none["n"], none["n_failed"]) == (0, 1)
    assert set(none) == set(row) and all(none[name] is None for name in ("p50_s", "parts_s", "queries_per_s"))


def test_an_engine_that_cannot_tell_the_first_token_has_none() -> None:
    groups = [group("radit", "query", 1, timed(1.0), timed(1.0, first_s=None))]
    assert summarize(groups, lambda one: None, seed=0)[0]["first_token_s"] is None


def test_every_question_has_a_timing_and_one_repetition_shows_its_calls() -> None:
    groups = [
        group("radit", "query", 1, timed(1.0)),
        group("radit", "query", 2, timed(2.0), timed(2.0, error="refused")),
        group("radit", "query", 1, timed(3.0), repetition=1),
    ]
    rows = list(timings(groups))
    assert [(row.concurrency, row.repetition, row.total_s, row.error) for row in rows] == [
        (1, 0, 1.0, None),
        (2, 0, 2.0, None),
        (2, 0, 2.0, "refused"),
        (1, 1, 3.0, None),
    ]
    (shown,) = calls(groups)
    assert (shown.question, shown.prompt, shown.completion) == ("q0", "prompt", "answer")


# What is said


def row(engine: str = "radit", task: str = "query", concurrency: int = 1, **changes: Any) -> dict[str, Any]:
    plain = {
        "engine": engine, "task": task, "concurrency": concurrency, "n": 4, "p50_s": 1.9, "mean_s": 2.0,
        "parts_s": {"embed": 0.0, "retrieve": 0.0, "prompt": 0.0, "prefill": 0.6, "decode": 1.4, "other": 0.0},
        "n_llm_calls": 1.0, "n_prompt_tokens": 212.0, "n_completion_tokens": 32.0, "queries_per_s": 0.5,
        "times_floor": 1.32,
    }  # fmt: skip
    return plain | changes


def test_a_query_is_told_with_its_floor_and_where_its_time_goes() -> None:
    assert readings([row()], k=2, rewrites=4) == [
        "A query takes 1.9 s (median), 1.3 times what this machine allows for 212 prompt and 32 answer tokens.",
        "One query makes 1 LLM call.",
        "Decoding is 70 % of it.",
    ]


def test_without_a_floor_none_is_named() -> None:
    first = "A query takes 1.9 s (median), for 212 prompt and 32 answer tokens."
    assert readings([row(times_floor=None)], k=2, rewrites=4)[0] == first
    assert readings([row(times_floor=0.9)], k=2, rewrites=4)[0] == first, "a floor that was undercut is none"


def test_a_long_prompt_is_explained() -> None:
    parts = {"embed": 0.0, "retrieve": 0.0, "prompt": 0.0, "prefill": 1.66, "decode": 0.34, "other": 0.0}
    said = readings([row(parts_s=parts, n_prompt_tokens=4012.0, n_llm_calls=2.0)], k=8, rewrites=4)
    assert said[1:] == [
        "One query makes 2 LLM calls.",
        "The prompt is 4,012 tokens long, because k is 8: prefill takes 83 % of the time.",
    ]


def test_clients_rewriting_and_the_baseline_are_told_as_they_are() -> None:
    rows = [
        row(),
        row(concurrency=4, queries_per_s=1.5, p50_s=3.8),
        row(task="rewrite", p50_s=0.95),
        row("llamaindex", p50_s=2.66, n_prompt_tokens=280.0),
    ]
    assert readings(rows, k=2, rewrites=4)[3:] == [
        "Rewriting a question into 4 search queries takes 0.95 s, 0.5 times as long as a query.",
        "With 4 clients 3.0 times as many queries are answered a second, and each takes 2.0 times as long.",
        "LlamaIndex's query engine takes 1.4 times as long, with its own prompts: 280 prompt and 32 answer tokens "
        "instead of 212 and 32.",
    ]
    flat = readings([row(), row(concurrency=4, queries_per_s=0.51)], k=2, rewrites=4)
    assert flat[-1] == "More clients at the same time get no more queries answered a second."
    assert readings([row(), row("llamaindex", p50_s=1.2)], k=2, rewrites=4)[-1] == (
        "LlamaIndex's query engine takes 0.6 times as long: it is faster here."
    )
    assert readings([row(n=0)], k=2, rewrites=4) == []


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("<s>[INST] What? [/INST]", None),
        ("<s>[INST] What? [/INST]</s>", "</s> behind its last [/INST]"),
        ("<s>[INST] What? [/INST]</s>\nAnswer:", "</s> behind its last [/INST]"),
        ("<s>[INST] What? [/INST] That. </s><s>[INST] And? [/INST]", None),
        ("<|user|>\nWhat?</s>\n<|assistant|>\n", None),
        ("<|user|>\nWhat?</s>\n", "ends in </s>"),
        ("<s><s>[INST] What? [/INST]", "begins with <s> twice"),
    ],
)
def test_a_prompt_that_ends_where_the_answer_should_begin_is_right(prompt: str, said: str | None) -> None:
    found = prompt_mistakes(prompt, bos="<s>", ends=["</s>"])
    assert len(found) == (said is not None) and (said is None or said in found[0])


def test_sampling_settings_without_sampling_are_told() -> None:
    plain = {"do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 50}
    assert sampling_without_sampling(plain) is None
    assert sampling_without_sampling(plain | {"temperature": 0.7, "do_sample": True}) is None
    said = sampling_without_sampling(plain | {"temperature": 0.7})
    assert said is not None and "sets temperature 0.7 while do_sample is false" in said


def test_a_corpus_indexed_twice_is_told_and_a_repeated_heading_is_not() -> None:
    texts = [f"Paragraph {n}." for n in range(30)]
    assert chunks_twice([*texts, texts[0]]) is None and chunks_twice([]) is None
    said = chunks_twice([*texts, *(f" {text}\n" for text in texts)])
    assert said is not None and said.startswith("30 of 60 chunks are in the index a second time")


def test_the_answer_file_in_the_corpus_is_told() -> None:
    pairs = [("How deep is the lake?", "Forty metres."), ("Who built the mill?", "The monks.")]
    assert answers_in_the_corpus(pairs, [("a#0", "The lake is forty metres deep. The monks built the mill.")]) is None
    said = answers_in_the_corpus(pairs, [("a#0", "Nothing."), ("b#0", "Who built the mill? Answer: The monks.")])
    assert said is not None and "1 of 2 questions" in said and "'Who built the mill?' in b#0" in said
