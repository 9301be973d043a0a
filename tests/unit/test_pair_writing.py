"""The rounds in which a large model writes pairs: how they are shared out, made up, checked and compared."""

import re
from collections import Counter

import numpy as np
import pytest

from radit_job.rag import pair_blocks
from radit_job.rag.pair_blocks import AskedChunk, plan_pairs, read_asked, why_not_asked
from radit_job.rag.pair_filters import PairRules
from radit_job.rag.pair_writing import PairWriter, Written, share_out
from radit_job.records import Chunk, write_rows

CHUNK = re.compile(r"Machine (\d+)")


def asked_chunk(number):
    text = f"Machine {number} was built by workshop {number * 7 + 1000} in the north of the plant."
    return AskedChunk(f"d#{number:05d}", "d", text, (("d#before", "Something else."), ("d#after", text)))


def pair_json(*pairs):
    return "[" + ", ".join(f'{{"question": "{question}", "answer": "{answer}"}}' for question, answer in pairs) + "]"


def good_pair(number, kind="built"):
    return f"Which workshop {kind} machine {number}?", f"Workshop {number * 7 + 1000} built machine {number}."


class Model:
    """Answers from a table, by the chunk's number; else with as many good pairs as it is asked for."""

    def __init__(self, table=None, yes="YES"):
        self.table = table or {}
        self.yes = yes
        self.asked = []  # (chunk, how many) of each writing prompt
        self.rounds = []
        self.checked = []

    def __call__(self, task, conversations, max_new_tokens):
        texts = [conversation[-1].content for conversation in conversations]
        if task == "check":
            self.checked += texts
            return [Written(self.yes, "stop") for _ in texts]
        self.rounds.append(len(texts))
        answers = []
        for text in texts:
            number, wanted = int(CHUNK.search(text)[1]), int(re.search(r"Write (\d+) question", text)[1])
            n_before = sum(wanted for asked, wanted in self.asked if asked == number)
            self.asked.append((number, wanted))
            kinds = [f"nr{n_before + nth}" for nth in range(wanted)]
            answer = self.table.get(number, pair_json(*(good_pair(number, kind) for kind in kinds)))
            answers.append(answer if isinstance(answer, Written) else Written(answer, "stop"))
        return answers


AXES = {}


def embed(questions):
    """The same question has the same vector, any other one stands at a right angle."""
    vectors = np.zeros((len(questions), 4096), dtype=np.float32)
    for row, question in enumerate(questions):
        vectors[row, AXES.setdefault(question, len(AXES))] = 1
    return vectors


def write(model, n_chunks, n_wanted, per_chunk=2, embed_questions=embed, check=False):
    chunks = [asked_chunk(number) for number in range(n_chunks)]
    writer = PairWriter(chunks, model, embed_questions, PairRules(50, True), 0.95, check, name="g0000-")
    return writer.run(n_wanted, per_chunk, lambda kept: None), writer


def reasons(writer):
    return Counter(row.reason for row in writer.dropped)


@pytest.mark.parametrize(
    ("n_missing", "asked", "share"),
    [
        (3, [0, 0, 0, 0, 0], {0: 1, 1: 1, 2: 1}),
        (7, [0, 0, 0, 0, 0], {0: 2, 1: 2, 2: 1, 3: 1, 4: 1}),
        (2, [1, 1, 0, 2, 0], {2: 1, 4: 1}),
        (3, [1, 1, 0, 2, 0], {2: 1, 4: 1, 0: 1}),
        (99, [1, 2], {0: 1}),
        (5, [2, 2], {}),
    ],
)
def test_the_least_asked_chunks_are_asked_first(n_missing, asked, share):
    assert share_out(n_missing, asked, per_chunk=2) == share


def test_each_of_as_many_chunks_as_are_wanted_gets_one():
    model = Model()
    kept, writer = write(model, n_chunks=150, n_wanted=60)
    assert model.asked == [(number, 1) for number in range(60)] and model.rounds == [60]
    assert [row.question_id for row in kept] == [f"g0000-{number:05d}" for number in range(60)]
    assert len({row.chunk_ids[0] for row in kept}) == 60 and not writer.dropped


def test_what_was_dropped_is_made_up_by_the_next_chunks():
    model = Model({2: "no JSON", 5: pair_json(("What does the text say?", "Workshop 1035.")), 10: "no JSON"})
    kept, writer = write(model, n_chunks=30, n_wanted=10)
    assert model.rounds == [10, 2, 1]
    assert [number for number, _ in model.asked] == list(range(13)) and len(kept) == 10
    assert reasons(writer) == {"unreadable": 2, "points_outside": 1}


