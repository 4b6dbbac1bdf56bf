"""Traversals and interpolations of a linear VAE, whose decoder makes them straight lines in closed form."""

import pytest
import torch

from infimum.errors import UserError
from infimum.vae import VAE, VAEConfig
from infimum.vae.editing import interpolate, traverse

close = torch.testing.assert_close


@pytest.fixture
def model() -> VAE:
    torch.manual_seed(0)
    return VAE(VAEConfig(shape=(1, 2, 3), likelihood="gaussian", latent=4, hidden=()))


def test_traversal_moves_along_the_column_of_the_decoder(model):
    x = torch.randn(5, 1, 2, 3, generator=torch.Generator().manual_seed(0))
    found = traverse(model, x, 2, span=1.5, steps=5)
    column = model.decoder[-1].weight[:, 2].detach().unflatten(0, (1, 2, 3))
    for step, s in enumerate((-1.5, -0.75, 0, 0.75, 1.5)):
        close(found[step], model.reconstruct(x).detach() + s * column, rtol=1e-5, atol=1e-6)
    assert traverse(model, x, 0, steps=1).shape == (1, 5, 1, 2, 3)


def test_interpolation_is_the_line_between_two_reconstructions(model):
    first, second = torch.randn(2, 5, 1, 2, 3, generator=torch.Generator().manual_seed(1))
    found = interpolate(model, first, second, steps=5)
    ends = model.reconstruct(first).detach(), model.reconstruct(second).detach()
    for step, t in enumerate((0, 0.25, 0.5, 0.75, 1)):
        close(found[step], (1 - t) * ends[0] + t * ends[1], rtol=1e-5, atol=1e-6)


def test_refusals(model):
    x = torch.zeros(1, 1, 2, 3)
    with pytest.raises(UserError, match=r"dim is one of 0 \.\. 3 and steps at least 1, got dim 4"):
        traverse(model, x, 4)
    with pytest.raises(UserError, match="at least its 2 ends, got steps=1"):
        interpolate(model, x, x, steps=1)
