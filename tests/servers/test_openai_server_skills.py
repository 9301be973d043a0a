"""What the test server's models answer is good enough to test question writing, judging and LlamaIndex against."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.servers.openai_server import Habits, OpenAIServer, openai_server
from tests.servers.openai_server.skills import Task, answer

FENCE = "---------------------"
SENTENCES = [
    "The harbour of Aldby was built by Master Sten in 1764.",
    "Salt is carried from the eastern mines to the coast by mules.",
    "The lighthouse burns 30 barrels of oil in a winter night.",
    "Fishermen can read the weather from the colour of the clouds.",
    "The bell of Saint Olaf weighs two tons and is rung by four men.",
    "Dried cod has been the main export of the island for centuries.",
]
TEXT = " ".join(SENTENCES)
PAIRS = {"type": "json_schema", "json_schema": {"name": "question_answer_pairs", "schema": {"type": "object"}}}


def say(user: str, habits: Habits | None = None, system: str = "", **task: Any) -> str:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    return answer(Task(messages, **task), habits or Habits(bad_question_share=0.0), None)


def writing(n: int, text: str = TEXT, others: str = "") -> str:
    return f"A text:\n{FENCE}\n{text}\n{FENCE}\nWrite {n} question/answer pairs about it.\n{others}Reply with JSON."


def checking(question: str, reply: str) -> str:
    return f"{FENCE}\n{TEXT}\n{FENCE}\nQuestion: {question}\nAnswer: {reply}\n\nIs all of it there? Answer YES or NO."


def test_pairs_are_json_where_a_schema_holds_the_model_to_it_and_fenced_with_chatter_otherwise() -> None:
    pairs = json.loads(say(writing(4), response_format=PAIRS))["pairs"]
    assert len(pairs) == 4 and all(pair["answer"] in SENTENCES and pair["question"].endswith("?") for pair in pairs)
    assert json.loads(say(writing(4), response_format={"type": "json_object"}))["pairs"] == pairs
    found = re.fullmatch(r"Here are 4 [^\n]+\n\n```json\n(.*)\n```", say(writing(4)), re.DOTALL)
    assert found and json.loads(found[1])["pairs"] == pairs


def test_questions_ask_for_something_that_the_sentence_holds_and_are_not_asked_twice() -> None:
    pairs = json.loads(say(writing(6), response_format=PAIRS))["pairs"]
    by_answer = {pair["answer"]: pair["question"] for pair in pairs}
    assert by_answer[SENTENCES[1]] == "What is carried from the eastern mines to the coast by mules?"
    assert by_answer[SENTENCES[3]] == "What can read the weather from the colour of the clouds?"
    known = [pair["question"] for pair in pairs[:3]]
    others = "".join(f"  - {question}\n" for question in known)
    more = json.loads(say(writing(6, others=others), response_format=PAIRS))["pairs"]
    assert more and not {pair["question"] for pair in more} & set(known)


def test_bad_questions_come_at_their_rate_and_the_check_tells_the_unanswerable_ones() -> None:
    text = " ".join(f"The {word} of Aldby is painted by the guild of {word} makers." for word in _names(400))
    pairs = json.loads(say(writing(400, text), Habits(bad_question_share=0.1), response_format=PAIRS))["pairs"]
    pointing = sum("the passage" in pair["question"] for pair in pairs)
    invented = [pair for pair in pairs if "Norwegian" in pair["answer"]]
    repeated = len(pairs) - len({pair["question"] for pair in pairs})
    assert len(pairs) == 400 and 20 < pointing < 70 and 20 < len(invented) < 90 and 20 < repeated < 70
    assert say(checking(invented[0]["question"], invented[0]["answer"])) == "NO"
    assert say(checking("Who built the harbour?", SENTENCES[0])) == "YES"


def _names(n: int) -> list[str]:
    return ["".join("bdfglmnprstvz"[(at // 13**place) % 13] + "aeiou"[at % 5] for place in range(3)) for at in range(n)]


@pytest.fixture(scope="module")
def server() -> Iterator[OpenAIServer]:
    with openai_server() as server:
        yield server


def llm_of(server: OpenAIServer, model: str = "gpt-4o-mini") -> Any:
    from llama_index.llms.openai import OpenAI

    return OpenAI(model=model, api_base=server.url, api_key=server.key, max_retries=0, temperature=0.0)


def test_llamaindex_answers_and_streams_through_it(server: OpenAIServer) -> None:
    llm = llm_of(server)
    asked = f"{FENCE}\n{TEXT}\n{FENCE}\nQuery: What does the lighthouse burn?\nAnswer: "
    whole = llm.complete(asked).text
    assert "30 barrels of oil" in whole
    assert [part.text for part in llm.stream_complete(asked)][-1] == whole


def test_llamaindexes_own_evaluators_are_judged_by_what_the_answers_say(server: OpenAIServer) -> None:
    from llama_index.core.evaluation import (
        CorrectnessEvaluator,
        FaithfulnessEvaluator,
        PairwiseComparisonEvaluator,
        RelevancyEvaluator,
    )

    llm = llm_of(server)
    query, right, wrong = "Who built the harbour?", SENTENCES[0], "Nobody remembers any architects, sadly."
    faithful, relevant = FaithfulnessEvaluator(llm=llm), RelevancyEvaluator(llm=llm)
    assert faithful.evaluate(query, right, [TEXT]).passing and not faithful.evaluate(query, wrong, [TEXT]).passing
    assert relevant.evaluate(query, right, [TEXT]).passing and not relevant.evaluate(query, wrong, [TEXT]).passing
    scores = {}
    server.settings.habits.judge_forms = ("{score:.1f}\n{reason}",)  # the only form that its parser survives
    for name, reply in (("right", right), ("wrong", wrong)):
        scores[name] = CorrectnessEvaluator(llm=llm).evaluate(query, reply, reference=right).score
    server.settings.habits = Habits()
    assert scores == {"right": 5.0, "wrong": 1.0}
    pairwise = PairwiseComparisonEvaluator(llm=llm)
    assert pairwise.evaluate(query, right, second_response=wrong, reference=right).score == 1.0
    assert pairwise.evaluate(query, wrong, second_response=right, reference=right).score == 0.0


CORRECTNESS = "You are an expert evaluation system for a question answering chatbot."


def judged(generated: str, habits: Habits | None = None, number: int = 0) -> str:
    user = f"\n## User Query\nWho?\n\n## Reference Answer\n{SENTENCES[0]}\n\n## Generated Answer\n{generated}\n"
    return say(user, habits, CORRECTNESS, number=number)


def test_the_judges_scores_follow_the_overlap_and_come_in_several_forms() -> None:
    words = SENTENCES[0].split()
    scores = [float(re.search(r"[\d.]+", judged(" ".join(words[:n])))[0]) for n in (1, 3, 5, len(words))]  # type: ignore[index]
    assert scores == sorted(scores) and scores[0] < 3 < scores[-1] == 5
    said = {re.sub(r"[\d.]+", "N", judged(f"Master Sten {at}").split("\n")[0], count=1) for at in range(40)}
    assert said == {"N", "Score: N/5", "**N**"}


def test_the_judge_is_steady_unless_it_is_told_not_to_be() -> None:
    assert len({judged("Master Sten", number=number) for number in range(30)}) == 1
    unsteady = [judged("Master Sten", Habits(judge_unsteady_share=0.3), number) for number in range(60)]
    assert len(set(unsteady)) == 2 and 5 < len(unsteady) - unsteady.count(judged("Master Sten")) < 35
