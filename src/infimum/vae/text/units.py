"""Consistent units: KL(p_d to q_N^d) of every latent dimension, p the prior and q_N the mixture of all posteriors, by quadrature.

The official code draws from the prior (2211.00321).
"""

import math

import torch
from jaxtyping import Float
from scipy.special import roots_jacobi
from torch import Tensor

from infimum.distributions.bessel import log_bessel
from infimum.distributions.vmf import log_area

__all__ = ["consistent_sphere_units", "consistent_units", "log_sphere_marginal"]

ROWS = 2**22
"""Densities that are held at a time."""


def consistent_units(
    mean: Float[Tensor, "N D"], log_scale: Float[Tensor, "N D"], *, points: int = 1024
) -> Float[Tensor, "D"]:
    """KL(p_d to q_N^d) in nats of every dimension, p = N(0, 1), by the midpoint rule over +-8.

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


def log_sphere_marginal(
    t: Float[Tensor, "*n"], cosine: Float[Tensor, "*m"], kappa: float, dim: int
) -> Float[Tensor, "*k"]:
    """log q(z_d = t) / p(z_d = t) in nats, q = vMF(mu, kappa) with mu_d = ``cosine`` and p uniform on the sphere in R^dim.

    At height t the sphere is one of a dimension less, on which q is a vMF again:
    q(t) = C_D(kappa) / C_{D-1}(kappa sqrt((1 - t^2)(1 - mu_d^2))) exp(kappa mu_d t) (1 - t^2)^((D-3)/2).
    t and cosine are broadcast.
    """
    across = kappa * ((1 - t.square()) * (1 - cosine.square())).clamp_min(0).sqrt()
    peak = _log_normaliser(torch.tensor(kappa, dtype=torch.float64, device=t.device), dim)
    slice_mass = across - _log_normaliser(across, dim - 1)
    return peak + slice_mass + kappa * (cosine * t - 1) + log_area(dim) - log_area(dim - 1)


def consistent_sphere_units(direction: Float[Tensor, "N D"], kappa: float, *, points: int = 128) -> Float[Tensor, "D"]:
    """KL(p_d to q_N^d) in nats of every coordinate, p uniform on the sphere and q_N the mixture of N vMF(direction, kappa).

    p_d has density prop. to (1 - t^2)^((D-3)/2), whose Gauss-Jacobi rule is used.
    """
    n, dim = direction.shape
    nodes, weights = roots_jacobi(points, (dim - 3) / 2, (dim - 3) / 2)
    t, w = (torch.as_tensor(a, device=direction.device) for a in (nodes, weights / weights.sum()))
    answers = []
    for c in direction.T.double():
        parts = [log_sphere_marginal(part[:, None], c, kappa, dim).logsumexp(1) for part in t.split(max(1, ROWS // n))]
        answers.append(-(w * (torch.cat(parts) - math.log(n))).sum())
    return torch.stack(answers)


def _log_normaliser(kappa: Tensor, dim: int) -> Tensor:
    """log C_dim(kappa) + kappa in nats, for dim 1 (two points) as well."""
    if dim == 1:
        return -(1 + (-2 * kappa).exp()).log()
    return -log_bessel(dim / 2 - 1, kappa) - dim / 2 * math.log(2 * math.pi)
