"""Bounds in closed form: a Gaussian proposal against a Gaussian posterior, without Monte Carlo."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from infimum.errors import UserError
from infimum.testing.oracles.gaussian import LinearGaussian

__all__ = ["ExactBounds", "exact_bounds", "gaussian_power_moment"]


def gaussian_power_moment(
    n: float | int,
    q_mean: Float[Tensor, "B D"],
    q_cov: Float[Tensor, "B D D"],
    post_mean: Float[Tensor, "B D"],
    post_precision: Float[Tensor, "B D D"],
    log_p: Float[Tensor, "B"],
) -> Float[Tensor, "B"]:
    """log E_q[w^n] for w = p(x, z) / q(z) with q = N(a, Q) and posterior N(m, Lam^-1).

    With P = n Lam + (1-n) Q^-1 and h = n Lam m + (1-n) Q^-1 a it is
    n log p + (n/2) log det Lam + ((1-n)/2) log det Q^-1 - (1/2) log det P + (1/2) h^T P^-1 h
    - (n/2) m^T Lam m - ((1-n)/2) a^T Q^-1 a, and +inf where P is not positive definite.
    """
    q_precision = torch.linalg.inv(q_cov)
    power = n * post_precision + (1 - n) * q_precision
    finite = torch.linalg.cholesky_ex(power).info == 0
    identity = torch.eye(power.shape[-1], dtype=power.dtype, device=power.device)
    power = torch.where(finite[:, None, None], power, identity)
    # In coordinates centred on the posterior mean, so that far-off means do not cancel.
    offset = (q_mean - post_mean).unsqueeze(-1)
    pull = (1 - n) * q_precision @ offset
    quadratic = pull.mT @ torch.linalg.solve(power, pull) - (1 - n) * offset.mT @ q_precision @ offset
    value = (
        n * log_p
        + 0.5 * n * torch.logdet(post_precision)
        - 0.5 * (1 - n) * torch.logdet(q_cov)
        - 0.5 * torch.logdet(power)
        + 0.5 * quadratic[:, 0, 0]
    )
    return torch.where(finite, value, math.inf)


@dataclass(frozen=True, eq=False)
class ExactBounds:
    """Every population bound of a Gaussian proposal on a Gaussian posterior, in nats, shape (B,); differentiable."""

    log_evidence: Float[Tensor, "B"]
    q_mean: Float[Tensor, "B D"]
    q_cov: Float[Tensor, "B D D"]
    post_mean: Float[Tensor, "B D"]
    post_precision: Float[Tensor, "B D D"]

    def log_moment(self, n: float | int) -> Float[Tensor, "B"]:
        """log E_q[w^n]; +inf where the moment does not exist."""
        return gaussian_power_moment(n, self.q_mean, self.q_cov, self.post_mean, self.post_precision, self.log_evidence)

    def elbo(self) -> Float[Tensor, "B"]:
        """log p - KL(q, posterior)."""
        return self.tvo_integrand(0.0)

    def eubo(self) -> Float[Tensor, "B"]:
        """log p + KL(posterior, q)."""
        return self.tvo_integrand(1.0)

    def renyi(self, alpha: float | int) -> Float[Tensor, "B"]:
        """VR_alpha = log E_q[w^(1-alpha)] / (1-alpha) (Li & Turner 2016).

        Raises:
            UserError: alpha = 1, whose limit is the ELBO.
        """
        if alpha == 1:
            raise UserError("alpha=1 divides by zero: its limit is the ELBO, use elbo()")
        return self.log_moment(1 - alpha) / (1 - alpha)

    def cubo(self, n: float | int = 2.0) -> Float[Tensor, "B"]:
        """CUBO_n = log E_q[w^n] / n, n >= 1 (Dieng et al. 2017)."""
        return self.log_moment(n) / n

    def gamma2(self) -> Float[Tensor, "B"]:
        """Var[w] / p^2, the chi-square divergence of the posterior from q."""
        return torch.expm1(self.log_moment(2) - 2 * self.log_evidence)

    def mu3(self) -> Float[Tensor, "B"]:
        """Third central moment of w over p^3."""
        second = (self.log_moment(2) - 2 * self.log_evidence).exp()
        return (self.log_moment(3) - 3 * self.log_evidence).exp() - 3 * second + 2

    def iwae_expansion(self, k: int) -> Float[Tensor, "B"]:
        """E[L_K] up to terms of order 1/K^3 (00-bounds 3.3; Nowozin 2018)."""
        gamma2, mu3 = self.gamma2(), self.mu3()
        return self.log_evidence - gamma2 / (2 * k) + (mu3 / 3 - 0.75 * gamma2**2) / k**2

    def tvo_integrand(self, beta: float | int) -> Float[Tensor, "B"]:
        """E[log w] under pi_beta, which is proportional to q^(1-beta) p(x, z)^beta (Masrani et al. 2019)."""
        q_precision = torch.linalg.inv(self.q_cov)
        cov = torch.linalg.inv(beta * self.post_precision + (1 - beta) * q_precision)
        offset = (self.q_mean - self.post_mean).unsqueeze(-1)
        from_posterior = cov @ ((1 - beta) * q_precision @ offset)  # mean of pi_beta minus posterior mean
        from_q = from_posterior - offset

        def expected_square(delta: Tensor, precision: Tensor) -> Tensor:
            second = cov + delta @ delta.mT
            return torch.einsum("bij,bji->b", precision, second)

        return self.log_evidence + 0.5 * (
            torch.logdet(self.post_precision)
            + torch.logdet(self.q_cov)
            - expected_square(from_posterior, self.post_precision)
            + expected_square(from_q, q_precision)
        )


def exact_bounds(model: LinearGaussian, x: Float[Tensor, "B P"]) -> ExactBounds:
    """The population bounds of a linear-Gaussian model under its own proposal."""
    exact, q = model.exact_posterior(x), model.posterior(model.encode(x))
    batch = (x.shape[0], model.latent_dim, model.latent_dim)
    return ExactBounds(
        model.log_evidence(x), q.mean, q.covariance_matrix, exact.mean, exact.precision_matrix.expand(batch)
    )
