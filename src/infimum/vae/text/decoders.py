"""p(x | z), a word at a time: hidden states of whole sentences in one call, or one step from a state."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from infimum.data.text import PAD
from infimum.vae.text.config import TextVAEConfig
from infimum.vae.text.position import positions

__all__ = ["START", "LSTMDecoder", "TransformerDecoder", "decoder_of"]

START = PAD
"""What is read before the first word: padding is never read as a word, so its vector is free."""


class Decoder(nn.Module):
    """What both networks share: word vectors, and the output layer over all words but padding."""

    def __init__(self, config: TextVAEConfig, embedding: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(len(config.words), embedding)
        self.drop = nn.Dropout(config.dropout)
        self.skip = config.skip
        self.out = nn.Linear(config.hidden + config.skip * config.latent, len(config.words) - 1, bias=False)

    def states(self, inputs: Int[Tensor, "B T"], z: Float[Tensor, "K B D"]) -> Float[Tensor, "K B T H"]:
        """Hidden states after each input of every sentence, given z."""
        raise NotImplementedError

    def begin(self, z: Float[Tensor, "N D"]) -> Any:
        """The state before the first input: a tuple of tensors of leading axis N."""
        raise NotImplementedError

    def step(self, token: Int[Tensor, "N"], z: Float[Tensor, "N D"], state: Any) -> tuple[Float[Tensor, "N H"], Any]:
        """Read one more token: the hidden state, and the state to go on from."""
        raise NotImplementedError

    def logits(self, h: Float[Tensor, "*n H"], z: Float[Tensor, "*n D"]) -> Float[Tensor, "*n W"]:
        """Unnormalised log-probabilities of words 1 .. V - 1; padding has none."""
        h = self.drop(h)
        return self.out(torch.cat((h, z), -1) if self.skip else h)


class LSTMDecoder(Decoder):
    """Word vectors beside z at every step, one LSTM; cell = linear(z), hidden = tanh(cell) (2211.00321, official code)."""

    def __init__(self, config: TextVAEConfig) -> None:
        super().__init__(config, config.embedding)
        self.start = nn.Linear(config.latent, config.hidden, bias=False)
        self.lstm = nn.LSTM(config.embedding + config.latent, config.hidden, batch_first=True)

    def states(self, inputs: Int[Tensor, "B T"], z: Float[Tensor, "K B D"]) -> Float[Tensor, "K B T H"]:
        words = self.drop(self.embed(inputs))  # read once, whatever K is
        k, t = z.shape[0], inputs.shape[1]
        both = torch.cat((words.expand(k, *words.shape), z[:, :, None].expand(-1, -1, t, -1)), -1).flatten(0, 1)
        h, _ = self.lstm(both, self._start(z.flatten(0, 1)))
        return h.unflatten(0, z.shape[:2])

    def _start(self, z: Tensor) -> tuple[Tensor, Tensor]:
        cell = self.start(z)[None]
        return cell.tanh(), cell

    def begin(self, z: Float[Tensor, "N D"]) -> Any:
        return tuple(part[0] for part in self._start(z))

    def step(self, token: Int[Tensor, "N"], z: Float[Tensor, "N D"], state: Any) -> tuple[Float[Tensor, "N H"], Any]:
        both = torch.cat((self.drop(self.embed(token)), z), -1)[:, None]
        h, after = self.lstm(both, tuple(part[None].contiguous() for part in state))
        return h[:, 0], tuple(part[0] for part in after)


class TransformerDecoder(Decoder):
    """Pre-norm causal self-attention; a linear image of z is added to every word vector."""

    def __init__(self, config: TextVAEConfig) -> None:
        super().__init__(config, config.hidden)
        width = config.hidden
        layer = nn.TransformerEncoderLayer(
            width, config.heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, config.layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.given = nn.Linear(config.latent, width, bias=False)

    def states(self, inputs: Int[Tensor, "B T"], z: Float[Tensor, "K B D"]) -> Float[Tensor, "K B T H"]:
        t = inputs.shape[1]
        words = self.drop(self.embed(inputs)) + positions(t, self.embed.embedding_dim, z.device)
        h = (words + self.given(z)[:, :, None]).flatten(0, 1)
        mask = nn.Transformer.generate_square_subsequent_mask(t, device=z.device)
        return self.blocks(h, mask=mask, is_causal=True).unflatten(0, z.shape[:2])

    def begin(self, z: Float[Tensor, "N D"]) -> Any:
        return (torch.zeros(z.shape[0], 0, dtype=torch.int64, device=z.device),)

    def step(self, token: Int[Tensor, "N"], z: Float[Tensor, "N D"], state: Any) -> tuple[Float[Tensor, "N H"], Any]:
        read = torch.cat((state[0], token[:, None]), 1)  # sentences are short: all of it is read again
        return self.states(read, z[None])[0, :, -1], (read,)


def decoder_of(config: TextVAEConfig) -> LSTMDecoder | TransformerDecoder:
    """The decoder that the configuration names."""
    return LSTMDecoder(config) if config.network == "lstm" else TransformerDecoder(config)
