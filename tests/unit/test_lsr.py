"""LSR's target: numbers by hand, the papers' flat target shown, and what teaches nothing."""

import dataclasses
import math

import numpy as np
import pytest

from radit_job.rag.lsr import (
    DEFAULT_TEMPERATURE,
    TargetFigures,
    entropy_nats,
    fitted_temperature,
    likelihoods,
    log_target,
    teaches,
)
from radit_job.records import CandidateScores


def scored(nats, *, n_tokens=10, gold=("c1",)) -> CandidateScores:
    ids = tuple(f"c{i}" for i in range(len(nats)))
    return CandidateScores("q", "Why?", "group", gold, ids, tuple(0.5 for _ in ids), tuple(nats), n_tokens)


def test_a_target_is_the_softmax_of_the_likelihoods_by_hand():
    row = scored([-10.0, -5.0, -20.0])
    per_token = likelihoods([row], "per_token")
    np.testing.assert_allclose(per_token, [[math.exp(-1), math.exp(-0.5), math.exp(-2)]])
    np.testing.assert_allclose(likelihoods([row], "whole_answer"), np.exp([[-10.0, -5.0, -20.0]]))
    weights = [math.exp(value / 0.1) for value in (math.exp(-1), math.exp(-0.5), math.exp(-2))]
    expected = [weight / sum(weights) for weight in weights]
    np.testing.assert_allclose(np.exp(log_target(per_token, 0.1)), [expected], rtol=1e-12)
    assert entropy_nats(log_target(per_token, 0.1))[0] == pytest.approx(-sum(p * math.log(p) for p in expected))


def test_questions_do_not_mix():
    rows = [scored([-1.0, -9.0]), scored([-9.0, -1.0], n_tokens=3), scored([-4.0, -4.0])]
    together = log_target(likelihoods(rows, "per_token"), 0.1)
    for i, row in enumerate(rows):
        np.testing.assert_array_equal(together[i], log_target(likelihoods([row], "per_token"), 0.1)[0])
    np.testing.assert_allclose(np.exp(together).sum(axis=1), 1)


def test_the_papers_target_goes_flat_for_a_sentence_and_the_one_per_token_does_not():
    row = scored([-30.0, -40.0, -35.0, -38.0], n_tokens=20)
    paper = log_target(likelihoods([row], "whole_answer"), 0.01)
    assert math.log(4) - entropy_nats(paper)[0] < 1e-12 and not teaches(paper)[0]
    per_token = log_target(likelihoods([row], "per_token"), 0.1)
    assert math.log(4) - entropy_nats(per_token)[0] > 0.05 and teaches(per_token)[0]
    short = scored([-0.1, -3.0, -3.0, -3.0], n_tokens=2)  # a word or two: the papers' choice does well
    assert entropy_nats(log_target(likelihoods([short], "whole_answer"), 0.01))[0] < 1e-9


def test_a_target_too_pointed_for_a_float_keeps_its_logarithm():
    shares = log_target(np.array([[1.0, 0.5, 0.0]]), 1e-4)
    np.testing.assert_allclose(shares, [[0.0, -5000.0, -10000.0]])
    assert entropy_nats(shares)[0] == 0.0


def test_entropy_is_between_nothing_and_that_of_equal_shares():
    shares = log_target(np.random.default_rng(0).random((50, 8)), 0.2)
    assert (entropy_nats(shares) > 0).all() and (entropy_nats(shares) < math.log(8)).all()
    assert entropy_nats(np.zeros((1, 1)))[0] == 0
    assert entropy_nats(log_target(np.ones((1, 8)), 0.1))[0] == pytest.approx(math.log(8))


def test_one_candidate_or_equal_likelihoods_teach_nothing():
    assert not teaches(log_target(np.array([[0.7]]), 0.1)).any()
    near, far = 0.5 + 0.001 * np.arange(4), 0.5 + 0.02 * np.arange(4)
    np.testing.assert_array_equal(teaches(log_target(np.array([near, far]), 0.1)), [False, True])


def test_figures_of_the_targets():
    rows = [
        scored([-9.0, -1.0, -9.0]),  # likes the gold chunk
        scored([-1.0, -9.0, -9.0]),  # likes another
        scored([-1.0, -9.0, -9.0], gold=("elsewhere",)),
        scored([-1.0, -9.0, -9.0], gold=()),
        scored([-4.0, -4.0, -4.0]),  # flat: the gold chunk has a third of the first place
    ]
    figures = TargetFigures.of(rows, log_target(likelihoods(rows, "per_token"), 0.1))
    assert figures.n_gold_among_candidates == 3 and figures.n_flat == 1
    assert figures.top_is_gold_share == pytest.approx((1 + 0 + 1 / 3) / 3)
    assert 0 < figures.entropy_nats < figures.max_entropy_nats == math.log(3)
    unknown = TargetFigures.of(rows[3:4], log_target(likelihoods(rows[3:4], "per_token"), 0.1))
    assert unknown.to_json()["top_is_gold_share"] is None


@pytest.mark.parametrize("likes_what_it_ranks", [True, False])
def test_the_fitted_temperature_makes_the_retriever_as_sure_as_the_target(likes_what_it_ranks):
    chance = np.random.default_rng(3)
    cosines = chance.uniform(0.2, 0.8, (40, 8))
    rows = [dataclasses.replace(scored([-1.0] * 8), similarities=tuple(row)) for row in cosines]
    liked = cosines if likes_what_it_ranks else chance.permuted(cosines, axis=1)  # sharpness alone counts, no agreement
    for made_with in (0.03, 0.2, 1.0):
        assert fitted_temperature(rows, log_target(liked, made_with)) == pytest.approx(made_with, rel=0.03)


def test_a_target_that_says_nothing_has_no_temperature_to_fit():
    rows = [scored([-1.0, -1.0, -1.0])]
    assert fitted_temperature(rows, log_target(likelihoods(rows, "per_token"), 0.1)) == DEFAULT_TEMPERATURE
