"""The user's own files: found, named, and put into the store, so that a run keeps the documents it was made from.

Files that stand in a bucket (s3://bucket/path, with the options of a store's URL) are downloaded first.
"""

from __future__ import annotations

import glob
import itertools
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from radit_job.config.schema import Config, question_file
from radit_job.errors import CorruptArtifact, InputError
from radit_job.hashing import digest_file
from radit_job.jobs import ArtifactRef
from radit_job.store import ObjectStore, open_store
from radit_job.store.artifacts import FileEntry, digest_of, find, publish, withdraw, withdraw_if_standing
from radit_job.store.local import store_error
from radit_job.store.objects import object_path
from radit_job.store.parallel import in_parallel
from radit_job.store.s3_address import SCHEME, split_object_url

DOCUMENTS = "documents/"  # below which the corpus artifact keeps the user's files


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of the user's."""

    name: str  # its path below the deepest folder that all of them share: the document's name from here on
    path: Path


@dataclass(frozen=True, slots=True)
class Source:
    """The files that become one source artifact."""

    artifact: str  # "corpus" or "question_file"
    files: tuple[SourceFile, ...]
    entries: tuple[FileEntry, ...]  # as the store will list them
    downloads: tempfile.TemporaryDirectory[str] | None = None  # the files of a bucket; they go with this object

    @property
    def reference(self) -> ArtifactRef:
        """The artifact that the files become: its key is its content."""
        return ArtifactRef(self.artifact, self.artifact, self.key, digest_of(self.entries))

    @property
    def key(self) -> str:
        """Over names and contents."""
        return digest_of(self.entries).removeprefix("sha256:")


def find_sources(config: Config, folder: Path) -> list[Source]:
    """The corpus and, where one is configured, the question file; relative paths start at `folder`.

    All that is missing is named in one InputError.
    """
    found, problems = [], []
    downloads = tempfile.TemporaryDirectory(prefix="radit-") if _in_bucket(config) else None
    below = {name: Path(downloads.name, name) if downloads else None for name in ("corpus", "questions")}
    try:
        found.append(_source("corpus", find_documents(config.corpus.paths, folder, below["corpus"]), downloads))
    except InputError as error:
        problems.append(error)
    try:
        path = _question_file(config, folder, below["questions"])
        if path is not None:
            found.append(_source("question_file", [SourceFile(path.name, path)], downloads))
    except InputError as error:
        problems.append(error)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise InputError("\n".join(str(problem) for problem in problems))
    return found


def _in_bucket(config: Config) -> bool:
    return any(path.startswith(SCHEME) for path in [*config.corpus.paths, config.questions.path or ""])


def _question_file(config: Config, folder: Path, downloads: Path | None) -> Path | None:
    written = config.questions.path or ""
    if downloads is not None and written.startswith(SCHEME):
        files, _ = _download(written, downloads)
        if len(files) == 1:
            return files[0]
        raise InputError(f"{len(files)} files stand there, and one is expected", where=f"questions.path: {written}")
    path = question_file(config, folder)
    if path is None or path.is_file():
        return path
    raise InputError(
        "no such file",
        where=f"questions.path: {path}",
        todo="Check the path; it is relative to the configuration file.",
    )


def find_documents(paths: list[str], folder: Path, downloads: Path | None = None) -> list[SourceFile]:
    """Every file that the paths name (files, folders with all below them, globs), each once, ordered by name.

    What stands in a bucket is downloaded below `downloads`; beside files of this machine its name starts with its
    bucket's.
    """
    here, remote = _Found({}, []), _Found({}, [])
    problems: list[str] = []
    for entry in paths:
        try:
            if downloads is not None and entry.startswith(SCHEME):
                remote.add(*_download(entry, downloads))
            else:
                here.add(*_match(entry, folder))
        except InputError as error:
            problems.append(f"{error.where or entry}: {error.what}")
    if problems:
        raise InputError(
            "; ".join(problems),
            where="corpus.paths",
            todo=f"Paths are relative to the configuration file's folder, {folder.absolute()}.",
        )
    if here.roots and downloads is not None:
        remote.roots.append(downloads)
    return sorted([*here.named(), *remote.named()], key=lambda file: file.name)


@dataclass(slots=True)
class _Found:
    """Files that several paths name, and the folders below which they are named."""

    files: dict[Path, None]
    roots: list[Path]

    def add(self, files: list[Path], root: Path) -> None:
        self.files.update(dict.fromkeys(files))
        self.roots.append(root)

    def named(self) -> list[SourceFile]:
        if not self.files:
            return []
        shared = Path(os.path.commonpath(self.roots))
        return [SourceFile(path.relative_to(shared).as_posix(), path) for path in self.files]


