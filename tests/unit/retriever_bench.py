"""A planted signal for the retriever, and small encoders to learn it with.

For each subject there are two chunks: a summary, which is what a question about the subject is nearest to, and an entry
of a ledger. The LM is certain after the ledger's entry alone. So a query encoder must learn a rule, ledger before
summary, and keep the subject apart; subjects are held out as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from radit_job.models.sentence_encoder import HuggingFaceEmbedder
from radit_job.rag.retrieval import search
from radit_job.rag.vector_index import VectorIndex, write_block, write_facts
from radit_job.records import CandidateScores

TOWNS = """Madrid Oslo Cairo Lima Tokyo Vienna Dublin Athens Moscow Nairobi Boston Seattle Denver Toronto Havana Delhi
Mumbai Beijing Seoul Sydney Berlin Hamburg Munich Paris Lyon Marseille Rome Milan Naples Venice London Glasgow Bristol
Leeds Warsaw Prague Budapest Sofia Ankara Baghdad Tehran Kabul Karachi Bangkok Hanoi Jakarta Manila Lagos Accra Tunis
Tripoli Dakar Quito Bogota Santiago Montreal Chicago Dallas Phoenix Miami"""
SUBJECTS = TOWNS.split()
QUESTIONS = ("Tell me about {}.", "What happened in {}?", "Is there news of {}?")
CERTAIN_NATS, LOST_NATS = -0.1, -20.0  # of an answer of N_ANSWER_TOKENS tokens
N_ANSWER_TOKENS = 5


def chunk_texts(subjects: Sequence[str] = SUBJECTS) -> dict[str, str]:
    """Chunk ids to texts."""
    return {
        f"{kind}#{subject}": text.format(subject)
        for subject in subjects
        for kind, text in (
            ("summary", "{0}: what happened in {0}, news of {0}."),
            ("ledger", "Ledger {0}: debit {0}, credit {0}."),
        )
    }


def write_index(folder: Path, embedder: HuggingFaceEmbedder, texts: dict[str, str]) -> VectorIndex:
    """An embeddings artifact of two blocks."""
    vectors, ids = embedder.embed_documents(list(texts.values())), list(texts)
    half = len(ids) // 2
    write_block(folder, 0, vectors[:half], ids[:half])
    write_block(folder, 1, vectors[half:], ids[half:])
    facts = {"provider": "huggingface", "name": "tiny"}
    write_facts(folder, dimension=vectors.shape[1], n_chunks=len(ids), embedder=facts, corpus_digest="sha256:0")
    return VectorIndex.open(folder)


def planted_rows(
    embedder: HuggingFaceEmbedder, index: VectorIndex, *, candidates: int = 8, subjects: Sequence[str] = SUBJECTS
) -> list[CandidateScores]:
    """The questions with their nearest chunks by the untuned encoder, scored by an LM that the ledger makes certain."""
    asked = [(subject, question.format(subject)) for subject in subjects for question in QUESTIONS]
    found = search(index.vectors, embedder.embed_queries([question for _, question in asked]), k=candidates)
    rows = []
    for (subject, question), places, similarities in zip(asked, found.rows, found.similarities, strict=True):
        ids = tuple(index.chunk_ids[place] for place in places)
        rows.append(
            CandidateScores(
                question_id=f"q{len(rows)}",
                question=question,
                group=subject,
                gold_chunk_ids=(f"ledger#{subject}",),
                chunk_ids=ids,
                similarities=tuple(map(float, similarities)),
                log_probability_nats=tuple(CERTAIN_NATS if i == f"ledger#{subject}" else LOST_NATS for i in ids),
                n_answer_tokens=N_ANSWER_TOKENS,
            )
        )
    return rows


def tiny_encoder(folder: Path, *, prompts: dict[str, str] | None = None) -> Path:
    """A random two-layer BERT with the packaged encoder's tokenizer, mean-pooled, as a SentenceTransformer folder."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    transformer = _tiny_transformer(folder / "bert", seed=0)
    modules = [transformer, Pooling(transformer.get_embedding_dimension()), Normalize()]
    SentenceTransformer(modules=modules, prompts=prompts, device="cpu").save(str(folder / "encoder"))
    return folder / "encoder"


def routed_encoder(folder: Path) -> Path:
    """One encoder for questions and another one for documents, behind a Router."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Router
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    sides = [_tiny_transformer(folder / f"bert{seed}", seed) for seed in (0, 1)]
    query, document = ([side, Pooling(side.get_embedding_dimension())] for side in sides)
    router = Router.for_query_document(query_modules=query, document_modules=document)
    SentenceTransformer(modules=[router, Normalize()], device="cpu").save(str(folder / "routed"))
    return folder / "routed"


def _tiny_transformer(folder: Path, seed: int):  # type: ignore[no-untyped-def]
    from sentence_transformers.sentence_transformer.modules import Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel

    from radit_job.models.conversion import packaged_folder

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(packaged_folder("all-minilm-l6-v2"))
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Transformer(str(folder))


def folder_bytes(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, for comparing to the bit."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def unit(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    """Random rows of length 1, float64."""
    rows = rng.normal(size=shape)
    return torch.from_numpy(rows / np.linalg.norm(rows, axis=-1, keepdims=True))
