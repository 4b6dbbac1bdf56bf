"""What the latents of a `TextVAE` carry, and whether its prior is covered: the columns of 2211.00321."""

import math
import warnings
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from infimum.evidence import Plan, active_units
from infimum.vae.text.families import Family
from infimum.vae.text.model import TextVAE

__all__ = ["THRESHOLDS", "LatentReport", "latent_report", "log_mixture"]

CONSISTENT = 0.03
"""Nats of KL(p_d to q_d) below which a dimension is called consistent with the prior (official)."""
THRESHOLDS = (0.01, 0.03, 0.05, 0.1)
"""Those at which the official code counts."""
FEW = 100
"""Items below which the cap of the information says more than the model."""


class LatentReport(NamedTuple):
    """Latents of n sentences; the aggregate q_N is the mixture of their n posteriors.

    Attributes:
        divergence: mean KL(q(z|x) to p) in nats, closed form.
        information: I(i; z) in nats: log q(z|x_i) - log q_N(z) averaged over draws. It cannot exceed ``cap``; near 0 it comes out
            negative half of the time, by noise.
        cap: log n; models with more information than that look alike.
        active: dimensions whose posterior mean has variance above .01.
        consistent: dimensions with KL(p_d to q_N^d) < .03; on the sphere, of its coordinates.
        consistent_at: the same at each of `THRESHOLDS`.
        hole: KL(p to q_N) in nats, jointly: prior draws that no posterior covers. All dimensions consistent does not mean 0.
        outside: KL(q_N to p) in nats, jointly: posteriors where the prior has no mass; ``divergence`` less ``information``, but
            for noise.
    """

    divergence: float
    information: float
    cap: float
    active: int
    consistent: int
    consistent_at: tuple[int, ...]
    hole: float
    outside: float


def log_mixture(family: Family, s: Any, z: Float[Tensor, "S D"], *, rows: int = 256) -> Float[Tensor, "S"]:
    """log q_N(z) = log 1/N sum_i q(z | x_i) in nats; ``rows`` x N densities at a time."""
    n = s[0].shape[0]
    parts = [family.log_prob(s, part[:, None]).double().logsumexp(1) for part in z.split(rows)]
    return torch.cat(parts) - math.log(n)


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

    A `UserWarning` says where N is so small (below 100) that the information runs into its cap.

    Args:
        model: in eval mode.
        x: sentences.
        keys: item ids.
        seed: of the draws.
        holes: draws from the prior for the joint divergence.
        batch: sentences through the encoder at a time.
    """
    family = model.family
    s = tuple(torch.cat(column) for column in zip(*(model.encode(part) for part in x.split(batch)), strict=True))
    own = family.sample(s, Plan.iid(1).draws(keys, seed=seed, salt="latents"))
    if len(x) < FEW:
        warnings.warn(
            f"the mutual information of {len(x)} sentences is capped at log {len(x)} = {math.log(len(x)):.2f} nats: measure at "
            f"least {FEW}",
            stacklevel=2,
        )
    mixed = log_mixture(family, s, own[0])
    information = family.log_prob(s, own)[0].double() - mixed
    outside = mixed - family.log_prior(own)[0].double()
    everywhere = Plan.iid(1).draws(torch.arange(holes, device=x.device), seed=seed, salt="holes")
    z = family.prior(everywhere).to(own.dtype)
    hole = family.log_prior(z)[0].double() - log_mixture(family, s, z[0])
    units = family.unit_divergences(s)
    return LatentReport(
        divergence=float(family.divergence(s).mean()),
        information=float(information.mean()),
        cap=math.log(len(x)),
        active=int(active_units(family.centre(s)).sum()),
        consistent=int((units < CONSISTENT).sum()),
        consistent_at=tuple(int((units < threshold).sum()) for threshold in THRESHOLDS),
        hole=float(hole.mean()),
        outside=float(outside.mean()),
    )
