"""What the latents of a `TextVAE` carry, and whether its prior is covered: the columns of 2211.00321."""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from infimum.evidence import Plan, active_units
from infimum.vae.text.families import Family
from infimum.vae.text.model import TextVAE

__all__ = ["LatentReport", "consistent_units", "latent_report", "log_mixture"]

CONSISTENT = 0.03
"""Nats of KL(p_d to q_d) below which a dimension is called consistent with the prior (official)."""


class LatentReport(NamedTuple):
    """Latents of n sentences; the aggregate q_N is the mixture of their n posteriors.

    Attributes:
        divergence: mean KL(q(z|x) to p) in nats, closed form.
        information: I(i; z) in nats: log q(z|x_i) - log q_N(z) averaged over draws. It cannot exceed ``cap``; near 0 it comes out
            negative half of the time, by noise.
        cap: log n; models with more information than that look alike.
        active: dimensions whose posterior mean has variance above .01.
        consistent: dimensions with KL(p_d to q_N^d) < .03; -1 where the prior has no independent dimensions (sphere).
        hole: KL(p to q_N) in nats, jointly: prior draws that no posterior covers. All dimensions consistent does not mean 0.
    """

    divergence: float
    information: float
    cap: float
    active: int
    consistent: int
    hole: float


def log_mixture(family: Family, s: Any, z: Float[Tensor, "S D"], *, rows: int = 256) -> Float[Tensor, "S"]:
    """log q_N(z) = log 1/N sum_i q(z | x_i) in nats; ``rows`` x N densities at a time."""
    n = s[0].shape[0]
    parts = [family.log_prob(s, part[:, None]).double().logsumexp(1) for part in z.split(rows)]
    return torch.cat(parts) - math.log(n)


def consistent_units(
    mean: Float[Tensor, "N D"], log_scale: Float[Tensor, "N D"], *, points: int = 1024
) -> Float[Tensor, "D"]:
    """KL(p_d to q_N^d) in nats of every dimension, p = N(0, 1), by the midpoint rule over +-8 (official: Monte Carlo).

    Where no posterior reaches a part of the prior the divergence is huge, and finite through the tails of the Gaussians.
    """
    step = 16 / points
    t = torch.arange(points, dtype=torch.float64, device=mean.device) * step - 8 + step / 2
    log_p = -0.5 * t.square() - 0.5 * math.log(2 * math.pi)
    answers = []
    for m, log_s in zip(mean.T.double(), log_scale.T.double(), strict=True):  # N x points densities at a time
        each = -0.5 * ((t - m[:, None]) * (-log_s[:, None]).exp()).square() - log_s[:, None]
        log_q = each.logsumexp(0) - math.log(len(m)) - 0.5 * math.log(2 * math.pi)
        answers.append((log_p.exp() * (log_p - log_q)).sum() * step)
    return torch.stack(answers)


@torch.no_grad()
def latent_report(
    model: TextVAE,
    x: Float[Tensor, "N T"],
    keys: Int[Tensor, "N"],
    *,
    seed: int = 0,
    holes: int = 4096,
    batch: int = 512,
) -> LatentReport:
    """Measure the latents of N sentences; one draw from each posterior, ``holes`` draws from the prior.

    Args:
        model: in eval mode.
        x: sentences; with fewer than 100 the cap of the information says more than the model.
        keys: item ids.
        seed: of the draws.
        holes: draws from the prior for the joint divergence.
        batch: sentences through the encoder at a time.
    """
    family = model.family
    s = tuple(torch.cat(column) for column in zip(*(model.encode(part) for part in x.split(batch)), strict=True))
    own = family.sample(s, Plan.iid(1).draws(keys, seed=seed, salt="latents"))
    information = family.log_prob(s, own)[0].double() - log_mixture(family, s, own[0])
    everywhere = Plan.iid(1).draws(torch.arange(holes, device=x.device), seed=seed, salt="holes")
    z = family.prior(everywhere).to(own.dtype)
    hole = family.log_prior(z)[0].double() - log_mixture(family, s, z[0])
    gaussian = model.config.posterior != "vmf"
    return LatentReport(
        float(family.divergence(s).mean()),
        float(information.mean()),
        math.log(len(x)),
        int(active_units(family.centre(s)).sum()),
        int((consistent_units(*s) < CONSISTENT).sum()) if gaussian else -1,
        float(hole.mean()),
    )
