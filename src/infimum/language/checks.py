"""Whether the mask of a model is its mask: a wrong one is no error anywhere, it only makes every number worse."""

import math
import warnings
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from infimum.errors import UserError
from infimum.language.tokens import encoded

__all__ = ["check_mask", "mask_entropies", "shared"]

SENTENCE = (
    "The train left the station at nine in the morning, and by the time we reached the coast the rain had stopped, the sky was "
    "clear, and the children were already asking when they could go down to the water."
)
"""Text of the check."""

FEW = 8
"""Kinds of tokens below which a tokenizer does not know the language of the sentence."""

UNTRAINED = 0.98
"""Share of log V, the largest entropy, above which predictions on text are those of a network that has learnt nothing."""

MARGIN = 0.1
"""Nats by which masks are less certain than text: less is noise."""


def shared(mask_id: int, *special: object) -> bool:
    """Whether the mask is one of the other special tokens, each of them a number, several numbers, or None."""
    return any(mask_id in ids if isinstance(ids, (list, tuple)) else mask_id == ids for ids in special)


@torch.no_grad()
def mask_entropies(
    network: Callable[[Tensor], Tensor], tokens: Int[Tensor, "N L"], mask_id: int
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean entropies in nats of the predictions on masks alone and on text: with the right mask the first is larger.

    Args:
        network: tokens to logits (N, L, V).
        tokens: a text.
        mask_id: the mask.
    """
    found = []
    for z in (torch.full_like(tokens, mask_id), tokens):
        log_p = network(z).float().log_softmax(-1)
        found.append(-(log_p.exp() * log_p).sum(-1).mean())
    return found[0], found[1]


def check_mask(
    network: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase | None,
    mask_id: int,
    vocabulary: int,
    *,
    name: str,
    longest: int | None = None,
) -> bool | None:
    """Warn if a model is no less sure of masks than of an English sentence: so it is of a token that is no mask.

    Nothing is said without a tokenizer, where the tokenizer knows too few of the sentence's words or cannot read it, or where the
    predictions on text are all but uniform, as those of random weights. A network that was converted and not yet trained may be
    warned of.

    Args:
        network: tokens to logits.
        tokenizer: of the model.
        mask_id: the mask.
        vocabulary: tokens of data.
        name: of the model, for the warning.
        longest: tokens that the model takes.

    Returns:
        whether the mask passed; None: not checked.
    """
    if tokenizer is None:
        return None
    try:
        ids = encoded(tokenizer, SENTENCE)[:longest]
    except UserError:  # it does not know the language
        return None
    if len(set(ids)) < FEW or mask_id in ids or max(ids) >= vocabulary:
        return None
    tokens = torch.tensor([ids], device=next(network.parameters()).device)
    masks, text = map(float, mask_entropies(network, tokens, mask_id))
    if text > UNTRAINED * math.log(vocabulary):
        return None
    if masks > text + MARGIN:
        return True
    warnings.warn(
        f"{name}: predictions on a canvas of mask id {mask_id} have an entropy of {masks:.3g} nats and on English text {text:.3g}, "
        "and a mask predictor knows less of masks: the mask id is wrong, or the model is not trained to predict masks",
        stacklevel=3,
    )
    return False
