"""A residual network of vectors, conditioned on a number: denoisers of small data."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from infimum.errors import UserError

__all__ = ["FourierFeatures", "LayerNorm", "ResidualMLP", "conditioning", "sinusoidal"]


class LayerNorm(nn.Module):
    """Layer norm, spelled out: the forward-mode derivative of torch's own has a wrong gradient (2.13), this one's is right."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, h: Float[Tensor, "*n width"]) -> Float[Tensor, "*n width"]:
        """Of the last axis."""
        away = h - h.mean(-1, keepdim=True)
        return away * (away.square().mean(-1, keepdim=True) + self.eps).rsqrt() * self.weight + self.bias


def sinusoidal(u: Float[Tensor, "*n"], width: int) -> Float[Tensor, "*n width"]:
    """sin and cos of 1000 u at ``width`` / 2 frequencies from 1 down to 1e-4, for u in [0, 1] (1706.03762; 2107.00630)."""
    half = width // 2
    rate = torch.exp(torch.arange(half, dtype=u.dtype, device=u.device) * (-math.log(10_000) / max(half - 1, 1)))
    angle = 1000 * u[..., None] * rate
    return torch.cat((angle.sin(), angle.cos()), -1)


def conditioning(
    u: Float[Tensor, "N"], width: int, context: Float[Tensor, "N m"] | None, size: int
) -> Float[Tensor, "N both"]:
    """`sinusoidal` of u, with ``size`` numbers of the context behind it; without a context they are 0.

    Raises:
        UserError: a context of another size.
    """
    waves = sinusoidal(u, width)
    if context is None:
        return nn.functional.pad(waves, (0, size)) if size else waves
    if context.shape != (len(u), size):
        raise UserError(
            f"the network was built for a context of {size} numbers an item, and got {tuple(context.shape)} for {len(u)} items: "
            "give the model its context's size"
        )
    return torch.cat((waves, context.to(waves.dtype)), 1) if size else waves


class FourierFeatures(nn.Module):
    """z with sin and cos of 2 pi k z beside it: fine detail that a smooth network would miss (VDM, 2107.00630).

    Args:
        frequencies: k, cycles in a unit of z. Levels that are 2 / V apart show best at V / 2, and at V / 4 their last bit.
    """

    def __init__(self, frequencies: tuple[float, ...]) -> None:
        super().__init__()
        self.frequencies = frequencies

    @property
    def copies(self) -> int:
        """Channels out for each channel in."""
        return 1 + 2 * len(self.frequencies)

    def forward(self, z: Float[Tensor, "B C *n"]) -> Float[Tensor, "B E *n"]:
        """Along axis 1."""
        waves = [(2 * math.pi * k) * z for k in self.frequencies]
        return torch.cat((z, *(w.sin() for w in waves), *(w.cos() for w in waves)), 1)


class _Block(nn.Module):
    def __init__(self, width: int, dropout: float, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.norm, self.first = norm(width), nn.Linear(width, width)
        self.condition = nn.Linear(width, width, bias=False)
        self.drop, self.second = nn.Dropout(dropout), nn.Linear(width, width)
        nn.init.zeros_(self.condition.weight)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        inner = self.first(nn.functional.silu(self.norm(h))) + self.condition(c)
        return h + self.second(self.drop(nn.functional.silu(inner)))


class ResidualMLP(nn.Module):
    """(z, u) to a vector like z: ``blocks`` residual blocks that all know the condition u in [0, 1]. It starts at 0.

    What each number's own features say, a function of u, is added to the output: to round a number needs no other number.

    Args:
        dims: of z.
        width: of the layers, even.
        blocks: how many.
        fourier: frequencies of `FourierFeatures`.
        dropout: inside the blocks.
        context: numbers that the network is told besides u, such as a label.
        fused: torch's layer norm; without it `LayerNorm`, for networks whose derivative in u is trained.

    Raises:
        UserError: a width that is odd or below 2, or no blocks.
    """

    def __init__(
        self,
        dims: int,
        *,
        width: int = 256,
        blocks: int = 4,
        fourier: tuple[float, ...] = (),
        dropout: float = 0.0,
        context: int = 0,
        fused: bool = True,
    ) -> None:
        super().__init__()
        if width < 2 or width % 2 or blocks < 1:
            raise UserError(
                f"a residual network needs an even width of at least 2 and a block, got {width} and {blocks}"
            )
        self.width, self.context = width, context
        self.features = FourierFeatures(fourier)
        self.inputs = nn.Linear(dims * self.features.copies, width)
        self.embedding = nn.Sequential(nn.Linear(width + context, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        norm = nn.LayerNorm if fused else LayerNorm
        self.blocks = nn.ModuleList(_Block(width, dropout, norm) for _ in range(blocks))
        self.norm, self.outputs = norm(width), nn.Linear(width, dims)
        self.own = nn.Linear(width, self.features.copies)
        nn.init.zeros_(self.own.weight)
        nn.init.zeros_(self.own.bias)
        nn.init.zeros_(self.outputs.weight)
        nn.init.zeros_(self.outputs.bias)

    def forward(
        self, z: Float[Tensor, "N D"], u: Float[Tensor, "N"], context: Float[Tensor, "N m"] | None = None
    ) -> Float[Tensor, "N D"]:
        """The output for every row of z at its own u and context."""
        c = self.embedding(conditioning(u, self.width, context, self.context))
        features = self.features(z)
        h = self.inputs(features)
        for block in self.blocks:
            h = block(h, c)
        own = (features.unflatten(1, (self.features.copies, -1)) * self.own(c)[..., None]).sum(1)
        return self.outputs(nn.functional.silu(self.norm(h))) + own
