"""One answer from several prompts: their next-token probabilities are mixed at every step (REPLUG, section 3.2).

p(y_t | y_<t, x) = sum over the chunks c of w_c * p_LM(y_t | y_<t, c, x) (arXiv 2301.12652). A question's k prompts are
rows of one batch, each with its keys and values; the chosen token is fed to all of them, so a step is one forward pass.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from radit_job.errors import ConfigError
from radit_job.models.base import Answered, AnsweringLM, AnswerScore, Completion, Mixture, OnDone
from radit_job.models.decoding import Sampler
from radit_job.models.huggingface import HuggingFaceLM
from radit_job.models.pair_scoring import token_log_probabilities
from radit_job.models.prefill import Prefill, prefill
from radit_job.models.roomy_cache import make_room
from radit_job.models.shared_prefixes import read_head


@dataclass(frozen=True, slots=True)
class _Batch:
    """Some mixtures, whose prompts are neighbouring rows."""

    mixtures: list[int]  # their numbers
    sizes: list[int]  # prompts of each
    log_weights: torch.Tensor  # [rows] float64; -inf where a weight is 0

    def mixed(self, log_probabilities: torch.Tensor) -> torch.Tensor:
        """[rows, n] of the prompts to [mixtures, n] of the mixtures, in nats."""
        weighted = log_probabilities + self.log_weights[:, None].to(log_probabilities.dtype)
        return torch.stack([part.logsumexp(0) for part in weighted.split(self.sizes)])


def answer_mixtures(
    lm: AnsweringLM,
    mixtures: Sequence[Mixture],
    references: Sequence[str] | None,
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int = 8,
    on_done: OnDone | None = None,
) -> list[Answered]:
    """Each mixture's answer and, with `references`, how likely the mixture finds each of them; in their order.

    Greedy on the mixture at temperature 0, else drawn from it. It has ended when its own next token is an end token.
    `batch_size` is of prompts: as many mixtures share a batch as it has room for, and at least one. Tokens are counted
    as the model reads them: n_prompt_tokens of all k prompts, n_completion_tokens k times the answer's. ConfigError for
    a served model, InputError if a prompt and its answer do not fit the model's context.
    """
    if not isinstance(lm, HuggingFaceLM):
        raise ConfigError(
            "an ensemble needs the probabilities of all next tokens, which a served model does not tell",
            where="retrieval.context",
            todo="take joined or separate",
        )
    prompts = [[lm.chat.prompt_ids(turns) for turns in mixture.conversations] for mixture in mixtures]
    targets = None if references is None else [lm.chat.answer_ids(text) for text in references]
    for mine, target in zip(prompts, targets or [[]] * len(prompts), strict=True):
        lm.check_lengths(mine, [max(max_new_tokens, len(target))] * len(mine))
    answered: dict[int, Answered] = {}
    for batch, computed in _prefills(lm, mixtures, prompts, batch_size):
        scores: list[AnswerScore | None] = [None] * len(batch.mixtures)
        if targets is not None:
            scores[:] = _score_batch(lm, batch, computed, [targets[number] for number in batch.mixtures])
        draw = Sampler(temperature, [(seed, number) for number in batch.mixtures])
        generated = _generate_batch(lm, batch, computed, max_new_tokens, draw)
        for number, ids, score in zip(batch.mixtures, generated, scores, strict=True):
            answered[number] = Answered(_completion(lm, prompts[number], ids), score)
        if on_done:
            on_done(len(batch.mixtures))
    return [answered[number] for number in range(len(mixtures))]


def _completion(lm: HuggingFaceLM, prompts: Sequence[list[int]], ids: list[int]) -> Completion:
    ended = bool(ids) and ids[-1] in lm.chat.end_ids
    n_prompt_tokens = sum(map(len, prompts))
    return Completion(lm.chat.text(ids), n_prompt_tokens, len(prompts) * len(ids), "stop" if ended else "length")


def _prefills(
    lm: HuggingFaceLM, mixtures: Sequence[Mixture], prompts: Sequence[Sequence[list[int]]], batch_size: int
) -> Iterator[tuple[_Batch, Prefill]]:
    """Batches of similar length, longest first (if memory does not suffice, it shows at once)."""
    head = read_head(lm.model, list(itertools.chain.from_iterable(prompts)))
    for numbers in _batches(prompts, batch_size):
        weights = [weight for number in numbers for weight in mixtures[number].weights]
        log_weights = torch.tensor(weights, dtype=torch.float64, device=lm.model.device).log()
        batch = _Batch(numbers, [len(prompts[number]) for number in numbers], log_weights)
        rows = [prompt[head.n_tokens :] for number in numbers for prompt in prompts[number]]
        yield batch, prefill(lm.model, rows, *head.rows([0] * len(rows)))


def _batches(prompts: Sequence[Sequence[list[int]]], batch_size: int) -> list[list[int]]:
    """Numbers of mixtures that are answered together: no more than `batch_size` prompts, unless one alone has more."""
    longest = [max(map(len, mine)) for mine in prompts]
    batches: list[list[int]] = []
    n_rows = batch_size
    for number in sorted(range(len(prompts)), key=lambda number: (-longest[number], number)):
        if n_rows + len(prompts[number]) > batch_size:
            batches.append([])
            n_rows = 0
        batches[-1].append(number)
        n_rows += len(prompts[number])
    return batches


@torch.inference_mode()
def _score_batch(
    lm: HuggingFaceLM, batch: _Batch, computed: Prefill, targets: Sequence[list[int]]
) -> list[AnswerScore]:
    """The mixture's log-probability of each target, token by token; the prefill stays as it is."""
    of_rows = [target for target, size in zip(targets, batch.sizes, strict=True) for _ in range(size)]
    # Behind a target's end its rows have 0 each, and the mixture of these the log of the weights' sum: not counted.
    mixed = batch.mixed(token_log_probabilities(lm.model, computed, of_rows))
    return [
        AnswerScore(float(nats[: len(target)].sum()), len(target)) for nats, target in zip(mixed, targets, strict=True)
    ]


