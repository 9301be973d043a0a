"""Scores of many pairs at once against transformers itself: one pair, one forward pass, no cache, no padding."""

import random
from functools import cache
from itertools import product

import pytest
import torch
from transformers import AutoModelForCausalLM

from radit_job.errors import InputError
from radit_job.model_ref import ModelRef
from radit_job.models import pair_scoring, shared_prefixes
from radit_job.models.loading import open_local_lm
from radit_job.models.prefix_groups import PrefixGroup, group_by_prefix
from radit_job.rag.prompts import Prompts
from radit_job.records import Message

BATCH_SIZES = (1, 2, 7, 64)
CHUNKS = [
    "A pelican stabs at fish with its bill. " * 4,
    "Bread rises because wild yeast makes gas in the dough; salt slows it down." * 3,
    "A tokenizer cuts text into pieces, and then",  # ends in the middle of a sentence
    "The last chunk is short.",
]
QUESTIONS = ["How?", "What does the pelican do, and with what?", "Why does bread rise " + "very " * 30 + "well?", "x"]
ONE_TOKEN = ""  # the end of the turn alone
ANSWERS = [ONE_TOKEN, "It stabs.", "wild yeast, " * 33, "Nobody knows 42 of them."]
PROMPTS = Prompts("Answer from the documents.", "Context:\n{context}\nQuery: {question}\nAnswer: ", "{question}")


@pytest.fixture(scope="module")
def lm(tiny_lm_folder):
    return open_local_lm(ModelRef("huggingface", str(tiny_lm_folder), dtype="float32"), n_threads=1)


@pytest.fixture(scope="module")
def peer(tiny_lm_folder):
    """The same weights as transformers opens them, and no code of ours."""
    model = AutoModelForCausalLM.from_pretrained(tiny_lm_folder, dtype=torch.float32).eval()

    @cache
    def score(prompt, target):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + target]), use_cache=False).logits[0].double()
        nats = logits.log_softmax(-1)[range(len(prompt) - 1, len(prompt) + len(target) - 1), target]
        return float(nats.sum()), len(target)

    return score


def every_pair():
    """Each chunk with each question, in no order that helps, and each question's answer."""
    pairs = sorted(product(range(4), range(4)), key=lambda pair: (7 * pair[0] + 5 * pair[1]) % 16)
    return [PROMPTS.with_context(QUESTIONS[q], [CHUNKS[c]]) for c, q in pairs], [ANSWERS[q] for _, q in pairs]


def check(lm, peer, conversations, answers, batch_sizes=(2, 7)):
    expected = [
        peer(tuple(lm.chat.prompt_ids(conversation)), tuple(lm.chat.answer_ids(answer)))
        for conversation, answer in zip(conversations, answers, strict=True)
    ]
    for batch_size in batch_sizes:
        done = []
        scores = lm.score(conversations, answers, batch_size=batch_size, on_done=done.append)
        assert sum(done) == len(conversations)
        for score, (nats, n_tokens) in zip(scores, expected, strict=True):
            assert score.n_tokens == n_tokens
            assert score.log_probability_nats == pytest.approx(nats, abs=1e-4 * n_tokens)


def test_each_chunk_under_many_questions(lm, peer):
    conversations, answers = every_pair()
    lengths = {lm.n_answer_tokens(answer) for answer in answers}
    assert min(lengths) == 1 and max(lengths) >= 100
    check(lm, peer, conversations, answers, BATCH_SIZES)


def test_equal_prompts_with_different_answers_and_equal_pairs(lm, peer):
    conversation = PROMPTS.with_context(QUESTIONS[1], [CHUNKS[0]])
    check(lm, peer, [conversation] * 6, [*ANSWERS, ANSWERS[1], ANSWERS[1]], BATCH_SIZES)


def test_one_pair_and_one_chunk_for_all(lm, peer):
    conversations = [PROMPTS.with_context(question, [CHUNKS[0]]) for question in QUESTIONS]
    check(lm, peer, conversations[:1], ANSWERS[:1])
    check(lm, peer, conversations, ANSWERS, BATCH_SIZES)


def test_prompts_that_share_nothing_or_only_their_head(lm, peer):
    free = [[Message("system", text), Message("user", QUESTIONS[0])] for text in ("a", "Be brief. " * 12, "zebra", "?")]
    check(lm, peer, free, ANSWERS)
    check(lm, peer, [PROMPTS.with_context(QUESTIONS[1], [chunk]) for chunk in CHUNKS], ANSWERS)


def test_one_prompt_is_the_beginning_of_another(lm, peer, monkeypatch):
    """Then a token of the shorter one must stay outside what both share."""
    monkeypatch.setattr(lm.chat, "prompt_ids", lambda conversation: lm.chat.text_ids(conversation[0].content))
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    texts = [" ".join(words * n) for n in (8, 6, 6, 3)] + ["one two"]
    check(lm, peer, [[Message("user", text)] for text in texts], ["a", "b b", "c", "d d d", "e"])


