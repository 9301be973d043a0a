"""Exact top-k over many chunks, beside its peers on the same vectors: `python benchmarks/retrieval.py`.

The peers are what one would write or take instead: one matrix product with argpartition, torch.topk, LlamaIndex's own
in-memory store, and faiss where it is installed. Each row: seconds for all queries, and the share of 20 queries whose
ids equal those of a comparison in float64. The vectors are random directions in clusters, as texts on a few themes are;
every tenth is a copy of another, as boilerplate is. The bare matrix product in the first row is the floor for all.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Callable
from statistics import median

import numpy as np

from radit_job.rag.retrieval import search

Ids = list[list[int]]


def make_vectors(n_chunks: int, n_queries: int, dimension: int) -> tuple[np.ndarray, np.ndarray, list[list[int]]]:
    """Documents, queries near some of them, and for each query the row it was made from."""
    random = np.random.default_rng(0)
    themes = random.standard_normal((200, dimension), dtype=np.float32)
    documents = themes[random.integers(0, 200, n_chunks)] + random.standard_normal(
        (n_chunks, dimension), dtype=np.float32
    )
    copies = np.arange(0, n_chunks, 10)
    documents[copies] = documents[random.integers(0, n_chunks, len(copies))]
    gold = random.integers(0, n_chunks, n_queries)
    queries = documents[gold] + 1.5 * random.standard_normal((n_queries, dimension), dtype=np.float32)
    for rows in (documents, queries):
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return documents, queries, [[int(row)] for row in gold]


def bare_product(documents: np.ndarray, queries: np.ndarray, k: int) -> Ids:
    for start in range(0, len(documents), 4096):
        queries @ documents[start : start + 4096].T
    return []


def argpartition(documents: np.ndarray, queries: np.ndarray, k: int) -> Ids:
    ids = []
    for start in range(0, len(queries), 100):  # all at once would hold n_queries * n_chunks scores
        scores = queries[start : start + 100] @ documents.T
        best = np.argpartition(-scores, k, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)
        ids += np.take_along_axis(best, order, axis=1).tolist()
    return ids


def torch_topk(documents: np.ndarray, queries: np.ndarray, k: int) -> Ids:
    import torch

    matrix = torch.from_numpy(documents)
    return [
        row
        for start in range(0, len(queries), 100)
        for row in (torch.from_numpy(queries[start : start + 100]) @ matrix.T).topk(k).indices.tolist()
    ]


def faiss_flat(documents: np.ndarray, queries: np.ndarray, k: int) -> Ids:
    import faiss  # type: ignore[import-not-found]

    index = faiss.IndexFlatIP(documents.shape[1])
    index.add(documents)
    return index.search(queries, k)[1].tolist()


def llamaindex_store(documents: np.ndarray, queries: np.ndarray, k: int) -> Ids:
    from llama_index.core.indices.query.embedding_utils import get_top_k_embeddings

    # What SimpleVectorStore.query calls, without the cost of building its dictionaries.
    return [get_top_k_embeddings(query, documents, similarity_top_k=k)[1] for query in queries]


def exact_ids(documents: np.ndarray, queries: np.ndarray, k: int) -> Ids:
    wide = documents.astype(np.float64)
    return [np.argsort(-(wide * query).sum(axis=1), kind="stable")[:k].tolist() for query in queries.astype(np.float64)]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--chunks", type=int, default=100_000)
    options.add_argument("--queries", type=int, default=1_000)
    options.add_argument("--dimension", type=int, default=384)
    options.add_argument("--k", type=int, default=10)
    options.add_argument("--repetitions", type=int, default=3)
    options.add_argument("--json", action="store_true", help="ours beside LlamaIndex's store, as one JSON line")
    args = options.parse_args()
    documents, queries, gold = make_vectors(args.chunks, args.queries, args.dimension)
    truth = exact_ids(documents, queries[:20], args.k)

    def ours(documents: np.ndarray, queries: np.ndarray, k: int) -> Ids:
        return search(documents, queries, k=k).rows.tolist()

    def ours_with_ranks(documents: np.ndarray, queries: np.ndarray, k: int) -> Ids:
        return search(documents, queries, k=k, gold_rows=gold[: len(queries)]).rows.tolist()

    peers: list[tuple[str, Callable[[np.ndarray, np.ndarray, int], Ids], int]] = [
        ("bare matrix product", bare_product, args.queries),
        ("radit_job.rag.retrieval.search", ours, args.queries),
        ("... with the rank of the gold chunk", ours_with_ranks, args.queries),
        ("numpy product + argpartition", argpartition, args.queries),
        ("torch product + topk", torch_topk, args.queries),
        ("faiss IndexFlatIP", faiss_flat, args.queries),
        ("LlamaIndex SimpleVectorStore", llamaindex_store, 3),
    ]
    if args.json:
        print_json(args, ours, documents, queries, truth)
        return
    gflop = 2e-9 * args.chunks * args.dimension * args.queries
    shape = f"{args.queries} queries, {args.chunks} x {args.dimension} chunks, top {args.k}"
    print(f"{shape}, {os.cpu_count()} cores; best of {args.repetitions}")
    print(f"{'':37}{'seconds':>10}{'GFLOP/s':>10}{'exact ids':>11}")
    for name, peer, n_queries in peers:
        try:
            seconds, ids = best_of(
                args.repetitions, lambda peer=peer, n=n_queries: peer(documents, queries[:n], args.k)
            )
        except ImportError:
            print(f"{name:37}{'not installed':>20}")
            continue
        seconds *= args.queries / n_queries
        equal = f"{np.mean([a == b for a, b in zip(ids, truth, strict=False)]):.0%}" if ids else "-"
        note = "" if n_queries == args.queries else f"  extrapolated from {n_queries} queries"
        print(f"{name:37}{seconds:10.2f}{gflop / seconds:10.0f}{equal:>11}{note}")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB, all peers together")


def print_json(
    args: argparse.Namespace, ours: Callable, documents: np.ndarray, queries: np.ndarray, truth: Ids
) -> None:
    """What side_by_side.show prints, in turn in this process; LlamaIndex answers three queries."""
    few = queries[:3]
    ours(documents, few, args.k)  # the first is slower
    seconds: list[tuple[float, float]] = []
    for _ in range(args.repetitions):
        theirs_s, _ = best_of(1, lambda: llamaindex_store(documents, few, args.k))
        ours_s, ids = best_of(1, lambda: ours(documents, queries, args.k))
        seconds.append((theirs_s * len(queries) / len(few), ours_s))
    ratios = [theirs_s / ours_s for theirs_s, ours_s in seconds]
    equal = sum(a == b for a, b in zip(ids, truth, strict=False))
    row = {
        "way": "radit-job float32",
        "ratio": median(ratios),
        "low": min(ratios),
        "high": max(ratios),
        "seconds": median(ours_s for _, ours_s in seconds),
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "check": f"ids of {equal} of {len(truth)} queries equal those in float64",
        "facts": {"flop": 2 * documents.size * len(queries), "dtype": "float32"},
    }
    print(json.dumps([row]), flush=True)


def best_of(repetitions: int, call: Callable[[], Ids]) -> tuple[float, Ids]:
    seconds = []
    for _ in range(repetitions):
        start = time.perf_counter()
        ids = call()
        seconds.append(time.perf_counter() - start)
    return min(seconds), ids


if __name__ == "__main__":
    main()
