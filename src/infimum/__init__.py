"""infimum: train, estimate, select and align latent-variable models by their evidence bounds."""

__version__ = "0.1.0"
