"""The variational auto-encoder: p(z) = N(0, I), p(x | z) by a decoder, q(z | x) by an encoder.

Kingma & Welling (2014, 1312.6114); Burda, Grosse & Salakhutdinov (2016, 1509.00519) for the importance-weighted bound.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributions as td
from jaxtyping import Float
from torch import Tensor, nn

from infimum.errors import UserError
from infimum.evidence import Draws, LatentModel, Plan, event_sum
from infimum.nets import Activation, mlp
from infimum.vae import likelihoods, posteriors

__all__ = ["VAE", "Autoencoder", "VAEConfig"]


@dataclass(frozen=True)
class VAEConfig:
    """What a `VAE` is built from.

    Attributes:
        shape: of one item.
        likelihood: "bernoulli" (binary data), "categorical" or "discretised-logistic" (integers), "gaussian" (real data),
            "laplace" (real data, or integers as numbers of [-1, 1]).
        levels: of integer data.
        scale: of "laplace".
        latent: dimensions of z.
        hidden: widths of the encoder's layers; the decoder has them in reverse.
        activation: between layers.
        posterior: "diagonal", "full", "mixture" or "flow".
        components: of a mixture posterior.
        transforms: of a flow posterior.
    """

    shape: tuple[int, ...]
    likelihood: likelihoods.Name = "bernoulli"
    levels: int | None = None
    scale: float = 0.75
    latent: int = 8
    hidden: tuple[int, ...] = (64, 64)
    activation: Activation = "tanh"
    posterior: posteriors.Name = "diagonal"
    components: int = 4
    transforms: int = 2

    def __post_init__(self) -> None:
        """Refuse sizes that build nothing."""
        if not self.shape or min(self.shape) < 1:
            raise UserError(f"shape is that of one item, every axis at least 1, got {self.shape}")
        if self.latent < 1:
            raise UserError(f"latent is the number of latent dimensions, at least 1, got {self.latent}")

    @property
    def dims(self) -> int:
        """Dimensions of one item."""
        return math.prod(self.shape)


class Autoencoder(LatentModel):
    """What conditional and unconditional VAEs share: q(z | x) by an encoder, the prior N(0, I), the decoder."""

    config: VAEConfig

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.likelihood = likelihoods.likelihood_of(config.likelihood, config.dims, config.levels, config.scale)
        width = config.hidden[-1] if config.hidden else 32
        self.family = posteriors.posterior_of(
            config.posterior, config.latent, config.components, config.transforms, width
        )
        self.encoder, self.decoder = self._networks()

    def _networks(self) -> tuple[nn.Module, nn.Module]:
        """Items (B, dims) to parameters of q(z | x); latents (..., latent) to parameters of p(x | z)."""
        config, extra = self.config, self._condition_width()
        outputs = config.dims * self.likelihood.outputs
        return (
            mlp(config.dims + extra, config.hidden, self.family.inputs, config.activation),
            mlp(config.latent + extra, config.hidden[::-1], outputs, config.activation),
        )

    @property
    def ceiling(self) -> float | None:
        """log p(x) of discrete data cannot exceed 0; a density has no ceiling."""
        return None if self.likelihood.density else 0.0

    def _condition_width(self) -> int:
        return 0

    def _flat(self, x: Float[Tensor, "B *shape"]) -> Float[Tensor, "B D"]:
        if tuple(x.shape[1:]) not in (self.config.shape, (self.config.dims,)):
            raise UserError(f"expected items of shape {self.config.shape}, got {tuple(x.shape[1:])}")
        return x.flatten(1) if x.ndim != 2 else x

    def posterior(self, s: Any) -> td.Distribution:
        """q(z | x): batch (B,), event (latent,)."""
        return self.family(s)

    def sample(self, s: Any, draws: Draws) -> Float[Tensor, "K B latent"]:
        """Latents from q(z | x), differentiable in its parameters."""
        if isinstance(self.family, posteriors.Diagonal):  # what `draw` does, without building the distribution
            mean, log_scale = s
            return mean + log_scale.exp() * draws.normal("z", self.config.latent).to(mean.dtype)
        return super().sample(s, draws)

    def log_proposal(self, s: Any, z: Float[Tensor, "K B latent"]) -> Float[Tensor, "K B"]:
        """log q(z | x) in nats."""
        if isinstance(self.family, posteriors.Diagonal):  # summed in the dtype of the table
            mean, log_scale = s
            return event_sum(-0.5 * ((z - mean) * (-log_scale).exp()).square() - log_scale, 1) - self._log_2pi()
        return self.posterior(s).log_prob(z)

    def _log_2pi(self) -> float:
        return 0.5 * self.config.latent * math.log(2 * math.pi)

    def log_prior(self, z: Float[Tensor, "K B latent"]) -> Float[Tensor, "K B"]:
        """log N(z; 0, I) in nats."""
        return event_sum(-0.5 * z.square(), 1) - self._log_2pi()

    def decode(self, z: Float[Tensor, "K B inputs"]) -> Float[Tensor, "K B outputs"]:
        """Outputs of the decoder for p(x | z)."""
        return self.decoder(z)

    def log_likelihood(self, x: Any, z: Float[Tensor, "K B latent"]) -> Float[Tensor, "K B"]:
        """log p(x | z) in nats."""
        raise NotImplementedError

    def _log_likelihood(self, item: Float[Tensor, "B *shape"], z: Float[Tensor, "K B inputs"]) -> Float[Tensor, "K B"]:
        """Of given decoder inputs, summed over the item's dimensions outside autocast."""
        out = self.decode(z)
        out = out.to(torch.promote_types(out.dtype, torch.float32))
        return event_sum(self.likelihood.log_prob(self._flat(item), out), 1)

    def log_joint(self, x: Any, z: Float[Tensor, "K B latent"]) -> Float[Tensor, "K B"]:
        """log p(x, z) in nats: always the unmodified joint, whatever the training objective was."""
        return self.log_likelihood(x, z) + self.log_prior(z)

    def parts(self, x: Any, z: Float[Tensor, "K B latent"]) -> dict[str, Tensor]:
        """The parts of the joint, (K, B) each: what an error message names."""
        return {"log p(z)": self.log_prior(z), "log p(x|z)": self.log_likelihood(x, z)}


