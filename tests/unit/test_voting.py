import math

import pytest

from radit_job.rag.voting import mixture_log_probability, retrieval_weights, vote


def test_weights_are_a_softmax():
    weights = retrieval_weights([0.6, 0.5], temperature=0.1)
    assert sum(weights) == pytest.approx(1)
    assert weights[0] / weights[1] == pytest.approx(math.e)
    assert retrieval_weights([900.0, -900.0], temperature=0.05) == [1.0, 0.0]  # no overflow


def test_equal_answers_add_up_and_the_heaviest_speaks():
    answers = ["Paris", "the Lyon.", "Lyon!"]
    assert vote(answers, [0.4, 0.25, 0.35]) == 2
    assert vote(answers, [0.7, 0.2, 0.1]) == 0
    assert vote(["x", "y"], [0.5, 0.5]) == 0


def test_mixture_of_probabilities():
    found = mixture_log_probability([math.log(0.2), math.log(0.6)], [0.75, 0.25])
    assert found == pytest.approx(math.log(0.3))
    assert mixture_log_probability([-2000.0, -2001.0], [0.5, 0.5]) == pytest.approx(
        -2000 + math.log((1 + math.exp(-1)) / 2)
    )
    assert mixture_log_probability([-3.0, -math.inf], [1.0, 0.0]) == -3.0
