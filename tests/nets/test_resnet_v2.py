"""The residual networks and the patch discriminator of 2309.13160: parameter counts, shapes, refusals."""

import pytest
import torch
from torch import nn

from infimum.errors import UserError
from infimum.nets import PatchDiscriminator, ResNetV2Decoder, ResNetV2Encoder


def counts(*nets: nn.Module) -> tuple[int, int]:
    """Trainable numbers, and running statistics of batch normalisation."""
    trainable = sum(p.numel() for net in nets for p in net.parameters())
    running = sum(b.numel() for net in nets for name, b in net.named_buffers() if "running" in name)
    return trainable, running


def test_parameter_counts_are_those_of_the_paper():
    """9,932,466 with 24,326 not trainable for encoder and decoder (its dense layer 512 -> 1024 included, the two heads
    of 1024 -> 512 not); 412,101 with 1,026 for the discriminator; all at 256 x 256 and 512 latent dimensions."""
    shape = (3, 256, 256)
    trainable, running = counts(ResNetV2Encoder(shape), ResNetV2Decoder(shape), nn.Linear(512, 1024))
    assert (trainable + running, running) == (9_932_466, 24_326)
    assert trainable + running + counts(nn.Linear(1024, 1024))[0] == 10_982_066
    trainable, running = counts(PatchDiscriminator())
    assert (trainable + running, running) == (412_101, 1_026)


def test_shapes_of_the_paper():
    with torch.no_grad():
        encoder, decoder = ResNetV2Encoder((3, 256, 256), width=4), ResNetV2Decoder((3, 256, 256), width=4)
        x = torch.zeros(1, 3, 256, 256)
        assert encoder.map(x).shape == (1, 64, 4, 4) and encoder(x).shape == (1, 1024)
        assert decoder(torch.zeros(1, 1024)).shape == x.shape
        assert PatchDiscriminator()(x).shape == (1, 1, 32, 32)


def test_an_identity_block_with_zero_last_convolution_is_the_identity():
    from infimum.nets.resnet_v2 import identity_block

    block = identity_block(5)
    nn.init.zeros_(block.body[-1][-1].weight)
    nn.init.zeros_(block.body[-1][-1].bias)
    x = torch.randn(2, 5, 6, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(block(x), x)


def test_the_first_normalisation_is_over_the_pixels_of_a_channel():
    encoder = ResNetV2Encoder((2, 8, 8), width=3, stages=1)
    x = 5 + 3 * torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    out = encoder.norm(x)
    torch.testing.assert_close(out.mean((2, 3)), torch.zeros(4, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.var((2, 3), correction=0), torch.ones(4, 2), atol=1e-2, rtol=0)
    assert encoder.norm.weight.shape == (8, 8)


def test_brightness_and_contrast_reach_the_features_without_the_first_normalisation_only():
    """Features of x and of 20 x + 7: equal with it (up to its epsilon in the variance), different without."""
    x = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for input_norm, same in ((True, True), (False, False)):
        torch.manual_seed(0)
        encoder = ResNetV2Encoder((2, 8, 8), width=3, stages=1, input_norm=input_norm).double().eval()
        with torch.no_grad():
            first, second = encoder(x), encoder(20 * x + 7)
        assert torch.allclose(first, second, rtol=0, atol=2e-3 * float(first.abs().max())) == same


def test_a_frozen_discriminator_sees_what_a_batch_has_in_common():
    """Half the contrast of all images: other logits; and no logits but these with the batch's own statistics, up to epsilon."""
    x = torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for normalisation, seen in (("frozen", True), ("train", False)):
        torch.manual_seed(0)
        critic = PatchDiscriminator(
            1, filters=(8, 1), strides=(2, 1), dropout=0.0, normalisation=normalisation
        ).double()
        with torch.no_grad():
            full, half = critic.train()(10 * x), critic.train()(5 * x)
        assert torch.allclose(full, half, rtol=0, atol=0.02 * float(full.abs().max())) != seen


def test_a_frozen_discriminator_is_the_same_in_training():
    x = torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    for normalisation, same in (("frozen", True), ("train", False)):
        torch.manual_seed(0)
        critic = PatchDiscriminator(1, filters=(8, 1), strides=(2, 1), normalisation=normalisation)
        norm = critic.layers[1]
        assert torch.equal(critic.eval()(x), critic.train()(x)) == same
        assert bool((norm.running_mean == 0).all()) == same and norm.weight.requires_grad


def test_refusals():
    with pytest.raises(UserError, match=r"multiples of 64, got items of shape .* use 192 x 192, or fewer stages"):
        ResNetV2Encoder((3, 200, 200))
    with pytest.raises(UserError, match="must be multiples of 4"):
        ResNetV2Decoder((1, 10, 8), stages=2)
    with pytest.raises(UserError, match="a last filter of 1"):
        PatchDiscriminator(3, filters=(8, 8), strides=(2, 1))