class VAE(Autoencoder):
    """A variational auto-encoder over items of any shape. Streams: "z" (posterior), "prior", "x" (data)."""

    Config = VAEConfig

    def encode(self, x: Float[Tensor, "B *shape"]) -> Any:
        """Parameters of q(z | x), leading axis B."""
        return self.family.split(self.encoder(self.likelihood.scaled(self._flat(x))))

    def log_likelihood(self, x: Float[Tensor, "B *shape"], z: Float[Tensor, "K B latent"]) -> Float[Tensor, "K B"]:
        """log p(x | z) in nats."""
        return self._log_likelihood(x, z)

    def generate(self, draws: Draws) -> Float[Tensor, "K B *shape"]:
        """Draws from the model: z from the prior (stream "prior"), x given z (stream "x")."""
        return self._ancestral(draws)[1]

    def simulate(self, n: int, seed: int = 0) -> tuple[Float[Tensor, "1 n latent"], Float[Tensor, "n *shape"]]:
        """n items with their latents. z, given x, is an exact posterior draw: pass it as ``latents=`` for upper bounds."""
        items = torch.arange(n, device=next(self.parameters()).device)
        with torch.no_grad():
            z, x = self._ancestral(Plan.iid(1).draws(items, seed=seed, salt="simulate"))
        return z, x[0]

    def _ancestral(self, draws: Draws) -> tuple[Float[Tensor, "K B latent"], Float[Tensor, "K B *shape"]]:
        z = draws.normal("prior", self.config.latent).to(next(self.parameters()).dtype)
        return z, self.likelihood.sample(self.decode(z), draws).unflatten(-1, self.config.shape)

    def reconstruct(self, x: Float[Tensor, "B *shape"]) -> Float[Tensor, "B *shape"]:
        """E[x | z] at the centre of q(z | x)."""
        z = self.family.centre(self.encode(x))
        return self.likelihood.mean(self.decode(z[None])[0]).unflatten(-1, self.config.shape)
