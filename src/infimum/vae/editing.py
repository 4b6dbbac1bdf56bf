"""What a latent space looks like: items along one latent dimension, and on the way from one item to another."""

import torch
from jaxtyping import Float
from torch import Tensor

from infimum.errors import UserError
from infimum.vae.model import VAE

__all__ = ["interpolate", "traverse"]


def _decoded(model: VAE, z: Float[Tensor, "A B latent"]) -> Float[Tensor, "A B *shape"]:
    return model.likelihood.mean(model.decode(z)).unflatten(-1, model.config.shape)


@torch.no_grad()
def traverse(
    model: VAE, x: Float[Tensor, "B *shape"], dim: int, *, span: float = 3.0, steps: int = 7
) -> Float[Tensor, "steps B *shape"]:
    """E[x | z + s e_dim] for s from -span to span, z the centre of q(z | x).

    Args:
        model: an unconditional VAE.
        x: items.
        dim: the latent dimension that is moved.
        span: how far, in standard deviations of the prior (2309.13160 shows 20: far outside it).
        steps: how many items, the one in the middle of an odd number being the reconstruction.

    Raises:
        UserError: a dimension that the model does not have, or no steps.
    """
    latent = model.config.latent
    if not 0 <= dim < latent or steps < 1:
        raise UserError(
            f"dim is one of 0 .. {latent - 1} and steps at least 1, got dim {dim} and {steps} steps: the model has "
            f"{latent} latent dimensions"
        )
    z = model.family.centre(model.encode(x))
    move = torch.zeros(steps, 1, latent, dtype=z.dtype, device=z.device)
    move[:, 0, dim] = torch.linspace(-span, span, steps, dtype=z.dtype, device=z.device)
    return _decoded(model, z + move)


@torch.no_grad()
def interpolate(
    model: VAE, first: Float[Tensor, "B *shape"], second: Float[Tensor, "B *shape"], *, steps: int = 6
) -> Float[Tensor, "steps B *shape"]:
    """E[x | (1 - t) z1 + t z2] for t = 0, 1/(steps - 1), .. 1, between the centres of q(z | first) and q(z | second).

    Raises:
        UserError: fewer than 2 steps.
    """
    if steps < 2:
        raise UserError(f"an interpolation has at least its 2 ends, got steps={steps}")
    ends = [model.family.centre(model.encode(x)) for x in (first, second)]
    t = torch.linspace(0, 1, steps, dtype=ends[0].dtype, device=ends[0].device)[:, None, None]
    return _decoded(model, (1 - t) * ends[0] + t * ends[1])
