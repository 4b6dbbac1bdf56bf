"""Unrolled orders of a masked diffusion model: importance weights, where its terms are only bounds in expectation."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from infimum.discrete.canvas import Canvas, uniforms
from infimum.discrete.masked import MaskedDiffusion
from infimum.errors import UserError
from infimum.evidence import Draws, LatentModel

__all__ = ["RandomOrders"]


class RandomOrders(LatentModel):
    """log p(x) = log E[prod_k p(x_s(k) | x_s(<k))] over random orders s: a draw is an order and costs one network call a token.

    E exp(log-weight) = p(x), so that importance-weighted bounds, upper bounds and certificates hold, for the very distribution that
    `MaskedDiffusion` bounds. Latents are a time in (0, 1) for each target position; they are revealed in the order of their times,
    block by block where the model has blocks.

    Streams: "order" (a number for each target position, in their order).

    Args:
        model: what is unrolled.
        rows: canvases that go through the network at a time.
    """

    ceiling = 0.0

    def __init__(self, model: MaskedDiffusion, rows: int = 1024) -> None:
        super().__init__()
        if rows < 1:
            raise UserError(f"rows is {rows}, expected at least 1")
        self.model, self.rows = model, rows
        self.train(model.training)

    @property
    def target(self) -> str:
        """What is estimated."""
        return self.model.target

    def encode(self, x: Any) -> Canvas:
        """The canvas of a batch."""
        return self.model.encode(x)

    def sample(self, s: Canvas, draws: Draws) -> Float[Tensor, "K B L"]:
        """Times, uniform."""
        return uniforms(s, draws, "order")

    def log_proposal(self, s: Canvas, z: Float[Tensor, "K B L"]) -> Float[Tensor, "K B"]:
        """0: the density of uniform times, which is their prior."""
        return z.new_zeros(z.shape[:2])

    def log_joint(self, x: Any, z: Float[Tensor, "K B L"]) -> Float[Tensor, "K B"]:
        """Sum of the log-probabilities of the tokens, each given those that were revealed before."""
        s = self.model.encode(x)
        k, b = z.shape[:2]
        block = self.model.config.block_length
        late = (s.rank // block if block else torch.zeros_like(s.rank)) + z
        place = torch.where(s.target, late, torch.inf).argsort(-1).argsort(-1)  # when a position is revealed
        # canvas c of an item hides everything from its c-th token on, and scores that token
        times = s.lengths.repeat(k)
        pair = torch.arange(k * b, device=z.device).repeat_interleave(times)
        step = torch.arange(len(pair), device=z.device) - (times.cumsum(0) - times).repeat_interleave(times)
        place, found = place.flatten(0, 1), []
        for rows, c in zip(pair.split(self.rows), step.split(self.rows), strict=True):
            of, at = rows % b, place[rows]
            canvas = torch.where((at >= c[:, None]) & s.target[of], self.model.config.mask, s.tokens[of])
            now = (at == c[:, None]) & s.target[of]
            found.append(self.model.log_probs(canvas, s.present[of], now, s.tokens[of][now]))
        each = torch.cat(found).double()
        return each.new_zeros(k * b).index_add(0, pair, each).view(k, b)
