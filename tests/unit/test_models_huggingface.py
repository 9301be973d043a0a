"""Batched answers and scores against transformers, one prompt at a time."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

from radit_job.errors import ConfigError, InputError
from radit_job.model_ref import ModelRef
from radit_job.models.base import AnswerScore
from radit_job.models.huggingface import HuggingFaceLM
from radit_job.models.loading import model_folder, open_generator
from radit_job.records import Message

SYSTEM = Message("system", "You answer questions from the given documents, and only from them.")
TEXTS = [
    "Why?",
    "What is a tokenizer, and why " + "very " * 40 + "often?",
    "Name three colours.",
    "Who wrote it? " * 9,
    "x",
]
ANSWERS = [
    "Because.",
    "A tokenizer cuts a text into pieces that a model knows.",
    "Red, green, blue.",
    "",
    "Nobody knows 42.",
]
CONVERSATIONS = [[SYSTEM, Message("user", text)] for text in TEXTS]


@pytest.fixture(scope="module")
def lm(tiny_lm_folder):
    return open_generator(ModelRef("huggingface", str(tiny_lm_folder), dtype="float32"), n_threads=1)


def greedy_one_at_a_time(lm: HuggingFaceLM, conversation, max_new_tokens: int) -> list[int]:
    ids = torch.tensor([lm.chat.prompt_ids(conversation)])
    out = lm.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=sorted(lm.chat.end_ids),
    )
    return out[0, ids.shape[1] :].tolist()


def score_one_at_a_time(lm: HuggingFaceLM, conversation, answer: str) -> AnswerScore:
    prompt, target = lm.chat.prompt_ids(conversation), lm.chat.answer_ids(answer)
    with torch.no_grad():
        logits = lm.model(torch.tensor([prompt + target])).logits[0].double()
    nats = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, torch.tensor(target)[:, None])
    return AnswerScore(float(nats.sum()), len(target))


def check_against_one_at_a_time(lm: HuggingFaceLM, conversations, answers, batch_size: int, max_new_tokens: int):
    done = []
    answered = lm.answer(
        conversations, answers, max_new_tokens=max_new_tokens, batch_size=batch_size, on_done=done.append
    )
    assert sum(done) == len(conversations)
    scored = lm.score(conversations, answers, batch_size=batch_size)
    for conversation, answer, got, score in zip(conversations, answers, answered, scored, strict=True):
        ids = greedy_one_at_a_time(lm, conversation, max_new_tokens)
        assert got.completion.text == lm.chat.text(ids)
        assert got.completion.n_completion_tokens == len(ids)
        assert got.completion.n_prompt_tokens == lm.n_prompt_tokens(conversation)
        assert got.completion.finish_reason == ("stop" if ids[-1] in lm.chat.end_ids else "length")
        expected = score_one_at_a_time(lm, conversation, answer)
        for found in (got.reference, score):
            assert found.n_tokens == expected.n_tokens
            assert found.nats_per_token == pytest.approx(expected.nats_per_token, abs=1e-4)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 8])
def test_every_batch_shape_equals_one_at_a_time(lm, batch_size):
    check_against_one_at_a_time(lm, CONVERSATIONS, ANSWERS, batch_size, max_new_tokens=12)


def test_prompts_without_a_shared_prefix(lm):
    conversations = [[Message("system", text), *turns[1:]] for text, turns in zip("abcde", CONVERSATIONS, strict=True)]
    check_against_one_at_a_time(lm, conversations, ANSWERS, 3, max_new_tokens=6)


def test_equal_prompts_keep_a_token_outside_the_shared_prefix(lm):
    check_against_one_at_a_time(lm, [CONVERSATIONS[1]] * 3, ANSWERS[:3], 2, max_new_tokens=4)


def test_the_packaged_model_equals_one_at_a_time():
    lm = open_generator(ModelRef("packaged", "smollm2-135m-instruct", dtype="float32"), n_threads=1)
    check_against_one_at_a_time(lm, CONVERSATIONS[1:4], ANSWERS[1:4], 3, max_new_tokens=8)


def test_rows_that_end_leave_the_batch_and_the_others_go_on(lm):
    # Make a token that some rows write early an end token: those stop, the rest must not change.
    free = [greedy_one_at_a_time(lm, conversation, 12) for conversation in CONVERSATIONS]
    stop = next(ids[2] for ids in free if any(ids[2] not in other for other in free))
    ends, lm.chat.end_ids = lm.chat.end_ids, frozenset({*lm.chat.end_ids, stop})
    try:
        answered = lm.complete(CONVERSATIONS, max_new_tokens=12, batch_size=5)
        assert {item.finish_reason for item in answered} == {"stop", "length"}
        check_against_one_at_a_time(lm, CONVERSATIONS, ANSWERS, 5, max_new_tokens=12)
    finally:
        lm.chat.end_ids = ends


@pytest.mark.parametrize(("free", "most_rows"), [(1 << 40, 4), (0, 1)])
def test_prompts_join_those_that_are_being_answered_while_memory_allows(lm, monkeypatch, free, most_rows):
    rows = []
    forward = lm.model.forward

    def watched(*args, **kwargs):
        rows.append(kwargs["input_ids"].shape)
        return forward(*args, **kwargs)

    monkeypatch.setattr(lm.model, "forward", watched)
    monkeypatch.setattr("radit_job.models.decoding.free_bytes", lambda device: free)
    lm.complete(CONVERSATIONS, max_new_tokens=12, batch_size=1)
    assert {shape[0] for shape in rows if shape[1] > 1} == {1}
    assert max(shape[0] for shape in rows if shape[1] == 1) == most_rows


def test_sampling_depends_on_the_seed_and_not_on_the_batch(lm):
    def sample(seed: int, batch_size: int) -> list[str]:
        done = lm.complete(CONVERSATIONS, max_new_tokens=8, temperature=0.8, seed=seed, batch_size=batch_size)
        return [item.text for item in done]

    assert sample(1, 2) == sample(1, 5)
    assert sample(1, 5) != sample(2, 5)


def test_a_prompt_that_does_not_fit_names_the_lengths(lm):
    with pytest.raises(InputError, match="1024"):
        lm.complete([[Message("user", "word " * 1020)]], max_new_tokens=16)


def test_no_prompts(lm):
    assert lm.complete([], max_new_tokens=4) == []
    assert lm.score([], []) == []


def test_bad_providers_and_folders(tmp_path):
    with pytest.raises(ConfigError, match="its weights are not here"):
        model_folder(ModelRef("openai", "gpt"))
    with pytest.raises(InputError, match="no config\\.json"):
        open_generator(ModelRef("huggingface", str(tmp_path)))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="cannot be opened"):
        open_generator(ModelRef("huggingface", str(tmp_path)))


def test_scores_do_not_depend_on_how_many_positions_are_read_at_once(lm, monkeypatch):
    whole = lm.score(CONVERSATIONS, ANSWERS, batch_size=3)
    for n_columns in (1, 3):
        monkeypatch.setattr("radit_job.models.pair_scoring.MAX_LOGITS", n_columns * 3 * 49152)
        for found, expected in zip(lm.score(CONVERSATIONS, ANSWERS, batch_size=3), whole, strict=True):
            assert found.n_tokens == expected.n_tokens
            assert found.log_probability_nats == pytest.approx(expected.log_probability_nats, abs=1e-3)


@pytest.mark.parametrize("batch_size", [1, 3, 5])
def test_a_model_with_a_sliding_window_equals_one_at_a_time(sliding_window_lm, batch_size):
    check_against_one_at_a_time(sliding_window_lm, CONVERSATIONS, ANSWERS, batch_size, max_new_tokens=12)


def copy_of(folder: Path, to: Path, *, without: str = "") -> Path:
    """The model folder again, but for the tensors whose name contains `without`."""
    shutil.copytree(folder, to)
    if without:
        tensors = load_file(folder / "model.safetensors")
        kept = {name: tensor for name, tensor in tensors.items() if without not in name}
        assert len(kept) < len(tensors)
        save_file(kept, to / "model.safetensors", metadata={"format": "pt"})
    return to


def test_missing_weights_are_named(tiny_lm_folder, tmp_path):
    folder = copy_of(tiny_lm_folder, tmp_path / "lm", without="layers.1.mlp")
    with pytest.raises(InputError, match=r"lack model\.layers\.1\.mlp\.down_proj\.weight and 2 more"):
        open_generator(ModelRef("huggingface", str(folder)))


def test_truncated_weights_are_an_input_error(tiny_lm_folder, tmp_path):
    folder = copy_of(tiny_lm_folder, tmp_path / "lm")
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(100_000)
    with pytest.raises(InputError, match="cannot be opened"):
        open_generator(ModelRef("huggingface", str(folder)))


def test_an_encoder_is_no_language_model(lm, tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertForMaskedLM(BertConfig(vocab_size=len(lm.tokenizer), **sizes)).save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="encoder"):
        open_generator(ModelRef("huggingface", str(tmp_path)))


def test_a_tokenizer_without_an_end_is_an_input_error(tiny_lm_folder, tmp_path):
    folder = copy_of(tiny_lm_folder, tmp_path / "lm")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token, tokenizer.chat_template = None, None
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(folder)
    with pytest.raises(InputError, match="end-of-sequence"):
        open_generator(ModelRef("huggingface", str(folder)))
