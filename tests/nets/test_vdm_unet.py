"""The U-Net of VDM: size by an independent count, what it starts as, and what depends on what."""

import pytest
import torch

from infimum.errors import UserError
from infimum.nets import VDMUNet


def randomised(**options):
    torch.manual_seed(0)
    net = VDMUNet(2, **{"width": 8, "blocks": 2, "fourier": (1.0,)} | options)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net


@pytest.mark.parametrize(("width", "blocks", "waves"), [(8, 2, 1), (32, 3, 2)])
def test_the_number_of_parameters(width, blocks, waves):
    """Layer by layer: 2n + 3 residual blocks, n + 1 of them with skips and a shortcut, one attention."""
    net = VDMUNet(3, width=width, blocks=blocks, fourier=(1.0,) * waves)
    c, e = width, 4 * width
    conv = lambda i, o, k=3: i * o * k * k + o  # noqa: E731
    plain = 2 * c + conv(c, c) + e * c + 2 * c + conv(c, c)
    skip = 4 * c + conv(2 * c, c) + e * c + 2 * c + conv(c, c) + conv(2 * c, c, 1)
    attention = 2 * c + conv(c, 3 * c, 1) + conv(c, c, 1)
    expected = (
        c * e + e + e * e + e + conv(3 * (1 + 2 * waves), c) + (blocks + 2) * plain + (blocks + 1) * skip + attention
        + 2 * c + conv(c, 3)
    )  # fmt: skip
    assert sum(p.numel() for p in net.parameters()) == expected


def test_it_starts_at_zero_and_keeps_the_resolution():
    z, u = torch.randn(3, 2, 5, 7), torch.rand(3)
    assert not bool(VDMUNet(2, width=8, blocks=1)(z, u).any())
    assert randomised()(z, u).shape == z.shape


def test_an_image_depends_on_itself_and_its_condition():
    net, z, u = randomised().eval(), torch.randn(3, 2, 6, 6), torch.tensor([0.1, 0.5, 0.9])
    out = net(z, u)
    torch.testing.assert_close(net(z[1:2], u[1:2]), out[1:2], rtol=1e-4, atol=1e-5)
    assert float((net(z, u.flip(0)) - out)[0].abs().max()) > 1e-3
    moved = z.clone()
    moved[0, :, 5, 5] += 1  # far beyond the convolutions: only the attention carries it to the first pixel
    assert float((net(moved, u) - out)[0, :, 0, 0].abs().max()) > 0


def test_gradients_reach_everything():
    net = randomised()
    net(torch.randn(2, 2, 4, 4), torch.rand(2)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in net.parameters())


def test_refusals():
    for options in ({"width": 7}, {"width": 2}, {"blocks": 0}):
        with pytest.raises(UserError, match="an even width of at least 4 and a block"):
            VDMUNet(1, **options)
