"""What an estimate of a run's cost is made from. cli/measuring.py measures it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Limits:
    """What the stages stop at."""

    pair: int  # tokens of an answer; and the next two
    check: int
    sentence_question: int
    n_samples: int  # questions that are tried for a sentence
    chunks_per_question: int  # that are asked for pairs, for each question that is wanted
    sentences_per_question: int  # that are tried


@dataclass(frozen=True, slots=True)
class Measures:
    """What was measured on this run's documents, prompts and, where there are some already, questions.

    Tokens are means by a role's tokenizer, except for `all_chunk_tokens`.
    """

    n_chunks: int
    n_askable: int  # chunks that questions can be written about
    all_chunk_tokens: int  # by the embedder
    chunk_tokens: Mapping[str, float]  # by role; of those that can be asked about
    frame_tokens: Mapping[tuple[str, str], float]  # by role and kind of prompt; with nothing filled in
    limits: Limits
    n_questions: int | None = None  # that stand in a file, or are written already
    question_tokens: Mapping[str, float] = field(default_factory=dict)  # by role
    reference_tokens: Mapping[str, float] = field(default_factory=dict)
    margins: Mapping[str, float] = field(default_factory=dict)  # by role: how far a tokenizer may count too little
