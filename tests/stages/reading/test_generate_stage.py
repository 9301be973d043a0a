"""generate from a file, and by the packaged model on a few sentences; split behind it."""

import json
import shutil
from collections import Counter

import pytest

from radit_job import observe
from radit_job.config.models import Model
from radit_job.config.schema import Config
from radit_job.config.slices import GenerateSlice, SplitSlice
from radit_job.errors import InputError
from radit_job.jobs import Shard
from radit_job.models.huggingface import HuggingFaceLM
from radit_job.rag import question_blocks, question_writing
from radit_job.records import Chunk, Dropped, Question, read_blocks, read_rows, write_rows
from radit_job.stages import generate, split

N_DOCUMENTS = 6


def chunk(document, number, text):
    return Chunk(f"{document}#{number:05d}", document, None, 0, len(text), 9, text)


@pytest.fixture
def chunks(tmp_path):
    rows = [
        chunk(
            f"d{document}",
            number,
            f"Machine {document}{number} of the plant was built by workshop {number}{document} in the north.",
        )
        for document in range(N_DOCUMENTS)
        for number in range(3)
    ]
    write_rows(tmp_path / "chunks" / "chunks.jsonl", rows)
    return tmp_path / "chunks"


def pairs_of(chunks):
    """Two pairs for each chunk, with the chunk as their reference context."""
    return [
        {
            "question": f"Question {kind} about {row.chunk_id}?",
            "answer": f"Answer {kind} {row.chunk_id}",
            "context": row.text,
        }
        for row in read_rows(chunks / "chunks.jsonl", Chunk)
        for kind in ("one", "two")
    ]


def config(**questions):
    return GenerateSlice(
        seed=7,
        questions=questions,
        question_writer={"name": "smollm2-135m-instruct"},
        embedder={"name": "all-minilm-l6-v2"},
    )


def run_file(tmp_path, chunks, pairs, **questions):
    folder = tmp_path / "question_file"
    folder.mkdir()
    lines = [pair if isinstance(pair, str) else json.dumps(pair) for pair in pairs]
    (folder / "questions.jsonl").write_text("\n".join(lines))
    out = tmp_path / "out"
    out.mkdir()
    settings = config(source="file", path="questions.jsonl", **questions)
    counters = generate.run(settings, chunks=chunks, question_file=folder, out=out, scratch=out)
    summary = json.loads((out / "questions" / "000000" / "summary.json").read_text())
    return counters, list(read_blocks(out / "questions", "*/questions.jsonl", Question)), summary


def test_models_that_a_question_file_does_not_need_are_not_in_the_key():
    def slice_of(source, writer):
        whole = {"questions": source, "models": {"question_writer": {"name": writer}}}
        return GenerateSlice.of(Config(name="x", corpus={"paths": ["d"]}, **whole)).model_dump(mode="json")

    file, written = {"source": "file", "path": "q.jsonl"}, {"source": "generate"}
    assert slice_of(file, "one") == slice_of(file, "other")
    assert (slice_of(file, "one")["question_writer"], slice_of(file, "one")["embedder"]) == (None, None)
    assert slice_of(written, "one")["question_writer"]["name"] == "one"


def test_pairs_from_a_file_get_their_gold_chunks(tmp_path, chunks):
    pairs = pairs_of(chunks)
    counters, questions, summary = run_file(tmp_path, chunks, pairs)
    assert counters["n_questions"] == len(questions) == len(pairs)
    assert all(row.chunk_ids == (row.answer.split()[-1],) and row.source == "file" for row in questions)
    assert {row.document for row in questions} == {f"d{number}" for number in range(N_DOCUMENTS)}
    assert (summary["n_without_gold"], summary["dropped"], summary["leaked"]) == (0, {}, [])


