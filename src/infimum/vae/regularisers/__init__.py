"""What couples a batch or replaces the divergence of an ELBO. None of it makes a bound; each function says why."""

from infimum.vae.regularisers.aggregate import aggregate_divergence, log_aggregate
from infimum.vae.regularisers.mixture_moment import (
    Moment,
    mixture_moments,
    moment_divergence,
    moment_floor,
    variance_penalty,
)

__all__ = [
    "Moment",
    "aggregate_divergence",
    "log_aggregate",
    "mixture_moments",
    "moment_divergence",
    "moment_floor",
    "variance_penalty",
]