@torch.inference_mode()
def _generate_batch(
    lm: HuggingFaceLM, batch: _Batch, computed: Prefill, max_new_tokens: int, draw: Sampler
) -> list[list[int]]:
    """New tokens of each mixture, the end token included. One that has ended leaves the batch with all its rows.

    Uses the prefill up.
    """
    cache, mask, logits = computed.cache, computed.mask, computed.next_logits
    generated: list[list[int]] = [[] for _ in batch.mixtures]
    active = list(range(len(batch.mixtures)))
    make_room(cache, max_new_tokens)
    while True:
        # In float32, as the logits are: float64 would take a third of a step's time on a CPU.
        drawn = draw(batch.mixed(logits.log_softmax(1)), active)
        going = []
        for slot, (mixture, token) in enumerate(zip(active, drawn, strict=True)):
            generated[mixture].append(token)
            if token not in lm.chat.end_ids and len(generated[mixture]) < max_new_tokens:
                going.append(slot)
        if not going:
            return generated
        if len(going) < len(active):
            batch, kept = _only(batch, going)
            cache.batch_select_indices(kept)
            mask = mask[kept]
            active = [active[slot] for slot in going]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        last = [generated[mixture][-1] for mixture, size in zip(active, batch.sizes, strict=True) for _ in range(size)]
        out = lm.model(
            input_ids=torch.tensor(last, device=mask.device)[:, None],
            attention_mask=mask,
            position_ids=mask.sum(1, keepdim=True) - 1,
            past_key_values=cache,
            use_cache=True,
        )
        logits = out.logits[:, -1].float()  # [rows, vocabulary]


def _only(batch: _Batch, slots: Sequence[int]) -> tuple[_Batch, torch.Tensor]:
    """The mixtures in these slots alone, and which rows are theirs."""
    starts = list(itertools.accumulate(batch.sizes, initial=0))
    rows = [row for slot in slots for row in range(starts[slot], starts[slot + 1])]
    kept = torch.tensor(rows, device=batch.log_weights.device)
    numbers, sizes = [batch.mixtures[slot] for slot in slots], [batch.sizes[slot] for slot in slots]
    return _Batch(numbers, sizes, batch.log_weights[kept]), kept
