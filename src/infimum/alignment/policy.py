"""A policy as a learner needs it: what of it is trained and saved, and what may be its reference."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from torch import nn

from infimum.discrete import MaskedDiffusion
from infimum.errors import UserError

__all__ = ["Reference", "TrainedPart", "check_reference", "parts_of"]

Reference = MaskedDiffusion | Callable[[], AbstractContextManager[Any]]
"""A frozen model; or a context in which the policy itself is the reference, such as peft's ``model.disable_adapter``."""


class TrainedPart(nn.Module):
    """The parameters of a model that are trained, and no others: what a checkpoint of an adapter holds."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        for name, p in model.named_parameters():
            if p.requires_grad:
                self.register_parameter(name.replace(".", "-"), p)


def parts_of(policy: MaskedDiffusion) -> dict[str, nn.Module]:
    """What is saved: the policy, or the trained part of a frozen one (low-rank adapters).

    Raises:
        UserError: nothing is trained.
    """
    flags = [p.requires_grad for p in policy.parameters()]
    if not any(flags):
        raise UserError("the policy has no parameter that requires a gradient: add an adapter, or unfreeze it")
    return {"model": policy} if all(flags) else {"trained": TrainedPart(policy)}


def check_reference(policy: MaskedDiffusion, reference: object) -> None:
    """Refuse what is no reference, and put a model that is one into evaluation mode.

    Raises:
        UserError: neither a model nor something that can be called; a model that shares its parameters with the policy, or has
            another vocabulary.
    """
    if not isinstance(reference, MaskedDiffusion):
        if isinstance(reference, nn.Module) or not callable(reference):
            raise UserError(
                f"the reference is a {type(reference).__name__}: pass a MaskedDiffusion, or a context in which the policy is the "
                "reference, such as the method off of an adapter"
            )
        return
    if {id(p) for p in reference.parameters()} & {id(p) for p in policy.parameters() if p.requires_grad}:
        raise UserError("the reference shares parameters with the policy and would be trained with it: pass a copy")
    mine, other = ((c.vocabulary, c.mask) for c in (policy.config, reference.config))
    if mine != other:
        raise UserError(
            f"the reference has a vocabulary of {other[0]} with mask {other[1]}, the policy {mine[0]} with mask {mine[1]}: take a "
            "reference of the same tokenizer"
        )
    reference.eval()
