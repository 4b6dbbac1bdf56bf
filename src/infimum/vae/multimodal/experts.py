"""Experts: their product, and the location-scale families of latents (normal, Laplace)."""

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from infimum.evidence import Draws
from infimum.vae.posteriors import LOG_SCALE

__all__ = ["FAMILIES", "Family", "Laplace", "Normal", "product_of_experts"]


def product_of_experts(
    mean: Float[Tensor, "B M D"], log_var: Float[Tensor, "B M D"], member: Bool[Tensor, "S M"] | Bool[Tensor, "B S M"]
) -> tuple[Float[Tensor, "B S D"], Float[Tensor, "B S D"]]:
    """Means and log-variances of the normalised products of the Gaussian experts in each subset.

    Precisions add (1802.05335, section 2.2), here in log space: log var = -logsumexp(-log var_m), mean = sum_m mean_m
    exp(log var - log var_m). An expert of infinite variance has no say. A subset all of whose experts are so gets mean 0 and
    some finite variance, and must be given no weight.
    """
    member = member.to(mean.dtype)
    peak = (-log_var).amax(1, keepdim=True).detach()
    precision = (-log_var - peak).exp()  # (B, M, D)
    weighted = precision * torch.where(precision > 0, mean, 0.0)
    total = member @ precision
    total = torch.where(total > 0, total, 1.0)
    return (member @ weighted) / total, -(total.log() + peak)


class Family(Protocol):
    """A location-scale family, dimension by dimension."""

    def log_scale(self, h: Float[Tensor, "*n D"]) -> Float[Tensor, "*n D"]:
        """Log of the scale from an encoder's outputs."""

    def noise(self, draws: Draws, name: str, dims: int) -> Float[Tensor, "K B D"]:
        """Standard members of the family from the named stream."""

    def log_prob(self, u: Float[Tensor, "*n D"]) -> Float[Tensor, "*n D"]:
        """Log-density of the standard member, in nats."""

    def divergence(
        self, mean: Float[Tensor, "*n D"], log_scale: Float[Tensor, "*n D"], prior: Float[Tensor, "D"]
    ) -> Float[Tensor, "*n D"]:
        """KL to the centred member of log-scale ``prior``, in nats."""


class Normal:
    """Gaussian."""

    def log_scale(self, h: Tensor) -> Tensor:
        return h.clamp(-LOG_SCALE, LOG_SCALE)

    def noise(self, draws: Draws, name: str, dims: int) -> Tensor:
        return draws.normal(name, dims)

    def log_prob(self, u: Tensor) -> Tensor:
        return -0.5 * u.square() - 0.5 * math.log(2 * math.pi)

    def divergence(self, mean: Tensor, log_scale: Tensor, prior: Tensor) -> Tensor:
        ratio = log_scale - prior
        return 0.5 * ((mean * (-prior).exp()).square() + (2 * ratio).exp() - 1) - ratio


class Laplace:
    """Laplace with the scale of 1911.03393: softmax over the dimensions, times D, plus 1e-6."""

    def log_scale(self, h: Tensor) -> Tensor:
        return (F.softmax(h, -1) * h.shape[-1] + 1e-6).log()

    def noise(self, draws: Draws, name: str, dims: int) -> Tensor:
        u = draws.uniform(name, dims) - 0.5
        return -u.sign() * torch.log1p(-2 * u.abs())

    def log_prob(self, u: Tensor) -> Tensor:
        return -u.abs() - math.log(2)

    def divergence(self, mean: Tensor, log_scale: Tensor, prior: Tensor) -> Tensor:
        shift = mean.abs()
        return prior - log_scale + (shift + (log_scale - shift * (-log_scale).exp()).exp()) * (-prior).exp() - 1


FAMILIES: dict[str, Family] = {"normal": Normal(), "laplace": Laplace()}
