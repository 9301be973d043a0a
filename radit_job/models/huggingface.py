"""Language models of transformers: batched answers, and how likely given answers are."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from radit_job.errors import InputError
from radit_job.models import precision
from radit_job.models.base import Answered, AnswerScore, Completion, Conversation, OnDone
from radit_job.models.chat import ChatFormat
from radit_job.models.decoding import Sampler, generate
from radit_job.models.pair_scoring import score_behind, score_pairs
from radit_job.models.prefill import Prefill
from radit_job.models.shared_prefixes import prefills


class HuggingFaceLM:
    """A Generator and a Scorer; the results do not depend on what else is in a batch, but for rounding."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.chat = ChatFormat(tokenizer, _configured_end_ids(model))
        self.context_tokens: int = model.config.get_text_config().max_position_embeddings

    @classmethod
    def open(
        cls, folder: Path, *, dtype: str = "auto", n_threads: int | None = None, device: torch.device | None = None
    ) -> HuggingFaceLM:
        """Load a model folder onto the GPU if there is one; InputError if it is not a whole causal language model."""
        if n_threads is not None:
            torch.set_num_threads(n_threads)
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        try:
            model, loading = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=precision.choose_dtype(dtype),
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            reason = str(error).strip().split("\n")[0]
            raise InputError(
                f"this folder cannot be opened as a language model: {reason}",
                where=os.fspath(folder),
                todo="AutoModelForCausalLM.from_pretrained must be able to open it",
            ) from error
        _check_whole(model, sorted(loading["missing_keys"]), folder)
        return cls(model.to(device or precision.device()), tokenizer)

    def n_prompt_tokens(self, conversation: Conversation) -> int:
        """How long the conversation is as a prompt, template included."""
        return len(self.chat.prompt_ids(conversation))

    def n_answer_tokens(self, answer: str) -> int:
        """How long an answer is, with the token that ends it."""
        return len(self.chat.answer_ids(answer))

    def complete(
        self,
        conversations: Sequence[Conversation],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        batch_size: int = 8,
        on_done: OnDone | None = None,
    ) -> list[Completion]:
        """See `Generator`; InputError if a prompt and its answer do not fit the model's context."""
        answered = self.answer(
            conversations,
            None,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            batch_size=batch_size,
            on_done=on_done,
        )
        return [item.completion for item in answered]

    def score(
        self,
        conversations: Sequence[Conversation],
        answers: Sequence[str],
        *,
        batch_size: int = 8,
        on_done: OnDone | None = None,
    ) -> list[AnswerScore]:
        """See `Scorer`."""
        prompts = [self.chat.prompt_ids(conversation) for conversation in conversations]
        targets = [self.chat.answer_ids(answer) for answer in answers]
        self.check_lengths(prompts, [len(target) for target in targets])
        return score_pairs(self.model, prompts, targets, batch_size, on_done)

    def answer(
        self,
        conversations: Sequence[Conversation],
        references: Sequence[str] | None,
        *,
        max_new_tokens: int,
        batch_size: int = 8,
        temperature: float = 0.0,
        seed: int = 0,
        on_done: OnDone | None = None,
    ) -> list[Answered]:
        """Generated answers, and the references' scores after the same prompts, in the conversations' order."""
        prompts = [self.chat.prompt_ids(conversation) for conversation in conversations]
        targets = None if references is None else [self.chat.answer_ids(text) for text in references]
        self.check_lengths(prompts, [max(max_new_tokens, len(target)) for target in targets or [[]] * len(prompts)])
        scores: dict[int, AnswerScore] = {}

        def measured() -> Iterator[tuple[list[int], Prefill]]:
            for rows, prefill in prefills(self.model, prompts, batch_size):
                if targets is not None:
                    of_rows = score_behind(self.model, prefill, [targets[row] for row in rows])
                    scores.update(zip(rows, of_rows, strict=True))
                yield rows, prefill

        draw = Sampler(temperature, [(seed, row) for row in range(len(prompts))])
        answered: dict[int, Answered] = {}
        for row, ids in generate(
            self.model,
            measured(),
            batch_size=batch_size,
            longest=max(map(len, prompts), default=0),
            max_new_tokens=max_new_tokens,
            draw=draw,
            end_ids=self.chat.end_ids,
        ):
            answered[row] = Answered(self._completion(len(prompts[row]), ids), scores.get(row))
            if on_done:
                on_done(1)
        return [answered[row] for row in range(len(prompts))]

    def _completion(self, n_prompt_tokens: int, ids: list[int]) -> Completion:
        ended = bool(ids) and ids[-1] in self.chat.end_ids
        return Completion(self.chat.text(ids), n_prompt_tokens, len(ids), "stop" if ended else "length")

    def check_lengths(self, prompts: Sequence[list[int]], answer_tokens: Sequence[int]) -> None:
        """Raise InputError if a prompt and the answer behind it do not fit the model's context."""
        for prompt, n_answer in zip(prompts, answer_tokens, strict=True):
            if len(prompt) + n_answer > self.context_tokens:
                raise InputError(
                    f"a prompt of {len(prompt)} tokens and an answer of {n_answer} do not fit the model's context of "
                    f"{self.context_tokens} tokens",
                    todo="lower retrieval.k or chunking.size_tokens",
                )


def _check_whole(model: Any, missing: list[str], folder: Path) -> None:
    """Raise InputError for weights that transformers made up, and for an encoder, which sees what it shall predict."""
    config = model.config.get_text_config()
    reason = None
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        reason = f"its weights lack {missing[0]}{more}"
    elif config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False):
        reason = f"{config.model_type} is an encoder, which cannot write"
    if reason:
        raise InputError(
            f"this folder is no whole language model: {reason}",
            where=os.fspath(folder),
            todo="give the folder of a causal language model, as save_pretrained wrote it",
        )


def _configured_end_ids(model: Any) -> tuple[int, ...]:
    configured = model.generation_config.eos_token_id
    if configured is None:
        return ()
    return tuple(configured) if isinstance(configured, list) else (configured,)
