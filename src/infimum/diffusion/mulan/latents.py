"""The auxiliary latent c: k of m, one of m, a Gaussian, or none; with its divergence from the prior."""

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from infimum.diffusion.mulan.subsets import (
    SUMMANDS,
    chosen,
    gumbel,
    log_count,
    log_ordered,
    log_subset,
    straight_through,
    sum_of_gamma,
)
from infimum.errors import UserError
from infimum.evidence import Draws, event_sum

__all__ = ["Divergence", "GaussianLatent", "KHot", "Latent", "LatentKind", "NoLatent", "Noise", "OneHot", "latent_of"]

LatentKind = Literal["k-hot", "one-hot", "gaussian", "none"]
Noise = Literal["gumbel", "sog", "sog-official", "none"]
Divergence = Literal["subset", "ordered", "deterministic", "categorical"]

COOLEST = 0.5
"""Least temperature of `OneHot`."""

VARIANCES = (1e-4, 1e4)
"""Least and greatest variance of `GaussianLatent`."""


class Latent(nn.Module):
    """q(c | x) with parameters s, and p(c).

    Attributes:
        size: m, numbers of c.
        numbers: of s.
        surrogate: why the divergence makes no bound, or "".
    """

    size: int
    numbers: int
    surrogate = ""

    def sample(self, s: Float[Tensor, "B n"], draws: Draws) -> tuple[Float[Tensor, "K B m"], Float[Tensor, "K B"]]:
        """(c, KL): one latent for every draw, and an unbiased estimate of KL(q(c | x) to p(c)) in nats at it. Stream: "c"."""
        raise NotImplementedError

    def prior(self, draws: Draws) -> Float[Tensor, "K B m"]:
        """c of p(c). Stream: "c"."""
        raise NotImplementedError

    def log_prior(self, c: Float[Tensor, "K B m"]) -> Float[Tensor, "K B"]:
        """log p(c) in nats."""
        raise NotImplementedError

    def log_q(self, s: Float[Tensor, "B n"], c: Float[Tensor, "K B m"]) -> Float[Tensor, "K B"]:
        """log q(c | x) in nats, for importance weights.

        Raises:
            UserError: a distribution without a known probability.
        """
        raise NotImplementedError


class NoLatent(Latent):
    """Nothing."""

    size = numbers = 0

    def sample(self, s: Float[Tensor, "B n"], draws: Draws) -> tuple[Float[Tensor, "K B m"], Float[Tensor, "K B"]]:
        return s.new_zeros(*draws.shape, 0), s.new_zeros(draws.shape)

    def prior(self, draws: Draws) -> Float[Tensor, "K B m"]:
        return draws.uniform("c", 1)[..., :0].float()

    def log_prior(self, c: Float[Tensor, "K B m"]) -> Float[Tensor, "K B"]:
        return c.new_zeros(c.shape[:2])

    def log_q(self, s: Float[Tensor, "B n"], c: Float[Tensor, "K B m"]) -> Float[Tensor, "K B"]:
        return c.new_zeros(c.shape[:2])


class KHot(Latent):
    """The k largest of perturbed logits, by a straight-through gradient; uniform over subsets a priori (MuLAN, 2312.13236).

    Args:
        size: m.
        active: k.
        noise: "gumbel"; "sog", sums of Gamma variables (2106.01798); "sog-official", with the published code's scale; or "none".
        divergence: "subset": log q of the set that was drawn, exact, plus log C(m, k), unbiased. "ordered": the same of its order,
            unbiased for a looser bound. "deterministic": log C(m, k), the greatest that it can be, whatever the noise.
            "categorical": that of *one* draw of softmax(logits), as published: no bound.

    Raises:
        UserError: not 1 <= active < size, an unknown noise or divergence, or a probability that the noise does not have.
    """

    def __init__(
        self, size: int, active: int, noise: Noise = "gumbel", divergence: Divergence = "subset", scale: float = 10.0
    ) -> None:
        super().__init__()
        self.log_count = log_count(size, active)
        if noise not in get_args(Noise) or divergence not in get_args(Divergence):
            raise UserError(
                f"no noise {noise!r} or divergence {divergence!r}: choose of {', '.join(get_args(Noise))} and of "
                f"{', '.join(get_args(Divergence))}"
            )
        if divergence in ("subset", "ordered") and noise != "gumbel":
            raise UserError(
                f"the probability of a subset is known for noise 'gumbel' only, and noise is {noise!r}: use divergence "
                "'deterministic', which bounds it for all"
            )
        self.size = self.numbers = size
        self.active, self.noise, self.divergence, self.scale = active, noise, divergence, scale
        if divergence == "categorical":
            self.surrogate = (
                f"the divergence of one categorical draw stands for that of {active}, which may be greater by up to "
                f"{self.log_count:.2f} nats: use divergence 'subset' for a bound"
            )

    def sample(self, s: Float[Tensor, "B n"], draws: Draws) -> tuple[Float[Tensor, "K B m"], Float[Tensor, "K B"]]:
        perturbed = s + self._noise(draws).to(s.dtype)
        c = straight_through(perturbed, self.active)
        if self.divergence == "deterministic":
            return c, s.new_full(draws.shape, self.log_count, dtype=torch.float64)
        single = _categorical(s)
        if self.divergence == "categorical":
            return c, single.expand(draws.shape)
        if self.divergence == "subset":
            log_q = log_subset(s.expand_as(perturbed), c.detach())
        else:
            log_q = log_ordered(s.expand_as(perturbed), perturbed.detach(), self.active)
        return c, self._divergence(log_q, single)

    def _divergence(self, log_q: Float[Tensor, "K B"], single: Float[Tensor, "B"]) -> Float[Tensor, "K B"]:
        """log q + log of the uniform count, with the gradient of its expectation.

        The sample's own derivative, E[dlog q], is 0: the gradient is that of the score, less a baseline that knows x alone.
        """
        count = self.log_count + (math.lgamma(self.active + 1) if self.divergence == "ordered" else 0.0)
        value = log_q.detach() + count
        return value + (value - self.active * single.detach()) * (log_q - log_q.detach())

    def _noise(self, draws: Draws) -> Float[Tensor, "K B m"]:
        if self.noise == "none":
            return draws.uniform("c", 1) * 0
        if self.noise == "gumbel":
            return gumbel(draws.uniform("c", self.size).double())
        u = draws.uniform("c", self.size, SUMMANDS)
        return sum_of_gamma(u, self.active, self.scale, official=self.noise == "sog-official")

    def prior(self, draws: Draws) -> Float[Tensor, "K B m"]:
        return chosen(draws.uniform("c", self.size).float(), self.active)

    def log_prior(self, c: Float[Tensor, "K B m"]) -> Float[Tensor, "K B"]:
        return c.new_full(c.shape[:2], -self.log_count).double()

    def log_q(self, s: Float[Tensor, "B n"], c: Float[Tensor, "K B m"]) -> Float[Tensor, "K B"]:
        if self.noise == "none":
            return c.new_zeros(c.shape[:2]).double()
        if self.noise != "gumbel":
            raise UserError(
                f"the probability of a subset under noise {self.noise!r} is not known: train with noise 'gumbel', or use the ELBO "
                "with divergence 'deterministic'"
            )
        return log_subset(s.expand(len(c), -1, -1), c)


