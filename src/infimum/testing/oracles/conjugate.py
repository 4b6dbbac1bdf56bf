"""Conjugate models of counts: Gamma-Poisson, Beta-Bernoulli, Dirichlet-multinomial."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Beta, Dirichlet, Gamma

from infimum.distributions import gamma_icdf
from infimum.errors import UserError
from infimum.evidence.draws import Draws
from infimum.evidence.sampling import draw
from infimum.testing.oracles.base import Oracle, Start, double, inverse_cdf, parameter

__all__ = ["BetaBernoulli", "DirichletMultinomial", "GammaPoisson"]

Pair = tuple[Float[Tensor, "B"], Float[Tensor, "B"]]


class GammaPoisson(Oracle):
    """z ~ Gamma(shape, rate), x_n|z ~ Poisson(z), n = 1..N. x (B, N) float counts, z (K, B).

    For N = 1, p(x) is negative binomial. A distorted proposal is the Gamma whose mean moved by `shift` and whose
    standard deviation was multiplied by `stretch`.

    Args:
        concentration: Gamma shape.
        rate: Gamma rate.
        counts: N, the number of counts of a simulated item.
    """

    def __init__(
        self,
        concentration: float | int,
        rate: float | int,
        counts: int = 1,
        *,
        proposal: Start = "posterior",
        shift: float | int = 0.0,
        stretch: float | int = 1.0,
    ) -> None:
        super().__init__(proposal, shift, stretch)
        self.counts = counts
        self.concentration, self.rate = parameter(concentration), parameter(rate)

    def log_evidence(self, x: Float[Tensor, "B N"]) -> Float[Tensor, "B"]:
        a, b, total = self.concentration, self.rate, x.sum(-1)
        return (
            torch.lgamma(a + total)
            - torch.lgamma(a)
            + a * b.log()
            - (a + total) * (b + x.shape[1]).log()
            - torch.lgamma(x + 1).sum(-1)
        )

    def exact_posterior(self, x: Float[Tensor, "B N"]) -> Gamma:
        return Gamma(self.concentration + x.sum(-1), (self.rate + x.shape[1]).expand(x.shape[0]))

    def encode(self, x: Float[Tensor, "B N"]) -> Pair:
        """Shape and rate of the proposal."""
        base = self.exact_posterior(x) if self.proposal == "posterior" else Gamma(self.concentration, self.rate)
        mean, sd = base.mean + self.shift * base.stddev, self.stretch * base.stddev
        if bool((mean <= 0).any()):
            raise UserError(
                f"shift={self.shift.item():g} moves the mean of a Gamma proposal below 0: use a shift nearer to 0"
            )
        return (mean**2 / sd**2).expand(x.shape[0]), (mean / sd**2).expand(x.shape[0])

    def posterior(self, s: Pair) -> Gamma:
        """The proposal q(z|x)."""
        return Gamma(*s)

    def log_joint(self, x: Float[Tensor, "B N"], z: Float[Tensor, "K B"]) -> Float[Tensor, "K B"]:
        prior = Gamma(self.concentration, self.rate).log_prob(z)
        return prior + x.sum(-1) * z.log() - x.shape[1] * z - torch.lgamma(x + 1).sum(-1)

    def posterior_sample(self, x: Float[Tensor, "B N"], draws: Draws) -> Float[Tensor, "K B"]:
        return draw(self.exact_posterior(x), draws, "posterior")

    def _ancestral(self, draws: Draws) -> tuple[Float[Tensor, "K B"], Float[Tensor, "K B N"]]:
        from scipy.special import pdtrik

        u = double(draws).uniform("prior")
        z = gamma_icdf(self.concentration.expand(u.shape), u) / self.rate
        v = double(draws).uniform("x", self.counts)
        # pdtrik solves P(X <= k) = v for a real k; the quantile is the next integer, and 0 below P(X = 0).
        k = pdtrik(v.numpy(), z.detach().unsqueeze(-1).expand(v.shape).numpy())
        return z, torch.from_numpy(k).nan_to_num(0.0).ceil().clamp_min(0.0)


def _distort_dirichlet(concentration: Tensor, shift: Tensor, stretch: Tensor) -> Tensor:
    """Move the logit of the first mean by `shift` of its standard deviations; divide the total by stretch^2."""
    total = concentration.sum(-1, keepdim=True)
    mean = concentration / total
    first = mean[..., :1]
    sd_of_logit = ((total + 1) * first * (1 - first)).rsqrt()  # delta method
    move = torch.zeros_like(mean).index_fill(-1, torch.tensor([0], device=mean.device), 1.0) * sd_of_logit
    return (mean.log() + shift * move).softmax(-1) * total / stretch**2


class BetaBernoulli(Oracle):
    """z ~ Beta(a, b), x_n|z ~ Bernoulli(z), n = 1..N. x (B, N) in {0, 1}, z (K, B).

    log p(x) is a ratio of Beta functions. A distorted proposal has the logit of its mean moved by `shift` standard
    deviations of the logit (delta method) and its total a + b divided by stretch^2.

    Args:
        a, b: prior pseudo-counts of ones and zeros.
        trials: N of a simulated item.
    """

    def __init__(
        self,
        a: float | int,
        b: float | int,
        trials: int = 1,
        *,
        proposal: Start = "posterior",
        shift: float | int = 0.0,
        stretch: float | int = 1.0,
    ) -> None:
        super().__init__(proposal, shift, stretch)
        self.trials = trials
        self.a, self.b = parameter(a), parameter(b)

    def _counts(self, x: Float[Tensor, "B N"]) -> Pair:
        return self.a + x.sum(-1), self.b + (1 - x).sum(-1)

    def log_evidence(self, x: Float[Tensor, "B N"]) -> Float[Tensor, "B"]:
        def log_beta(a: Tensor, b: Tensor) -> Tensor:
            return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)

        return log_beta(*self._counts(x)) - log_beta(self.a, self.b)

    def exact_posterior(self, x: Float[Tensor, "B N"]) -> Beta:
        return Beta(*self._counts(x))

    def encode(self, x: Float[Tensor, "B N"]) -> Float[Tensor, "B 2"]:
        """Pseudo-counts of the proposal."""
        prior = torch.stack([self.a, self.b]).expand(x.shape[0], 2)
        base = torch.stack(self._counts(x), -1) if self.proposal == "posterior" else prior
        return _distort_dirichlet(base, self.shift, self.stretch)

    def posterior(self, s: Float[Tensor, "B 2"]) -> Beta:
        """The proposal q(z|x)."""
        return Beta(s[:, 0], s[:, 1])

    def log_joint(self, x: Float[Tensor, "B N"], z: Float[Tensor, "K B"]) -> Float[Tensor, "K B"]:
        ones = x.sum(-1)
        return Beta(self.a, self.b).log_prob(z) + ones * z.log() + (x.shape[1] - ones) * torch.log1p(-z)

    def posterior_sample(self, x: Float[Tensor, "B N"], draws: Draws) -> Float[Tensor, "K B"]:
        return draw(self.exact_posterior(x), draws, "posterior")

    def _ancestral(self, draws: Draws) -> tuple[Float[Tensor, "K B"], Float[Tensor, "K B N"]]:
        prior = Beta(self.a.expand(draws.shape[1]), self.b.expand(draws.shape[1]))
        z = draw(prior, draws, "prior")
        return z, (double(draws).uniform("x", self.trials) < z.unsqueeze(-1)).double()


class DirichletMultinomial(Oracle):
    """z ~ Dirichlet(alpha) on the simplex of C categories, x|z ~ Multinomial(n, z). x (B, C) counts, z (K, B, C).

    log p(x) = log n! Gamma(A) / Gamma(A + n) + sum_c log Gamma(alpha_c + x_c) / (Gamma(alpha_c) x_c!), A = sum alpha.
    Proposals are distorted as in `BetaBernoulli`, the first category being the one that moves.

    Args:
        alpha: (C,).
        trials: n of a simulated item.
    """

    def __init__(
        self,
        alpha: Float[Tensor, "C"],
        trials: int = 10,
        *,
        proposal: Start = "posterior",
        shift: float | int = 0.0,
        stretch: float | int = 1.0,
    ) -> None:
        super().__init__(proposal, shift, stretch)
        self.trials = trials
        self.alpha = parameter(alpha)

    def log_evidence(self, x: Float[Tensor, "B C"]) -> Float[Tensor, "B"]:
        total, n = self.alpha.sum(), x.sum(-1)
        cells = torch.lgamma(self.alpha + x) - torch.lgamma(self.alpha) - torch.lgamma(x + 1)
        return torch.lgamma(n + 1) + torch.lgamma(total) - torch.lgamma(total + n) + cells.sum(-1)

    def exact_posterior(self, x: Float[Tensor, "B C"]) -> Dirichlet:
        return Dirichlet(self.alpha + x)

    def encode(self, x: Float[Tensor, "B C"]) -> Float[Tensor, "B C"]:
        """Pseudo-counts of the proposal."""
        base = self.alpha + x if self.proposal == "posterior" else self.alpha.expand(x.shape)
        return _distort_dirichlet(base, self.shift, self.stretch)

    def posterior(self, s: Float[Tensor, "B C"]) -> Dirichlet:
        """The proposal q(z|x)."""
        return Dirichlet(s)

    def log_joint(self, x: Float[Tensor, "B C"], z: Float[Tensor, "K B C"]) -> Float[Tensor, "K B"]:
        likelihood = torch.lgamma(x.sum(-1) + 1) + (x * z.log() - torch.lgamma(x + 1)).sum(-1)
        return Dirichlet(self.alpha).log_prob(z) + likelihood

    def posterior_sample(self, x: Float[Tensor, "B C"], draws: Draws) -> Float[Tensor, "K B C"]:
        return draw(self.exact_posterior(x), draws, "posterior")

    def _ancestral(self, draws: Draws) -> tuple[Float[Tensor, "K B C"], Float[Tensor, "K B C"]]:
        z = draw(Dirichlet(self.alpha.expand(draws.shape[1], -1)), draws, "prior")
        u = double(draws).uniform("x", self.trials)
        c = inverse_cdf(z.log().unsqueeze(-2).expand(*u.shape, -1), u)
        return z, torch.nn.functional.one_hot(c, self.alpha.shape[0]).sum(-2).double()
