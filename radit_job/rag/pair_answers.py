"""The question/answer pairs in what a language model wrote, whatever form it gave them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from radit_job.rag.loose_json import read_objects
from radit_job.rag.standing_alone import is_question
from radit_job.rag.thoughts import without_thoughts

PAIRS_FORMAT: dict[str, Any] = {  # for servers that hold a model to a form
    "type": "json_schema",
    "json_schema": {
        "name": "question_answer_pairs",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {
                "pairs": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {"question": {"type": "string"}, "answer": {"type": "string"}},
                        "required": ["question", "answer"],
                        "additionalProperties": False,
                    },
                }
            },
            "required": ["pairs"],
            "additionalProperties": False,
        },
    },
}

_Q = r"(?:questions?|query|q|frage|pregunta|domanda|pergunta|вопрос|问题|問題|质问|質問|问|問)"
_A = r"(?:answers?|response|a|antwort|réponse|respuesta|risposta|resposta|ответ|答案|回答|答え|答)"
_QUESTION_KEY = re.compile(rf"{_Q}[\s_-]*(\d*)$", re.IGNORECASE)
_ANSWER_KEY = re.compile(rf"(?:reference[\s_-]*|ground[\s_-]*truth[\s_-]*)?(?:{_A}|truth)[\s_-]*(\d*)$", re.IGNORECASE)
_FRAME = r"[\s>*_#•–—\-|]*"  # what Markdown puts before and around a line's text
_NUMBER = r"(?:\(?\d{1,3}[.):、]\s*)?"
_COLON = r"\**\s*[:：.)]\s*\**\s*"
_LABEL = re.compile(
    rf"^{_FRAME}{_NUMBER}{_FRAME}(?:(?P<q>{_Q})|(?P<a>{_A}))\s*(?:no\.?|nr\.?|\#)?\s*\d*\s*{_COLON}(?P<rest>.*)$",
    re.IGNORECASE,
)
_NUMBERED = re.compile(rf"^{_FRAME}\(?\d{{1,3}}[.):、]\s*(?P<rest>.*)$")
_BULLET = re.compile(r"^\s*(?:[-*•]|\*\*)\s*(?P<rest>\S.*)$")
_LABEL_WITHIN = re.compile(rf"(?<=[?？.!。؟])[\"'”*_]*\s+(?=\**(?:{_Q}|{_A})\s*\d*\s*\**[:：])", re.IGNORECASE)
_TAG = re.compile(rf"<(/?)\s*(?:({_Q})|({_A}))\s*\d*\s*>", re.IGNORECASE)
_TABLE_RULE = re.compile(r"^[\s|:-]+$")
_HEADING = re.compile(r"^\s*(?:```|#+\s|\W*(?:q\s*&\s*a\s*)?(?:pair|paar)\s*\d*\W*$)", re.IGNORECASE)
_ANSWERS_HEADING = re.compile(
    rf"^{_FRAME}(?:answers|antworten|答案|回答)\s*[:：]?[\s*]*$", re.IGNORECASE | re.MULTILINE
)
_CLEAN_LABEL = re.compile(rf"^(?:{_Q}|{_A})\s*\d*\s*[:：]\s*(?P<rest>\S.*)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class WrittenPair:
    """A question and an answer as the model wrote them, without labels, numbers and marks; either may be empty."""

    question: str
    answer: str


def pairs_in(written: str, *, is_cut: bool = False) -> list[WrittenPair] | None:
    """The pairs that can be read, in their order; None where nothing can be, and [] where the model said "none".

    JSON in every broken form that `read_objects` mends (also lists, and objects under any name), then `Q: ... A: ...`,
    numbered lists, Markdown, tables and tags. With `is_cut`, what was written breaks off at its end, so the last pair
    of a text is left out; of JSON only whole objects count anyway.
    """
    text = without_thoughts(written).strip()
    values = read_objects(text)
    found = [pair for value in values for pair in _json_pairs(value)]
    if not found:
        found = list(_text_pairs(text))
        found = found[:-1] if is_cut else found
    if not found:
        return [] if values and all(_is_empty(value) for value in values) else None
    return list(dict.fromkeys(found))


def _is_empty(value: Any) -> bool:
    inner = value.values() if isinstance(value, dict) else value
    return all(isinstance(item, dict | list) and _is_empty(item) for item in inner)


def _json_pairs(value: Any) -> Iterator[WrittenPair]:
    if isinstance(value, list):
        if len(value) == 2 and all(isinstance(item, str) for item in value) and is_question(value[0]):
            yield _pair(value[0], value[1])
            return
        for item in value:
            yield from _json_pairs(item)
        return
    if not isinstance(value, dict):
        return
    yield from _own_pairs(value)
    for key, inner in value.items():
        if isinstance(inner, dict | list):
            is_text = _ANSWER_KEY.match(key) or (_QUESTION_KEY.match(key) and not _holds_pairs(inner))
            yield from () if is_text else _json_pairs(inner)
        elif is_question(key):
            yield _pair(key, inner)


def _own_pairs(row: dict[str, Any]) -> Iterator[WrittenPair]:
    """The pairs of an object's own fields: question and answer, with numbers if there are several, or two lists."""
    questions = _by_number(row, _QUESTION_KEY)
    answers = _by_number(row, _ANSWER_KEY)
    for number, question in questions.items():
        answer = answers.get(number, "")
        if isinstance(question, list) and isinstance(answer, list) and len(question) == len(answer):
            yield from (_pair(*both) for both in zip(question, answer, strict=True))
        elif not _holds_pairs(question):
            yield _pair(question, answer)
    yield from (_pair("", answer) for number, answer in answers.items() if number not in questions)


