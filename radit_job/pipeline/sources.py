"""The user's own files: found, named, and put into the store, so that a run keeps the documents it was made from."""

from __future__ import annotations

import glob
import itertools
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from radit_job.config.schema import Config, question_file
from radit_job.errors import InputError
from radit_job.hashing import digest, digest_file
from radit_job.jobs import ArtifactRef
from radit_job.store import ObjectStore
from radit_job.store.artifacts import find, publish


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
    key: str  # over names and contents


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
    path = Path(os.path.normpath(folder.absolute() / Path(entry).expanduser()))
    if path.is_file():
        return [path], path.parent
    if path.is_dir():
        return _files_below(path), path
    found = glob.glob(str(path), recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
    matched = sorted(Path(os.path.normpath(name)) for name in found)
    files = [below for one in matched for below in ([one] if one.is_file() else _files_below(one))]
    fixed = itertools.takewhile(lambda part: not glob.has_magic(part), path.parts)
    return files, Path(*fixed)


def _files_below(folder: Path) -> list[Path]:
    """All files but hidden ones and those in hidden folders."""
    below = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in below if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _why_nothing(entry: str, folder: Path) -> str:
    if glob.has_magic(entry):
        return "nothing matches this pattern"
    return "the folder is empty" if (folder / entry).is_dir() else "no such file or folder"


def _source(artifact: str, files: list[SourceFile]) -> Source:
    try:
        contents = [[file.name, digest_file(file.path)] for file in files]
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=error.filename) from error
    return Source(artifact, tuple(files), digest(contents).removeprefix("sha256:"))


def publish_source(store: ObjectStore, source: Source) -> ArtifactRef:
    """Put the files into the store, unless they are there; `corpus` keeps them below `documents/`."""
    manifest = find(store, source.artifact, source.key)
    if manifest is None:
        with tempfile.TemporaryDirectory(prefix="radit-") as folder:
            for file in source.files:
                target = Path(folder, source.artifact, "documents" if source.artifact == "corpus" else "", file.name)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file.path, target)
            result = {"seconds": 0.0, "inputs": [], "files": [file.name for file in source.files]}
            manifest, _ = publish(store, source.artifact, source.key, Path(folder), [source.artifact], result)
    return ArtifactRef(source.artifact, source.artifact, source.key, manifest.digest_of(source.artifact))
