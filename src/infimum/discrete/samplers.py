"""Filling in masks: the reverse process, or the most confident places first, all at once or block by block."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from infimum.discrete.caches import Cache, Window, check_cache
from infimum.discrete.canvas import Canvas, canvas_of, uniforms
from infimum.discrete.config import MaskedDiffusionConfig
from infimum.discrete.masked import LARGEST, MaskedDiffusion
from infimum.errors import UserError
from infimum.evidence import Draws

__all__ = ["ORDERS", "Filled", "Order", "fill"]

Order = Literal["ancestral", "random", "confidence", "threshold"]
ORDERS: tuple[Order, ...] = get_args(Order)


class Filled(NamedTuple):
    """Sequences, and what they cost.

    Attributes:
        tokens: (K, B, L), without masks.
        steps: network calls for the whole batch, one after the other.
        calls: canvases that went through the network.
        positions: columns of canvases that did: fewer than calls times L with a cache.
    """

    tokens: Int[Tensor, "K B L"]
    steps: int
    calls: int
    positions: int


@torch.no_grad()
def fill(
    model: MaskedDiffusion,
    x: Any,
    draws: Draws,
    *,
    order: Order = "confidence",
    steps: int | None = None,
    block_length: int | None = None,
    temperature: float = 1.0,
    guidance: float = 0.0,
    threshold: float = 0.9,
    forbidden: Sequence[int] = (),
    last: Sequence[int] = (),
    cache: Cache = "none",
    rows: int = 256,
) -> Filled:
    """Tokens for the target positions of every item, K times. A token that is once written stays.

    Only "random" with a token a step at temperature 1, by the blocks of the model (and, in the limit of many steps, "ancestral"),
    draws from the distribution whose likelihood `MaskedDiffusion` bounds.

    Args:
        model: in eval mode.
        x: see `MaskedDiffusion`; what stands at target positions is ignored. `completions` makes it of prompts.
        draws: K draws of B items. Streams: "token/b/i" and "place/b/i" of step i of block b, a number for each target position.
        order: "ancestral": steps of the reverse process at even times, where each mask is replaced with probability (t - s) / t
            (2406.07524); "random": a fixed number of places a step, at random; "confidence": those where the chosen token is most
            probable (LLaDA, 2502.09992); "threshold": all that are more probable than ``threshold``, at least one (2505.22618).
        steps: of all blocks together ("threshold": none, it takes as many as it needs); None: one a token of the longest item.
        block_length: tokens of a block; blocks are filled from the left to the right. None: that of the model, or all at once.
        temperature: tokens are drawn from p^(1/temperature), in float64; 0: the most probable one. Confidence is that of p.
        guidance: s of u + (s + 1) (c - u), u the logits with everything given masked (LLaDA); 0: none.
        threshold: of the order "threshold".
        forbidden: tokens that are never written.
        last: tokens that are written where nothing else is left, such as the end of the text ("confidence", "threshold").
        cache: keys and values that are kept while a block is filled and computed anew for the next one ("confidence", "threshold";
            Fast-dLLM, 2505.22618): "prefix": of what stands left of the block; "dual": of what stands right of it, too. Faster,
            and not exact: what is kept does not see the tokens of the block that have been written since.
        rows: canvases at a time.

    Raises:
        UserError: an unknown order, a negative temperature or guidance, steps that the blocks do not divide or that exceed the
            tokens, nothing that may be written, or a cache for an order or a network that has none.
    """
    if block_length is not None and block_length < 1:
        raise UserError(f"block_length is {block_length}, expected at least 1 token, or None for all at once")
    s = canvas_of(x, model.config.vocabulary, model.config.mask, filled=False)
    longest = int(s.lengths.max())
    block = min(block_length or model.config.block_length or longest, longest)
    plan = _Rule(
        order, block, -(-longest // block), temperature, guidance, threshold, tuple(forbidden), tuple(last), cache
    )
    total = _check(plan, None if order == "threshold" else steps, longest, model.config)
    if draws.shape[1] != len(s.lengths):
        raise UserError(
            f"the draws are for {draws.shape[1]} items and the batch has {len(s.lengths)}: give one key an item"
        )
    if cache != "none":
        check_cache(model, s)
    columns, most, calls, positions = [], 0, 0, 0
    for items in torch.arange(len(s.lengths), device=s.tokens.device).split(max(1, rows)):
        part = Canvas(*(each[items] for each in s))
        lines = [_run(model, part, some, plan, total) for some in draws.take(items).chunks(max(1, rows))]
        columns.append(torch.cat([line.tokens for line in lines]))
        most = max(most, *(line.steps for line in lines))
        calls += sum(line.calls for line in lines)
        positions += sum(line.positions for line in lines)
    return Filled(torch.cat(columns, 1), most, calls, positions)


@dataclass(frozen=True)
class _Rule:
    order: Order
    block: int
    blocks: int
    temperature: float
    guidance: float
    threshold: float
    forbidden: tuple[int, ...]
    last: tuple[int, ...]
    cache: Cache


def _check(plan: _Rule, steps: int | None, longest: int, config: MaskedDiffusionConfig) -> int:
    """Steps of a block."""
    vocabulary = config.vocabulary
    if plan.order not in ORDERS:
        raise UserError(f"no order {plan.order!r}: choose one of {', '.join(ORDERS)}")
    if plan.cache not in get_args(Cache) or (plan.cache != "none" and plan.order not in ("confidence", "threshold")):
        raise UserError(
            f"no cache {plan.cache!r} for order {plan.order!r}: choose none, or prefix or dual with confidence or threshold"
        )
    if not (0 <= plan.temperature < math.inf and 0 <= plan.guidance < math.inf):
        raise UserError(
            f"temperature is {plan.temperature} and guidance {plan.guidance}, expected finite and at least 0"
        )
    if not all(0 <= token < vocabulary for token in (*plan.forbidden, *plan.last)):
        raise UserError(f"tokens {(*plan.forbidden, *plan.last)} are not all in the vocabulary 0 .. {vocabulary - 1}")
    if not 0 <= plan.threshold < math.inf:
        raise UserError(f"threshold is {plan.threshold}, expected a probability, or 1 for a token a step")
    if not set(range(vocabulary)) - set(plan.forbidden) - {config.mask}:
        raise UserError("every token of the vocabulary is forbidden, and nothing is left to be written")
    if steps is None:
        return plan.block
    below = max(0, steps // plan.blocks * plan.blocks)
    if steps < 1 or steps % plan.blocks:
        above = below + plan.blocks
        fits = [n for n in (below, above) if n and (n <= longest or plan.order == "ancestral")]
        near = " or ".join(map(str, fits)) or f"{plan.blocks}, or other blocks"
        raise UserError(f"{steps} steps do not divide among {plan.blocks} blocks of {plan.block} tokens: take {near}")
    if plan.order != "ancestral" and steps > longest:
        raise UserError(f"{steps} steps for {longest} tokens: every step writes one at least, take {longest} or fewer")
    return steps // plan.blocks


def _run(model: MaskedDiffusion, s: Canvas, draws: Draws, plan: _Rule, steps: int) -> Filled:
    """All draws of all items at once, at the same step of the same block."""
    k = draws.shape[0]
    target, present, rank, tokens = (each.repeat(k, 1) for each in (s.target, s.present, s.rank, s.tokens))
    belongs = rank // plan.block
    z = torch.where(target, model.config.mask, tokens)

    def numbers(name: str) -> Tensor:
        return uniforms(s, draws, name).flatten(0, 1)

    made = calls = positions = 0
    for block in range(plan.blocks):
        inside = target & (belongs == block)
        size, step = inside.sum(1), 0
        predict = _Predictor(model, plan, target, present, inside)
        while bool((still := z.eq(model.config.mask) & inside).any()):
            # where places do not depend on predictions, only those that are written need any
            if plan.order in ("ancestral", "random"):
                write = _places(plan, still, size, step, steps, numbers(f"place/{block}/{step}"))
            else:
                write = still
            rows = write.any(1)
            if bool(rows.any()):
                chosen, sure = predict(z, write, rows, numbers(f"token/{block}/{step}")[write])
                if plan.order in ("confidence", "threshold"):
                    confidence = torch.full(z.shape, -math.inf, dtype=sure.dtype, device=z.device).masked_scatter(
                        write, sure
                    )
                    written = z.masked_scatter(write, chosen)
                    write = _surest(plan, confidence, size, step, steps) & write
                    z = torch.where(write, written, z)
                else:
                    z = z.masked_scatter(write, chosen)
                made, calls = made + 1, calls + int(rows.sum()) * (2 if plan.guidance else 1)
            step += 1
        positions += predict.positions
    return Filled(z.view(k, -1, z.shape[1]), made, calls, positions)


def _quota(size: Int[Tensor, "N"], step: int, steps: int) -> Int[Tensor, "N 1"]:
    """Places of a step: as many in each, the first ones take the rest (LLaDA)."""
    return (size // steps + (step < size % steps).long())[:, None]


def _places(
    plan: _Rule, still: Bool[Tensor, "N L"], size: Int[Tensor, "N"], step: int, steps: int, u: Float[Tensor, "N L"]
) -> Bool[Tensor, "N L"]:
    """Places by the reverse process, or so many at random."""
    if plan.order == "ancestral":  # from t = 1 - step / steps: (t - s) / t
        return still & (u < 1 / (steps - step)) if step < steps - 1 else still
    return still & (torch.where(still, u, 2.0).argsort(1).argsort(1) < _quota(size, step, steps))


def _surest(
    plan: _Rule, confidence: Float[Tensor, "N L"], size: Int[Tensor, "N"], step: int, steps: int
) -> Bool[Tensor, "N L"]:
    """The most confident places, or all above the threshold and at least one."""
    place = confidence.argsort(dim=1, descending=True, stable=True).argsort(1)
    if plan.order == "threshold":
        return (confidence > plan.threshold) | (place == 0)
    return place < _quota(size, step, steps)


class _Predictor:
    """What stands at a block's places, by the network, with guidance and without what is forbidden; and what that cost."""

    def __init__(self, model: MaskedDiffusion, plan: _Rule, target: Tensor, present: Tensor, inside: Tensor) -> None:
        self.model, self.plan, self.target, self.present, self.positions = model, plan, target, present, 0
        self.windows: list[Window] = []
        if plan.cache != "none" and bool(inside.any()):
            columns = inside.any(0).nonzero()[:, 0]
            ends = int(columns[0]), int(columns[-1]) + 1
            self.windows = [Window(model, plan.cache, *ends) for _ in range(2 if plan.guidance else 1)]

    def __call__(
        self, z: Int[Tensor, "N L"], write: Bool[Tensor, "N L"], rows: Bool[Tensor, "N"], u: Float[Tensor, "M"]
    ) -> tuple[Int[Tensor, "M"], Float[Tensor, "M"]]:
        """A token for every place and its probability, in float64 (less precision lowers the temperature, 2409.02908).

        Args:
            z: all canvases.
            write: places, M in all.
            rows: canvases with places.
            u: a number for each place.
        """
        z, number = z[rows], rows.nonzero()[:, 0]
        (h, head), without = self._of(0, z, write, rows, number), None
        if self.plan.guidance:
            blank = torch.where(self.target[rows] | ~self.present[rows], z, self.model.config.mask)
            without = self._of(1, blank, write, rows, number)[0]
        found = [
            _tokens(self._logits(head, h[some], None if without is None else without[some]), u[some], self.plan)
            for some in torch.arange(len(h), device=h.device).split(max(1, LARGEST // self.model.config.size))
        ]
        tokens, sure = zip(*found, strict=True)
        return torch.cat(tokens), torch.cat(sure)

    def _of(self, which: int, z: Tensor, write: Tensor, rows: Tensor, number: Tensor) -> tuple[Tensor, Any]:
        if self.windows:
            h, width = self.windows[which].vectors(z, self.present[rows], write[rows], number)
            head = self.model.network.head
        else:
            (h, head), width = self.model.vectors(z, self.present[rows], write[rows]), z.shape[1]
        self.positions += len(z) * width
        return h, head

    def _logits(self, head: Any, h: Tensor, without: Tensor | None) -> Float[Tensor, "m V"]:
        logits = self.model.of_data(head(h)).double()
        if without is not None:
            blank = self.model.of_data(head(without)).double()
            logits = torch.where(logits > -math.inf, blank + (self.plan.guidance + 1) * (logits - blank), -math.inf)
        if bool(logits.isnan().any()):
            raise UserError("the network's logits are NaN: nothing can be written, check its weights and its precision")
        if self.plan.forbidden:
            logits = logits.index_fill(1, torch.tensor(self.plan.forbidden, device=logits.device), -math.inf)
        return logits


def _tokens(
    logits: Float[Tensor, "M V"], u: Float[Tensor, "M"], plan: _Rule
) -> tuple[Int[Tensor, "M"], Float[Tensor, "M"]]:
    """A token for every place, by its number u, and its probability without temperature."""
    best = logits.amax(1, keepdim=True)  # less it, the largest stays finite at any temperature
    if plan.temperature == 0:
        token = logits.argmax(1)
    else:
        upper = ((logits - best) / plan.temperature).exp_().cumsum(1)
        token = torch.searchsorted(upper, (u * upper[:, -1])[:, None], right=True)[:, 0]
        beyond = token == logits.shape[1]
        if bool(beyond.any()):  # rounding: the last token that has a share
            token[beyond] = (upper[beyond] < upper[beyond, -1:]).sum(1)
    sure = (logits.gather(1, token[:, None]) - logits.logsumexp(1, keepdim=True))[:, 0].exp()
    if plan.last:
        # below every probability, and still a place that may be written
        sure = torch.where(torch.isin(token, torch.tensor(plan.last, device=u.device)), sure - 2, sure)
    return token, sure
