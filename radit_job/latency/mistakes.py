"""Mistakes that make answers slow or bad and are seen again and again, told as warnings. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from radit_job.rag.leakage import LeakFinder
from radit_job.rag.matching import match_words

DOUBLE_SHARE = 0.05  # of the chunks; a few equal ones are headings, and no second indexing
INSTRUCTION_END = "[/INST]"  # of Llama 2's and Mistral's templates: the answer follows at once
END_OF_SEQUENCE = "</s>"  # of theirs; another model reads it as plain text, which is no better
# What transformers takes for "not set": GenerationConfig's own defaults.
UNSET: Mapping[str, tuple[Any, ...]] = {"temperature": (None, 1.0), "top_p": (None, 1.0), "top_k": (None, 0, 50)}


def answers_in_the_corpus(pairs: Sequence[tuple[str, str]], chunks: Iterable[tuple[str, str]]) -> str | None:
    """Questions that stand in a chunk with their answer behind them.

    Pairs are (question, answer), chunks (id, text).
    """
    finder = LeakFinder(pairs)
    for chunk_id, text in chunks:
        finder.see(chunk_id, match_words(text))
    if not finder.found:
        return None
    number = min(finder.found)
    return (
        f"The corpus holds the answers: {len(finder.found)} of {len(pairs)} questions stand in a chunk with their "
        f"answer behind them, such as {pairs[number][0]!r} in {finder.found[number]}. The model copies these; take the "
        "file with the questions out of corpus.paths."
    )


def chunks_twice(texts: Iterable[str]) -> str | None:
    """The same text in the index more than once, as after indexing a corpus twice."""
    times = Counter(" ".join(text.split()) for text in texts)
    n_chunks, n_more = sum(times.values()), sum(times.values()) - len(times)
    if n_more < max(1, DOUBLE_SHARE * n_chunks):
        return None
    return (
        f"{n_more} of {n_chunks} chunks are in the index a second time: retrieval gives the same text twice, and the "
        "prompt is longer for nothing. Name each document once in corpus.paths."
    )


def prompt_mistakes(prompt: str, *, bos: str | None, ends: Collection[str]) -> list[str]:
    """What is wrong with a prompt as the model gets it; `ends` are the texts of the tokens that end its answers."""
    found = []
    if bos and bos not in ends and prompt.startswith(bos + bos):
        found.append(
            f"The prompt begins with {bos} twice: the template writes it and the tokenizer adds it again. Take it out "
            "of one of them."
        )
    tail = prompt.rstrip()
    behind = tail.rpartition(INSTRUCTION_END)[2] if INSTRUCTION_END in tail else ""
    inside = next((end for end in sorted({*ends, END_OF_SEQUENCE}) if end in behind), None)
    at_end = next((end for end in sorted(ends) if tail.endswith(end)), None)
    if inside:
        found.append(
            f"The prompt has {inside} behind its last {INSTRUCTION_END}: the model takes its answer for finished and "
            "begins something else. The prompt must end where the answer begins."
        )
    elif at_end:
        found.append(
            f"The prompt ends in {at_end}: the model takes its answer for finished and begins something else. The "
            "prompt must end where the answer begins."
        )
    return found


def sampling_without_sampling(generation_config: Mapping[str, Any]) -> str | None:
    """Settings of sampling in a model's generation_config.json although it says do_sample: false."""
    if generation_config.get("do_sample"):
        return None
    named = [
        f"{name} {generation_config[name]}"
        for name, unset in UNSET.items()
        if name in generation_config and generation_config[name] not in unset
    ]
    if not named:
        return None
    return (
        f"The model's generation_config.json sets {' and '.join(named)} while do_sample is false: transformers ignores "
        "them. Here they are set aside, and every answer is greedy."
    )
