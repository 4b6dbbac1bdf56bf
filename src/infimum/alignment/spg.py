"""SPG: sandwiched policy gradient (2510.09541). The ELBO is raised for good completions, an upper surrogate lowered for bad
ones.
"""

import warnings
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from infimum.alignment.objective import Objective
from infimum.alignment.surrogates import elbo_of, eubo_of, mixed, sandwich, token_means
from infimum.alignment.table import TokenTable, perturbed
from infimum.discrete import Canvas, MaskedDiffusion, Masks, masks_of
from infimum.errors import UserError
from infimum.evidence import Draws, Plan

__all__ = ["SPG", "block_masks"]

Masking = Literal["block", "block_all", "random", "all"]


@dataclass(frozen=True, kw_only=True)
class SPG(Objective):
    """A log pi is A ELBO where A >= 0, and A times a Renyi surrogate from above, or its mixture with the ELBO, where A < 0.

    Args:
        negative: what stands for log pi where A < 0: "mix", "eubo", "elbo", or "zero", which drops these completions.
        eubo_beta: Renyi order of the surrogate, at least 1 (1.5; Sudoku 1.0).
        mix_weight: of the surrogate in the mixture (0.5).
        num_masks: masks a completion (paper: m = 2).
        masking: "block": a block of `block_length` at a time, later blocks masked; "block_all": that block whole; "random": any
            tokens of the completion; "all": everything, one network call tells it all.
        block_length: tokens of a block (32, as generated); None: that of the completion.
        flavour: "bound": weighted sums, the ELBO of the order that the masks belong to; "official": the published code's means over
            masked tokens, later blocks among them, which bound nothing.
        perturb: share of the prompt, and of earlier blocks, that is masked as well; None: 0.15 of flavour "official", else 0.
            Above 0 nothing is a bound.
        certified: raise the order to the number of tokens, where the surrogate's expectation is an upper bound; of flavour
            "bound" without perturbation only.

    Raises:
        UserError: an order below 1, a weight outside of 0 to 1, fewer than one mask, an unknown choice, or a certificate for what
            is no bound.
    """

    negative: Literal["mix", "eubo", "elbo", "zero"] = "mix"
    eubo_beta: float = 1.5
    mix_weight: float = 0.5
    num_masks: int = 2
    masking: Masking = "block"
    block_length: int | None = 32
    flavour: Literal["bound", "official"] = "bound"
    perturb: float | None = None
    certified: bool = False
    num_iterations: int = 4

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        super().__post_init__()
        if not self.eubo_beta >= 1:
            raise UserError(f"eubo_beta is {self.eubo_beta}, expected a Renyi order of at least 1: use negative='elbo'")
        if self.negative not in ("mix", "eubo", "elbo", "zero"):
            raise UserError(f"negative is {self.negative!r}: choose mix, eubo, elbo or zero")
        if not 0 <= self.mix_weight <= 1:
            raise UserError(f"mix_weight is {self.mix_weight}, expected 0 (ELBO) to 1 (EUBO)")
        if self.flavour not in ("bound", "official"):
            raise UserError(f"flavour is {self.flavour!r}: choose bound or official")
        check_masking(self.masking, self.block_length)
        if not 0 <= self.share <= 1:
            raise UserError(f"perturb is {self.perturb}, expected a share of 0 to 1, or None")
        if self.certified and (self.flavour == "official" or self.share):
            raise UserError(
                f"flavour {self.flavour!r} with perturb {self.share:g} is no bound and cannot be certified: use flavour='bound' "
                "and perturb=0"
            )
        if self.num_masks < 1:
            raise UserError(f"num_masks is {self.num_masks}, expected at least 1")
        if self.masking == "all" and self.num_masks > 1:
            raise UserError(f"num_masks is {self.num_masks}, and masking 'all' has one mask only: use num_masks=1")
        upper = self.negative in ("mix", "eubo")
        if upper and self.num_masks == 1 and self.masking != "all":
            warnings.warn("with one mask the EUBO is the ELBO up to weights: use num_masks=2 or more", stacklevel=3)
        if upper and self.eubo_beta >= 8 and not self.certified:
            warnings.warn(
                f"eubo_beta {self.eubo_beta:g} is dominated by the best mask of each token: orders of 1 to 2 were published",
                stacklevel=3,
            )

    @property
    def share(self) -> float:
        """Of the prompt and of earlier blocks that is masked as well."""
        if self.perturb is None:
            return 0.15 if self.flavour == "official" else 0.0
        return self.perturb

    @property
    def drops_negative(self) -> bool:  # type: ignore[override]
        """Whether completions with a negative advantage need no network call."""
        return self.negative == "zero"

    @property
    def written_by(self) -> int | None:  # type: ignore[override]
        """Tokens of a block as they should be written, for masks that look like what the sampler saw."""
        return self.block_length if self.masking in ("block", "block_all") else None

    @property
    def plan(self) -> Plan:
        """Independent masks."""
        return Plan.iid(self.num_masks)

    def masks(self, policy: MaskedDiffusion, s: Canvas, draws: Draws) -> Masks:
        """Masks of the flavour."""
        official = self.flavour == "official"
        masks = block_masks(s, draws, self.masking, self.block_length)
        earlier = None
        if self.masking in ("block", "block_all") and self.block_length is not None:
            block = s.rank // self.block_length
            chosen = torch.where(masks.scored, block, 0).amax(-1, keepdim=True)
            earlier = s.target & (block < chosen)
        masks = perturbed(s, draws, masks, self.share, earlier)
        return masks._replace(scored=masks.masked & s.target) if official else masks

    def losses(
        self, now: TokenTable, old: TokenTable, reference: TokenTable | None, advantages: Float[Tensor, "B"]
    ) -> Float[Tensor, "B"]:
        """-A times the estimate that the sign of A calls for (J_SPG)."""
        lower, negative = self.estimates(now)
        return -advantages * torch.where(advantages >= 0, lower, negative)

    def estimates(self, table: TokenTable) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"]]:
        """What stands for log pi where A >= 0, and where A < 0."""
        official = self.flavour == "official"
        lower = token_means(table) if official else elbo_of(table)
        if self.negative == "zero":
            return lower, torch.zeros_like(lower)
        if self.negative == "elbo":
            return lower, lower
        upper = (
            token_means(table, self.eubo_beta) if official else eubo_of(table, self.eubo_beta, certified=self.certified)
        )
        return lower, upper if self.negative == "eubo" else mixed(lower, upper, self.mix_weight)

    def report(self, now: TokenTable, old: TokenTable) -> dict[str, Tensor]:
        """Both sides, in nats a completion, and what no mask has covered; of flavour "official" its own stand-ins for them."""
        both = sandwich(now, self.eubo_beta, certified=self.certified)
        if self.flavour == "official":
            both = both._replace(elbo=token_means(now), eubo=token_means(now, self.eubo_beta))
        return {
            "elbo": both.elbo, "eubo": both.eubo, "sandwich": both.eubo - both.elbo, "uncovered": both.uncovered,
        }  # fmt: skip


