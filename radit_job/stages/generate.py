"""generate: question/answer pairs from a file or by a language model; filtered, with their gold chunks."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from radit_job import observe
from radit_job.config.schema import Model
from radit_job.config.slices import GenerateSlice
from radit_job.errors import ConfigError, InputError
from radit_job.rag.gold import GoldFinder
from radit_job.rag.leakage import LeakFinder
from radit_job.rag.matching import match_words
from radit_job.rag.pair_checks import usable_pairs
from radit_job.rag.pair_files import Pair, read_pairs
from radit_job.rag.question_writing import (
    MAX_NEW_TOKENS,
    TEMPERATURE,
    QuestionWriter,
    Sentence,
    Vectors,
    answer_sentences,
    looks_english,
)
from radit_job.rag.sampling import spread
from radit_job.rag.written_rounds import WrittenRound, WrittenRounds
from radit_job.records import Chunk, Dropped, Message, Question, read_rows, write_rows

MIN_PAIRS = 10  # fewer can be neither split nor measured
SENTENCES_PER_QUESTION = 6  # about one sentence in three gives a question; twice that, to be sure
SHOWN = 5  # names in one warning
PROBED_CHUNKS = 200  # enough to tell the documents' language
ONLY_ENGLISH = "questions can be written from English text only; bring your own pairs with questions.source: file"


@dataclass
class _Outcome:
    """What both sources hand to the writing of the artifact."""

    questions: list[Question]
    dropped: list[Dropped]
    leaked: dict[str, str] = field(default_factory=dict)  # question id -> the chunk that holds the pair as a record
    n_llm_calls: int = 0
    n_completion_tokens: int = 0


def run(
    config: GenerateSlice, *, chunks: Path, question_file: Path | None = None, out: Path, scratch: Path
) -> dict[str, float]:
    """Write `questions/questions.jsonl`, `questions/dropped.jsonl` and `questions/summary.json`.

    InputError for a question file that cannot be used as it is (with file and line), and for fewer than 10 pairs.
    A model writes questions from English text only: its examples and the filters behind it are English.
    """
    chunk_file = chunks / "chunks.jsonl"
    if config.questions.source == "file":
        outcome = _from_file(config, _only_file(question_file), chunk_file)
    else:
        outcome = _from_model(config, chunk_file, scratch)
    folder = out / "questions"
    write_rows(folder / "questions.jsonl", outcome.questions)
    write_rows(folder / "dropped.jsonl", outcome.dropped)
    counters = _counters(outcome)
    summary = {
        "source": config.questions.source,
        **counters,
        "dropped": dict(sorted(Counter(row.reason for row in outcome.dropped).items())),
        "leaked": list(outcome.leaked),
        "leaked_in": outcome.leaked,
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    _warn(outcome)
    return counters


def _counters(outcome: _Outcome) -> dict[str, float]:
    return {
        "n_questions": len(outcome.questions),
        "n_dropped": len(outcome.dropped),
        "n_leaked": len(outcome.leaked),
        "n_without_gold": sum(not question.chunk_ids for question in outcome.questions),
        "n_documents": len({question.document for question in outcome.questions if question.document}),
        "n_llm_calls": outcome.n_llm_calls,
        "n_completion_tokens": outcome.n_completion_tokens,
    }


def _warn(outcome: _Outcome) -> None:
    by_reason: dict[str, list[str]] = {}
    for row in outcome.dropped:
        by_reason.setdefault(row.reason, []).append(row.where)
    for reason, places in sorted(by_reason.items()):
        named = ", ".join(places[:SHOWN]) + (", ..." if len(places) > SHOWN else "")
        observe.log(f"dropped {len(places)} pairs: {reason} ({named})", reason=reason, count=len(places))
    without_gold = sum(not question.chunk_ids for question in outcome.questions)
    if without_gold:
        observe.warn(f"{without_gold} of {len(outcome.questions)} questions: no chunk is known to hold the answer")
    if outcome.leaked:
        first, chunk_id = next(iter(outcome.leaked.items()))
        observe.warn(
            f"leakage: {len(outcome.leaked)} of {len(outcome.questions)} questions stand with their answer as a record "
            f"in the corpus itself, the first is {first} in {chunk_id}"
        )


# From a file


def _only_file(folder: Path | None) -> Path:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()] if folder else []
    if len(files) != 1:
        raise InputError(
            f"{len(files)} question files instead of one", where=str(folder), todo="set questions.path to one file"
        )
    return files[0]


def _from_file(config: GenerateSlice, path: Path, chunk_file: Path) -> _Outcome:
    pairs, dropped = usable_pairs(read_pairs(path), config.questions.max_answer_words)
    if len(pairs) < MIN_PAIRS:
        raise InputError(
            f"only {len(pairs)} usable pairs ({len(dropped)} were dropped); at least {MIN_PAIRS} are needed",
            where=path.name,
            todo="add pairs, or let a model write them with questions.source: generate",
        )
    gold, leaks = GoldFinder(pairs), LeakFinder([(pair.question, pair.answer) for pair in pairs])
    with observe.progress("find gold chunks", unit="chunks") as bar:
        for chunk in read_rows(chunk_file, Chunk):
            words = match_words(chunk.text)
            gold.see(chunk, words)
            leaks.see(chunk.chunk_id, words)
            bar.advance()
    ids = _question_ids(pairs)
    questions = []
    for number, pair in enumerate(pairs):
        found = gold.gold(number, pair)
        questions.append(Question(ids[number], pair.question, pair.answer, found.document, found.chunk_ids, "file"))
    chosen = _draw(questions, pairs, config.questions.limit, config.seed)
    leaked = {ids[number]: leaks.found[number] for number in chosen if number in leaks.found}
    return _Outcome([questions[number] for number in chosen], dropped, leaked)


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


# By a language model


def _from_model(config: GenerateSlice, chunk_file: Path, scratch: Path) -> _Outcome:
    """A killed run writes at most one round of questions again: the finished ones are kept in `scratch`."""
    from radit_job.models.loading import open_embedder, open_generator  # torch, which reading a file does not need

    if config.question_writer is None or config.embedder is None:
        raise ConfigError("questions.source: generate needs models.question_writer and models.embedder")
    documents = [chunk.document for chunk in read_rows(chunk_file, Chunk)]
    n_wanted = config.questions.per_chunk * len(documents)
    if config.questions.limit is not None:
        n_wanted = min(n_wanted, config.questions.limit)
    sentences = _draw_sentences(chunk_file, documents, n_wanted, config.seed)
    is_english = looks_english([chunk.text for chunk in itertools.islice(read_rows(chunk_file, Chunk), PROBED_CHUNKS)])
    if not is_english:
        observe.warn(f"the documents do not look English: {ONLY_ENGLISH}")
    if len(sentences) < MIN_PAIRS:
        raise InputError(
            f"only {len(sentences)} sentences of the corpus can be answers; at least {MIN_PAIRS} are needed",
            todo="add documents with running text, or bring your own pairs with questions.source: file"
            if is_english
            else ONLY_ENGLISH,
        )
    generator = open_generator(*_where(config.question_writer), config.question_writer.dtype)
    embedder = open_embedder(*_where(config.embedder), config.embedder.dtype)
    outcome = _Outcome([], [])
    rounds = WrittenRounds(scratch / "written.jsonl")

    def write(conversations: Sequence[Sequence[Message]], seed: int) -> list[str]:
        written = rounds.find(conversations, seed)
        if written is None:
            completions = generator.complete(
                conversations, max_new_tokens=MAX_NEW_TOKENS, temperature=TEMPERATURE, seed=seed, batch_size=16
            )
            n_tokens = sum(completion.n_completion_tokens for completion in completions)
            written = WrittenRound([completion.text for completion in completions], n_tokens)
            rounds.keep(conversations, seed, written)
        outcome.n_llm_calls += len(written.texts)
        outcome.n_completion_tokens += written.n_completion_tokens
        return written.texts

    def embed_sentences(texts: Sequence[str]) -> Vectors:
        with observe.progress("embed sentences", total=len(texts), unit="sentences") as bar:
            return embedder.embed_documents(texts, on_done=bar.advance)

    writer = QuestionWriter(sentences, write, embed_sentences, embedder.embed_queries, config.seed, outcome.dropped)
    with observe.progress("write questions", total=len(sentences), unit="sentences") as bar:
        outcome.questions = writer.run(
            n_wanted, config.questions.per_chunk, lambda tried, kept: bar.advance(tried, kept=kept, wanted=n_wanted)
        )
    if len(outcome.questions) < MIN_PAIRS:
        raise InputError(
            f"the model wrote only {len(outcome.questions)} good pairs from {len(sentences)} sentences; "
            f"at least {MIN_PAIRS} are needed",
            todo="raise questions.limit, add documents, take a stronger models.question_writer, or bring your own"
            if is_english
            else ONLY_ENGLISH,
        )
    if len(outcome.questions) < n_wanted:
        observe.warn(f"{len(outcome.questions)} of {n_wanted} wanted questions passed the filters")
    leaks = LeakFinder([(question.question, question.answer) for question in outcome.questions])
    for chunk in read_rows(chunk_file, Chunk):
        leaks.see(chunk.chunk_id, match_words(chunk.text))
    outcome.leaked = {
        outcome.questions[number].question_id: chunk_id for number, chunk_id in sorted(leaks.found.items())
    }
    return outcome


def _where(model: Model) -> tuple[str, str, str | None]:
    return model.provider, model.name, model.revision


def _draw_sentences(chunk_file: Path, documents: Sequence[str], n_wanted: int, seed: int) -> list[Sentence]:
    """Sentences to try, spread over documents and chunks; several for each question that is wanted."""
    n_sentences = SENTENCES_PER_QUESTION * n_wanted
    chosen = set(spread(documents, seed)[:n_sentences])
    sentences: dict[str, Sentence] = {}
    for index, (before, chunk, after) in enumerate(_with_neighbours(read_rows(chunk_file, Chunk))):
        if index not in chosen:
            continue
        for text in answer_sentences(chunk):
            key = " ".join(match_words(text))
            if key not in sentences:
                neighbours = [other for other in (before, after) if other and other.document == chunk.document]
                also = [other.chunk_id for other in neighbours if text in other.text]
                sentences[key] = Sentence(text, chunk.document, [chunk.chunk_id, *also])
    found = list(sentences.values())
    by_chunk = spread([sentence.chunk_ids[0] for sentence in found], seed)
    return [found[number] for number in by_chunk[:n_sentences]]


def _with_neighbours(chunks: Iterator[Chunk]) -> Iterator[tuple[Chunk | None, Chunk, Chunk | None]]:
    """Each chunk with the one before and the one after it, which share its overlap."""
    before: Chunk | None = None
    here = next(chunks, None)
    while here is not None:
        after = next(chunks, None)
        yield before, here, after
        before, here = here, after
