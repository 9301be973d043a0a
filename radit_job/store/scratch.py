"""The scratch folder of a remote store: a folder of this machine, saved to the store as a whole or not at all.

    scratch/<name>/index.json    what was saved last: path -> (object, bytes, sha256). It is replaced in one put.
    scratch/<name>/files/<id>    the files; none is ever changed

A stage goes on writing while its folder is saved. What is saved is a moment of it: all files are hard-linked at once,
and linked again if any of them changed meanwhile. A file that is replaced by rename is thereby saved as it stood; one
that grows in place is saved with at least what it held, which is all that a mark written after it vouches for.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from radit_job import observe
from radit_job.errors import CorruptArtifact, StoreError
from radit_job.hashing import digest_file
from radit_job.store.objects import ObjectStore, object_path
from radit_job.store.parallel import in_parallel

INDEX_FORMAT = 1
UNSAVED = ("*.partial", "unfinished*", "out-*")  # in the making; `out-*` is published otherwise
N_SNAPSHOTS = 5  # tries to catch a moment at which nothing changes


@dataclass(frozen=True, slots=True)
class SavedFile:
    """One file of a saved scratch folder."""

    path: str
    name: str  # the object that holds it
    n_bytes: int
    sha256: str


class MirroredScratch:
    """The scratch folders of one store on this machine."""

    def __init__(self, store: ObjectStore, local: Path) -> None:
        self._store = store
        chosen = os.environ.get("RADIT_SCRATCH")
        self._root = Path(chosen) / local.name if chosen else local
        self._saved: dict[
            str, dict[Path, tuple[Look, SavedFile]]
        ] = {}  # by name: how each file looked when it was saved
        self._one_at_a_time = threading.RLock()  # a stage's process saves from a thread of its own

    def open(self, name: str) -> Path:
        """The folder; where it does not go on from what was saved last, it is filled anew."""
        with self._one_at_a_time:
            folder = self._folder(name)
            saved = self._store.read(_index_name(name))
            if folder.is_dir() and self._generation(name) == _generation_of(saved):
                return folder
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            if saved is not None and not self._fill(folder, _files_of(saved)):
                shutil.rmtree(folder)
                folder.mkdir()
            self._note_generation(name, saved)
            return folder

    def keep(self, name: str) -> bool:
        """Save the folder as it stands at one moment; False where there was none at which it stood still."""
        with self._one_at_a_time:
            snapshot = self._root / "saving" / uuid.uuid4().hex
            try:
                stood_still = _link_all(self._folder(name), snapshot)
                if stood_still:
                    self._save(name, snapshot)
                else:
                    observe.log("the scratch folder changes too fast to be saved now", scratch=name)
                return stood_still
            except OSError as error:
                what = f"cannot save the scratch folder: {error.strerror}"
                raise StoreError(what, where=str(error.filename)) from error
            finally:
                shutil.rmtree(snapshot, ignore_errors=True)

    def drop(self, name: str) -> None:
        """Delete it here and in the store, the index first."""
        with self._one_at_a_time:
            self._saved.pop(name, None)
            shutil.rmtree(self._folder(name), ignore_errors=True)
            self._generation_file(name).unlink(missing_ok=True)
            self._store.delete(_index_name(name))
            in_parallel(self._store.delete, [info.name for info in self._store.list(f"scratch/{name}/")])

    def _save(self, name: str, snapshot: Path) -> None:
        last = _files_of(self._store.read(_index_name(name)))
        kept = {(file.path, file.sha256): file for file in last}
        before = self._saved.get(name, {})

        def save(path: Path, look: Look) -> SavedFile:
            looked, known = before.get(path, (None, None))
            if known is not None and looked == look and known in last:
                return known  # a file is replaced by rename or grows: it looks different then
            known = kept.get((path.as_posix(), digest_file(snapshot / path)))
            if known is not None:
                return known
            target = f"scratch/{name}/files/{uuid.uuid4().hex}"
            sha256 = self._store.upload(target, snapshot / path)
            return SavedFile(path.as_posix(), target, (snapshot / path).stat().st_size, sha256)

        now = {path: (look, save(path, look)) for path, look in sorted(_look(snapshot).items())}
        self._saved[name] = now
        saved = [file for _, file in now.values()]
        if saved == last:
            return
        index = {"format": INDEX_FORMAT, "id": uuid.uuid4().hex, "files": [asdict(file) for file in saved]}
        data = json.dumps(index, indent=1, ensure_ascii=False).encode()
        self._store.write(_index_name(name), data)
        self._note_generation(name, data)
        # Only what the last index named: another machine may be about to name what else lies there.
        in_parallel(self._store.delete, sorted({file.name for file in last} - {file.name for file in saved}))

    def _fill(self, folder: Path, files: list[SavedFile]) -> bool:
        def fetch(file: SavedFile) -> None:
            path = folder / object_path(file.path, self._store.url)
            path.parent.mkdir(parents=True, exist_ok=True)
            if self._store.download(file.name, path) != file.sha256:
                raise CorruptArtifact(f"{file.path} is not what was saved")

        try:
            in_parallel(fetch, files)
        except CorruptArtifact as error:
            observe.warn(f"what was saved of an earlier try cannot be used, so it begins anew: {error.what}")
            return False
        if files:
            observe.log("going on from what an earlier try saved", n_files=len(files))
        return True

    def _folder(self, name: str) -> Path:
        return self._root / "folders" / object_path(name, self._store.url)

    def _generation_file(self, name: str) -> Path:
        return self._root / "generations" / object_path(name, self._store.url)

    def _generation(self, name: str) -> str:
        try:
            return self._generation_file(name).read_text()
        except OSError:
            return "unknown"

    def _note_generation(self, name: str, index: bytes | None) -> None:
        path = self._generation_file(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        partial.write_text(_generation_of(index))
        partial.replace(path)


def saved_files(store: ObjectStore, name: str) -> Iterator[tuple[str, str, str]]:
    """Every file of the scratch folders whose names start with `name`, as it was saved last.

    (scratch folder, path in it, object that holds it). For a look from outside: nothing is opened or changed.
    """
    for info in store.list(f"scratch/{name}"):
        rest, slash, path = info.name.removeprefix(f"scratch/{name}").partition("/")
        folder = f"{name}{rest}"
        if path == "index.json":
            for file in _files_of(store.read(info.name)):
                yield folder, file.path, file.name
        elif slash and not path.startswith("files/") and not rest.endswith(".work"):  # a folder store
            yield folder, path, info.name


def own_folder() -> Path:
    """The user's own folder for what a remote store keeps on this machine."""
    folder = Path(tempfile.gettempdir()) / f"radit-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise StoreError("belongs to somebody else", where=str(folder), todo="Set TMPDIR to a folder of your own.")
    return folder


