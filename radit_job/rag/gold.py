"""Which chunks hold the answer to a question: found from what the question's file says, never guessed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from radit_job.rag.matching import PhraseIndex, Shingle, find_words, match_words, shingles
from radit_job.rag.pair_files import Pair
from radit_job.records import Chunk

GOLD_SHARE = 0.5  # of a chunk's shingles in the reference context, or of the context's in the chunk
BEST_SHARE = 0.25  # without any such chunk, the best one counts from here on
LONG_ANSWER_WORDS = 8  # a shorter answer may stand in many places by chance
# What must stand around a known answer, before and behind it, in the order of trying: a chunk may begin or end with it.
WINDOWS_CHARACTERS = ((80, 80), (40, 40), (0, 40), (40, 0), (0, 0))


@dataclass(frozen=True, slots=True)
class Gold:
    """Where one answer stands, or for a question without one, what it was asked about."""

    document: str | None
    chunk_ids: tuple[str, ...]
    passage_chunk_ids: tuple[str, ...] = ()  # no gold: the passage does not hold the answer


@dataclass(frozen=True, slots=True)
class _Match:
    chunk_id: str
    document: str
    n_shared: int
    share: float  # of the chunk in the context, or of the context in the chunk, whichever is larger
    words: list[str]


class GoldFinder:
    """Finds the gold chunks of many pairs in one pass over the chunks: `see` each chunk, then ask `gold` for each pair.

    A pair's gold chunks are, in this order: those that it names itself; those that overlap its reference context by
    half (narrowed to those with the answer, where it stands there word for word); and the only chunk that holds a long
    answer word for word. One without an answer has no gold, but the document and the passage that it was asked about:
    the chunks that it names, or all that overlap its reference context. The work grows with the corpus's words, not
    with chunks times pairs.
    """

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self._contexts: dict[str, int] = {}
        self._n_shingles: list[int] = []
        self._holders: dict[Shingle, list[int]] = defaultdict(list)
        for pair in pairs:
            for context in pair.contexts:
                self._add_context(context)
        self._named = {chunk_id for pair in pairs for chunk_id in pair.chunk_ids}
        self._named_documents: dict[str, str] = {}
        self._answers = {number: words for number, pair in enumerate(pairs) if (words := _long_answer(pair))}
        self._answer_index = PhraseIndex(self._answers.items())
        self._answer_chunks: dict[int, list[tuple[str, str]]] = defaultdict(list)
        self._matches: dict[int, list[_Match]] = defaultdict(list)
        self._documents: set[str] = set()

    def _add_context(self, context: str) -> None:
        if context in self._contexts:
            return
        number = self._contexts[context] = len(self._contexts)
        distinct = set(shingles(match_words(context)))
        self._n_shingles.append(len(distinct))
        for shingle in distinct:
            self._holders[shingle].append(number)

    def see(self, chunk: Chunk, words: list[str]) -> None:
        """Take in one chunk; `words` are its `match_words`."""
        self._documents.add(chunk.document)
        if chunk.chunk_id in self._named:
            self._named_documents[chunk.chunk_id] = chunk.document
        if self._answers:
            for number in self._answer_index.candidates(words):
                if find_words(self._answers[number], words) >= 0:
                    self._answer_chunks[number].append((chunk.chunk_id, chunk.document))
        if not self._holders:
            return
        distinct = set(shingles(words))
        shared = Counter(number for shingle in distinct for number in self._holders.get(shingle, ()))
        for number, n_shared in shared.items():
            share = max(n_shared / len(distinct), n_shared / self._n_shingles[number])
            if share >= BEST_SHARE:
                self._matches[number].append(_Match(chunk.chunk_id, chunk.document, n_shared, share, words))

    def gold(self, number: int, pair: Pair) -> Gold:
        """Where the answer of the pair with this number stands, after every chunk has been seen."""
        documents = {  # of each gold chunk, in their order
            chunk_id: self._named_documents[chunk_id]
            for chunk_id in pair.chunk_ids
            if chunk_id in self._named_documents
        }
        if not documents:
            for context in pair.contexts:
                matches = _best(self._matches.get(self._contexts[context], []))
                documents |= {match.chunk_id: match.document for match in _narrow(matches, pair, context)}
        if documents:
            found_ids, document = tuple(documents), next(iter(documents.values()))
            return Gold(document, (), found_ids) if pair.is_unanswerable else Gold(document, found_ids)
        found = [
            (chunk_id, document)
            for chunk_id, document in self._answer_chunks.get(number, [])
            if pair.document in (None, document)
        ]
        if len(found) == 1:
            return Gold(found[0][1], (found[0][0],))
        return Gold(pair.document if pair.document in self._documents else None, ())


def _long_answer(pair: Pair) -> list[str]:
    words = match_words(pair.answer)
    has_none = pair.is_unanswerable or bool(pair.chunk_ids)
    return words if len(words) >= LONG_ANSWER_WORDS and not has_none else []


def _best(matches: Sequence[_Match]) -> list[_Match]:
    clear = [match for match in matches if match.share >= GOLD_SHARE]
    if clear or not matches:
        return clear
    return [max(matches, key=lambda match: (match.n_shared, match.chunk_id))]


def _narrow(matches: list[_Match], pair: Pair, context: str) -> list[_Match]:
    """Of the chunks from the context, those where the answer stands; all of them if it stands in none word for word."""
    if len(matches) < 2 or pair.is_unanswerable:
        return matches
    for window in _answer_windows(pair, context):
        holding = [match for match in matches if window and find_words(window, match.words) >= 0]
        if holding:
            return holding
    return matches


def _answer_windows(pair: Pair, context: str) -> list[list[str]]:
    """The answer with less and less of what stands around it: the same words may stand in the context twice."""
    if pair.answer_start is None:
        return [match_words(pair.answer)]
    answer_end = pair.answer_start + len(pair.answer)
    windows = []
    for n_before, n_behind in WINDOWS_CHARACTERS:
        before = context[max(0, pair.answer_start - n_before) : pair.answer_start]
        behind = context[answer_end : answer_end + n_behind]
        # Whole words only, unless the context begins or ends there.
        before = before if n_before >= pair.answer_start else before.partition(" ")[2]
        behind = behind if answer_end + n_behind >= len(context) else behind.rpartition(" ")[0]
        windows.append(match_words(before + context[pair.answer_start : answer_end] + behind))
    return windows
