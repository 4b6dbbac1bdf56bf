"""The transformer of LLaDA: a Llama-like stack without a causal mask (2502.09992), its weights named as in the checkpoints."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from infimum.errors import UserError

__all__ = ["Kept", "Llada"]


def _rotary(length: int, size: int, theta: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines (length, size) in float32 at least: in less, neighbouring positions of long texts fall together."""
    wide: Any = {"device": like.device, "dtype": torch.promote_types(like.dtype, torch.float32)}
    rate = theta ** (-torch.arange(0, size, 2, **wide) / size)
    angle = torch.arange(length, **wide)[:, None] * rate
    return torch.cat((angle, angle), -1).cos(), torch.cat((angle, angle), -1).sin()


def _turned(h: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = h.chunk(2, -1)
    return (h * cos + torch.cat((-second, first), -1) * sin).to(h.dtype)  # cos and sin are wider, and so is the sum


@dataclass
class Kept:
    """Keys and values of a block for all columns of some canvases, of which a window is computed anew."""

    first: int = 0
    keys: Tensor | None = None
    values: Tensor | None = None

    def joined(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Those of all columns: the first time as they come, afterwards with the window's in their place."""
        if self.keys is None or self.values is None:
            self.keys, self.values = k, v
        else:
            window = slice(self.first, self.first + k.shape[2])
            self.keys[:, :, window], self.values[:, :, window] = k, v
        return self.keys, self.values


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, kv_heads: int, hidden: int, eps: float) -> None:
        super().__init__()
        self.heads, self.kv_heads = heads, kv_heads
        small = width // heads * kv_heads
        self.attn_norm, self.ff_norm = nn.RMSNorm(width, eps), nn.RMSNorm(width, eps)
        self.q_proj, self.attn_out = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.k_proj, self.v_proj = nn.Linear(width, small, bias=False), nn.Linear(width, small, bias=False)
        self.ff_proj, self.up_proj = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.ff_out = nn.Linear(hidden, width, bias=False)

    def forward(
        self, h: Tensor, cos: Tensor, sin: Tensor, seen: Tensor | None, causal: bool, kept: "Kept | None" = None
    ) -> Tensor:
        inner = self.attn_norm(h)
        q = self.q_proj(inner).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = (p(inner).unflatten(-1, (self.kv_heads, -1)).transpose(1, 2) for p in (self.k_proj, self.v_proj))
        q, k = _turned(q, cos, sin), _turned(k, cos, sin)
        if kept is not None:
            k, v = kept.joined(k, v)
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=seen, is_causal=causal and seen is None, enable_gqa=self.kv_heads != self.heads
        )
        h = h + self.attn_out(mixed.transpose(1, 2).flatten(2))
        inner = self.ff_norm(h)
        return h + self.ff_out(F.silu(self.ff_proj(inner)) * self.up_proj(inner))


