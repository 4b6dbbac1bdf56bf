"""How good generated images are, without pretrained networks: distance of features, and sharpness."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from infimum.errors import UserError

__all__ = ["frechet_distance", "sharpness"]


def frechet_distance(first: Float[Tensor, "N F"], second: Float[Tensor, "L F"]) -> float:
    """|mean difference|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of two sets of features (Heusel et al. 2017, 1706.08500, eq. 6).

    It is biased upwards for few items: compare with the distance of two halves of real data.

    Raises:
        UserError: fewer than two items on a side.
    """
    if min(len(first), len(second)) < 2:
        raise UserError(f"a Frechet distance needs at least 2 items a side, got {len(first)} and {len(second)}")
    a, b = first.double(), second.double()
    one, two = torch.cov(a.T), torch.cov(b.T)
    one, two = one.reshape(a.shape[1], -1), two.reshape(b.shape[1], -1)
    values, vectors = torch.linalg.eigh(one)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ two @ root).clamp_min(0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + one.trace() + two.trace() - 2 * cross)


def sharpness(images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N"]:
    """Mean absolute Laplacian of each image, by the five-point stencil on inner pixels: the energy of high frequencies."""
    kernel = images.new_tensor([[0, 1, 0], [1, -4, 1], [0, 1, 0]]).expand(images.shape[1], 1, 3, 3)
    return F.conv2d(images, kernel, groups=images.shape[1]).abs().flatten(1).mean(1)
