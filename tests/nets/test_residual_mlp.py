"""Fourier features and the residual network."""

import math

import pytest
import torch

from infimum.diffusion import DiffusionConfig
from infimum.errors import UserError
from infimum.nets import FourierFeatures, ResidualMLP
from infimum.nets.residual_mlp import sinusoidal


def test_the_finest_wave_is_the_same_at_every_level():
    """sin(2 pi V/2 f) and its cosine do not tell levels f = (2 x + 1) / V - 1 apart up to sign: they tell the noise on them."""
    for levels in (17, 256):
        config = DiffusionConfig((1,), levels=levels)
        assert config.frequencies[-1] == levels / 2 and 0.5 <= config.frequencies[0] < 1
        assert len(config.frequencies) == (5 if levels == 17 else 9)
        f = (2 * torch.arange(levels, dtype=torch.float64) + 1) / levels - 1
        z, sin, cos = FourierFeatures((levels / 2,))(f[:, None]).T
        torch.testing.assert_close(z, f)
        assert float(sin.std()) < 1e-9 or float(cos.std()) < 1e-9
        delta = 0.3 / levels
        moved = FourierFeatures((levels / 2,))(f[:, None] + delta)[:, 1:]
        angle = 2 * math.pi * levels / 2 * (f[:, None] + delta)
        torch.testing.assert_close(moved, torch.cat((angle.sin(), angle.cos()), 1), rtol=0, atol=1e-9)
    assert DiffusionConfig((1,), levels=256, octaves=2).frequencies == (64.0, 128.0)
    assert DiffusionConfig((1,)).frequencies == ()


def test_it_starts_at_zero_and_knows_its_condition():
    torch.manual_seed(0)
    net = ResidualMLP(3, width=8, blocks=2, fourier=(1.0, 2.0))
    z, u = torch.randn(5, 3), torch.rand(5)
    assert not bool(net(z, u).any())
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    assert not torch.allclose(net(z, u), net(z, u.flip(0)))
    torch.testing.assert_close(net(z, u)[:2], net(z[:2], u[:2]))


def test_a_number_may_be_answered_by_itself():
    """With all weights but those of its own features at zero, an output depends on its own input alone."""
    torch.manual_seed(0)
    net = ResidualMLP(3, width=8, blocks=1, fourier=(1.5,))
    with torch.no_grad():
        net.own.bias.copy_(torch.tensor([0.5, 2.0, -1.0]))
    z = torch.randn(4, 3)
    angle = 2 * math.pi * 1.5 * z
    torch.testing.assert_close(net(z, torch.zeros(4)), 0.5 * z + 2 * angle.sin() - angle.cos())


def test_the_embedding_is_that_of_transformers():
    got = sinusoidal(torch.tensor([0.25], dtype=torch.float64), 6)[0]
    rates = [10_000 ** (-k / 2) for k in range(3)]
    assert got.tolist() == pytest.approx([math.sin(250 * r) for r in rates] + [math.cos(250 * r) for r in rates])


def test_refusals():
    for options in ({"width": 7}, {"blocks": 0}):
        with pytest.raises(UserError, match="an even width of at least 2 and a block"):
            ResidualMLP(3, **options)
