"""generate: question/answer pairs from a file or by a language model; filtered, with their gold chunks."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from radit_job import observe
from radit_job.config.slices import GenerateSlice
from radit_job.errors import ConfigError, InputError
from radit_job.jobs import WHOLE, Shard
from radit_job.model_ref import ModelRef
from radit_job.models.ledger import Ledger
from radit_job.rag.asking import Asker
from radit_job.rag.file_questions import questions_of
from radit_job.rag.pair_answers import PAIRS_FORMAT
from radit_job.rag.pair_blocks import plan_pairs
from radit_job.rag.pair_checks import usable_pairs
from radit_job.rag.pair_files import read_pairs
from radit_job.rag.pair_run import PairSettings, write_pairs
from radit_job.rag.question_blocks import cut_blocks, draw_sentences
from radit_job.rag.question_run import SampleAsker, write_questions
from radit_job.rag.question_writing import looks_english
from radit_job.rag.written_blocks import WrittenBlock, tell_of
from radit_job.rag.written_rounds import WrittenRounds
from radit_job.records import Chunk, read_rows

MIN_PAIRS = 10  # fewer can be neither split nor measured
PROBED_CHUNKS = 200  # enough to tell the documents' language
NEEDS_MODELS = "questions.source: generate needs models.question_writer and models.embedder"
ONLY_ENGLISH = "questions can be written from English text only; bring your own pairs with questions.source: file"


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
    and for fewer than 10 sentences or pairs to ask for. How many pairs a model wrote in all is seen where they are
    split. A model writes questions of sentences (questions.writing) from English text only: its examples and the
    filters behind it are English. Pairs may be in any language.
    """
    chunk_file = chunks / "chunks.jsonl"
    if config.questions.source == "file":
        blocks = [_from_file(config, _only_file(question_file), chunk_file)] if shard.takes(0) else []
    else:
        write = _pairs_of_chunks if _writes_pairs(config) else _questions_of_sentences
        blocks = write(config, chunk_file, scratch, ledger, shard)
        if shard == WHOLE:
            _refuse_nothing(blocks)
    for block in blocks:
        block.write(config.questions.source, out / "questions" / f"{block.number:06d}")
    tell_of(blocks)
    totals: Counter[str] = Counter()
    for block in blocks:
        totals.update(block.totals())
    return dict(totals)


def _refuse_nothing(blocks: Sequence[WrittenBlock]) -> None:
    """A committed artifact without a single pair would be reused for ever."""
    if any(block.questions for block in blocks):
        return
    reasons = Counter(row.reason for block in blocks for row in block.dropped).most_common(3)
    dropped = ", ".join(f"{count} x {reason}" for reason, count in reasons) or "it was asked for none"
    raise InputError(
        f"the model wrote no pair that can be used ({dropped})",
        where="models.question_writer",
        todo="Take a stronger model, or bring your own pairs with questions.source: file.",
    )


# From a file


def _only_file(folder: Path | None) -> Path:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()] if folder else []
    if len(files) != 1:
        raise InputError(
            f"{len(files)} question files instead of one", where=str(folder), todo="set questions.path to one file"
        )
    return files[0]


def _from_file(config: GenerateSlice, path: Path, chunk_file: Path) -> WrittenBlock:
    wanted = config.questions
    pairs, dropped = usable_pairs(read_pairs(path), wanted.max_answer_words, wanted.unanswerable)
    if len(pairs) < MIN_PAIRS:
        raise InputError(
            f"only {len(pairs)} usable pairs ({len(dropped)} were dropped); at least {MIN_PAIRS} are needed",
            where=path.name,
            todo="add pairs, or let a model write them with questions.source: generate",
        )
    with observe.progress("find gold chunks", unit="chunks") as bar:
        chunks = _counted(read_rows(chunk_file, Chunk), bar)
        questions, leaked = questions_of(pairs, chunks, wanted.limit, config.seed)
    n_unanswerable = None
    if wanted.unanswerable is not None:
        n_unanswerable = sum(row.answer == wanted.unanswerable and not row.chunk_ids for row in questions)
    return WrittenBlock(0, None, questions, dropped, leaked, n_unanswerable=n_unanswerable)