@pytest.mark.parametrize("ending", ["with its bi", "with its bill.\n", "un", " "])
def test_the_last_token_of_a_chunk_may_merge_with_what_follows_it(lm, peer, ending):
    """The same chunk text is not the same tokens in each prompt; what they share ends earlier."""
    chunk = "A pelican stabs at fish, which it finds in shallow water near the shore of the lake, " * 2 + "x" + ending
    questions = ["ll?", "believable, is it?", "\n\nWhy?", " Why?", "?"]
    conversations = [[Message("user", f"{chunk}{question}")] for question in questions]
    check(lm, peer, conversations, [*ANSWERS, "five"])


def test_scores_do_not_depend_on_how_many_logits_fit_the_memory(lm, peer, monkeypatch):
    conversations, answers = every_pair()
    for n_places in (8, 120):
        monkeypatch.setattr(pair_scoring, "MAX_LOGITS", n_places * 49152)
        check(lm, peer, conversations, answers, batch_sizes=(7,))


def test_no_pass_asks_for_more_logits_than_fit(lm, monkeypatch):
    asked = []
    conversations, answers = every_pair()
    forward = lm.model.forward

    def watched(*args, **kwargs):
        out = forward(*args, **kwargs)
        asked.append(out.logits.shape[0] * out.logits.shape[1])
        return out

    monkeypatch.setattr(lm.model, "forward", watched)
    monkeypatch.setattr(pair_scoring, "MAX_LOGITS", 120 * 49152)
    lm.score(conversations, answers, batch_size=16)
    assert max(asked) <= 120


@pytest.mark.parametrize("way", ["score", "complete"])
def test_a_chunk_is_read_once_for_all_its_questions(lm, monkeypatch, way):
    read = []
    conversations, answers = every_pair()
    forward = lm.model.forward

    def watched(*args, **kwargs):
        read.append(kwargs["input_ids"].numel())
        return forward(*args, **kwargs)

    def n_read():
        read.clear()
        if way == "score":
            lm.score(conversations, answers, batch_size=1)  # nothing of the prompts is padded
        else:
            lm.complete(conversations, max_new_tokens=1, batch_size=1)
        return sum(read)

    monkeypatch.setattr(lm.model, "forward", watched)
    shared = n_read()
    monkeypatch.setattr(shared_prefixes, "MIN_SAVED_TOKENS", 10**9)
    saved = sum(len(lm.chat.text_ids(chunk)) for chunk in CHUNKS) * (len(QUESTIONS) - 1)
    assert n_read() - shared == pytest.approx(saved, rel=0.15)


def test_a_pair_that_does_not_fit_names_the_lengths(lm):
    with pytest.raises(InputError, match="1024"):
        lm.score([PROMPTS.with_context("word " * 1020, ["a"])], ["b"])


def saved(groups, n_common):
    return sum((len(group.rows) - 1) * (group.n_shared - n_common) for group in groups)


def test_groups_save_the_most_tokens():
    rows = ["abcdeX1", "abcdeX2", "abcdeY1", "abZZZZ1", "abZZZZ2", "abQ"]
    groups = group_by_prefix([list(map(ord, row)) for row in rows], 2, 1)
    assert sorted(sorted(group.rows) for group in groups) == [[0, 1, 2], [3, 4], [5]]
    assert {group.rows: group.n_shared for group in groups}[0, 1, 2] == 5
    assert saved(groups, 2) == 2 * 3 + 4


def test_groups_agree_with_trying_every_stretch():
    rng = random.Random(3)
    for _ in range(60):
        rows = [[rng.randrange(2) for _ in range(rng.randint(1, 8))] for _ in range(7)]
        groups = group_by_prefix(rows, 0, 1)
        assert sorted(row for group in groups for row in group.rows) == list(range(7))
        for group in groups:
            prefixes = {tuple(rows[row][: group.n_shared]) for row in group.rows}
            assert len(prefixes) == 1 and all(len(rows[row]) > group.n_shared for row in group.rows)
        assert saved(groups, 0) == best_by_force([rows[row] for row in sorted(range(7), key=lambda row: rows[row])])


def best_by_force(rows):
    """The most tokens that cutting the sorted rows into stretches saves."""
    best = 0
    for cuts in product((False, True), repeat=len(rows) - 1):
        stretches, start = [], 0
        for place, cut in enumerate((*cuts, True), start=1):
            if cut:
                stretches.append(rows[start:place])
                start = place
        total = 0
        for stretch in stretches:
            shared = min(len(row) for row in stretch) - 1
            shared = next((n for n in range(shared) if len({row[n] for row in stretch}) > 1), shared)
            total += (len(stretch) - 1) * shared
        best = max(best, total)
    return best


def test_what_saves_too_little_is_alone():
    rows = [[1, 2, 3, 4], [1, 2, 3, 5], [9]]
    assert group_by_prefix(rows, 0, 4) == [PrefixGroup((0,), 0), PrefixGroup((1,), 0), PrefixGroup((2,), 0)]
    assert group_by_prefix(rows, 0, 3)[0] == PrefixGroup((0, 1), 3)
    assert group_by_prefix([], 0, 1) == []
