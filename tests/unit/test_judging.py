"""The judge's prompts against LlamaIndex's own evaluators, and what becomes of its answers."""

import pytest
from llama_index.core.evaluation import (
    CorrectnessEvaluator,
    FaithfulnessEvaluator,
    PairwiseComparisonEvaluator,
    RelevancyEvaluator,
)
from llama_index.core.llms import ChatMessage, ChatResponse, CustomLLM, LLMMetadata
from pydantic import Field

from radit_job.models.base import Completion
from radit_job.rag import judging
from radit_job.rag.judged_scores import Repeats, judged_scores
from radit_job.rag.judging import Judge, Judged
from radit_job.rag.preference import count_preferences, preferences
from radit_job.records import Prediction

ITEM = Judged("What {is} it?", "A valve, {or} so.", "a valve", ("  The valve is red.\n", "", "It leaks {always}."))
OTHER = Judged("What {is} it?", "A pump.", "a valve")


class Recorder(CustomLLM):
    """A chat model that keeps what it is asked."""

    said: str = "YES"
    asked: list = Field(default_factory=list)

    @property
    def metadata(self):
        return LLMMetadata(is_chat_model=True, context_window=100_000, num_output=300, model_name="recorder")

    def chat(self, messages, **kwargs):
        self.asked.append([(message.role.value, message.content) for message in messages])
        return ChatResponse(message=ChatMessage(role="assistant", content=self.said))

    def complete(self, prompt, formatted=False, **kwargs):
        raise AssertionError("a chat model is asked by chat")

    def stream_complete(self, prompt, formatted=False, **kwargs):
        raise AssertionError("a chat model is asked by chat")


def plain(*conversations):
    return [[(message.role, message.content) for message in conversation] for conversation in conversations]


def test_correctness_is_asked_as_by_llamaindex():
    llm = Recorder(said="4\nGood", asked=[])
    CorrectnessEvaluator(llm=llm).evaluate(query=ITEM.question, response=ITEM.answer, reference=ITEM.reference)
    assert llm.asked == plain(judging.correctness_prompt(ITEM))


@pytest.mark.parametrize(
    ("evaluator", "prompt"),
    [(FaithfulnessEvaluator, judging.faithfulness_prompt), (RelevancyEvaluator, judging.relevancy_prompt)],
)
def test_answers_are_held_against_their_context_as_by_llamaindex(evaluator, prompt):
    llm = Recorder(asked=[])
    evaluator(llm=llm).evaluate(query=ITEM.question, response=ITEM.answer, contexts=list(ITEM.contexts))
    assert llm.asked == plain(prompt(ITEM))


def test_two_answers_are_compared_in_both_orders_as_by_llamaindex():
    llm = Recorder(said="[[C]]", asked=[])
    PairwiseComparisonEvaluator(llm=llm).evaluate(
        query=ITEM.question, response=ITEM.answer, second_response=OTHER.answer, reference=ITEM.reference
    )
    assert llm.asked == plain(judging.preference_prompt(ITEM, OTHER), judging.preference_prompt(OTHER, ITEM))


class Answering:
    """A model that answers by a function of the last message."""

    context_tokens = None

    def __init__(self, answer, finish_reason="stop"):
        self.answer, self.finish_reason, self.asked = answer, finish_reason, []

    def n_prompt_tokens(self, conversation):
        return sum(len(message.content.split()) for message in conversation)

    def complete(self, conversations, *, max_new_tokens, on_done=None, repeat=0):
        self.asked += [(conversation, repeat) for conversation in conversations]
        texts = [self.answer(conversation[-1].content, repeat) for conversation in conversations]
        return [Completion(text, 10, 2, self.finish_reason) for text in texts]


def prediction(number, arm, answer, *, split="val", chunk_ids=("c1",), error=None):
    return Prediction(
        question_id=f"q{number}",
        arm=arm,
        split=split,
        question=f"What is {number}?",
        reference=f"part {number}",
        answer=answer,
        chunk_ids=() if "closed" in arm else chunk_ids,
        scores=(),
        gold_chunk_ids=(),
        gold_rank=None,
        n_prompt_tokens=1,
        n_completion_tokens=1,
        finish_reason="stop",
        answer_nats_per_token=None,
        error=error,
    )


