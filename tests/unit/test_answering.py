"""What one arm's answers to a question come to."""

import pytest

from radit_job.models.base import Answered, AnswerScore, Completion
from radit_job.rag.answering import Asked, Prompt, to_prediction
from radit_job.rag.context import Context
from radit_job.records import Message, Question

QUESTION = Question("q1", "Why?", "Because.", None, (), "file")
CONTEXT = Context(("c1", "c2"), (0.9, 0.3), ("one", "two"), None)
CONVERSATION = (Message("user", "Why?"),)
USED_UP = "the limit of 7 tokens was used up before any text came, as reasoning models do; raise answer.max_new_tokens"
FILTERED = "the service's content filter cut the answer"


def predicted(*written):
    """Of one prompt with both chunks, or of one prompt each."""
    chunks = [slice(0, 2)] if len(written) == 1 else [slice(0, 1), slice(1, 2)]
    answered = [Answered(Completion(text, 10, 7, reason), AnswerScore(-4.0, 2)) for text, reason in written]
    prompts = [Prompt(CONVERSATION, rows) for rows in chunks]
    weights = [1.0] if len(written) == 1 else [0.9, 0.1]
    return to_prediction("base", Asked("val", QUESTION, CONTEXT), prompts, answered, weights, max_new_tokens=7)


@pytest.mark.parametrize(
    ("written", "answer", "finish_reason", "error"),
    [
        ([("", "length")], "", "length", USED_UP),
        ([("<think>It may be that", "length")], "", "length", USED_UP),
        ([("<think>Hm.</think>\n", "length")], "", "length", USED_UP),
        ([("", "stop")], "", "stop", None),
        ([("Because it", "length")], "Because it", "length", None),
        ([("Bec", "content_filter")], "", "content_filter", FILTERED),
        ([("", "length"), ("Because two.", "stop")], "Because two.", "stop", None),
        ([("", "length"), ("Bec", "content_filter")], "", "length", USED_UP),
    ],
)
def test_an_answer_without_text_that_the_limit_cut_is_a_failure(written, answer, finish_reason, error):
    row = predicted(*written)
    assert (row.answer, row.finish_reason, row.error) == (answer, finish_reason, error)
    assert (row.answer_nats_per_token is None) == (error is not None)
    assert row.n_completion_tokens == 7 * len(written), "it is paid for all the same"
