"""Von Mises-Fisher posteriors of one fixed concentration on the unit sphere, against the uniform prior (1808.10805)."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import kl_divergence

from infimum.distributions import HypersphericalUniform, VonMisesFisher
from infimum.distributions.vmf import log_area
from infimum.evidence import Draws, draw, event_sum
from infimum.vae.text.families import Family
from infimum.vae.text.units import consistent_sphere_units

__all__ = ["SphereFamily"]


class SphereFamily(Family):
    """vMF(mu, kappa) with the direction mu from the encoder. Streams: "z" and "z.angle", "prior".

    As kappa is fixed, the divergence is one constant, and the gradient goes through mu alone.
    """

    def __init__(self, latent: int, kappa: float) -> None:
        super().__init__()
        self.latent = self.inputs = latent
        self.kappa = kappa
        north = VonMisesFisher(torch.eye(latent, dtype=torch.float64)[0], torch.tensor(kappa, dtype=torch.float64))
        self.log_peak = float(north.log_normaliser()) + kappa
        self.log_uniform = -log_area(latent)
        self.constant_divergence = float(kl_divergence(north, HypersphericalUniform(latent)))

    def split(self, h: Float[Tensor, "B inputs"]) -> tuple[Tensor]:
        """The outputs, projected to the sphere."""
        return (torch.nn.functional.normalize(h, dim=-1),)

    def sample(self, s: Any, draws: Draws) -> Float[Tensor, "K B D"]:
        return draw(VonMisesFisher(s[0], s[0].new_tensor(self.kappa), validate_args=False), draws, "z")

    def log_prob(self, s: Any, z: Float[Tensor, "*n D"]) -> Float[Tensor, "*m"]:
        return self.kappa * (event_sum(s[0] * z, 1) - 1) + self.log_peak

    def log_prior(self, z: Float[Tensor, "*n D"]) -> Float[Tensor, "*n"]:
        return event_sum(torch.zeros_like(z), 1) + self.log_uniform

    def prior(self, draws: Draws) -> Float[Tensor, "K B D"]:
        return torch.nn.functional.normalize(draws.normal("prior", self.latent), dim=-1)

    def divergence(self, s: Any) -> Float[Tensor, "B"]:
        return torch.full_like(s[0][:, 0], self.constant_divergence)

    def unit_divergences(self, s: Any) -> Float[Tensor, "D"]:
        return consistent_sphere_units(s[0], self.kappa)