def test_the_same_prompt_is_asked_once_and_judged_for_all():
    model = Answering(lambda text, repeat: "4" if "part" in text else "no idea")
    rows = [prediction(0, arm, "the same") for arm in ("base", "few_shot", "lm")] + [prediction(1, "lm", "other")]
    scores, section = judged_scores(Judge(model, 300), rows, {}, ["correctness"])
    assert [score.value for score in scores["correctness"]] == [4.0] * 4
    assert len(model.asked) == section["asked"]["correctness"]["n"] == 2


def test_what_a_content_filter_cut_is_a_failure_and_a_score_cut_by_length_is_a_score():
    rows = [prediction(0, "base", "x")]
    for reason, value in (("content_filter", None), ("length", 4.0)):
        model = Answering(lambda text, repeat: "4\nIt", reason)
        scores, section = judged_scores(Judge(model, 300), rows, {}, ["correctness"])
        assert scores["correctness"][0].value == value
    assert section["asked"] == {"correctness": {"n": 1, "n_failed": 0, "reasons": {}}}


@pytest.mark.parametrize("said", ["", "<think>The answer says"])
def test_a_judge_that_thinks_up_to_the_limit_gave_no_judgement(said):
    rows = [prediction(0, "base", "x"), prediction(0, "lm", "y")]
    model = Answering(lambda text, repeat: said, "length")
    scores, section = judged_scores(Judge(model, 300), rows, {}, ["correctness", "preference"])
    told = "the judge: the limit of 300 tokens was used up before any text came, as reasoning models do; raise evaluate"
    assert all(score.value is None and score.error.startswith(told) for name in scores for score in scores[name])
    for asked in section["asked"].values():
        assert asked["reasons"] == {"evaluate.judge_max_tokens used up before any text came": 2}


@pytest.mark.parametrize(
    ("said", "outcome", "reason"),
    [
        ("Assistant A is better in detail. Assistant B, on the other", "failed", "cut before its verdict"),
        ("Verdict: A\nB, however,", "failed", "cut before its verdict"),
        ("It is a tie in length, but", "failed", "cut before its verdict"),
        ("[[A]] or [[B]], for", "failed", "several verdicts"),
        ("[[A]] It says", "inconsistent", ""),
        ("[[C]] Both", "tie", ""),
    ],
)
def test_a_comparison_that_was_cut_counts_by_its_verdict_alone(said, outcome, reason):
    judge = Judge(Answering(lambda *_: said, "length"), 300)
    (found,) = preferences(judge, [(Judged("q", "one"), Judged("q", "two"))])
    assert (found.outcome, found.judgement.reason) == (outcome, reason)
    assert (found.judgement.value is None) == (outcome == "failed")


def test_a_prompt_that_is_too_long_fails_alone():
    model = Answering(lambda text, repeat: "4")
    model.context_tokens = 600
    rows = [prediction(0, "base", "word " * 600), prediction(1, "base", "word")]
    scores, section = judged_scores(Judge(model, 300), rows, {}, ["correctness"])
    long, short = scores["correctness"]
    assert long.value is None and "the judge reads 600 tokens" in long.error and short.value == 4
    assert section["asked"]["correctness"] == {"n": 2, "n_failed": 1, "reasons": {"a prompt that is too long": 1}}


def test_without_a_context_there_is_no_faithfulness():
    model = Answering(lambda text, repeat: "YES" if "red valve" in text else "NO")
    arms = ("closed_book", "base", "lm", "lm_closed_book")
    rows = [prediction(0, arm, "x") for arm in arms] + [prediction(1, arm, "", error="too long") for arm in arms]
    scores, _ = judged_scores(Judge(model, 300), rows, {"c1": "The red valve."}, ["faithfulness", "relevancy"])
    for metric in ("faithfulness", "relevancy"):
        found = [(score.arm, score.value, score.error) for score in scores[metric]]
        failed = [("base", None, "too long"), ("lm", None, "too long")]
        assert found == [("base", 1.0, None), ("lm", 1.0, None), *failed]


def by_answers(text, repeat):
    """Likes long answers; likes the first one where they are equally long; a tie if both are good."""
    first, second = (text.split(f"Assistant {name}’s Answer]\n")[1].split("\n")[0] for name in "AB")
    if "good" in first and "good" in second:
        return "Both are good. [[C]]"
    if "?" in first + second:
        return "I cannot tell."
    return "[[A]]" if len(first) >= len(second) else "[[B]]"


