"""Character repair, words broken across lines, running headers."""

from hypothesis import given
from hypothesis import strategies as st

from radit_job.rag.cleaning import (
    clean_characters,
    find_running_lines,
    join_broken_words,
    running_line_key,
    tidy_whitespace,
    words_of,
)


def test_ligatures_are_expanded_and_meaningful_characters_stay():
    assert (
        clean_characters("e\ufb03cient \ufb01nal\u00a010² ½ x\u00ad\u200by\r\nz\x00") == "efficient final 10² ½ xy\nz"
    )


def test_accents_are_composed():
    assert clean_characters("Rozie\u0300re") == "Rozière"


def test_a_word_broken_at_a_line_end_is_joined():
    assert join_broken_words("publicly avail-\nable data", words_of([])) == "publicly available data"


def test_hyphens_that_belong_to_the_word_stay():
    known = words_of(["a large-scale corpus, large-scale indeed"])
    assert join_broken_words("LLaMA-\n65B and GPT-\nlike", known) == "LLaMA-65B and GPT-like"
    assert join_broken_words("state-of-\nthe-art", known) == "state-of-the-art"
    assert join_broken_words("a large-\nscale corpus", known) == "a large-scale corpus"


def test_the_joined_form_wins_where_the_document_writes_it():
    assert join_broken_words("per-\nform", words_of(["we perform; per form"])) == "perform"


def test_running_lines_are_those_on_most_pages():
    pages = [
        {running_line_key(f"Annual report {number}"), running_line_key(f"Only on {'abcdef'[number]}")}
        for number in range(6)
    ]
    assert find_running_lines(pages) == {"annual report #"}


def test_two_pages_have_no_running_lines():
    assert find_running_lines([{"title"}, {"title"}]) == frozenset()


@given(st.text())
def test_cleaning_twice_changes_nothing_more(text):
    once = tidy_whitespace(clean_characters(text))
    assert tidy_whitespace(clean_characters(once)) == once