class Llada(nn.Module):
    """Tokens to logits of every position: rotary positions, RMS norms, SwiGLU, no biases; attention to all tokens that are present.

    Args:
        vocabulary: tokens, the mask among them (LLaDA-8B: 126,464).
        width: of the tokens' vectors, which ``heads`` divides into even parts (4,096).
        blocks: how many (32).
        heads: of the attention (32).
        kv_heads: of keys and values; None: as many.
        hidden: of the feed-forward part; None: 8/3 of the width, rounded up to a multiple of 8 (12,288).
        theta: base of the rotary positions (500,000).
        eps: of the norms.
        causal: attend to earlier tokens only: an autoregressive twin of equal size.
        remember: False: recompute every block in the backward pass instead of keeping its activations.
        longest: tokens of the longest sequence; None: any.

    Raises:
        UserError: sizes that do not divide one another.
    """

    relative = True
    """Columns of padding at either end may be left out."""

    def __init__(
        self,
        vocabulary: int,
        *,
        width: int = 128,
        blocks: int = 2,
        heads: int = 4,
        kv_heads: int | None = None,
        hidden: int | None = None,
        theta: float = 500_000.0,
        eps: float = 1e-5,
        causal: bool = False,
        remember: bool = True,
        longest: int | None = None,
    ) -> None:
        super().__init__()
        kv_heads = heads if kv_heads is None else kv_heads
        hidden = -(-width * 8 // 24) * 8 if hidden is None else hidden
        if min(vocabulary, width, blocks, heads, kv_heads, hidden) < 1 or width % (2 * heads) or heads % kv_heads:
            raise UserError(
                "a transformer needs a token, a block, a head, a width that twice its heads divide and key heads that divide the "
                f"heads, got vocabulary {vocabulary}, width {width}, {blocks} blocks, {heads} heads and {kv_heads} key heads"
            )
        self.size, self.theta, self.causal, self.remember = width // heads, theta, causal, remember
        self.longest = longest
        self.wte = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(_Block(width, heads, kv_heads, hidden, eps) for _ in range(blocks))
        self.ln_f = nn.RMSNorm(width, eps)
        self.ff_out = nn.Linear(width, vocabulary, bias=False)
        for name, weight in self.named_parameters():
            if weight.ndim > 1:  # 1907.11692's spread; layers that write into the residual start smaller with depth
                deep = name.endswith(("attn_out.weight", "ff_out.weight")) and name.startswith("blocks")
                nn.init.normal_(weight, std=0.02 / (2 * blocks) ** 0.5 if deep else 0.02)

    def features(self, z: Int[Tensor, "N L"], present: Bool[Tensor, "N L"] | None = None) -> Float[Tensor, "N L width"]:
        """The vectors that `head` turns into logits.

        Args:
            z: tokens.
            present: which positions exist; nothing attends to the others. None: all. Positions are relative: padding on the left
                changes nothing.

        Raises:
            UserError: more tokens than ``longest``.
        """
        self._check(z.shape[1], present)
        h, length = self.wte(z), z.shape[1]
        cos, sin = _rotary(length, self.size, self.theta, h)
        seen = None
        if present is not None and not bool(present.all()):
            seen = present[:, None, None]
            if self.causal:
                seen = seen & torch.ones(length, length, dtype=torch.bool, device=z.device).tril()
            # a row that sees nothing would be NaN: padding sees itself
            seen = seen | torch.eye(length, dtype=torch.bool, device=z.device)
        for block in self.blocks:
            if self.remember or not torch.is_grad_enabled():
                h = block(h, cos, sin, seen, self.causal)
            else:
                h = checkpoint(block, h, cos, sin, seen, self.causal, use_reentrant=False)
        return self.ln_f(h)

    @torch.no_grad()
    def windowed(
        self, z: Int[Tensor, "N W"], present: Bool[Tensor, "N L"] | None, kept: list[Kept], first: int
    ) -> Float[Tensor, "N W width"]:
        """`features` of columns ``first`` to ``first`` + W, with keys and values of the others as they were last computed.

        What the others would see of a change in the window is left out: with one block this is exact, with more it is not
        (Fast-dLLM, 2505.22618).

        Args:
            z: tokens of these columns; of all the first time.
            present: see `features`, of all columns.
            kept: of the same canvases, `Kept()` for each block the first time; changed in place.
            first: column of the first of them.

        Raises:
            UserError: more tokens than ``longest``.
        """
        h = self.wte(z)
        length = z.shape[1] if kept[0].keys is None else kept[0].keys.shape[2]
        self._check(length, present)
        cos, sin = (each[first : first + z.shape[1]] for each in _rotary(length, self.size, self.theta, h))
        seen = None
        if present is not None and not bool(present.all()):
            own = torch.eye(length, dtype=torch.bool, device=z.device)[first : first + z.shape[1]]
            seen = present[:, None, None] | own
        for block, one in zip(self.blocks, kept, strict=True):
            one.first = first
            h = block(h, cos, sin, seen, False, one)
        return self.ln_f(h)

    def head(self, h: Float[Tensor, "*n width"]) -> Float[Tensor, "*n vocabulary"]:
        """Logits."""
        return self.ff_out(h)

    def forward(
        self, z: Int[Tensor, "N L"], present: Bool[Tensor, "N L"] | None = None
    ) -> Float[Tensor, "N L vocabulary"]:
        """Logits of every position."""
        return self.head(self.features(z, present))

    def _check(self, length: int, present: Tensor | None) -> None:
        """Padding does not count: a row may be wider than the text in it."""
        if self.longest is None or length <= self.longest:
            return
        most = length if present is None else int(present.sum(1).max())
        if most > self.longest:
            raise UserError(f"a sequence of {most} tokens is longer than the model's {self.longest}: shorten it")
