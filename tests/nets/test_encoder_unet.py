"""The encoder's U-Net: size by an independent count, what it starts as, what depends on what, its forward derivative."""

import pytest
import torch

from infimum.errors import UserError
from infimum.nets import EncoderUNet


def randomised(**options):
    torch.manual_seed(0)
    net = EncoderUNet(2, **{"width": 8, "levels": 2, "blocks": 2, "condition": 16} | options).double()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net.eval()


@pytest.mark.parametrize(("width", "levels", "blocks", "condition"), [(8, 2, 2, 16), (16, 3, 6, 32), (64, 2, 4, 256)])
def test_the_number_of_parameters(width, levels, blocks, condition):
    """Layer by layer: blocks spread over the levels, two and an attention in the middle, a transposed convolution a level."""
    net = EncoderUNet(3, width=width, levels=levels, blocks=blocks, condition=condition)
    conv = lambda i, o, k=3: i * o * k * k + o  # noqa: E731

    def block(i, o):
        return 2 * i + conv(i, o) + condition * o + 2 * o + conv(o, o) + (0 if i == o else conv(i, o, 1))

    widths = [width * 2**level for level in range(levels)]
    each, last = blocks // levels, widths[-1]
    expected = width * condition + condition + condition * condition + condition + conv(3, width)
    expected += sum(block(a, b) + (each - 1) * block(b, b) for a, b in zip([width, *widths], widths, strict=False))
    expected += 2 * block(last, last) + 2 * last + conv(last, 3 * last, 1) + conv(last, last, 1)
    expected += sum(conv(a, b, 2) for a, b in zip([*widths[1:], last], widths, strict=True))
    expected += sum(block(2 * size, size) + (each - 1) * block(size, size) for size in widths)
    expected += 2 * width + conv(width, 3)
    assert sum(p.numel() for p in net.parameters()) == expected


def test_it_starts_at_zero_and_keeps_the_shape():
    x, u = torch.randn(3, 2, 8, 12), torch.rand(3)
    assert not bool(EncoderUNet(2, width=8)(x, u).any())
    assert randomised()(x.double(), u.double()).shape == x.shape


def test_an_image_depends_on_itself_and_its_condition():
    net, x, u = randomised(), torch.randn(3, 2, 8, 8).double(), torch.tensor([0.1, 0.5, 0.9]).double()
    with torch.no_grad():
        out = net(x, u)
        torch.testing.assert_close(net(x[1:2], u[1:2]), out[1:2])
        assert float((net(x, u.flip(0)) - out)[0].abs().max()) > 1e-3
        moved = x.clone()
        moved[0, :, 7, 7] += 1
        assert float((net(moved, u) - out)[0, :, 0, 0].abs().max()) > 0


def test_the_forward_derivative_has_a_gradient():
    """d/du by jvp equals reverse mode, and the derivative of that with respect to a weight equals central differences."""
    net, x = randomised(), torch.randn(2, 2, 8, 8).double()
    u = torch.tensor([0.3, 0.31]).double()

    def slope():
        return torch.func.jvp(lambda at: net(x, at), (u,), (torch.ones_like(u),))[1]

    held = u.clone().requires_grad_()
    rows = torch.autograd.grad(net(x, held)[:, 0, 1, 2].sum(), held)[0]
    torch.testing.assert_close(slope()[:, 0, 1, 2], rows)
    weight = net.attention.inputs.weight
    gradient = torch.autograd.grad(slope().square().sum(), weight)[0][3, 1, 0, 0]
    values = []
    for step in (1e-6, -1e-6):
        with torch.no_grad():
            weight[3, 1, 0, 0] += step
            values.append(float(slope().square().sum()))
            weight[3, 1, 0, 0] -= step
    assert float(gradient) == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4) and abs(float(gradient)) > 1e-6


def test_refusals():
    for options in ({"width": 7}, {"levels": 0}, {"blocks": 3}, {"blocks": 0}):
        with pytest.raises(UserError, match="a number of blocks that the levels divide"):
            EncoderUNet(1, **options)
    with pytest.raises(UserError, match="halve sides that 4 divides, got images of 6 x 8: take fewer levels"):
        EncoderUNet(1, width=8)(torch.zeros(1, 1, 6, 8), torch.zeros(1))