def test_dropped_pairs_are_counted_and_named(tmp_path, chunks):
    pairs = pairs_of(chunks)
    counters, _, summary = run_file(
        tmp_path, chunks, [*pairs, pairs[0], {"question": "Long?", "answer": "word " * 30}], max_answer_words=20
    )
    assert summary["dropped"] == {"duplicate": 1, "long_answer": 1}
    dropped = list(read_rows(tmp_path / "out" / "questions" / "000000" / "dropped.jsonl", Dropped))
    assert [row.where for row in dropped] == [f"questions.jsonl:{len(pairs) + 1}", f"questions.jsonl:{len(pairs) + 2}"]
    assert counters["n_dropped"] == 2


def test_questions_without_an_answer_are_dropped_or_taught_as_such(tmp_path, chunks):
    pairs = pairs_of(chunks)
    text = next(read_rows(chunks / "chunks.jsonl", Chunk)).text
    without = [{"question": f"Who sold machine {n}?", "answerable": False, "context": text} for n in range(3)]
    counters, questions, summary = run_file(tmp_path, chunks, [*pairs, *without])
    assert len(questions) == len(pairs) and summary["dropped"] == {"unanswerable": 3}
    assert "n_unanswerable" not in counters
    shutil.rmtree(tmp_path / "question_file")
    shutil.rmtree(tmp_path / "out")
    messages = []
    observe.send_events_to(lambda event: messages.append(event.get("message", "")))
    counters, questions, summary = run_file(tmp_path, chunks, [*pairs, *without], unanswerable="It does not say.")
    observe.send_events_to(lambda event: None)
    assert (summary["dropped"], counters["n_unanswerable"], counters["n_without_gold"]) == ({}, 3, 3)
    taught = questions[len(pairs) :]
    assert {(row.answer, row.document, row.chunk_ids) for row in taught} == {("It does not say.", "d0", ())}
    asked_about = next(read_rows(chunks / "chunks.jsonl", Chunk)).chunk_id
    assert {row.passage_chunk_ids for row in taught} == {(asked_about,)}
    assert all(row.passage_chunk_ids == () for row in questions[: len(pairs)])
    assert not any("no chunk is known" in message for message in messages)  # none is missing


def test_a_limit_draws_evenly_from_the_documents(tmp_path, chunks):
    _, questions, _ = run_file(tmp_path, chunks, pairs_of(chunks), limit=12)
    documents = [row.document for row in questions]
    assert {documents.count(document) for document in documents} == {2}
    assert len(set(documents)) == N_DOCUMENTS


def test_a_broken_line_17_fails_with_its_place(tmp_path, chunks):
    pairs = pairs_of(chunks)
    pairs[16] = '{"question": "x", '
    with pytest.raises(InputError) as caught:
        run_file(tmp_path, chunks, pairs)
    assert caught.value.where == "questions.jsonl:17"


def test_an_empty_answer_fails_with_its_place(tmp_path, chunks):
    pairs = pairs_of(chunks)
    pairs[4]["answer"] = " "
    with pytest.raises(InputError) as caught:
        run_file(tmp_path, chunks, pairs)
    assert caught.value.where == "questions.jsonl:5"
    assert "answer is empty" in caught.value.what


def test_too_few_pairs_fail(tmp_path, chunks):
    with pytest.raises(InputError, match="only 9 usable pairs"):
        run_file(tmp_path, chunks, pairs_of(chunks)[:9])


def test_leaked_pairs_are_reported(tmp_path, chunks):
    pairs = pairs_of(chunks)
    rows = list(read_rows(chunks / "chunks.jsonl", Chunk))
    record = f"{pairs[3]['question']}\n{pairs[3]['answer']}"
    write_rows(chunks / "chunks.jsonl", [*rows, chunk("faq", 0, record)])
    messages = []
    observe.send_events_to(lambda event: messages.append(event.get("message", "")))
    _, _, summary = run_file(tmp_path, chunks, pairs)
    observe.send_events_to(lambda event: None)
    assert summary["leaked"] == ["q00003"]
    assert any("leakage: 1 of" in message for message in messages)


