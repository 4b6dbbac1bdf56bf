"""Keyed, differentiable draws of Gamma, Beta and Dirichlet variables by inverting the Gamma distribution function."""

import dataclasses
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Beta, Dirichlet, Gamma

from infimum.evidence import Draws, draw

__all__ = ["gamma_icdf"]


STEP = 1e-4  # relative step of the central difference of log z: relative error about STEP^2


class _GammaQuantile(torch.autograd.Function):
    """The quantile in float64, differentiable in the concentration with u fixed.

    The derivative z d(log z)/da is a central difference: log z is smooth in a for every u, and the implicit gradient that
    torch offers for its own Gamma samples is right to about 1e-4 only.
    """

    @staticmethod
    def forward(ctx: Any, concentration: Tensor, u: Tensor) -> Tensor:
        z = _quantile(concentration, u)
        ctx.save_for_backward(concentration, u, z)
        return z.to(concentration.dtype).clamp_min(torch.finfo(concentration.dtype).tiny)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:
        concentration, u, z = ctx.saved_tensors
        up, down = _quantile(concentration * (1 + STEP), u), _quantile(concentration * (1 - STEP), u)
        slope = z * (up.log() - down.log()) / (2 * STEP * concentration)
        return grad[0] * slope.to(grad[0].dtype), None


def _quantile(concentration: Tensor, u: Tensor) -> Tensor:
    from scipy.special import gammaincinv

    z = gammaincinv(concentration.detach().double().cpu().numpy(), u.double().cpu().numpy())
    return torch.as_tensor(z, device=concentration.device).clamp_min(torch.finfo(torch.float64).tiny)


def gamma_icdf(concentration: Float[Tensor, "*n"], u: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """The u-quantile of Gamma(concentration, rate 1); differentiable in `concentration` with u fixed."""
    return _GammaQuantile.apply(concentration, u)


def _standard_gamma(concentration: Tensor, draws: Draws, name: str) -> Float[Tensor, "K B *rest"]:
    u = dataclasses.replace(draws, dtype=torch.float64).uniform(name, *concentration.shape[1:])
    return gamma_icdf(concentration.expand(u.shape), u)


@draw.register
def _(q: Gamma, draws: Draws, name: str) -> Tensor:
    return _standard_gamma(q.concentration, draws, name) / q.rate


@draw.register
def _(q: Dirichlet, draws: Draws, name: str) -> Tensor:
    parts = _standard_gamma(q.concentration, draws, name)
    return parts / parts.sum(-1, keepdim=True)


@draw.register
def _(q: Beta, draws: Draws, name: str) -> Tensor:
    parts = _standard_gamma(torch.stack([q.concentration1, q.concentration0], -1), draws, name)
    return parts[..., 0] / parts.sum(-1)
