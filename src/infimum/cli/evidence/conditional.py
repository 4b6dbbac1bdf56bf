"""Evidence of some modalities given others."""

from typing import Any

import torch

from infimum.cli.evidence.options import Evidence, plan_of
from infimum.cli.models import held_out
from infimum.data import DataSpec
from infimum.errors import UserError

__all__ = ["conditional_of"]


def conditional_of(model: Any, spec: DataSpec, options: Evidence) -> Any:
    """log p(target | given) as an interval: on the data, or certified on items drawn from the model.

    Raises:
        UserError: a model without modalities, or names that it does not have.
    """
    from infimum.vae.multimodal import MultimodalVAE, conditional_evidence

    if not isinstance(model, MultimodalVAE):
        raise UserError(f"--given names modalities, and a {type(model).__name__} has none: leave it out")
    for flag in ("given", "target"):
        if unknown := [name for name in getattr(options, flag) if name not in model.names]:
            raise UserError(f"--{flag} {unknown[0]}: the model's modalities are {', '.join(model.names)}")
    settings: dict[str, Any] = {
        "plan": plan_of(options), "seed": options.seed, "rows": options.rows, "delta": options.delta
    }  # fmt: skip
    target = options.target or None
    if options.simulate is not None:
        with torch.no_grad():
            z, x = model.simulate(options.simulate, options.seed)
        return conditional_evidence(model, x, options.given, target, latents=z, **settings)
    items = held_out(model, spec, options.data, options.split or "test")
    x, keys = items.x.to(options.device), items.keys.to(options.device)
    if not options.quiet:
        print(f"{type(model).__name__} on {items.title}")
    return conditional_evidence(model, x, options.given, target, keys=keys, **settings)
