"""The mixture of several prompts' probabilities against transformers, one prompt at a time and without a cache."""

import math
import random

import numpy as np
import pytest
import torch

from radit_job.errors import ConfigError, InputError
from radit_job.model_ref import ModelRef
from radit_job.models.base import Mixture
from radit_job.models.ensemble import answer_mixtures
from radit_job.models.huggingface import HuggingFaceLM
from radit_job.models.loading import open_generator
from radit_job.models.openai_api.lm import OpenAILM
from radit_job.records import Message

SYSTEM = Message("system", "You answer questions from the given documents, and only from them.")
WORDS = ["tide", "moon", "violin", "string", "heron", "water", "lava", "basalt", "yeast", "flour", "camel", "hump"]
MAX_NEW_TOKENS = 6


def question(number: int, n_chunks: int | None = None) -> tuple[Mixture, str]:
    """A mixture of one to five chunks of uneven length and weight, and a reference answer."""
    rng = random.Random(number)
    n_chunks = n_chunks or rng.randint(1, 5)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(1, 40))) for _ in range(n_chunks)]
    asked = f"What of the {rng.choice(WORDS)}?"
    powers = np.exp([3 * rng.random() for _ in texts])
    turns = tuple((SYSTEM, Message("user", f"{text}\n{asked}")) for text in texts)
    weights = tuple(float(weight) for weight in powers / powers.sum())
    return Mixture(turns, weights), " ".join(rng.choices(WORDS, k=rng.randint(0, 9)))


QUESTIONS = [question(number) for number in range(50)]
MIXTURES = [mixture for mixture, _ in QUESTIONS]
REFERENCES = [reference for _, reference in QUESTIONS]


@pytest.fixture(scope="module")
def lm(tiny_lm_folder):
    return open_generator(ModelRef("huggingface", str(tiny_lm_folder), dtype="float32"), n_threads=1)


def next_probabilities(lm: HuggingFaceLM, mixture: Mixture, answer: list[int], n_places: int = 1) -> np.ndarray:
    """[n_places, vocabulary]: what the mixture expects at the answer's last places, and behind it."""
    mixed = 0.0
    for turns, weight in zip(mixture.conversations, mixture.weights, strict=True):
        prompt = lm.chat.prompt_ids(turns)
        with torch.no_grad():
            out = lm.model(torch.tensor([prompt + answer]), logits_to_keep=n_places, use_cache=False)
        logits = out.logits[0].double().numpy()
        powers = np.exp(logits - logits.max(1, keepdims=True))
        mixed = mixed + weight * powers / powers.sum(1, keepdims=True)
    return mixed


def greedy_by_brute_force(lm: HuggingFaceLM, mixture: Mixture) -> list[int]:
    ids: list[int] = []
    while len(ids) < MAX_NEW_TOKENS and (not ids or ids[-1] not in lm.chat.end_ids):
        ids.append(int(next_probabilities(lm, mixture, ids)[-1].argmax()))
    return ids


def check_against_brute_force(lm: HuggingFaceLM, mixtures, references, **more) -> list:
    done = []
    answered = answer_mixtures(lm, mixtures, references, max_new_tokens=MAX_NEW_TOKENS, on_done=done.append, **more)
    assert sum(done) == len(mixtures)
    for mixture, reference, found in zip(mixtures, references, answered, strict=True):
        ids = greedy_by_brute_force(lm, mixture)
        assert found.completion.text == lm.chat.text(ids)
        assert found.completion.finish_reason == ("stop" if ids[-1] in lm.chat.end_ids else "length")
        assert found.completion.n_completion_tokens == len(ids) * len(mixture.weights)
        assert found.completion.n_prompt_tokens == sum(map(lm.n_prompt_tokens, mixture.conversations))
        target = lm.chat.answer_ids(reference)
        expected = next_probabilities(lm, mixture, target, len(target) + 1)
        probabilities = expected[np.arange(len(target)), target]
        assert found.reference.n_tokens == len(target)
        assert found.reference.nats_per_token == pytest.approx(-np.log(probabilities).mean(), abs=1e-5)
    return answered


def test_fifty_questions_equal_the_brute_force_mixture(lm):
    answered = check_against_brute_force(lm, MIXTURES, REFERENCES)
    assert len({item.completion.text for item in answered}) > 40, "the answers must tell the questions apart"


def test_the_batch_size_does_not_matter(lm):
    few = MIXTURES[:12], REFERENCES[:12]
    expected = answer_mixtures(lm, *few, max_new_tokens=MAX_NEW_TOKENS)
    for batch_size in (1, 5, 64):
        found = answer_mixtures(lm, *few, max_new_tokens=MAX_NEW_TOKENS, batch_size=batch_size)
        assert [item.completion for item in found] == [item.completion for item in expected]
        nats = [[item.reference.nats_per_token for item in items] for items in (found, expected)]
        assert nats[0] == pytest.approx(nats[1], abs=1e-5)


