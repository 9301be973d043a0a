"""Language models of transformers: batched answers, and how likely given answers are, from one prefill of each prompt.

What all prompts begin with (the system message, the few-shot turns) is computed once. Each batch's prompts are then
computed once, left-padded to the longest, and both the score of the reference answer and the generated answer go on
from there.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from radit_job.errors import InputError
from radit_job.hashing import digest
from radit_job.models import precision
from radit_job.models.base import Answered, AnswerScore, Completion, Conversation, OnDone
from radit_job.models.chat import ChatFormat

MIN_SHARED_PREFIX = 8  # tokens; below it, keeping a prefix costs more than it saves
MAX_LOGITS = 2**25  # computed at once when scoring: 128 MiB of float32


class HuggingFaceLM:
    """A Generator and a Scorer; the results do not depend on what else is in a batch, but for rounding."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.chat = ChatFormat(tokenizer, _configured_end_ids(model))
        self.context_tokens: int = model.config.get_text_config().max_position_embeddings
        self._forgets = _has_window(model.config.get_text_config())
        self._pad_id = self.chat.end_of_turn_id  # any id will do: padding is masked by position

    @classmethod
    def open(cls, folder: Path, *, dtype: str = "auto", n_threads: int | None = None) -> HuggingFaceLM:
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
        return cls(model.to(precision.device()), tokenizer)

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
        self._check_lengths(prompts, [len(target) for target in targets])
        scores: dict[int, AnswerScore] = {}
        for rows, prefill in self._prefills(prompts, batch_size):
            found = self._score_batch(prefill, [targets[row] for row in rows])
            scores.update(zip(rows, found, strict=True))
            if on_done:
                on_done(len(rows))
        return [scores[row] for row in range(len(prompts))]

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
        self._check_lengths(prompts, [max(max_new_tokens, len(target)) for target in targets or [[]] * len(prompts)])
        answered: dict[int, Answered] = {}
        for rows, prefill in self._prefills(prompts, batch_size):
            scores: list[AnswerScore | None] = [None] * len(rows)
            if targets is not None:
                scores[:] = self._score_batch(prefill, [targets[row] for row in rows])
            draw = _Sampler(temperature, [(seed, row) for row in rows])
            generated = self._generate_batch(prefill, max_new_tokens, draw)
            for row, ids, score in zip(rows, generated, scores, strict=True):
                answered[row] = Answered(self._completion(len(prompts[row]), ids), score)
            if on_done:
                on_done(len(rows))
        return [answered[row] for row in range(len(prompts))]

    def _completion(self, n_prompt_tokens: int, ids: list[int]) -> Completion:
        ended = bool(ids) and ids[-1] in self.chat.end_ids
        return Completion(self.chat.text(ids), n_prompt_tokens, len(ids), "stop" if ended else "length")

    def _check_lengths(self, prompts: list[list[int]], answer_tokens: list[int]) -> None:
        for prompt, n_answer in zip(prompts, answer_tokens, strict=True):
            if len(prompt) + n_answer > self.context_tokens:
                raise InputError(
                    f"a prompt of {len(prompt)} tokens and an answer of {n_answer} do not fit the model's context of "
                    f"{self.context_tokens} tokens",
                    todo="lower retrieval.k or chunking.size_tokens",
                )

    @torch.inference_mode()
    def _prefills(self, prompts: list[list[int]], batch_size: int) -> Iterator[tuple[list[int], _Prefill]]:
        """Batches of similar length, longest first (if memory does not suffice, it shows at once)."""
        shared = 0 if self._forgets else _shared_prefix(prompts)
        prefix_cache = self._prefix_cache(prompts[0][:shared]) if shared else None
        order = sorted(range(len(prompts)), key=lambda row: (-len(prompts[row]), row))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            yield rows, self._prefill([prompts[row][shared:] for row in rows], shared, prefix_cache)

    def _prefix_cache(self, prefix: list[int]) -> Any:
        cache = DynamicCache(config=self.model.config)
        ids = torch.tensor([prefix], device=self.model.device)
        self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache

    def _prefill(self, prompts: list[list[int]], n_prefix: int, prefix_cache: Any) -> _Prefill:
        cache = DynamicCache(config=self.model.config)
        if prefix_cache is not None:
            cache = copy.deepcopy(prefix_cache)
            cache.batch_repeat_interleave(len(prompts))
        width = max(map(len, prompts))
        padded = [[self._pad_id] * (width - len(prompt)) + prompt for prompt in prompts]
        real = [[1] * n_prefix + [0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        mask = torch.tensor(real, device=self.model.device)  # [batch, prefix + width]
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        out = self.model(
            input_ids=torch.tensor(padded, device=self.model.device),
            attention_mask=mask,
            position_ids=positions[:, n_prefix:],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return _Prefill(cache, mask, out.logits[:, -1].float())

    @torch.inference_mode()
    def _score_batch(self, prefill: _Prefill, targets: list[list[int]]) -> list[AnswerScore]:
        """Log-probabilities of the targets; the prefill stays as it is.

        The targets are read a few positions at a time, for the logits of all of them may not fit the memory.
        """
        width = max(map(len, targets))
        device = self.model.device
        padded = torch.tensor([target + [self._pad_id] * (width - len(target)) for target in targets], device=device)
        real = torch.tensor([[1] * len(target) + [0] * (width - len(target)) for target in targets], device=device)
        mask = torch.cat([prefill.mask, real], dim=1)  # [batch, prompt + width]
        positions = mask.cumsum(1) - 1
        n_prompt = prefill.mask.shape[1]
        cache = copy.deepcopy(prefill.cache)
        picked = [_log_probabilities(prefill.next_logits[:, None], padded[:, :1])]
        n_columns = max(1, MAX_LOGITS // prefill.next_logits.numel())
        for start in range(0, width - 1, n_columns):
            end = min(start + n_columns, width - 1)
            out = self.model(
                input_ids=padded[:, start:end],
                attention_mask=mask[:, : n_prompt + end],
                position_ids=positions[:, n_prompt + start : n_prompt + end],
                past_key_values=cache,
                use_cache=True,
            )
            picked.append(_log_probabilities(out.logits.float(), padded[:, start + 1 : end + 1]))
        sums = (torch.cat(picked, dim=1).double() * real).sum(1).tolist()
        return [AnswerScore(total, len(target)) for total, target in zip(sums, targets, strict=True)]

    @torch.inference_mode()
    def _generate_batch(self, prefill: _Prefill, max_new_tokens: int, draw: _Sampler) -> list[list[int]]:
        """New tokens of each row, the end token included. Rows that have ended leave the batch. Uses the prefill up."""
        cache, mask, logits = prefill.cache, prefill.mask, prefill.next_logits
        generated: list[list[int]] = [[] for _ in range(len(mask))]
        active = list(range(len(mask)))
        while True:
            drawn = draw(logits, active)
            going = []
            for slot, (row, token) in enumerate(zip(active, drawn, strict=True)):
                generated[row].append(token)
                if token not in self.chat.end_ids and len(generated[row]) < max_new_tokens:
                    going.append(slot)
            if not going:
                return generated
            if len(going) < len(active):
                kept = torch.tensor(going, device=mask.device)
                cache.batch_select_indices(kept)
                mask = mask[kept]
                active = [active[slot] for slot in going]
            mask = torch.cat([mask, mask.new_ones(len(active), 1)], dim=1)
            out = self.model(
                input_ids=torch.tensor([[generated[row][-1]] for row in active], device=mask.device),
                attention_mask=mask,
                position_ids=mask.sum(1, keepdim=True) - 1,
                past_key_values=cache,
                use_cache=True,
            )
            logits = out.logits[:, -1].float()  # [active, vocabulary]


class _Prefill:
    """A batch of prompts, computed: their keys and values, which positions are real, and the logits that follow."""

    def __init__(self, cache: Any, mask: torch.Tensor, next_logits: torch.Tensor) -> None:
        self.cache = cache
        self.mask = mask  # [batch, positions], 1 where a prompt has a token
        self.next_logits = next_logits  # [batch, vocabulary] float32


class _Sampler:
    """Draws each row's next token; every row has a random generator of its own, so its batch does not matter."""

    def __init__(self, temperature: float, seeds: list[tuple[int, int]]) -> None:
        self.temperature = temperature
        self._random = [torch.Generator().manual_seed(int(digest(list(seed))[7:22], 16)) for seed in seeds]

    def __call__(self, logits: torch.Tensor, rows: list[int]) -> list[int]:
        """The next token of each given row; `logits` is [rows, vocabulary]."""
        if self.temperature == 0:
            return [int(token) for token in logits.argmax(1).tolist()]
        shares = (logits / self.temperature).softmax(1).cpu()
        return [
            int(torch.multinomial(share, 1, generator=self._random[row]))
            for share, row in zip(shares, rows, strict=True)
        ]


def _shared_prefix(prompts: list[list[int]]) -> int:
    """How many tokens all prompts begin with; at least one token of each stays outside."""
    if len(prompts) < 2:
        return 0
    first, last = min(prompts), max(prompts)  # what the first and the last in order share, all between them share too
    longest = min(map(len, prompts)) - 1
    shared = next((i for i in range(longest) if first[i] != last[i]), longest)
    return shared if shared >= MIN_SHARED_PREFIX else 0


def _log_probabilities(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Of each given token, [batch, n], by the logits [batch, n, vocabulary] of its place."""
    return logits.gather(2, tokens[:, :, None])[:, :, 0] - logits.logsumexp(2)


def _has_window(config: Any) -> bool:
    """Whether some layer looks back a limited number of positions: padding behind a shared prefix would use them up."""
    if layers := getattr(config, "layer_types", None):
        return any(layer != "full_attention" for layer in layers)
    return bool(getattr(config, "sliding_window", None))


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
