"""Pairs from every file form; what is wrong is named with its line; gold chunks and leaks are found, never guessed."""

import json

import pytest

from radit_job.errors import InputError
from radit_job.rag.gold import GoldFinder
from radit_job.rag.leakage import LeakFinder
from radit_job.rag.matching import match_words
from radit_job.rag.pair_checks import usable_pairs
from radit_job.rag.pair_files import Pair, read_pairs
from radit_job.records import Chunk

FORMS = {
    "a.jsonl": '{"question": "Q?", "answer": "A."}\n\n',
    "b.jsonl": '{"query": "Q?", "response": "A."}\n',
    "c.json": json.dumps([{"question": "Q?", "answers": {"text": ["A."], "answer_start": [0]}}]),
    "d.json": json.dumps({"queries": {"7": "Q?"}, "responses": {"7": "A."}}),
    "e.json": json.dumps({"examples": [{"query": "Q?", "reference_answer": "A.", "reference_contexts": ["A. B."]}]}),
    "f.json": json.dumps(
        {
            "data": [
                {
                    "title": "T",
                    "paragraphs": [
                        {
                            "context": "A. B.",
                            "qas": [{"id": "i", "question": "Q?", "answers": [{"text": "A.", "answer_start": 0}]}],
                        }
                    ],
                }
            ]
        }
    ),
    "g.json": '{"question": "Q?", "answer": "A."}\n{"question": "Q?", "answer": "A."}\n',
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_its_pairs(tmp_path, name):
    (tmp_path / name).write_text(FORMS[name])
    pairs = list(read_pairs(tmp_path / name))
    assert {(pair.question, pair.answer) for pair in pairs} == {("Q?", "A.")}
    assert pairs[0].where.startswith(name)


def test_llama_index_writes_the_form_that_is_read(tmp_path):
    from llama_index.core.evaluation import QueryResponseDataset

    QueryResponseDataset.from_qr_pairs([("Q?", "A."), ("R?", "B.")]).save_json(str(tmp_path / "q.json"))
    assert [(pair.question, pair.answer) for pair in read_pairs(tmp_path / "q.json")] == [("Q?", "A."), ("R?", "B.")]


def test_contexts_and_answer_offsets_are_kept(tmp_path):
    (tmp_path / "f.json").write_text(FORMS["f.json"])
    (pair,) = read_pairs(tmp_path / "f.json")
    assert (pair.pair_id, pair.contexts, pair.answer_start) == ("i", ("A. B.",), 0)


def test_a_broken_line_is_named(tmp_path):
    lines = [json.dumps({"question": f"Q{number}?", "answer": "A."}) for number in range(20)]
    lines[16] = '{"question": "Q16?", "answer": '
    (tmp_path / "questions.jsonl").write_text("\n".join(lines))
    with pytest.raises(InputError) as caught:
        list(read_pairs(tmp_path / "questions.jsonl"))
    assert caught.value.where == "questions.jsonl:17"


@pytest.mark.parametrize("content", ['{"a": 1}', "[1, 2]", '[{"question": "Q?"}]', "{", "\ufffd"])
def test_unknown_forms_say_what_is_known(tmp_path, content):
    (tmp_path / "q.json").write_text(content)
    with pytest.raises(InputError):
        list(read_pairs(tmp_path / "q.json"))


def test_empty_answers_are_all_named():
    pairs = [Pair("Q?", "", "q.jsonl:3"), Pair("R?", "x", "q.jsonl:4"), Pair("", "y", "q.jsonl:5")]
    with pytest.raises(InputError) as caught:
        usable_pairs(pairs, 100)
    assert caught.value.where == "q.jsonl:3, q.jsonl:5"
    assert caught.value.exit_code == 65


def test_duplicates_long_and_unanswerable_pairs_are_dropped_by_name():
    pairs = [
        Pair("What is it?", "A pump.", "q:1"),
        Pair("what is  it", "a pump", "q:2"),
        Pair("What is it?", "A valve.", "q:3"),
        Pair("Long?", "word " * 11, "q:4"),
        Pair("Nobody knows?", "", "q:5", is_unanswerable=True),
    ]
    kept, dropped = usable_pairs(pairs, 10)
    assert [pair.where for pair in kept] == ["q:1", "q:3"]
    assert [(row.reason, row.where) for row in dropped] == [
        ("duplicate", "q:2"),
        ("long_answer", "q:4"),
        ("unanswerable", "q:5"),
    ]


NO_ANSWER = "The documents do not say how the plant came to its name."  # long enough to be looked for in the chunks


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Q?", "answerable": False},
        {"question": "Q?", "answer": None, "is_impossible": True},
        {"question": "Q?", "answers": {"text": [], "answer_start": []}},  # SQuAD 2 as the hub has it
        {"question": "Q?", "answer": "Nobody knows.", "answerable": False},
    ],
)
def test_a_row_can_say_that_its_question_has_no_answer(tmp_path, row):
    (tmp_path / "q.jsonl").write_text(json.dumps(row))
    (pair,) = read_pairs(tmp_path / "q.jsonl")
    assert pair.is_unanswerable
    (kept,), dropped = usable_pairs([pair], 100, NO_ANSWER)
    assert (kept.answer, kept.answer_start, dropped) == (NO_ANSWER, None, [])
    assert usable_pairs([pair], 100)[1][0].reason == "unanswerable"


