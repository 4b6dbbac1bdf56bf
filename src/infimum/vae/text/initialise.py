"""Starting values of the official code."""

import torch
from torch import nn

__all__ = ["initialise"]


@torch.no_grad()
def initialise(model: nn.Module) -> None:
    """Weights of linear layers and LSTMs uniform in +-0.01, word vectors in +-0.1 (2211.00321, official code)."""
    for part in model.modules():
        if isinstance(part, nn.Embedding):
            part.weight.uniform_(-0.1, 0.1)
        elif isinstance(part, nn.Linear | nn.LSTM):
            for parameter in part.parameters():
                parameter.uniform_(-0.01, 0.01)
