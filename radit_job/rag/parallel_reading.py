"""PDF files read by several processes, so that all cores work; their documents come in the files' order.

Cutting stays in the parent, and goes on while the processes read. It is a quarter of the work (a third to a half with
byte-pair tokenizers), and a process that cut would have to load LlamaIndex, nltk and the tokenizer first: about 4 s.
Reading needs PyMuPDF only, imported once, by the fork server: that takes 0.2 s. Each process is then forked from it in
some milliseconds, and has about 15 MB of its own, its documents aside.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue

from radit_job import observe
from radit_job.errors import InputError
from radit_job.observe.events import emit
from radit_job.rag.documents import PDF, Document, Unreadable, read_documents

Item = Document | Unreadable
File = tuple[Path, str]  # where it is, and its name as documents carry it
Reply = tuple[list[Item], list[observe.Event]]  # what a file gave, and what was said about it

MAX_PROCESSES = 8  # beyond them the parent, which cuts, is the slowest
FILES_PER_PROCESS = 2  # in flight: one is read, one waits to be read or to be cut
MIN_BYTES = 2_000_000  # of all PDFs: some 180 pages of text, read in 0.7 s; the start costs 0.2 s
LONGEST_FOLDER = (
    70  # characters of the temporary one; a socket's path has 108 at most, multiprocessing's part 32 and more
)
CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")  # cgroup v2: microseconds of all cores, per so many of the clock


def read_files(files: Sequence[File]) -> Generator[Iterable[Item], None, None]:
    """The documents of each file, in order, as `read_documents` gives them; close it to end the processes early.

    Raises InputError, with the file's name, where a process dies over it.
    """
    pdfs = [file for file in files if _is_pdf(file)]
    n_processes = _n_processes(pdfs)
    if n_processes < 2:
        for path, name in files:
            yield read_documents(path, name)
        return
    with _readers(n_processes) as submit:
        ahead = iter(pdfs)
        in_flight: deque[Future[Reply | None]] = deque()
        for file in files:
            in_flight += map(submit, islice(ahead, FILES_PER_PROCESS * n_processes - len(in_flight)))
            yield _told(file, in_flight.popleft().result()) if _is_pdf(file) else read_documents(*file)


def n_cores(cpu_limit: Path = CPU_LIMIT) -> int:
    """How many cores this process may use: of the machine, by its CPU limit, and by OMP_NUM_THREADS, as pods set it."""
    cores = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    with suppress(OSError, ValueError):  # no such file, or "max" in it
        quota, period = map(int, cpu_limit.read_text(encoding="ascii").split())
        cores.append(-(-quota // period))
    with suppress(ValueError):
        cores.append(int(os.environ.get("OMP_NUM_THREADS", "")))
    return max(1, min(cores))


def _is_pdf(file: File) -> bool:
    return file[0].suffix.lower() in PDF


def _n_processes(pdfs: Sequence[File]) -> int:
    try:
        pays = sum(path.stat().st_size for path, _ in pdfs) >= MIN_BYTES
        has_place = len(tempfile.gettempdir()) <= LONGEST_FOLDER
    except OSError:  # no such file, as its reader will say, or no temporary folder
        return 1
    return min(n_cores(), len(pdfs), MAX_PROCESSES) if pays and has_place else 1


def _told(file: File, reply: Reply | None) -> Iterable[Item]:
    """The documents of a reply; what its process had to say is said here."""
    if reply is None:
        return read_documents(*file)  # an error that nobody foresaw: it comes again, and stays as it is
    items, events = reply
    for event in events:
        emit(**event)
    return items


@contextmanager
def _readers(n_processes: int) -> Iterator[Callable[[File], Future[Reply | None]]]:
    """Processes that read what is submitted; none is left when the block ends, in whatever way.

    A thread per process waits for it, so that no process waits with its reply until the parent has cut another's.
    """
    context = multiprocessing.get_context("forkserver")  # a plain fork would copy locks that other threads hold
    context.set_forkserver_preload(["radit_job.rag.pymupdf_alone", "radit_job.rag.pdf"])
    idle: SimpleQueue[_Reader] = SimpleQueue()
    readers: list[_Reader] = []

    def read(file: File) -> Reply | None:
        reader = idle.get()  # there is one: as many threads as processes
        try:
            return reader.read(file)
        finally:
            idle.put(reader)

    threads = ThreadPoolExecutor(n_processes, thread_name_prefix="pdf-reader")
    try:
        for _ in range(n_processes):
            readers.append(_Reader(context))
            idle.put(readers[-1])
        yield lambda file: threads.submit(read, file)
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for reader in readers:
            reader.end()  # its thread, if it waits for it, ends with it
        threads.shutdown()


class _Reader:
    """A process, and a pipe to it that nobody else holds: when one of the two dies, the other one reads the pipe's end.

    A ProcessPoolExecutor's processes share a pipe, so it waits for ever for one that is killed within its reply.
    """

    def __init__(self, context: multiprocessing.context.ForkServerContext) -> None:
        self._pipe, its_pipe = context.Pipe()
        self._process = context.Process(target=_serve, args=(its_pipe,), daemon=True)
        self._process.start()
        its_pipe.close()

    def read(self, file: File) -> Reply | None:
        try:
            self._pipe.send(file)
            reply: Reply | None = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join()
            raise InputError(
                f"reading it ended the process ({_ending(self._process.exitcode)})",
                where=file[1],
                todo="print it to a new PDF, or remove it; after SIGKILL the memory was too small, too: "
                "give more, or fewer cores",
            ) from error
        return reply

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _serve(pipe: Connection) -> None:
    """What a process does: reads one file after the other, until the parent kills it or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent ends this one
    events: list[observe.Event] = []
    observe.send_events_to(events.append)
    with suppress(EOFError, OSError):
        while True:
            path, name = pipe.recv()
            events.clear()
            try:
                reply: Reply | None = (list(read_documents(path, name)), events)
            except Exception:  # whatever it is, the parent meets it again and tells
                reply = None
            pipe.send(reply)


def _ending(code: int | None) -> str:
    return signal.Signals(-code).name if code and code < 0 else f"exit code {code}"
