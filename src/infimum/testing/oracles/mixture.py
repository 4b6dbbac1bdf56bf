"""A mixture of Gaussians: the component is the latent."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Categorical, MultivariateNormal

from infimum.evidence.draws import Draws
from infimum.testing.oracles.base import Oracle, Start, double, inverse_cdf, parameter

__all__ = ["GaussianMixture", "temper"]


def temper(
    log_probs: Float[Tensor, "*n C"], score: Float[Tensor, "C"], shift: Tensor, stretch: Tensor
) -> Float[Tensor, "*n C"]:
    """The discrete counterpart of moving and stretching: log-probabilities / stretch + shift x score, normalised.

    `score` is standardised to mean 0 and variance 1 over the categories.
    """
    score = (score - score.mean()) / score.std(unbiased=False).clamp_min(1e-300)
    return (log_probs / stretch + shift * score).log_softmax(-1)


class GaussianMixture(Oracle):
    """z ~ Categorical(pi) over C values, x|z ~ N(mean_z, cov_z). x (B, P), z (K, B) int64 from the lead coordinate.

    log p(x) = logsumexp_c [log pi_c + log N(x; mean_c, cov_c)]; the posterior is its softmax. A distorted proposal
    has log-probabilities / stretch + shift times the standardised index.

    Args:
        log_pi: log-weights (C,), normalised here.
        means: (C, P).
        covs: (C, P, P).
    """

    def __init__(
        self,
        log_pi: Float[Tensor, "C"],
        means: Float[Tensor, "C P"],
        covs: Float[Tensor, "C P P"],
        *,
        proposal: Start = "posterior",
        shift: float | int = 0.0,
        stretch: float | int = 1.0,
    ) -> None:
        super().__init__(proposal, shift, stretch)
        self.log_pi, self.means, self.covs = parameter(log_pi), parameter(means), parameter(covs)

    def _log_joint_table(self, x: Float[Tensor, "B P"]) -> Float[Tensor, "B C"]:
        return self.log_pi.log_softmax(-1) + MultivariateNormal(self.means, self.covs).log_prob(x.unsqueeze(1))

    def log_evidence(self, x: Float[Tensor, "B P"]) -> Float[Tensor, "B"]:
        return self._log_joint_table(x).logsumexp(-1)

    def exact_posterior(self, x: Float[Tensor, "B P"]) -> Categorical:
        return Categorical(logits=self._log_joint_table(x))

    def support(self, x: Float[Tensor, "B P"]) -> Int[Tensor, "C B"]:
        """All values of z for every item, for `exhaustive`."""
        return torch.arange(self.log_pi.shape[0])[:, None].expand(-1, x.shape[0])

    def encode(self, x: Float[Tensor, "B P"]) -> Float[Tensor, "B C"]:
        prior = self.log_pi.log_softmax(-1).expand(x.shape[0], -1)
        base = self._log_joint_table(x).log_softmax(-1) if self.proposal == "posterior" else prior
        return temper(base, torch.arange(base.shape[-1]).double(), self.shift, self.stretch)

    def posterior(self, s: Float[Tensor, "B C"]) -> Categorical:
        """The proposal q(z|x)."""
        return Categorical(logits=s)

    def sample(self, s: Float[Tensor, "B C"], draws: Draws) -> Int[Tensor, "K B"]:
        return draws.choose(s)

    def log_proposal(self, s: Float[Tensor, "B C"], z: Int[Tensor, "K B"]) -> Float[Tensor, "K B"]:
        return s.gather(-1, z.T).T

    def log_joint(self, x: Float[Tensor, "B P"], z: Int[Tensor, "K B"]) -> Float[Tensor, "K B"]:
        return self._log_joint_table(x).gather(-1, z.T).T

    def posterior_sample(self, x: Float[Tensor, "B P"], draws: Draws) -> Int[Tensor, "K B"]:
        log_probs = self._log_joint_table(x).log_softmax(-1)
        return inverse_cdf(log_probs.expand(*draws.shape, -1), double(draws).uniform("posterior"))

    def _ancestral(self, draws: Draws) -> tuple[Int[Tensor, "K B"], Float[Tensor, "K B P"]]:
        log_pi = self.log_pi.log_softmax(-1)
        z = inverse_cdf(log_pi.expand(*draws.shape, -1), double(draws).uniform("prior"))
        factor = torch.linalg.cholesky(self.covs)[z]
        noise = double(draws).normal("x", self.means.shape[-1])
        return z, self.means[z] + (factor @ noise.unsqueeze(-1)).squeeze(-1)
