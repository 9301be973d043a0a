"""Rows in files that are never changed: what stands in one is there after any crash, and is read where it lies.

    <folder>/0-000000012.jsonl    a row per line, in the order in which they came

Rows may be long (a batch of vectors), so memory holds only where each one lies.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

MERGED_FILES = 64  # so many small files become one, or saving thousands of answers would list thousands of files
Row = dict[str, Any]


class RowFiles:
    """The rows of one folder by their `key`; one thread at a time appends, any may read meanwhile."""

    def __init__(self, folder: Path) -> None:
        """Makes the folder if need be; `rows` is to be read to its end before anything else."""
        self._folder = folder
        self._lock = threading.Lock()
        self._places: dict[str, tuple[str, int]] = {}  # the file's name, and how many bytes stand before the row
        self._n_files = 0
        folder.mkdir(parents=True, exist_ok=True)

    def rows(self) -> Iterator[Row]:
        """All rows in the order in which they came; one may come twice where a process was killed while it merged."""
        for path in sorted(self._folder.glob("*.jsonl"), key=lambda path: path.stem.partition("-")[::-1]):
            self._n_files = max(self._n_files, int(path.stem.partition("-")[2]) + 1)
            offset = 0
            with path.open("rb") as file:
                for line in file:
                    row = json.loads(line)
                    self._places[row["key"]] = (path.name, offset)
                    offset += len(line)
                    yield row

    def append(self, rows: list[Row]) -> None:
        """Write rows into a new file, whole or not at all; a later row takes the place of one with its key."""
        name, places, offset = f"0-{self._n_files:09d}.jsonl", {}, 0
        with _whole(self._folder / name) as file:
            for row in rows:
                places[row["key"]] = (name, offset)
                offset += file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
        self._n_files += 1
        with self._lock:
            self._places.update(places)
        self._merge(0)

    def read(self, key: str) -> Row:
        """The row with a key; KeyError if there is none."""
        with self._lock:  # or the file might be merged and deleted meanwhile
            name, offset = self._places[key]
            with (self._folder / name).open("rb") as file:
                file.seek(offset)
                line = file.readline()
        row: Row = json.loads(line)
        return row

    def _merge(self, level: int) -> None:
        """MERGED_FILES files of a level become one of the next: a row is copied once per level."""
        files = sorted(self._folder.glob(f"{level}-*.jsonl"))
        if len(files) < MERGED_FILES:
            return
        name, shifts = f"{level + 1}-{files[-1].name.partition('-')[2]}", {}
        with _whole(self._folder / name) as merged:
            for path in files:
                shifts[path.name] = merged.tell()
                with path.open("rb") as file:
                    shutil.copyfileobj(file, merged)
        with self._lock:
            for key, (place, offset) in self._places.items():
                if place in shifts:
                    self._places[key] = (name, shifts[place] + offset)
        for path in files:
            path.unlink()
        self._merge(level + 1)


@contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """A file that is there whole or not at all, whenever the process is killed or the machine goes down."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())  # or after a crash of the machine the name may be there without the content
    partial.replace(path)
