"""p(x | z_0): what the cleanest latent says of the data, discrete or continuous."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from infimum.errors import UserError
from infimum.evidence import event_sum

__all__ = ["BinnedDecoder", "ContinuousDecoder", "Decoder", "DiscreteDecoder", "decoder_of"]

LARGEST = 2**24
"""Numbers that the table of levels may have at a time."""


class Decoder(nn.Module):
    """Encodes data as f and decodes z_0 = alpha_0 f + sigma_0 eps."""

    density: bool
    """Whether p(x) is a density, in nats that depend on lambda_max and have no ceiling."""
    predicts = False
    """Whether p(x | z_0) stands around the network's prediction x^(z_0), not around z_0 / alpha_0."""
    reach: float
    """Half the distance of two levels, of discrete data."""

    def scaled(self, x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """f, what is diffused."""
        raise NotImplementedError

    def log_prob(
        self, x: Float[Tensor, "B D"], clean: Float[Tensor, "K B D"], high: Float[Tensor, ""]
    ) -> Float[Tensor, "K B"]:
        """log p(x | z_0) in nats; ``clean`` is z_0 / alpha_0 = f + exp(-lambda_0 / 2) eps, ``high`` is lambda_0."""
        raise NotImplementedError

    def decode(self, clean: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """The most probable x."""
        raise NotImplementedError


class DiscreteDecoder(Decoder):
    """Integers 0 .. V - 1 as f = 2 (x + 1/2) / V - 1 (2107.00630).

    p(x | z_0) is the softmax over levels k of -1/2 exp(lambda_0) (z_0 / alpha_0 - f(k))^2.

    Raises:
        UserError: fewer than two levels.
    """

    density = False

    def __init__(self, levels: int) -> None:
        super().__init__()
        if levels < 2:
            raise UserError(f"discrete data have at least 2 levels, got {levels}")
        self.levels, self.reach = levels, 1 / levels

    def scaled(self, x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        low, high = (float(v) for v in x.detach().aminmax()) if x.numel() else (0.0, 0.0)
        if not (low >= 0 and high <= self.levels - 1 and bool((x == x.round()).all())):
            raise UserError(
                f"expected integers 0 .. {self.levels - 1}, got numbers from {low:g} to {high:g}: pass grey levels without scaling "
                "them, or build the model for continuous data (levels=None)"
            )
        return (2 * x + 1) / self.levels - 1

    def log_prob(
        self, x: Float[Tensor, "B D"], clean: Float[Tensor, "K B D"], high: Float[Tensor, ""]
    ) -> Float[Tensor, "K B"]:
        # in levels: u = ((c + 1) V - 1) / 2, log p(k) = -1/2 p^2 (u - k)^2 + constant, p = 2 exp(lambda_0 / 2) / V
        u = ((clean + 1) * self.levels - 1) / 2
        half_square = (-2 / self.levels**2) * high.exp().to(u.dtype)
        nearest = u.detach().round().clamp(0, self.levels - 1)
        # relative to the nearest level n: -1/2 p^2 (k - n)(k + n - 2u), which no digits are lost in
        ahead = nearest - 2 * u
        offset = self._offsets(-float(half_square.detach()), u)
        rows = max(1, LARGEST // (u.shape[-1] * len(offset)))
        masses = [
            self._mass(n, a, offset, half_square)
            for n, a in zip(nearest.flatten(0, 1).split(rows), ahead.flatten(0, 1).split(rows), strict=True)
        ]
        mass = (masses[0] if len(masses) == 1 else torch.cat(masses)).view_as(u)
        return event_sum(half_square * (x - nearest) * (x + ahead) - mass.log(), 1)

    def _offsets(self, half_square: float, like: Tensor) -> Float[Tensor, "o"]:
        """Distances to the nearest level that a level of any weight may have: the others have less than exp(-40) of it."""
        reach = self.levels - 1
        if half_square * reach * (reach - 1) > 40:
            reach = min(reach, math.ceil(0.5 + math.sqrt(0.25 + 40 / half_square)) - 1)
        return torch.arange(-reach, reach + 1, dtype=like.dtype, device=like.device)

    def _mass(
        self,
        nearest: Float[Tensor, "N D"],
        ahead: Float[Tensor, "N D"],
        offset: Float[Tensor, "o"],
        half_square: Tensor,
    ) -> Float[Tensor, "N D"]:
        """The sum over levels, over that of the nearest."""
        level = nearest[..., None] + offset
        power = half_square * offset * (level + ahead[..., None])
        outside = (level < 0) | (level > self.levels - 1)
        return power.masked_fill(outside, -math.inf).exp().sum(-1)

    def decode(self, clean: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return (((clean + 1) * self.levels - 1) / 2).round().clamp(0, self.levels - 1)


class BinnedDecoder(Decoder):
    """Integers 0 .. V - 1 as f = 2 x / (V - 1) - 1 (2006.11239).

    p(x | z_0) is the mass of a normal around the predicted image in the cell of x; the cells of 0 and V - 1 are open (eq. 13).

    Raises:
        UserError: fewer than two levels.
    """

    density = False
    predicts = True

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.grid = DiscreteDecoder(levels)
        self.levels, self.reach = levels, 1 / (levels - 1)

    def scaled(self, x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        self.grid.scaled(x)  # refuses what are no levels
        return 2 * x / (self.levels - 1) - 1

    def log_prob(
        self, x: Float[Tensor, "B D"], clean: Float[Tensor, "K B D"], high: Float[Tensor, ""]
    ) -> Float[Tensor, "K B"]:
        """log p(x | x^) in nats; ``clean`` is the predicted image, ``high`` the log-precision of the normal around it."""
        half, scale = self.reach, (0.5 * high).exp().to(clean.dtype)
        away = (2 * x / (self.levels - 1) - 1 - clean) * scale
        below = torch.where(x == 0, -math.inf, away - half * scale)
        above = torch.where(x == self.levels - 1, math.inf, away + half * scale)
        # of the two tails the smaller one keeps its digits
        flip = away > 0
        low, top = torch.where(flip, -above, below), torch.where(flip, -below, above)
        upper = torch.special.log_ndtr(top)
        ratio = (torch.special.log_ndtr(low) - upper).clamp_max(-torch.finfo(upper.dtype).tiny)
        inside = upper + torch.log(-torch.expm1(ratio))
        return event_sum(inside, 1)

    def decode(self, clean: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return ((clean + 1) * (self.levels - 1) / 2).round().clamp(0, self.levels - 1)


class ContinuousDecoder(Decoder):
    """Real data: p(x | z_0) = N(x; z_0 / alpha_0, exp(-lambda_0)). Compare densities at equal lambda_max only."""

    density = True

    def scaled(self, x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return x

    def log_prob(
        self, x: Float[Tensor, "B D"], clean: Float[Tensor, "K B D"], high: Float[Tensor, ""]
    ) -> Float[Tensor, "K B"]:
        scale = (0.5 * high).exp().to(clean.dtype)
        each = -0.5 * ((x - clean) * scale).square() + 0.5 * high.to(clean.dtype) - 0.5 * math.log(2 * math.pi)
        return event_sum(each, 1)

    def decode(self, clean: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return clean


def decoder_of(levels: int | None) -> Decoder:
    """For data of so many levels, or continuous data."""
    return ContinuousDecoder() if levels is None else DiscreteDecoder(levels)
