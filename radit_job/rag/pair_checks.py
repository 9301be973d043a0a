"""Which pairs of a file can be used; what cannot is named with its file and line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from radit_job.errors import InputError
from radit_job.rag.matching import match_words
from radit_job.rag.pair_files import Pair
from radit_job.records import Dropped

MAX_QUESTION_WORDS = 200
SHOWN = 10  # places in one message


def usable_pairs(
    pairs: Iterable[Pair], max_answer_words: int, unanswerable: str | None = None
) -> tuple[list[Pair], list[Dropped]]:
    """(pairs to keep, pairs dropped as duplicate, over-long or unanswerable), both in their order.

    `unanswerable` is the answer of those that have none, whatever the file has there; None: they are dropped.
    An empty question or answer is a mistake in the file: InputError names every place.
    """
    kept: list[Pair] = []
    dropped: list[Dropped] = []
    empty: list[tuple[str, str]] = []
    seen: set[tuple[str, str]] = set()
    for pair in pairs:
        if pair.is_unanswerable:
            if unanswerable is None:
                dropped.append(Dropped("unanswerable", pair.where, pair.question))
                continue
            pair = replace(pair, answer=unanswerable, answer_start=None)
        if not pair.question or not pair.answer:
            empty.append((pair.where, "question" if not pair.question else "answer"))
            continue
        same = " ".join(match_words(pair.question)), " ".join(match_words(pair.answer)) or pair.answer
        if len(pair.answer.split()) > max_answer_words and not pair.is_unanswerable:
            dropped.append(Dropped("long_answer", pair.where, pair.question))
        elif len(pair.question.split()) > MAX_QUESTION_WORDS:
            dropped.append(Dropped("long_question", pair.where, pair.question))
        elif same in seen:
            dropped.append(Dropped("duplicate", pair.where, pair.question))
        else:
            seen.add(same)
            kept.append(pair)
    if empty:
        raise _empty_error(empty)
    return kept, dropped


def _empty_error(empty: Sequence[tuple[str, str]]) -> InputError:
    where, what = empty[0]
    if len(empty) == 1:
        return InputError(f"the {what} is empty", where=where, todo=f"write the {what} or delete the pair")
    places = ", ".join(place for place, _ in empty[:SHOWN]) + (", ..." if len(empty) > SHOWN else "")
    return InputError(
        f"{len(empty)} pairs have an empty question or answer", where=places, todo="complete or delete them"
    )
