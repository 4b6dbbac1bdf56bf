"""A checkpoint with sequential latents: a hidden Markov model over rows of whole numbers, registered by the test."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from infimum.evidence import Draws


@dataclass(frozen=True)
class TinyChainConfig:
    """States S, symbols V."""

    states: int = 3
    symbols: int = 4


class TinyChain(nn.Module):
    """Transition and emission logits as parameters; the prior's moves as proposal; exact evidence by the forward algorithm."""

    Config = TinyChainConfig
    ceiling = 0.0

    def __init__(self, config: TinyChainConfig) -> None:
        super().__init__()
        self.config = config
        generator = torch.Generator().manual_seed(1)
        self.move = nn.Parameter(2 * torch.randn(config.states, config.states, generator=generator))
        self.emit = nn.Parameter(2 * torch.randn(config.states, config.symbols, generator=generator))

    def exact(self, x: Tensor) -> Tensor:
        move, emit = self.move.double().log_softmax(-1), self.emit.double().log_softmax(-1).T[x.long()]
        forward = emit[:, 0] + move[0]
        for t in range(1, x.shape[1]):
            forward = (forward[..., None] + move).logsumexp(-2) + emit[:, t]
        return forward.logsumexp(-1)

    def encode(self, x: Tensor) -> Tensor:
        return x

    def steps(self, s: Tensor) -> int:
        return s.shape[1]

    def initial(self, s: Tensor, draws: Draws) -> Tensor:
        return self._draw(self.move[0].expand(*draws.shape, -1), draws)

    def transition(self, s: Tensor, t: int, before: Tensor, draws: Draws) -> Tensor:
        return self._draw(self.move[before], draws)

    def log_increment(self, s: Tensor, t: int, before: Tensor | None, state: Tensor) -> Tensor:
        return self.emit.log_softmax(-1)[state, s[:, t].long().expand(state.shape)]

    def _draw(self, logits: Tensor, draws: Draws) -> Tensor:
        upper = logits.softmax(-1).cumsum(-1)
        return (draws.uniform("z")[..., None] >= upper).sum(-1).clamp_max(self.config.states - 1)
