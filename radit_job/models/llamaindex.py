"""Models and chunks as LlamaIndex knows them, for going on in Python with what a run has made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.base.response.schema import Response
from llama_index.core.llms import LLM
from llama_index.core.prompts.mixin import PromptMixinType
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from radit_job.errors import InputError
from radit_job.models.base import AnsweringLM, Completion, Conversation, Embedder, Mixture, Vectors
from radit_job.records import Chunk, Message

if TYPE_CHECKING:
    from radit_job.models.huggingface import HuggingFaceLM

# One query's vector, [1, dimension], to the rows and the similarities of the k nearest chunks, best first
Search = Callable[[Vectors], tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]


def as_llm(lm: HuggingFaceLM, *, max_new_tokens: int, system_prompt: str = "") -> LLM:
    """The model as LlamaIndex's HuggingFaceLLM: greedy, and every prompt in the model's own chat format.

    HuggingFaceLLM.complete() by itself applies no chat template; here it does, with `system_prompt` as the system's
    turn. The model's own generation settings (sampling, repetition penalty) are set aside, as in the pipeline.
    """
    from llama_index.llms.huggingface import HuggingFaceLLM  # late: it imports torch, which a served model needs not
    from transformers import GenerationConfig

    tokenizer, name = lm.tokenizer, lm.model.name_or_path
    bos = tokenizer.bos_token if tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id] else None

    def messages_to_prompt(messages: Sequence[ChatMessage]) -> str:
        text = lm.chat.render([_message(message) for message in messages])
        return text.removeprefix(bos) if bos else text  # HuggingFaceLLM's tokenizer call adds it again

    def completion_to_prompt(completion: str) -> str:
        system = [ChatMessage(role="system", content=system_prompt)] if system_prompt else []
        return messages_to_prompt([*system, ChatMessage(role="user", content=completion)])

    end_ids = sorted(lm.chat.end_ids)
    lm.model.generation_config = GenerationConfig(do_sample=False, eos_token_id=end_ids, pad_token_id=end_ids[0])
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
    )


def as_retriever(chunks: Sequence[Chunk], embedder: Embedder, search: Search) -> BaseRetriever:
    """The chunks that `search` finds nearest to a query, as nodes; its rows are those of `chunks`."""
    return _ChunkRetriever(chunks, embedder, search)


@dataclass(frozen=True, slots=True)
class Asking:
    """How a question becomes prompts, and these one answer."""

    conversations: Callable[[str, Sequence[str]], list[Conversation]]  # of a question and the texts of its chunks
    weigh: Callable[[Sequence[float]], Sequence[float]]  # the chunks, by their similarities
    choose: Callable[[Sequence[str], Sequence[float]], int]  # which of several answers, by their chunks' weights
    max_new_tokens: int
    mixes: bool = False  # several prompts' next-token probabilities by those weights, into one answer
    temperature: float = 0.0
    seed: int = 0


def as_query_engine(lm: AnsweringLM, retriever: BaseRetriever | None, asking: Asking) -> BaseQueryEngine:
    """Retriever, prompt and model together; without a retriever the model gets no texts, and the response no sources.

    The chunks ranked last are left out until the prompt fits the model's context, where it is known. LlamaIndex's own
    synthesizers join and cut the context in their way, which is not the prompt of the training. InputError if a
    service's content filter cut the answer.
    """
    return _RunQueryEngine(lm, retriever, asking)


class _ChunkRetriever(BaseRetriever):
    def __init__(self, chunks: Sequence[Chunk], embedder: Embedder, search: Search) -> None:
        super().__init__()
        self._chunks, self._embedder, self._search = chunks, embedder, search

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        rows, similarities = self._search(self._embedder.embed_queries([query_bundle.query_str]))
        return [
            NodeWithScore(node=_node(self._chunks[row]), score=float(similarity))
            for row, similarity in zip(rows, similarities, strict=True)
        ]


class _RunQueryEngine(BaseQueryEngine):
    def __init__(self, lm: AnsweringLM, retriever: BaseRetriever | None, asking: Asking) -> None:
        super().__init__(callback_manager=None)
        self._lm, self._retriever, self._asking = lm, retriever, asking

    def _query(self, query_bundle: QueryBundle) -> Response:
        asking = self._asking
        nodes = self._retriever.retrieve(query_bundle) if self._retriever else []
        while not self._fit(conversations := self._conversations(query_bundle.query_str, nodes)) and nodes:
            nodes = nodes[:-1]
        is_several = len(conversations) > 1
        weights = asking.weigh([node.get_score() for node in nodes]) if is_several else [1.0]
        completions = self._complete(conversations, weights)
        whole = [row for row, completion in enumerate(completions) if completion.finish_reason != "content_filter"]
        if not whole:
            raise InputError("the service's content filter cut the answer", todo="Ask in other words.")
        answers = [completions[row].text for row in whole]
        best = asking.choose(answers, [weights[row] for row in whole])
        return Response(answers[best], source_nodes=nodes)

    def _complete(self, conversations: Sequence[Conversation], weights: Sequence[float]) -> list[Completion]:
        """An answer per conversation, or one of their mixture."""
        limit, temperature, seed = self._asking.max_new_tokens, self._asking.temperature, self._asking.seed
        if not self._asking.mixes:
            return self._lm.complete(conversations, max_new_tokens=limit, temperature=temperature, seed=seed)
        from radit_job.models.ensemble import answer_mixtures  # late: it imports torch

        mixture = Mixture(tuple(conversations), tuple(weights))
        mixed = answer_mixtures(self._lm, [mixture], None, max_new_tokens=limit, temperature=temperature, seed=seed)
        return [item.completion for item in mixed]

    def _conversations(self, question: str, nodes: Sequence[NodeWithScore]) -> list[Conversation]:
        return self._asking.conversations(question, [found.node.get_content() for found in nodes])

    def _fit(self, conversations: Sequence[Conversation]) -> bool:
        if self._lm.context_tokens is None:
            return True
        room = self._lm.context_tokens - self._asking.max_new_tokens
        return all(self._lm.n_prompt_tokens(conversation) <= room for conversation in conversations)

    async def _aquery(self, query_bundle: QueryBundle) -> Response:
        return self._query(query_bundle)

    def _get_prompt_modules(self) -> PromptMixinType:
        return {}


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
