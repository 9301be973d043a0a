"""Questions that stand in the corpus with their answers, as records: they would measure the memory of those records."""

from __future__ import annotations

from collections.abc import Sequence

from radit_job.rag.matching import PhraseIndex, find_words, match_words

MAX_WORDS_BETWEEN = 8  # such as "answer:" or a field's name


class LeakFinder:
    """Finds questions that stand in a chunk word for word, with their answer right behind; `see` each chunk's words."""

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        self._pairs = [(match_words(question), match_words(answer)) for question, answer in pairs]
        self._index = PhraseIndex((number, question) for number, (question, _) in enumerate(self._pairs))
        self.found: dict[int, str] = {}  # number of the pair -> the first chunk that holds it

    def see(self, chunk_id: str, words: list[str]) -> None:
        """Take in one chunk; `words` are its `match_words`."""
        for number in self._index.candidates(words):
            if number not in self.found and self._holds_record(number, words):
                self.found[number] = chunk_id

    def _holds_record(self, number: int, words: list[str]) -> bool:
        question, answer = self._pairs[number]
        at = find_words(question, words)
        while at >= 0:
            behind = words[at + len(question) : at + len(question) + MAX_WORDS_BETWEEN + len(answer)]
            if answer and find_words(answer, behind) >= 0:
                return True
            at = find_words(question, words, at + 1)
        return False
