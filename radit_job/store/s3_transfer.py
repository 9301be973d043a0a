"""Files to a bucket and back: large ones in parts, several at a time, hashed on the way, in bounded memory."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from radit_job import observe
from radit_job.store.s3_errors import NOT_THERE, code_of

PART_BYTES = 8 << 20  # a part must have 5 MiB at least
MAX_PARTS = 10_000  # https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
N_PARTS = 8  # in memory at a time, over all transfers of a store: 64 MiB
N_UPLOADS = 3  # tries of a multipart upload whose parts the server has lost
LOST = ("NoSuchUpload", "InvalidPart", "InvalidPartOrder")
WRITER = "radit-writer"  # metadata by which a writer knows its own object again
MEGABYTE = 1_000_000
SHOWN_BYTES = 64 * MEGABYTE  # from this size on a transfer shows its progress

Call = Callable[..., dict[str, Any]]  # a method of the client by name, with patience; a body comes back as bytes


@dataclass(frozen=True, slots=True)
class Transfers:
    """The transfers of one store."""

    call: Call
    give_up: Callable[[str, dict[str, Any]], None]  # one call without patience, whose failure is no matter
    stored_as: dict[str, str]  # encryption: arguments of whatever creates an object
    _slots: threading.BoundedSemaphore = field(default_factory=lambda: threading.BoundedSemaphore(N_PARTS))

    def send(self, key: str, path: Path) -> str:
        """Upload a file; the tagged sha256 of the bytes that were sent."""
        n_bytes = path.stat().st_size
        if n_bytes <= PART_BYTES:
            data = path.read_bytes()
            self.call("put_object", Key=key, Body=data, **self.stored_as)
            return "sha256:" + hashlib.sha256(data).hexdigest()
        part_bytes = max(PART_BYTES, -(-n_bytes // MAX_PARTS))
        for n_left in reversed(range(N_UPLOADS)):
            try:
                return self._send_parts(key, path, n_bytes, part_bytes)
            except Exception as error:
                if not n_left or code_of(error.__cause__ or error) not in LOST:
                    raise
        raise AssertionError

    def _send_parts(self, key: str, path: Path, n_bytes: int, part_bytes: int) -> str:
        writer = uuid.uuid4().hex
        started = self.call("create_multipart_upload", Key=key, Metadata={WRITER: writer}, **self.stored_as)
        upload = {"Key": key, "UploadId": started["UploadId"]}
        try:
            tags: list[str] = []
            state = hashlib.sha256()
            with path.open("rb") as file, _progress("upload", key, n_bytes) as advance:
                sent = self._in_order(
                    partial(self._send_part, upload, number, data)
                    for number, data in enumerate(_hashed(file, part_bytes, state), 1)
                )
                for n_sent, tag in sent:
                    tags.append(tag)
                    advance(n_sent)
            self._complete(upload, tags, writer)
        except BaseException:
            self.give_up("abort_multipart_upload", upload)
            raise
        return "sha256:" + state.hexdigest()

    def _send_part(self, upload: dict[str, Any], number: int, data: bytes) -> tuple[int, str]:
        return len(data), self.call("upload_part", **upload, PartNumber=number, Body=data)["ETag"]

    def _complete(self, upload: dict[str, Any], tags: list[str], writer: str) -> None:
        parts = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, 1)]
        try:
            self.call("complete_multipart_upload", **upload, MultipartUpload={"Parts": parts})
        except Exception as error:
            # The answer to an earlier try may have been lost on the way, and then the upload is no more.
            if code_of(error.__cause__ or error) != "NoSuchUpload" or not self.wrote(upload["Key"], writer):
                raise

    def wrote(self, key: str, writer: str) -> bool:
        """Whether an object stands there that was written by `writer`."""
        try:
            found = self.call("head_object", Key=key)
        except Exception as error:
            if code_of(error.__cause__ or error) not in NOT_THERE:
                raise
            return False
        return bool(found.get("Metadata", {}).get(WRITER) == writer)

    def fetch(self, key: str, path: Path) -> str:
        """Download an object to `path`, which gets it whole or not at all; the tagged sha256 of the bytes."""
        first = self.get_range(key, 0, PART_BYTES)
        data: bytes = first["Body"]
        n_bytes = _total(first, len(data))
        state = hashlib.sha256()
        with _replacing(path) as file, _progress("download", key, n_bytes) as advance:
            for block in self._blocks(key, data, n_bytes, first.get("ETag")):
                state.update(block)
                file.write(block)
                advance(len(block))
        return "sha256:" + state.hexdigest()

    def _blocks(self, key: str, first: bytes, n_bytes: int, tag: str | None) -> Iterator[bytes]:
        yield first
        starts = range(len(first), n_bytes, PART_BYTES)
        if not starts:
            return
        condition = {"IfMatch": tag} if tag else {}  # all parts of one object, though another may replace it
        replies = self._in_order(partial(self.get_range, key, start, PART_BYTES, **condition) for start in starts)
        yield from (reply["Body"] for reply in replies)

    def get_range(self, key: str, start: int, n_bytes: int, **condition: str) -> dict[str, Any]:
        """A part of an object; of an empty one, which has no first byte to ask for, the whole."""
        try:
            return self.call("get_object", Key=key, Range=f"bytes={start}-{start + n_bytes - 1}", **condition)
        except Exception as error:
            if start or code_of(error.__cause__ or error) not in ("InvalidRange", "416"):
                raise
            return self.call("get_object", Key=key)

    def _in_order(self, tasks: Iterator[Callable[[], Any]]) -> Iterator[Any]:
        """The results of the tasks in their order, several at work at a time.

        A task holds one of the store's slots from before its data is read until its result is consumed. Who has
        begun nothing waits for a slot; who has, consumes first: so no transfer waits for one that waits for it.
        """
        pending: deque[Future[Any]] = deque()
        n_held = 0
        with ThreadPoolExecutor(N_PARTS) as pool:
            try:
                exhausted = False
                while not exhausted or pending:
                    if not exhausted and self._slots.acquire(blocking=not pending):
                        n_held += 1
                        task = next(tasks, None)
                        if task is None:
                            exhausted = True
                            self._slots.release()
                            n_held -= 1
                        else:
                            pending.append(pool.submit(task))
                        continue
                    if pending:
                        yield pending.popleft().result()
                        self._slots.release()
                        n_held -= 1
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
                for _ in range(n_held):
                    self._slots.release()


def _hashed(file: BinaryIO, part_bytes: int, state: Any) -> Iterator[bytes]:
    while data := file.read(part_bytes):
        state.update(data)
        yield data


def _total(reply: dict[str, Any], n_read: int) -> int:
    """The object's size, from "bytes 0-99/1234"; a server without ranges has sent all of it."""
    total = str(reply.get("ContentRange", "")).rpartition("/")[2]
    return int(total) if total.isdigit() else n_read


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when all is written."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".radit-", suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.chmod(temporary, 0o644)  # noqa: PTH101 - as any file that a user makes
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


@contextmanager
def _progress(verb: str, key: str, n_bytes: int) -> Iterator[Callable[[int], None]]:
    if n_bytes < SHOWN_BYTES:
        yield lambda n_more: None
        return
    with observe.progress(f"{verb} {key.rpartition('/')[2]}", total=n_bytes // MEGABYTE, unit="MB") as bar:
        n_done = 0

        def advance(n_more: int) -> None:
            nonlocal n_done
            n_done += n_more
            bar.advance(n_done // MEGABYTE - bar.done)

        yield advance
