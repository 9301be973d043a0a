"""The losses of the query encoder: LSR's divergence from what the LM prefers, and a contrastive one.

p_R(c|x) = exp(s(x,c) / t) / sum over the candidates c' of exp(s(x,c') / t)      s: cosine, t: retriever temperature
reverse:  KL(p_R || p_LSR) = sum over c of p_R(c) (log p_R(c) - log p_LSR(c))
forward:  KL(p_LSR || p_R) = sum over c of p_LSR(c) (log p_LSR(c) - log p_R(c))

RA-DIT (arXiv 2310.01352, section 2.4) and REPLUG (arXiv 2301.12652, section 4) write and minimise the reverse one. It
seeks a mode: each chunk is weighed by the retriever's own share, so it pays to leave the chunks that the LM dislikes,
and costs little to miss one that the LM likes. dLoss/ds_c = p_R(c) (log p_R(c) - log p_LSR(c) - KL) / t: a chunk that
the retriever has given up moves slowly. The forward one covers: a chunk that the LM likes must get its share.
dLoss/ds_c = (p_R(c) - p_LSR(c)) / t. It is Atlas's perplexity distillation (arXiv 2208.03299, section 2.2) and
sentence-transformers' DistillKLDivLoss. Both are 0 where the two distributions are equal, and nowhere else.

All in log-space: a share may be too small for a float, its logarithm never is. B questions, C candidates, d dimensions.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn import functional

Divergence = Literal["reverse", "forward"]


def retriever_log_shares(queries: torch.Tensor, candidates: torch.Tensor, temperature: float) -> torch.Tensor:
    """The logarithm of p_R, [B, C]; `queries` [B, d] and `candidates` [B, C, d] have rows of length 1."""
    cosines = torch.einsum("bd,bcd->bc", queries, candidates)
    return functional.log_softmax(cosines / temperature, dim=1)


def lsr_nats(log_p_r: torch.Tensor, log_p_lsr: torch.Tensor, divergence: Divergence) -> torch.Tensor:
    """The divergence of each question, [B], in nats; both arguments are log-probabilities [B, C], the second constant.

    "reverse" is KL(p_R || p_LSR), "forward" KL(p_LSR || p_R).
    """
    if divergence == "reverse":
        return functional.kl_div(log_p_lsr, log_p_r, reduction="none", log_target=True).sum(dim=1)
    return functional.kl_div(log_p_r, log_p_lsr, reduction="none", log_target=True).sum(dim=1)


def entropy_nats(log_shares: torch.Tensor) -> torch.Tensor:
    """Entropy of each row of log-probabilities, [B]."""
    return -(log_shares.exp() * log_shares).sum(dim=1)


def contrastive_nats(
    queries: torch.Tensor,
    positives: torch.Tensor,
    others: torch.Tensor,
    is_negative: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    """InfoNCE of each question, [B], in nats: -log of the positive's share among it and the negatives.

    `queries` and `positives` [B, d], `others` [n, d] (the different chunks that are candidates in this batch),
    `is_negative` [B, n]: which of them are wrong for which question. van den Oord et al., arXiv 1807.03748, equation 4,
    with hard negatives from the batch as in DPR (arXiv 2004.04906, section 3.2).
    """
    right = (queries * positives).sum(dim=1, keepdim=True) / temperature  # [B, 1]
    wrong = (queries @ others.T / temperature).masked_fill(~is_negative, -torch.inf)  # [B, n]
    return torch.logsumexp(torch.cat([right, wrong], dim=1), dim=1) - right[:, 0]
