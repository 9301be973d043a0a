"""What is read out of a language model's answer that should hold question/answer pairs, and yes or no."""

import json
import time

import pytest

from radit_job.rag.pair_answers import WrittenPair, pairs_in
from radit_job.rag.verdicts import read_yes_no

A, C = ("What is A?", "A is B."), ("What is C?", "C is D.")
OBJECTS = '{"question": "What is A?", "answer": "A is B."}, {"question": "What is C?", "answer": "C is D."}'

READ = {  # TWO stands for both objects
    "as asked": ('{"pairs": [TWO]}', [A, C]),
    "fenced": ('```json\n{"pairs": [TWO]}\n```', [A, C]),
    "prose around": ("Sure! Here are 2 pairs:\n\n[TWO]\n\nLet me know if you need more {of them}.", [A, C]),
    "brackets in prose before": ("As {noted} in [1]: [TWO]", [A, C]),
    "bare list": ("[TWO]", [A, C]),
    "one object": ('{"question": "What is A?", "answer": "A is B."}', [A]),
    "JSON lines": (OBJECTS.replace("}, {", "}\n{"), [A, C]),
    "trailing commas": ('{"pairs": [{"question": "What is A?", "answer": "A is B.",},],}', [A]),
    "missing commas": (
        '[{"question": "What is A?" "answer": "A is B."} {"question": "What is C?"\n"answer": "C is D."}]',
        [A, C],
    ),
    "comments": ('{"pairs": [ // two\nTWO /* done */]}', [A, C]),
    "bare keys": ('{pairs: [{question: "What is A?", answer: "A is B."}]}', [A]),
    "single quotes": (
        "{'pairs': [{'question': 'What is A's size?', 'answer': 'It\\'s \"B\".'}]}",
        [("What is A's size?", 'It\'s "B".')],
    ),
    "curly quotes": ("{“question”: “What is A?”, “answer”: “A is B.”}", [A]),
    "quotes within quotes": (
        '[{"question": "What is "A"?", "answer": "A "is", B."}]',
        [('What is "A"?', 'A "is", B.')],
    ),
    "line breaks in a string": ('{"question": "What\nis A?", "answer": "A\\nis B."}', [A]),
    "escapes": ('{"question": "Caf\\u00e9 \\ud83d\\ude00?", "answer": "\\u00dc."}', [("Café 😀?", "Ü.")]),
    "half an escape": ('{"question": "What is \\ud83d?", "answer": "A."}', [("What is �?", "A.")]),
    "cut in an answer": ('{"pairs": [TWO, {"question": "What is E?", "answer": "E is', [A, C]),
    "cut in a question": ('{"pairs": [{"question": "What is A?", "answer": "A is B."}, {"quest', [A]),
    "cut behind a comma": ('```json\n[{"question": "What is A?", "answer": "A is B."},', [A]),
    "nothing whole": ('{"pairs": [{"question": "What is A?", "answer": "A i', None),
    "numbered keys": (
        '{"question1": "What is A?", "answer1": "A is B.", "question2": "What is C?", "answer2": "C is D."}',
        [A, C],
    ),
    "two lists": ('{"questions": ["What is A?", "What is C?"], "answers": ["A is B.", "C is D."]}', [A, C]),
    "lists of two": ('[["What is A?", "A is B."], ["What is C?", "C is D."]]', [A, C]),
    "question as key": ('{"What is A?": "A is B.", "What is C?": "C is D."}', [A, C]),
    "other names": ('{"qa": {"1": {"Q": "What is A?", "A": "A is B."}}}', [A]),
    "labels in values": ('[{"question": "Q1: What is A?", "answer": "Answer: **A** is B."}]', [A]),
    "answer as list": ('{"question": "What is A?", "answer": ["A is", "B."]}', [A]),
    "answer as number": ('{"question": "How many?", "answer": 65}', [("How many?", "65")]),
    "no answer": ('{"pairs": [{"question": "What is A?", "answer": null}]}', [("What is A?", "")]),
    "no question": ('{"pairs": [{"answer": "A is B."}]}', [("", "A is B.")]),
    "thoughts before": ('<think>{"question": "X?", "answer": "Y"}</think>[TWO]', [A, C]),
    "Q and A": ("Q: What is A?\nA: A is B.\n\nQ: What is C?\nA: C is D.", [A, C]),
    "Q and A in one line": ("Q1: What is A? A1: A is B. Q2: What is C? A2: C is D.", [A, C]),
    "Question 1": ("Question 1: What is A?\nAnswer 1: A is B.\nQuestion 2: What is C?\nAnswer 2: C is D.", [A, C]),
    "Markdown": (
        "### Pair 1\n**Question:** What is A?\n**Answer:** A is B.\n---\n### Pair 2\n**Q:** What is C?\n**A:** C is D.",
        [A, C],
    ),
    "label alone in its line": ("**Question 1:**\nWhat is A?\n\n**Answer:**\nA is\nB.", [A]),
    "numbered, answer below": ("1. **What is A?**\n   A is B.\n\n2. **What is C?**\n   C is D.", [A, C]),
    "numbered, answer labelled": ("1. What is A?\n   Answer: A is B.\n2) What is C?\n   Answer: C is D.", [A, C]),
    "numbered, answer behind": ("1. What is A? A is B.\n2. What is C? C is D.", [A, C]),
    "questions first": ("Questions:\n1. What is A?\n2. What is C?\n\nAnswers:\n1. A is B.\n2. C is D.", [A, C]),
    "bullets": ("- What is A?\n- A is B.", [A]),
    "chatter behind": ("Q: What is A?\nA: A is B.\n\nI hope this helps!", [A]),
    "table": ("| Question | Answer |\n|---|---|\n| What is A? | A is B. |\n| What is C? | C is D. |", [A, C]),
    "tags": ("<question>What is A?</question>\n<answer>A is B.</answer>", [A]),
    "German": ("Frage 1: Was ist A?\nAntwort: A ist B.", [("Was ist A?", "A ist B.")]),
    "Chinese": ("问题1：什么是A？\n答案：A是B。", [("什么是A？", "A是B。")]),
    "says there is none": ('{"pairs": []}', []),
    "refusal": ("I'm sorry, but I can't help with that.", None),
    "prose": ("A is B. It has a C {as D says}.", None),
    "empty": ("", None),
    "other JSON": ('{"error": "too long"}', None),
    "the same twice": ("[TWO, TWO]", [A, C]),
}


