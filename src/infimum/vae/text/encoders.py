"""From word numbers to one vector a sentence; padding is never read."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from infimum.data.text import PAD
from infimum.vae.text.config import TextVAEConfig
from infimum.vae.text.position import positions

__all__ = ["LSTMEncoder", "TransformerEncoder", "encoder_of"]


class LSTMEncoder(nn.Module):
    """Word vectors, one LSTM, its last hidden state, a linear layer without bias (2211.00321, official code)."""

    def __init__(self, config: TextVAEConfig, outputs: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(len(config.words), config.embedding)
        self.lstm = nn.LSTM(config.embedding, config.hidden, batch_first=True)
        self.out = nn.Linear(config.hidden, outputs, bias=False)

    def forward(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B outputs"]:
        """Packed: the state after the last token of each sentence, whatever the padding behind it."""
        lengths = (ids != PAD).sum(1).clamp_min(1).cpu()
        packed = pack_padded_sequence(self.embed(ids), lengths, batch_first=True, enforce_sorted=False)
        _, (state, _) = self.lstm(packed)
        return self.out(state[-1])


class TransformerEncoder(nn.Module):
    """Pre-norm self-attention; the mean over the tokens."""

    def __init__(self, config: TextVAEConfig, outputs: int) -> None:
        super().__init__()
        width = config.hidden
        self.embed = nn.Embedding(len(config.words), width)
        layer = nn.TransformerEncoderLayer(
            width, config.heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, config.layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.out = nn.Linear(width, outputs, bias=False)

    def forward(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B outputs"]:
        """Padding is masked out of attention and of the mean."""
        real = ids != PAD
        real = torch.cat((torch.ones_like(real[:, :1]), real[:, 1:]), 1)  # an empty row is read as one pad
        h = self.embed(ids) + positions(ids.shape[1], self.embed.embedding_dim, ids.device)
        h = self.blocks(h, src_key_padding_mask=~real)
        return self.out((h * real[..., None]).sum(1) / real.sum(1, keepdim=True))


def encoder_of(config: TextVAEConfig, outputs: int) -> LSTMEncoder | TransformerEncoder:
    """The encoder that the configuration names."""
    return LSTMEncoder(config, outputs) if config.network == "lstm" else TransformerEncoder(config, outputs)
