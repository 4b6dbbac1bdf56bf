"""What every method of this room is a function of: log-probabilities of tokens under K masked canvases."""

import dataclasses
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from infimum.discrete import Canvas, MaskedDiffusion, Masks
from infimum.errors import UserError
from infimum.evidence import Draws

__all__ = ["TokenTable", "all_masks", "answered", "exact_table", "perturbed", "take", "token_table"]

LONGEST = 12
"""Tokens whose masks are all taken."""


class TokenTable(NamedTuple):
    """Scores of the tokens of B completions under K masks each, the draws first.

    Attributes:
        scores: log p(x_i | masked canvas, prompt) in nats at scored positions, 0 elsewhere.
        scored: which positions are.
        weight: of the sum of a draw's scores; on average over draws the weights of a position add up to 1.
        share: of a draw in an average; they sum to 1 over all draws of a plan.
        lengths: tokens of each completion.
    """

    scores: Float[Tensor, "K B L"]
    scored: Bool[Tensor, "K B L"]
    weight: Float[Tensor, "K B"]
    share: Float[Tensor, "K 1"]
    lengths: Int[Tensor, "B"]

    def detach(self) -> "TokenTable":
        """The same numbers without a graph."""
        return self._replace(scores=self.scores.detach())

    @property
    def terms(self) -> Float[Tensor, "K B"]:
        """Single-draw terms of the ELBO: weight times the sum of scores."""
        return self.weight.to(self.scores.dtype) * self.scores.sum(-1)


def token_table(policy: MaskedDiffusion, s: Canvas, draws: Draws, masks: Masks) -> TokenTable:
    """The table of some draws: one network call for each of (K, B)."""
    scores = policy.token_scores(s, masks)
    return TokenTable(scores, masks.scored, masks.weight, draws.log_share.exp(), s.lengths)


def take(s: Canvas, items: Int[Tensor, "b"] | Bool[Tensor, "B"]) -> Canvas:
    """Some rows of a canvas."""
    return Canvas(*(each[items] for each in s))


def answered(s: Canvas, tokens: Int[Tensor, "B L"], *, end: int | None, mask_id: int, hide: bool = True) -> Canvas:
    """The canvas of finished completions: scored up to the first end of text, which counts as a token.

    Args:
        s: what was to be filled in.
        tokens: what was written.
        end: token that ends a text; None: the whole canvas is the completion.
        mask_id: stands behind the end, always: it is seen as a mask and never scored (SPG).
        hide: False: what stands behind the end is scored too, as in LLaDA's fine-tuning.
    """
    if end is None or not hide:
        return s._replace(tokens=tokens)
    ends = (tokens == end) & s.target
    behind = (ends.long().cumsum(1) - ends.long() > 0) & s.target
    target = s.target & ~behind
    return Canvas(torch.where(behind, mask_id, tokens), target, s.present, s.rank * target, target.sum(1))


def perturbed(s: Canvas, draws: Draws, masks: Masks, share: float, also: Bool[Tensor, "K B L"] | None = None) -> Masks:
    """Also mask what is given, each token with a probability, without scoring it (d1, SPG). Stream: "prompt".

    Its numbers belong to the places of tokens in their text: padding changes nothing.

    Args:
        s: canvas.
        draws: of the masks.
        masks: what is masked already.
        share: the probability.
        also: written tokens that may be masked too, such as those of earlier blocks.

    Raises:
        UserError: a share outside of 0 to 1.
    """
    if not 0 <= share <= 1:
        raise UserError(f"a share of {share} of the prompt cannot be masked, expected 0 to 1")
    if not share:
        return masks
    u = dataclasses.replace(draws, dtype=torch.float64).uniform("prompt", s.tokens.shape[1])
    place = (s.present.long().cumsum(1) - 1).clamp_min(0)
    given = s.present & ~s.target
    may = given if also is None else given | also
    chosen = (u.gather(-1, place.expand(u.shape)) < share) & may & ~masks.masked
    return masks._replace(masked=masks.masked | chosen)


def all_masks(s: Canvas, block_length: int | None = None) -> tuple[Masks, Float[Tensor, "K 1"]]:
    """Every mask of completions of one length with its probability under the count form: averages are exact expectations.

    Raises:
        UserError: unlike lengths, or more than 12 tokens in a block.
    """
    n = int(s.lengths[0])
    block = min(block_length or n, n)
    if bool((s.lengths != n).any()) or block > LONGEST:
        raise UserError(
            f"all masks are taken of completions of one length and at most {LONGEST} tokens a block, got lengths "
            f"{sorted(set(s.lengths.tolist()))} and blocks of {block}: draw masks instead"
        )
    chosen, later, weight, share = (torch.cat(parts) for parts in zip(*_blocks(n, block, s.tokens.device), strict=True))
    at = s.rank.expand(len(chosen), *s.rank.shape)
    scored = chosen[torch.arange(len(chosen), device=at.device)[:, None, None], at] & s.target
    behind = later[torch.arange(len(chosen), device=at.device)[:, None, None], at] & s.target
    return Masks(scored | behind, scored, weight[:, None].expand(-1, len(s.lengths))), share[:, None]


def exact_table(policy: MaskedDiffusion, s: Canvas, block_length: int | None = None) -> TokenTable:
    """The table of all masks: `elbo_of` and `eubo_of` of it are exact expectations. 2^L network calls an item and block.

    Raises:
        UserError: see `all_masks`.
    """
    masks, share = all_masks(s, block_length)
    return TokenTable(policy.token_scores(s, masks), masks.scored, masks.weight, share, s.lengths)


def _blocks(n: int, block: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    place = torch.arange(n, device=device)
    for first in range(0, n, block):
        size = min(block, n - first)
        bits = ((torch.arange(1, 2**size, device=device)[:, None] >> torch.arange(size, device=device)) & 1).bool()
        chosen = torch.zeros(len(bits), n, dtype=torch.bool, device=device)
        chosen[:, first : first + size] = bits
        members = bits.sum(1)
        ways = torch.tensor([math.comb(size, k) for k in range(size + 1)], dtype=torch.float64, device=device)
        share = size / n / (size * ways[members])  # a block, a number, a set
        yield chosen, (place >= first + size).expand(len(bits), -1), n / members.double(), share
