"""Chunks to vectors, beside LlamaIndex: `python benchmarks/embedding.py [--n 2000]`.

The peer is LlamaIndex's HuggingFaceEmbedding as it comes: get_text_embedding_batch with its own batch size. Ours is
what the stage `index` does: HuggingFaceEmbedder.embed_documents. The check in float32 is the largest difference of
any number of any vector; in bfloat16, where that says little, the share of the ten nearest chunks of the quickstart's
questions that float32 finds, too.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

from side_by_side import EMBEDDER, QUICKSTART, Compared, Timer, alternate, compare, options, passed_on, show

PEER = "LlamaIndex HuggingFaceEmbedding"
WAYS = (PEER, "radit-job float32", "radit-job bfloat16")
K = 10


def material(args: argparse.Namespace) -> list[str]:
    """The chunks; cut once for all processes."""
    from material import chunks

    kept = args.folder / "chunks.json"
    if not kept.exists():
        kept.write_text(json.dumps(chunks(args.n, args.chunk_tokens, args.chunk_tokens // 8)), encoding="utf-8")
    return json.loads(kept.read_text(encoding="utf-8"))


def measure(args: argparse.Namespace) -> None:
    import numpy as np
    import torch

    from radit_job.model_ref import ModelRef
    from radit_job.models.loading import model_folder, open_embedder
    from radit_job.rag.pair_files import read_pairs

    torch.set_num_threads(args.threads)
    texts = material(args)
    questions = [pair.question for pair in read_pairs(QUICKSTART / "questions.jsonl")]
    ref = ModelRef("packaged", EMBEDDER, dtype="float32" if args.only == PEER else args.only.split()[-1])
    if args.only == PEER:
        from llama_index.embeddings.huggingface import HuggingFaceEmbedding

        embedder = HuggingFaceEmbedding(str(model_folder(ref)), device="cpu")
        embed, encoder = embedder.get_text_embedding_batch, embedder._model
        queries = [embedder.get_query_embedding(text) for text in questions]  # the first batch is slower
    else:
        ours = open_embedder(ref)
        embed, encoder = ours.embed_documents, ours.model
        queries = ours.embed_queries(questions)
    with Timer() as timer:
        vectors = embed(texts)
    n_tokens = sum(map(len, encoder.tokenizer(texts, truncation=True, max_length=encoder.max_seq_length).input_ids))
    n_weights = sum(p.numel() for name, p in encoder.named_parameters() if p.dim() == 2 and "embeddings" not in name)
    path = args.folder / f"{WAYS.index(args.only)}.npz"
    np.savez(path, documents=np.asarray(vectors, dtype=np.float32), queries=np.asarray(queries, dtype=np.float32))
    timer.print(str(path), n=len(texts), n_tokens=n_tokens, flop=2 * n_weights * n_tokens, dtype=ref.dtype)


def check(row: Compared, theirs: Compared) -> str:
    """How the vectors differ from the peer's."""
    import numpy as np

    from radit_job.rag.retrieval import search

    mine, peer = np.load(row.check), np.load(theirs.check)
    said = f"{row.facts['n']} chunks, {row.facts['n_tokens'] / row.facts['n']:.0f} tokens each"
    if row is theirs:
        return said
    found, exact = (search(one["documents"], one["queries"], k=K).rows.tolist() for one in (mine, peer))
    recall = sum(len(set(a) & set(b)) for a, b in zip(found, exact, strict=True)) / (K * len(exact))
    off = float(np.abs(mine["documents"] - peer["documents"]).max())
    return f"vectors differ by {off:.1e} at most, recall@{K} {recall:.4f}"


def main() -> None:
    parser = options(__doc__, WAYS)
    parser.add_argument("--n", type=int, default=2000, help="chunks")
    parser.add_argument("--chunk-tokens", type=int, default=254)
    parser.add_argument("--folder", type=Path, help="where chunks and vectors are kept; a temporary one by default")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        args.folder = args.folder or Path(temporary)
        if args.only:
            os.environ["OMP_NUM_THREADS"] = str(args.threads)
            measure(args)
            return
        material(args)
        found = alternate(
            __file__, args.ways, args.rounds, args.threads, passed_on(args, ("n", "chunk_tokens", "folder"))
        )
        rows = compare(found, PEER)
        show(rows, lambda row: check(row, rows[0]), as_json=args.json)


if __name__ == "__main__":
    main()
