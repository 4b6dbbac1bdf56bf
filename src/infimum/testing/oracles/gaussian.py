"""Linear-Gaussian models: probabilistic PCA, factor analysis, Bayesian linear regression."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import MultivariateNormal

from infimum.errors import UserError
from infimum.evidence.draws import Draws
from infimum.testing.oracles.base import Oracle, Start, double, parameter

__all__ = ["BayesianLinearRegression", "LinearGaussian"]

State = tuple[Float[Tensor, "B D"], Float[Tensor, "B D D"]]  # mean and Cholesky factor of the proposal


class LinearGaussian(Oracle):
    """z ~ N(0, I / prior_precision), x|z ~ N(W z + b, Psi). Stream "z" is D standard normals.

    log p(x) = log N(x; b, W W^T / prior_precision + Psi); the posterior is N(m, S) with
    S^-1 = prior_precision I + W^T Psi^-1 W and m = S W^T Psi^-1 (x - b). x has shape (B, P), z (K, B, D).

    Args:
        weight: W, (P, D).
        bias: b, (P,).
        noise: Psi, its diagonal (P,) or the full covariance (P, P).
        prior_precision: of every coordinate of z.
    """

    def __init__(
        self,
        weight: Float[Tensor, "P D"],
        bias: Float[Tensor, "P"],
        noise: Float[Tensor, "P"] | Float[Tensor, "P P"],
        *,
        prior_precision: float | int = 1.0,
        proposal: Start = "posterior",
        shift: float | int = 0.0,
        stretch: float | int = 1.0,
    ) -> None:
        super().__init__(proposal, shift, stretch)
        if not bool((noise > 0).all() if noise.ndim == 1 else torch.linalg.cholesky_ex(noise).info == 0):
            raise UserError("noise: Psi must be a positive diagonal (P,) or a positive definite covariance (P, P)")
        self.weight, self.bias, self.noise = parameter(weight), parameter(bias), parameter(noise)
        self.prior_precision = parameter(prior_precision)

    @classmethod
    def ppca(
        cls,
        weight: Float[Tensor, "P D"],
        variance: float | int,
        *,
        proposal: Start = "posterior",
        shift: float | int = 0.0,
        stretch: float | int = 1.0,
    ) -> "LinearGaussian":
        """Probabilistic PCA (Tipping & Bishop 1999): Psi = variance I, b = 0."""
        zero = torch.zeros(weight.shape[0])
        return cls(weight, zero, zero + variance, proposal=proposal, shift=shift, stretch=stretch)

    @classmethod
    def factor_analysis(
        cls,
        weight: Float[Tensor, "P D"],
        uniqueness: Float[Tensor, "P"],
        *,
        proposal: Start = "posterior",
        shift: float | int = 0.0,
        stretch: float | int = 1.0,
    ) -> "LinearGaussian":
        """Factor analysis: Psi = diag(uniqueness), b = 0."""
        zero = torch.zeros(weight.shape[0])
        return cls(weight, zero, uniqueness, proposal=proposal, shift=shift, stretch=stretch)

    @property
    def latent_dim(self) -> int:
        """D."""
        return self.weight.shape[1]

    def _noise(self) -> Float[Tensor, "P P"]:
        return torch.diag(self.noise) if self.noise.ndim == 1 else self.noise

    def prior(self) -> MultivariateNormal:
        """p(z), batch shape ()."""
        return MultivariateNormal(
            torch.zeros_like(self.weight[0]),
            precision_matrix=self.prior_precision * torch.eye(self.latent_dim).double(),
        )

    def log_evidence(self, x: Float[Tensor, "B P"]) -> Float[Tensor, "B"]:
        marginal = self.weight @ self.weight.T / self.prior_precision + self._noise()
        return MultivariateNormal(self.bias, marginal).log_prob(x)

    def exact_posterior(self, x: Float[Tensor, "B P"]) -> MultivariateNormal:
        projected = torch.linalg.solve(self._noise(), self.weight)  # Psi^-1 W
        precision = self.prior_precision * torch.eye(self.latent_dim).double() + self.weight.T @ projected
        mean = torch.linalg.solve(precision, ((x - self.bias) @ projected).T).T
        return MultivariateNormal(mean, precision_matrix=precision)

    def encode(self, x: Float[Tensor, "B P"]) -> State:
        base = self.exact_posterior(x) if self.proposal == "posterior" else self.prior().expand(x.shape[:1])
        return base.mean + self.shift * base.stddev, self.stretch * base.scale_tril

    def posterior(self, s: State) -> MultivariateNormal:
        """The proposal q(z|x), batch shape (B,)."""
        return MultivariateNormal(s[0], scale_tril=s[1])

    def log_joint(self, x: Float[Tensor, "B P"], z: Float[Tensor, "K B D"]) -> Float[Tensor, "K B"]:
        mean = z @ self.weight.T + self.bias
        likelihood = MultivariateNormal(torch.zeros_like(self.bias), self._noise())
        return self.prior().log_prob(z) + likelihood.log_prob(x - mean)

    def posterior_sample(self, x: Float[Tensor, "B P"], draws: Draws) -> Float[Tensor, "K B D"]:
        exact = self.exact_posterior(x)
        noise = double(draws).normal("posterior", self.latent_dim)
        return exact.mean + torch.einsum("bij,kbj->kbi", exact.scale_tril, noise)

    def _ancestral(self, draws: Draws) -> tuple[Float[Tensor, "K B D"], Float[Tensor, "K B P"]]:
        z = double(draws).normal("prior", self.latent_dim) / self.prior_precision.sqrt()
        noise = double(draws).normal("x", self.bias.shape[0]) @ torch.linalg.cholesky(self._noise()).T
        return z, z @ self.weight.T + self.bias + noise


class BayesianLinearRegression(LinearGaussian):
    """y|w ~ N(Phi w, variance I), w ~ N(0, I / precision): the weights w are the latent.

    One item is a whole data set y of N responses; the B items of a batch share the design matrix.
    log p(y) = log N(y; 0, variance I + Phi Phi^T / precision) (Bishop 2006, section 3.5).

    Args:
        design: Phi, (N, D).
        variance: of the noise.
        precision: of the prior.
    """

    def __init__(
        self,
        design: Float[Tensor, "N D"],
        variance: float | int,
        precision: float | int,
        *,
        proposal: Start = "posterior",
        shift: float | int = 0.0,
        stretch: float | int = 1.0,
    ) -> None:
        zero = torch.zeros(design.shape[0])
        super().__init__(
            design,
            zero,
            zero + variance,
            prior_precision=precision,
            proposal=proposal,
            shift=shift,
            stretch=stretch,
        )
