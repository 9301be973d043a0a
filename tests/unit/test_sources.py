from __future__ import annotations

from pathlib import Path

import pytest

from radit_job.config.loading import load_config
from radit_job.errors import InputError
from radit_job.pipeline.sources import find_documents, find_sources, publish_source
from radit_job.store import LocalStore
from radit_job.store.artifacts import fetch, find


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("papers/a.pdf", "papers/more/b.pdf", "papers/.hidden/c.pdf", "papers/.DS_Store", "notes/d.md"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["papers/a.pdf"], ["a.pdf"]),
        (["papers"], ["a.pdf", "more/b.pdf"]),
        (["papers", "notes"], ["notes/d.md", "papers/a.pdf", "papers/more/b.pdf"]),
        (["papers/**/*.pdf"], ["a.pdf", "more/b.pdf"]),
        (["papers/*"], ["a.pdf", "more/b.pdf"]),
        (["papers", "papers/a.pdf"], ["a.pdf", "more/b.pdf"]),
        (["*/a.pdf", "notes/d.md"], ["notes/d.md", "papers/a.pdf"]),
    ],
)
def test_documents_are_named_below_what_they_share(folder: Path, paths: list[str], names: list[str]) -> None:
    assert [file.name for file in find_documents(paths, folder)] == names


def test_absolute_and_relative_paths_agree(folder: Path) -> None:
    assert find_documents([str(folder / "papers")], Path("/")) == find_documents(["papers"], folder)


def test_everything_missing_is_named_at_once(folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(InputError) as raised:
        find_documents(["gone.pdf", "empty", "*.docx", "papers"], folder)
    said = str(raised.value)
    assert "gone.pdf: no such file or folder" in said
    assert "empty: the folder is empty" in said
    assert "*.docx: nothing matches this pattern" in said
    assert raised.value.exit_code == 65


def test_a_published_source_is_the_files_and_is_published_once(folder: Path) -> None:
    (folder / "c.yaml").write_text("{name: c, corpus: {paths: [papers]}}")
    store = LocalStore(folder / "store")
    loaded = load_config(folder / "c.yaml")
    [source] = find_sources(loaded.config, loaded.folder)
    first = publish_source(store, source)
    assert publish_source(store, source) == first
    manifest = find(store, "corpus", source.key)
    assert manifest is not None
    documents = fetch(store, manifest, "corpus", folder) / "documents"
    assert (documents / "more" / "b.pdf").read_text() == "papers/more/b.pdf"


def test_the_key_is_over_names_and_contents(folder: Path) -> None:
    (folder / "c.yaml").write_text("{name: c, corpus: {paths: [papers]}}")
    loaded = load_config(folder / "c.yaml")
    keys = set()
    for change in (None, ("papers/a.pdf", "papers/z.pdf"), "papers/z.pdf"):
        if isinstance(change, tuple):
            (folder / change[0]).rename(folder / change[1])
        elif change:
            (folder / change).write_text("other")
        keys.add(find_sources(loaded.config, loaded.folder)[0].key)
    assert len(keys) == 3
