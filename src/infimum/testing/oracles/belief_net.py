"""A sigmoid belief network small enough that log p(x) is a sum over all binary latents."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Independent
from torch.nn.functional import logsigmoid, softplus

from infimum.errors import UserError
from infimum.evidence.draws import Draws
from infimum.testing.oracles.base import Oracle, double, parameter
from infimum.testing.oracles.mixture import temper

__all__ = ["SigmoidBeliefNet"]

LARGEST = 14


class SigmoidBeliefNet(Oracle):
    """z_d ~ Bernoulli(sigmoid(prior_d)), x_p|z ~ Bernoulli(sigmoid((W z + b)_p)); x (B, P) and z (K, B, D) in {0, 1}.

    log p(x) is a logsumexp over the 2^D latents. Proposals: "posterior" (the exact one over 2^D states, sampled by
    the lead coordinate; distorted: log-probabilities / stretch + shift x the standardised number of ones),
    "marginals" (independent bits with the posterior's marginals) and "prior"; the bits of the last two have
    logits / stretch + shift and come from the stream "z", z = 1[u < sigmoid(logit)].

    Args:
        prior: logits of the latents, (D,) with D <= 14.
        weight: W, (P, D).
        bias: b, (P,).
    """

    def __init__(
        self,
        prior: Float[Tensor, "D"],
        weight: Float[Tensor, "P D"],
        bias: Float[Tensor, "P"],
        *,
        proposal: Literal["posterior", "marginals", "prior"] = "posterior",
        shift: float | int = 0.0,
        stretch: float | int = 1.0,
    ) -> None:
        super().__init__("prior", shift, stretch)
        if prior.shape[0] > LARGEST:
            raise UserError(
                f"{prior.shape[0]} binary latents have 2^{prior.shape[0]} states: enumeration stops at {LARGEST}; "
                "use fewer latents"
            )
        self.kind = proposal
        self.prior_logits, self.weight, self.bias = parameter(prior), parameter(weight), parameter(bias)
        d = prior.shape[0]
        bits = torch.arange(2**d)[:, None] >> torch.arange(d) & 1
        self.register_buffer("states", bits.double(), persistent=False)  # (2^D, D)

    states: Tensor

    @property
    def latent_dim(self) -> int:
        """D."""
        return self.prior_logits.shape[0]

    def _log_prior(self, z: Float[Tensor, "*n D"]) -> Float[Tensor, "*n"]:
        return (z * self.prior_logits - softplus(self.prior_logits)).sum(-1)

    def _log_joint_table(self, x: Float[Tensor, "B P"]) -> Float[Tensor, "B C"]:
        logits = self.states @ self.weight.T + self.bias
        return self._log_prior(self.states) + x @ logits.T - softplus(logits).sum(-1)

    def log_evidence(self, x: Float[Tensor, "B P"]) -> Float[Tensor, "B"]:
        return self._log_joint_table(x).logsumexp(-1)

    def exact_posterior(self, x: Float[Tensor, "B P"]) -> Categorical:
        """Over the rows of `states`."""
        return Categorical(logits=self._log_joint_table(x))

    def support(self, x: Float[Tensor, "B P"]) -> Float[Tensor, "C B D"]:
        """All values of z for every item, for `exhaustive`."""
        return self.states[:, None].expand(-1, x.shape[0], -1)

    def encode(self, x: Float[Tensor, "B P"]) -> Tensor:
        """Log-probabilities of the states (B, 2^D), or logits of independent bits (B, D)."""
        if self.kind == "prior":
            return (self.prior_logits / self.stretch + self.shift).expand(x.shape[0], -1)
        table = self._log_joint_table(x).log_softmax(-1)
        if self.kind == "posterior":
            return temper(table, self.states.sum(-1), self.shift, self.stretch)
        return torch.logit(table.exp() @ self.states) / self.stretch + self.shift

    def posterior(self, s: Tensor) -> Distribution:
        """The proposal; over state numbers (Categorical) for "posterior", over bits otherwise."""
        return Categorical(logits=s) if self.kind == "posterior" else Independent(Bernoulli(logits=s), 1)

    def sample(self, s: Tensor, draws: Draws) -> Float[Tensor, "K B D"]:
        if self.kind == "posterior":
            return self.states[draws.choose(s)]
        return (double(draws).uniform("z", self.latent_dim) < s.sigmoid()).double()

    def log_proposal(self, s: Tensor, z: Float[Tensor, "K B D"]) -> Float[Tensor, "K B"]:
        if self.kind == "posterior":
            place = 2 ** torch.arange(self.latent_dim, device=z.device)
            return s.gather(-1, (z.long() * place).sum(-1).T).T
        return (z * logsigmoid(s) + (1 - z) * logsigmoid(-s)).sum(-1)

    def log_joint(self, x: Float[Tensor, "B P"], z: Float[Tensor, "K B D"]) -> Float[Tensor, "K B"]:
        logits = z @ self.weight.T + self.bias
        return self._log_prior(z) + (x * logits - softplus(logits)).sum(-1)

    def posterior_sample(self, x: Float[Tensor, "B P"], draws: Draws) -> Float[Tensor, "K B D"]:
        table = self._log_joint_table(x).log_softmax(-1)
        upper = table.detach().exp().cumsum(-1)
        u = double(draws).uniform("posterior") * upper[:, -1]
        index = torch.searchsorted(upper, u.T.contiguous(), right=True).T
        return self.states[index.clamp_max(upper.shape[-1] - 1)]

    def _ancestral(self, draws: Draws) -> tuple[Float[Tensor, "K B D"], Float[Tensor, "K B P"]]:
        z = (double(draws).uniform("prior", self.latent_dim) < self.prior_logits.sigmoid()).double()
        rate = (z @ self.weight.T + self.bias).sigmoid()
        return z, (double(draws).uniform("x", self.bias.shape[0]) < rate).double()
