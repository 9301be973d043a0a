"""Models and chunks as LlamaIndex knows them, for going on in Python with what a run has made."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.llms import LLM
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from radit_job.models.base import Embedder, Vectors
from radit_job.models.huggingface import HuggingFaceLM
from radit_job.records import Chunk, Message


def as_llm(lm: HuggingFaceLM, *, max_new_tokens: int, system_prompt: str = "") -> LLM:
    """The model as LlamaIndex's HuggingFaceLLM: greedy, and every prompt in the model's own chat format.

    HuggingFaceLLM.complete() by itself applies no chat template; here it does, with `system_prompt` as the system's
    turn.
    """
    from llama_index.llms.huggingface import HuggingFaceLLM

    tokenizer, name = lm.tokenizer, lm.model.name_or_path
    bos = tokenizer.bos_token if tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id] else None

    def messages_to_prompt(messages: Sequence[ChatMessage]) -> str:
        text = lm.chat.render([_message(message) for message in messages])
        return text.removeprefix(bos) if bos else text  # HuggingFaceLLM's tokenizer call adds it again

    def completion_to_prompt(completion: str) -> str:
        system = [ChatMessage(role="system", content=system_prompt)] if system_prompt else []
        return messages_to_prompt([*system, ChatMessage(role="user", content=completion)])

    end_ids = sorted(lm.chat.end_ids)
    return HuggingFaceLLM(
        model=lm.model,
        tokenizer=tokenizer,
        model_name=name,
        tokenizer_name=name,
        context_window=lm.context_tokens,
        max_new_tokens=max_new_tokens,
        system_prompt=system_prompt,
        messages_to_prompt=messages_to_prompt,
        completion_to_prompt=completion_to_prompt,
        is_chat_model=True,
        generate_kwargs={"do_sample": False, "eos_token_id": end_ids, "pad_token_id": end_ids[0]},
    )


def as_retriever(chunks: Sequence[Chunk], vectors: Vectors, embedder: Embedder, k: int) -> BaseRetriever:
    """Exact top-k by cosine, best first, ties by chunk id; `vectors` is [chunks, dimension], normalised."""
    return _ChunkRetriever(chunks, vectors, embedder, k)


class _ChunkRetriever(BaseRetriever):
    def __init__(self, chunks: Sequence[Chunk], vectors: Vectors, embedder: Embedder, k: int) -> None:
        super().__init__()
        self._chunks, self._vectors, self._embedder, self._k = chunks, vectors, embedder, k
        self._ids = np.array([chunk.chunk_id for chunk in chunks])

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        query = self._embedder.embed_queries([query_bundle.query_str])[0]  # [dimension]
        scores = self._vectors @ query  # [chunks]
        best = np.lexsort((self._ids, -scores))[: self._k]
        return [NodeWithScore(node=_node(self._chunks[row]), score=float(scores[row])) for row in best]


def _node(chunk: Chunk) -> TextNode:
    """The chunk as a node; its metadata is for the reader, and the model and the embedder see the text alone."""
    metadata = {"document": chunk.document, "page": chunk.page}
    return TextNode(
        id_=chunk.chunk_id,
        text=chunk.text,
        metadata=metadata,
        excluded_llm_metadata_keys=list(metadata),
        excluded_embed_metadata_keys=list(metadata),
        start_char_idx=chunk.start_char,
        end_char_idx=chunk.end_char,
    )


def _message(message: ChatMessage) -> Message:
    role = message.role.value
    return Message(role if role in ("system", "assistant") else "user", message.content or "")
