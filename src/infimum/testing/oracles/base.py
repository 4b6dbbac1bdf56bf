"""What every exactly solvable model offers, and how its proposal is made good or bad."""

import abc
import dataclasses
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributions import Distribution

from infimum.errors import UserError
from infimum.evidence.draws import Draws
from infimum.evidence.plan import Plan
from infimum.evidence.weights import LatentModel

__all__ = ["Oracle", "Start", "double", "inverse_cdf", "parameter"]

Start = Literal["posterior", "prior"]


class Oracle(LatentModel, abc.ABC):
    """A latent-variable model whose evidence is known exactly; all numbers are float64.

    The proposal q starts from the exact posterior or from the prior; its mean is moved by `shift` standard
    deviations and its scale is multiplied by `stretch` (stretch < 1: too narrow, hence heavy-tailed weights). Each
    class says what that means when z is discrete. `shift`, `stretch` and the model's parameters are `nn.Parameter`s:
    gradients of bounds can be compared with those of closed forms.

    Args:
        proposal: what q starts from.
        shift: in standard deviations of the starting distribution.
        stretch: factor on its standard deviations, positive.
    """

    def __init__(self, proposal: Start = "posterior", shift: float | int = 0.0, stretch: float = 1.0) -> None:
        super().__init__()
        if stretch <= 0:
            raise UserError(f"stretch={stretch}: the factor on the proposal's scale must be positive (1: unchanged)")
        self.proposal = proposal
        self.shift = parameter(shift)
        self.stretch = parameter(stretch)

    @abc.abstractmethod
    def log_evidence(self, x: Any) -> Float[Tensor, "B"]:
        """Exact log p(x) in nats."""

    @abc.abstractmethod
    def posterior_sample(self, x: Any, draws: Draws) -> Tensor:
        """Exact draws z ~ p(z|x), (K, B, *event), from streams of their own: independent of the proposal's."""

    @abc.abstractmethod
    def _ancestral(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """z (1, B, *event) and x (1, B, *event) from the model itself, for draws with K = 1."""

    def exact_posterior(self, x: Any) -> Distribution:
        """p(z|x) with batch shape (B,), where torch has such a distribution.

        Raises:
            UserError: it has none; `posterior_sample` still draws from it.
        """
        raise UserError(f"{type(self).__name__} has no torch distribution as posterior: use posterior_sample(x, draws)")

    def simulate(self, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """n items from the model: z (1, n, *event), ready to be passed as `latents=`, and x (n, *event).

        Since (z, x) come from the joint, z is an exact posterior draw of its x. Pure in (seed, item).
        """
        draws = Plan.iid(1).draws(torch.arange(n), seed=seed, salt="simulate", dtype=torch.float64)
        with torch.no_grad():
            z, x = self._ancestral(draws)
        return z, x[0]


def parameter(value: Any) -> nn.Parameter:
    """A float64 parameter from numbers or a tensor."""
    return nn.Parameter(torch.as_tensor(value, dtype=torch.float64).detach().clone())


def inverse_cdf(log_probs: Float[Tensor, "*n C"], u: Float[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """Index of the category whose cell of the distribution function holds u."""
    upper = log_probs.detach().exp().cumsum(-1)
    return (u.unsqueeze(-1) >= upper / upper[..., -1:]).sum(-1).clamp_max(log_probs.shape[-1] - 1)


def double(draws: Draws) -> Draws:
    """The same draws in float64."""
    return dataclasses.replace(draws, dtype=torch.float64)
