"""The filters around a small question writer; its model and encoder are functions whose outputs the test chooses."""

import numpy as np

from radit_job.rag.question_writing import (
    QuestionWriter,
    Sentence,
    answer_sentences,
    content_words,
    first_question,
    looks_english,
    question_prompt,
)
from radit_job.records import Chunk

PUMP = "The pump moves cold water through the northern hall of the plant."
GATE = "The gate is opened by a guard at seven every morning in summer."


def chunk(text):
    return Chunk("d#0", "d", None, 0, len(text), 1, text)


def test_answer_sentences_make_sense_alone():
    text = (
        f"{PUMP} It is old and nobody knows who built it there long ago. As Figure 3 shows the pump is old and tired. "
        "Too short. 1.2 3.4 5.6 7.8 9.0 1.1 2.2 3.3. Anna Berg, Carl Dahl, Erik Frost, and Gina Holm Ingrid Jonsson."
    )
    assert list(answer_sentences(chunk(text))) == [PUMP]


def test_a_bibliography_gives_no_sentences():
    text = "Ann Lee. 2019. Measuring the flow of water through pipes of steel. arXiv preprint. Bo Ek. 2020. Pumps."
    assert list(answer_sentences(chunk(text))) == []


def test_first_question_takes_one_question_only():
    assert first_question('Question: "What moves cold water?" Because.') == "What moves cold water?"
    assert first_question("I am glad. What moves the water?") is None
    assert first_question("The pump moves water.") is None
    assert first_question("Why?") is None
    assert first_question(question_prompt(PUMP)[2].content) is None  # an example of the prompt, parroted


def test_content_words_ignore_small_words_and_endings():
    assert (
        content_words("How does the model observe them?")
        == content_words("a model that observes")
        == {"model", "observ"}
    )


def test_english_is_told_from_its_neighbours():
    assert looks_english([PUMP, GATE])
    german = "Die Pumpe in der Halle an der Wand war so alt, dass niemand mehr wusste, wer sie gebaut hat."
    french = "La pompe a été construite par on ne sait qui, et on me dit que le port a changé depuis."
    assert not looks_english([german]) and not looks_english([french]) and not looks_english(["泵在大厅里。"])


def embed_by_words(texts):
    """Bags of words over a small vocabulary, normalised: close texts are close, as an encoder would have it."""
    vocabulary = sorted(content_words(PUMP) | content_words(GATE))
    rows = np.array([[float(word in content_words(text)) for word in vocabulary] for text in texts], dtype=np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


def writer_of(sentences, write):
    vectors = embed_by_words([sentence.text for sentence in sentences])
    return QuestionWriter(sentences, vectors, vectors[:0], write, embed_by_words, seed=7)


def test_the_writer_keeps_the_best_sample_and_counts_the_rest_by_reason():
    sentences = [Sentence(PUMP, "d", ["d#0"]), Sentence(GATE, "d", ["d#1", "d#2"])]
    written = {
        PUMP: [
            "What moves water somehow?",
            "What moves cold water through the northern hall?",
            "No question.",
            "Who likes cheese and wine?",
        ],
        GATE: [
            "Who moves cold water through it?",
            "Who is the guard?",
            "When is the gate opened by a guard in summer?",
            "Why?",
        ],
    }
    seen = []

    def write(conversations, seed):
        seen.append([conversation[-1].content for conversation in conversations])
        return [
            written[PUMP][number] if number < 4 else written[GATE][number - 4] for number in range(len(conversations))
        ]

    writer = writer_of(sentences, write)
    kept = writer.run(n_wanted=5, per_chunk=1, on_round=lambda tried, kept: None)
    assert seen == [[PUMP] * 4 + [GATE] * 4]
    assert [(row.question, row.answer, row.chunk_ids) for row in kept] == [
        ("What moves cold water through the northern hall?", PUMP, ("d#0",)),
        ("When is the gate opened by a guard in summer?", GATE, ("d#1", "d#2")),
    ]
    reasons = sorted((row.reason, row.where) for row in writer.dropped)
    assert reasons == [
        ("better_sample_kept", "d#0"),
        ("low_similarity", "d#1"),
        ("not_a_question", "d#0"),
        ("not_a_question", "d#1"),
        ("words_not_from_sentence", "d#0"),
        ("words_not_from_sentence", "d#1"),
    ]


def test_a_question_that_finds_another_sentence_is_dropped():
    other = "The gate moves cold water through the northern hall of the plant."
    sentences = [Sentence(PUMP, "d", ["d#0"]), Sentence(other, "d", ["d#1"])]
    written = ["What moves cold water with a pump?"] * 4 + ["What moves the cold pump water?"] * 4
    writer = writer_of(sentences, lambda prompts, seed: written)
    kept = writer.run(n_wanted=2, per_chunk=1, on_round=lambda tried, kept: None)
    assert [row.answer for row in kept] == [PUMP]
    assert ("finds_another_sentence", "d#1") in {(row.reason, row.where) for row in writer.dropped}


def test_a_question_that_finds_a_sentence_of_another_block_is_dropped():
    sentences = [Sentence(PUMP, "d", ["d#0"])]
    other = "The cold water moves through the northern hall."
    writer = QuestionWriter(
        sentences,
        embed_by_words([PUMP]),
        embed_by_words([other]),
        lambda prompts, seed: ["What moves cold water through the northern hall?"] * 4,
        embed_by_words,
        seed=7,
    )
    assert writer.run(n_wanted=2, per_chunk=1, on_round=lambda tried, kept: None) == []
    assert {row.reason for row in writer.dropped} == {"finds_another_sentence", "duplicate"}