@pytest.mark.parametrize("flags", [{"answerable": True}, {"is_impossible": False}, {"answerable": None}])
def test_other_rows_still_need_their_answer(tmp_path, flags):
    (tmp_path / "q.jsonl").write_text(json.dumps({"question": "Q?", "answer": ""} | flags))
    with pytest.raises(InputError, match="the answer is empty"):
        usable_pairs(read_pairs(tmp_path / "q.jsonl"), 100, NO_ANSWER)


def test_squad_2_files_tell_their_impossible_questions(tmp_path):
    plain = json.loads(FORMS["f.json"])
    qas = plain["data"][0]["paragraphs"][0]["qas"]
    qas.append(
        {"id": "j", "question": "R?", "answers": [], "is_impossible": True, "plausible_answers": [{"text": "B"}]}
    )
    (tmp_path / "f.json").write_text(json.dumps(plain))
    pairs = list(read_pairs(tmp_path / "f.json"))
    assert [pair.is_unanswerable for pair in pairs] == [False, True]
    assert [pair.answer for pair in usable_pairs(pairs, 100, NO_ANSWER)[0]] == ["A.", NO_ANSWER]


def test_questions_without_an_answer_are_no_duplicates_of_each_other_nor_too_long():
    pairs = [Pair(question, "", f"q:{question}", is_unanswerable=True) for question in ("Who?", "Where?", "who?")]
    kept, dropped = usable_pairs(pairs, 3, NO_ANSWER)
    assert [pair.question for pair in kept] == ["Who?", "Where?"]  # the third is the first one again
    assert [row.reason for row in dropped] == ["duplicate"]


def test_a_question_without_an_answer_has_a_document_and_no_gold_chunk():
    context = TEXTS["d#0"] + " " + TEXTS["d#1"]
    known_passages = (
        ({"contexts": (context,)}, ("d#0", "d#1")),
        ({"chunk_ids": ("d#1",), "contexts": (context,)}, ("d#1",)),
        ({"document": "d"}, ()),
    )
    for known, passage in known_passages:
        found = gold(Pair("Q?", NO_ANSWER, "w", is_unanswerable=True, **known))
        assert (found.document, found.chunk_ids, found.passage_chunk_ids) == ("d", (), passage)
    # The words of the configured answer may stand in the passage by chance: they say nothing of what it is about.
    by_chance = gold(Pair("Q?", "leaking in the spring", "w", contexts=(context,), is_unanswerable=True))
    assert (by_chance.chunk_ids, by_chance.passage_chunk_ids) == ((), ("d#0", "d#1"))
    assert gold(Pair("Q?", "leaking in the spring", "w", contexts=(context,))).passage_chunk_ids == ()
    said_by_chance = {"e#1": NO_ANSWER + " Nobody minds."}
    assert gold(Pair("Q?", NO_ANSWER, "w", is_unanswerable=True), {**TEXTS, **said_by_chance}).chunk_ids == ()
    assert gold(Pair("Q?", NO_ANSWER, "w"), {**TEXTS, **said_by_chance}).chunk_ids == ("e#1",)


