"""split: which questions train and which evaluate, so that no chunk (or document) stands on both sides."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path

from radit_job import observe
from radit_job.config.slices import SplitSlice
from radit_job.errors import InputError
from radit_job.rag.grouping import choose_groups, connected_groups, passage
from radit_job.rag.matching import match_words
from radit_job.records import Question, read_rows, write_rows

MIN_WRITTEN = 10  # fewer can be neither split nor measured


def run(config: SplitSlice, *, questions: Path, out: Path, scratch: Path) -> dict[str, float]:
    """Write `train_questions/` and `val_questions/questions.jsonl`, and `train_questions/split.json` with the counts.

    Questions about one passage (they share a chunk) or one document, as configured, and those that are worded alike
    stay together; of a question without an answer, too, the passage counts.
    Questions that a model wrote twice, in blocks that knew nothing of each other, count once, and what it wrote beyond
    the limit is left out. InputError when it wrote fewer than 10 in all, and when everything hangs together, so that
    there is nothing to divide.
    """
    rows, left_out = _read(questions)
    by = config.split.by
    groups = connected_groups([[*_places(row, by), ("wording", " ".join(match_words(row.question)))] for row in rows])
    if len(groups) < 2:
        raise _one_group_error(rows, by)
    chosen = choose_groups([len(group) for group in groups], config.split.train_share, config.seed)
    is_train = {item for number in chosen for item in groups[number]}
    train = [row for item, row in enumerate(rows) if item in is_train]
    val = [row for item, row in enumerate(rows) if item not in is_train]
    write_rows(out / "train_questions" / "questions.jsonl", train)
    write_rows(out / "val_questions" / "questions.jsonl", val)
    n_unknown = sum(not _places(row, by) for row in rows)
    if n_unknown:
        observe.warn(
            f"{n_unknown} of {len(rows)} questions have no known {by}; they are split one by one, "
            f"so a {by} may stand behind questions on both sides"
        )
    summary: dict[str, float] = {
        "n_train": len(train),
        "n_val": len(val),
        "n_groups": len(groups),
        "largest_group": max(map(len, groups)),
        "n_unknown_gold": n_unknown,
        **left_out,
    }
    text = json.dumps({"by": by, "train_share": config.split.train_share, **summary}, indent=2)
    (out / "train_questions" / "split.json").write_text(text + "\n", encoding="utf-8")
    return summary


def _read(folder: Path) -> tuple[list[Question], dict[str, float]]:
    """The questions of all blocks: of those that a model wrote, none twice, and no more than were wanted in all."""
    blocks = [list(read_rows(path, Question)) for path in sorted(folder.glob("*/questions.jsonl"))]
    n_wanted = [_n_wanted(path) for path in sorted(folder.glob("*/summary.json"))]
    asked: set[str] = set()
    kept: list[tuple[int, int, Question]] = []  # (place in its block, block, question)
    for number, rows in enumerate(blocks):
        for place, row in enumerate(rows):
            if row.source == "file" or row.question.lower() not in asked:
                kept.append((place, number, row))
            asked.add(row.question.lower())
    n_repeated = sum(map(len, blocks)) - len(kept)
    wanted = [count for count in n_wanted if count is not None]
    chosen = sorted(kept, key=lambda item: item[:2])[: sum(wanted)] if wanted else kept  # each block's first ones first
    chosen.sort(key=lambda item: (item[1], item[0]))
    n_spare = len(kept) - len(chosen)
    if n_repeated or n_spare:
        observe.log(f"left out: {n_repeated} written questions that ask the same, {n_spare} beyond what was wanted")
    if len(chosen) < MIN_WRITTEN and all(row.source == "generated" for rows in blocks for row in rows):
        raise InputError(
            f"the model wrote only {len(chosen)} good pairs; at least {MIN_WRITTEN} are needed",
            where="questions",
            todo="Raise questions.limit, add documents (English ones where a sentence is the answer: "
            "questions.writing), take a stronger models.question_writer, or bring your own pairs with "
            "questions.source: file.",
        )
    return [row for _, _, row in chosen], {"n_repeated": n_repeated, "n_spare": n_spare}


def _n_wanted(summary: Path) -> int | None:
    count: int | None = json.loads(summary.read_text(encoding="utf-8")).get("n_wanted")
    return count


def _places(row: Question, by: str) -> Sequence[Hashable]:
    """What may not stand on both sides: the chunks that the question is about, or the documents that they are from."""
    if by == "chunk":
        return passage(row)
    documents: Iterable[str] = (chunk_id.rpartition("#")[0] for chunk_id in passage(row))
    return sorted({*documents, *([row.document] if row.document else [])})


def _one_group_error(rows: list[Question], by: str) -> InputError:
    if by == "document":
        document = next((row.document for row in rows if row.document), "the same document")
        return InputError(
            f"all {len(rows)} questions belong to one document ({document}), so there is nothing to split by document",
            where="split.by",
            todo="set split.by: chunk, or add documents and questions about them",
        )
    return InputError(
        f"all {len(rows)} questions hang together through the chunks that they are about",
        where="split.by",
        todo="cut smaller chunks (chunking.size_tokens), or add questions about other passages",
    )
