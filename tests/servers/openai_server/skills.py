"""What the test server's chat models answer: they recognise a task by the words of its prompt."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.servers.openai_server import judge, questions
from tests.servers.openai_server.text import draw, f1, sentences, share_in, words
from tests.servers.openai_server.tokens import content_of

FENCE = "---------------------"  # LlamaIndex's, above and below a context
_BETWEEN_FENCES = re.compile(rf"^{FENCE}-*\s*$\n(.*?)\n?^{FENCE}-*\s*$", re.MULTILINE | re.DOTALL)
_WANTED = re.compile(r"Write (\d+) question", re.IGNORECASE)
_KNOWN = re.compile(r"^[ \t]*- (.*\?)[ \t]*$", re.MULTILINE)  # questions that were written before
_QUERY = re.compile(r"^(?:Query|Question):[ \t]*(.+?)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Tuned:
    """What a fine-tuned model has of its training file."""

    base: str
    examples: tuple[tuple[str, str], ...] = ()  # last user message, answer
    mean_words: int = 20  # of the answers


@dataclass(slots=True)
class Habits:
    """Switches: how well the models do their work."""

    bad_question_share: float = 0.05  # of each kind: one that says "the passage", one that repeats, one unanswerable
    judge_unsteady_share: float = 0.0  # of judgements that differ when they are asked again
    judge_prefers_first_share: float = 0.0  # of pairwise judgements that go to A whatever it says
    judge_forms: tuple[str, ...] = field(default=judge.FORMS)


@dataclass(frozen=True, slots=True)
class Task:
    """A chat request, taken apart."""

    messages: Sequence[dict[str, Any]]
    response_format: dict[str, Any] | None = None
    luck: str = ""  # what a sampled answer depends on besides the messages; empty at temperature 0
    number: int = 0  # of the request; used only by what is unsteady on purpose

    @property
    def user(self) -> str:
        """The last message of the user."""
        turns = [content_of(one) for one in self.messages if one.get("role") == "user"]
        return turns[-1] if turns else content_of(self.messages[-1])

    @property
    def everything(self) -> str:
        return "\n".join(content_of(one) for one in self.messages)

    @property
    def schema_name(self) -> str:
        return str(((self.response_format or {}).get("json_schema") or {}).get("name", ""))


def answer(task: Task, habits: Habits, tuned: Tuned | None) -> str:
    """The model's answer; the same task gets the same answer."""
    wanted = _WANTED.search(_context_and_rest(task.user)[1])
    if task.schema_name == "question_answer_pairs" or wanted:
        return _pairs(task, habits, int(wanted[1]) if wanted else 3)
    if "Write one question that the sentence answers" in task.everything:
        return questions.question(task.user)
    if judged := judge.answer(task.everything, task.user, habits, task.number, task.luck):
        return judged
    if re.search(r"answer\s+yes\s+or\s+no\W*$", task.user.strip(), re.IGNORECASE):
        return _yes_or_no(task.user)
    text = _answer(task, tuned)
    if task.response_format and task.response_format.get("type") in ("json_schema", "json_object"):
        return json.dumps(_fill(_schema(task.response_format), text), ensure_ascii=False)
    return text


def _pairs(task: Task, habits: Habits, wanted: int) -> str:
    text, rest = _context_and_rest(task.user)
    known = _KNOWN.findall(rest)
    pairs = questions.write(text or task.user, wanted, habits.bad_question_share, task.luck, known)
    plain = {"pairs": [{"question": question, "answer": reply} for question, reply in pairs]}
    if task.response_format and task.response_format.get("type") in ("json_schema", "json_object"):
        return json.dumps(plain, ensure_ascii=False)
    what = json.dumps(plain, indent=2, ensure_ascii=False)
    return f"Here are {len(pairs)} question-answer pairs based on the text:\n\n```json\n{what}\n```"


