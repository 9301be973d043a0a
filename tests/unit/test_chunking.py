"""Chunks are LlamaIndex's own, with offsets and pages that hold."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.node_parser import SentenceSplitter

from radit_job.model_ref import ModelRef
from radit_job.models.token_counter import open_token_counter
from radit_job.rag.chunking import Chunker
from radit_job.rag.documents import Document
from radit_job.rag.sentences import split_sentences

SENTENCES = (
    "The reactor is cooled by sodium. ",
    "Dr. Smith et al. (2020) measured 3.14, not 3!\n",
    "Why? ",
    "A table\n1 2 3\n4 5 6\n\n",
    "Unhyphenatableextraordinarilylongword " * 3,
    "one, two; three: four, five, six, seven, eight, nine, ten, eleven, twelve, " * 4,
    "日本語の文章。",
)


@pytest.fixture(scope="module")
def count_tokens():
    return open_token_counter(ModelRef("packaged", "all-minilm-l6-v2"))


@settings(max_examples=60, deadline=None)
@given(
    pieces=st.lists(st.sampled_from(SENTENCES), min_size=1, max_size=40),
    overlap=st.sampled_from([0, 8]),
    size=st.sampled_from([24, 64]),
)
def test_chunks_equal_the_plain_splitters(count_tokens, pieces, overlap, size):
    text = "".join(pieces).strip()
    plain = SentenceSplitter(chunk_size=size, chunk_overlap=overlap, tokenizer=lambda text: range(count_tokens(text)))
    chunks = list(Chunker(size, overlap, count_tokens).cut(Document("d", (text,), has_pages=False)))
    assert [chunk.text for chunk in chunks] == plain.split_text(text)
    assert all(text[chunk.start_char : chunk.end_char] == chunk.text for chunk in chunks)
    assert all(before.end_char < after.end_char for before, after in pairwise(chunks))
    assert "".join(text.split()) == _union(text, chunks)


def _union(text, chunks):
    """What the chunks cover, without white space."""
    covered = set()
    for chunk in chunks:
        covered |= set(range(chunk.start_char, chunk.end_char))
    return "".join("".join(text[position] for position in sorted(covered)).split())


def test_pages_are_those_on_which_chunks_start(count_tokens):
    pages = tuple(f"Page {number} begins. " + "It goes on and on with words. " * 12 for number in (1, 2, 3))
    document = Document("d.pdf", (pages[0], "", *pages[1:]), has_pages=True)
    chunks = list(Chunker(32, 0, count_tokens).cut(document))
    assert chunks[0].page == 1
    for chunk in chunks:
        before = document.text[: chunk.start_char]
        expected = {0: 1, 1: 1, 2: 3, 3: 4}[before.count("begins") + chunk.text.startswith("Page")]
        assert chunk.page == expected
    assert chunks[-1].page == 4


def test_chunk_ids_and_token_counts(count_tokens):
    chunks = list(Chunker(16, 0, count_tokens).cut(Document("a/b.txt", ("One two three. " * 20,), has_pages=False)))
    assert [chunk.chunk_id for chunk in chunks[:2]] == ["a/b.txt#00000", "a/b.txt#00001"]
    assert all(chunk.n_tokens == count_tokens(chunk.text) <= 16 for chunk in chunks)
    assert chunks[0].page is None


def test_word_counts_equal_whole_text_counts(count_tokens):
    text = "Rozière's LLaMA-65B costs 3.14€, 日本語 [SEP] don't\tpanic… naïve\nx"
    assert count_tokens(text) == count_tokens._count(text)


@given(st.text(alphabet=" \n.?!abAB)\"'", max_size=80))
def test_sentences_lose_nothing(text):
    assert "".join(split_sentences(text)) == text
