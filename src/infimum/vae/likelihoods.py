"""What a decoder's outputs mean: p(x | z), dimension by dimension, normalised over the values that x can take."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from infimum.distributions import DiscretizedLogistic
from infimum.errors import UserError
from infimum.evidence import Draws

__all__ = [
    "Bernoulli",
    "Categorical",
    "DiscretisedLogistic",
    "Gaussian",
    "Laplace",
    "Likelihood",
    "PixelLaplace",
    "likelihood_of",
]

Name = Literal["bernoulli", "categorical", "discretised-logistic", "gaussian", "laplace"]


class Likelihood(nn.Module):
    """p(x | outputs) of D dimensions.

    Attributes:
        outputs: decoder outputs a dimension.
        density: whether p(x | z) is a density, which may exceed 1, and not a mass.
    """

    outputs: int = 1
    density: bool = False

    def log_prob(self, x: Float[Tensor, "B D"], out: Float[Tensor, "K B D*outputs"]) -> Float[Tensor, "K B D"]:
        """log p(x_d | z) in nats, a dimension each."""
        raise NotImplementedError

    def mean(self, out: Float[Tensor, "*n D*outputs"]) -> Float[Tensor, "*n D"]:
        """E[x | z]."""
        raise NotImplementedError

    def sample(self, out: Float[Tensor, "K B D*outputs"], draws: Draws) -> Float[Tensor, "K B D"]:
        """x | z; stream "x"."""
        raise NotImplementedError

    def scaled(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """x as an encoder likes to see it."""
        return x


class Bernoulli(Likelihood):
    """Binary data in {0, 1}; the output is the logit."""

    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        return F.softplus(out).neg_().addcmul_(x, out)  # in place: fresh memory costs more than the arithmetic

    def mean(self, out: Tensor) -> Tensor:
        return out.sigmoid()

    def sample(self, out: Tensor, draws: Draws) -> Tensor:
        return (draws.uniform("x", out.shape[-1]) < out.sigmoid()).to(out.dtype)


class _Levels(Likelihood):
    """Integer data 0 .. levels - 1."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    def scaled(self, x: Tensor) -> Tensor:
        return 2 * x / (self.levels - 1) - 1


class Categorical(_Levels):
    """Integer data without an order: one logit a level."""

    def __init__(self, levels: int) -> None:
        super().__init__(levels)
        self.outputs = levels

    def _logits(self, out: Tensor) -> Tensor:
        return out.unflatten(-1, (-1, self.levels)).log_softmax(-1)

    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        logits = self._logits(out)
        return logits.gather(-1, x.long().expand(logits.shape[:-1])[..., None])[..., 0]

    def mean(self, out: Tensor) -> Tensor:
        return self._logits(out).exp() @ torch.arange(self.levels, dtype=out.dtype, device=out.device)

    def sample(self, out: Tensor, draws: Draws) -> Tensor:
        upper = self._logits(out).exp().cumsum(-1)
        u = draws.uniform("x", upper.shape[-2])
        return (u[..., None] >= upper).sum(-1).clamp(max=self.levels - 1).to(out.dtype)


class DiscretisedLogistic(_Levels):
    """Ordered integer data: the mass of a logistic in each cell; location and log-scale (on [-1, 1]) are outputs."""

    outputs = 2

    def _cells(self, out: Tensor) -> DiscretizedLogistic:
        loc, log_scale = out.unflatten(-1, (-1, 2)).unbind(-1)
        # exp(-7) is a fifth of a cell of 256 levels: narrower logistics cannot be told apart, and spike the loss.
        return DiscretizedLogistic(loc, log_scale.clamp(-7, 7), self.levels, validate_args=False)

    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        return self._cells(out).log_prob(x.expand(*out.shape[:-1], x.shape[-1]))

    def mean(self, out: Tensor) -> Tensor:
        return self._cells(out).mean

    def sample(self, out: Tensor, draws: Draws) -> Tensor:
        return self._cells(out).icdf(draws.uniform("x", out.shape[-1] // 2))


class Gaussian(Likelihood):
    """Real data: the output is the mean; the log standard deviation is learned, one a dimension.

    The deviation is clamped below at exp(-10): the density of real data has no upper bound.
    """

    density = True

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(dims))

    def _scale(self) -> Tensor:
        return self.log_scale.clamp(-10, 10)

    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        log_scale = self._scale()
        return -0.5 * ((x - out) * (-log_scale).exp()).square() - log_scale - 0.5 * math.log(2 * math.pi)

    def mean(self, out: Tensor) -> Tensor:
        return out

    def sample(self, out: Tensor, draws: Draws) -> Tensor:
        return out + self._scale().exp() * draws.normal("x", out.shape[-1])


class Laplace(Likelihood):
    """Real data: the output is the median; the scale is fixed (0.75 for pictures in [0, 1]: Shi et al. 2019, 1911.03393)."""

    density = True

    def __init__(self, scale: float = 0.75) -> None:
        super().__init__()
        if not 0 < scale < math.inf:
            raise UserError(f"a Laplace likelihood needs a positive scale, got {scale}")
        self.scale = scale

    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        return (x - out).abs() * (-1 / self.scale) - math.log(2 * self.scale)

    def mean(self, out: Tensor) -> Tensor:
        return out

    def sample(self, out: Tensor, draws: Draws) -> Tensor:
        u = draws.uniform("x", out.shape[-1]) - 0.5
        return out - (self.scale * u.sign() * torch.log1p(-2 * u.abs())).to(out.dtype)


class PixelLaplace(Laplace):
    """Integer pixels 0 .. levels - 1 as real numbers of [-1, 1], of which the output is the median (2309.13160).

    A density of grey levels, at most 1 / (scale (levels - 1)): |x - out| / scale is the paper's weighted absolute error.
    """

    def __init__(self, scale: float, levels: int) -> None:
        super().__init__(scale)
        self.levels = levels

    def scaled(self, x: Tensor) -> Tensor:
        return 2 * x / (self.levels - 1) - 1

    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        return super().log_prob(self.scaled(x), out) - math.log((self.levels - 1) / 2)

    def mean(self, out: Tensor) -> Tensor:
        return (out + 1) * ((self.levels - 1) / 2)

    def sample(self, out: Tensor, draws: Draws) -> Tensor:
        return self.mean(super().sample(out, draws))


def likelihood_of(name: Name, dims: int, levels: int | None, scale: float = 0.75) -> Likelihood:
    """The likelihood of that name for items of ``dims`` dimensions; ``scale`` is that of "laplace".

    Raises:
        UserError: unknown name, integer likelihoods without ``levels``, or a scale that is not positive.
    """
    if name == "bernoulli":
        return Bernoulli()
    if name == "gaussian":
        return Gaussian(dims)
    if name == "laplace":
        return Laplace(scale) if levels is None else PixelLaplace(scale, levels)
    if name not in ("categorical", "discretised-logistic"):
        raise UserError(
            f"no likelihood {name!r}: choose bernoulli, categorical, discretised-logistic, gaussian or laplace"
        )
    if levels is None or levels < 2:
        raise UserError(f"likelihood {name!r} is of integers 0 .. levels - 1: give levels, at least 2, got {levels}")
    return Categorical(levels) if name == "categorical" else DiscretisedLogistic(levels)
