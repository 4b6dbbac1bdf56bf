"""What couples a batch or replaces the divergence of an ELBO. None of it makes a bound; each function says why."""

from infimum.vae.regularisers.adversary import discriminator_loss, generator_loss, latent_discriminator
from infimum.vae.regularisers.aggregate import (
    Decomposition,
    aggregate_divergence,
    batch_decomposition,
    density_gap,
    log_aggregate,
)
from infimum.vae.regularisers.discrepancy import mean_discrepancy
from infimum.vae.regularisers.free_bits import free_bits, free_bits_batch
from infimum.vae.regularisers.mixture_moment import (
    Moment,
    mixture_moments,
    moment_divergence,
    moment_floor,
    variance_penalty,
)

__all__ = [
    "Decomposition",
    "Moment",
    "aggregate_divergence",
    "batch_decomposition",
    "density_gap",
    "discriminator_loss",
    "free_bits",
    "free_bits_batch",
    "generator_loss",
    "latent_discriminator",
    "log_aggregate",
    "mean_discrepancy",
    "mixture_moments",
    "moment_divergence",
    "moment_floor",
    "variance_penalty",
]
