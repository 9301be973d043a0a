from __future__ import annotations

from pathlib import Path

import pytest

from radit_job.config.loading import load_config
from radit_job.errors import InputError
from radit_job.pipeline.sources import find_documents, find_sources, publish_source
from radit_job.store import LocalStore, open_store
from radit_job.store.artifacts import fetch, find
from tests.servers.seaweedfs import SeaweedFS


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
    documents = fetch(store, manifest, "corpus", folder / "fetched") / "documents"
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


@pytest.fixture
def bucket(s3_environment: SeaweedFS, folder: Path) -> tuple[str, str]:
    """Files in a bucket: (URL of their prefix, options of any URL there)."""
    place, options = s3_environment.store_url(f"bucket/{folder.name}").split("?")
    store = open_store(f"{place}?{options}")
    for name in ("papers/a.pdf", "papers/more/b.pdf", "papers/.hidden/c.pdf", "papers/.DS_Store", "papersbeside/e.md"):
        store.write(name, name.encode())
    store.write("questions.csv", b"question,answer")
    return place, f"?{options}"


def config_with(folder: Path, paths: list[str], questions: str = "") -> Path:
    more = f", questions: {{source: file, path: '{questions}'}}" if questions else ""
    path = folder / "c.yaml"
    path.write_text(f"{{name: c, corpus: {{paths: {paths}}}{more}}}")
    return path


def test_files_in_a_bucket_are_the_same_source_as_in_a_folder(folder: Path, bucket: tuple[str, str]) -> None:
    place, options = bucket
    there = load_config(config_with(folder, [f"{place}/papers/{options}"], f"{place}/questions.csv{options}"))
    corpus, questions = find_sources(there.config, there.folder)
    here = load_config(config_with(folder, ["papers"]))
    assert [file.name for file in corpus.files] == ["a.pdf", "more/b.pdf"]
    assert corpus.key == find_sources(here.config, here.folder)[0].key
    store = open_store(f"{place}/store{options}")
    publish_source(store, corpus)
    publish_source(store, questions)
    for source, name in ((corpus, "corpus/documents/a.pdf"), (questions, "questions.csv")):
        manifest = find(store, source.artifact, source.key)
        assert manifest is not None
        fetched = fetch(store, manifest, source.artifact, folder / "in" / source.artifact)
        assert (fetched.parent / name if source is corpus else fetched / name).is_file()
    assert list(store.list("scratch/")) == []


def test_what_stands_in_a_bucket_is_named_as_in_a_folder(folder: Path, bucket: tuple[str, str], tmp_path: Path) -> None:
    place, options = bucket

    def names(*paths: str) -> list[str]:
        found = find_documents(
            [path if path == "notes" else f"{place}/{path}{options}" for path in paths], folder, downloads
        )
        return [file.name for file in found]

    downloads = tmp_path / "downloads"
    assert names("papers/a.pdf") == ["a.pdf"]
    assert names("papers", "papersbeside") == ["papers/a.pdf", "papers/more/b.pdf", "papersbeside/e.md"]
    assert names("papers/more", "notes") == [f"bucket/{folder.name}/papers/more/b.pdf", "d.md"]


def test_what_is_missing_in_a_bucket_is_named(folder: Path, bucket: tuple[str, str]) -> None:
    place, options = bucket
    loaded = load_config(config_with(folder, [f"{place}/gone{options}", "nowhere"], f"{place}/papers{options}"))
    with pytest.raises(InputError) as raised:
        find_sources(loaded.config, loaded.folder)
    said = str(raised.value)
    assert f"{place}/gone" in said and "nothing stands there" in said
    assert "nowhere: no such file" in said
    assert "2 files stand there" in said


def test_a_file_that_changes_before_it_is_copied_is_not_put_under_the_old_content_s_key(folder: Path) -> None:
    loaded = load_config(config_with(folder, ["papers"]))
    store = LocalStore(folder / "store")
    [source] = find_sources(loaded.config, loaded.folder)
    (folder / "papers" / "a.pdf").write_text("edited")
    with pytest.raises(InputError, match=r"a\.pdf: changed while it was read"):
        publish_source(store, source)
    assert find(store, "corpus", source.key) is None
    (folder / "papers" / "a.pdf").write_text("papers/a.pdf")
    publish_source(store, source)
    manifest = find(store, "corpus", source.key)
    assert manifest is not None and manifest.digest_of("corpus") == source.reference.digest
