"""Stand-ins for the intractable log-likelihood of a completion: lower bounds, a token-wise Renyi surrogate, one network call."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from infimum.alignment.table import TokenTable
from infimum.errors import UserError

__all__ = ["Sandwich", "elbo_of", "eubo_of", "mixed", "optimal_mix", "sandwich", "token_means"]


def elbo_of(table: TokenTable) -> Float[Tensor, "B"]:
    """The ELBO in nats a completion: the average of weight times score (00-masked-diffusion 3.1).

    Unbiased, and a lower bound of the log-likelihood of random orders in expectation, for plans and forms that are.
    """
    return (table.share.to(table.scores.dtype) * table.terms).sum(0)


def eubo_of(table: TokenTable, beta: float, *, certified: bool = False) -> Float[Tensor, "B"]:
    """(1 / beta) sum over tokens of log E[w 1(masked) p^beta] in nats: SPG's evidence upper bound without its constant.

    Always at least the ELBO, and growing with beta, in exact expectation. For beta below the number of tokens it is a
    **surrogate**: the constant that was left out diverges, and a badly trained model can be above it. With ``certified`` beta is at
    least that number, and the exact expectation is an upper bound, though it may be loose. With K draws the logarithm of a mean
    is too low, and tokens that no draw masks are left out: no Monte Carlo value is certified.

    Args:
        table: of all draws of a plan.
        beta: Renyi order, at least 1.
        certified: raise beta to the number of tokens of each completion.

    Raises:
        UserError: beta below 1.

    Source: 2510.09541, theorem and corollary of its evidence upper bound; the certificate: 06-spg 3.2.
    """
    if not beta >= 1:
        raise UserError(f"eubo_beta is {beta}, expected a Renyi order of at least 1: use the ELBO")
    order = torch.full_like(table.lengths, 1, dtype=table.scores.dtype) * beta
    if certified:
        order = torch.maximum(order, table.lengths.to(order.dtype))
    return (_token_renyi(table, order) / order[:, None]).sum(-1)


def _token_renyi(table: TokenTable, order: Float[Tensor, "B"]) -> Float[Tensor, "B L"]:
    """log of the average of w p^beta a token; 0 where no draw masks it."""
    log_share = (table.share.to(table.scores.dtype) * table.weight.to(table.scores.dtype)).log()
    value = order[:, None] * table.scores + log_share[..., None]
    covered = table.scored.any(0)
    # a column without entries would have a gradient of NaN: it keeps its first and is dropped behind
    first = torch.zeros_like(table.scored)
    first[0] = ~covered
    value = torch.where(table.scored, value, torch.where(first, 0.0, -math.inf))
    return torch.where(covered, value.logsumexp(0), 0.0)


def mixed(lower: Float[Tensor, "B"], upper: Float[Tensor, "B"], omega: float) -> Float[Tensor, "B"]:
    """omega upper + (1 - omega) lower (SPG's mixture, 2510.09541).

    Raises:
        UserError: omega outside of 0 to 1.
    """
    if not 0 <= omega <= 1:
        raise UserError(f"mix_weight is {omega}, expected 0 (ELBO) to 1 (EUBO)")
    return omega * upper + (1 - omega) * lower


def optimal_mix(lower: Float[Tensor, "N P"], upper: Float[Tensor, "N P"]) -> Float[Tensor, "P"]:
    """The weight omega of the mixture whose gradient varies least, coordinate by coordinate: -Cov(g_L, g_U - g_L) / Var(g_U - g_L).

    Args:
        lower: gradients of the ELBO for N independent sets of masks.
        upper: gradients of the EUBO for the same sets.

    Source: 2510.09541, optimal mixture coefficient. Where the two never differ, 0.
    """
    step = upper - lower
    moved = step - step.mean(0)
    spread = moved.square().mean(0)
    together = ((lower - lower.mean(0)) * moved).mean(0)
    return torch.where(spread > 0, -together / torch.where(spread > 0, spread, 1.0), 0.0)


def token_means(table: TokenTable, beta: float | None = None) -> Float[Tensor, "B"]:
    """The published code's estimates, times the length: means over masked tokens instead of weighted sums; no bounds.

    Args:
        table: of all draws.
        beta: None: mean over masks of the mean score of masked tokens; else the surrogate of `eubo_of` with weights one over the
            masked share of the completion, divided by the number of tokens that any draw masked.
    """
    count = table.scored.sum(-1)
    if beta is None:
        mean = table.scores.sum(-1) / count.clamp_min(1)
        return (table.share.to(mean.dtype) * mean).sum(0) * table.lengths
    share = table._replace(weight=table.lengths / count.clamp_min(1).double())
    total = eubo_of(share, beta)
    return total / table.scored.any(0).sum(-1).clamp_min(1) * table.lengths


class Sandwich(NamedTuple):
    """Both sides of SPG in nats a completion.

    Attributes:
        elbo: lower bound, in expectation.
        eubo: surrogate from above.
        uncovered: share of the tokens that no draw masked, which the second leaves out.
        certified: whether the second's exact expectation is an upper bound whatever the model.
    """

    elbo: Float[Tensor, "B"]
    eubo: Float[Tensor, "B"]
    uncovered: Float[Tensor, "B"]
    certified: bool


def sandwich(table: TokenTable, beta: float, *, certified: bool = False) -> Sandwich:
    """ELBO and EUBO of the same draws, see `eubo_of`.

    Args:
        table: of masks that belong to a bound: not perturbed, no rounded numbers.
        beta: Renyi order.
        certified: raise it to the number of tokens.
    """
    covered = table.scored.any(0).sum(-1)
    safe = certified or bool((table.lengths <= beta).all())
    return Sandwich(elbo_of(table), eubo_of(table, beta, certified=certified), 1 - covered / table.lengths, safe)