def _index_name(name: str) -> str:
    return f"scratch/{name}/index.json"


def _files_of(index: bytes | None) -> list[SavedFile]:
    """The saved files; an index that cannot be read names none."""
    try:
        plain = json.loads(index or b'{"files": []}')
        return [SavedFile(**file) for file in plain["files"]]
    except (ValueError, KeyError, TypeError):
        return []


def _generation_of(index: bytes | None) -> str:
    """Which saving it is: none yet, or the index's own id."""
    if index is None:
        return "none"
    try:
        return str(json.loads(index)["id"])
    except (ValueError, KeyError, TypeError):
        return "unreadable"


Look = tuple[int, int, int]  # inode, bytes, time of change
Seen = dict[Path, Look]  # by the path below the folder


def _link_all(folder: Path, snapshot: Path) -> bool:
    """Hard-link all files at one moment; False where they never stood still."""
    for _ in range(N_SNAPSHOTS):
        shutil.rmtree(snapshot, ignore_errors=True)
        snapshot.mkdir(parents=True)
        try:
            before = _look(folder)
            for path in before:
                (snapshot / path).parent.mkdir(parents=True, exist_ok=True)
                os.link(folder / path, snapshot / path)
            if _look(folder) == before:
                return True
        except FileNotFoundError:
            continue  # replaced or deleted while we looked
    return False


def _look(folder: Path) -> Seen:
    seen: Seen = {}
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        if path.is_file() and not any(Path(part).match(pattern) for part in relative.parts for pattern in UNSAVED):
            status = path.stat()
            seen[relative] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return seen
