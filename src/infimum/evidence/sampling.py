"""Latents from distributions, made from named streams instead of a generator."""

import dataclasses
import functools

import torch
import torch.distributions as td
from torch import Tensor

from infimum.errors import UserError
from infimum.evidence.draws import Draws
from infimum.evidence.random import inside

__all__ = ["draw"]


@functools.singledispatch
def draw(q: td.Distribution, draws: Draws, name: str) -> Tensor:
    """Latents (K, B, *rest) from a distribution of batch shape (B, *), made from the named stream.

    Other rooms register their distributions here. The fallback inverts the distribution function, draw by draw.

    Raises:
        UserError: the distribution cannot be drawn from uniform or normal numbers.
    """
    u = dataclasses.replace(draws, dtype=torch.float64).uniform(name, *_rest(q, draws))
    try:
        return q.icdf(inside(u, _float_of(q)))
    except NotImplementedError:
        raise UserError(
            f"draws of {type(q).__name__} cannot be made from uniform numbers: define sample(s, draws) on the model, "
            "or register the distribution with infimum.evidence.draw"
        ) from None


def _float_of(q: td.Distribution) -> torch.dtype:
    for value in vars(q).values():
        if isinstance(value, Tensor) and value.is_floating_point():
            return value.dtype
    return torch.float32


def _rest(q: td.Distribution, draws: Draws) -> tuple[int, ...]:
    shape = (*q.batch_shape, *q.event_shape)
    if not q.batch_shape or q.batch_shape[0] != draws.shape[1]:
        raise UserError(
            f"the posterior has batch shape {tuple(q.batch_shape)}, expected ({draws.shape[1]}, ...): one for each item"
        )
    return tuple(shape[1:])


def _normals(q: td.Distribution, draws: Draws, name: str) -> Tensor:
    return draws.normal(name, *_rest(q, draws)).to(_float_of(q))


@draw.register
def _(q: td.Normal, draws: Draws, name: str) -> Tensor:
    return q.loc + q.scale * _normals(q, draws, name)


@draw.register
def _(q: td.MultivariateNormal, draws: Draws, name: str) -> Tensor:
    eps = _normals(q, draws, name)
    return q.loc + (q._unbroadcasted_scale_tril @ eps[..., None])[..., 0]


@draw.register
def _(q: td.LowRankMultivariateNormal, draws: Draws, name: str) -> Tensor:
    rest = _rest(q, draws)
    rank = q.cov_factor.shape[-1]
    eps = draws.normal(name, *rest[:-1], rank + rest[-1]).to(q.loc.dtype)
    return (
        q.loc
        + (q._unbroadcasted_cov_factor @ eps[..., :rank, None])[..., 0]
        + q._unbroadcasted_cov_diag.sqrt() * eps[..., rank:]
    )


@draw.register
def _(q: td.Independent, draws: Draws, name: str) -> Tensor:
    return draw(q.base_dist, draws, name)


@draw.register
def _(q: td.TransformedDistribution, draws: Draws, name: str) -> Tensor:
    z = draw(q.base_dist, draws, name)
    for transform in q.transforms:
        z = transform(z)
    return z


@draw.register
def _(q: td.Bernoulli, draws: Draws, name: str) -> Tensor:
    return (draws.uniform(name, *_rest(q, draws)) < q.probs).to(q.probs.dtype)


@draw.register
def _(q: td.Categorical, draws: Draws, name: str) -> Tensor:
    u = dataclasses.replace(draws, dtype=torch.float64).uniform(name, *_rest(q, draws))
    upper = q.probs.double().cumsum(-1)
    upper = upper / upper[..., -1:]
    return (u[..., None] >= upper).sum(-1).clamp(max=q.probs.shape[-1] - 1)
