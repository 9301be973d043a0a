"""What the page says of the retriever's training: curves and epochs, the target's entropy, what was kept."""

import math
import xml.etree.ElementTree as ElementTree

import pytest

from radit_job.records import CandidateScores
from radit_job.report.preferences import preferences
from radit_job.report.retriever_training import cautions, section

HIGHEST = math.log(8)
KL = (0.412, 0.36, 0.334, 0.341)


def epoch(number, phase="lsr"):
    recall = {"1": 0.5 + number / 10, "3": 0.7, "5": 0.8, "10": 0.9}
    return {
        "epoch": number,
        "phase": phase,
        "dev_kl_nats": KL[number],
        "dev_recall": recall,
        "dev_mrr": 0.6,
        "dev_n_gold": 9,
    }


TRAINING = {
    "settings": {"divergence": "reverse", "lm_temperature": 0.1, "retriever_temperature": 0.05},
    "n_train": 54,
    "n_dev": 12,
    "n_candidates": 8,
    "n_trainable_parameters": 22713216,
    "n_parameters": 22713216,
    "dtype": "float32",
    "best_epoch": 2,
    "stopped_early": True,
    "steps": [
        {"step": 1, "retriever_entropy_nats": 2.0, "learning_rate": 2e-6},
        {"step": 2, "retriever_entropy_nats": 1.7, "learning_rate": 2e-5},
    ],
    "epochs": [epoch(number) for number in range(4)],
    "target": {
        "entropy_nats": 1.31,
        "max_entropy_nats": HIGHEST,
        "top_is_gold_share": 0.6087,
        "n_gold_among_candidates": 46,
    },
}


def with_target(entropy):
    return TRAINING | {"target": TRAINING["target"] | {"entropy_nats": entropy}}


def row(scores, similarities, gold=("a",), n_tokens=10):
    ids = ("a", "b", "c", "d")[: len(scores)]
    return CandidateScores("q", "Q?", "g", tuple(gold), ids, similarities, scores, n_tokens)


@pytest.mark.parametrize(
    ("entropy", "said"),
    [
        (0.96 * HIGHEST, "nearly flat"),
        (0.94 * HIGHEST, None),
        (0.06 * HIGHEST, None),
        (0.04 * HIGHEST, "nearly one-hot"),
        (0.0, "nearly one-hot"),
        (None, None),
    ],
)
def test_a_target_that_is_flat_or_one_hot_is_called_so(entropy, said):
    texts = cautions(with_target(entropy))
    assert len(texts) == (said is not None) and (said is None or said in texts[0])


def test_the_way_out_is_named():
    assert "A lower finetune_retriever.lm_temperature" in cautions(with_target(2.04))[0]
    assert "2.04 of at most 2.08 nats" in cautions(with_target(2.04))[0]
    assert "A higher finetune_retriever.lm_temperature" in cautions(with_target(0.004))[0]
    assert "0.004 of at most" in cautions(with_target(0.004))[0]


def test_an_untuned_encoder_that_was_kept_is_named():
    kept = TRAINING | {"best_epoch": 0}
    assert "the untuned encoder was kept" in cautions(kept)[0]
    assert section(kept, None)["facts"]["kept encoder"].startswith("epoch 0: the untuned one")
    assert "kept: epoch 0" in section(kept, None)["divergence"]
    assert cautions(kept | {"steps": []})[0].startswith("No step was taken, so the untuned encoder was kept")


def test_the_curves_show_the_held_out_measures_by_epoch():
    found = section(TRAINING, None)
    assert "kept: epoch 2" in found["divergence"] and "from 0.412 before training to 0.334" in found["divergence"]
    lines = [part for part in ElementTree.fromstring(found["recall"]).iter() if part.tag.endswith("polyline")]
    assert [line.get("class") for line in lines] == ["recall-0", "recall-1", "recall-2", "mrr"]
    assert [text for _, text in found["keys"]] == ["recall@1", "recall@3", "recall@5", "MRR"]
    assert found["ranks"] == ["1", "3", "5", "10"] and not found["has_phases"]
    assert section(TRAINING | {"epochs": [epoch(0), epoch(1, "contrastive")]}, None)["has_phases"]


def test_the_facts_name_what_was_learned_from():
    facts = section(TRAINING, None)["facts"]
    assert facts["entropy of the target"] == "1.31 of at most 2.08 nats (63 %)"
    assert facts["entropy of the retriever, first and last step"] == "2.00 → 1.70 nats"
    assert facts["held out to choose the epoch"] == "12, gold chunk known of 9"
    assert (facts["kept encoder"], facts["peak learning rate"]) == ("epoch 2; stopped early", "2.0e-05")
    assert (facts["loss"], facts["temperatures"]) == ("KL(retriever ‖ target)", "LM 0.1, retriever 0.05")
    assert facts["likeliest is a gold chunk"] == "61 % of 46"
    scored = preferences([row((-20.0, -25.0), (0.4, 0.5)), row((-30.0, -20.0), (0.4, 0.5))])
    facts = section(TRAINING, scored)["facts"]
    assert facts["likeliest is a gold chunk"] == "50 % of 2 (the untuned retriever’s first: 0 %)"
    assert facts["the LM’s likeliest and least likely chunk"] == "0.75 nats per token apart (median of 2)"


def test_where_nothing_was_held_out_there_is_no_curve_and_no_choice():
    bare = [{"epoch": 1, "phase": "lsr", "dev_kl_nats": None, "dev_recall": {}, "dev_mrr": None, "dev_n_gold": 0}]
    found = section(TRAINING | {"n_dev": 0, "best_epoch": None, "stopped_early": False, "epochs": bare}, None)
    assert (found["divergence"], found["recall"], found["ranks"]) == ("", "", [])
    assert found["facts"]["kept encoder"] == "the last weights: nothing was held out to choose by"
    assert "held out to choose the epoch" not in found["facts"]
    assert section(None, None) is None and cautions(None) == []
    assert section({}, None)["facts"] == {}


def test_what_the_lm_prefers_is_counted_over_questions_that_can_tell():
    rows = [
        row((-10.0, -20.0, -40.0), (0.9, 0.8, 0.7)),  # both prefer gold
        row((-20.0, -10.0, -15.0), (0.9, 0.8, 0.7)),  # the retriever alone
        row((-10.0, -12.0), (0.5, 0.6), n_tokens=4),  # the LM alone
        row((-10.0, -12.0), (0.5, 0.6), gold=()),  # gold unknown
        row((-10.0, -12.0), (0.5, 0.6), gold=("z",)),  # gold not among the candidates
        row((-10.0, -12.0), (0.5, 0.6), gold=("a", "b")),  # nothing but gold
    ]
    found = preferences(iter(rows))
    assert (found.n_questions, found.n_gold, found.n_lm_prefers_gold, found.n_retriever_prefers_gold) == (6, 3, 2, 2)
    assert found.spread_nats_per_token == pytest.approx((0.2 + 0.5) / 2)  # of 3, 1, 0.5, 0.2, 0.2, 0.2
    assert preferences([]) is None