def _counted(chunks: Iterator[Chunk], bar: observe.Progress) -> Iterator[Chunk]:
    for chunk in chunks:
        yield chunk
        bar.advance()


# By a language model: the question of a sentence


def _questions_of_sentences(
    config: GenerateSlice, chunk_file: Path, scratch: Path, ledger: Ledger | None, shard: Shard
) -> list[WrittenBlock]:
    """A killed run writes at most one round of questions again: the finished ones are kept in `scratch`."""
    from radit_job.models.loading import open_embedder, open_generator  # torch, which reading a file does not need

    if config.question_writer is None or config.embedder is None:
        raise ConfigError(NEEDS_MODELS)
    documents = [chunk.document for chunk in read_rows(chunk_file, Chunk)]
    n_wanted = config.questions.per_chunk * len(documents)
    if config.questions.limit is not None:
        n_wanted = min(n_wanted, config.questions.limit)
    sentences = draw_sentences(chunk_file, documents, n_wanted, config.seed)
    _check_sentences(len(sentences), chunk_file)
    mine = [block for block in cut_blocks(sentences, n_wanted) if shard.takes(block.number)]
    if not mine:
        return []
    complete = open_generator(config.question_writer.ref(), ledger).complete
    rounds = WrittenRounds(scratch / "written.jsonl")
    return write_questions(
        sentences,
        mine,
        chunk_file,
        lambda: SampleAsker(complete, rounds),
        open_embedder(config.embedder.ref(), ledger),
        per_chunk=config.questions.per_chunk,
        seed=config.seed,
    )


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


# By a language model: question and answer from a chunk


def _writes_pairs(config: GenerateSlice) -> bool:
    if config.questions.writing == "auto":
        return config.question_writer is not None and config.question_writer.provider == "openai"
    return config.questions.writing == "pairs"


def _pairs_of_chunks(
    config: GenerateSlice, chunk_file: Path, scratch: Path, ledger: Ledger | None, shard: Shard
) -> list[WrittenBlock]:
    """A killed run asks nothing again that a served model has answered, and of a local one a few answers."""
    from radit_job.models.loading import open_embedder

    if config.question_writer is None or config.embedder is None:
        raise ConfigError(NEEDS_MODELS)
    wanted = config.questions
    plan = plan_pairs(chunk_file, per_chunk=wanted.per_chunk, limit=wanted.limit, seed=config.seed)
    if plan.n_chunks * wanted.per_chunk < MIN_PAIRS:
        raise InputError(
            f"only {plan.n_chunks} chunks can be asked about, {wanted.per_chunk} pairs each; {MIN_PAIRS} are needed",
            todo="raise questions.per_chunk, cut smaller chunks (chunking.size_tokens), or add documents",
        )
    mine = [block for block in plan.blocks if shard.takes(block.number)]
    if not mine:
        return []
    settings = PairSettings(wanted.per_chunk, wanted.check, wanted.max_similarity, wanted.max_answer_words)
    asker = _open_asker(config.question_writer.ref(), scratch, ledger, config.seed)
    embedder = open_embedder(config.embedder.ref(), ledger)
    return write_pairs(plan, mine, chunk_file, settings, asker, embedder.embed_queries)


def _open_asker(
    ref: ModelRef, scratch: Path, ledger: Ledger | None, seed: int
) -> Callable[[Callable[[int], None]], Asker]:
    """A served model is held to the form of the pairs where its server can do that; a local one is asked in words."""
    from radit_job.models.loading import open_generator

    complete = open_generator(ref, ledger).complete
    if ref.provider == "openai":
        form = {"response_format": PAIRS_FORMAT}
        return lambda on_written: Asker(complete, None, seed, on_written, {"write": form})
    rounds = WrittenRounds(scratch / "written.jsonl")
    return lambda on_written: Asker(complete, rounds, seed, on_written)
