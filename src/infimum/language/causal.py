"""A causal language model of transformers with attention to all tokens: the network of a mask predictor."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from infimum.errors import UserError

__all__ = ["FullAttention"]


class FullAttention(nn.Module):
    """(tokens, present) to logits of every position, each of which sees all tokens that are present.

    transformers takes a mask (N, 1, L, L) as it is, in every family and for layers with a sliding window too; that is what a
    call passes. Positions are counted from the first token that is present. Logits at a position predict the next token; those in
    front of a padded text are those of its first token, so that a shift by one gives what it gives without padding.

    Args:
        model: with a language-modelling head; set to attention "sdpa", in place.
        causal: see earlier tokens only, as the model did.

    Raises:
        UserError: a model whose attention takes no such mask, or whose logits are more than its head of its last vectors.
    """

    def __init__(self, model: PreTrainedModel, *, causal: bool = False) -> None:
        super().__init__()
        self.model, self.causal = model, causal
        name = type(model).__name__
        training = model.training
        try:
            model.set_attn_implementation("sdpa")
            model.eval()
            self._try()
        except (TypeError, ValueError, KeyError, AttributeError, RuntimeError, NotImplementedError) as error:
            if isinstance(error, UserError):
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise UserError(
                f"a {name} cannot be given full attention ({reason}): take a decoder with attention, such as Llama, Qwen or GPT-2"
            ) from None
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

    def features(self, z: Int[Tensor, "N L"], present: Bool[Tensor, "N L"] | None = None) -> Float[Tensor, "N L width"]:
        """The vectors that `head` turns into logits.

        Args:
            z: tokens.
            present: which positions exist; nothing attends to the others. None: all.

        Raises:
            UserError: more tokens than the model has positions.
        """
        if present is not None and bool(present.all()):
            present = None
        positions = self._positions(z, present)
        longest = self.longest
        if longest is not None and int(positions.max()) >= longest:
            raise UserError(
                f"a sequence of {int(positions.max()) + 1} tokens is longer than the model's {longest}: shorten it"
            )
        h = self._vectors(positions, present, input_ids=z)
        if present is not None:
            before = ~present[:, :-1] & present[:, 1:]
            h = torch.cat((torch.where(before[..., None], h[:, 1:], h[:, :-1]), h[:, -1:]), 1)
        return h

    def head(self, h: Float[Tensor, "*n width"]) -> Float[Tensor, "*n V"]:
        """Logits."""
        return self.model.get_output_embeddings()(h)

    def forward(self, z: Int[Tensor, "N L"], present: Bool[Tensor, "N L"] | None = None) -> Float[Tensor, "N L V"]:
        """Logits of every position."""
        return self.head(self.features(z, present))

    def _positions(self, z: Tensor, present: Tensor | None) -> Int[Tensor, "M L"]:
        if present is None:
            return torch.arange(z.shape[1], device=z.device)[None]
        return (present.long().cumsum(1) - 1).clamp_min(0)

    def _vectors(self, positions: Tensor, present: Tensor | None, **tokens: Tensor) -> Tensor:
        length, device = positions.shape[1], positions.device
        seen = torch.ones(1, 1, length, length, dtype=torch.bool, device=device)
        if self.causal:
            seen = seen.tril()
        if present is not None:  # a row that sees nothing would be NaN: padding sees itself
            seen = (seen & present[:, None, None]) | torch.eye(length, dtype=torch.bool, device=device)
        base: Any = self.model.base_model
        return base(attention_mask=seen, position_ids=positions, use_cache=False, **tokens).last_hidden_state

    def _try(self) -> None:
        """With the causal mask the logits are the model's own; without it, the first vector depends on the last token."""
        wanted, name = self.causal, type(self.model).__name__
        z = (torch.arange(2, device=self.model.device) % self.rows)[None]  # no window is shorter
        with torch.no_grad():
            own = self.model(input_ids=z, use_cache=False).logits
            self.causal = True
            error = float((self(z).float() - own.float()).norm() / own.float().norm().clamp_min(1e-30))
        if not error < (1e-5 if own.dtype in (torch.float32, torch.float64) else 3e-2):
            raise UserError(
                f"the logits of a {name} are more than its head of its last vectors (they differ by {error:.1g} of their size), "
                "which is not converted: take Llama, Qwen or GPT-2"
            )
        self.causal = False
        with torch.enable_grad():
            e = self.model.get_input_embeddings()(z).detach().requires_grad_()
            first = self._vectors(self._positions(z, None), None, inputs_embeds=e)[0, 0]
            (slope,) = torch.autograd.grad((first * torch.arange(len(first), device=z.device)).sum(), e)
        self.causal = wanted
        if not bool((slope[0, -1] != 0).any()):
            raise UserError(
                f"the first vector of a {name} does not depend on the last token, whatever the mask: take a decoder with "
                f"attention, "
                "such as Llama, Qwen or GPT-2"
            )
