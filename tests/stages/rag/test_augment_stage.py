import json

import pytest
from facts import PARAGRAPHS, make_config, question, write_questions

from radit_job import observe
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
    assert (counters["n_examples"], counters["n_questions"], counters["n_without_gold"]) == (3, 3, 0)
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


def test_ensemble_trains_on_the_same_examples_as_separate(folders, tmp_path, chunks, embeddings):
    _, _, separate = run(folders, tmp_path, chunks, embeddings, [question(3)], context="separate")
    _, _, ensemble = run(folders, tmp_path, chunks, embeddings, [question(3)], context="ensemble")
    assert separate == ensemble


def added(folders, tmp_path, chunks, embeddings, rows, context="joined", k=3, **examples):
    out, scratch = folders
    config = AugmentSlice.of(
        make_config(retrieval={"k": k, "context": context}, finetune_lm={"examples": examples}, seed=7)
    )
    train = write_questions(tmp_path / "train", rows)
    counters = augment.run(
        config, train_questions=train, chunks=chunks, embeddings=embeddings, out=out, scratch=scratch
    )
    folder = out / "examples"
    figures = json.loads((folder / "augment.json").read_text())
    return counters, folder, list(read_rows(folder / "examples.jsonl", Example)), figures


def test_a_share_of_the_questions_trains_without_its_gold_chunk(folders, tmp_path, chunks, embeddings):
    rows = [question(number) for number in range(10)]
    found, _, plain, _ = added(folders, tmp_path, chunks, embeddings, rows)
    assert found["n_without_gold"] == 0
    counters, folder, examples, figures = added(folders, tmp_path, chunks, embeddings, rows, without_gold_share=0.4)
    assert counters["n_without_gold"] == figures["n_gold_left_out"] == 4 and figures["n_gold_missed"] == 0
    assert figures["without_gold_share"] == 0.4 and figures["gold_positions"] == {"1": 6}
    llama_index = json.loads((folder / "llamaindex.json").read_text())["examples"]
    for row, before, exported in zip(examples, plain, llama_index, strict=True):
        assert len(row.chunk_ids) == 3 and list(row.scores) == sorted(row.scores, reverse=True)
        assert exported["reference_contexts"] == [PARAGRAPHS[int(name[-5:])][0] for name in row.chunk_ids]
        assert all(text in row.messages[1].content for text in exported["reference_contexts"])
        if row.gold_in_context:
            assert row == before
        else:  # the next two move up, with their own similarities
            assert row.chunk_ids[:2] == before.chunk_ids[1:] and row.scores[:2] == before.scores[1:]
    assert [row.gold_in_context for row in examples].count(False) == 4


def test_the_gold_chunk_among_near_misses_has_its_own_similarity(folders, tmp_path, chunks, embeddings):
    # The gold chunk of this question is one that retrieval ranks low.
    rows = [question(2, chunk_ids=(), document=None), question(4, chunk_ids=("facts.txt#00006",))]
    _, _, (_, whole), _ = added(folders, tmp_path, chunks, embeddings, rows, k=10)
    scores = dict(zip(whole.chunk_ids, whole.scores, strict=True))
    assert whole.chunk_ids.index("facts.txt#00006") > 2
    _, _, (other, row), figures = added(folders, tmp_path, chunks, embeddings, rows, distractors=2)
    assert set(row.chunk_ids) == {"facts.txt#00006", *whole.chunk_ids[:2]} and row.gold_in_context
    assert row.scores == tuple(scores[name] for name in row.chunk_ids)
    assert len(other.chunk_ids) == 3 and other.gold_in_context is None
    assert figures["n_with_distractors"] == 1 and figures["gold_in_context_share"]["3"] == 0.0
    counters, _, examples, _ = added(folders, tmp_path, chunks, embeddings, rows, "separate", distractors=2)
    assert counters["n_examples"] == 6 and [row.gold_in_context for row in examples[3:]].count(True) == 1


def test_chunks_that_run_out_are_told(folders, tmp_path, chunks, embeddings):
    messages = []
    observe.send_events_to(lambda event: messages.append(event.get("message", "")))
    rows = [question(0), question(1)]
    _, _, examples, _ = added(folders, tmp_path, chunks, embeddings, rows, k=10, without_gold_share=0.5)
    observe.send_events_to(lambda event: None)
    assert sorted(len(row.chunk_ids) for row in examples) == [9, 10]
    assert any("1 of 2 training questions got fewer than they should" in message for message in messages)