def test_no_chunk_is_asked_again_before_all_were():
    bad = {number: pair_json(("What does the text say?", "Workshop.")) for number in range(4)}
    model = Model(bad)
    kept, _ = write(model, n_chunks=6, n_wanted=6)
    assert [number for number, _ in model.asked[:6]] == list(range(6))
    assert [number for number, _ in model.asked[6:]] == [0, 1, 2, 3, 4, 5]
    assert Counter(row.chunk_ids[0] for row in kept) == {"d#00004": 2, "d#00005": 2}


def test_a_chunk_is_told_what_it_gave_before_and_not_asked_again_if_that_was_nothing():
    asked = []
    model = Model({0: '{"pairs": []}', 1: Written("", "content_filter"), 2: "?"})

    def listening(task, conversations, max_new_tokens):
        asked.extend(conversation[-1].content for conversation in conversations)
        return model(task, conversations, max_new_tokens)

    kept, writer = write(listening, n_chunks=5, n_wanted=5)
    assert [number for number, _ in model.asked] == [0, 1, 2, 3, 4, 3, 4] and len(kept) == 4
    assert f"  - {good_pair(3, 'nr0')[0]}\n" in asked[5] and "than these questions" not in asked[3]
    assert len(set(asked)) == len(asked)  # the ledger knows an answer by its question: the same would be the old one
    assert reasons(writer) == {"no_pair": 1, "content_filter": 1, "unreadable": 1}


def test_never_more_than_wanted_and_what_is_beyond_is_counted():
    three = [good_pair(0, kind) for kind in ("made", "designed", "tested")]
    kept, writer = write(Model({0: pair_json(*three)}), n_chunks=3, n_wanted=3)
    assert len(kept) == 3 and {row.chunk_ids[0] for row in kept} == {"d#00000", "d#00001", "d#00002"}
    assert reasons(writer) == {"enough": 2}


def test_a_later_pair_stands_in_for_a_dropped_one_of_the_same_answer():
    kept, writer = write(Model({0: pair_json(("Who?", "?"), good_pair(0))}), n_chunks=1, n_wanted=1)
    assert [row.question for row in kept] == [good_pair(0)[0]] and reasons(writer) == {"not_a_question": 1}


def test_a_question_near_to_one_that_was_kept_is_dropped():
    near = {2: np.array([0.96, 0.28]), 3: np.array([0.94, 0.3412])}

    def two_dimensions(questions):
        numbers = [int(re.search(r"machine (\d+)", question)[1]) for question in questions]
        return np.array([near.get(n, np.array([1.0, 0]) if n == 0 else np.array([0, 1.0])) for n in numbers], "float32")

    kept, writer = write(Model(), n_chunks=4, n_wanted=4, per_chunk=1, embed_questions=two_dimensions)
    assert [row.chunk_ids[0] for row in kept] == ["d#00000", "d#00001", "d#00003"]
    assert [(row.reason, row.where) for row in writer.dropped] == [("near_duplicate", "d#00002")]


@pytest.mark.parametrize(("said", "reason"), [("NO", "not_answerable"), ("Perhaps", "unchecked")])
def test_what_the_second_call_does_not_confirm_is_dropped(said, reason):
    model = Model(yes=said)
    kept, writer = write(model, n_chunks=5, n_wanted=5, per_chunk=1, check=True)
    assert not kept and reasons(writer) == {reason: 5}
    assert len(model.checked) == 5 and all(text.endswith("Answer YES or NO.") for text in model.checked)
    assert good_pair(0, "nr0")[1] in model.checked[0] and asked_chunk(0).text in model.checked[0]


def test_what_a_chunk_gives_a_second_time_is_not_checked_again():
    model = Model({number: pair_json(good_pair(number)) for number in range(3)})
    kept, writer = write(model, n_chunks=3, n_wanted=5, check=True)
    assert len(kept) == len(model.checked) == 3
    assert reasons(writer) == {"duplicate": 1}


def test_only_what_would_be_kept_is_checked():
    model = Model({0: pair_json(("What does the text say?", "Workshop."), good_pair(0), good_pair(0, "made"))})
    kept, _ = write(model, n_chunks=1, n_wanted=1, check=True)
    assert len(kept) == len(model.checked) == 1


