"""The oracle inequality of selection by the bound, in the form whose two sides can be computed (1810.11859; Donsker-Varadhan).

For alpha in (0, 1), a known world P0 and any lower bound ELBO_alpha of the tempered evidence,
E int D_alpha(P_theta, P0) rho(dtheta) <= E[(log(1 / pi_q) - ELBO_alpha(q) + alpha sum_i log p0(x_i)) / (n (1 - alpha))], rho and q
being what was selected.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import clone
from torch import Tensor

from infimum.errors import UserError
from infimum.selection.ppca import VariationalPPCA

__all__ = ["Certificate", "certify", "renyi_gaussian"]


def renyi_gaussian(
    alpha: float, mean1: Float[Tensor, "*b d"], cov1: Float[Tensor, "*b d d"], mean0: Float[Tensor, "d"],
    cov0: Float[Tensor, "d d"],
) -> Float[Tensor, "*b"]:  # fmt: skip
    """D_alpha(N(mean1, cov1), N(mean0, cov0)) in nats, with D_alpha(P, R) = log int p^alpha r^(1-alpha) / (alpha - 1).

    alpha/2 m' S*^-1 m - (log|S*| - (1-alpha) log|cov1| - alpha log|cov0|) / (2 (alpha - 1)), S* = alpha cov0 + (1-alpha) cov1
    (Gil et al., Information Sciences 249, 2013).

    Raises:
        UserError: alpha outside (0, 1).
    """
    if not 0 < alpha < 1:
        raise UserError(f"alpha must lie in (0, 1), got {alpha}")
    between = alpha * cov0 + (1 - alpha) * cov1
    shift = mean1 - mean0
    pull = (shift * torch.linalg.solve(between, shift)).sum(-1)
    logs = (torch.linalg.slogdet(s)[1] for s in (between, cov1, cov0))
    whole, one, zero = logs
    return alpha / 2 * pull - (whole - (1 - alpha) * one - alpha * zero) / (2 * (alpha - 1))


@dataclass(frozen=True)
class Certificate:
    """Both sides of the inequality, a number for each replicate.

    Attributes:
        risk: int D_alpha(P_theta, P0) rho(dtheta), by Monte Carlo over rho, in nats.
        limit: (alpha sum_i log p0(x_i) - criterion) / (n (1 - alpha)), in nats.
        n_components: selected.
    """

    risk: np.ndarray
    limit: np.ndarray
    n_components: np.ndarray

    @property
    def slack(self) -> tuple[float, float]:
        """Mean of limit - risk, and its standard error over replicates: the theorem says that the mean is not negative."""
        gap = self.limit - self.risk
        return float(gap.mean()), float(gap.std(ddof=1)) / math.sqrt(len(gap))

    def __str__(self) -> str:
        slack, error = self.slack
        return (
            f"risk {self.risk.mean():.4f} <= {self.limit.mean():.4f} nats on average over {len(self.risk)} data sets "
            f"(slack {slack:.4f} ± {error:.4f}); {int((self.risk > self.limit).sum())} single data sets beyond it"
        )


def certify(
    estimator: VariationalPPCA,
    sample: Callable[[np.random.Generator], np.ndarray],
    log_density: Callable[[np.ndarray], np.ndarray],
    *,
    covariance: np.ndarray | None = None,
    replicates: int = 60,
    draws: int = 64,
    points: int = 4096,
    seed: int = 0,
) -> Certificate:
    """Simulate data sets of a known world, select and fit, and report both sides of the oracle inequality.

    Args:
        estimator: noise "known", or "gamma" with its noise_rate given; prior "fixed"; mean "zero" or "vb"; alpha < 1; without
            the orbit's correction.
        sample: a data set (n, d) of independent rows, from a generator.
        log_density: log p0 of rows, (m, d) to (m,), in nats.
        covariance: of P0 where it is N(0, covariance): D_alpha then has a closed form. None: D_alpha by Monte Carlo.
        replicates: data sets.
        draws: of the parameters from rho, a data set.
        points: at least so many rows of P0 for the Monte Carlo form; its logarithm overstates the risk, never understates it, on
            average.
        seed: of the worlds, and of the draws.

    Raises:
        UserError: a mode in which something is maximised: the theorem does not cover it.
    """
    settings = estimator.settings()
    if settings.alpha == 1:
        raise UserError("the inequality needs alpha < 1, got alpha=1")
    if not settings.is_bound or estimator.orbit:
        raise UserError(
            f"the inequality holds for noise 'known' or 'gamma', prior 'fixed', mean 'zero' or 'vb' and orbit=False, got "
            f"noise={settings.noise!r}, prior={settings.prior!r}, mean={settings.mean!r}, orbit={estimator.orbit}"
        )
    if settings.noise == "gamma" and estimator.noise_rate is None:
        raise UserError(
            "the inequality needs a prior that does not look at the data: give noise_rate a number, got None"
        )
    if replicates < 2:
        raise UserError(f"certify needs at least 2 replicates for a standard error, got {replicates}")
    rng = np.random.default_rng(seed)
    far = None if covariance is not None else _reference(sample, log_density, points, rng)
    risks, limits, numbers = [], [], []
    for _ in range(replicates):
        x = sample(rng)
        fitted = clone(estimator).fit(x)
        row = int(np.flatnonzero(fitted.criterion_["n_components"] == fitted.n_components_)[0])
        criterion = fitted.criterion_["criterion"][row]
        limits.append((settings.alpha * log_density(x).sum() - criterion) / (len(x) * (1 - settings.alpha)))
        loadings, precision, shift = fitted.posterior_.draw(draws, rng)
        mean = (shift + torch.as_tensor(fitted.mean_, device=shift.device)).cpu()
        d = loadings.shape[1]
        cov = loadings @ loadings.transpose(1, 2) + torch.eye(d, dtype=torch.float64) / precision[:, None, None]
        if far is None:
            world = torch.as_tensor(covariance, dtype=torch.float64)
            risk = renyi_gaussian(settings.alpha, mean, cov.cpu(), torch.zeros(d, dtype=torch.float64), world)
        else:
            risk = _renyi(settings.alpha, mean, cov.cpu(), *far)
        risks.append(float(risk.mean()))
        numbers.append(fitted.n_components_)
    return Certificate(np.array(risks), np.array(limits), np.array(numbers))


def _reference(
    sample: Callable[[np.random.Generator], np.ndarray], log_density: Callable[[np.ndarray], np.ndarray], points: int,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Rows of P0 and their log densities, for Monte Carlo."""
    rows: list[np.ndarray] = []
    while sum(map(len, rows)) < points:
        rows.append(sample(rng))
    x = np.concatenate(rows)
    return torch.as_tensor(x), torch.as_tensor(log_density(x))


def _renyi(
    alpha: float, mean: Float[Tensor, "K d"], cov: Float[Tensor, "K d d"], x: Float[Tensor, "m d"], log_p0: Tensor
) -> Float[Tensor, "K"]:
    """log E_P0 (p / p0)^alpha / (alpha - 1)."""
    normal = torch.distributions.MultivariateNormal(mean[:, None], cov[:, None])
    return (torch.logsumexp(alpha * (normal.log_prob(x) - log_p0), 1) - math.log(len(x))) / (alpha - 1)