def run_split(tmp_path, questions, by="chunk", train_share=0.7):
    write_rows(tmp_path / "questions" / "000000" / "questions.jsonl", questions)
    out = tmp_path / f"split-{by}"
    out.mkdir()
    counters = split.run(
        SplitSlice(seed=7, split={"by": by, "train_share": train_share}),
        questions=tmp_path / "questions",
        out=out,
        scratch=out,
    )
    sides = [list(read_rows(out / side / "questions.jsonl", Question)) for side in ("train_questions", "val_questions")]
    return counters, *sides


def question(number, chunk_ids, document="d"):
    return Question(f"q{number}", f"Question {number}?", "A", document, chunk_ids, "file")


@pytest.mark.parametrize("by", ["chunk", "document"])
def test_nothing_stands_on_both_sides(tmp_path, by):
    questions = [
        question(number, (f"d{number % 7}#{number % 3}", f"d{number % 7}#{number % 3 + 1}"), f"d{number % 7}")
        for number in range(60)
    ]
    counters, train, val = run_split(tmp_path, questions, by)

    def places(rows):
        return {place for row in rows for place in (row.chunk_ids if by == "chunk" else [row.document])}

    assert not places(train) & places(val)
    assert len(train) + len(val) == 60
    assert abs(counters["n_train"] - 42) <= 9 / 2
    assert json.loads((tmp_path / f"split-{by}" / "train_questions" / "split.json").read_text())["n_val"] == len(val)


def test_one_document_cannot_be_split_by_document(tmp_path):
    with pytest.raises(InputError, match="one document"):
        run_split(tmp_path, [question(number, (f"d#{number}",)) for number in range(12)], by="document")


def test_questions_that_all_hang_together_cannot_be_split(tmp_path):
    with pytest.raises(InputError, match="hang together"):
        run_split(tmp_path, [question(number, (f"d#{number}", f"d#{number + 1}")) for number in range(12)])


def test_unknown_gold_is_counted(tmp_path):
    counters, train, val = run_split(tmp_path, [question(number, (), None) for number in range(10)])
    assert counters["n_unknown_gold"] == 10
    assert (len(train), len(val)) == (7, 3)


@pytest.mark.parametrize("by", ["chunk", "document"])
def test_questions_without_an_answer_stay_with_their_passage(tmp_path, by):
    def asked(number):
        """Of three questions on a passage one has an answer; the document is known from the passage alone."""
        passage = (f"d{number // 3}#0",)
        gold, rest = ((), passage) if number % 3 else (passage, ())
        return Question(f"q{number}", f"Question {number}?", "A", None, gold, "file", rest)

    counters, train, val = run_split(tmp_path, [asked(number) for number in range(60)], by)
    assert (counters["n_groups"], counters["largest_group"], counters["n_unknown_gold"]) == (20, 3, 0)
    passages = [{row.chunk_ids + row.passage_chunk_ids for row in side} for side in (train, val)]
    assert passages[0].isdisjoint(passages[1]) and [len(train), len(val)] == [42, 18]


def written(number, text):
    return Question(f"g0000-{number}", text, f"Answer {number}", "d", (f"d#{number}",), "generated")


def test_questions_that_a_model_wrote_twice_count_once(tmp_path):
    rows = [written(number, f"Question {number}?") for number in range(11)]
    counters, train, val = run_split(tmp_path, [*rows, written(11, "question 3?")])
    assert counters["n_repeated"] == 1
    assert sorted(row.question_id for row in [*train, *val]) == sorted(row.question_id for row in rows)


def test_what_blocks_wrote_beyond_the_limit_makes_good_what_others_lack(tmp_path):
    for block, (n_wanted, n_written) in enumerate([(6, 8), (6, 3), (6, 8)]):
        rows = [
            Question(f"g{block}-{n}", f"Question {n} of {block}?", "A", "d", (f"d#{block}{n}",), "generated")
            for n in range(n_written)
        ]
        write_rows(tmp_path / "questions" / f"{block:06d}" / "questions.jsonl", rows)
        (tmp_path / "questions" / f"{block:06d}" / "summary.json").write_text(json.dumps({"n_wanted": n_wanted}))
    out = tmp_path / "out"
    out.mkdir()
    settings = SplitSlice(seed=7, split={"by": "chunk", "train_share": 0.7})
    counters = split.run(settings, questions=tmp_path / "questions", out=out, scratch=out)
    kept = sorted(
        row.question_id
        for side in ("train_questions", "val_questions")
        for row in read_rows(out / side / "questions.jsonl", Question)
    )
    assert kept == [f"g0-{n}" for n in range(8)] + [f"g1-{n}" for n in range(3)] + [f"g2-{n}" for n in range(7)]
    assert (counters["n_train"] + counters["n_val"], counters["n_spare"]) == (18, 1)


