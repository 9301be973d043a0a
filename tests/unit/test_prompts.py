from radit_job.rag.prompts import Prompts, fill, join
from radit_job.records import Message

PROMPTS = Prompts("Be brief.", "C: {context}\nQ: {question}", "Q: {question}")


def test_braces_in_documents_and_questions_are_text():
    assert fill("{context} | {question}", context="{question} {x} {0}", question="{context}") == (
        "{question} {x} {0} | {context}"
    )
    assert fill("{other} {context}", context=r"\1 \g<0>", question="") == r"{other} \1 \g<0>"


def test_with_context_puts_chunks_best_first_with_a_blank_line_between():
    messages = PROMPTS.with_context("why?", ["best \n", "second"])
    assert messages == [Message("system", "Be brief."), Message("user", "C: best\n\nsecond\nQ: why?")]
    assert join([]) == ""


def test_closed_book_has_no_context():
    assert PROMPTS.closed_book("why?") == [Message("system", "Be brief."), Message("user", "Q: why?")]


def test_few_shot_turns_come_before_the_question_and_do_not_depend_on_it():
    pairs = [("q1", "a1"), ("q2", "a2")]
    one = PROMPTS.few_shot(pairs, "why?", ["text"])
    other = PROMPTS.few_shot(pairs, "how?", ["other"])
    assert [message.role for message in one] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert one[1:3] == [Message("user", "Q: q1"), Message("assistant", "a1")]
    assert one[:-1] == other[:-1]
    assert one[-1] == PROMPTS.with_context("why?", ["text"])[-1]


def test_an_empty_system_prompt_is_no_message():
    assert Prompts("", "{context}{question}", "{question}").closed_book("x") == [Message("user", "x")]
