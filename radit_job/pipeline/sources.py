"""The user's own files: found, named, and put into the store, so that a run keeps the documents it was made from."""

from __future__ import annotations

import glob
import itertools
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from radit_job.config.schema import Config, question_file
from radit_job.errors import CorruptArtifact, InputError
from radit_job.hashing import digest_file
from radit_job.jobs import ArtifactRef
from radit_job.store import ObjectStore
from radit_job.store.artifacts import FileEntry, digest_of, find, publish, withdraw
from radit_job.store.local import store_error

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
    try:
        found.append(_source("corpus", find_documents(config.corpus.paths, folder)))
    except InputError as error:
        problems.append(error)
    path = question_file(config, folder)
    if path is not None:
        if path.is_file():
            found.append(_source("question_file", [SourceFile(path.name, path)]))
        else:
            problems.append(
                InputError(
                    "no such file",
                    where=f"questions.path: {path}",
                    todo="Check the path; it is relative to the configuration file.",
                )
            )
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise InputError("\n".join(str(problem) for problem in problems))
    return found


def find_documents(paths: list[str], folder: Path) -> list[SourceFile]:
    """Every file that the paths name (files, folders with all below them, globs), each once, ordered by name."""
    files: dict[Path, None] = {}
    roots: list[Path] = []
    problems: list[str] = []
    for entry in paths:
        matched, root = _match(entry, folder)
        if matched:
            roots.append(root)
            files.update(dict.fromkeys(matched))
        else:
            problems.append(f"{entry}: {_why_nothing(entry, folder)}")
    if problems:
        raise InputError(
            "; ".join(problems),
            where="corpus.paths",
            todo=f"Paths are relative to the configuration file's folder, {folder.absolute()}.",
        )
    shared = Path(os.path.commonpath(roots))
    return sorted((SourceFile(path.relative_to(shared).as_posix(), path) for path in files), key=lambda file: file.name)


def _match(entry: str, folder: Path) -> tuple[list[Path], Path]:
    """The files that one path names, and the folder below which they are named."""
    folder = folder.absolute()
    path = Path(os.path.normpath(folder / Path(entry).expanduser()))
    if path.is_file():
        return [path], path.parent
    if path.is_dir():
        return _files_below(path), path
    found = glob.glob(entry, root_dir=folder, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
    matched = sorted(Path(os.path.normpath(folder / name)) for name in found)
    files = [below for one in matched for below in ([one] if one.is_file() else _files_below(one))]
    fixed = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), Path(entry).parts))
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


def _source(artifact: str, files: list[SourceFile]) -> Source:
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
    return Source(artifact, tuple(files), tuple(sorted(entries, key=lambda entry: entry.path)))


def publish_source(store: ObjectStore, source: Source) -> None:
    """Put copies of the files into the store, unless they are there; changes of the originals do not reach them."""
    try:
        if find(store, source.artifact, source.key) is not None:
            return
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
        publish(store, source.artifact, source.key, folder, [source.artifact], result)
        store.drop_scratch(scratch_name)
