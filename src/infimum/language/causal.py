"""A causal language model of transformers with attention to all tokens: the network of a mask predictor."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from infimum.errors import UserError
from infimum.language.tokens import short

__all__ = ["FullAttention"]

TAKE = "take a decoder with attention, such as Llama, Qwen or GPT-2"

TRIED = 5
"""Tokens of the text that padding must not change; as many stand beside it, more than a convolution of such a model reaches."""


class FullAttention(nn.Module):
    """(tokens, present) to logits of every position, each of which sees all tokens that are present.

    transformers takes a mask (N, 1, L, L) as it is, in every family and for layers with a sliding window too; that is what a
    call passes. Positions are counted from the first token that is present. Logits at a position predict the next token; those in
    front of a padded text are those of its first token, so that a shift by one gives what it gives without padding.

    Args:
        model: with a language-modelling head; set to attention "sdpa", in place.
        causal: see earlier tokens only, as the model did.
        remember: False: recompute every layer in the backward pass instead of keeping its activations, in evaluation mode too,
            where transformers' own switch does nothing; `gradient_checkpointing_enable` sets it.

    Raises:
        UserError: a model whose attention takes no such mask, that sees padding in spite of it (as layers with a state do), or
            whose logits are more than its head of its last vectors.
    """

    relative = True
    """Columns of padding change nothing."""

    def __init__(self, model: PreTrainedModel, *, causal: bool = False, remember: bool = True) -> None:
        super().__init__()
        self.model, self.causal, self.remember = model, causal, remember
        name = type(model).__name__
        training = model.training
        try:
            model.set_attn_implementation("sdpa")
            model.eval()
            self._try()
        except UserError:
            raise
        except Exception as error:  # whatever the code of an architecture raises at a mask or at odd settings
            raise UserError(f"a {name} cannot be given full attention ({short(error)}): {TAKE}") from None
        finally:
            self.train(training)

    @property
    def rows(self) -> int:
        """Of the embedding."""
        embedding: Any = self.model.get_input_embeddings()
        return int(embedding.weight.shape[0])

    @property
    def longest(self) -> int | None:
        """Tokens of the longest text that the model was made for, where it tells."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether layers are recomputed in the backward pass."""
        return not self.remember

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Any = None, **_: Any) -> None:
        """Recompute layers in the backward pass.

        Raises:
            UserError: transformers marks no layers of this architecture that can be.
        """
        if not self._layers():
            raise UserError(
                f"a {type(self.model).__name__} has no layers that can be recomputed: leave gradient checkpointing out"
            )
        self.remember = False

    def gradient_checkpointing_disable(self) -> None:
        """Keep activations."""
        self.remember = True

    def features(self, z: Int[Tensor, "N L"], present: Bool[Tensor, "N L"] | None = None) -> Float[Tensor, "N L width"]:
        """The vectors that `head` turns into logits.

        Args:
            z: tokens.
            present: which positions exist; nothing attends to the others. None: all.

        Raises:
            UserError: more tokens than the model has positions.
        """
        return self._features(present, z.shape[1], z.device, input_ids=z)

    def head(self, h: Float[Tensor, "*n width"]) -> Float[Tensor, "*n V"]:
        """Logits."""
        return self.model.get_output_embeddings()(h)

    def forward(self, z: Int[Tensor, "N L"], present: Bool[Tensor, "N L"] | None = None) -> Float[Tensor, "N L V"]:
        """Logits of every position."""
        return self.head(self.features(z, present))

    def _features(self, present: Tensor | None, length: int, device: torch.device, **tokens: Tensor) -> Tensor:
        if present is not None and bool(present.all()):
            present = None
        exists = torch.ones(1, length, device=device) if present is None else present
        positions = (exists.long().cumsum(1) - 1).clamp_min(0)
        longest = self.longest
        if longest is not None and int(positions.max()) >= longest:
            raise UserError(
                f"a sequence of {int(positions.max()) + 1} tokens is longer than the model's {longest}: shorten it"
            )
        h = self._vectors(positions, present, **tokens)
        if present is not None:
            before = ~present[:, :-1] & present[:, 1:]
            h = torch.cat((torch.where(before[..., None], h[:, 1:], h[:, :-1]), h[:, -1:]), 1)
        return h

    def _vectors(self, positions: Tensor, present: Tensor | None, **tokens: Tensor) -> Tensor:
        length, device = positions.shape[1], positions.device
        seen = torch.ones(1, 1, length, length, dtype=torch.bool, device=device)
        if self.causal:
            seen = seen.tril()
        if present is not None:  # a row that sees nothing would be NaN: padding sees itself
            seen = (seen & present[:, None, None]) | torch.eye(length, dtype=torch.bool, device=device)
        base: Any = self.model.base_model
        with self._recomputed():
            return base(attention_mask=seen, position_ids=positions, use_cache=False, **tokens).last_hidden_state

    def _layers(self) -> list[nn.Module]:
        return [module for module in self.model.modules() if isinstance(module, GradientCheckpointingLayer)]

    @contextmanager
    def _recomputed(self) -> Iterator[None]:
        """Layers run under `checkpoint`; their hooks, such as FSDP's, stay outside of it."""
        layers: list[Any] = [] if self.remember or not torch.is_grad_enabled() else self._layers()
        for layer in layers:
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
        try:
            yield
        finally:
            for layer in layers:
                del layer.forward  # the class's own again

    def _try(self) -> None:
        """With the causal mask the logits are the model's own; without it, all tokens are seen, and padding is not."""
        wanted = self.causal
        try:
            self.causal = True
            self._try_head()
            self.causal = False
            self._try_reach()
            self._try_padding()
        finally:
            self.causal = wanted

    def _text(self, length: int) -> Int[Tensor, "1 L"]:
        return (torch.arange(length, device=self.model.device) % self.rows)[None]

    @torch.no_grad()
    def _try_head(self) -> None:
        z = self._text(2)  # no window is shorter
        own = self.model(input_ids=z, use_cache=False).logits
        error = _error(self(z), own)
        if not error < _tolerance(own):
            raise UserError(
                f"the logits of a {type(self.model).__name__} are more than its head of its last vectors (they differ by "
                f"{error:.1g} of their size), which is not converted: take Llama, Qwen or GPT-2"
            )

    @torch.enable_grad()
    def _try_reach(self) -> None:
        slope = self._slope(self._text(2), None)[0, -1]
        if not bool((slope != 0).any()):
            raise UserError(
                f"the first vector of a {type(self.model).__name__} does not depend on the last token, whatever the mask: {TAKE}"
            )

    def _try_padding(self) -> None:
        """On the left and on the right: as the text alone, and without any slope in the padding, whatever the precision."""
        length = min(TRIED, self.longest or TRIED)
        z = self._text(length)
        pads = z.flip(1)
        padded = torch.cat((torch.cat((pads, z), 1), torch.cat((z, pads), 1)))
        left = torch.arange(2 * length, device=z.device) >= length
        present = torch.stack((left, ~left))
        with torch.no_grad():
            alone, found = self.features(z), self.features(padded, present)[present].view(2, length, -1)
        error = max(_error(row, alone[0]) for row in found)
        with torch.enable_grad():
            slope = self._slope(padded, present)[~present]
        if not error < _tolerance(alone) or bool((slope != 0).any()):
            raise UserError(
                f"the vectors of a {type(self.model).__name__} change with padding beside the text, whatever the mask (by "
                f"{error:.1g} of their size), as those of layers with a state or a convolution do: {TAKE}"
            )

    def _slope(self, z: Tensor, present: Tensor | None) -> Tensor:
        """Of a sum of vectors (the first one alone without padding, all that are present with it) in each token's embedding."""
        e = self.model.get_input_embeddings()(z).detach().requires_grad_()
        h = self._features(present, z.shape[1], z.device, inputs_embeds=e)
        h = h[:, 0] if present is None else h[present]
        (slope,) = torch.autograd.grad((h * torch.arange(h.shape[-1], device=z.device)).sum(), e)
        return slope


def _error(found: Tensor, wanted: Tensor) -> float:
    return float((found.float() - wanted.float()).norm() / wanted.float().norm().clamp_min(1e-30))


def _tolerance(x: Tensor) -> float:
    return 1e-5 if x.dtype in (torch.float32, torch.float64) else 3e-2
