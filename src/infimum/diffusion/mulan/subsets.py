"""k of m by perturbed logits: the noises, and the exact probability of the set that is chosen."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from infimum.errors import UserError

__all__ = [
    "SUMMANDS", "chosen", "gumbel", "log_count", "log_ordered", "log_subset", "straight_through", "sum_of_gamma",
]  # fmt: skip

SUMMANDS = 10
"""Gamma variables in a number of `sum_of_gamma`."""

STEP = 0.3
"""Largest step of the quadrature of `log_subset`; its error is about exp(-pi^2 / STEP) for few members, and its integrand narrows
as 1 / sqrt(k + 1)."""


def log_count(size: int, active: int) -> float:
    """log of the number of subsets, in nats: the greatest divergence from their uniform distribution.

    Raises:
        UserError: not 1 <= active < size.
    """
    if not 1 <= active < size:
        raise UserError(f"a k-hot latent has 1 <= active < size, got active {active} of size {size}")
    return math.lgamma(size + 1) - math.lgamma(active + 1) - math.lgamma(size - active + 1)


def gumbel(u: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Standard Gumbel numbers of uniform ones."""
    return -(-u.log()).log()


def sum_of_gamma(
    u: Float[Tensor, "*n 10"], active: int, scale: float = 10.0, *, official: bool = False
) -> Float[Tensor, "*n"]:
    """tau / k (sum_i G_i - log 10), G_i of Gamma(1 / k, scale k / i): k of these sum to about Gumbel(0, tau) (2106.01798).

    Args:
        u: uniform numbers, `SUMMANDS` for each.
        active: k.
        scale: tau.
        official: the scale i / k of MuLAN's published code, which all but takes the noise away.
    """
    from scipy.special import gammaincinv

    standard = torch.from_numpy(gammaincinv(1 / active, u.double().cpu().numpy())).to(u.device)
    i = torch.arange(1, SUMMANDS + 1, dtype=torch.float64, device=u.device)
    total = (standard * (i / active if official else active / i)).sum(-1)
    return ((scale / active) * (total - math.log(SUMMANDS))).to(u.dtype)


def chosen(perturbed: Float[Tensor, "*n m"], active: int) -> Float[Tensor, "*n m"]:
    """1 at the k largest, 0 elsewhere."""
    return torch.zeros_like(perturbed).scatter(-1, perturbed.topk(active, -1).indices, 1.0)


def straight_through(perturbed: Float[Tensor, "*n m"], active: int) -> Float[Tensor, "*n m"]:
    """`chosen`, with the gradient of the perturbed logits less their mean, over their length (MuLAN, 2312.13236)."""
    away = perturbed - perturbed.mean(-1, keepdim=True)
    soft = away / away.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    return chosen(perturbed.detach(), active) + (soft - soft.detach())


def log_subset(logits: Float[Tensor, "*n m"], hard: Float[Tensor, "*n m"]) -> Float[Tensor, "*n"]:
    """log q(S) in nats of the set of the k largest of logits with Gumbel noise.

    With p = softmax(logits) and r_i = p_i / sum_{j not in S} p_j it is log int_0^1 prod_{i in S} (1 - u^r_i) du: the rest's least
    arrival time is exponential, and every member of S arrives before it. Trapezia in v, u = exp(-exp(-v)).

    Args:
        logits: of the items.
        hard: 1 at the k members of S.
    """
    log_p, inside = logits.double().log_softmax(-1), hard > 0.5
    rest = log_p.masked_fill(inside, -math.inf).logsumexp(-1, keepdim=True)
    active = int(inside.sum(-1).max())
    members = inside.to(torch.uint8).topk(active, -1).indices
    log_r = (log_p.gather(-1, members) - rest)[..., None]
    # the integrand is at its greatest above -log(k + 1), vanishes doubly exponentially below, and as exp(-v) above
    step = min(STEP, 0.7 / math.sqrt(active + 1))
    v = torch.arange(-math.log(active + 1) - 4, 40, step, dtype=torch.float64, device=logits.device)
    each = torch.log(-torch.expm1(-(log_r - v).exp().clamp_min(1e-300))).sum(-2)
    return (each - (-v).exp() - v).logsumexp(-1) + math.log(step)


def log_ordered(logits: Float[Tensor, "*n m"], perturbed: Float[Tensor, "*n m"], active: int) -> Float[Tensor, "*n"]:
    """log q in nats of the k largest of logits with Gumbel noise in their order (Plackett & Luce).

    Args:
        logits: of the items.
        perturbed: with the noise, for the order.
        active: k.
    """
    order = perturbed.argsort(-1, descending=True)
    ordered = logits.double().gather(-1, order)
    remaining = ordered.flip(-1).logcumsumexp(-1).flip(-1)
    return (ordered - remaining)[..., :active].sum(-1)
