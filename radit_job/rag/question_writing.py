"""Question/answer pairs written by a small language model: a sentence is the answer, the model writes its question.

A small model writes junk when it is asked for pairs as JSON. What works is a few examples of "sentence -> question",
several samples, and filters: the question's words must come from the sentence, and the question must find it again.
All of it is made for English.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from radit_job.rag.matching import match_words
from radit_job.rag.sentences import split_sentences
from radit_job.records import Chunk, Dropped, Message, Question

Vectors = npt.NDArray[np.float32]
Embed = Callable[[Sequence[str]], Vectors]  # rows of length 1
Write = Callable[[Sequence[Sequence[Message]], int], list[str]]  # (conversations, seed) -> what the model wrote

N_SAMPLES = 4
TEMPERATURE = 0.8
MAX_NEW_TOKENS = 40
SENTENCES_PER_ROUND = 16
MIN_SENTENCES_PER_ROUND = 4  # fill a batch of 16 samples
TRIED_PER_QUESTION = 3  # about one sentence in three gives a question: no more are tried for the last few
MIN_SHARED_SHARE = 0.6  # of the question's content words must stand in the sentence
MIN_COSINE = 0.5  # between the question and its sentence
SENTENCE_WORDS = range(8, 41)
QUESTION_WORDS = range(4, 31)
MAX_CAPITAL_SHARE = 0.5  # of the sentence's pieces may begin with a capital: more is a list of names
MAX_REFERENCES = 1  # marks of a reference in a chunk: more is a bibliography, whose titles are no sentences
MIN_STOP_WORD_SHARE = 0.25  # of an English text's words, which have about 0.4; in, an, on, a are words elsewhere too
MIN_WORD_SHARE = 0.8  # of the sentence's pieces must be words: the rest is a table or a formula

_SYSTEM = "Write one question that the sentence answers. Use the sentence's own words. Write only the question."
_EXAMPLES = (
    (
        "The reactor is cooled by liquid sodium, which leaves the core at 550 degrees.",
        "What cools the reactor, and how hot is the liquid sodium when it leaves the core?",
    ),
    (
        "Backups are kept for thirty days and then deleted automatically.",
        "How long are backups kept before they are deleted?",
    ),
    (
        "Charles Darwin proposed natural selection after his voyage on the Beagle.",
        "What did Charles Darwin propose after his voyage on the Beagle?",
    ),
)
_POINTS_ELSEWHERE = re.compile(
    r"^(this|that|these|those|it|its|they|their|he|she|his|her|such|here|there|both|also|and|but|or)\b"
    r"|^(however|thus|hence|therefore|moreover)\b"
    r"|\b(figure|table|section|appendix|equation|above|below|et al)\b",
    re.IGNORECASE,
)
_REFERENCE = re.compile(r"\. (?:19|20)\d\d[a-z]?\. |\barXiv\b|\bpreprint\b|\bProceedings of\b|\babs/\d")
_QUESTION_START = re.compile(
    r"(what|who|whom|whose|when|where|which|why|how|is|are|was|were|do|does|did|has|have|had|can|could|will|would|should|must"
    r"|in|on|at|for|to|by|from|of|with|under|after|before|during)\b",
    re.IGNORECASE,
)
_STOP_WORDS = frozenset(
    """
    a about after all also an and any are as at be been before being between but by can could did do does done
    during each for from given had has have how if in into is it its many may more most much not of on one only or
    other our over same should so some such than that the their them then there these they this those through to
    under used use using was we were what when where which while who whom whose why will with within would you your
    """.split()  # noqa: SIM905
)


@dataclass(slots=True)
class Sentence:
    """A sentence that can be an answer, and every chunk that holds it."""

    text: str
    document: str
    chunk_ids: list[str]


def answer_sentences(chunk: Chunk) -> Iterator[str]:
    """The chunk's sentences that make sense alone: complete, of a usual length, prose, pointing to nothing outside."""
    if is_bibliography(chunk.text):
        return
    for raw in split_sentences(chunk.text):
        text = raw.strip()
        is_complete = text[:1].isupper() and text.endswith((".", "!")) and "\n" not in text
        if is_complete and not _POINTS_ELSEWHERE.search(text) and _is_prose(text.split()):
            yield text


def is_bibliography(text: str) -> bool:
    """Whether a text lists references, whose titles are no sentences."""
    return len(_REFERENCE.findall(text)) > MAX_REFERENCES


def _is_prose(pieces: Sequence[str]) -> bool:
    n_words = sum(piece.strip(".,;:()\"'").replace("-", "").isalpha() for piece in pieces)
    n_capitals = sum(piece[0].isupper() for piece in pieces)
    return (
        len(pieces) in SENTENCE_WORDS
        and n_words >= MIN_WORD_SHARE * len(pieces)
        and n_capitals <= MAX_CAPITAL_SHARE * len(pieces)
    )


def content_words(text: str) -> set[str]:
    """The words that carry meaning, by their first six letters, so that `trains` and `training` meet."""
    return {word[:6] for word in match_words(text) if word not in _STOP_WORDS}


