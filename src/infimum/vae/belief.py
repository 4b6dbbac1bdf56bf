"""A binary sigmoid belief net with one latent layer small enough to enumerate: the exact neighbour of the VAE."""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributions as td
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from infimum.errors import UserError
from infimum.evidence import Draws, Estimate, LatentModel, LogWeights, Plan, event_sum, exhaustive, iwae
from infimum.nets import Activation, mlp

__all__ = ["BeliefNet", "BeliefNetConfig"]

ENUMERABLE = 16


@dataclass(frozen=True)
class BeliefNetConfig:
    """What a `BeliefNet` is built from.

    Attributes:
        shape: of one binary item.
        latent: binary latent units; up to 16 are enumerated.
        hidden: widths of the encoder's layers.
        decoder: widths of the decoder's hidden layers; none: the classical net, logits linear in z.
        activation: between layers.
    """

    shape: tuple[int, ...]
    latent: int = 12
    hidden: tuple[int, ...] = (64, 64)
    decoder: tuple[int, ...] = ()
    activation: Activation = "tanh"

    def __post_init__(self) -> None:
        """Refuse sizes that build nothing."""
        if not self.shape or min(self.shape) < 1 or self.latent < 1:
            raise UserError(f"shape and latent must be at least 1, got {self.shape} and {self.latent}")


class BeliefNet(LatentModel):
    """p(z) = Bernoulli(prior), p(x | z) = Bernoulli(decoder(z)), q(z | x) = Bernoulli(encoder(x)). Streams: "z", "prior", "x"."""

    Config = BeliefNetConfig
    ceiling = 0.0

    def __init__(self, config: BeliefNetConfig) -> None:
        super().__init__()
        self.config = config
        dims = math.prod(config.shape)
        self.prior = nn.Parameter(torch.zeros(config.latent))
        self.encoder = mlp(dims, config.hidden, config.latent, config.activation)
        self.decoder = mlp(config.latent, config.decoder, dims, config.activation)

    def encode(self, x: Float[Tensor, "B *shape"]) -> Float[Tensor, "B latent"]:
        """Logits of q(z | x)."""
        if tuple(x.shape[1:]) not in (self.config.shape, (math.prod(self.config.shape),)):
            raise UserError(f"expected items of shape {self.config.shape}, got {tuple(x.shape[1:])}")
        return self.encoder(x.flatten(1)).clamp(-15, 15)

    def posterior(self, s: Float[Tensor, "B latent"]) -> td.Distribution:
        """q(z | x): batch (B,), event (latent,)."""
        return td.Independent(td.Bernoulli(logits=s, validate_args=False), 1, validate_args=False)

    def sample(self, s: Float[Tensor, "B latent"], draws: Draws) -> Float[Tensor, "K B latent"]:
        """z = 1 where u < sigmoid(logit): reflecting u gives the partner that DisARM pairs it with. No gradient."""
        return (draws.uniform("z", self.config.latent) < s.detach().sigmoid()).to(s.dtype)

    def log_proposal(self, s: Float[Tensor, "B latent"], z: Float[Tensor, "K B latent"]) -> Float[Tensor, "K B"]:
        """log q(z | x) in nats."""
        return event_sum(z * s - F.softplus(s), 1)

    def pair_score(self, s: Float[Tensor, "B latent"], z: Float[Tensor, "K B latent"]) -> Float[Tensor, "P B"]:
        """Sum over units of stop((b - b') sigmoid(abs(a))) a for each antithetic pair (Dong et al. 2020, 2006.10680)."""
        sign = (z[0::2] - z[1::2]).detach()
        return (sign * s.detach().abs().sigmoid() * s).sum(-1)

    def log_prior(self, z: Float[Tensor, "*n latent"]) -> Float[Tensor, "*n"]:
        """log p(z) in nats."""
        return event_sum(z * self.prior - F.softplus(self.prior), 1)

    def log_joint(self, x: Float[Tensor, "B *shape"], z: Float[Tensor, "K B latent"]) -> Float[Tensor, "K B"]:
        """log p(x, z) in nats."""
        logits = self.decoder(z)
        return self.log_prior(z) + event_sum(x.flatten(1) * logits - F.softplus(logits), 1)

    def _states(self) -> Float[Tensor, "C latent"]:
        d = self.config.latent
        if d > ENUMERABLE:
            raise UserError(f"{d} binary latents have 2^{d} states: at most {ENUMERABLE} are enumerated")
        bits = torch.arange(2**d, device=self.prior.device)[:, None] >> torch.arange(d, device=self.prior.device) & 1
        return bits.to(self.prior.dtype)

    def table(self, x: Float[Tensor, "B *shape"]) -> LogWeights:
        """All latents with their shares q(z | x): `elbo` and `iwae` of it are exact sums."""
        z = self._states()[:, None]
        s = self.encode(x)
        return exhaustive(self._log_joint_all(x), self.log_proposal(s, z.expand(-1, len(x), -1)))

    def _log_joint_all(self, x: Float[Tensor, "B *shape"]) -> Float[Tensor, "C B"]:
        """log p(x, z) of all states: one decoder call a state, whatever the batch is."""
        z = self._states()
        logits = self.decoder(z)
        log_prior = self.log_prior(z)
        dtype = log_prior.dtype
        return (log_prior - event_sum(F.softplus(logits), 1))[:, None] + logits.to(dtype) @ x.flatten(1).to(dtype).T

    def posterior_sample(self, x: Float[Tensor, "B *shape"], draws: Draws) -> Float[Tensor, "K B latent"]:
        """Exact posterior draws, by the inverse distribution function of the lead over all states: what upper bounds need."""
        with torch.no_grad():
            return self._states()[draws.choose(self._log_joint_all(x).T)]

    def log_evidence(self, x: Float[Tensor, "B *shape"]) -> Estimate:
        """log p(x) by enumeration of the 2^latent states."""
        return iwae(self.table(x))

    def generate(self, draws: Draws) -> Float[Tensor, "K B *shape"]:
        """Draws from the model."""
        return self._ancestral(draws)[1]

    def simulate(self, n: int, seed: int = 0) -> tuple[Float[Tensor, "1 n latent"], Float[Tensor, "n *shape"]]:
        """n items with their latents. z, given x, is an exact posterior draw: pass it as ``latents=`` for upper bounds."""
        items = torch.arange(n, device=self.prior.device)
        with torch.no_grad():
            z, x = self._ancestral(Plan.iid(1).draws(items, seed=seed, salt="simulate"))
        return z, x[0]

    def _ancestral(self, draws: Draws) -> tuple[Float[Tensor, "K B latent"], Float[Tensor, "K B *shape"]]:
        z = (draws.uniform("prior", self.config.latent) < self.prior.sigmoid()).to(self.prior.dtype)
        logits = self.decoder(z)
        x = (draws.uniform("x", logits.shape[-1]) < logits.sigmoid()).to(logits.dtype)
        return z, x.unflatten(-1, self.config.shape)

    def reconstruct(self, x: Float[Tensor, "B *shape"]) -> Any:
        """E[x | z] at the most probable z of q(z | x)."""
        return self.decoder((self.encode(x) > 0).to(x.dtype)).sigmoid().unflatten(-1, self.config.shape)
