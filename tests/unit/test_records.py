import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from radit_job.config.schema import JUDGED_METRICS, ArmName
from radit_job.records import (
    CLOSED_BOOK_ARMS,
    NEED_CONTEXT,
    TUNED_ARMS,
    Chunk,
    DocumentRow,
    Dropped,
    Example,
    Message,
    Prediction,
    Question,
    Score,
    read_rows,
    to_json,
    write_rows,
)

ROWS = [
    DocumentRow("a.pdf", "skipped", "encrypted", 0, 0, 0),
    Chunk("a.pdf#00001", "a.pdf", 3, 10, 40, 7, "two\nlines, \u2028 a separator, and “quotes”"),
    Chunk("b.md#00000", "b.md", None, 0, 0, 0, ""),
    Question("q1", "Why?", "Because.", None, ("a.pdf#00001", "b.md#00000"), "file"),
    Question("q2", "Who?", "Nobody.", "a.pdf", (), "generated"),
    Dropped("duplicate", "pairs.jsonl:17", "Why?"),
    Example("q1", "u", "g", ("c",), (0.5,), None, (Message("system", "s"), Message("assistant", "a"))),
    Prediction("q1", "lm", "val", "Why?", "B.", "B", ("c",), (0.1,), ("c",), 1, 20, 3, "stop", 1.25, None),
    Score("q1", "lm", "val", "token_f1", None, "the judge gave no number"),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: type(row).__name__)
def test_a_row_comes_back_equal(tmp_path: Path, row: object) -> None:
    path = tmp_path / "new" / "folder" / "rows.jsonl"
    assert write_rows(path, [row, row]) == 2
    back = list(read_rows(path, type(row)))
    assert back == [row, row]
    assert hash(back[0]) == hash(row)  # tuples all the way: a list inside would not hash


def test_a_line_is_plain_json_with_the_fields_as_keys() -> None:
    line = to_json(Dropped("empty_answer", "pairs.jsonl:2", "Où ?"))
    assert json.loads(line) == {"reason": "empty_answer", "where": "pairs.jsonl:2", "text": "Où ?"}
    assert "Où" in line
    assert "\n" not in to_json(ROWS[1])


def test_nan_never_reaches_a_file() -> None:
    with pytest.raises(ValueError, match="JSON"):
        to_json(Score("q", "lm", "val", "token_f1", float("nan"), None))


def test_no_rows_make_an_empty_file(tmp_path: Path) -> None:
    assert write_rows(tmp_path / "rows.jsonl", []) == 0
    assert list(read_rows(tmp_path / "rows.jsonl", Chunk)) == []


def test_a_row_with_a_field_too_many_or_too_few_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"reason": "a", "where": "b"}\n', encoding="utf-8")
    with pytest.raises(TypeError):
        list(read_rows(path, Dropped))


def test_writing_and_reading_stream(tmp_path: Path) -> None:
    text = "x" * 10_000
    n_rows = 2_000  # 20 MB in all

    def rows() -> Iterator[Chunk]:
        return (Chunk(f"d#{index:05}", "d", None, 0, 10_000, 1, text + str(index)) for index in range(n_rows))

    tracemalloc.start()
    try:
        assert write_rows(tmp_path / "rows.jsonl", rows()) == n_rows
        assert sum(1 for _ in read_rows(tmp_path / "rows.jsonl", Chunk)) == n_rows
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2_000_000


def test_what_is_told_apart_by_an_arms_or_a_metrics_name_has_such_names() -> None:
    assert set(get_args(ArmName)) > CLOSED_BOOK_ARMS | TUNED_ARMS
    assert set(JUDGED_METRICS) > NEED_CONTEXT
