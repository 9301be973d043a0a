"""RAG prompts to greedy answers, beside LlamaIndex: `python benchmarks/answering.py [--n 64]`.

The peer is LlamaIndex's query engine with its HuggingFaceLLM as it comes (its own loading, its own precision), one
question after the other, over an index of the same vectors, with LlamaIndex's question-answering prompt in the model's
chat format. Ours is what the stage `answer` does: HuggingFaceLM.complete on the same prompts. The check is how many
answers are the same, letter by letter.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from side_by_side import (
    EMBEDDER,
    LM,
    QUICKSTART,
    Compared,
    Timer,
    alternate,
    compare,
    options,
    passed_on,
    show,
)

PEER = "LlamaIndex query engine"
WAYS = (PEER, "radit-job float32", "radit-job bfloat16")
SYSTEM = "You are a helpful assistant that answers questions from the given documents."


def material(args: argparse.Namespace) -> tuple[list[str], list[str], Any, Any]:
    """Chunks, questions, and the vectors of both."""
    from radit_job.model_ref import ModelRef
    from radit_job.models.loading import open_embedder
    from radit_job.models.token_counter import open_token_counter
    from radit_job.rag.chunking import Chunker
    from radit_job.rag.documents import Document, read_documents

    ref = ModelRef("packaged", EMBEDDER)
    chunker = Chunker(args.chunk_tokens, 32, open_token_counter(ref))
    documents = [item for item in read_documents(args.document, args.document.name) if isinstance(item, Document)]
    texts = [chunk.text.strip() for document in documents for chunk in chunker.cut(document)]
    lines = (QUICKSTART / "questions.jsonl").read_text(encoding="utf-8").splitlines()[: args.n]
    questions = [json.loads(line)["question"] for line in lines]
    embedder = open_embedder(ref)
    return texts, questions, embedder.embed_documents(texts), embedder.embed_queries(questions)


def ours(args: argparse.Namespace, dtype: str) -> None:
    from radit_job.config.schema import NOTEBOOK_TEMPLATE
    from radit_job.model_ref import ModelRef
    from radit_job.models.decoding import DECODED_BATCHES
    from radit_job.models.loading import open_local_lm
    from radit_job.rag.prompts import Prompts
    from radit_job.rag.retrieval import search

    texts, questions, documents, queries = material(args)
    lm = open_local_lm(ModelRef("packaged", LM, dtype=dtype), n_threads=args.threads)
    prompts = Prompts(SYSTEM, NOTEBOOK_TEMPLATE, "{question}")
    lm.complete([prompts.closed_book("Hello?")], max_new_tokens=2)  # the first is slower
    with Timer() as timer:
        rows = search(documents, queries, k=args.k).rows.tolist()
        conversations = [
            prompts.with_context(question, [texts[row] for row in mine])
            for question, mine in zip(questions, rows, strict=True)
        ]
        found = lm.complete(conversations, max_new_tokens=args.new_tokens, batch_size=args.batch_size)
    tokens = {name: sum(getattr(one, name) for one in found) for name in ("n_prompt_tokens", "n_completion_tokens")}
    tokens["n_shared_tokens"] = n_shared_tokens([lm.chat.prompt_ids(conversation) for conversation in conversations])
    facts = {"n": len(found), "n_decoded_together": DECODED_BATCHES * args.batch_size, "dtype": dtype}
    timer.print([one.text for one in found], **tokens, **facts)


def n_shared_tokens(prompts: list[list[int]]) -> int:
    """Of all prompts together: what need not be read again, for another prompt begins with it, too."""
    from radit_job.models.prefill import shared_prefix
    from radit_job.models.prefix_groups import group_by_prefix
    from radit_job.models.shared_prefixes import MIN_SAVED_TOKENS

    n_head = shared_prefix(prompts)
    groups = group_by_prefix(prompts, n_head, MIN_SAVED_TOKENS)
    in_groups = sum((len(group.rows) - 1) * (group.n_shared - n_head) for group in groups)
    return n_head * (len(prompts) - 1) + in_groups


def llamaindex(args: argparse.Namespace) -> None:
    import torch
    from llama_index.core import Settings, VectorStoreIndex
    from llama_index.core.schema import TextNode
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding
    from llama_index.llms.huggingface import HuggingFaceLLM
    from transformers import AutoTokenizer

    from radit_job.model_ref import ModelRef
    from radit_job.models.loading import model_folder

    texts, questions, documents, _ = material(args)
    torch.set_num_threads(args.threads)
    folder = str(model_folder(ModelRef("packaged", LM)))
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def as_chat(completion: str) -> str:
        turns = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": completion}]
        return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)

    embedder = HuggingFaceEmbedding(str(model_folder(ModelRef("packaged", EMBEDDER))), device="cpu")
    llm = HuggingFaceLLM(
        model_name=folder, tokenizer_name=folder, max_new_tokens=args.new_tokens, completion_to_prompt=as_chat
    )
    Settings.llm, Settings.embed_model = llm, embedder
    nodes = [TextNode(text=text, embedding=vector) for text, vector in zip(texts, documents.tolist(), strict=True)]
    engine = VectorStoreIndex(nodes).as_query_engine(similarity_top_k=args.k)
    llm.complete("Hello?", max_new_tokens=2)
    answers = []
    with Timer() as timer:
        for question in questions:
            answers.append(str(engine.query(question)).strip())
    timer.print(answers)


def main() -> None:
    parser = options(__doc__, WAYS)
    parser.add_argument("--document", type=Path, default=QUICKSTART / "handbook.md")
    parser.add_argument("--chunk-tokens", type=int, default=254)
    parser.add_argument("--n", type=int, default=64, help="questions")
    parser.add_argument("--k", type=int, default=2)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=8)
    args = parser.parse_args()
    if args.only:
        os.environ["OMP_NUM_THREADS"] = str(args.threads)
        llamaindex(args) if args.only == PEER else ours(args, args.only.split()[-1])
        return
    more = passed_on(args, ("document", "chunk_tokens", "n", "k", "new_tokens", "batch_size"))
    found = alternate(__file__, args.ways, args.rounds, args.threads, more)
    rows = compare(found, PEER)
    theirs = rows[0].check

    def says(row: Compared) -> str:
        return f"{sum(a == b for a, b in zip(row.check, theirs, strict=True))} of {args.n} answers equal"

    show(rows, says, as_json=args.json)


if __name__ == "__main__":
    main()