def test_a_file_may_ask_the_same_with_another_answer(tmp_path):
    rows = [question(number, (f"d#{number}",)) for number in range(11)]
    again = Question("again", rows[3].question, "Another answer", "d", ("d#3",), "file")
    counters, train, val = run_split(tmp_path, [*rows, again])
    assert (counters["n_repeated"], len(train) + len(val)) == (0, 12)


@pytest.mark.parametrize("n_questions", [0, 9])
def test_too_few_questions_by_a_model_fail_where_all_are_known(tmp_path, n_questions):
    rows = [written(number, f"Question {number}?") for number in range(n_questions)]
    with pytest.raises(InputError, match=f"the model wrote only {n_questions} good pairs"):
        run_split(tmp_path, [*rows, *rows])


WRITTEN_FROM = (
    "The steam turbine of the power plant is inspected every ninety days by two engineers.",
    "The library in the old town lends four thousand books to its readers every month.",
    "Honey bees tell each other where flowers are by dancing inside the dark hive.",
    "The bridge over the river was built in three years by eight hundred workers.",
    "Volcanic ash makes the fields around the mountain fertile for many decades.",
    "The night train to the coast leaves the central station at eleven in the evening.",
    "Fresh bread loses most of its moisture within two days at room temperature.",
    "The lighthouse keeper cleaned the large glass lens with vinegar every single morning.",
)


def test_the_packaged_model_writes_questions_that_find_their_sentences(tmp_path, monkeypatch):
    monkeypatch.setattr(generate, "MIN_PAIRS", 2)  # eight sentences keep the test short
    rows = [chunk(f"d{number}", 0, text) for number, text in enumerate(WRITTEN_FROM)]
    write_rows(tmp_path / "chunks" / "chunks.jsonl", rows)
    out = tmp_path / "out"
    out.mkdir()
    counters = generate.run(config(source="generate", per_chunk=1), chunks=tmp_path / "chunks", out=out, scratch=out)
    questions = list(read_blocks(out / "questions", "*/questions.jsonl", Question))
    texts = {row.chunk_id: row.text for row in rows}
    assert 2 <= len(questions) == counters["n_questions"]
    assert len({row.question for row in questions}) == len(questions)
    for row in questions:
        assert row.question.endswith("?")
        assert [texts[chunk_id] for chunk_id in row.chunk_ids] == [row.answer]
    # Four samples of each sentence: each one was kept, or dropped for a reason that is counted.
    assert counters["n_llm_calls"] == 4 * len(WRITTEN_FROM) == counters["n_questions"] + counters["n_dropped"]