def test_a_model_that_writes_nothing_usable_is_not_asked_for_ever():
    model = Model(dict.fromkeys(range(500), "junk"))
    kept, writer = write(model, n_chunks=500, n_wanted=50)
    assert not kept and writer.gave_up and model.rounds == [50]


def test_gold_are_the_chunk_and_the_neighbours_that_hold_the_whole_answer():
    exact = pair_json(("Who built the machine?", "was built by workshop 1000 in the north of the plant"))
    kept, _ = write(Model({0: exact}), n_chunks=2, n_wanted=2)
    assert kept[0].chunk_ids == ("d#00000", "d#after")
    assert kept[1].chunk_ids == ("d#00001",)


PROSE = (
    "The turbine of the plant is inspected every ninety days by two engineers from the north, who note part number {}."
)
TABLE = "OPT 175B 54.6 60.5 81.0 79.5 | 1.2 3.4 5.6 7.8 | GPT 12 34 56 78 90 12.3 45.6 78.9 11 22 33 44 55 66 77 88"
NAMES = "Hugo Touvron, Thibaut Lavril, Gautier Izacard, Xavier Martinet, Marie Lachaux, and Timothee Lacroix, " * 3
REFERENCES = "Graves. 2013. Generating sequences with networks. arXiv preprint arXiv:1308.0850. More. 2014. Else. " * 2


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PROSE, None),
        (
            "Der Turm am Hafen wurde im Jahr achtzehnhundert von vielen Leuten aus der Stadt gebaut. " * 2,
            None,
        ),
        ("港口的灯塔由安娜于1806年建造。塔顶的灯有四十面镜子，可照亮二十公里外的海面。" * 2, None),
        ("หอคอยที่ท่าเรือถูกสร้างขึ้นโดยแอนนาในปี พ.ศ. ๒๓๔๙ และมีกระจกสี่สิบบาน", None),
        ("Chapter 3", "short"),
        (TABLE, "table"),
        (NAMES, "bibliography"),
        (REFERENCES, "bibliography"),
    ],
)
def test_chunks_without_prose_are_not_asked_about(text, reason):
    assert why_not_asked(text) == reason


def chunk_file(tmp_path, texts, n_documents=1):
    rows = [
        Chunk(f"d{number % n_documents}#{number:05d}", f"d{number % n_documents}", None, 0, len(text), 9, text)
        for number, text in enumerate(texts)
    ]
    rows.sort(key=lambda row: row.chunk_id)
    write_rows(tmp_path / "chunks.jsonl", rows)
    return tmp_path / "chunks.jsonl"


def test_a_plan_spreads_over_documents_and_names_what_it_skips(tmp_path):
    path = chunk_file(tmp_path, [TABLE, PROSE.format(1), *(PROSE.format(number) for number in range(1, 90))], 10)
    plan = plan_pairs(path, per_chunk=2, limit=20, seed=7)
    assert (plan.n_chunks, plan.n_wanted, plan.skipped) == (89, 20, {"repeated": 1, "table": 1})
    asked = read_asked(path, plan.blocks[0].positions)
    first = [asked[position] for position in plan.blocks[0].positions[:10]]
    assert {chunk.document for chunk in first} == {f"d{number}" for number in range(10)}
    assert all(name.startswith(f"{chunk.document}#") for chunk in first for name, _ in chunk.neighbours)
    assert plan == plan_pairs(path, per_chunk=2, limit=20, seed=7) != plan_pairs(path, per_chunk=2, limit=20, seed=8)
    assert plan_pairs(path, per_chunk=2, limit=None, seed=7).n_wanted == 2 * 89


def test_blocks_share_chunks_and_questions_without_rest(tmp_path, monkeypatch):
    monkeypatch.setattr(pair_blocks, "BLOCK_QUESTIONS", 9)
    path = chunk_file(tmp_path, [PROSE.format(number) for number in range(50)])
    plan = plan_pairs(path, per_chunk=2, limit=40, seed=7)
    assert len(plan.blocks) == 4 and sum(block.n_wanted for block in plan.blocks) == 40
    assert sorted(position for block in plan.blocks for position in block.positions) == list(range(50))
    few = plan_pairs(path, per_chunk=2, limit=2, seed=7)
    assert len(few.blocks[0].positions) == 12  # six chunks for a question, and the model may fail on no more
