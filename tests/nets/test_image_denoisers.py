"""ADM's U-Net and the diffusion transformer: size by an independent count, what they start as, what depends on what."""

import pytest
import torch

from infimum.errors import UserError
from infimum.nets import ADMUNet, DiT
from infimum.nets.dit import _positions

MADE = {
    "adm": lambda **o: ADMUNet(2, **{"width": 8, "blocks": 1, "multiples": (1, 2), "fourier": (1.0,)} | o),
    "dit": lambda **o: DiT(2, **{"width": 16, "blocks": 2, "heads": 2, "fourier": (1.0,)} | o),
}


def randomised(name, **options):
    torch.manual_seed(0)
    net = MADE[name](**options)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net.eval()


def test_the_size_of_a_dit():
    """DiT-S/2 without its table of classes: per block 12 C^2 + 13 C... counted layer by layer."""
    c, blocks, p = 384, 12, 2
    linear = lambda i, o: i * o + o  # noqa: E731
    block = linear(c, 3 * c) + linear(c, c) + linear(c, 4 * c) + linear(4 * c, c) + linear(c, 6 * c)
    expected = blocks * block + linear(4 * p * p, c) + 2 * linear(c, c) + linear(c, 2 * c) + linear(c, 4 * p * p)
    net = DiT(4, width=c, blocks=blocks, patch=p)
    assert sum(q.numel() for q in net.parameters()) == expected
    assert abs(expected / 33e6 - 1) < 0.03  # published: 33 million
    assert net.blocks[0].heads == 6  # published


@pytest.mark.parametrize(
    ("width", "blocks", "multiples", "attention"), [(8, 1, (1, 2), 1), (16, 2, (1, 2, 2), 2), (8, 2, (1,), 1)]
)
def test_the_size_of_an_adm_unet(width, blocks, multiples, attention):
    net = ADMUNet(3, width=width, blocks=blocks, multiples=multiples, attention=attention)
    conv = lambda i, o, k=3: i * o * k * k + o  # noqa: E731
    e = 4 * width

    def block(i, o):
        return 2 * i + conv(i, o) + 2 * e * o + 2 * o + 2 * o + conv(o, o) + (0 if i == o else conv(i, o, 1))

    def look(o):
        return 2 * o + conv(o, 3 * o, 1) + conv(o, o, 1)

    now, skips, last = width, [width], len(multiples) - 1
    total = width * e + e + e * e + e + conv(3, width)
    for level, m in enumerate(multiples):
        for _ in range(blocks):
            total += block(now, width * m) + (look(width * m) if level >= attention else 0)
            now = width * m
            skips.append(now)
        if level < last:
            total += block(now, now)
            skips.append(now)
    total += 2 * block(now, now) + look(now)
    for level in range(last, -1, -1):
        for _ in range(blocks + 1):
            o = width * multiples[level]
            total += block(now + skips.pop(), o) + (look(o) if level >= attention else 0)
            now = o
        if level:
            total += block(now, now)
    total += 2 * now + conv(now, 3)
    assert not skips and sum(q.numel() for q in net.parameters()) == total


@pytest.mark.parametrize("name", MADE)
def test_it_starts_at_zero_and_keeps_the_shape(name):
    z, u = torch.randn(3, 2, 8, 4), torch.rand(3)
    assert not bool(MADE[name]()(z, u).any())
    assert randomised(name)(z, u).shape == z.shape


@pytest.mark.parametrize("name", MADE)
def test_an_image_depends_on_itself_and_its_condition(name):
    net, z, u = randomised(name), torch.randn(3, 2, 8, 8), torch.tensor([0.1, 0.5, 0.9])
    with torch.no_grad():
        out = net(z, u)
        torch.testing.assert_close(net(z[1:2], u[1:2]), out[1:2], rtol=1e-4, atol=1e-4)
        assert float((net(z, u.flip(0)) - out)[0].abs().max()) > 1e-3
        moved = z.clone()
        moved[0, :, 7, 7] += 1
        assert float((net(moved, u) - out)[0, :, 0, 0].abs().max()) > 0


@pytest.mark.parametrize("name", MADE)
def test_gradients_reach_everything(name):
    net = randomised(name)
    net(torch.randn(2, 2, 4, 4), torch.rand(2)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in net.parameters())


def test_patches_and_positions_have_their_place():
    """Zero attention and no blocks' effect: each patch of the output depends on the same patch of z alone; positions all differ."""
    torch.manual_seed(0)
    net = DiT(1, width=8, blocks=1)
    with torch.no_grad():
        for layer in (net.outputs, net.condition):
            layer.weight.normal_()
        z, u = torch.randn(1, 1, 6, 4), torch.rand(1)
        moved = z.clone()
        moved[0, 0, 3, 2] += 1
        change = (net(moved, u) - net(z, u))[0, 0].abs() > 0
    assert change[2:4, 2:4].all() and int(change.sum()) == 4
    table = _positions(3, 5, 16)
    assert table.shape == (15, 16) and float(torch.pdist(table).min()) > 0.1
    torch.testing.assert_close(table[7, :8], table[9, :8]), torch.testing.assert_close(table[2, 8:], table[12, 8:])


def normed(h):
    """Layer norm without weights, of the last axis."""
    return (h - h.mean(-1, keepdim=True)) / (h.var(-1, keepdim=True, unbiased=False) + 1e-6).sqrt()


