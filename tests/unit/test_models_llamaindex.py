"""What a run's models are in LlamaIndex: the same prompts, the same answers, the chunks as nodes."""

import numpy as np
import pytest
from llama_index.core.llms import ChatMessage

from radit_job.models.chat import ChatFormat
from radit_job.models.llamaindex import as_llm, as_retriever
from radit_job.models.loading import open_embedder, open_generator
from radit_job.records import Chunk, Message

SYSTEM = "You answer from documents."


@pytest.fixture(scope="module")
def lm(tiny_lm_folder):
    return open_generator("huggingface", str(tiny_lm_folder), dtype="float32", n_threads=1)


def test_complete_and_chat_answer_as_the_pipeline_does(lm):
    llm = as_llm(lm, max_new_tokens=8, system_prompt=SYSTEM)
    turns = [Message("system", SYSTEM), Message("user", "What is LSR?")]
    (expected,) = lm.complete([turns], max_new_tokens=8)
    assert llm.complete("What is LSR?").text.strip() == expected.text
    answer = llm.chat([ChatMessage(role="system", content=SYSTEM), ChatMessage(role="user", content="What is LSR?")])
    assert answer.message.content.strip() == expected.text
    assert llm.metadata.context_window == 1024


def test_the_retriever_gives_the_nearest_chunks_as_nodes_and_breaks_ties_by_id():
    texts = ["Cats are animals that purr.", "The loss trains the query encoder.", "Cats are animals that purr."]
    chunks = [Chunk(f"a.pdf#{9 - i:05}", "a.pdf", i + 1, 10 * i, 10 * i + 9, 7, text) for i, text in enumerate(texts)]
    embedder = open_embedder("packaged", "all-minilm-l6-v2", dtype="float32")
    vectors = np.repeat(embedder.embed_documents(texts[:2]), [1, 1], axis=0)[[0, 1, 0]]
    nodes = as_retriever(chunks, vectors, embedder, k=2).retrieve("Which animal purrs?")
    assert [node.node.node_id for node in nodes] == ["a.pdf#00007", "a.pdf#00009"]
    assert nodes[0].score == nodes[1].score > 0.4
    assert nodes[0].node.metadata == {"document": "a.pdf", "page": 3}
    assert nodes[0].node.get_content(metadata_mode="llm") == texts[0], "the model sees the text alone"


def test_a_tokenizer_without_a_template_gets_a_plain_one(lm):
    import copy

    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.chat_template = None
    chat = ChatFormat(tokenizer)
    turns = [Message("system", "Be brief."), Message("user", "Why?")]
    assert chat.render(turns) == "Be brief.\n\nWhy?\n\n"
    assert chat.end_of_turn_id == tokenizer.eos_token_id


def test_a_template_that_knows_no_system_turn_gets_its_text_in_the_first_question(lm):
    import copy

    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "[{{ m.role }}] {{ m.content }}<|im_end|>{% endfor %}"
    )
    chat = ChatFormat(tokenizer)
    turns = [Message("system", "Be brief."), Message("user", "Why?")]
    assert chat.render(turns) == "[user] Be brief.\n\nWhy?<|im_end|>"
    assert chat.text_ids("<|im_end|>") == [chat.end_of_turn_id]
