import json

import pytest
from facts import PARAGRAPHS, make_config, question, write_questions

from radit_job.config.slices import AugmentSlice
from radit_job.errors import ConfigError
from radit_job.records import Example, read_rows
from radit_job.stages import augment


def run(folders, tmp_path, chunks, embeddings, rows, **retrieval):
    out, scratch = folders
    config = AugmentSlice.of(make_config(retrieval={"k": 3} | retrieval))
    train = write_questions(tmp_path / "train", rows)
    counters = augment.run(
        config, train_questions=train, chunks=chunks, embeddings=embeddings, out=out, scratch=scratch
    )
    return counters, out / "examples", list(read_rows(out / "examples" / "examples.jsonl", Example))


def test_joined_has_all_chunks_in_one_example(folders, tmp_path, chunks, embeddings):
    rows = [question(4), question(7), question(2, chunk_ids=(), document=None)]
    counters, folder, examples = run(folders, tmp_path, chunks, embeddings, rows)
    assert counters == {"n_examples": 3, "n_questions": 3}
    first = examples[0]
    assert first.chunk_ids[0] == "facts.txt#00004" and len(first.chunk_ids) == 3
    assert list(first.scores) == sorted(first.scores, reverse=True) and 0.3 < first.scores[0] < 1
    system, user, assistant = first.messages
    assert (system.role, user.role, assistant.role) == ("system", "user", "assistant")
    texts = [PARAGRAPHS[int(chunk_id[-5:])][0] for chunk_id in first.chunk_ids]
    assert "---\n" + "\n\n".join(texts) + "\n---" in user.content  # {bacteria} is text, not a field
    assert f"Query: {rows[0].question}\nAnswer: " in user.content
    assert assistant.content == "wild yeast"
    assert [row.group for row in examples] == ["facts.txt#00004", "facts.txt#00007", "q2"]
    assert [row.gold_in_context for row in examples] == [True, True, None]
    figures = json.loads((folder / "augment.json").read_text())
    assert figures["n_gold_known"] == 2 and figures["gold_in_context_share"] == {"1": 1.0, "2": 1.0, "3": 1.0}
    assert figures["mrr"] == 1.0


def test_separate_has_one_example_per_chunk(folders, tmp_path, chunks, embeddings):
    counters, _, examples = run(folders, tmp_path, chunks, embeddings, [question(3)], context="separate")
    assert counters["n_examples"] == 3
    assert [row.gold_in_context for row in examples] == [True, False, False]
    assert {row.group for row in examples} == {"facts.txt#00003"}
    for row in examples:
        (chunk_id,) = row.chunk_ids
        assert PARAGRAPHS[int(chunk_id[-5:])][0] in row.messages[1].content
        assert sum(text in row.messages[1].content for text, _, _ in PARAGRAPHS) == 1


def test_questions_that_share_a_gold_chunk_are_one_group(folders, tmp_path, chunks, embeddings):
    gold = [(4, 5), (5,), (6, 7), (5, 6), (8,)]
    rows = [question(n, chunk_ids=tuple(f"facts.txt#{chunk:05d}" for chunk in ids)) for n, ids in enumerate(gold)]
    _, _, examples = run(folders, tmp_path, chunks, embeddings, rows)
    assert [row.group for row in examples] == ["facts.txt#00004"] * 4 + ["facts.txt#00008"]


def test_the_other_formats_hold_the_same(folders, tmp_path, chunks, embeddings):
    _, folder, examples = run(folders, tmp_path, chunks, embeddings, [question(0), question(1, source="generated")])
    lines = [json.loads(line) for line in (folder / "openai.jsonl").read_text().splitlines()]
    assert [line["messages"] for line in lines] == [
        [{"role": message.role, "content": message.content} for message in row.messages] for row in examples
    ]
    rows = json.loads((folder / "llamaindex.json").read_text())["examples"]
    assert [row["query"] for row in rows] == [PARAGRAPHS[0][1], PARAGRAPHS[1][1]]
    assert rows[1]["reference_answer"] == "basalt" and rows[1]["query_by"]["type"] == "ai"
    assert rows[0]["query_by"]["type"] == "human"
    assert rows[0]["reference_contexts"][0] == PARAGRAPHS[0][0] and len(rows[0]["reference_contexts"]) == 3


def test_k_larger_than_the_corpus(folders, tmp_path, chunks, embeddings):
    with pytest.raises(ConfigError, match=r"retrieval.k is 50, but the corpus has 10 chunks"):
        run(folders, tmp_path, chunks, embeddings, [question(0)], k=50)
