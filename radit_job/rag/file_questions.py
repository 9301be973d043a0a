"""Questions from the pairs of a file: their names, their gold chunks, and which are drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from radit_job.rag.gold import GoldFinder
from radit_job.rag.leakage import LeakFinder
from radit_job.rag.matching import match_words
from radit_job.rag.pair_files import Pair
from radit_job.rag.sampling import spread
from radit_job.records import Chunk, Question


def questions_of(
    pairs: Sequence[Pair], chunks: Iterable[Chunk], limit: int | None, seed: int
) -> tuple[list[Question], dict[str, str]]:
    """(the questions, drawn evenly from the documents; which of them stand in a chunk as records: id -> chunk)."""
    gold, leaks = GoldFinder(pairs), LeakFinder([(pair.question, pair.answer) for pair in pairs])
    for chunk in chunks:
        words = match_words(chunk.text)
        gold.see(chunk, words)
        leaks.see(chunk.chunk_id, words)
    ids = _question_ids(pairs)
    questions = []
    for number, pair in enumerate(pairs):
        found = gold.gold(number, pair)
        questions.append(
            Question(
                question_id=ids[number],
                question=pair.question,
                answer=pair.answer,
                document=found.document,
                chunk_ids=found.chunk_ids,
                source="file",
                passage_chunk_ids=found.passage_chunk_ids,
            )
        )
    chosen = _draw(questions, pairs, limit, seed)
    leaked = {ids[number]: leaks.found[number] for number in chosen if number in leaks.found}
    return [questions[number] for number in chosen], leaked


def _question_ids(pairs: Sequence[Pair]) -> list[str]:
    """The file's own ids if every pair has one and no two are the same, else numbers."""
    own = [pair.pair_id for pair in pairs]
    unique = {pair_id for pair_id in own if pair_id}
    return (
        [pair_id for pair_id in own if pair_id]
        if len(unique) == len(pairs)
        else [f"q{number:05d}" for number in range(len(pairs))]
    )


def _draw(questions: Sequence[Question], pairs: Sequence[Pair], limit: int | None, seed: int) -> list[int]:
    """Positions of the questions to keep, in their order; drawn evenly from the documents."""
    if limit is None or limit >= len(questions):
        return list(range(len(questions)))
    groups = [question.document or "".join(pair.contexts[:1]) for question, pair in zip(questions, pairs, strict=True)]
    return sorted(spread(groups, seed)[:limit])
