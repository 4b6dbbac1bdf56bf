"""Other proposals for a VAE's latents, to put beside its encoder in `infimum.evidence.Defensive`."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from infimum.evidence import Defensive, Draws, LatentModel
from infimum.vae.model import Autoencoder

__all__ = ["PriorProposal", "Stretched", "defensive"]


class PriorProposal(LatentModel):
    """q'(z) = p(z): with it, defensive weights are bounded by 2 p(x | z). Stream: "z"."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.model = model

    def encode(self, x: Any) -> Any:
        """Nothing but the dtype and the number of items."""
        item = x[0] if isinstance(x, tuple) else x
        return torch.zeros(item.shape[0], self.model.config.latent, device=item.device, dtype=item.dtype)

    def sample(self, s: Tensor, draws: Draws) -> Float[Tensor, "K B latent"]:
        """Standard normal latents."""
        return draws.normal("z", s.shape[-1]).to(s.dtype)

    def log_proposal(self, s: Tensor, z: Float[Tensor, "K B latent"]) -> Float[Tensor, "K B"]:
        """log N(z; 0, I) in nats."""
        return self.model.log_prior(z)


class Stretched(LatentModel):
    """q' is the model's posterior stretched about its centre by ``factor`` in every direction. Stream: "z".

    Encoders trained by the ELBO are too narrow (they minimise the exclusive divergence), which is what makes the tails of
    their weights heavy.
    """

    def __init__(self, model: Autoencoder, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def encode(self, x: Any) -> Any:
        """The encoder's parameters, and the centre."""
        s = self.model.encode(x)
        return s, self.model.family.centre(s)

    def sample(self, s: Any, draws: Draws) -> Float[Tensor, "K B latent"]:
        """The posterior's draws, moved away from the centre."""
        return s[1] + self.factor * (self.model.sample(s[0], draws) - s[1])

    def log_proposal(self, s: Any, z: Float[Tensor, "K B latent"]) -> Float[Tensor, "K B"]:
        """log of the stretched density in nats: the posterior's at the pulled-back point, less log factor a dimension."""
        inner = self.model.log_proposal(s[0], s[1] + (z - s[1]) / self.factor)
        shift = z.shape[-1] * torch.tensor(self.factor, dtype=inner.dtype).log()
        return inner - shift


def defensive(model: Autoencoder, factor: float = 1.5) -> Defensive:
    """The model with its draws shared among its posterior, the posterior stretched by ``factor``, and the prior."""
    return Defensive(model, Stretched(model, factor), PriorProposal(model))