@pytest.mark.parametrize("name", READ)
def test_real_looking_answers_are_read(name):
    written, expected = READ[name]
    found = pairs_in(written.replace("TWO", OBJECTS))
    assert found == (None if expected is None else [WrittenPair(*pair) for pair in expected])
    json.dumps([pair.question for pair in found or []], ensure_ascii=False).encode()  # it can be written to a file


def test_the_last_pair_of_a_text_that_breaks_off_is_left_out():
    written = "Q: What is A?\nA: A is B.\nQ: What is C?\nA: C is"
    assert pairs_in(written, is_cut=True) == [WrittenPair(*A)]
    assert pairs_in("Q: What is A?\nA: A is", is_cut=True) is None
    assert pairs_in(f"[{OBJECTS}, ", is_cut=True) == [WrittenPair(*A), WrittenPair(*C)]


@pytest.mark.parametrize("piece", ["{", "[", '"', '{"', '{"a":', "[{'", "\\", "Q: ", "1. ?\n", "| ", '{"question": "'])
def test_a_model_that_repeats_itself_for_ever_is_read_in_no_time(piece):
    started_s = time.process_time()
    pairs_in(piece * 2000)
    assert time.process_time() - started_s < 2


SAID = {
    "YES": True,
    "Yes.": True,
    "**NO**": False,
    "Answer: NO": False,
    '{"answer": "YES"}': True,
    "No, the text says 65B.": False,
    "yes - the first sentence says so": True,
    "<think>No? no.</think>\nYES": True,
    "<think>Does it? It may be\nNO": None,
    "YES or NO: YES": None,
    "YES or NO? NO": None,
    "The text supports the answer.\n\nYES": True,
    "The answer is YES.": True,
    "Final answer: **No**": False,
    "Nein.": False,
    "是的，文中如此。": True,
    "不是": False,
    "There is no doubt about it.": None,
    "No doubt about it.": None,
    "YES and NO": None,
    "It says YES here and NO there": None,
    "Note that nothing was said": None,
    "Yesterday": None,
    "": None,
}


@pytest.mark.parametrize("written", SAID)
def test_yes_and_no_are_told_apart_and_doubt_is_none(written):
    value = read_yes_no(written).value
    assert (None if value is None else bool(value)) is SAID[written]
