"""The conditional VAE: p(x | c) = E over p(z) of p(x | z, c) (Sohn, Lee & Yan, NeurIPS 2015)."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from infimum.errors import UserError
from infimum.evidence import Draws
from infimum.vae.model import Autoencoder, VAEConfig

__all__ = ["ConditionalVAE", "ConditionalVAEConfig"]

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class ConditionalVAEConfig(VAEConfig):
    """A `VAEConfig` and the condition.

    Attributes:
        classes: the condition is one of this many labels; 0: it is a vector.
        condition: dimensions of a vector condition.
    """

    classes: int = 0
    condition: int = 0

    def __post_init__(self) -> None:
        """Exactly one kind of condition."""
        super().__post_init__()
        if (self.classes > 0) == (self.condition > 0):
            raise UserError(
                f"give either classes (labels) or condition (a vector's dimensions), got {self.classes} and {self.condition}"
            )


class ConditionalVAE(Autoencoder):
    """A VAE of x given c; an item is the pair (x, c). The prior of z does not depend on c.

    c: int64 labels (B,) or a float vector (B, condition).
    """

    Config = ConditionalVAEConfig
    config: ConditionalVAEConfig
    target = "log p(x|c)"

    def _condition_width(self) -> int:
        return self.config.classes or self.config.condition

    def _condition(self, c: Tensor) -> Float[Tensor, "B C"]:
        dtype = next(self.parameters()).dtype
        if self.config.classes:
            if c.ndim != 1 or c.is_floating_point():
                raise UserError(f"expected int64 labels of shape (B,), got {c.dtype} of shape {tuple(c.shape)}")
            if c.numel() and not 0 <= int(c.min()) <= int(c.max()) < self.config.classes:
                raise UserError(f"labels must lie in 0..{self.config.classes - 1}, got {int(c.min())}..{int(c.max())}")
            return F.one_hot(c, self.config.classes).to(dtype)
        if c.ndim != 2 or c.shape[1] != self.config.condition:
            raise UserError(f"expected conditions of shape (B, {self.config.condition}), got {tuple(c.shape)}")
        return c.to(dtype)

    def encode(self, x: Pair) -> Any:
        """Parameters of q(z | x, c)."""
        item, c = x
        both = torch.cat((self.likelihood.scaled(self._flat(item)), self._condition(c)), -1)
        return self.family.split(self.encoder(both))

    def _with(self, z: Float[Tensor, "K B latent"], c: Tensor) -> Float[Tensor, "K B both"]:
        condition = self._condition(c)
        return torch.cat((z, condition.expand(*z.shape[:-1], -1)), -1)

    def log_likelihood(self, x: Pair, z: Float[Tensor, "K B latent"]) -> Float[Tensor, "K B"]:
        """log p(x | z, c) in nats."""
        return self._log_likelihood(x[0], self._with(z, x[1]))

    def generate(self, draws: Draws, condition: Tensor | None = None) -> Float[Tensor, "K B *shape"]:
        """Draws from p(x | c), one condition for each of the B items."""
        if condition is None:
            raise UserError("a conditional VAE generates given a condition: generate(draws, condition)")
        z = draws.normal("prior", self.config.latent).to(next(self.parameters()).dtype)
        return self.likelihood.sample(self.decode(self._with(z, condition)), draws).unflatten(-1, self.config.shape)

    def reconstruct(self, x: Pair) -> Float[Tensor, "B *shape"]:
        """E[x | z, c] at the centre of q(z | x, c)."""
        z = self._with(self.family.centre(self.encode(x))[None], x[1])
        return self.likelihood.mean(self.decode(z)[0]).unflatten(-1, self.config.shape)