class OneHot(Latent):
    """One of m, by the straight-through gradient of a softmax whose temperature falls from 1 to 1/2; uniform a priori.

    Args:
        size: m.
        cooling: rate at which the temperature falls with each training step.

    Raises:
        UserError: a size below 2.
    """

    steps: Tensor

    def __init__(self, size: int, cooling: float = 1e-5) -> None:
        super().__init__()
        if size < 2:
            raise UserError(f"a one-hot latent has a size of at least 2, got {size}")
        self.size = self.numbers = size
        self.cooling = cooling
        self.register_buffer("steps", torch.zeros(()))

    def sample(self, s: Float[Tensor, "B n"], draws: Draws) -> tuple[Float[Tensor, "K B m"], Float[Tensor, "K B"]]:
        perturbed = s + gumbel(draws.uniform("c", self.size).double()).to(s.dtype)
        if self.training:
            self.steps += 1
        soft = (perturbed / max(COOLEST, math.exp(-self.cooling * float(self.steps)))).softmax(-1)
        c = chosen(perturbed.detach(), 1) + (soft - soft.detach())
        return c, _categorical(s).expand(draws.shape)

    def prior(self, draws: Draws) -> Float[Tensor, "K B m"]:
        return chosen(draws.uniform("c", self.size).float(), 1)

    def log_prior(self, c: Float[Tensor, "K B m"]) -> Float[Tensor, "K B"]:
        return c.new_full(c.shape[:2], -math.log(self.size)).double()

    def log_q(self, s: Float[Tensor, "B n"], c: Float[Tensor, "K B m"]) -> Float[Tensor, "K B"]:
        return (s.double().log_softmax(-1) * c).sum(-1)


class GaussianLatent(Latent):
    """N(mean, variance) against N(0, I). It has been reported to diverge, so that its variance is kept within `VARIANCES`.

    Args:
        size: m.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        if size < 1:
            raise UserError(f"a Gaussian latent has a size of at least 1, got {size}")
        self.size, self.numbers = size, 2 * size

    @staticmethod
    def _moments(s: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = s.chunk(2, -1)
        return mean, F.softplus(raw).clamp(*VARIANCES)

    def sample(self, s: Float[Tensor, "B n"], draws: Draws) -> tuple[Float[Tensor, "K B m"], Float[Tensor, "K B"]]:
        mean, variance = self._moments(s)
        c = mean + variance.sqrt() * draws.normal("c", self.size).to(s.dtype)
        each = 0.5 * (mean.square() + variance - 1 - variance.log())
        return c, event_sum(each, 1).expand(draws.shape)

    def prior(self, draws: Draws) -> Float[Tensor, "K B m"]:
        return draws.normal("c", self.size).float()

    def log_prior(self, c: Float[Tensor, "K B m"]) -> Float[Tensor, "K B"]:
        return event_sum(-0.5 * c.double().square() - 0.5 * math.log(2 * math.pi), 1)

    def log_q(self, s: Float[Tensor, "B n"], c: Float[Tensor, "K B m"]) -> Float[Tensor, "K B"]:
        mean, variance = (part.double() for part in self._moments(s))
        each = -0.5 * ((c.double() - mean).square() / variance + variance.log() + math.log(2 * math.pi))
        return event_sum(each, 1)


def _categorical(logits: Float[Tensor, "B m"]) -> Float[Tensor, "B"]:
    """KL(softmax(logits) to the uniform distribution) in nats."""
    log_p = logits.double().log_softmax(-1)
    return (log_p.exp() * log_p).sum(-1) + math.log(logits.shape[-1])


def latent_of(kind: LatentKind, size: int, active: int, noise: Noise, divergence: Divergence) -> Latent:
    """By name.

    Raises:
        UserError: an unknown kind, or what the kind refuses.
    """
    if kind not in get_args(LatentKind):
        raise UserError(f"no latent {kind!r}: choose one of {', '.join(get_args(LatentKind))}")
    if kind == "k-hot":
        return KHot(size, active, noise, divergence)
    if kind == "none":
        return NoLatent()
    return OneHot(size) if kind == "one-hot" else GaussianLatent(size)
