"""Quality of images: the Frechet distance of Gaussians in closed form, and the Laplacian of known surfaces."""

import pytest
import torch
from scipy.linalg import sqrtm

from infimum.errors import UserError
from infimum.vae.quality import frechet_distance, sharpness


def test_frechet_distance_by_the_matrix_root_of_scipy():
    g = torch.Generator().manual_seed(0)
    first = torch.randn(50, 4, generator=g, dtype=torch.float64) @ torch.randn(4, 4, generator=g, dtype=torch.float64)
    second = 0.5 + torch.randn(70, 4, generator=g, dtype=torch.float64)
    one, two = torch.cov(first.T).numpy(), torch.cov(second.T).numpy()
    mean = float((first.mean(0) - second.mean(0)).square().sum())
    expected = mean + float((one + two - 2 * sqrtm(one @ two).real).trace())
    assert frechet_distance(first, second) == pytest.approx(expected)
    assert frechet_distance(second, first) == pytest.approx(expected)
    assert frechet_distance(first, first + 3) == pytest.approx(9 * 4)
    with pytest.raises(UserError, match="at least 2 items a side, got 1 and 70"):
        frechet_distance(first[:1], second)


def test_sharpness_is_the_mean_absolute_laplacian():
    """x^2 + 3 y^2 has Laplacian 8 everywhere; a plane has none; a checkerboard of +-1 has 8."""
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(5.0), indexing="ij")
    board = 1 - 2 * ((x + y) % 2)
    images = torch.stack((x**2 + 3 * y**2, 2 * x - y, board))[:, None]
    torch.testing.assert_close(sharpness(images.expand(3, 2, 6, 5)), torch.tensor([8.0, 0.0, 8.0]))
