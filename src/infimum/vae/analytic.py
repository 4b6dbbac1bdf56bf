"""The ELBO with its divergence in closed form: a path table, lower in expectation, without a certificate."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from infimum.errors import UserError
from infimum.evidence import Draws, PathModel
from infimum.vae.model import Autoencoder
from infimum.vae.posteriors import Diagonal, gaussian_divergence

__all__ = ["AnalyticKL", "closed_divergence"]


def closed_divergence(model: Autoencoder, s: Any) -> Float[Tensor, "B latent"]:
    """KL(q(z_d | x) to p(z_d)) in nats, a dimension each.

    Raises:
        UserError: the posterior has no closed-form divergence a dimension.
    """
    if not isinstance(model.family, Diagonal):
        raise UserError(
            f"a closed-form divergence needs posterior 'diagonal', got {model.config.posterior!r}: use rule 'elbo' or 'stl'"
        )
    return gaussian_divergence(*s)


class AnalyticKL(PathModel):
    """E_q[log p(x | z)] - KL(q(z | x) to p(z)), the second in closed form (Kingma & Welling 2014, 1312.6114, eq. 10).

    Less noise than the mean of log-weights in most cases, but E exp(value) can exceed p(x): `elbo` of its terms is a lower
    bound in expectation only.
    """

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.model = model
        self.target = getattr(model, "target", "log p(x)")
        self.train(model.training)

    def encode(self, x: Any) -> Any:
        """Parameters of q(z | x)."""
        return self.model.encode(x)

    def constant(self, x: Any, s: Any) -> Float[Tensor, "B"]:
        """-KL(q(z | x) to p(z)) in nats."""
        return -closed_divergence(self.model, s).sum(-1)

    def terms(self, x: Any, s: Any, draws: Draws) -> Float[Tensor, "K B"]:
        """log p(x | z) in nats."""
        return self.model.log_likelihood(x, self.model.sample(s, draws))