def test_a_preference_holds_in_both_orders_or_is_none():
    pairs = [
        ("longer one", "short", 1.0, "win"),
        ("short", "longer one", 0.0, "loss"),
        ("good", "good too", 0.5, "tie"),
        ("equal", "as it", 0.5, "inconsistent"),
        ("what?", "short", None, "failed"),
        (" same ", "same", 0.5, "tie"),
    ]
    model = Answering(by_answers)
    asked = [(Judged("q", mine), Judged("q", other)) for mine, other, _, _ in pairs]
    found = preferences(Judge(model, 300), asked)
    assert [(item.judgement.value, item.outcome) for item in found] == [(value, name) for *_, value, name in pairs]
    assert len(model.asked) == 8  # the first two pairs ask the same, and equal answers nothing
    assert count_preferences(found, 2) == {
        "n": 5,
        "n_wins": 1,
        "n_losses": 1,
        "n_ties": 2,
        "n_inconsistent": 1,
        "n_failed": 3,
        "first_position_share": pytest.approx(4 / 6, abs=1e-5),
    }


def test_a_judge_that_always_takes_the_first_answer_prefers_none():
    found = preferences(Judge(Answering(lambda *_: "[[A]]"), 300), [(Judged("q", "a"), Judged("q", "b"))] * 3)
    assert {item.judgement.value for item in found} == {0.5}
    assert count_preferences(found)["first_position_share"] == 1.0


def test_preference_is_of_held_out_questions_and_a_failed_answer_fails():
    rows = [
        prediction(number, arm, "longer one" if arm == "lm" else "short") for arm in ("base", "lm") for number in (0, 1)
    ]
    rows += [prediction(7, "lm", "longer one", split="train"), prediction(7, "base", "short", split="train")]
    rows += [
        prediction(2, "lm", "x"),
        prediction(2, "base", "", error="the server refused it"),
        prediction(3, "lm", "x"),
    ]
    scores, section = judged_scores(Judge(Answering(by_answers), 300), rows, {}, ["preference"])
    found = [(score.question_id, score.split, score.value, score.error) for score in scores["preference"]]
    assert found == [
        ("q0", "val", 1.0, None),
        ("q1", "val", 1.0, None),
        ("q7", "train", 1.0, None),
        ("q2", "val", None, "the server refused it"),
    ]
    counts = section["preference"]
    assert (counts["n"], counts["n_wins"], counts["n_failed"]) == (2, 2, 1)
    assert {score.arm for score in scores["preference"]} == {"lm"}


def test_self_agreement_is_of_some_judgements_asked_a_second_time():
    def judge(text, repeat):
        number = int(text.split("What is ")[1].split("?")[0])
        if repeat and number == 3:
            return "no score at all"
        return "nothing" if number == 4 else f"{3 + (repeat and number < 2)}"

    rows = [prediction(number, arm, f"{arm} {number}") for arm in ("base", "lm") for number in range(5)]
    model = Answering(judge)
    _, section = judged_scores(Judge(model, 300), rows, {}, ["correctness"], Repeats(model, 20, seed=7))
    # 8 of 10 could be read; of the repeats two cannot be, and those of questions 0 and 1 differ by a point.
    assert section["repeated"] == {
        "n": 6,
        "n_equal": 2,
        "mean_abs_difference": pytest.approx(4 / 6, abs=1e-5),
        "n_failed": 2,
    }
    assert sum(repeat for _, repeat in model.asked) == 8

    drawn = []
    for seed in (7, 7, 8):
        model = Answering(judge)
        judged_scores(Judge(model, 300), rows, {}, ["correctness"], Repeats(model, 3, seed))
        drawn.append([conversation for conversation, repeat in model.asked if repeat])
    assert len(drawn[0]) == 3 and drawn[0] == drawn[1] != drawn[2]


def test_a_judge_that_would_say_the_same_is_not_repeated():
    _, section = judged_scores(Judge(Answering(lambda *_: "4"), 300), [prediction(0, "base", "x")], {}, ["correctness"])
    assert section["repeated"] is None