def looks_english(texts: Iterable[str]) -> bool:
    """Whether the texts' words are English small words as often as in English prose, where they are about 0.4."""
    words = [word for text in texts for word in match_words(text)]
    return sum(word in _STOP_WORDS for word in words) >= MIN_STOP_WORD_SHARE * len(words)


def question_prompt(sentence: str) -> list[Message]:
    """The conversation that asks for a sentence's question."""
    turns = [Message("system", _SYSTEM)]
    for example, question in _EXAMPLES:
        turns += [Message("user", example), Message("assistant", question)]
    return [*turns, Message("user", sentence)]


def first_question(written: str) -> str | None:
    """The first line of what the model wrote, if it is one question of a usual length."""
    line = next((line.strip(" \"'*-") for line in written.splitlines() if line.strip()), "")
    line = re.sub(r"^(question|q)\s*:\s*[\"']?", "", line, flags=re.IGNORECASE)
    line = line[: line.find("?") + 1]
    is_example = any(line == question for _, question in _EXAMPLES)
    is_one_question = bool(_QUESTION_START.match(line)) and line[0].isupper() and ". " not in line
    return line if is_one_question and len(line.split()) in QUESTION_WORDS and not is_example else None


@dataclass
class QuestionWriter:
    """Writes questions for sentences, round by round; what it throws away is in `dropped`."""

    sentences: Sequence[Sentence]  # in the order in which they are tried
    vectors: Vectors  # [n, d] theirs
    others: Vectors  # [m, d] of sentences that a question must not be nearer to than to its own
    write: Write
    embed_questions: Embed
    seed: int
    name: str = "g"  # the questions' ids begin with it
    dropped: list[Dropped] = field(default_factory=list)

    def run(self, n_wanted: int, per_chunk: int, on_round: Callable[[int, int], None]) -> list[Question]:
        """Questions until so many are kept or no sentence is left; `on_round(sentences tried, questions kept)`."""
        kept: list[Question] = []
        per_first_chunk: Counter[str] = Counter()
        asked: set[str] = set()
        position = 0
        while position < len(self.sentences) and len(kept) < n_wanted:
            numbers: list[int] = []
            start = position
            n_tried = max(MIN_SENTENCES_PER_ROUND, TRIED_PER_QUESTION * (n_wanted - len(kept)))
            while position < len(self.sentences) and len(numbers) < min(SENTENCES_PER_ROUND, n_tried):
                if per_first_chunk[self.sentences[position].chunk_ids[0]] < per_chunk:
                    numbers.append(position)
                position += 1
            for number, question in self._round(numbers, asked):
                sentence = self.sentences[number]
                if len(kept) < n_wanted and per_first_chunk[sentence.chunk_ids[0]] < per_chunk:
                    per_first_chunk[sentence.chunk_ids[0]] += 1
                    kept.append(
                        Question(
                            f"{self.name}{len(kept):05d}",
                            question,
                            sentence.text,
                            sentence.document,
                            tuple(sentence.chunk_ids),
                            "generated",
                        )
                    )
                else:
                    self.dropped.append(Dropped("enough", sentence.chunk_ids[0], question))
            on_round(position - start, len(kept))
        return kept

    def _round(self, numbers: Sequence[int], asked: set[str]) -> Iterator[tuple[int, str]]:
        """The best question of each sentence that has a good one; all samples go to the model at once."""
        if not numbers:
            return
        owners = [number for number in numbers for _ in range(N_SAMPLES)]
        prompts = [question_prompt(self.sentences[number].text) for number in owners]
        candidates: list[tuple[int, str]] = []
        for number, written in zip(owners, self.write(prompts, self.seed + numbers[0]), strict=True):
            question = first_question(written)
            reason = self._refusal(number, question, asked)
            if question is not None and reason is None:
                asked.add(question.lower())
                candidates.append((number, question))
            else:
                self._drop(reason or "not_a_question", number, written)
        if not candidates:
            return
        questions = self.embed_questions([question for _, question in candidates])
        similarities = questions @ np.concatenate([self.vectors, self.others]).T  # [candidates, sentences]
        best: dict[int, tuple[float, str]] = {}
        for (number, question), row in zip(candidates, similarities, strict=True):
            cosine = float(row[number])
            if cosine < float(row.max()):
                self._drop("finds_another_sentence", number, question)
            elif cosine <= MIN_COSINE:
                self._drop("low_similarity", number, question)
            elif number in best and best[number][0] >= cosine:
                self._drop("better_sample_kept", number, question)
            else:
                if number in best:
                    self._drop("better_sample_kept", number, best[number][1])
                best[number] = cosine, question
        for number in numbers:
            if number in best:
                yield number, best[number][1]

    def _refusal(self, number: int, question: str | None, asked: set[str]) -> str | None:
        if question is None:
            return "not_a_question"
        words = content_words(question)
        if not words or len(words & content_words(self.sentences[number].text)) < MIN_SHARED_SHARE * len(words):
            return "words_not_from_sentence"
        return "duplicate" if question.lower() in asked else None

    def _drop(self, reason: str, number: int, text: str) -> None:
        self.dropped.append(Dropped(reason, self.sentences[number].chunk_ids[0], text.strip()))