def test_a_killed_run_keeps_its_finished_rounds(tmp_path, tiny_lm_folder, monkeypatch):
    """The tiny model writes no question, but what it wrote is in dropped.jsonl, word for word."""
    monkeypatch.setattr(generate, "MIN_PAIRS", 0)
    monkeypatch.setattr(generate, "_refuse_nothing", lambda blocks: None)
    monkeypatch.setattr(question_writing, "SENTENCES_PER_ROUND", 3)
    monkeypatch.setattr(question_writing, "N_SAMPLES", 2)
    rows = [chunk(f"d{number}", 0, text) for number, text in enumerate(WRITTEN_FROM)]
    write_rows(tmp_path / "chunks" / "chunks.jsonl", rows)
    settings = config(source="generate", per_chunk=1).model_copy(
        update={"question_writer": Model(provider="huggingface", name=str(tiny_lm_folder))}
    )
    n_rounds, die_in_round = 0, 0
    real = HuggingFaceLM.complete

    def counted(lm, *conversations, **how):
        nonlocal n_rounds
        n_rounds += 1
        if n_rounds == die_in_round:
            raise KeyboardInterrupt
        return real(lm, *conversations, **how)

    monkeypatch.setattr(HuggingFaceLM, "complete", counted)

    def run_in(name):
        out, scratch = tmp_path / name, tmp_path / f"{name}-scratch"
        scratch.mkdir(exist_ok=True)
        out.mkdir(exist_ok=True)
        counters = generate.run(settings, chunks=tmp_path / "chunks", out=out, scratch=scratch)
        return counters, (out / "questions" / "000000" / "dropped.jsonl").read_text()

    undisturbed = run_in("undisturbed")
    assert undisturbed[0]["n_llm_calls"] == undisturbed[0]["n_dropped"] == 2 * len(WRITTEN_FROM)
    n_rounds, die_in_round = 0, 3
    with pytest.raises(KeyboardInterrupt):
        run_in("killed")
    with (tmp_path / "killed-scratch" / "written.jsonl").open("a") as file:
        file.write('{"asked": "sha256:')  # a kill in the middle of a line
    n_rounds, die_in_round = 0, 0
    assert run_in("killed") == undisturbed
    assert n_rounds == 1  # of three: two were kept


@pytest.mark.parametrize(("compared", "counts"), [(5, (1, 4)), (2048, (1, 2, 5))])
def test_shards_write_together_what_one_process_writes(tmp_path, tiny_lm_folder, monkeypatch, compared, counts):
    monkeypatch.setattr(generate, "MIN_PAIRS", 0)
    monkeypatch.setattr(question_blocks, "BLOCK_SENTENCES", 2)
    monkeypatch.setattr(question_blocks, "COMPARED_SENTENCES", compared)
    monkeypatch.setattr(question_writing, "N_SAMPLES", 2)
    # The tiny model writes no question; where every line counts as one, the filters behind it have work to do.
    monkeypatch.setattr(question_writing, "first_question", lambda written: written.strip()[:40] or None)
    monkeypatch.setattr(question_writing, "MIN_SHARED_SHARE", 0)
    monkeypatch.setattr(question_writing, "content_words", lambda text: {"word"})
    monkeypatch.setattr(question_writing, "MIN_COSINE", -1)
    rows = [chunk(f"d{number}", 0, text) for number, text in enumerate(WRITTEN_FROM)]
    write_rows(tmp_path / "chunks" / "chunks.jsonl", rows)
    settings = config(source="generate", per_chunk=1).model_copy(
        update={"question_writer": Model(provider="huggingface", name=str(tiny_lm_folder))}
    )
    files, counters = {}, {}
    for count in counts:
        out = tmp_path / f"out-{count}"
        counters[count] = Counter()
        for number in range(count):
            scratch = tmp_path / f"scratch-{count}-{number}"
            scratch.mkdir()
            shard = Shard(number, count)
            counters[count].update(
                generate.run(settings, chunks=tmp_path / "chunks", out=out, scratch=scratch, shard=shard)
            )
        found = [path for path in out.rglob("*") if path.is_file()]
        files[count] = {path.relative_to(out).as_posix(): path.read_bytes() for path in found}
    assert len(files[1]) == 4 * 3 and counters[1]["n_llm_calls"] > 0
    assert all(files[count] == files[1] and counters[count] == counters[1] for count in counts)
    assert counters[1]["n_questions"] > 0


def test_documents_that_are_not_english_are_named_as_the_reason(tmp_path):
    german = "Der Turm am Hafen wurde im Jahr achtzehnhundert von vielen Leuten aus der Stadt gebaut."
    write_rows(tmp_path / "chunks" / "chunks.jsonl", [chunk(f"d{number}", 0, german) for number in range(3)])
    with pytest.raises(InputError, match="only 1 sentences") as caught:
        generate.run(config(source="generate"), chunks=tmp_path / "chunks", out=tmp_path, scratch=tmp_path)
    assert "from English text only" in caught.value.todo
