"""ingest with several processes that read PDF files: the same bytes, and no process is left."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import closing

import pymupdf
import pytest

from radit_job import observe
from radit_job.config.slices import IngestSlice
from radit_job.errors import InputError, Terminated
from radit_job.rag import documents, parallel_reading
from radit_job.stages import ingest

TEXT = "The pump of hall {} is inspected every ninety days by two engineers of the plant. "
SERVE, READ = parallel_reading._serve, documents.read_documents


def write_pdf(path, n_pages):
    with pymupdf.open() as document:
        for number in range(n_pages):
            page = document.new_page()
            for line in range(12):
                page.insert_text((72, 150 + 14 * line), TEXT.format(f"{path.stem}-{number}-{line}"), fontsize=9)
        document.save(path)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The longest PDF comes first, so that the others are read before it."""
    corpus = tmp_path_factory.mktemp("corpus")
    folder = corpus / "documents"
    folder.mkdir()
    for name, n_pages in (("a", 30), ("b", 3), ("d", 2), ("f", 4), ("g", 1), ("h", 2), ("i", 1)):
        write_pdf(folder / f"{name}.PDF", n_pages)
    (folder / "c.txt").write_text(TEXT.format("C") * 30)
    (folder / "c.jsonl").write_text('{"id": 1, "text": "One pump."}\n{"id": 1, "text": "Another pump."}\n')
    (folder / "e.pdf").write_bytes(b"%PDF-1.7\nnothing")
    (folder / "f2.pdf").write_bytes(b"")
    return corpus


@pytest.fixture
def two_processes(monkeypatch):
    monkeypatch.setattr(parallel_reading, "n_cores", lambda: 2)
    monkeypatch.setattr(parallel_reading, "MIN_BYTES", 1)


def run(corpus, out):
    out.mkdir()
    chunking = {"size_tokens": 48, "overlap_tokens": 8}
    config = IngestSlice(unreadable="skip", chunking=chunking, embedder={"name": "all-minilm-l6-v2"})
    return ingest.run(config, corpus=corpus, out=out, scratch=out)


def written(out):
    return [(out / "chunks" / name).read_bytes() for name in ("chunks.jsonl", "documents.jsonl")]


def said(events):
    """Warnings and the last count; how often a bar moves depends on the clock."""
    warnings = [{**event, "time_s": 0} for event in events if event["event"] == "log"]
    return warnings, {**events[-1], "time_s": 0}


def names_of(corpus):
    folder = corpus / "documents"
    return [(path, path.relative_to(folder).as_posix()) for path in documents.list_files(folder)[0]]


def process_ids(monkeypatch):
    """Of the processes that are started from now on."""
    ids = []

    class Noted(parallel_reading._Reader):
        def __init__(self, context):
            super().__init__(context)
            ids.append(self._process.pid)

    monkeypatch.setattr(parallel_reading, "_Reader", Noted)
    return ids


def is_alive(process_id):
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


def read_and_warn(path, name):
    observe.warn(f"about {name}")
    return READ(path, name)


def serve_with_warnings(pipe):
    """In the process: it has something to say about each file."""
    parallel_reading.read_documents = read_and_warn
    SERVE(pipe)


def test_several_processes_write_the_same_bytes_and_say_the_same(corpus, tmp_path, two_processes, events, monkeypatch):
    ids = process_ids(monkeypatch)
    read_here = []
    monkeypatch.setattr(parallel_reading, "_serve", serve_with_warnings)
    monkeypatch.setattr(
        parallel_reading, "read_documents", lambda path, name: read_here.append(name) or read_and_warn(path, name)
    )
    totals = run(corpus, tmp_path / "parallel")
    assert len(ids) == 2
    assert read_here == ["c.jsonl", "c.txt"]
    parallel_events, events[:] = list(events), []
    monkeypatch.setattr(parallel_reading, "n_cores", lambda: 1)
    assert run(corpus, tmp_path / "alone") == totals
    assert len(ids) == 2
    assert written(tmp_path / "parallel") == written(tmp_path / "alone")
    assert said(parallel_events) == said(events)
    names = [event["message"].split(":")[0].split()[-1] for event in events if event["event"] == "log"]
    assert names == [name for _, name in names_of(corpus)] + ["e.pdf", "f2.pdf"]


def test_a_pdf_whose_name_is_taken_is_renamed_in_its_chunks_too(corpus, tmp_path, two_processes, monkeypatch):
    monkeypatch.setattr(ingest._Writer, "__init__", writer_that_knows("d.PDF"))
    run(corpus, tmp_path / "out")
    chunks, rows = (text.decode() for text in written(tmp_path / "out"))
    assert '"d.PDF~2#00000"' in chunks
    assert '"d.PDF~2"' in rows
    assert '"d.PDF#' not in chunks


def writer_that_knows(name, start=ingest._Writer.__init__):
    def start_with_name(self, chunker):
        start(self, chunker)
        self._names.add(name)

    return start_with_name


def serve_and_die(pipe):
    """In the process: b.PDF ends it as a crash of MuPDF does."""

    def read(path, name):
        return os.kill(os.getpid(), signal.SIGSEGV) if name == "b.PDF" else READ(path, name)

    parallel_reading.read_documents = read
    SERVE(pipe)


