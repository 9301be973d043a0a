"""What is read in judges' answers: recorded ones with what must come of each, and any text at all."""

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from radit_job.rag.judgement import read_score
from radit_job.rag.verdicts import read_preference, read_yes_no
from tests.unit.judgement_table import READERS, recorded

ROWS = recorded()


@pytest.mark.parametrize("row", ROWS, ids=[f"{row['read_as']}-{row['text'][:40]!r}" for row in ROWS])
def test_a_recorded_judgement_is_read_as_it_was_meant(row):
    found = READERS[row["read_as"]](row["text"])
    assert (found.value, found.reason) == (row["value"], row["reason"])
    assert (found.value is None) == bool(found.reason)


def test_there_are_enough_recorded_scores_of_every_kind():
    scores = [row for row in ROWS if row["read_as"] == "score"]
    assert len(scores) >= 60
    assert sum(row["value"] is None for row in scores) >= 20
    assert len({row["form"] for row in scores}) >= 15


PIECES = [
    "score",
    "Score:",
    "4",
    "5",
    "3.5",
    "/5",
    "/10",
    " ",
    "\n",
    "**",
    "1.",
    "評価",
    "yes",
    "NO",
    "[[A]]",
    "[[B]]",
    "-",
    "½",
]


@given(st.one_of(st.text(max_size=80), st.lists(st.sampled_from(PIECES), max_size=12).map("".join)))
@example("<think>")
@example("٤")
@example("4²")
def test_any_text_gives_a_value_in_range_or_a_reason(text):
    for read, allowed in ((read_yes_no, {0.0, 1.0}), (read_preference, {0.0, 0.5, 1.0})):
        found = read(text)
        assert (found.value in allowed) != bool(found.reason)
    found = read_score(text)
    assert (found.value is not None and 1 <= found.value <= 5) != bool(found.reason)


@pytest.mark.parametrize(
    "text", ["4 " * 20_000, "score " * 20_000, "score 4 of " * 10_000, "I would give " * 10_000, "a" * 100_000]
)
def test_a_judge_that_never_stops_is_read_in_a_moment(text):
    started_s = time.perf_counter()
    for read in READERS.values():
        read(text)
    assert time.perf_counter() - started_s < 5
