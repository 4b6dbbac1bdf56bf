"""log p(x) by draws from prior and posterior together, and log E_q[p(x | z)], which is not a bound on it (2211.00321).

Of k draws half come from each, and all are weighted by the density of their mixture (the balance heuristic): E exp = p(x)
whatever q is, so the average of the logs is a certified lower bound, and its weights are at most 2 p(x | z).
"""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from infimum.errors import UserError
from infimum.evidence import Defensive, Draws, Estimate, LatentModel, Plan, evaluate, iwae
from infimum.vae.text.model import TextVAE

__all__ = ["FromPrior", "Predictive", "posterior_log_likelihood", "prior_log_likelihood", "with_prior"]


class FromPrior(LatentModel):
    """The proposal q'(z) = p(z). Stream: "prior"."""

    def __init__(self, model: TextVAE) -> None:
        super().__init__()
        self.model = model

    def encode(self, x: Any) -> Float[Tensor, "B 0"]:
        """Nothing depends on x."""
        return x[:, :0]

    def sample(self, s: Any, draws: Draws) -> Float[Tensor, "K B D"]:
        """z from p(z)."""
        return self.model.family.prior(draws).to(next(self.model.parameters()).dtype)

    def log_proposal(self, s: Any, z: Float[Tensor, "K B D"]) -> Float[Tensor, "K B"]:
        """log p(z) in nats."""
        return self.model.log_prior(z)


class Predictive(LatentModel):
    """The model with q(z | x) in the place of its prior: its "evidence" is E_q[p(x | z)], no bound on p(x)."""

    target = "log E_q[p(x|z)]"
    ceiling = 0.0

    def __init__(self, model: TextVAE) -> None:
        super().__init__()
        self.model = model
        self.train(model.training)

    def encode(self, x: Any) -> Any:
        """Parameters of q(z | x)."""
        return self.model.encode(x)

    def sample(self, s: Any, draws: Draws) -> Float[Tensor, "K B D"]:
        """z from q(z | x)."""
        return self.model.sample(s, draws)

    def log_proposal(self, s: Any, z: Float[Tensor, "K B D"]) -> Float[Tensor, "K B"]:
        """log q(z | x) in nats."""
        return self.model.log_proposal(s, z)

    def log_joint(self, x: Any, z: Float[Tensor, "K B D"]) -> Float[Tensor, "K B"]:
        """log p(x | z) + log q(z | x) in nats."""
        return self.model.log_likelihood(x, z) + self.model.log_proposal(self.model.encode(x), z)


def with_prior(model: TextVAE) -> Defensive:
    """The model with its draws shared between its posterior and the prior."""
    return Defensive(model, FromPrior(model))


def _both(
    model: LatentModel, prior: TextVAE, x: Float[Tensor, "N T"], keys: Int[Tensor, "N"] | None, k: int, **options: Any
) -> Estimate:
    if k < 2 or k % 2:
        raise UserError(
            f"k is {k}, expected an even number: half of the draws come from the prior, half from the posterior"
        )
    proposal = Defensive(model, FromPrior(prior))
    return evaluate(proposal, x, Plan(levels=k, lead="stratified"), iwae, keys=keys, **options)


def prior_log_likelihood(
    model: TextVAE, x: Float[Tensor, "N T"], *, k: int = 16, keys: Int[Tensor, "N"] | None = None, **options: Any
) -> Estimate:
    """The prior-LL of 2211.00321: a stochastic lower bound on log p(x) in nats a sentence.

    Args:
        model: in eval mode.
        x: sentences.
        k: draws a sentence, half from the prior and half from the posterior (official: 16).
        keys: item ids.
        options: of `infimum.evidence.evaluate`.

    Raises:
        UserError: an odd number of draws; see `infimum.evidence.evaluate`.
    """
    return _both(model, model, x, keys, k, **options)


def posterior_log_likelihood(
    model: TextVAE, x: Float[Tensor, "N T"], *, k: int = 16, keys: Int[Tensor, "N"] | None = None, **options: Any
) -> Estimate:
    """The post-LL of 2211.00321: log E_q[p(x | z)] in nats a sentence, from below; the prior is not in it. No bound on log p(x).

    Args and errors: as `prior_log_likelihood`.
    """
    return _both(Predictive(model), model, x, keys, k, **options)
