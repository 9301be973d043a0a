"""Exact nearest chunks by one batched matrix product, without ever holding the product.

The similarity of two vectors is their dot product, summed in float64. That is what ranks; equal similarities rank by
row. A float32 matrix product over blocks only decides which pairs are worth that sum: its error is bounded, so a pair
that falls short of the k-th best by more than the bound cannot be among the k. The result is therefore the same as
that of comparing everything in float64, whatever the block size, the number of threads or the BLAS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from radit_job.errors import ConfigError
from radit_job.rag.row_blocks import RowBlocks

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Similarities = npt.NDArray[np.float64]

# A block of the product is 16 MiB. Smaller ones stay in a faster cache, but each call of the BLAS makes its threads
# wait for each other, which costs far more than that as soon as the machine has something else to do.
QUERY_BLOCK = 1024
DOCUMENT_BLOCK = 4096
PAIR_BLOCK = 8192  # pairs compared in float64 at once: 50 MB at 384 dimensions
CROWD = 8  # a block that sends more than CROWD * k pairs per query onward is first cut down by its own k-th best


@dataclass(frozen=True, slots=True)
class Retrieved:
    """The nearest rows of each query, best first."""

    rows: Rows  # [n_queries, k] rows of the document matrix
    similarities: Similarities  # [n_queries, k]
    gold_ranks: list[int | None]  # 1-based rank of the query's best gold row among ALL rows; None without gold


def search(
    documents: Vectors | RowBlocks,
    queries: Vectors,
    *,
    k: int,
    gold_rows: Sequence[Sequence[int]] | None = None,
    on_done: Callable[[int], None] | None = None,
) -> Retrieved:
    """The k nearest documents of each query, and the rank of its gold document.

    `documents` [n, d] and `queries` [m, d] are float32 with rows of length 1 (or 0); documents may be memory-mapped,
    or in blocks, which changes nothing.
    `gold_rows` holds for each query the rows that answer it. `on_done` is called with the number of documents compared.
    Memory beyond the arguments: a few blocks and [m, k]. Raises ConfigError when k exceeds the number of documents.
    """
    matrix = documents if isinstance(documents, RowBlocks) else RowBlocks.of(documents)
    check_k(k, len(matrix))
    blocks = [
        _QueryBlock(queries[start : start + QUERY_BLOCK], matrix, k, _slice(gold_rows, start))
        for start in range(0, len(queries), QUERY_BLOCK)
    ]
    product = np.empty(QUERY_BLOCK * DOCUMENT_BLOCK, dtype=np.float32)
    for start, rows in matrix.parts(DOCUMENT_BLOCK):
        part = np.ascontiguousarray(rows)
        for block in blocks:
            view = product[: len(block.queries) * len(part)].reshape(len(block.queries), len(part))
            np.matmul(block.queries, part.T, out=view)  # [queries, documents]
            block.take(view, part, start)
        if on_done:
            on_done(len(part))
    return Retrieved(
        rows=np.concatenate([block.rows for block in blocks] or [np.empty((0, k), np.int64)]),
        similarities=np.concatenate([block.similarities for block in blocks] or [np.empty((0, k))]),
        gold_ranks=[rank for block in blocks for rank in block.gold_ranks()],
    )


def check_k(k: int, n_documents: int) -> None:
    """Raise ConfigError when there are fewer than k documents."""
    if k > n_documents:
        raise ConfigError(
            f"retrieval.k is {k}, but the corpus has {n_documents} chunks",
            where="retrieval.k",
            todo="Lower retrieval.k, cut smaller chunks (chunking.size_tokens), or add documents.",
        )


def similarity(left: Vectors, right: Vectors) -> Similarities:
    """Dot products of the rows of two [n, d] matrices, summed in float64: equal rows give equal sums."""
    return np.multiply(left, right, dtype=np.float64).sum(axis=1)


def product_error(dimension: int) -> float:
    """How far a float32 dot product of unit vectors can be from the true one.

    Higham, Accuracy and Stability of Numerical Algorithms, eq. 3.5: |error| <= d*u / (1 - d*u) * |x||y| with u = 2^-24,
    for every order of summation; doubled, to cover the denominator and lengths that are 1 only up to rounding.
    """
    return 2 * dimension * 2.0**-24


def _slice(gold_rows: Sequence[Sequence[int]] | None, start: int) -> Sequence[Sequence[int]] | None:
    return None if gold_rows is None else gold_rows[start : start + QUERY_BLOCK]


class _QueryBlock:
    """The best rows so far of a few hundred queries, and how many rows are better than their gold."""

    def __init__(
        self, queries: Vectors, documents: RowBlocks, k: int, gold_rows: Sequence[Sequence[int]] | None
    ) -> None:
        n_queries = len(queries)
        self.queries = np.ascontiguousarray(queries)
        self.k = k
        self.error = product_error(queries.shape[1])
        self.rows: Rows = np.full((n_queries, k), -1, dtype=np.int64)
        self.similarities: Similarities = np.full((n_queries, k), -np.inf)
        self._gold = _Gold.find(self.queries, documents, gold_rows) if gold_rows is not None else None

    def gold_ranks(self) -> list[int | None]:
        if self._gold is None:
            return [None] * len(self.queries)
        known = dict(zip(self._gold.queries.tolist(), (1 + self._gold.n_better).tolist(), strict=True))
        return [known.get(query) for query in range(len(self.queries))]

    def take(self, product: Vectors, documents: Vectors, start: int) -> None:
        """Merge one block of the product, [queries, documents]; `start` is the row of its first document."""
        # A row may still enter the k best if its true similarity, product +- error, can exceed the k-th best.
        floor = (self.similarities[:, -1] - self.error).astype(np.float32)
        floor = np.nextafter(floor, np.float32(-np.inf))  # never above the float64 value it was rounded from
        hits = np.flatnonzero(product > floor[:, None])
        if len(hits) > CROWD * self.k * len(product) and product.shape[1] > self.k:
            # The k best of this block alone have a product of at least `own`; the true values lie within `error` of it.
            own = np.partition(product, product.shape[1] - self.k, axis=1)[:, product.shape[1] - self.k]
            floor = np.maximum(floor, own - np.float32(2.1 * self.error))
            hits = np.flatnonzero(product >= floor[:, None])
        if len(hits):
            self._merge(*np.divmod(hits, product.shape[1]), documents, start)
        if self._gold is not None:
            self._gold.count(self.queries, product, documents, start, self.error)

    def _merge(self, hit_queries: Rows, hit_columns: Rows, documents: Vectors, start: int) -> None:
        found = _pairwise(self.queries, hit_queries, documents, hit_columns)
        touched = np.unique(hit_queries)
        query = np.concatenate([hit_queries, np.repeat(touched, self.k)])
        rows = np.concatenate([hit_columns + start, self.rows[touched].ravel()])
        values = np.concatenate([found, self.similarities[touched].ravel()])
        order = np.lexsort((rows, -values, query))  # by query, then best first, then by row
        first = np.searchsorted(query[order], touched)  # where each query's candidates begin; it has k or more
        keep = order[first[:, None] + np.arange(self.k)]  # [touched, k]
        self.rows[touched] = rows[keep]
        self.similarities[touched] = values[keep]


@dataclass(slots=True)
class _Gold:
    """The best gold row of those queries in a block that have one."""

    queries: Rows  # [g] which queries of the block
    rows: Rows  # [g] the gold row
    similarities: Similarities  # [g]
    n_better: Rows  # [g] rows found so far that rank before the gold row

    @classmethod
    def find(cls, queries: Vectors, documents: RowBlocks, gold_rows: Sequence[Sequence[int]]) -> _Gold:
        found: list[tuple[int, int, float]] = []
        wanted = np.unique(np.array([row for rows in gold_rows for row in rows], dtype=np.int64))
        vectors = documents.take(wanted)  # all at once: each block is opened once
        for query, candidates in enumerate(gold_rows):
            if len(candidates):
                rows = np.unique(np.asarray(candidates, dtype=np.int64))  # ascending, so the first maximum ranks first
                values = similarity(vectors[np.searchsorted(wanted, rows)], queries[query : query + 1])
                best = int(np.argmax(values))
                found.append((query, int(rows[best]), float(values[best])))
        return cls(
            queries=np.array([query for query, _, _ in found], dtype=np.int64),
            rows=np.array([row for _, row, _ in found], dtype=np.int64),
            similarities=np.array([value for _, _, value in found], dtype=np.float64),
            n_better=np.zeros(len(found), dtype=np.int64),
        )

    def count(self, queries: Vectors, product: Vectors, documents: Vectors, start: int, error: float) -> None:
        """Count what ranks before the gold rows in this block of the product."""
        if not len(self.queries):
            return
        whole = len(self.queries) == len(product)
        mine = product if whole else product[self.queries]  # [g, documents]
        margin = np.float32(1.1 * error)  # 1.1: the comparison itself is rounded to float32
        centre = self.similarities.astype(np.float32)
        hits = np.flatnonzero(mine >= (centre - margin)[:, None])  # few, where the gold rows are near the top
        gold, column = np.divmod(hits, product.shape[1])
        close = mine.ravel()[hits] <= (centre + margin)[gold]  # float32 cannot tell which is better
        self.n_better += np.bincount(gold[~close], minlength=len(self.queries))
        gold, column = gold[close], column[close]
        values = _pairwise(queries, self.queries[gold], documents, column)
        level = values == self.similarities[gold]
        before = (values > self.similarities[gold]) | (level & (column + start < self.rows[gold]))
        self.n_better += np.bincount(gold[before], minlength=len(self.queries))


def _pairwise(queries: Vectors, query: Rows, documents: Vectors, column: Rows) -> Similarities:
    values = np.empty(len(query))
    for start in range(0, len(query), PAIR_BLOCK):
        part = slice(start, start + PAIR_BLOCK)
        values[part] = similarity(queries[query[part]], documents[column[part]])
    return values
