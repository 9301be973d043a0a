"""A store in a folder. Writes are atomic by rename, commits by hard link: both hold on any POSIX file system."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from radit_job.errors import CorruptArtifact, StoreError
from radit_job.hashing import digest_file
from radit_job.store.locks import hold_file
from radit_job.store.objects import ObjectInfo, object_path

TEMPORARY = "tmp"  # files in the making; what a killed process leaves there, `radit gc` deletes
NO_HARD_LINKS = (errno.EPERM, errno.EMLINK, errno.ENOTSUP)


class LocalStore:
    """An ObjectStore in a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root.expanduser().absolute()

    @property
    def url(self) -> str:
        """The folder's absolute path."""
        return str(self._root)

    def read(self, name: str) -> bytes | None:
        """See ObjectStore."""
        with _store_errors(self._root, "read"):
            try:
                return self._path(name).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def write(self, name: str, data: bytes) -> None:
        """See ObjectStore."""
        with _store_errors(self._root, "write to"), self._temporary(name) as temporary:
            _write_through(temporary, data)
            temporary.replace(self._path(name))

    def create(self, name: str, data: bytes) -> bool:
        """See ObjectStore; a hard link fails where the name exists, which makes it the conditional put of a folder."""
        with _store_errors(self._root, "write to"), self._temporary(name) as temporary:
            _write_through(temporary, data)
            try:
                os.link(temporary, self._path(name))
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in NO_HARD_LINKS:
                    raise
                return _create_exclusively(self._path(name), data)
            return True

    def upload(self, name: str, path: Path) -> str:
        """See ObjectStore; a file on the store's own file system is linked, any other is copied."""
        with _store_errors(self._root, "write to"), self._temporary(name) as temporary:
            try:
                temporary.unlink()
                os.link(path, temporary)
            except OSError as error:
                if error.errno not in (errno.EXDEV, *NO_HARD_LINKS):
                    raise
                shutil.copyfile(path, temporary)
            sha256 = digest_file(temporary)
            temporary.replace(self._path(name))
            return sha256

    def download(self, name: str, path: Path) -> str:
        """See ObjectStore; a link to the store's own file, and nothing is copied."""
        source = self._path(name)
        if not source.is_file():
            raise CorruptArtifact(f"{name} is not there", where=self.url)
        with _store_errors(path.parent, "write to"):
            path.unlink(missing_ok=True)
            try:
                os.link(source, path)
            except OSError as error:
                if error.errno not in (errno.EXDEV, *NO_HARD_LINKS):
                    raise
                path.symlink_to(source)
        with _store_errors(self._root, "read"):
            return digest_file(path)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See ObjectStore."""
        with _store_errors(self._root, "read"):
            start = self._root / prefix
            base = start if prefix.endswith("/") or not prefix else start.parent
            found = [path for path in base.rglob("*") if path.is_file()]
            names = sorted((path.relative_to(self._root).as_posix(), path) for path in found)
        for name, path in names:
            if name.startswith(prefix):
                status = path.stat()
                yield ObjectInfo(name, status.st_size, status.st_mtime)

    def delete(self, name: str) -> None:
        """See ObjectStore; folders that it leaves empty go with it."""
        with _store_errors(self._root, "write to"):
            path = self._path(name)
            path.unlink(missing_ok=True)
            for folder in path.parents:
                if folder == self._root or not folder.is_dir() or any(folder.iterdir()):
                    break
                folder.rmdir()

    def scratch(self, name: str) -> Path:
        """See ObjectStore."""
        with _store_errors(self._root, "write to"):
            folder = self._path(f"scratch/{name}")
            folder.mkdir(parents=True, exist_ok=True)
            return folder

    def keep_scratch(self, name: str) -> bool:
        """See ObjectStore; it is in the store already."""
        return True

    def drop_scratch(self, name: str) -> None:
        """See ObjectStore."""
        shutil.rmtree(self._path(f"scratch/{name}"), ignore_errors=True)

    @contextmanager
    def hold(self, name: str, *, wait: bool = False) -> Iterator[None]:
        """See ObjectStore."""
        path = self._path(f"locks/{name}")
        with _store_errors(self._root, "write to"):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a+")
        with hold_file(file, name, self.url, wait=wait):
            yield

    def _path(self, name: str) -> Path:
        return self._root / object_path(name, self.url)

    @contextmanager
    def _temporary(self, name: str) -> Iterator[Path]:
        """A file in the making, on the object's own file system; it goes unless this process is killed."""
        self._path(name).parent.mkdir(parents=True, exist_ok=True)
        folder = self._root / TEMPORARY
        folder.mkdir(exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder)
        os.close(handle)
        os.chmod(temporary, 0o644)  # noqa: PTH101 - as any file that a user makes
        try:
            yield Path(temporary)
        finally:
            Path(temporary).unlink(missing_ok=True)


def _write_through(path: Path, data: bytes) -> None:
    """Write and reach the disk, so that a commit is not lost with the power."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _create_exclusively(path: Path, data: bytes) -> bool:
    """For a file system without hard links; a crash may leave a torn file, which its reader must recognise."""
    try:
        with path.open("xb") as file:
            file.write(data)
    except FileExistsError:
        return False
    return True


@contextmanager
def _store_errors(root: Path, verb: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise store_error(error, root, verb) from error


def store_error(error: OSError, root: Path | str, verb: str) -> StoreError:
    """What the system said, as one message with advice."""
    advice = {
        errno.ENOSPC: "Free some space, or `radit gc`, and run again: what is committed is kept.",
        errno.EDQUOT: "Your quota is used up: free some space and run again.",
        errno.EACCES: "Give a folder that you may write to, with --store or in the configuration.",
        errno.EROFS: "The file system is read-only: give another folder with --store.",
        errno.ENOTDIR: "A file stands where the folder should be: give another one with --store.",
        errno.EEXIST: "A file stands where the folder should be: give another one with --store.",
    }
    reason = os.strerror(error.errno).lower() if error.errno else str(error)
    return StoreError(f"cannot {verb} the store: {reason}", where=str(root), todo=advice.get(error.errno or 0))
