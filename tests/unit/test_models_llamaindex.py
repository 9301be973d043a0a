"""What a run's models are in LlamaIndex: the same prompts, the same answers, the chunks as nodes."""

import copy

import pytest
from llama_index.core.llms import ChatMessage
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, TextNode
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from radit_job.model_ref import ModelRef
from radit_job.models.base import Mixture
from radit_job.models.chat import ChatFormat
from radit_job.models.ensemble import answer_mixtures
from radit_job.models.llamaindex import Asking, as_llm, as_query_engine, as_retriever
from radit_job.models.loading import open_embedder, open_generator
from radit_job.rag.retrieval import search
from radit_job.records import Chunk, Message

SYSTEM = "You answer from documents."


@pytest.fixture(scope="module")
def lm(tiny_lm_folder):
    return open_generator(ModelRef("huggingface", str(tiny_lm_folder), dtype="float32"), n_threads=1)


def test_complete_and_chat_answer_as_the_pipeline_does(lm):
    llm = as_llm(lm, max_new_tokens=8, system_prompt=SYSTEM)
    turns = [Message("system", SYSTEM), Message("user", "What is LSR?")]
    (expected,) = lm.complete([turns], max_new_tokens=8)
    assert llm.complete("What is LSR?").text.strip() == expected.text
    answer = llm.chat([ChatMessage(role="system", content=SYSTEM), ChatMessage(role="user", content="What is LSR?")])
    assert answer.message.content.strip() == expected.text
    assert llm.metadata.context_window == 1024


def test_the_model_s_own_generation_settings_are_set_aside(tiny_lm_folder):
    lm = open_generator(ModelRef("huggingface", str(tiny_lm_folder), dtype="float32"), n_threads=1)
    (expected,) = lm.complete([[Message("user", "What is LSR?")]], max_new_tokens=8)
    lm.model.generation_config.suppress_tokens = lm.chat.text_ids(expected.text)
    assert as_llm(lm, max_new_tokens=8).complete("What is LSR?").text.strip() == expected.text != ""


class FixedRetriever(BaseRetriever):
    """Always the same nodes."""

    def __init__(self, texts: list[str]) -> None:
        super().__init__()
        self.nodes = [NodeWithScore(node=TextNode(text=text), score=0.9 - i / 10) for i, text in enumerate(texts)]

    def _retrieve(self, query_bundle):
        return self.nodes


def asked_with(texts, question="Why?"):
    return [Message("system", SYSTEM), Message("user", "\n\n".join(texts) + "\n" + question)]


def halved(similarities):
    return [similarity / 2 for similarity in similarities]


def engine_of(lm, texts, *, conversations, choose=lambda answers, weights: 0, **more):
    return as_query_engine(lm, FixedRetriever(texts), Asking(conversations, halved, choose, max_new_tokens=8, **more))


def test_the_query_engine_answers_the_conversation_that_it_is_told_to_build(lm):
    texts = ["It rains.", "He said: ['a', 'b']"]
    engine = engine_of(lm, texts, conversations=lambda question, texts: [asked_with(texts, question)])
    response = engine.query("Why?")
    (expected,) = lm.complete([asked_with(texts)], max_new_tokens=8)
    assert str(response) == expected.text
    assert [found.node.get_content() for found in response.source_nodes] == texts


def test_the_query_engine_chooses_among_several_answers_by_their_chunks(lm):
    seen = []
    engine = engine_of(
        lm,
        ["It rains.", "It snows."],
        conversations=lambda question, texts: [asked_with([text], question) for text in texts],
        choose=lambda answers, weights: seen.append((answers, weights)) or 1,
    )
    expected = lm.complete([asked_with(["It rains."]), asked_with(["It snows."])], max_new_tokens=8)
    assert str(engine.query("Why?")) == expected[1].text != expected[0].text
    assert seen == [([item.text for item in expected], [0.45, 0.4])]


