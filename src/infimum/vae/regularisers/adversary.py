"""Samples of the batch's mixture against samples of the prior, by a discriminator (adversarial auto-encoder, 1511.05644)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["discriminator_loss", "generator_loss", "latent_discriminator"]


def latent_discriminator(latent: int) -> nn.Sequential:
    """Latents (*, D) to logits (*, 1) of "from the prior": two sigmoid layers of width D (2211.00321's official code)."""
    layers = [nn.Linear(latent, latent), nn.Sigmoid(), nn.Linear(latent, latent), nn.Sigmoid(), nn.Linear(latent, 1)]
    return nn.Sequential(*layers)


def generator_loss(made: Float[Tensor, "*n"]) -> Float[Tensor, ""]:
    """BCE(1, logits of what was made): the non-saturating loss, a mean in nats, log 2 where nothing is known."""
    return F.binary_cross_entropy_with_logits(made, torch.ones_like(made))


def discriminator_loss(real: Float[Tensor, "*n"], made: Float[Tensor, "*n"]) -> Float[Tensor, ""]:
    """BCE(1, logits of what is real) + BCE(0, logits of what was made), in nats: 2 log 2 where nothing is known."""
    zeros = F.binary_cross_entropy_with_logits(made, torch.zeros_like(made))
    return generator_loss(real) + zeros
