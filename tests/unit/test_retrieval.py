"""Exact top-k and gold ranks, held against comparing everything with everything."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radit_job.errors import ConfigError
from radit_job.rag import retrieval
from radit_job.rag.retrieval import search
from radit_job.rag.row_blocks import RowBlocks


def unit_rows(rows):
    rows = np.asarray(rows, dtype=np.float32)
    return (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def brute_force(documents, queries, gold_rows):
    """Order of all rows for each query by (similarity in float64, row), and the rank of its best gold row."""
    orders, ranks = [], []
    for query, gold in zip(queries, gold_rows, strict=True):
        similarities = (documents.astype(np.float64) * query.astype(np.float64)).sum(axis=1)
        order = sorted(range(len(documents)), key=lambda row: (-similarities[row], row))
        orders.append(order)
        ranks.append(min((order.index(row) + 1 for row in gold), default=None))
    return orders, ranks


@st.composite
def problems(draw):
    seed = draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    n_documents, n_queries = draw(st.integers(1, 150)), draw(st.integers(1, 12))
    dimension = draw(st.sampled_from([1, 3, 16, 65]))
    documents = random.standard_normal((n_documents, dimension))
    if draw(st.booleans()):  # few distinct values: many ties
        documents = np.round(documents)
    if draw(st.booleans()):  # duplicates, far apart
        documents = documents[random.integers(0, max(1, n_documents // 5), size=n_documents)]
    documents = unit_rows(documents)
    if draw(st.booleans()):  # similar, but for rounding
        documents = np.nextafter(documents, np.float32(random.choice([-1, 1])))
    queries = unit_rows(random.standard_normal((n_queries, dimension)))
    queries[::2] = documents[random.integers(0, n_documents, size=len(queries[::2]))]
    if draw(st.booleans()):  # the worst order for pruning: each row better than those before it
        documents = documents[np.argsort(documents @ queries[0])]
    gold = [random.integers(0, n_documents, size=random.integers(0, 4)).tolist() for _ in queries]
    return documents, queries, draw(st.integers(1, n_documents)), gold


@settings(max_examples=150, deadline=None)
@given(problems(), st.sampled_from([(2, 3), (5, 16), (256, 4096)]))
def test_equals_brute_force_whatever_the_blocks(problem, blocks):
    documents, queries, k, gold = problem
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "QUERY_BLOCK", blocks[0])
        patch.setattr(retrieval, "DOCUMENT_BLOCK", blocks[1])
        found = search(documents, queries, k=k, gold_rows=gold)
        cuts = sorted({0, len(documents) // 3, len(documents) // 2, len(documents)})
        parts = [documents[start:end] for start, end in pairwise(cuts)]
        in_files = search(RowBlocks(tuple(map(len, parts)), documents.shape[1], parts.__getitem__), queries, k=k,
                          gold_rows=gold)  # fmt: skip
    orders, ranks = brute_force(documents, queries, gold)
    assert found.rows.tolist() == in_files.rows.tolist() == [order[:k] for order in orders]
    assert found.gold_ranks == in_files.gold_ranks == ranks
    assert found.similarities.tolist() == in_files.similarities.tolist()


def test_equal_documents_rank_by_row_across_blocks():
    documents = np.tile(unit_rows(np.ones((1, 24))), (9000, 1))
    found = search(documents, documents[:2], k=5, gold_rows=[[8999], [4100, 17]])
    assert found.rows.tolist() == [[0, 1, 2, 3, 4]] * 2
    assert found.gold_ranks == [9000, 18]
    assert len(set(found.similarities.ravel().tolist())) == 1


@pytest.mark.parametrize("block", [16, 4096])
def test_what_float32_cannot_tell_apart_is_told_apart(monkeypatch, block):
    monkeypatch.setattr(retrieval, "DOCUMENT_BLOCK", block)
    random = np.random.default_rng(4)
    one = unit_rows(random.standard_normal((1, 64)))
    documents = np.nextafter(one, random.choice(np.float32([-2, 2]), size=(400, 64)))  # one unit in the last place off
    queries = unit_rows(one + 0.1 * random.standard_normal((8, 64)))
    gold = random.integers(0, 400, size=(8, 2)).tolist()
    found = search(documents, queries, k=7, gold_rows=gold)
    orders, ranks = brute_force(documents, queries, gold)
    assert found.rows.tolist() == [order[:7] for order in orders]
    assert found.gold_ranks == ranks


def test_a_larger_corpus_and_a_memory_map(tmp_path):
    random = np.random.default_rng(3)
    np.save(tmp_path / "vectors.npy", unit_rows(random.standard_normal((20_000, 64))))
    documents = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    queries = unit_rows(random.standard_normal((300, 64)))
    gold = random.integers(0, 20_000, size=(300, 1))
    done = []
    found = search(documents, queries, k=10, gold_rows=gold.tolist(), on_done=done.append)
    similarities = queries.astype(np.float64) @ np.asarray(documents, dtype=np.float64).T
    order = np.argsort(-similarities, axis=1, kind="stable")
    assert (found.rows == order[:, :10]).all()
    assert np.allclose(found.similarities, np.take_along_axis(similarities, order[:, :10], axis=1), atol=1e-12)
    assert found.gold_ranks == (1 + np.argmax(order == gold, axis=1)).tolist()
    assert sum(done) == 20_000


def test_without_gold_there_are_no_ranks():
    documents = unit_rows(np.eye(3))
    assert search(documents, documents[:2], k=1).gold_ranks == [None, None]
    assert search(documents, documents[:2], k=1, gold_rows=[[], [1]]).gold_ranks == [None, 1]


def test_no_queries():
    found = search(unit_rows(np.eye(3)), np.empty((0, 3), np.float32), k=2)
    assert found.rows.shape == (0, 2) and found.gold_ranks == []


def test_k_larger_than_the_corpus_is_a_config_error():
    documents = unit_rows(np.ones((12, 4)))
    with pytest.raises(ConfigError, match=r"retrieval.k is 50, but the corpus has 12 chunks") as caught:
        search(documents, documents, k=50)
    assert caught.value.where == "retrieval.k"
    assert search(documents, documents, k=12).rows.shape == (12, 12)