def test_the_query_engine_mixes_the_prompts_of_an_ensemble(lm):
    texts = ["It rains.", "It snows. " * 9, "Hail falls."]
    engine = engine_of(
        lm, texts, conversations=lambda question, texts: [asked_with([text], question) for text in texts], mixes=True
    )
    mixture = Mixture(tuple(asked_with([text]) for text in texts), tuple(halved([0.9, 0.8, 0.7])))
    (expected,) = answer_mixtures(lm, [mixture], None, max_new_tokens=8)
    response = engine.query("Why?")
    assert str(response) == expected.completion.text
    assert [found.node.get_content() for found in response.source_nodes] == texts
    alone = lm.complete([asked_with([text]) for text in texts], max_new_tokens=8)
    assert str(response) not in [item.text for item in alone], "else it could be one prompt's answer"


def test_chunks_that_do_not_fit_the_model_are_left_out_last_first(lm):
    texts = ["It rains.", "word " * 1100, "It snows."]
    engine = engine_of(lm, texts, conversations=lambda question, texts: [asked_with(texts, question)])
    response = engine.query("Why?")
    assert [found.node.get_content() for found in response.source_nodes] == ["It rains."]
    assert str(response) == lm.complete([asked_with(["It rains."])], max_new_tokens=8)[0].text


def test_the_retriever_gives_the_nearest_chunks_as_nodes():
    texts = ["Cats are animals that purr.", "The loss trains the query encoder.", "Cats are animals that purr."]
    chunks = [Chunk(f"a.pdf#{9 - i:05}", "a.pdf", i + 1, 10 * i, 10 * i + 9, 7, text) for i, text in enumerate(texts)]
    embedder = open_embedder(ModelRef("packaged", "all-minilm-l6-v2", dtype="float32"))
    vectors = embedder.embed_documents(texts[:2])[[0, 1, 0]]

    def nearest(query):
        found = search(vectors, query, k=2)
        return found.rows[0], found.similarities[0]

    nodes = as_retriever(chunks, embedder, nearest).retrieve("Which animal purrs?")
    assert [node.node.node_id for node in nodes] == ["a.pdf#00009", "a.pdf#00007"], "ties go by row, as in the pipeline"
    assert nodes[0].score == nodes[1].score > 0.4
    assert nodes[0].node.metadata == {"document": "a.pdf", "page": 1}
    assert nodes[0].node.get_content(metadata_mode="llm") == texts[0], "the model sees the text alone"


def test_a_tokenizer_without_a_template_gets_a_plain_one(lm):
    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.chat_template = None
    chat = ChatFormat(tokenizer)
    turns = [Message("system", "Be brief."), Message("user", "Why?")]
    assert chat.render(turns) == "Be brief.\n\nWhy?\n\n"
    assert chat.end_of_turn_id == tokenizer.eos_token_id


def test_a_template_that_knows_no_system_turn_gets_its_text_in_the_first_question(lm):
    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "[{{ m.role }}] {{ m.content }}<|im_end|>{% endfor %}"
    )
    chat = ChatFormat(tokenizer)
    turns = [Message("system", "Be brief."), Message("user", "Why?")]
    assert chat.render(turns) == "[user] Be brief.\n\nWhy?<|im_end|>"
    assert chat.text_ids("<|im_end|>") == [chat.end_of_turn_id]


def test_the_plain_template_keeps_the_first_token_when_it_is_saved(lm, tmp_path):
    lm.tokenizer.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.chat_template = None
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", tokenizer.bos_token_id)]
    )
    turns = [Message("user", "Why?")]
    first = ChatFormat(tokenizer).prompt_ids(turns)
    assert first[0] == tokenizer.bos_token_id not in first[1:]
    tokenizer.save_pretrained(tmp_path / "again")
    assert ChatFormat(AutoTokenizer.from_pretrained(tmp_path / "again")).prompt_ids(turns) == first


def test_neither_the_date_nor_thoughts_come_into_a_prompt(lm):
    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.chat_template = (
        "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
        "{{ date_string }} {{ messages[0].content }}<|im_end|>"
        "{% if enable_thinking is not defined or enable_thinking %}<think>{% endif %}"
    )
    assert ChatFormat(tokenizer).render([Message("user", "Why?")]) == "26 Jul 2024 Why?<|im_end|>"