TEXTS = {
    "d#0": "Pumps move water through the plant and are inspected every ninety days by two engineers.",
    "d#1": "Valves were found to be leaking in the spring. Forty valves are open, and forty are closed in winter.",
    "e#0": "Nothing here speaks of the plant, only of the weather on the coast and of ships that pass by night.",
}


def gold(pair, texts=TEXTS):
    finder = GoldFinder([pair])
    for chunk_id, text in texts.items():
        finder.see(Chunk(chunk_id, chunk_id[0], None, 0, len(text), 1, text), match_words(text))
    return finder.gold(0, pair)


def test_gold_by_reference_context_survives_line_breaks_and_hyphens():
    context = "Pumps move water through the plant and are in-\nspected every\nninety days by two engi-\nneers."
    assert gold(Pair("Q?", "unrelated words", "w", contexts=(context,))).chunk_ids == ("d#0",)


def test_a_long_context_is_narrowed_by_where_the_answer_stands():
    context = TEXTS["d#0"] + " " + TEXTS["d#1"]
    assert gold(Pair("Q?", "no such words", "w", contexts=(context,))).chunk_ids == ("d#0", "d#1")
    assert gold(Pair("Q?", "every ninety days", "w", contexts=(context,))).chunk_ids == ("d#0",)


def test_the_answers_offset_decides_between_two_places():
    texts = {
        "d#0": "Forty valves are open in the northern hall of the plant.",
        "d#1": "Forty valves are closed in the southern hall of it.",
    }
    context = " ".join(texts.values())
    place = context.rindex("Forty")
    assert gold(Pair("Q?", "Forty", "w", contexts=(context,), answer_start=place), texts).chunk_ids == ("d#1",)
    assert gold(Pair("Q?", "Forty", "w", contexts=(context,), answer_start=0), texts).chunk_ids == ("d#0",)


def test_a_few_words_in_common_with_the_context_are_not_enough():
    context = (
        "Ducks and swans move water through the plant beds of the lake, as every child who has fed them there can tell."
    )
    assert gold(Pair("Q?", "every child", "w", contexts=(context,))).chunk_ids == ()


def test_a_short_answer_alone_is_never_gold():
    assert gold(Pair("Q?", "ninety days", "w")).chunk_ids == ()


def test_a_long_answer_in_one_chunk_alone_is_gold_and_in_two_is_not():
    answer = "inspected every ninety days by two engineers through the plant"
    in_one = "the weather on the coast and of ships that pass"
    assert gold(Pair("Q?", in_one, "w")).chunk_ids == ("e#0",)
    assert gold(Pair("Q?", answer, "w")).chunk_ids == ()
    assert gold(Pair("Q?", in_one, "w"), {**TEXTS, "e#1": TEXTS["e#0"]}).chunk_ids == ()


def test_named_chunks_are_gold_if_they_exist():
    assert gold(Pair("Q?", "x", "w", chunk_ids=("e#0", "nowhere#0"))).chunk_ids == ("e#0",)


def test_a_document_is_taken_over_only_if_it_is_in_the_corpus():
    assert gold(Pair("Q?", "x", "w", document="e")).document == "e"
    assert gold(Pair("Q?", "x", "w", document="nowhere")).document is None


def test_leaks_are_records_and_not_mere_mentions():
    finder = LeakFinder([("How often are pumps inspected?", "Every ninety days"), ("Who?", "Two engineers")])
    finder.see(
        "a",
        match_words("How often are pumps inspected? Nobody asks. " + "filler " * 20 + "Every ninety days it rains."),
    )
    assert finder.found == {}
    finder.see("b", match_words('{"question": "How often are\npumps inspected?", "answer": "Every ninety days."}'))
    finder.see("c", match_words("Who? - two engineers"))
    assert finder.found == {0: "b", 1: "c"}
