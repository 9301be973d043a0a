"""Which pairs are kept, each reason of dropping once, in several languages."""

import pytest

from radit_job.rag.pair_answers import WrittenPair
from radit_job.rag.pair_filters import PairRules, common_words, n_words, refusal, share_in_chunk

RULES = PairRules(max_answer_words=20, check_overlap=True)
ENGLISH = "The tower at the harbour was built in 1806 by Anna Berg. It carries a lamp of forty mirrors."
GERMAN = "Der Turm am Hafen wurde 1806 von Anna Berg gebaut. Er trägt eine Lampe mit vierzig Spiegeln."
CHINESE = "港口的灯塔由安娜于1806年建造。塔顶的灯有四十面镜子，可照亮二十公里外的海面。"
JAPANESE = "港の灯台は1806年に建てられました。灯台には四十枚の鏡があります。"

KEPT = [
    (ENGLISH, "Who built the tower at the harbour?", "Anna Berg built it in 1806."),
    (ENGLISH, "Was the tower built by Anna Berg?", "Yes, Anna Berg built the tower."),
    (ENGLISH, "Is the tower or the harbour lit by a lamp?", "The tower."),
    (GERMAN, "Wer hat den Turm am Hafen gebaut?", "Den Turm am Hafen hat 1806 Anna Berg gebaut."),
    (CHINESE, "港口的灯塔是谁建造的？", "灯塔由安娜于1806年建造。"),
    (CHINESE, "灯塔有多少面镜子？", "灯塔有四十面镜子。"),
    (JAPANESE, "灯台には鏡が何枚ありますか。", "灯台には四十枚の鏡があります。"),
]
DROPPED = {
    "not_a_question": (ENGLISH, "Describe the tower at the harbour.", "Anna Berg built it in 1806."),
    "points_outside": (ENGLISH, "Who built the tower according to the text?", "Anna Berg built it in 1806."),
    "empty_answer": (ENGLISH, "Who built the tower at the harbour?", "..."),
    "long_answer": (ENGLISH, "Who built the tower at the harbour?", "Anna Berg built it " * 6),
    "long_question": (ENGLISH, "Who built the " + "very " * 80 + "high tower?", "Anna Berg built it in 1806."),
    "repeats_question": (ENGLISH, "Was the tower built by Anna Berg?", "The tower was built by Anna Berg."),
    "no_answer": (ENGLISH, "Who paid for the tower at the harbour?", "The text does not mention who paid for it."),
    "not_answerable": (ENGLISH, "Who paid for the tower?", "A shipping company from Norway paid all bills."),
}


@pytest.mark.parametrize(("chunk", "question", "answer"), KEPT)
def test_good_pairs_are_kept_in_every_language(chunk, question, answer):
    assert refusal(WrittenPair(question, answer), chunk, RULES) is None


@pytest.mark.parametrize("reason", DROPPED)
def test_each_reason_drops_its_pair(reason):
    chunk, question, answer = DROPPED[reason]
    assert refusal(WrittenPair(question, answer), chunk, RULES) == reason


@pytest.mark.parametrize(
    ("chunk", "question", "answer", "reason"),
    [
        (
            GERMAN,
            "Wer bezahlte den Turm am Hafen?",
            "Eine Reederei aus Norwegen übernahm sämtliche Kosten.",
            "not_answerable",
        ),
        (CHINESE, "谁支付了灯塔的费用？", "挪威航运公司承担了全部费用。", "not_answerable"),
        (CHINESE, "灯塔由安娜建造吗？", "灯塔由安娜建造吗？", "repeats_question"),
        (CHINESE, "灯塔有多少面镜子？", "镜" * 60, "long_answer"),
        (JAPANESE, "灯台の歴史。", "灯台には四十枚の鏡があります。", "not_a_question"),
    ],
)
def test_bad_pairs_are_dropped_in_other_languages_too(chunk, question, answer, reason):
    assert refusal(WrittenPair(question, answer), chunk, RULES) == reason


def test_without_the_check_by_overlap_any_answer_will_do():
    chunk, question, answer = DROPPED["not_answerable"]
    assert refusal(WrittenPair(question, answer), chunk, PairRules(20, check_overlap=False)) is None


def test_words_that_most_chunks_have_are_no_evidence():
    chunks = [f"Der Turm und die Stadt sind für den Hafen {number} da." for number in range(20)]
    common = common_words(chunks)
    assert {"der", "und", "hafen"} <= common and "7" not in common
    pair = WrittenPair("Was ist 7?", "Der Hafen und die Stadt sind Sorgenkinder.")
    assert share_in_chunk(pair, chunks[7]) > 0.5 > share_in_chunk(pair, chunks[7], common)
    assert not common_words(chunks[:7])  # a few chunks tell nothing of a language


def test_words_are_counted_without_spaces_too():
    assert n_words("a tower of stone") == 4
    assert n_words("港口的灯塔") == 3
    assert n_words("RMSNorm 的作用") == 3