def block_masks(s: Canvas, draws: Draws, masking: Masking = "block", block_length: int | None = 32) -> Masks:
    """Masks by blocks: a block with equal probabilities, those before it clean, those behind it masked (SPG). Streams: "mask".

    Args:
        s: canvas.
        draws: of masks.
        masking: see `SPG`.
        block_length: of a block; None: one block.

    Raises:
        UserError: an unknown masking, or blocks without a token.
    """
    check_masking(masking, block_length)
    if masking == "all":
        every = s.target.expand(draws.shape[0], *s.target.shape)
        return Masks(every, every, torch.ones(draws.shape, dtype=torch.float64, device=draws.device))
    length = None if masking == "random" else block_length
    masks = masks_of(s, draws, "count", block_length=length, even=True)
    if masking != "block_all":
        return masks
    length = int(s.lengths.max()) if length is None else length
    # the whole block that holds what was chosen
    chosen = torch.where(masks.scored, s.rank, 0).amax(-1) // length
    block = (s.rank // length == chosen[..., None]) & s.target
    return Masks(masks.masked | block, block, (s.lengths / length).ceil().double().expand(draws.shape))


def check_masking(masking: str, block_length: int | None) -> None:
    """Refuse what is no way to mask.

    Raises:
        UserError: an unknown masking, or blocks without a token.
    """
    if masking not in get_args(Masking):
        raise UserError(f"masking is {masking!r}: choose {', '.join(get_args(Masking))}")
    if block_length is not None and block_length < 1:
        raise UserError(f"block_length is {block_length}, expected at least 1 token, or None")
