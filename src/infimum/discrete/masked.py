"""Masked diffusion: terms of its ELBO, by the number of masked tokens, by time, or by complements; over all tokens or by blocks."""

import math
import warnings
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from infimum.discrete.canvas import Canvas, canvas_of, cropped
from infimum.discrete.config import Form, MaskedDiffusionConfig
from infimum.discrete.masks import Masks, masks_of
from infimum.errors import UserError
from infimum.evidence import Draws, LatentModel, PathModel, event_sum
from infimum.nets.canvas_mlp import CanvasMLP
from infimum.nets.llada import Llada

__all__ = ["MaskedDiffusion"]

LARGEST = 2**24
"""Logits at a time."""


class MaskedDiffusion(PathModel):
    """Sequences that are generated from masks in random order, all tokens or block by block (2406.07524, 2406.03736, 2502.09992).

    log p(x) is that of the sampler that reveals one token at a time: log of the mean over orders of prod_k p(x_s(k) | x_s(<k)). The
    terms bound it from below; they are in nats a sequence. Samplers that choose places by confidence have no tractable
    likelihood, and this is no bound of theirs.

    Batches are tokens (B, L), or dicts of "tokens", "target" and "present": given tokens are never masked, and the target is then
    log p(target | given).

    Streams: "mask" (a number for each target position, in their order: padding and prompts change nothing).

    Args:
        config: `MaskedDiffusionConfig`.
        network: (tokens (N, L), present (N, L) or None where all are) to logits (N, L, at least the vocabulary); with methods
            ``features`` and ``head``, only what is scored goes through the head. None: `Llada` of the configuration's sizes. A
            checkpoint of the model cannot build another network again: save it by its own ``save_pretrained``.

    Raises:
        UserError: an embedding without a row for every token and the mask.
    """

    Config = MaskedDiffusionConfig
    ceiling = 0.0
    """log p(x) of tokens cannot exceed 0."""

    def __init__(self, config: MaskedDiffusionConfig, network: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        self.network = network_of(config) if network is None else network
        rows = getattr(getattr(network, "wte", None), "num_embeddings", config.size)
        if rows < config.size:
            raise UserError(
                f"mask id {config.mask} or vocabulary {config.vocabulary} >= {rows} rows of the embedding: pass mask_id, or a "
                "larger network"
            )
        self.describable = network is None or _builds(config, network)
        if config.form == "time" and not config.floor:
            warnings.warn(
                "terms by time have infinite variance: take form 'count', or a floor above 0 as published", stacklevel=2
            )

    @property
    def target(self) -> str:
        """What is bounded."""
        length = self.config.block_length
        return "log p(x), random order" + (f" in blocks of {length}" if length else "")

    @property
    def surrogate(self) -> str:
        """Why the terms are no bound, if they are none."""
        if self.config.form.startswith("rounded"):
            return "numbers of masks are rounded times"
        return f"times below {self.config.floor:g} are left out" if self.config.floor else ""

    def encode(self, x: Any) -> Canvas:
        """The canvas of a batch, without columns where no row has anything if the network's positions are relative.

        Raises:
            UserError: see `canvas_of`.
        """
        s = canvas_of(x, self.config.vocabulary, self.config.mask)
        return cropped(s) if getattr(self.network, "relative", False) else s

    def constant(self, x: Any, s: Canvas) -> Float[Tensor, "B"]:
        """None: 0."""
        return s.lengths.new_zeros(len(s.lengths), dtype=torch.float64)

    def lead_degree(self, x: Any) -> int | None:
        """By time, E[term | t] is a polynomial of degree L - 1; the others have steps."""
        if self.config.form != "time" or self.config.block_length is not None or self.config.floor:
            return None
        return int(self.encode(x).lengths.max()) - 1

    def terms(self, x: Any, s: Canvas, draws: Draws) -> Float[Tensor, "K B"]:
        """Weight times the sum of log-probabilities of the scored tokens."""
        masks = self.masks(s, draws)
        each = self.token_scores(s, masks)
        return masks.weight * event_sum(each, 1)

    def masks(self, s: Canvas, draws: Draws) -> Masks:
        """Masked canvases; a block is chosen in proportion to its tokens."""
        config = self.config
        return masks_of(s, draws, config.form, floor=config.floor, block_length=config.block_length)

    def token_scores(self, s: Canvas, masks: Masks) -> Float[Tensor, "K B L"]:
        """log p(x_i | masked canvas) of the scored tokens, 0 elsewhere."""
        k, b, length = masks.masked.shape
        tokens = s.tokens.expand(k, b, length)
        z = torch.where(masks.masked, self.config.mask, tokens).flatten(0, 1)
        present, scored = s.present.expand(k, b, length).flatten(0, 1), masks.scored.flatten(0, 1)
        found = self.log_probs(z, present, scored, tokens.flatten(0, 1)[scored])
        each = found.new_zeros(scored.shape).masked_scatter(scored, found)
        return each.view(k, b, length)

    def log_probs(
        self, z: Int[Tensor, "N L"], present: Bool[Tensor, "N L"], at: Bool[Tensor, "N L"], tokens: Int[Tensor, "M"]
    ) -> Float[Tensor, "M"]:
        """log p(token | z) at some positions, in their order, in float32 at least.

        Args:
            z: tokens and masks.
            present: see `Canvas`.
            at: which positions, M in all.
            tokens: one for each.
        """
        h, head = self.vectors(z, present, at)
        step = max(1, LARGEST // self.config.size)

        def some(h: Tensor, tokens: Tensor) -> Tensor:
            logits = self.of_data(head(h))
            return logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(1)

        if len(h) <= step:
            return some(h, tokens)
        save = torch.is_grad_enabled()
        return torch.cat(
            [
                checkpoint(some, a, b, use_reentrant=False) if save else some(a, b)
                for a, b in zip(h.split(step), tokens.split(step), strict=True)
            ]
        )

    def logits(
        self, z: Int[Tensor, "N L"], present: Bool[Tensor, "N L"], at: Bool[Tensor, "N L"]
    ) -> Float[Tensor, "M V"]:
        """Logits of the tokens of data at some positions, in their order; that of the mask is -inf."""
        h, head = self.vectors(z, present, at)
        return self.of_data(head(h))

    def of_data(self, logits: Float[Tensor, "M W"]) -> Float[Tensor, "M V"]:
        """Those of tokens of data among a network's logits, in float32 at least; that of the mask is -inf."""
        v, mask = self.config.vocabulary, self.config.mask
        if logits.shape[1] < v:
            raise UserError(f"the network gives {logits.shape[1]} logits for a vocabulary of {v}: one for each token")
        logits = logits[:, :v]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if mask >= v:
            return logits
        return logits.index_fill(1, torch.tensor([mask], device=logits.device), -math.inf)

    def in_form(self, form: Form, floor: float = 0.0) -> "MaskedDiffusion":
        """The same network with terms of another form, in the mode that it is in."""
        return MaskedDiffusion(replace(self.config, form=form, floor=floor), self.network).train(self.training)

    def unrolled(self, rows: int = 1024) -> LatentModel:
        """`RandomOrders` of this model: importance weights."""
        from infimum.discrete.orders import RandomOrders

        return RandomOrders(self, rows)

    def generate(self, draws: Draws) -> Float[Tensor, "K B L"]:
        """Sequences of the configuration's length from the distribution that the ELBO bounds: a token a step, in random order.

        Raises:
            UserError: the configuration has no length.
        """
        from infimum.discrete.samplers import fill

        if self.config.length is None:
            raise UserError("the model was built without a length: give its config one, or call fill(model, x, draws)")
        blank = torch.full((draws.shape[1], self.config.length), self.config.mask, device=draws.device)
        return fill(self, blank, draws, order="random", block_length=self.config.block_length).tokens.float()

    def vectors(
        self, z: Int[Tensor, "N L"], present: Bool[Tensor, "N L"], at: Bool[Tensor, "N L"]
    ) -> tuple[Float[Tensor, "M width"], Any]:
        """Vectors at some positions, in their order, and what makes a network's logits of them."""
        whole = None if bool(present.all()) else present
        split = hasattr(self.network, "features") and hasattr(self.network, "head")
        h = self.network.features(z, whole) if split else self.network(z, whole)  # type: ignore[operator]
        if self.config.logit_shift:
            h = shifted(h, present)
        return h[at], self.network.head if split else _same


def shifted(h: Float[Tensor, "N L width"], present: Bool[Tensor, "N L"]) -> Float[Tensor, "N L width"]:
    """Vectors of the position before; the first token of a text has none there and keeps its own."""
    first = present & (present.long().cumsum(1) == 1)
    return torch.where(first[..., None], h, torch.cat((h[:, :1], h[:, :-1]), 1))


def _same(h: Tensor) -> Tensor:
    return h


def network_of(config: MaskedDiffusionConfig) -> nn.Module:
    """The network of a configuration, newly initialised."""
    if config.network == "mlp":
        assert config.length is not None  # the configuration has seen to it
        return CanvasMLP(config.size, config.length, hidden=[config.width] * config.blocks)
    return Llada(
        config.size, width=config.width, blocks=config.blocks, heads=config.heads, hidden=config.hidden, theta=config.theta
    )  # fmt: skip


def _builds(config: MaskedDiffusionConfig, network: nn.Module) -> bool:
    """Whether a configuration gives back a network: all but its weights."""
    if type(network) not in (Llada, CanvasMLP):
        return False
    with torch.device("meta"):
        own = network_of(config)
    if type(own) is not type(network) or _settings(own) != _settings(network):
        return False
    mine, theirs = (
        {name: part.shape for name, part in each.state_dict(keep_vars=True).items()} for each in (own, network)
    )
    return mine == theirs


def _settings(network: nn.Module) -> tuple[Any, ...]:
    """What the shapes of weights do not tell."""
    return (network.theta, network.ln_f.eps, network.causal, network.size) if isinstance(network, Llada) else ()