def _download(url: str, folder: Path) -> tuple[list[Path], Path]:
    """Copies of the object, or of all objects below the prefix; and the folder below which they are named."""
    store_url, place = split_object_url(url)
    bucket = open_store(store_url)
    whole = [
        info.name for info in bucket.list(place) if not place or info.name.startswith(f"{place}/") or info.name == place
    ]
    names = [place] if place in whole else [name for name in whole if not _is_hidden(name.removeprefix(place))]
    if not names:
        raise InputError("nothing stands there")
    root = folder / store_url.removeprefix(SCHEME).partition("?")[0]

    def copy(name: str) -> Path:
        path = root / object_path(name, store_url)
        path.parent.mkdir(parents=True, exist_ok=True)
        bucket.download(name, path)
        return path

    try:
        return in_parallel(copy, names), (root / place).parent if names == [place] else root / place
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise InputError(f"{error.filename} is both an object and a folder there") from error


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _match(entry: str, folder: Path) -> tuple[list[Path], Path]:
    """The files that one path names, and the folder below which they are named."""
    folder = folder.absolute()
    path = Path(os.path.normpath(folder / Path(entry).expanduser()))
    if path.is_file():
        return [path], path.parent
    if path.is_dir() and (files := _files_below(path)):
        return files, path
    found = glob.glob(entry, root_dir=folder, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
    matched = sorted(Path(os.path.normpath(folder / name)) for name in found)
    files = [below for one in matched for below in ([one] if one.is_file() else _files_below(one))]
    fixed = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), Path(entry).parts))
    if not files:
        raise InputError(_why_nothing(entry, folder))
    return files, Path(os.path.normpath(folder / fixed))


def _files_below(folder: Path) -> list[Path]:
    """All files but hidden ones and those in hidden folders; what cannot be looked into is an error."""
    files: list[Path] = []
    for place, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not _leads_up(Path(place, name)))
        files += [Path(place, name) for name in names if not name.startswith(".")]
    return sorted(files)


def _leads_up(folder: Path) -> bool:
    """Whether it is a link to a folder that it stands in: following it would never end."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def _refuse(error: OSError) -> None:
    raise InputError(f"cannot be read: {os.strerror(error.errno or 0).lower()}", where=str(error.filename))


def _why_nothing(entry: str, folder: Path) -> str:
    if glob.has_magic(entry):
        return "nothing matches this pattern"
    return "the folder is empty" if (folder / entry).is_dir() else "no such file or folder"


def _source(
    artifact: str, files: list[SourceFile], downloads: tempfile.TemporaryDirectory[str] | None = None
) -> Source:
    prefix = DOCUMENTS if artifact == "corpus" else ""
    entries = []
    for file in files:
        try:
            file.name.encode()
            entries.append(FileEntry(prefix + file.name, file.path.stat().st_size, digest_file(file.path)))
        except UnicodeEncodeError:
            raise InputError("its name is not UTF-8", where=repr(str(file.path)), todo="Rename it.") from None
        except OSError as error:
            _refuse(error)
    if len({entry.path for entry in entries}) < len(entries):
        raise InputError("two documents would have the same name", where="corpus.paths", todo="Rename a folder.")
    return Source(artifact, tuple(files), tuple(sorted(entries, key=lambda entry: entry.path)), downloads)


def publish_source(store: ObjectStore, source: Source) -> None:
    """Put copies of the files into the store, unless they are there; changes of the originals do not reach them.

    InputError where a file is no longer what the key was made of.
    """
    wanted = source.reference.digest
    try:
        standing = find(store, source.artifact, source.key)
        if standing is not None and standing.digest_of(source.artifact) == wanted:
            return
        if standing is not None:
            withdraw_if_standing(store, standing)
    except CorruptArtifact:
        withdraw(store, source.artifact, source.key)
    scratch_name = f"{source.artifact}/{source.key}"
    with store.hold(f"{source.artifact}-{source.key}", wait=True):
        folder = store.scratch(scratch_name)
        for file in source.files:
            target = folder / source.artifact / (DOCUMENTS if source.artifact == "corpus" else "") / file.name
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file.path, target)
            except OSError as error:
                raise store_error(error, store.url, f"copy {file.name} into") from error
        result = {"seconds": 0.0, "inputs": []}
        manifest, _ = publish(store, source.artifact, source.key, folder, [source.artifact], result)
        store.drop_scratch(scratch_name)
    if manifest.digest_of(source.artifact) != wanted:
        withdraw_if_standing(store, manifest)
        changed = set(manifest.artifacts[source.artifact]) ^ set(source.entries)
        raise InputError("changed while it was read", where=min(entry.path for entry in changed), todo="Run again.")
