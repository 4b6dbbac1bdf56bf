"""Latents of any form as vectors: continuous coordinates on the whole real line, and rows of whole numbers."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Transform, biject_to, constraints

from infimum.evidence._tree import leaves, map_tree
from infimum.testing.conformance.case import discrete

__all__ = ["Coordinates", "Flat"]


@dataclass(frozen=True)
class Flat:
    """(n, B) latents as vectors, with the log-volume that the map to the real line adds to their density."""

    continuous: Float[Tensor, "n B d"]
    whole: Int[Tensor, "n B m"]
    log_volume: Float[Tensor, "n B"]

    def rows(self, part: slice) -> "Flat":
        """Some of the draws."""
        return Flat(self.continuous[part], self.whole[part], self.log_volume[part])


class Coordinates:
    """The map between latents like ``z``, (n, B, *event) each, and `Flat` vectors.

    The support of a continuous latent is that of ``support`` where it is known, and is read off the draws otherwise:
    a simplex, (0, 1), the positive half-line, or the real line.
    """

    def __init__(self, z: Any, support: Any = None) -> None:
        self.example = z
        parts = list(leaves(z))
        known = support if len(parts) == 1 else None
        self.maps: list[Transform | None] = [None if discrete(part) else _map(part, known) for part in parts]

    @property
    def kinds(self) -> set[str]:
        """Of {"continuous", "discrete"}, those that occur."""
        return {"discrete" if each is None else "continuous" for each in self.maps}

    def flat(self, z: Any) -> Flat:
        """As vectors, float64."""
        first = next(leaves(z))
        shape = first.shape[:2]
        continuous, whole = [first.new_zeros(*shape, 0, dtype=torch.float64)], [first.new_zeros(*shape, 0).long()]
        volume = first.new_zeros(shape, dtype=torch.float64)
        for part, transform in zip(leaves(z), self.maps, strict=True):
            if transform is None:
                whole.append(part.reshape(*shape, -1).long())
                continue
            value = part.double()
            u = transform.inv(value)
            jacobian = transform.log_abs_det_jacobian(u, value)
            volume = volume + jacobian.reshape(*shape, -1).sum(-1)
            continuous.append(u.reshape(*shape, -1))
        return Flat(torch.cat(continuous, -1), torch.cat(whole, -1), volume)

    def latents(self, continuous: Float[Tensor, "n B d"], whole: Int[Tensor, "n B m"]) -> Any:
        """Back to latents of the original form and dtype."""
        at = {"u": 0, "n": 0}
        maps = iter(self.maps)

        def build(part: Tensor) -> Tensor:
            transform = next(maps)
            source, name = (whole, "n") if transform is None else (continuous, "u")
            event = part.shape[2:] if transform is None else transform.inverse_shape(part.shape)[2:]
            size = torch.Size(event).numel()
            values = source[..., at[name] : at[name] + size].reshape(*source.shape[:2], *event)
            at[name] += size
            return (values if transform is None else transform(values)).to(part.dtype)

        return map_tree(build, self.example)


def _map(z: Tensor, support: Any) -> Transform:
    if support is not None:
        try:
            transform = biject_to(support)
        except NotImplementedError:
            transform = None
        if transform is not None and bool(support.check(z).all()):
            return transform
    total = z.sum(-1) if z.ndim > 2 and z.shape[-1] > 1 else None
    if total is not None and bool((z >= 0).all()) and bool((total - 1).abs().max() < 1e-5):
        return biject_to(constraints.simplex)
    if bool(((z > 0) & (z < 1)).all()):
        return biject_to(constraints.unit_interval)
    return biject_to(constraints.positive if bool((z > 0).all()) else constraints.real)
