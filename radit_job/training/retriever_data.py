"""The retriever's training questions as arrays: targets, candidates' vectors, positives; which are held out."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from radit_job.errors import InputError
from radit_job.rag import lsr
from radit_job.rag.vector_index import VectorIndex
from radit_job.records import CandidateScores

MIN_QUESTIONS = 2  # fewer to learn from teach nothing that holds for others
Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Candidates:
    """Questions with their candidate chunks; chunks are numbered by their place in `vectors`, each there once."""

    rows: tuple[CandidateScores, ...]
    log_target: npt.NDArray[np.float64]  # [questions, candidates]: log p_LSR
    places: Places  # [questions, candidates]
    positives: Places  # [questions]: what the contrastive loss wants, among the candidates or not
    is_gold: tuple[frozenset[int], ...]  # of each question: the places of its gold chunks, where they are in `vectors`
    gold_rows: tuple[tuple[int, ...], ...]  # of each question: its gold chunks' rows in the index
    vectors: torch.Tensor  # [chunks, dimension] float32: the index's own, constants

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def of(
        cls, rows: Sequence[CandidateScores], index: VectorIndex, *, likelihood: lsr.Likelihood, temperature: float
    ) -> Candidates:
        """Read the candidates' vectors from the index; InputError if rows and index do not belong together."""
        scores = lsr.likelihoods(rows, likelihood)
        candidate_rows = np.array(index.gold_rows(row.chunk_ids for row in rows), dtype=np.int64)
        gold_rows = index.gold_rows(row.gold_chunk_ids for row in rows)
        positive_rows = np.array(
            [_positive(*found) for found in zip(candidate_rows, scores, gold_rows, strict=True)], dtype=np.int64
        )
        used = np.unique(np.concatenate([candidate_rows.ravel(), positive_rows]))
        place_of = {row: place for place, row in enumerate(used.tolist())}
        return cls(
            rows=tuple(rows),
            log_target=lsr.log_target(scores, temperature),
            places=np.searchsorted(used, candidate_rows),
            positives=np.searchsorted(used, positive_rows),
            is_gold=tuple(frozenset(place_of[row] for row in gold if row in place_of) for gold in gold_rows),
            gold_rows=tuple(map(tuple, gold_rows)),
            vectors=torch.from_numpy(index.vectors.take(used)),
        )

    def negatives(self, questions: Sequence[int]) -> tuple[Places, npt.NDArray[np.bool_]]:
        """The different candidates of these questions together, and [questions, those] which are wrong for which."""
        together = np.unique(self.places[list(questions)])
        wrong = np.ones((len(questions), len(together)), dtype=bool)
        for i, question in enumerate(questions):
            right = [*self.is_gold[question], self.positives[question]]
            wrong[i] = ~np.isin(together, right)
        return together, wrong


def check_rows(rows: Sequence[CandidateScores], where: str) -> None:
    """InputError where there is nothing to learn from: too few questions, or candidates among which nothing differs."""
    if len(rows) < MIN_QUESTIONS:
        raise InputError(
            f"there are {len(rows)} scored questions, and the retriever learns from {MIN_QUESTIONS} or more",
            where=where,
            todo="give more questions, or leave the arms retriever and dual out of evaluate.arms",
        )
    sizes = {len(row.chunk_ids) for row in rows}
    if len(sizes) > 1 or any(len(row.log_probability_nats) != len(row.chunk_ids) for row in rows):
        raise InputError(
            "the questions do not have the same number of scored candidates", where=where, todo="score them again"
        )
    if sizes == {1}:
        raise InputError(
            "each question has one candidate chunk alone, so there is nothing to prefer",
            where=where,
            todo="set finetune_retriever.candidates to 2 or more, or cut smaller chunks (chunking.size_tokens)",
        )


def epoch_batches(questions: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """One epoch's batches: every question once, in an order that depends on seed and epoch alone."""
    order = list(questions)
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def _positive(candidates: Places, scores: npt.NDArray[np.float64], gold: Sequence[int]) -> int:
    """The row of the gold candidate that the LM likes best, else of a gold chunk elsewhere, else of the best liked."""
    is_gold = np.isin(candidates, gold)
    if is_gold.any():
        return int(candidates[np.argmax(np.where(is_gold, scores, -np.inf))])
    return int(gold[0]) if gold else int(candidates[np.argmax(scores)])
