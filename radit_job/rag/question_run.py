"""All questions of the sentences' blocks, one block after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from radit_job import observe
from radit_job.models.base import Completion, Conversation, Embedder
from radit_job.rag.question_blocks import QuestionBlock, SentenceVectors
from radit_job.rag.question_writing import MAX_NEW_TOKENS, TEMPERATURE, QuestionWriter, Sentence, Vectors
from radit_job.rag.written_blocks import WrittenBlock, find_leaks, warn_of_missing
from radit_job.rag.written_rounds import WrittenRound, WrittenRounds

BATCH = 16  # conversations, in a model of this process


@dataclass
class SampleAsker:
    """Asks for the samples of a round at once, and counts what they took; `rounds` keeps what was written once."""

    complete: Callable[..., list[Completion]]  # a Generator's
    rounds: WrittenRounds
    n_calls: int = 0
    n_completion_tokens: int = 0

    def __call__(self, conversations: Sequence[Conversation], seed: int) -> list[str]:
        """What the model writes, in the order of the conversations."""
        written = self.rounds.find(conversations, seed)
        if written is None:
            completions = self.complete(
                conversations, max_new_tokens=MAX_NEW_TOKENS, temperature=TEMPERATURE, seed=seed, batch_size=BATCH
            )
            n_tokens = sum(completion.n_completion_tokens for completion in completions)
            written = WrittenRound([completion.text for completion in completions], n_tokens)
            self.rounds.keep(conversations, seed, written)
        self.n_calls += len(written.texts)
        self.n_completion_tokens += written.n_completion_tokens
        return written.texts


def write_questions(
    sentences: Sequence[Sentence],
    mine: Sequence[QuestionBlock],
    chunk_file: Path,
    asker: Callable[[], SampleAsker],
    embedder: Embedder,
    *,
    per_chunk: int,
    seed: int,
) -> list[WrittenBlock]:
    """The blocks of one shard; `asker` makes one for each."""

    def embed_sentences(texts: Sequence[str]) -> Vectors:
        with observe.progress("embed sentences", total=len(texts), unit="sentences") as bar:
            return embedder.embed_documents(texts, on_done=bar.advance)

    vectors = SentenceVectors([sentence.text for sentence in sentences], embed_sentences)
    n_sentences, n_wanted = sum(len(block.positions) for block in mine), sum(block.n_wanted for block in mine)
    done: list[WrittenBlock] = []
    with observe.progress("write questions", total=n_sentences, unit="sentences") as bar:
        for share in mine:
            writer = QuestionWriter(
                [sentences[position] for position in share.positions],
                *vectors.of_block(share),
                write=(asked := asker()),
                embed_questions=embedder.embed_queries,
                seed=seed + share.n_before,
                name=f"g{share.number:04d}-",
            )
            n_before = sum(len(block.questions) for block in done)

            def on_round(tried: int, kept: int, n_before: int = n_before) -> None:
                bar.advance(tried, kept=n_before + kept, wanted=n_wanted)

            questions = writer.run(share.n_wanted + share.n_spare, per_chunk, on_round)
            block = WrittenBlock(share.number, share.n_wanted, questions, writer.dropped)
            block.n_llm_calls, block.n_completion_tokens = asked.n_calls, asked.n_completion_tokens
            done.append(block)
    warn_of_missing(done, n_wanted)
    find_leaks(done, chunk_file)
    return done
