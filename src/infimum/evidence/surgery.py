"""What the divergence term of an ELBO is made of (Hoffman & Johnson 2016), and which latents are used.

For an aggregate q(z) = mean_i q(z | x_i) over n items and a factorised prior, 00-bounds 3.9::

    mean_i KL(q(z|x_i) to p) = I_q(i; z) + TC(q) + sum_d KL(q(z_d) to p(z_d)),   0 <= I_q <= log n
"""

import math
from typing import NamedTuple

import torch
import torch.distributions as td
from jaxtyping import Float, Int
from torch import Tensor

from infimum.errors import UserError
from infimum.evidence.plan import Plan

__all__ = ["Surgery", "active_units", "elbo_surgery"]


class Surgery(NamedTuple):
    """Parts of the mean divergence in nats, each with its Monte Carlo standard error.

    Attributes:
        divergence: mean KL from the posteriors to the prior.
        mutual_information: I_q between the item's index and z; saturates at log n.
        total_correlation: KL from the aggregate to the product of its marginals.
        dimension_wise: KL of each dimension's aggregate marginal to the prior's, (D,).
        stderr: standard errors of the first three and of the sum of the fourth, (4,).
    """

    divergence: Tensor
    mutual_information: Tensor
    total_correlation: Tensor
    dimension_wise: Float[Tensor, "D"]
    stderr: Float[Tensor, "4"]


def elbo_surgery(
    posterior: td.Independent,
    prior: td.Independent,
    keys: Int[Tensor, "n"],
    *,
    draws: int = 4,
    seed: int = 0,
    rows: int = 512,
) -> Surgery:
    """Split the mean divergence over the n items of an exact in-batch mixture; n^2 D densities, ``rows`` x n x D at a time.

    A mutual information near 0 comes out negative half of the time: that is noise, not an error.

    Args:
        posterior: Independent over one event axis, batch (n,), event (D,).
        prior: factorised, event (D,), batch () or (1,).
        keys: item keys (n,).
        draws: latents drawn from each item's posterior; with one alone there is no standard error (NaN).
        seed: of the draws.
        rows: latents worked on at a time.
    """
    from infimum.evidence.sampling import draw

    if len(posterior.batch_shape) != 1 or len(posterior.event_shape) != 1:
        raise UserError(
            f"elbo_surgery needs a posterior of batch (n,) and event (D,), got {tuple(posterior.batch_shape)} and "
            f"{tuple(posterior.event_shape)}"
        )
    n, d = posterior.batch_shape[0], posterior.event_shape[0]
    with torch.no_grad():
        z = draw(posterior, Plan.iid(draws).draws(keys, seed=seed, salt="surgery"), "z")  # (draws, n, D)
        own = posterior.base_dist.log_prob(z).double().reshape(-1, d)
        flat = z.reshape(-1, d)
        joint, marginal = [], []
        for part in flat.split(rows):
            each = posterior.base_dist.log_prob(part[:, None]).double()  # (rows, n, D)
            joint.append(each.sum(-1).logsumexp(1) - math.log(n))
            marginal.append(each.logsumexp(1) - math.log(n))
        log_q, log_q_d = torch.cat(joint), torch.cat(marginal)
        log_p_d = prior.base_dist.log_prob(flat).double()
        pieces = torch.stack(
            (
                own.sum(-1) - log_p_d.sum(-1),
                own.sum(-1) - log_q,
                log_q - log_q_d.sum(-1),
                (log_q_d - log_p_d).sum(-1),
            )
        )
        means = pieces.mean(1)
        # The items are what is asked about: only their draws are random.
        within = pieces.unflatten(1, (draws, n)).var(1).mean(1)
        return Surgery(means[0], means[1], means[2], (log_q_d - log_p_d).mean(0), (within / (draws * n)).sqrt())


def active_units(posterior_mean: Float[Tensor, "n D"], threshold: float = 0.01) -> Tensor:
    """Latent dimensions whose posterior mean varies over items: Var_x E[z_d | x] > threshold (1509.00519, section 5.3).

    Returns:
        Bool (D,).
    """
    return posterior_mean.var(0) > threshold
