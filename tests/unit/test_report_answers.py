import dataclasses

import pytest

from radit_job.records import Prediction, Score
from radit_job.report.answers import Sources, compared_arms, comparisons, extremes, place
from radit_job.report.labels import duration, metric_label, number, size


def prediction(question, arm, *, split="val", chunk_ids=("doc#00000",), finish="stop", error=None):
    return Prediction(
        question_id=question,
        arm=arm,
        split=split,
        question=f"{question}?",
        reference="yes",
        answer="" if error else "answer",
        chunk_ids=chunk_ids,
        scores=(),
        gold_chunk_ids=("doc#00000",),
        gold_rank=1,
        n_prompt_tokens=1,
        n_completion_tokens=1,
        finish_reason=finish,
        answer_nats_per_token=None,
        error=error,
    )


def score(question, arm, value, *, split="val", metric="token_f1"):
    return Score(question, arm, split, metric, value, None if value is not None else "failed")


def compare(rows, scores, arms=("base", "lm")):
    return comparisons(rows, scores, arms=arms, metric="token_f1", pages={"doc#00000": 3})


def test_the_difference_is_the_tuned_arm_minus_base():
    rows = [prediction("a", "base"), prediction("a", "lm")]
    (found,) = compare(rows, [score("a", "base", 0.2), score("a", "lm", 0.7), score("a", "lm", 0.1, metric="rouge_l")])
    assert found.difference == pytest.approx(0.5)
    assert found.group == "better"
    assert [(answer.arm, answer.score) for answer in found.answers] == [("base", 0.2), ("lm", 0.7)]
    assert found.retrieved == (Sources("retrieved", (("doc#00000", "doc, p. 3", True),), 1),)


def test_training_questions_are_not_shown():
    rows = [prediction("a", "base"), prediction("b", "base", split="train")]
    found = compare(rows, [score("a", "base", 0.2), score("a", "base", 0.9, split="train")])
    assert [(row.question_id, row.answers[0].score) for row in found] == [("a", 0.2)]


def test_a_failed_score_gives_no_difference():
    rows = [prediction("a", "base"), prediction("a", "lm", error="out of memory")]
    (found,) = compare(rows, [score("a", "base", 0.2), score("a", "lm", None)])
    assert found.difference is None
    assert found.group == "failed"
    assert found.answers[1].note == "no answer: out of memory"


def test_an_answer_that_was_cut_off_says_so():
    (found,) = compare([prediction("a", "lm", finish="length")], [])
    assert found.answers[0].note.startswith("cut off")


def test_the_sources_come_from_an_arm_that_retrieved():
    rows = [prediction("a", "closed_book", chunk_ids=()), prediction("a", "base")]
    (found,) = compare(rows, [], arms=("closed_book", "base"))
    assert [chunk for chunk, _, _ in found.retrieved[0].chunks] == ["doc#00000"]


def test_each_retriever_s_chunks_are_shown_once():
    rows = [prediction("a", arm) for arm in ("base", "lm")]
    same = [prediction("a", arm) for arm in ("retriever", "dual")]
    other = [dataclasses.replace(row, chunk_ids=("doc#00007", "doc#00000"), gold_rank=2) for row in same]
    arms = ("base", "lm", "retriever", "dual")
    (found,) = compare([*rows, *other], [], arms)
    assert [(row.title, len(row.chunks), row.gold_rank) for row in found.retrieved] == [
        ("retrieved", 1, 1),
        ("by the tuned retriever", 2, 2),
    ]
    (found,) = compare([*rows, *same], [], arms)
    assert [row.title for row in found.retrieved] == ["retrieved, tuned or not"]
    (found,) = compare([prediction("a", "closed_book", chunk_ids=())], [], ("closed_book",))
    assert found.retrieved == ()


@pytest.mark.parametrize(
    ("arms", "expected"),
    [
        (("closed_book", "base", "few_shot", "lm"), ("lm", "base")),
        (("base", "few_shot"), ("few_shot", "base")),
        (("closed_book", "lm"), ("lm", "closed_book")),
        (("closed_book", "base"), ("base", "closed_book")),
        (("base",), ("base", None)),
        (("lm_closed_book", "base", "closed_book"), ("lm_closed_book", "closed_book")),
        (("closed_book", "base", "lm", "lm_closed_book"), ("lm", "base")),
        (("closed_book", "base", "lm", "retriever", "dual"), ("lm", "base")),
        (("base", "retriever", "dual"), ("dual", "base")),
        (("base", "few_shot", "retriever"), ("retriever", "base")),
    ],
)
def test_the_arms_that_are_compared(arms, expected):
    assert compared_arms(arms) == expected


def test_one_arm_alone_is_sorted_by_its_score():
    (found,) = compare([prediction("a", "base")], [score("a", "base", 0.4)], arms=("base",))
    assert found.difference == pytest.approx(0.4)


def test_worst_and_best_share_no_question():
    names = "abcdefg"
    rows = [prediction(name, arm) for name in names for arm in ("base", "lm")]
    scores = [score(name, "base", 0.0) for name in names]
    scores += [score(name, "lm", position / 10) for position, name in enumerate(names)]
    worst, best = extremes(compare(rows, scores))
    assert [row.question_id for row in worst] == ["a", "b", "c"]
    assert [row.question_id for row in best] == ["g", "f", "e"]


@pytest.mark.parametrize(
    ("chunk_id", "page", "expected"),
    [
        ("llama.pdf#00012", 4, "llama.pdf, p. 4"),
        ("notes/a#b.md#00000", None, "notes/a#b.md, chunk 1"),
        ("unheard of", None, "unheard of"),
    ],
)
def test_a_chunk_is_named_by_its_place(chunk_id, page, expected):
    assert place(chunk_id, page) == expected


def test_numbers_as_a_person_reads_them():
    assert number(-0.25, signed=True) == "−0.25"
    assert number(0.25, signed=True) == "+0.25"
    assert number(-0.001) == "0.00"
    assert number(None) == "–"
    assert [duration(seconds) for seconds in (0.04, 9.96, 59.7, 312, 7380)] == [
        "0.0 s",
        "10 s",
        "1 min 00 s",
        "5 min 12 s",
        "2 h 03 min",
    ]
    assert [size(n_bytes) for n_bytes in (12, 4096, 93 * 2**20, 3 * 2**40)] == [
        "12 B",
        "4.0 KiB",
        "93.0 MiB",
        "3.0 TiB",
    ]


def test_every_metric_has_a_label():
    assert metric_label("recall_at_5").name == "recall@5"
    assert metric_label("answer_nats_per_token").better == "lower"
    assert metric_label("answer_words").better is None
    assert metric_label("a_new_one").name == "a new one"
