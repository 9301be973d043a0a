"""A matrix in blocks of rows, each opened when it is read: more files than a process may hold open at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class RowBlocks:
    """The rows of all blocks, one after the other."""

    sizes: tuple[int, ...]  # rows of each block
    dimension: int
    open: Callable[[int], Vectors]  # a block's number to its rows, [size, dimension]

    @classmethod
    def of(cls, rows: Vectors) -> RowBlocks:
        """A matrix in memory, or one memory-mapped file, as the only block."""
        return cls((len(rows),), rows.shape[1], lambda number: rows)

    @classmethod
    def of_files(cls, paths: Sequence[Path]) -> RowBlocks:
        """The .npy files in this order; ValueError for one that is no float32 matrix as wide as the others."""

        def mapped(number: int) -> Vectors:
            found: Vectors = np.load(paths[number], mmap_mode="r", allow_pickle=False)
            return found

        shapes: list[tuple[int, ...]] = []
        for number, path in enumerate(paths):
            block = mapped(number)
            if block.dtype != np.float32 or block.ndim != 2 or (shapes and block.shape[1] != shapes[0][1]):
                raise ValueError(f"{path.name} is {block.dtype} {block.shape}")
            shapes.append(block.shape)
        return cls(tuple(shape[0] for shape in shapes), shapes[0][1] if shapes else 0, mapped)

    def __len__(self) -> int:
        return sum(self.sizes)

    def parts(self, size: int) -> Iterator[tuple[int, Vectors]]:
        """(number of its first row, rows) of every stretch of at most `size` rows, which never crosses two blocks."""
        first = 0
        for number, n_rows in enumerate(self.sizes):
            block = self.open(number)
            for start in range(0, n_rows, size):
                yield first + start, block[start : start + size]
            first += n_rows

    def take(self, rows: npt.NDArray[np.int64]) -> Vectors:
        """Single rows by their numbers, [len(rows), dimension]."""
        ends = np.cumsum(self.sizes)
        owners = np.searchsorted(ends, rows, side="right")
        taken = np.empty((len(rows), self.dimension), dtype=np.float32)
        for number in np.unique(owners).tolist():
            mine = owners == number
            taken[mine] = self.open(number)[rows[mine] - (ends[number] - self.sizes[number])]
        return taken