def serve_half_a_reply(pipe):
    """In the process: killed while it sends, when the parent has begun to read."""
    pipe.recv()
    os.write(pipe.fileno(), (200_000).to_bytes(4, "big") + b"x" * 1000)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("serve", "ending", "first"), [(serve_and_die, "SIGSEGV", "b.PDF"), (serve_half_a_reply, "SIGKILL", "a.PDF")]
)
def test_a_process_that_dies_is_an_error_with_its_file(
    corpus, tmp_path, two_processes, monkeypatch, serve, ending, first
):
    ids = process_ids(monkeypatch)
    monkeypatch.setattr(parallel_reading, "_serve", serve)
    with pytest.raises(InputError, match=ending) as caught:
        run(corpus, tmp_path / "out")
    assert caught.value.where == first
    assert caught.value.todo
    assert len(ids) == 2
    assert not any(map(is_alive, ids))


def serve_errors(pipe):
    def read(path, name):
        raise RuntimeError("in the process")

    parallel_reading.read_documents = read
    SERVE(pipe)


def test_an_error_that_nobody_foresaw_comes_as_it_does_without_processes(corpus, two_processes, monkeypatch):
    monkeypatch.setattr(parallel_reading, "_serve", serve_errors)
    with closing(parallel_reading.read_files(names_of(corpus))) as found:
        assert [item.name for item in next(found)] == ["a.PDF"]


def test_no_process_is_left_when_the_stage_is_told_to_stop(corpus, two_processes, monkeypatch):
    ids = process_ids(monkeypatch)
    with pytest.raises(Terminated), closing(parallel_reading.read_files(names_of(corpus))) as found:
        next(found)
        assert all(map(is_alive, ids))
        raise Terminated("terminated")
    assert len(ids) == 2
    assert not any(map(is_alive, ids))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pdf-reader")]


PARENT = """
import os, sys
from pathlib import Path
from radit_job.rag import parallel_reading as reading
if __name__ == "__main__":
    reading.n_cores, reading.MIN_BYTES = lambda: 2, 1
    ids, started = [], reading._Reader.__init__
    def note(self, context):
        started(self, context)
        ids.append(self._process.pid)
    reading._Reader.__init__ = note
    next(reading.read_files([(path, path.name) for path in sorted(Path(sys.argv[1]).glob("*.PDF"))]))
    print(*ids, flush=True)
    os._exit(1)
"""


def test_no_process_outlives_a_parent_that_dies_at_once(corpus, tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    # The processes hold the pipe, too: it ends with the last of them.
    done = subprocess.run([sys.executable, script, corpus / "documents"], stdout=subprocess.PIPE, timeout=60, text=True)
    assert len(done.stdout.split()) == 2
    assert done.returncode == 1


def test_only_a_few_files_are_in_flight(corpus, two_processes, monkeypatch):
    asked = []
    read = parallel_reading._Reader.read
    monkeypatch.setattr(parallel_reading._Reader, "read", lambda self, file: asked.append(file[1]) or read(self, file))
    files = [(path, f"{name}-{number}") for number in range(4) for path, name in names_of(corpus) if name != "a.PDF"]
    n_pdfs = 0
    with closing(parallel_reading.read_files(files)) as found:
        for _, (path, _) in zip(found, files, strict=True):
            n_pdfs += path.suffix.lower() == ".pdf"
            assert len(asked) <= n_pdfs + 2 * parallel_reading.FILES_PER_PROCESS
    assert len(asked) == n_pdfs == 32


@pytest.mark.parametrize(("min_bytes", "n_cores", "expected"), [(1, 1, 1), (10**9, 2, 1), (1, 2, 2), (1, 64, 8)])
def test_processes_start_where_they_pay(corpus, monkeypatch, min_bytes, n_cores, expected):
    monkeypatch.setattr(parallel_reading, "MIN_BYTES", min_bytes)
    monkeypatch.setattr(parallel_reading, "n_cores", lambda: n_cores)
    pdfs = [file for file in names_of(corpus) if file[1].lower().endswith(".pdf")]
    assert parallel_reading._n_processes(pdfs) == expected
    assert parallel_reading._n_processes(pdfs[:1]) == 1


@pytest.mark.parametrize(
    ("threads", "cpu_max", "expected"),
    [("", "max 100000", 6), ("", "150000 100000", 2), ("3", "max 100000", 3), ("3", "100000 100000", 1), ("0", "", 1)],
)
def test_cores_are_those_of_the_process(tmp_path, monkeypatch, threads, cpu_max, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    (tmp_path / "cpu.max").write_text(cpu_max + "\n")
    assert parallel_reading.n_cores(tmp_path / "cpu.max") == expected


def test_pymupdf_comes_alone():
    code = (
        "import radit_job.rag.pymupdf_alone, radit_job.rag.pdf, sys\n"
        "assert 'pymupdf' in sys.modules\n"
        "assert not {'pymupdf.layout', 'pymupdf4llm', 'torch', 'llama_index'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
