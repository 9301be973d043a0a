"""generate: question/answer pairs from a file or by a language model; filtered, with their gold chunks."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from radit_job import observe
from radit_job.config.slices import GenerateSlice
from radit_job.errors import ConfigError, InputError
from radit_job.jobs import WHOLE, Shard
from radit_job.models.ledger import Ledger
from radit_job.rag.gold import GoldFinder
from radit_job.rag.leakage import LeakFinder
from radit_job.rag.matching import match_words
from radit_job.rag.pair_checks import usable_pairs
from radit_job.rag.pair_files import Pair, read_pairs
from radit_job.rag.question_blocks import SentenceVectors, cut_blocks, draw_sentences
from radit_job.rag.question_writing import MAX_NEW_TOKENS, TEMPERATURE, QuestionWriter, Vectors, looks_english
from radit_job.rag.sampling import spread
from radit_job.rag.written_rounds import WrittenRound, WrittenRounds
from radit_job.records import Chunk, Dropped, Message, Question, read_rows, write_rows

MIN_PAIRS = 10  # fewer can be neither split nor measured
SHOWN = 5  # names in one warning
PROBED_CHUNKS = 200  # enough to tell the documents' language
ONLY_ENGLISH = "questions can be written from English text only; bring your own pairs with questions.source: file"


@dataclass
class _Block:
    """What both sources hand to the writing of one block of the artifact."""

    number: int
    n_wanted: int | None  # of a model; what it wrote beyond that is there in case other blocks fall short
    questions: list[Question]
    dropped: list[Dropped]
    leaked: dict[str, str] = field(default_factory=dict)  # question id -> the chunk that holds the pair as a record
    n_llm_calls: int = 0
    n_completion_tokens: int = 0


def run(
    config: GenerateSlice,
    *,
    chunks: Path,
    question_file: Path | None = None,
    out: Path,
    scratch: Path,
    ledger: Ledger | None = None,
    shard: Shard = WHOLE,
) -> dict[str, float]:
    """Write `questions/<block>/` with questions.jsonl, dropped.jsonl and summary.json; a file's pairs are one block.

    InputError for a question file that cannot be used as it is (with file and line), for fewer than 10 pairs in it,
    and for fewer than 10 sentences to ask about. How many pairs a model wrote in all is seen where they are split.
    A model writes questions from English text only: its examples and the filters behind it are English.
    """
    chunk_file = chunks / "chunks.jsonl"
    if config.questions.source == "generate":
        blocks = _from_model(config, chunk_file, scratch, ledger, shard)
    else:
        blocks = [_from_file(config, _only_file(question_file), chunk_file)] if shard.takes(0) else []
    for block in blocks:
        _write(config, block, out / "questions" / f"{block.number:06d}")
    _warn(blocks)
    totals: Counter[str] = Counter()
    for block in blocks:
        totals.update(_counters(block))
    return dict(totals)


def _write(config: GenerateSlice, block: _Block, folder: Path) -> None:
    write_rows(folder / "questions.jsonl", block.questions)
    write_rows(folder / "dropped.jsonl", block.dropped)
    summary = {
        "source": config.questions.source,
        **({} if block.n_wanted is None else {"n_wanted": block.n_wanted}),
        **_counters(block),
        "dropped": dict(sorted(Counter(row.reason for row in block.dropped).items())),
        "leaked": list(block.leaked),
        "leaked_in": block.leaked,
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _counters(block: _Block) -> dict[str, int]:
    return {
        "n_questions": len(block.questions),
        "n_dropped": len(block.dropped),
        "n_leaked": len(block.leaked),
        "n_without_gold": sum(not question.chunk_ids for question in block.questions),
        "n_llm_calls": block.n_llm_calls,
        "n_completion_tokens": block.n_completion_tokens,
    }


def _warn(blocks: Sequence[_Block]) -> None:
    by_reason: dict[str, list[str]] = {}
    for row in (row for block in blocks for row in block.dropped):
        by_reason.setdefault(row.reason, []).append(row.where)
    for reason, places in sorted(by_reason.items()):
        named = ", ".join(places[:SHOWN]) + (", ..." if len(places) > SHOWN else "")
        observe.log(f"dropped {len(places)} pairs: {reason} ({named})", reason=reason, count=len(places))
    questions = [question for block in blocks for question in block.questions]
    without_gold = sum(not question.chunk_ids for question in questions)
    if without_gold:
        observe.warn(f"{without_gold} of {len(questions)} questions: no chunk is known to hold the answer")
    leaked = [place for block in blocks for place in block.leaked.items()]
    if leaked:
        first, chunk_id = leaked[0]
        observe.warn(
            f"leakage: {len(leaked)} of {len(questions)} questions stand with their answer as a record "
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


def _from_file(config: GenerateSlice, path: Path, chunk_file: Path) -> _Block:
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
    return _Block(0, None, [questions[number] for number in chosen], dropped, leaked)


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


def _from_model(
    config: GenerateSlice, chunk_file: Path, scratch: Path, ledger: Ledger | None, shard: Shard
) -> list[_Block]:
    """A killed run writes at most one round of questions again: the finished ones are kept in `scratch`."""
    from radit_job.models.loading import open_embedder, open_generator  # torch, which reading a file does not need

    if config.question_writer is None or config.embedder is None:
        raise ConfigError("questions.source: generate needs models.question_writer and models.embedder")
    documents = [chunk.document for chunk in read_rows(chunk_file, Chunk)]
    n_wanted = config.questions.per_chunk * len(documents)
    if config.questions.limit is not None:
        n_wanted = min(n_wanted, config.questions.limit)
    sentences = draw_sentences(chunk_file, documents, n_wanted, config.seed)
    _check_sentences(len(sentences), chunk_file)
    mine = [block for block in cut_blocks(sentences, n_wanted) if shard.takes(block.number)]
    if not mine:
        return []
    generator = open_generator(config.question_writer.ref(), ledger)
    embedder = open_embedder(config.embedder.ref(), ledger)
    rounds = WrittenRounds(scratch / "written.jsonl")

    def complete(conversations: Sequence[Sequence[Message]], seed: int) -> WrittenRound:
        written = rounds.find(conversations, seed)
        if written is None:
            completions = generator.complete(
                conversations, max_new_tokens=MAX_NEW_TOKENS, temperature=TEMPERATURE, seed=seed, batch_size=16
            )
            n_tokens = sum(completion.n_completion_tokens for completion in completions)
            written = WrittenRound([completion.text for completion in completions], n_tokens)
            rounds.keep(conversations, seed, written)
        return written

    def embed_sentences(texts: Sequence[str]) -> Vectors:
        with observe.progress("embed sentences", total=len(texts), unit="sentences") as bar:
            return embedder.embed_documents(texts, on_done=bar.advance)

    vectors = SentenceVectors([sentence.text for sentence in sentences], embed_sentences)
    done: list[_Block] = []
    n_sentences, n_mine = sum(len(block.positions) for block in mine), sum(block.n_wanted for block in mine)
    with observe.progress("write questions", total=n_sentences, unit="sentences") as bar:
        for share in mine:
            block = _Block(share.number, share.n_wanted, [], [])
            writer = QuestionWriter(
                [sentences[position] for position in share.positions],
                *vectors.of_block(share),
                write=partial(_write_round, complete, block),
                embed_questions=embedder.embed_queries,
                seed=config.seed + share.n_before,
                name=f"g{share.number:04d}-",
                dropped=block.dropped,
            )
            n_before = sum(len(other.questions) for other in done)

            def on_round(tried: int, kept: int, n_before: int = n_before) -> None:
                bar.advance(tried, kept=n_before + kept, wanted=n_mine)

            block.questions = writer.run(share.n_wanted + share.n_spare, config.questions.per_chunk, on_round)
            done.append(block)
    n_questions = sum(len(block.questions) for block in done)
    if n_questions < n_mine:
        observe.warn(f"{n_questions} of {n_mine} wanted questions passed the filters")
    _find_leaks(done, chunk_file)
    return done


def _write_round(
    complete: Callable[[Sequence[Sequence[Message]], int], WrittenRound],
    block: _Block,
    conversations: Sequence[Sequence[Message]],
    seed: int,
) -> list[str]:
    written = complete(conversations, seed)
    block.n_llm_calls += len(written.texts)
    block.n_completion_tokens += written.n_completion_tokens
    return written.texts


def _check_sentences(n_sentences: int, chunk_file: Path) -> None:
    is_english = looks_english([chunk.text for chunk in itertools.islice(read_rows(chunk_file, Chunk), PROBED_CHUNKS)])
    if not is_english:
        observe.warn(f"the documents do not look English: {ONLY_ENGLISH}")
    if n_sentences < MIN_PAIRS:
        raise InputError(
            f"only {n_sentences} sentences of the corpus can be answers; at least {MIN_PAIRS} are needed",
            todo="add documents with running text, or bring your own pairs with questions.source: file"
            if is_english
            else ONLY_ENGLISH,
        )


def _find_leaks(blocks: Sequence[_Block], chunk_file: Path) -> None:
    owners = [(block, question) for block in blocks for question in block.questions]
    leaks = LeakFinder([(question.question, question.answer) for _, question in owners])
    for chunk in read_rows(chunk_file, Chunk):
        leaks.see(chunk.chunk_id, match_words(chunk.text))
    for number, chunk_id in sorted(leaks.found.items()):
        block, question = owners[number]
        block.leaked[question.question_id] = chunk_id
