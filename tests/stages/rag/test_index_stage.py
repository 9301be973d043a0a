import json
import shutil

import numpy as np
import pytest
from facts import PARAGRAPHS, make_config

from radit_job.config.slices import IndexSlice
from radit_job.errors import InputError
from radit_job.models.loading import open_embedder
from radit_job.rag.vector_index import VectorIndex
from radit_job.records import Chunk, write_rows
from radit_job.stages import index


def test_rows_are_the_chunks_vectors_in_their_order(embeddings):
    opened = VectorIndex.open(embeddings)
    assert opened.vectors.shape == (10, 384) and isinstance(opened.vectors, np.memmap)
    assert opened.chunk_ids == [f"facts.txt#{number:05d}" for number in range(10)]
    assert np.linalg.norm(opened.vectors, axis=1) == pytest.approx(1, abs=1e-5)
    alone = open_embedder("packaged", "all-minilm-l6-v2").embed_documents([PARAGRAPHS[7][0]])
    assert opened.vectors[7] == pytest.approx(alone[0], abs=1e-4)
    facts = json.loads((embeddings / "index.json").read_text())
    assert facts["dimension"] == 384 and facts["n_chunks"] == 10
    assert facts["embedder"]["name"] == "all-minilm-l6-v2" and facts["corpus_digest"].startswith("sha256:")


def test_a_killed_run_goes_on_behind_its_last_block(chunks, embeddings, folders, monkeypatch):
    out, scratch = folders
    monkeypatch.setattr(index, "BLOCK_CHUNKS", 4)
    finished = index._check_finite
    seen = []

    def die_in_the_third_block(block):
        seen.append(len(block))
        if len(seen) == 3:
            raise KeyboardInterrupt
        finished(block)

    monkeypatch.setattr(index, "_check_finite", die_in_the_third_block)
    with pytest.raises(KeyboardInterrupt):
        index.run(IndexSlice.of(make_config()), chunks=chunks, out=out, scratch=scratch)
    (out / "embeddings" / "chunk_ids.jsonl").unlink()
    (out / "embeddings").rmdir()
    counters = index.run(IndexSlice.of(make_config()), chunks=chunks, out=out, scratch=scratch)
    assert seen == [4, 4, 2, 2]
    assert counters == {"n_chunks": 10, "dimension": 384, "n_resumed": 8}
    whole = np.load(embeddings / "vectors.npy")
    assert np.load(out / "embeddings" / "vectors.npy") == pytest.approx(whole, abs=1e-4)


def test_two_kills_never_leave_vectors_of_zeros(chunks, embeddings, folders, monkeypatch):
    out, scratch = folders
    config = IndexSlice.of(make_config())

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as first, pytest.raises(KeyboardInterrupt):
        first.setattr(index, "write_facts", killed)  # the vectors are done and moved to out, which a kill throws away
        index.run(config, chunks=chunks, out=out, scratch=scratch)
    shutil.rmtree(out / "embeddings")
    with monkeypatch.context() as second, pytest.raises(KeyboardInterrupt):
        second.setattr(index, "_check_finite", killed)  # a new file lies there, with nothing in it yet
        index.run(config, chunks=chunks, out=out, scratch=scratch)
    shutil.rmtree(out / "embeddings")
    counters = index.run(config, chunks=chunks, out=out, scratch=scratch)
    assert counters["n_resumed"] == 0
    whole = np.load(embeddings / "vectors.npy")
    assert np.load(out / "embeddings" / "vectors.npy") == pytest.approx(whole, abs=1e-4)


def test_names_with_odd_characters_keep_their_rows(folders, tmp_path):
    out, scratch = folders
    names = ["a\nb.txt#00000", 'ü"\u2028.txt#00000']
    write_rows(tmp_path / "c" / "chunks.jsonl", [Chunk(name, name, None, 0, 1, 1, "text") for name in names])
    index.run(IndexSlice.of(make_config()), chunks=tmp_path / "c", out=out, scratch=scratch)
    opened = VectorIndex.open(out / "embeddings")
    assert opened.chunk_ids == names
    assert opened.gold_rows([[names[1]], []]) == [[1], []]
    with pytest.raises(InputError, match=r"other\.txt#00000"):
        opened.gold_rows([["other.txt#00000"]])


def test_an_index_whose_files_differ_is_refused(embeddings, tmp_path):
    for file in embeddings.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with (tmp_path / "chunk_ids.jsonl").open("a") as lines:
        lines.write('"one more"\n')
    with pytest.raises(InputError, match="11 chunks"):
        VectorIndex.open(tmp_path)


def test_no_chunks(folders, tmp_path):
    out, scratch = folders
    write_rows(tmp_path / "c" / "chunks.jsonl", [])
    with pytest.raises(InputError, match="no chunks"):
        index.run(IndexSlice.of(make_config()), chunks=tmp_path / "c", out=out, scratch=scratch)
