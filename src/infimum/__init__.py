"""infimum: evidence bounds for latent-variable models."""
