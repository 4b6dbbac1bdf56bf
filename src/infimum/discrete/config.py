"""What a masked diffusion model is made of."""

from dataclasses import dataclass
from typing import Literal, get_args

from infimum.errors import UserError

__all__ = ["Form", "MaskedDiffusionConfig"]

Form = Literal["count", "complement", "time", "rounded", "rounded-official"]


@dataclass(frozen=True)
class MaskedDiffusionConfig:
    """A masked diffusion model and its transformer.

    Args:
        vocabulary: tokens of data are 0 to vocabulary - 1; where the mask is one of these numbers, it never is data.
        mask_id: the mask; None: ``vocabulary``, one more number.
        form: of the ELBO. "count": l masked tokens exactly, l uniform on 1 .. L, weight L / l (LLaDA's evaluation); "complement": l
            uniform on 0 .. L, weight (L + 1) / l, whose antithetic twin masks the other tokens where there is one block
            (2512.03759); "time": every token masked with probability t, weight 1 / t (2406.07524), of infinite variance. For
            quadrature over t (2510.08554), and no bounds: "rounded": the number next to t L exactly, weight L over it;
            "rounded-official": floor(t L), weight 1 / t; 1 at the least.
        floor: smallest t of form "time"; above 0 the variance is finite and the terms are no bound.
        block_length: tokens of a block, where blocks are generated from the left to the right; None: random order of all.
        logit_shift: 1 where the logits at a position predict the next token (Dream, converted causal models).
        length: tokens of a sequence, for a model that generates without a prompt; None: not told.
        characters: character i stands for token i, where tokens are characters; empty: tokens are numbers.
        width, blocks, heads, hidden: of the transformer, see `infimum.nets.Llada`.
        theta: base of its rotary positions.
        network: "transformer"; or "mlp": ``blocks`` hidden layers of ``width`` on a canvas of ``length`` cells, for puzzles.

    Raises:
        UserError: what cannot be built, by name.
    """

    vocabulary: int
    mask_id: int | None = None
    form: Form = "count"
    floor: float = 0.0
    block_length: int | None = None
    logit_shift: int = 0
    length: int | None = None
    characters: str = ""
    width: int = 128
    blocks: int = 2
    heads: int = 4
    hidden: int | None = None
    theta: float = 10_000.0
    network: Literal["transformer", "mlp"] = "transformer"

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        if self.vocabulary < 1:
            raise UserError(f"vocabulary is {self.vocabulary}, expected at least 1 token")
        if self.vocabulary == 1 and self.mask_id == 0:
            raise UserError(
                "the only token is the mask, and nothing is left to be data: give a vocabulary of 2 or more"
            )
        if self.mask_id is not None and not 0 <= self.mask_id <= self.vocabulary:
            raise UserError(
                f"mask id {self.mask_id} lies outside of the vocabulary of {self.vocabulary}: pass the model's mask_id"
            )
        if self.form not in get_args(Form):
            raise UserError(f"no form {self.form!r}: choose one of {', '.join(get_args(Form))}")
        if not 0 <= self.floor < 1 or (self.floor > 0 and self.form != "time"):
            raise UserError(
                f"floor is {self.floor} with form {self.form!r}: it lies in [0, 1), and above 0 for form 'time' only"
            )
        if self.block_length is not None and self.block_length < 1:
            raise UserError(f"block_length is {self.block_length}, expected at least 1 token, or None")
        if self.length is not None and self.length < 1:
            raise UserError(f"length is {self.length}, expected at least 1 token, or None")
        if self.characters and not len(set(self.characters)) == len(self.characters) == self.vocabulary:
            raise UserError(
                f"{len(set(self.characters))} distinct characters for a vocabulary of {self.vocabulary}: give one a token"
            )
        if self.network not in ("transformer", "mlp") or (self.network == "mlp" and self.length is None):
            raise UserError(
                f"network is {self.network!r} and length {self.length}: choose transformer, or mlp with a length, its canvas"
            )
        if self.logit_shift not in (0, 1):
            raise UserError(f"logit_shift is {self.logit_shift}, expected 0 or 1")

    @property
    def mask(self) -> int:
        """The mask's number."""
        return self.vocabulary if self.mask_id is None else self.mask_id

    @property
    def size(self) -> int:
        """Rows of the embedding."""
        return max(self.vocabulary, self.mask + 1)
