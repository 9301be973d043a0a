import json
import shutil

import numpy as np
import pytest
from facts import PARAGRAPHS, make_config

from radit_job.config.slices import IndexSlice
from radit_job.errors import InputError
from radit_job.jobs import Shard
from radit_job.model_ref import ModelRef
from radit_job.models.loading import open_embedder
from radit_job.rag.vector_index import VectorIndex
from radit_job.records import Chunk, write_rows
from radit_job.stages import index


def test_rows_are_the_chunks_vectors_in_their_order(embeddings):
    opened = VectorIndex.open(embeddings)
    assert (len(opened.vectors), opened.vectors.dimension) == (10, 384)
    vectors = opened.vectors.open(0)
    assert isinstance(vectors, np.memmap)
    assert opened.chunk_ids == [f"facts.txt#{number:05d}" for number in range(10)]
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    alone = open_embedder(ModelRef("packaged", "all-minilm-l6-v2")).embed_documents([PARAGRAPHS[7][0]])
    assert vectors[7] == pytest.approx(alone[0], abs=1e-4)
    facts = json.loads((embeddings / "index.json").read_text())
    assert facts["dimension"] == 384 and facts["n_chunks"] == 10
    assert facts["embedder"]["name"] == "all-minilm-l6-v2" and facts["corpus_digest"].startswith("sha256:")


def rows_of(folder):
    return np.concatenate([rows for _, rows in VectorIndex.open(folder).vectors.parts(1000)])


def test_a_killed_run_goes_on_behind_its_last_part(chunks, embeddings, folders, monkeypatch):
    out, scratch = folders
    monkeypatch.setattr(index, "PART_ROWS", 4)
    finished = index._check_finite
    seen = []

    def die_in_the_third_part(part):
        seen.append(len(part))
        if len(seen) == 3:
            raise KeyboardInterrupt
        finished(part)

    monkeypatch.setattr(index, "_check_finite", die_in_the_third_part)
    with pytest.raises(KeyboardInterrupt):
        index.run(IndexSlice.of(make_config()), chunks=chunks, out=out, scratch=scratch)
    counters = index.run(IndexSlice.of(make_config()), chunks=chunks, out=out, scratch=scratch)
    assert seen == [4, 4, 2, 2]
    assert counters == {"n_chunks": 10, "n_resumed": 8}
    assert rows_of(out / "embeddings") == pytest.approx(rows_of(embeddings), abs=1e-4)


@pytest.mark.parametrize("n_shards", [2, 3, 5])
def test_shards_write_together_what_one_process_writes(chunks, folders, monkeypatch, n_shards):
    out, scratch = folders
    monkeypatch.setattr(index, "BLOCK_ROWS", 4)  # ten chunks: three blocks
    monkeypatch.setattr(index, "PART_ROWS", 2)
    whole = {}
    for name, shards in (("alone", [Shard()]), ("shared", [Shard(number, n_shards) for number in range(n_shards)])):
        for shard in shards:
            own = scratch / f"{name}-{shard.index}"
            own.mkdir()
            (out / name).mkdir(exist_ok=True)
            index.run(IndexSlice.of(make_config()), chunks=chunks, out=out / name, scratch=own, shard=shard)
        files = sorted(path for path in (out / name).rglob("*") if path.is_file())
        whole[name] = {path.relative_to(out / name).as_posix(): path.read_bytes() for path in files}
    assert whole["alone"] == whole["shared"]
    assert [name for name in whole["alone"] if name.endswith(".npy")] == [
        f"embeddings/vectors/{number:06d}.npy" for number in range(3)
    ]
    assert VectorIndex.open(out / "shared" / "embeddings").vectors.sizes == (4, 4, 2)


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
    shutil.copytree(embeddings, tmp_path / "one")
    with (tmp_path / "one" / "chunk_ids" / "000000.jsonl").open("a") as lines:
        lines.write('"one more"\n')
    with pytest.raises(InputError, match="11 chunk ids"):
        VectorIndex.open(tmp_path / "one")
    shutil.copytree(embeddings, tmp_path / "two")
    np.save(tmp_path / "two" / "vectors" / "000001.npy", np.zeros((2, 7), dtype=np.float32))
    with pytest.raises(InputError, match=r"000001\.npy is float32 \(2, 7\)"):
        VectorIndex.open(tmp_path / "two")


def test_no_chunks(folders, tmp_path):
    out, scratch = folders
    write_rows(tmp_path / "c" / "chunks.jsonl", [])
    with pytest.raises(InputError, match="no chunks"):
        index.run(IndexSlice.of(make_config()), chunks=tmp_path / "c", out=out, scratch=scratch)