def _by_number(row: dict[str, Any], keys: re.Pattern[str]) -> dict[str, Any]:
    return {match.group(1): value for key, value in row.items() if (match := keys.match(key.strip()))}


def _holds_pairs(value: Any) -> bool:
    """Whether what stands under `questions` are objects with a question each, and no question's text."""
    rows = value if isinstance(value, list) else [value]
    return any(isinstance(row, dict) and any(_QUESTION_KEY.match(key) for key in row) for row in rows)


def _text_pairs(text: str) -> Iterator[WrittenPair]:
    """A machine over the lines: a label or a question opens a question, a label or whatever follows it the answer."""
    apart = _ANSWERS_HEADING.split(text)
    if len(apart) == 2:  # all questions first, then all answers
        questions = [body for body in map(_body, _lines(apart[0])) if is_question(body)]
        answers = [_body(line) for line in _lines(apart[1]) if line]
        if len(questions) == len(answers):
            yield from map(_pair, questions, answers)
            return
    question: list[str] = []
    answer: list[str] = []
    is_answering = False
    for line in _lines(text):
        label, body = _LABEL.match(line), _body(line)
        if not line:
            is_answering = is_answering and not answer  # what follows an answer's paragraph is chatter
        elif (label and label["q"]) or (not label and is_question(body) and (_is_listed(line) or not question)):
            if question:
                yield _pair(" ".join(question), " ".join(answer))
            question, answer, is_answering = [body] if body else [], [], False
        elif label:
            is_answering = True
            answer += [body] if body else []
        elif is_answering or not answer:
            is_answering = is_answering or is_question(" ".join(question))
            if is_answering:
                answer.append(body)
            elif is_question(body):  # below its label
                question.append(body)
    if question and answer:
        yield _pair(" ".join(question), " ".join(answer))


def _body(line: str) -> str:
    """A line without its label, its number or its bullet."""
    marked = _LABEL.match(line) or _NUMBERED.match(line) or _BULLET.match(line)
    return marked["rest"] if marked else line


def _is_listed(line: str) -> bool:
    return bool(_NUMBERED.match(line) or _BULLET.match(line))


def _lines(text: str) -> Iterator[str]:
    """Lines with one label each, without fences, headings and rules; the cells of a table's row are lines."""
    tagged = _TAG.sub(lambda tag: "\n" if tag[1] else f"\n{'Question' if tag[2] else 'Answer'}: ", text)
    for line in _LABEL_WITHIN.sub("\n", tagged).splitlines():
        if not line.strip():
            yield ""
        elif _TABLE_RULE.match(line) or (_HEADING.match(line) and not _LABEL.match(line)):
            continue
        elif line.lstrip().startswith("|"):
            cells = [cell.strip() for cell in line.strip(" |").split("|")]
            yield from (f"- {cell}" if is_question(cell) else cell for cell in cells if cell)
        else:
            yield from _question_and_rest(line)


def _question_and_rest(line: str) -> Iterator[str]:
    """`1. What is X? X is Y.` is a question's line and an answer's."""
    at = line.find("?") + 1
    rest = line[at:].lstrip("*_\"”' ")
    if _NUMBERED.match(line) and at and rest[:1].isupper() and not is_question(rest):
        yield line[:at]
        yield rest
    else:
        yield line


def _pair(question: Any, answer: Any) -> WrittenPair:
    return WrittenPair(_clean(question), _clean(answer))


def _clean(value: Any) -> str:
    """One line of plain text: of a list its items, of an object its text."""
    if isinstance(value, list):
        return " ".join(filter(None, map(_clean, value)))
    if isinstance(value, dict):
        return _clean(next((value[key] for key in ("text", "content", "value") if key in value), ""))
    if value is None or isinstance(value, bool):
        return {None: "", True: "Yes", False: "No"}[value]
    text = " ".join(str(value).replace("**", "").split()).strip("`*_ \t|")
    label = _CLEAN_LABEL.match(text)
    text = label["rest"] if label else re.sub(r"^\(?\d{1,2}[.)]\s+(?=\S)", "", text)
    is_quoted = len(text) > 1 and text[0] in "\"'“‘`" and text[-1] in "\"'”’`"
    return (text[1:-1] if is_quoted and not re.search(r"[\"“”]", text[1:-1]) else text).strip()
