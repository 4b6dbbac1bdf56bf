"""What Gaussian components with conjugate priors share: their factor, its divergence, and Student's t (Bishop, PRML 10.2).

Rows are read relative to the prior mean, so that the prior mean of every component is 0 here.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "Normals",
    "chi_square",
    "mean_divergence",
    "multidigamma",
    "normal_noise",
    "posterior_means",
    "student",
    "wishart_divergence",
]


@dataclass(frozen=True)
class Normals:
    """q(m_k | Lambda_k) = N(mean, (precision Lambda_k)^-1), q(Lambda_k) = Wishart with ``dof`` and inverse scale ``scale``.

    Attributes:
        precision: beta_k.
        mean: m_k, from the prior mean; in units of the known covariance's root where that is known.
        dof: nu_k.
        scale: W_k^-1: (R, K, d, d), or (R, K, d) by axis, or (R, K, 1) for all axes.
    """

    precision: Float[Tensor, "R K"]
    mean: Float[Tensor, "R K d"]
    dof: Float[Tensor, "R K"]
    scale: Float[Tensor, "R K *e"]


def wishart_divergence(
    dof: Float[Tensor, "*b"], logdet: Float[Tensor, "*b"], trace: Float[Tensor, "*b"], dof0: float,
    logdet0: Float[Tensor, "*c"], dim: int,
) -> Float[Tensor, "*b"]:  # fmt: skip
    """KL(Wishart(W, dof) || Wishart(W0, dof0)) in nats; of dimension 1: Gamma(dof / 2, 1 / (2 W)).

    Args:
        dof: nu.
        logdet: log |W^-1|.
        trace: tr(W0^-1 W).
        dof0: nu0.
        logdet0: log |W0^-1|.
        dim: d.
    """
    half, base = dof / 2, torch.full_like(dof, dof0 / 2)
    return (
        dof0 / 2 * (logdet - logdet0) + half * (trace - dim) + torch.mvlgamma(base, dim) - torch.mvlgamma(half, dim)
        + (dof - dof0) / 2 * multidigamma(half, dim)
    )  # fmt: skip


def multidigamma(half: Float[Tensor, "*b"], dim: int) -> Float[Tensor, "*b"]:
    """Derivative of log Gamma_d at ``half``, Gamma_d the multivariate Gamma function."""
    steps = torch.arange(dim, dtype=torch.float64, device=half.device) / 2
    return torch.digamma(half[..., None] - steps).sum(-1)


def posterior_means(
    rows: Float[Tensor, "n d"], weights: Float[Tensor, "R K n"], precision0: float
) -> tuple[Tensor, Tensor, Tensor]:
    """N_k = sum_i r_ik, beta_k = beta0 + N_k and m_k = sum_i r_ik x_i / beta_k."""
    size = weights.sum(-1)
    precision = precision0 + size
    return size, precision, (weights @ rows) / precision[..., None]


def mean_divergence(q: Normals, precision0: float, square: Float[Tensor, "R K"]) -> Float[Tensor, "R K"]:
    """KL of q(m | Lambda), averaged over Lambda; ``square`` is m' E[Lambda] m."""
    d, ratio = q.mean.shape[-1], precision0 / q.precision
    return (d * (ratio - 1 - ratio.log()) + precision0 * square) / 2


def student(square: Float[Tensor, "*n"], logdet: Tensor, dof: Tensor, dim: int) -> Float[Tensor, "*n"]:
    """log density of Student's t of dimension ``dim``, from squared distances and log |scale matrix|."""
    half = (dof + dim) / 2
    base = torch.lgamma(half) - torch.lgamma(dof / 2) - dim / 2 * (dof * math.pi).log() - logdet / 2
    return base - half * torch.log1p(square / dof)


def normal_noise(rng: Any, count: int, like: Tensor) -> Float[Tensor, "n d"]:
    """Standard normal rows of the width of ``like``."""
    return torch.as_tensor(rng.standard_normal((count, like.shape[-1])), device=like.device)


def chi_square(rng: Any, dof: Tensor) -> Tensor:
    """Draws of chi-square."""
    return torch.as_tensor(rng.chisquare(dof.cpu().numpy()), device=dof.device)
