"""The retriever's losses: gradients by finite differences down to the encoder's weights, and values by hand."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from radit_job.models.sentence_encoder import HuggingFaceEmbedder
from radit_job.training.query_encoder import QueryEncoder
from radit_job.training.retriever_loss import contrastive_nats, entropy_nats, lsr_nats, retriever_log_shares
from tests.unit.retriever_bench import tiny_encoder, unit

B, C, D, T = 3, 5, 8, 0.05


@pytest.fixture
def rng():
    return np.random.default_rng(1)


def target(rng, rows=B) -> torch.Tensor:
    return functional.log_softmax(torch.from_numpy(rng.normal(size=(rows, C))) * 3, dim=1)


def chain(candidates, log_target, divergence):
    """Query vector -> cosine -> softmax -> KL, as the training loop has it; the query need not have length 1."""

    def loss(queries: torch.Tensor) -> torch.Tensor:
        unit_queries = functional.normalize(queries, dim=1)
        return lsr_nats(retriever_log_shares(unit_queries, candidates, T), log_target, divergence).mean()

    return loss


def central_differences(loss, at: torch.Tensor, step: float = 1e-6) -> torch.Tensor:
    gradient = torch.zeros_like(at)
    for i in np.ndindex(*at.shape):
        moved = [at.clone(), at.clone()]
        moved[0][i] += step
        moved[1][i] -= step
        gradient[i] = (loss(moved[0]) - loss(moved[1])) / (2 * step)
    return gradient


@pytest.mark.parametrize("divergence", ["reverse", "forward"])
def test_the_gradient_of_lsr_is_that_of_finite_differences(rng, divergence):
    loss = chain(unit(rng, B, C, D), target(rng), divergence)
    queries = torch.from_numpy(rng.normal(size=(B, D))).requires_grad_()
    assert torch.autograd.gradcheck(loss, (queries,), eps=1e-6, atol=1e-7)
    (gradient,) = torch.autograd.grad(loss(queries), queries)
    assert gradient.norm() > 0.1, "a gradient that is zero would agree with anything constant"
    torch.testing.assert_close(gradient, central_differences(loss, queries.detach()), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("divergence", ["reverse", "forward"])
def test_the_gradient_reaches_the_encoders_own_weights(tmp_path, rng, divergence):
    encoder = QueryEncoder(HuggingFaceEmbedder.open(tiny_encoder(tmp_path), dtype="float32"), torch.float32)
    encoder.model.double()
    questions = ["Where is the harbour?", "Who wrote it?", "Why?"]
    candidates, log_target = unit(rng, 3, C, encoder.embedder.dimension), target(rng)

    def loss() -> torch.Tensor:
        return lsr_nats(retriever_log_shares(encoder.vectors(questions), candidates, T), log_target, divergence).mean()

    loss().backward()
    token = encoder.model.tokenizer(questions[0]).input_ids[3]
    checked = 0
    for parameter, name in encoder.names.items():
        flat, gradient = parameter.data.view(-1), parameter.grad.view(-1)
        start = token * parameter.shape[-1] if "word_embeddings" in name else 0
        for i in (start, start + 7):
            before = flat[i].item()
            values = []
            for step in (1e-6, -1e-6):
                flat[i] = before + step
                with torch.no_grad():
                    values.append(loss().item())
            flat[i] = before
            expected = (values[0] - values[1]) / 2e-6
            assert gradient[i].item() == pytest.approx(expected, rel=1e-4, abs=1e-7), name
            checked += abs(expected) > 1e-6
    assert checked > 40, "most of the weights must matter"


def test_both_directions_are_the_sums_of_their_definition_and_differ(rng):
    log_p, log_q = target(rng), target(rng)
    p, q = log_p.exp(), log_q.exp()
    reverse, forward = lsr_nats(log_p, log_q, "reverse"), lsr_nats(log_p, log_q, "forward")
    torch.testing.assert_close(reverse, (p * (p / q).log()).sum(1))
    torch.testing.assert_close(forward, (q * (q / p).log()).sum(1))
    assert (abs(reverse - forward) > 1e-3).all() and (reverse > 0).all() and (forward > 0).all()
    torch.testing.assert_close(lsr_nats(log_p, log_p, "reverse"), torch.zeros(B, dtype=torch.float64))


def test_forward_is_what_sentence_transformers_distills(rng, tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss

    queries, candidates = unit(rng, B, D), unit(rng, B, C, D)
    likelihood, tau = torch.from_numpy(rng.random((B, C))), 0.1
    model = SentenceTransformer(str(tiny_encoder(tmp_path)), device="cpu")
    theirs = DistillKLDivLoss(model, student_temperature=T, teacher_temperature=tau).compute_loss_from_embeddings(
        [queries, *candidates.unbind(1)], likelihood
    )
    ours = lsr_nats(
        retriever_log_shares(queries, candidates, T), functional.log_softmax(likelihood / tau, 1), "forward"
    )
    torch.testing.assert_close(ours.mean(), theirs / T**2)  # they scale by the square of the student's temperature


def test_reverse_seeks_one_mode_and_forward_covers_both():
    log_target = torch.tensor([[0.495, 0.495, 0.01]]).log()
    one_mode, both = torch.tensor([[0.98, 0.01, 0.01]]).log(), torch.tensor([[0.4, 0.3, 0.3]]).log()
    assert lsr_nats(one_mode, log_target, "reverse") < lsr_nats(both, log_target, "reverse")
    assert lsr_nats(one_mode, log_target, "forward") > lsr_nats(both, log_target, "forward")


@pytest.mark.parametrize("divergence", ["reverse", "forward"])
def test_shares_too_small_for_a_float_leave_loss_and_gradient_finite(divergence):
    queries = torch.tensor([[1.0, 0.0]], requires_grad=True)
    candidates = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])
    log_target = torch.tensor([[-10_000.0, 0.0]])
    nats = lsr_nats(retriever_log_shares(queries, candidates, 0.001), log_target, divergence)
    nats.sum().backward()
    assert nats.item() == pytest.approx(10_000.0 if divergence == "reverse" else 2000.0)
    assert torch.isfinite(queries.grad).all()


def test_entropy_of_the_retriever():
    assert entropy_nats(torch.full((1, 4), 0.25).log()).item() == pytest.approx(math.log(4))


def test_infonce_is_that_of_the_definition_and_its_gradient_that_of_finite_differences(rng):
    queries, positives, others = unit(rng, B, D), unit(rng, B, D), unit(rng, 6, D)
    wrong = torch.from_numpy(rng.random((B, 6)) < 0.6)
    nats = contrastive_nats(queries, positives, others, wrong, T)
    for i in range(B):
        right = math.exp(float(queries[i] @ positives[i]) / T)
        bad = sum(math.exp(float(queries[i] @ others[j]) / T) for j in range(6) if wrong[i, j])
        assert nats[i].item() == pytest.approx(-math.log(right / (right + bad)))
    loss = lambda q: contrastive_nats(q, positives, others, wrong, T).mean()  # noqa: E731
    at = queries.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(at), at)
    torch.testing.assert_close(gradient, central_differences(loss, queries), atol=1e-6, rtol=1e-6)


def test_a_question_without_negatives_has_no_contrastive_loss(rng):
    none = torch.zeros(B, 2, dtype=torch.bool)
    queries = unit(rng, B, D).requires_grad_()
    nats = contrastive_nats(queries, unit(rng, B, D), unit(rng, 2, D), none, T)
    nats.sum().backward()
    assert nats.abs().max() < 1e-12 and queries.grad.abs().max() < 1e-12
