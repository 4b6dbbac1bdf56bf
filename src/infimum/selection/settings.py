"""What a variational PPCA assumes: tempering, prior of the loadings, noise, mean."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from infimum.errors import UserError

__all__ = ["PPCASettings", "model_weights"]


@dataclass(frozen=True)
class PPCASettings:
    """x_i = mu + W z_i + eps_i, z_i ~ N(0, I_q), eps_i ~ N(0, sigma^2 I_d), columns of W with variance s_k^2.

    Attributes:
        alpha: temper of the likelihood, in (0, 1]; the oracle inequality (1810.11859) needs alpha < 1.
        prior: s_k^2 is ``prior_variance`` ("fixed"), one learned number ("shared"), or learned for every column ("ard").
        prior_variance: s^2 of prior="fixed".
        noise: sigma^2 is ``noise_variance`` ("known"), maximised ("point"), has a Gamma prior on its inverse ("gamma"), or
            is Tipping and Bishop's residual variance ("plugin").
        noise_variance: sigma^2 of noise="known".
        noise_shape: shape of the Gamma prior of 1 / sigma^2.
        noise_rate: rate of the Gamma prior of 1 / sigma^2.
        mean: "center": maximised; "zero": none; "vb": its own Gaussian factor under N(0, ``mean_variance``).
        mean_variance: prior variance of the mean under mean="vb".
        floor: smallest sigma^2, as a share of the mean variance of the data.

    Raises:
        UserError: a setting outside its range.
    """

    alpha: float = 0.9
    prior: Literal["fixed", "shared", "ard"] = "shared"
    prior_variance: float = 1.0
    noise: Literal["known", "point", "gamma", "plugin"] = "gamma"
    noise_variance: float | None = None
    noise_shape: float = 1e-3
    noise_rate: float = 1e-3
    mean: Literal["center", "zero", "vb"] = "center"
    mean_variance: float = 100.0
    floor: float = 1e-6

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 1:
            raise UserError(f"alpha must lie in (0, 1], the guarantee needs alpha < 1: got {self.alpha}")
        for name, value, options in (("prior", self.prior, ("fixed", "shared", "ard")),
                                     ("noise", self.noise, ("known", "point", "gamma", "plugin")),
                                     ("mean", self.mean, ("center", "zero", "vb"))):  # fmt: skip
            if value not in options:
                raise UserError(f"{name} must be one of {', '.join(options)}, got {value!r}")
        for name in ("prior_variance", "noise_shape", "noise_rate", "mean_variance", "floor"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{name} must be a positive number, got {getattr(self, name)}")
        if self.noise == "known" and not (self.noise_variance and 0 < self.noise_variance < math.inf):
            raise UserError(f"noise='known' needs a positive noise_variance, got {self.noise_variance}")

    @property
    def is_bound(self) -> bool:
        """Whether the criterion bounds a tempered evidence: nothing is maximised but the variational factors."""
        return self.noise in ("known", "gamma") and self.prior == "fixed" and self.mean != "center"

    @property
    def target(self) -> str:
        """What the criterion bounds, in words; unlike targets cannot be compared."""
        kind = "tempered evidence" if self.alpha < 1 else "evidence"
        learned = [name for name, yes in (("noise", self.noise in ("point", "plugin")), ("prior", self.prior != "fixed"),
                                          ("mean", self.mean == "center")) if yes]  # fmt: skip
        empirical = f", maximised over {' and '.join(learned)}" if learned else ""
        return f"{kind} of the data set, a={self.alpha:g}{empirical}"


def model_weights(prior: str | Sequence[float] | np.ndarray, count: int) -> np.ndarray:
    """log pi of ``count`` models: "geometric" 2^-(k+1), "uniform", or weights of your own.

    Raises:
        UserError: weights that are not positive, sum to more than 1, or are not ``count`` numbers.
    """
    if isinstance(prior, str):
        if prior not in ("geometric", "uniform"):
            raise UserError(f"model_prior must be 'geometric', 'uniform' or an array of weights, got {prior!r}")
        return -math.log(2) * np.arange(1, count + 1) if prior == "geometric" else np.full(count, -math.log(count))
    weights = np.asarray(prior, dtype=np.float64)
    if weights.shape != (count,):
        raise UserError(f"model_prior needs one weight for each of the {count} models, got shape {weights.shape}")
    if not (weights > 0).all() or weights.sum() > 1 + 1e-9:
        raise UserError(
            f"model weights must be positive and sum to at most 1: the least of model_prior is {weights.min():g}, their sum "
            f"{weights.sum():g}"
        )
    return np.log(weights)