def test_one_prompt_is_answered_as_without_an_ensemble(lm):
    alone = [question(number, n_chunks=1)[0] for number in range(6)]
    mixed = answer_mixtures(lm, alone, REFERENCES[:6], max_new_tokens=MAX_NEW_TOKENS)
    plain = lm.answer([mixture.conversations[0] for mixture in alone], REFERENCES[:6], max_new_tokens=MAX_NEW_TOKENS)
    assert [item.completion for item in mixed] == [item.completion for item in plain]
    expected = [item.reference.nats_per_token for item in plain]
    assert [item.reference.nats_per_token for item in mixed] == pytest.approx(expected, abs=1e-6)


def test_a_prompt_without_weight_says_nothing(lm):
    for number in range(6):
        (mixture, reference), (other, _) = question(number), question(100 + number)
        more = Mixture(
            (other.conversations[0], *mixture.conversations, other.conversations[0]), (0.0, *mixture.weights, 0.0)
        )
        with_it, without = answer_mixtures(lm, [more, mixture], [reference] * 2, max_new_tokens=MAX_NEW_TOKENS)
        assert with_it.completion.text == without.completion.text
        assert with_it.reference.nats_per_token == pytest.approx(without.reference.nats_per_token, abs=1e-5)


def test_a_mixture_ends_by_itself_whenever_its_prompts_would_have_ended(lm):
    """Some members alone would end earlier, some later; only the mixture's own next token counts."""
    several = [mixture for mixture in MIXTURES if len(mixture.weights) > 2][:8]
    free = [greedy_by_brute_force(lm, mixture) for mixture in several]
    stop = next(ids[2] for ids in free if ids[2] not in ids[:2] and any(ids[2] not in other for other in free))
    ends, lm.chat.end_ids = lm.chat.end_ids, frozenset({*lm.chat.end_ids, stop})
    try:
        answered = check_against_brute_force(lm, several, [""] * len(several), batch_size=64)
        assert {item.completion.finish_reason for item in answered} == {"stop", "length"}
        (ended,) = [row for row, ids in enumerate(free) if stop in ids[:3]][:1]
        alone = [
            lm.complete([turns], max_new_tokens=MAX_NEW_TOKENS)[0].n_completion_tokens
            for turns in several[ended].conversations
        ]
        assert len({*alone}) > 1, "else the members agree when they end"
    finally:
        lm.chat.end_ids = ends


@pytest.mark.parametrize("batch_size", [1, 12])
def test_a_model_with_a_sliding_window_equals_the_brute_force_mixture(sliding_window_lm, batch_size):
    check_against_brute_force(sliding_window_lm, MIXTURES[:5], REFERENCES[:5], batch_size=batch_size)


def test_draws_come_from_the_mixture_and_depend_on_the_seed_alone(lm):
    def drawn(seed: int, batch_size: int, temperature: float = 1.0) -> list[str]:
        few = MIXTURES[:12]
        done = answer_mixtures(
            lm, few, None, max_new_tokens=4, temperature=temperature, seed=seed, batch_size=batch_size
        )
        assert all(item.reference is None for item in done)
        return [item.completion.text for item in done]

    assert drawn(1, 3) == drawn(1, 64) != drawn(2, 64)
    assert drawn(1, 8, temperature=1e-4) == drawn(1, 8, temperature=0)


def test_single_draws_are_as_frequent_as_the_mixture_has_it(lm):
    mixture = next(mixture for mixture in MIXTURES if len(mixture.weights) == 3)
    done = answer_mixtures(lm, [mixture] * 200, None, max_new_tokens=1, temperature=0.25, batch_size=96)
    powers = next_probabilities(lm, mixture, [])[-1] ** 4.0  # 1 / temperature
    shares = powers / powers.sum()
    best = int(shares.argmax())
    n = sum(item.completion.text == lm.chat.text([best]) for item in done)
    spread = math.sqrt(shares[best] * (1 - shares[best]) / 200)
    assert 0.02 < shares[best] < 0.98
    assert n / 200 == pytest.approx(shares[best], abs=4 * spread)


def test_no_mixtures_and_what_cannot_be_mixed(lm):
    assert answer_mixtures(lm, [], [], max_new_tokens=4) == []
    too_long = Mixture(((Message("user", "Why?"),), (Message("user", "word " * 1020),)), (0.5, 0.5))
    with pytest.raises(InputError, match="1024"):
        answer_mixtures(lm, [too_long], None, max_new_tokens=16)
    served = OpenAILM.__new__(OpenAILM)
    with pytest.raises(ConfigError, match="an ensemble needs the probabilities of all next tokens"):
        answer_mixtures(served, MIXTURES[:1], None, max_new_tokens=4)
