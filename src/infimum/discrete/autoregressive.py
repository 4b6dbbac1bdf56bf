"""The autoregressive twin of a masked diffusion model: the same transformer with a causal mask, and an exact likelihood."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from infimum.discrete.canvas import Canvas, canvas_of
from infimum.discrete.config import MaskedDiffusionConfig
from infimum.errors import UserError
from infimum.evidence import Draws, Estimate, closed_form, event_sum
from infimum.nets.llada import Llada

__all__ = ["Autoregressive"]


class Autoregressive(nn.Module):
    """log p(x) = sum over i of log p(x_i | x_<i), in one network call. The mask's number stands before the first token.

    Batches are those of `MaskedDiffusion`; given tokens stand before the targets.

    Args:
        config: that of the twin; its ``form``, ``floor``, ``block_length`` and ``logit_shift`` mean nothing here.
    """

    Config = MaskedDiffusionConfig
    ceiling = 0.0
    target = "log p(x)"

    def __init__(self, config: MaskedDiffusionConfig) -> None:
        super().__init__()
        self.config = config
        self.network = Llada(
            config.size, width=config.width, blocks=config.blocks, heads=config.heads, hidden=config.hidden,
            theta=config.theta, causal=True,
        )  # fmt: skip

    def encode(self, x: Any) -> Canvas:
        """The canvas of a batch."""
        return canvas_of(x, self.config.vocabulary, self.config.mask)

    def log_prob(self, x: Any) -> Float[Tensor, "B"]:
        """log p(x) in nats, with gradients.

        Raises:
            UserError: a given token behind a target.
        """
        s = self.encode(x)
        last = torch.arange(s.tokens.shape[1], device=s.tokens.device)
        if bool(
            (
                (s.present & ~s.target) & (last > torch.where(s.target, last, s.tokens.shape[1]).amin(1, keepdim=True))
            ).any()
        ):
            raise UserError("an autoregressive model has its given tokens before its targets: move them to the front")
        start = s.tokens.new_full((len(s.tokens), 1), self.config.mask)
        before = torch.cat((start, s.tokens[:, :-1]), 1)
        first = s.present & (s.present.long().cumsum(1) == 1)
        before = torch.where(first, self.config.mask, before)
        logits = self._of_data(self.network(before, None if bool(s.present.all()) else s.present))
        tokens = s.tokens.clamp(0, self.config.vocabulary - 1)
        each = logits.gather(-1, tokens[..., None])[..., 0] - logits.logsumexp(-1)
        return event_sum(torch.where(s.target, each, 0.0), 1)

    def log_evidence(self, x: Any, *, rows: int = 1024) -> Estimate:
        """log p(x) of every item, exact."""
        parts = x if isinstance(x, dict) else {"tokens": x}
        values = [
            self.log_prob({name: each[i : i + rows] for name, each in parts.items()})
            for i in range(0, len(parts["tokens"]), rows)
        ]
        return closed_form(torch.cat(values), name="autoregressive", target=self.target)

    @torch.no_grad()
    def generate(self, draws: Draws) -> Float[Tensor, "K B L"]:
        """Sequences of the configuration's length, token by token. Stream: "token/i".

        Raises:
            UserError: the configuration has no length.
        """
        k, b = draws.shape
        length = self.config.length
        if length is None:
            raise UserError("the model was built without a length: give its config one")
        z = torch.full((k * b, 1), self.config.mask, device=draws.device)
        for i in range(length):
            p = self._of_data(self.network.head(self.network.features(z)[:, -1])).double().softmax(-1)
            u = draws.uniform(f"token/{i}", 1).double().flatten()[:, None]
            upper = p.cumsum(-1)
            z = torch.cat((z, torch.searchsorted(upper, u * upper[:, -1:], right=True).clamp(max=p.shape[1] - 1)), 1)
        return z[:, 1:].view(k, b, length).float()

    def _of_data(self, logits: Float[Tensor, "*n W"]) -> Float[Tensor, "*n V"]:
        """In float32 at least; a mask that is a number of the vocabulary is never data."""
        v, mask = self.config.vocabulary, self.config.mask
        logits = logits[..., :v]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if mask >= v:
            return logits
        return logits.index_fill(-1, torch.tensor([mask], device=logits.device), -math.inf)