def _yes_or_no(user: str) -> str:
    text, rest = _context_and_rest(user)
    found = re.search(r"^(?:Proposed |Reference |Expected )?Answer:[ \t]*(.+?)(?=\n\s*\n|\nAnswer YES|\Z)", rest,
                      re.MULTILINE | re.DOTALL | re.IGNORECASE)  # fmt: skip
    claimed = found[1] if found else re.sub(r"answer\s+yes\s+or\s+no\W*$", "", rest, flags=re.IGNORECASE)
    return "YES" if share_in(claimed, text) > 0.5 else "NO"


def _context_and_rest(user: str) -> tuple[str, str]:
    """What stands between two fences, and the rest of the message."""
    found = _BETWEEN_FENCES.search(user)
    if found is None:
        return "", user
    return found[1].strip(), (user[: found.start()] + "\n" + user[found.end() :]).strip()


def _answer(task: Task, tuned: Tuned | None) -> str:
    context, rest = _context_and_rest(task.user)
    existing = re.search(r"We have provided an existing answer: (.*)", rest)
    if existing:
        return existing[1].strip()  # LlamaIndex's refine prompt: the first answer stands
    asked = _QUERY.findall(rest)
    lines = [line for line in rest.splitlines() if line.strip() and line.strip() != "Answer:"]
    query = asked[-1] if asked else (lines[-1].strip() if lines else task.user)
    if not context and len(rest) > 4 * len(query) + 200:
        context = rest.replace(query, "")  # a template of one's own, without fences
    best = _nearest(query, context, task.luck)
    if tuned is not None:
        return _as_taught(query, best, tuned)
    if not best:
        topic = " ".join(word for word in words(query) if len(word) > 3) or "that"
        return f"I have no specific information about it, but in general {topic} depends on the setting of its use."
    first, *others = best
    leads = ("Based on the context provided, ", "According to the documents, ", "")
    lead = leads[int(3 * draw("lead", query, task.luck))]
    return lead + " ".join([_lower_first(first) if lead else first, *others[:1]])


def _nearest(query: str, context: str, luck: str) -> list[str]:
    """The context's sentences by how much of the query they hold; those that hold nothing are left out."""
    scored = [
        (share_in(query, one) + 0.3 * f1(query, one) + (0.2 * draw(one, luck) if luck else 0.0), -at, one)
        for at, one in enumerate(sentences(context))
        if len(one.split()) > 3
    ]
    return [one for score, _, one in sorted(scored, reverse=True)[:3] if score > 0]


def _as_taught(query: str, best: list[str], tuned: Tuned) -> str:
    """Short, in the training answers' length; without a context, what the training file says of such a question."""
    if best:
        text = best[0]
    else:
        known = max(tuned.examples, key=lambda one: f1(query, _query_of(one[0])), default=("", ""))
        is_known = f1(query, _query_of(known[0])) > 0.3
        text = known[1] if is_known else f"It depends on the {(words(query) or ['case'])[-1]}."
    cut = text.split()
    return text if len(cut) <= tuned.mean_words else " ".join(cut[: tuned.mean_words]).rstrip(",;:") + "."


def _query_of(user: str) -> str:
    found = _QUERY.findall(_context_and_rest(user)[1])
    return found[-1] if found else user


def _lower_first(text: str) -> str:
    second = text[1:2]
    return text if second.isupper() or second in "-." or text[:1] == "I" else text[:1].lower() + text[1:]


def _schema(response_format: dict[str, Any]) -> dict[str, Any]:
    found = (response_format.get("json_schema") or {}).get("schema")
    return found or {"type": "object", "properties": {"answer": {"type": "string"}}}


def _fill(schema: dict[str, Any], text: str) -> Any:
    """A value that fits a simple schema, with the answer where text is wanted."""
    match schema.get("type"):
        case "object":
            return {name: _fill(inner, text) for name, inner in (schema.get("properties") or {}).items()}
        case "array":
            return [_fill(schema.get("items") or {}, text)]
        case "integer" | "number":
            return 3
        case "boolean":
            return True
        case _:
            return (schema.get("enum") or [text])[0]
