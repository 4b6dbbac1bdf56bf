"""Modified Bessel functions I_v of the first kind as the von Mises-Fisher distribution needs them: any argument, any order >= 0.

At orders of 32 and more Debye's uniform expansion (DLMF 10.41.3) is exact to rounding for every argument; smaller orders follow by
the recurrence I_{v-1} = I_{v+1} + (2 v / x) I_v, which is stable downwards. All is scaled by x^-v e^-x, so that neither a small
nor a large argument, 0 included, over- or underflows.
"""

import functools
import math
from fractions import Fraction
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from infimum.errors import UserError

__all__ = ["bessel_ratio", "log_bessel"]

UNIFORM = 32
"""Order from which the uniform expansion is used."""
TERMS = 9


@functools.cache
def _debye() -> list[list[float]]:
    """Coefficients of U_0 .. U_TERMS, lowest power first (DLMF 10.41.9).

    U_{k+1} = p^2 (1 - p^2) U_k' / 2 + 1/8 int_0^p (1 - 5 t^2) U_k(t) dt.
    """
    u = [Fraction(1)]
    found = [u]
    for _ in range(TERMS):
        new = [Fraction(0)] * (len(u) + 3)
        for power, c in enumerate(u):
            new[power + 1] += c * (Fraction(power, 2) + Fraction(1, 8 * (power + 1)))
            new[power + 3] -= c * (Fraction(power, 2) + Fraction(5, 8 * (power + 3)))
        u = new
        found.append(u)
    return [[float(c) for c in each] for each in found]


def _uniform(order: float, x: Tensor) -> Tensor:
    """log(I_order(x) x^-order e^-x) by the uniform expansion."""
    z = x / order
    root = torch.sqrt(1 + z.square())
    p = 1 / root
    total = torch.zeros_like(x)
    for coefficients in reversed(_debye()):  # Horner in 1 / order and in p
        value = torch.zeros_like(x)
        for c in reversed(coefficients):
            value = value * p + c
        total = total / order + value
    tail = order / (root + z)  # order root - x
    return (
        tail
        - order * (math.log(order) + root.log1p())
        - 0.5 * (math.log(2 * math.pi * order) + root.log())
        + total.log()
    )


def _scaled(order: float, x: Tensor) -> tuple[Tensor, Tensor]:
    """log(I_order(x) x^-order e^-x) and I_{order+1}(x) / (x I_order(x)), in float64."""
    steps = max(0, math.ceil(UNIFORM - order))
    top = order + steps
    level = _uniform(top, x)
    ratio = (_uniform(top + 1, x) - level).exp()
    for step in range(steps):
        ratio = 1 / (2 * (top - step) + x.square() * ratio)
        level = level - ratio.log()
    return level, ratio


def _slope(order: float, x: Tensor) -> Tensor:
    """d/dx of I_{order+1}(x) / I_order(x), in float64, to the last digits even where 1 - r^2 - (2 order + 1) r / x cancels.

    At large orders the second derivative of the uniform expansion; below, s_v = r_v^2 (2 (v + 1) / x^2 - s_{v+1}).
    """
    steps = max(0, math.ceil(UNIFORM - order))
    top = order + steps
    with torch.enable_grad():
        at = x.detach().clone().requires_grad_()
        (first,) = torch.autograd.grad(_uniform(top, at).sum(), at, create_graph=True)
        (slope,) = torch.autograd.grad(first.sum(), at)
    ratio = (_uniform(top + 1, x) - _uniform(top, x)).exp()
    for step in range(steps):
        ratio = 1 / (2 * (top - step) + x.square() * ratio)
        slope = ratio.square() * (2 * (top - step) - x.square() * slope)
    return slope


def _checked(order: float, x: Tensor) -> None:
    if order < 0:
        raise UserError(f"the order of a Bessel function must not be negative here, got {order}")
    if not bool((x >= 0).all()):
        raise UserError(f"a Bessel function is of arguments of at least 0 here, got {float(x.min()):g}")


class _Ratio(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, order: float, x: Tensor) -> Tensor:
        wide = x.double()
        ratio = wide * _scaled(order, wide)[1]
        ctx.order = order
        ctx.save_for_backward(x)
        return ratio.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad: Tensor) -> tuple[None, Tensor]:
        (x,) = ctx.saved_tensors
        return None, grad[0] * _slope(ctx.order, x.double()).to(x.dtype)


class _Log(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, order: float, x: Tensor) -> Tensor:
        ctx.order = order
        ctx.save_for_backward(x)
        return _scaled(order, x.double())[0].to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[None, Tensor]:
        (x,) = ctx.saved_tensors
        return None, grad[0] * (bessel_ratio(ctx.order, x) - 1)


def bessel_ratio(order: float, x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """I_{order+1}(x) / I_order(x), in [0, 1), computed in float64.

    Differentiable once, to a relative error of 1e-9 for arguments up to 1e12.

    Raises:
        UserError: a negative order or argument, or one that is not a number.
    """
    _checked(order, x)
    return _Ratio.apply(order, x)


def log_bessel(order: float, x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """log(I_order(x) x^-order e^-x): the scaled logarithm, finite at 0, where it is -order log 2 - log Gamma(order + 1).

    Differentiable twice; computed in float64.

    Raises:
        UserError: as `bessel_ratio`.
    """
    _checked(order, x)
    return _Log.apply(order, x)