def test_a_dit_by_its_formulas():
    """adaLN-Zero of 2212.09748, patch by patch and head by head, on a rectangle, with a context."""
    torch.manual_seed(0)
    net = DiT(1, width=16, blocks=2, heads=2, patch=2, context=3).double().eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * torch.randn_like(p))
    z, u, context = torch.randn(2, 1, 4, 6).double(), torch.rand(2).double(), torch.randn(2, 3).double()
    rate = torch.tensor([10_000.0 ** (-i / 4) for i in range(4)], dtype=torch.float64)
    with torch.no_grad():
        angle = 1000 * u[:, None] * torch.tensor([10_000.0 ** (-i / 7) for i in range(8)], dtype=torch.float64)
        waves = torch.cat((angle.sin(), angle.cos(), context), 1)
        c = net.embedding[2](torch.nn.functional.silu(net.embedding[0](waves)))
        told = torch.nn.functional.silu(c)
        tokens = []
        for row in range(2):
            for column in range(3):
                patch = z[:, 0, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].flatten(1)
                place = torch.cat([f(x * rate) for x in (row, column) for f in (torch.sin, torch.cos)])
                tokens.append(net.inputs(patch) + place)
        h = torch.stack(tokens, 1)
        for block in net.blocks:
            shift, scale, gate, shift_2, scale_2, gate_2 = (m[:, None] for m in block.condition(told).chunk(6, 1))
            q, k, v = block.inputs(normed(h) * (1 + scale) + shift).chunk(3, 2)
            heads = []
            for part in (slice(0, 8), slice(8, 16)):
                share = (q[..., part] @ k[..., part].transpose(1, 2) / 8**0.5).softmax(2)
                heads.append(share @ v[..., part])
            h = h + gate * block.outputs(torch.cat(heads, 2))
            wide = block.wide[0](normed(h) * (1 + scale_2) + shift_2)
            h = h + gate_2 * block.wide[3](torch.nn.functional.gelu(wide, approximate="tanh"))
        shift, scale = (m[:, None] for m in net.condition(told).chunk(2, 1))
        made = net.outputs(normed(h) * (1 + scale) + shift).view(2, 2, 3, 2, 2)
        wanted = made.permute(0, 1, 3, 2, 4).reshape(2, 1, 4, 6)
        torch.testing.assert_close(net(z, u, context), wanted)


def test_adms_block_and_attention_by_their_formulas():
    """Scale and shift after the second norm (2105.05233); two heads at 128 channels, one for 64."""
    from infimum.nets.adm_unet import _Attention, _Block

    torch.manual_seed(0)
    block, attention = _Block(8, 8, 5, 0.0).double(), _Attention(128).double()
    with torch.no_grad():
        for p in (*block.parameters(), *attention.parameters()):
            p.add_(0.3 * torch.randn_like(p))
        h, c = torch.randn(2, 8, 3, 4).double(), torch.randn(2, 5).double()
        scale, shift = (m[:, :, None, None] for m in block.condition(c).chunk(2, 1))
        silu = torch.nn.functional.silu
        inner = block.again(block.first(silu(block.norm(h)))) * (1 + scale) + shift
        torch.testing.assert_close(block(h, c), h + block.second(silu(inner)))
        assert float(shift.abs().min()) > 0
        h = torch.randn(2, 128, 2, 3).double()
        q, k, v = attention.inputs(attention.norm(h).flatten(2)).chunk(3, 1)
        heads = []
        for part in (slice(0, 64), slice(64, 128)):
            share = (q[:, part].transpose(1, 2) @ k[:, part] / 8).softmax(2)
            heads.append((share @ v[:, part].transpose(1, 2)).transpose(1, 2))
        assert attention.heads == 2
        torch.testing.assert_close(attention(h), h + attention.outputs(torch.cat(heads, 1)).view_as(h))


@pytest.mark.parametrize("width", [100, 192, 200])
def test_widths_that_64_does_not_divide(width):
    z, u = torch.randn(1, 1, 4, 4), torch.rand(1)
    assert ADMUNet(1, width=width, blocks=1, multiples=(1, 2))(z, u).shape == z.shape
    assert DiT(1, width=width, blocks=1)(z, u).shape == z.shape


@pytest.mark.parametrize("name", MADE)
def test_a_context_changes_the_output_and_none_is_zeros(name):
    net, z, u = randomised(name, context=3), torch.randn(2, 2, 4, 4), torch.rand(2)
    with torch.no_grad():
        none, told = net(z, u), net(z, u, torch.ones(2, 3))
        torch.testing.assert_close(none, net(z, u, torch.zeros(2, 3)))
    assert float((none - told).abs().max()) > 1e-3
    with pytest.raises(UserError, match="context of 3 numbers"):
        net(z, u, torch.ones(2, 4))


def test_refusals():
    for options in ({"width": 6}, {"heads": 3, "width": 16}, {"blocks": 0}, {"patch": 0}):
        with pytest.raises(UserError, match="a DiT needs a width that 4 and its heads divide"):
            DiT(1, **options)
    for options in ({"width": 7}, {"blocks": 0}, {"multiples": ()}):
        with pytest.raises(UserError, match="an ADM U-Net needs an even width"):
            ADMUNet(1, **options)
    with pytest.raises(UserError, match="patches of 2 x 2 do not tile images of 3 x 4"):
        randomised("dit")(torch.zeros(1, 2, 3, 4), torch.zeros(1))
    with pytest.raises(UserError, match="sides must be multiples of 2, got images of 4 x 3"):
        randomised("adm")(torch.zeros(1, 2, 4, 3), torch.zeros(1))
