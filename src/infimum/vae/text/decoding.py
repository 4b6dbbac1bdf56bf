"""Sentences from latents: word by word by sampling, the likeliest word each time, or a beam of sentences."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from infimum.data.text import END, PAD
from infimum.errors import UserError
from infimum.vae.text.decoders import START

if TYPE_CHECKING:
    from infimum.vae.text.model import TextVAE

__all__ = ["beam_words", "greedy_words", "sample_words"]


@torch.no_grad()
def _words(
    model: "TextVAE", z: Float[Tensor, "N D"], choose: Callable[[Float[Tensor, "N W"], int], Int[Tensor, "N"]]
) -> Int[Tensor, "N T"]:
    """Rows of word numbers; ``choose`` takes logits over words 1 .. V - 1 and a position, and gives a word number."""
    n, length = z.shape[0], model.config.length
    rows = torch.full((n, length), PAD, dtype=torch.int64, device=z.device)
    token, state = torch.full((n,), START, dtype=torch.int64, device=z.device), model.decoder.begin(z)
    alive = torch.ones(n, dtype=torch.bool, device=z.device)
    for t in range(length - 1):
        h, state = model.decoder.step(token, z, state)
        token = torch.where(alive, choose(model.decoder.logits(h, z), t), PAD)
        rows[:, t] = token
        alive &= token != END
        if not bool(alive.any()):
            return rows
    rows[alive, length - 1] = END
    return rows


def greedy_words(model: "TextVAE", z: Float[Tensor, "N D"]) -> Int[Tensor, "N T"]:
    """The likeliest next word, each time."""
    return _words(model, z, lambda logits, _: logits.argmax(-1) + 1)


def sample_words(
    model: "TextVAE", z: Float[Tensor, "N D"], u: Float[Tensor, "N T"], *, temperature: float = 1.0
) -> Int[Tensor, "N T"]:
    """x from p(x | z), by the inverse distribution function of each word at the given uniform numbers.

    Args:
        temperature: divides the logits; other than 1 it is not p(x | z).

    Raises:
        UserError: a temperature that is not positive.
    """
    if not temperature > 0:
        raise UserError(f"temperature is {temperature}, expected a positive number: use greedy_words for the limit 0")

    def choose(logits: Tensor, t: int) -> Tensor:
        upper = (logits.double() / temperature).softmax(-1).cumsum(-1)
        return torch.searchsorted(upper, u[:, t, None].double() * upper[:, -1:], right=True)[:, 0].clamp_max(
            upper.shape[-1] - 1
        ) + 1  # fmt: skip

    return _words(model, z, choose)


@torch.no_grad()
def beam_words(
    model: "TextVAE", z: Float[Tensor, "N D"], width: int = 5
) -> tuple[Int[Tensor, "N T"], Float[Tensor, "N"]]:
    """The best sentence that a beam finds, and its log p(x | z) in nats; a width of 1 is greedy.

    Raises:
        UserError: a width below 1.
    """
    if width < 1:
        raise UserError(f"a beam is at least 1 sentence wide, got {width}")
    n, length = z.shape[0], model.config.length
    device, rows_of = z.device, torch.arange(n, device=z.device)[:, None]
    rows = torch.full((n, width, length), PAD, dtype=torch.int64, device=device)
    score = torch.full((n, width), -torch.inf, device=device)
    score[:, 0] = 0.0  # all beams begin alike: one of them counts
    wide = z.repeat_interleave(width, 0)
    token, state = torch.full((n * width,), START, dtype=torch.int64, device=device), model.decoder.begin(wide)
    ended = torch.zeros(n, width, dtype=torch.bool, device=device)
    for t in range(length - 1):
        h, state = model.decoder.step(token, wide, state)
        nats = model.decoder.logits(h, wide).log_softmax(-1).unflatten(0, (n, width))
        # an ended sentence goes on as itself alone: with word "end", at no cost
        stay = torch.full_like(nats, -torch.inf)
        stay[..., END - 1] = 0.0
        nats = torch.where(ended[..., None], stay, nats)
        score, at = (score[..., None] + nats).flatten(1).topk(width, dim=1)
        parent, word = at // nats.shape[-1], at % nats.shape[-1] + 1
        was = ended.gather(1, parent)
        rows = rows.gather(1, parent[..., None].expand(-1, -1, length))
        rows[..., t] = torch.where(was, PAD, word)
        ended = was | (word == END)
        chosen = (rows_of * width + parent).flatten()
        state = tuple(part[chosen] for part in state)
        token = rows[..., t].flatten()
        if bool(ended.all()):
            break
    rows[..., length - 1] = torch.where(ended, PAD, END)
    best = score.argmax(1)
    return rows[rows_of[:, 0], best], score[rows_of[:, 0], best]
