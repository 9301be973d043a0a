"""Long English text for benchmarks, the same on every machine with the pinned packages, and no download.

The handbook and the pages of this repository, Python's language reference, and the docstrings of installed packages.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from side_by_side import EMBEDDER, QUICKSTART

ROOT = QUICKSTART.parent.parent
PACKAGES = ("numpy", "transformers")
LEAST_CHARACTERS = 400  # a shorter docstring is no text


def prose() -> Iterator[tuple[str, str]]:
    """(name, text), the handbook first."""
    for path in (QUICKSTART / "handbook.md", ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        yield path.name, path.read_text(encoding="utf-8")
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some distributions leave it out
        topics = {}
    yield from sorted(topics.items())
    for package in PACKAGES:
        folder = Path(find_spec(package).submodule_search_locations[0])
        for path in sorted(folder.rglob("*.py")):
            if text := _docstrings(path):
                yield path.relative_to(folder.parent).as_posix(), text


def _docstrings(path: Path) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    found = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds))
    return "\n\n".join(text for text in found if text and len(text) >= LEAST_CHARACTERS)


def chunks(n: int, size_tokens: int = 254, overlap_tokens: int = 32) -> list[str]:
    """n different chunks as the stage `ingest` cuts them, document after document; fewer if the text does not last."""
    from radit_job.model_ref import ModelRef
    from radit_job.models.token_counter import open_token_counter
    from radit_job.rag.chunking import Chunker
    from radit_job.rag.documents import Document

    chunker = Chunker(size_tokens, overlap_tokens, open_token_counter(ModelRef("packaged", EMBEDDER)))
    found: dict[str, None] = {}
    for name, text in prose():
        for chunk in chunker.cut(Document(name, (text,), has_pages=False)):
            found.setdefault(chunk.text.strip())
            if len(found) == n:
                return list(found)
    return list(found)
