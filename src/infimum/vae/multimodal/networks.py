"""Encoder, decoder and likelihood of one modality."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from infimum.errors import UserError
from infimum.evidence import Draws, event_sum
from infimum.nets import mlp
from infimum.nets.mlp import ACTIVATIONS
from infimum.vae.likelihoods import Categorical, likelihood_of
from infimum.vae.multimodal.config import Modality

__all__ = ["ModalityNet", "conv_decoder", "conv_encoder"]


def _sides(side: int, layers: int) -> list[int]:
    """Sides of a picture after each halving, rounded up."""
    sides = [side]
    for _ in range(layers):
        sides.append(-(-sides[-1] // 2))
    return sides


def conv_encoder(modality: Modality, outputs: int, channels: int) -> nn.Sequential:
    """3x3 convolutions of stride 2, a linear layer, the heads: the PolyMNIST encoder of the MoPoE code (21 section 3.5)."""
    act = ACTIVATIONS[modality.activation]
    layers: list[nn.Module] = []
    for width in modality.hidden:
        layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), act()]
        channels = width
    h, w = (_sides(side, len(modality.hidden))[-1] for side in modality.shape[1:])
    layers += [nn.Flatten(), nn.Linear(channels * h * w, modality.width), act(), nn.Linear(modality.width, outputs)]
    return nn.Sequential(*layers)


def conv_decoder(modality: Modality, latent: int, outputs: int) -> nn.Sequential:
    """A linear layer and 3x3 transposed convolutions of stride 2: the PolyMNIST decoder; no non-linearity at the end."""
    act = ACTIVATIONS[modality.activation]
    n = len(modality.hidden)
    heights, widths = (_sides(side, n)[::-1] for side in modality.shape[1:])
    channels = [*modality.hidden[::-1], modality.shape[0] * outputs]
    layers: list[nn.Module] = [
        nn.Linear(latent, channels[0] * heights[0] * widths[0]),
        act(),
        nn.Unflatten(1, (channels[0], heights[0], widths[0])),
    ]
    for i in range(n):
        odd = (1 - heights[i + 1] % 2, 1 - widths[i + 1] % 2)
        layers += [nn.ConvTranspose2d(channels[i], channels[i + 1], 3, stride=2, padding=1, output_padding=odd), act()]
    return nn.Sequential(*layers[:-1])


class ModalityNet(nn.Module):
    """q(z | x_m) as a location and raw scale, p(x_m | z) with its likelihood.

    Args:
        modality: shape, likelihood and networks.
        latent: D.
        encoder: a network of one's own, (B, *shape) to (B, 2 D); or a pair of (B, D); or an object with ``embedding`` and
            ``log_covariance``.
        decoder: the same, (N, D) to (N, *shape) times the likelihood's outputs along a last axis; or with ``reconstruction``.
    """

    def __init__(
        self, modality: Modality, latent: int, encoder: nn.Module | None = None, decoder: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.modality, self.latent = modality, latent
        self.likelihood = likelihood_of(modality.likelihood, modality.dims, modality.levels, modality.scale)
        self.one_hot = modality.levels if isinstance(self.likelihood, Categorical) else None
        outputs, conv = self.likelihood.outputs, modality.network == "conv"
        given = encoder is not None
        self.flat = not (conv or given)
        if encoder is None:
            depth = self.one_hot or 1
            if conv:
                encoder = conv_encoder(modality, 2 * latent, modality.shape[0] * depth)
            else:
                encoder = mlp(modality.dims * depth, modality.hidden, 2 * latent, modality.activation)
        if decoder is None:
            if conv:
                decoder = conv_decoder(modality, latent, outputs)
            else:
                decoder = mlp(latent, modality.hidden[::-1], modality.dims * outputs, modality.activation)
            self.channels_first = conv and outputs > 1
        else:
            self.channels_first = False
        self.encoder, self.decoder = encoder, decoder

    def values(self, x: Tensor, name: str) -> Float[Tensor, "B dims"]:
        """Items as one row each; whole numbers where the likelihood counts, also from a one-hot last axis.

        Raises:
            UserError: items of another shape, or no one-hot rows.
        """
        shape, dims = self.modality.shape, self.modality.dims
        item = tuple(x.shape[1:])
        dtype = self.decoder_dtype()
        if self.one_hot and item == (*shape, self.one_hot) and item != shape:
            if not bool(((x == 0) | (x == 1)).all()) or not bool((x.sum(-1) == 1).all()):
                raise UserError(
                    f"modality {name!r} has a last axis of {self.one_hot} levels that is not one-hot: give one-hot rows, not "
                    "probabilities or logits"
                )
            return x.argmax(-1).flatten(1).to(dtype)
        if item not in (shape, (dims,)) and not (item == () and dims == 1):
            raise UserError(f"expected items of shape {shape} of modality {name!r}, got {item}")
        x = x.reshape(x.shape[0], dims)
        return x if x.dtype == dtype else x.to(dtype)

    def decoder_dtype(self) -> torch.dtype:
        """Of the networks."""
        return next((p.dtype for p in self.parameters()), torch.float32)

    def expert(self, rows: Float[Tensor, "B dims"]) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B D"]]:
        """Location and raw scale of the unimodal posterior.

        Raises:
            UserError: an encoder of another latent dimension.
        """
        if self.one_hot:
            x = F.one_hot(rows.long(), self.one_hot).to(rows.dtype)  # (B, dims, levels)
            if self.modality.network == "conv" and not self.flat:
                c, h, w = self.modality.shape
                x = x.unflatten(1, (c, h, w)).permute(0, 1, 4, 2, 3).flatten(1, 2)
            elif self.flat:
                x = x.flatten(1)
            else:
                x = x.unflatten(1, self.modality.shape)
        else:
            x = self.likelihood.scaled(rows)
            x = x if self.flat else x.unflatten(1, self.modality.shape)
        return self._two(self.encoder(x))

    def _two(self, out: Any) -> tuple[Tensor, Tensor]:
        if hasattr(out, "embedding"):
            mean, raw = out.embedding, 0.5 * out.log_covariance
        elif isinstance(out, tuple):
            mean, raw = out
        else:
            mean, raw = out.chunk(2, -1)
        if mean.shape[-1] != self.latent or raw.shape[-1] != self.latent:
            raise UserError(
                f"an encoder gives {mean.shape[-1]} latent dimensions and the model has {self.latent}: all encoders must agree"
            )
        return mean, raw

    def decode(self, z: Float[Tensor, "K B D"]) -> Float[Tensor, "K B outputs"]:
        """Outputs of the decoder for p(x_m | z); the network sees one batch axis."""
        out = self.decoder(z.flatten(0, 1))
        out = getattr(out, "reconstruction", out)
        if self.channels_first:  # the outputs of a dimension stand together
            out = out.unflatten(1, (self.modality.shape[0], -1)).movedim(2, -1)
        out = out.reshape(*z.shape[:2], -1)
        return out.to(torch.promote_types(out.dtype, torch.float32))

    def log_likelihood(self, rows: Float[Tensor, "B dims"], z: Float[Tensor, "K B D"]) -> Float[Tensor, "K B"]:
        """log p(x_m | z) in nats, summed over the item outside autocast."""
        return event_sum(self.likelihood.log_prob(rows, self.decode(z)), 1)

    def mean(self, z: Float[Tensor, "K B D"]) -> Float[Tensor, "K B *shape"]:
        """E[x_m | z]; of categories the probabilities, along a last axis of the levels."""
        out = self.decode(z)
        if self.one_hot:
            return out.unflatten(-1, (*self.modality.shape, self.one_hot)).softmax(-1)
        return self.likelihood.mean(out).unflatten(-1, self.modality.shape)

    def sample(self, z: Float[Tensor, "K B D"], draws: Draws) -> Float[Tensor, "K B *shape"]:
        """x_m given z; stream "x" of the given draws."""
        return self.likelihood.sample(self.decode(z), draws).unflatten(-1, self.modality.shape)
