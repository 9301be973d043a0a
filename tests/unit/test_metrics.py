"""Metrics against SQuAD's own code, and at their edges."""

import re
import string
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.tokenize import tokenize

from radit_job.rag import metrics


# From SQuAD v1.1's evaluate-v1.1.py (CC BY-SA 4.0), as it is, but for the merged blank lines.
def normalize_answer(s):
    """Lower text and remove punctuation, articles and extra whitespace."""

    def remove_articles(text):
        return re.sub(r"\b(a|an|the)\b", " ", text)

    def white_space_fix(text):
        return " ".join(text.split())

    def remove_punc(text):
        exclude = set(string.punctuation)
        return "".join(ch for ch in text if ch not in exclude)

    def lower(text):
        return text.lower()

    return white_space_fix(remove_articles(remove_punc(lower(s))))


def f1_score(prediction, ground_truth):
    prediction_tokens = normalize_answer(prediction).split()
    ground_truth_tokens = normalize_answer(ground_truth).split()
    common = Counter(prediction_tokens) & Counter(ground_truth_tokens)
    num_same = sum(common.values())
    if num_same == 0:
        return 0
    precision = 1.0 * num_same / len(prediction_tokens)
    recall = 1.0 * num_same / len(ground_truth_tokens)
    f1 = (2 * precision * recall) / (precision + recall)
    return f1


texts = st.one_of(
    st.text(max_size=30),
    st.lists(st.sampled_from(["a", "The", "an", "cat", "cat's", "cat,", "Ünï", "-", "the-cat", "2.5"])).map(" ".join),
)


@given(texts, texts)
def test_equal_to_squad(answer, reference):
    assert metrics.token_f1(answer, reference) == pytest.approx(f1_score(answer, reference))
    assert metrics.exact_match(answer, reference) == float(normalize_answer(answer) == normalize_answer(reference))


@pytest.mark.parametrize(
    ("answer", "reference", "f1", "exact"),
    [
        ("The cat sat.", "the cat SAT", 1.0, 1.0),
        ("cat", "cat cat", 2 / 3, 0.0),  # a word counts as often as both have it
        ("", "cat", 0.0, 0.0),
        ("", "", 0.0, 1.0),
        ("the", "a", 0.0, 1.0),  # only articles: nothing is left to share
        ("Übung macht den Meister", "übung MACHT den Meister!", 1.0, 1.0),
        ("東京", "東京。", 0.0, 0.0),  # only ASCII punctuation is taken away
        ("another theory", "other ory", 0.0, 0.0),  # articles go as words, not as letters
    ],
)
def test_squad_by_hand(answer, reference, f1, exact):
    assert metrics.token_f1(answer, reference) == pytest.approx(f1)
    assert metrics.exact_match(answer, reference) == exact


def test_rouge_l_by_hand():
    # LCS of "police killed the gunman" and "police kill the gunman" is 3 of 4 words (Lin 2004, section 3.2).
    assert metrics.rouge_l("police kill the gunman", "police killed the gunman") == pytest.approx(0.75)
    assert metrics.rouge_l("the gunman kill police", "police killed the gunman") == pytest.approx(0.5)
    assert metrics.rouge_l("", "police") == 0.0


@given(st.one_of(st.text(st.characters(max_codepoint=127), max_size=40), texts.filter(str.isascii)))
def test_rouge_words_of_ascii_texts_are_those_of_rouge_score(text):
    assert metrics.RougeWords().tokenize(text) == tokenize(text, stemmer=None)


def test_rouge_l_reads_every_script():
    assert metrics.rouge_l("Москва — столица", "Москва - столица") == 1.0
    assert metrics.rouge_l("Москва — город", "Москва - столица") == pytest.approx(0.5)
    assert metrics.rouge_l("café", "cafe") == 0.0
    assert metrics.RougeWords().tokenize("東京・RAG_2 はÜber") == ["東", "京", "rag", "2", "は", "über"]
    assert metrics.rouge_l("東京都", "東京") == pytest.approx(0.8)  # 2 of 3 and 2 of 2 characters


def test_answer_words():
    assert metrics.answer_words(" two  words\n", "whatever") == 2
    assert metrics.answer_words("", "whatever") == 0


def test_retrieval_metrics():
    assert [metrics.recall_at(3, rank) for rank in (1, 3, 4)] == [1, 1, 0]
    assert metrics.reciprocal_rank(4) == 0.25
