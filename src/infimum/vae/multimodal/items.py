"""Items of several modalities in the forms that users hold them in, and one form that the model works with."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from infimum.errors import UserError

__all__ = ["Items", "from_multivae", "part_of", "read_items", "take"]

Items = Any
"""A dict of modalities {name: (B, *shape)}, which may lack some; or a pair (dict, mask), mask (B, M) boolean: item b has
modality m, in the model's order; or one tensor (B, *any) with all modalities side by side."""


def read_items(
    names: tuple[str, ...], dims: tuple[int, ...], x: Items
) -> tuple[dict[str, Shaped[Tensor, "B *shape"]], Bool[Tensor, "B M"]]:
    """Modalities by name, and which of them each item has.

    Raises:
        UserError: unknown names, unequal numbers of items, a mask of another shape, or an item without any modality.
    """
    values, mask = x if isinstance(x, tuple) else (x, None)
    if isinstance(values, Tensor):
        flat = values.flatten(1)
        if flat.shape[1] != sum(dims):
            raise UserError(
                f"one tensor holds {flat.shape[1]} values an item, and the modalities {', '.join(names)} have "
                f"{' + '.join(map(str, dims))}: put them side by side, or give a dict"
            )
        values = dict(zip(names, flat.split(list(dims), 1), strict=True))
    if not isinstance(values, Mapping):
        raise UserError(f"expected a dict of modalities {', '.join(names)}, got {type(values).__name__}")
    if set(values) - set(names) or not values:
        raise UserError(f"the data have the modalities {sorted(values)}, and the model has {sorted(names)}")
    counts = {name: part.shape[0] for name, part in values.items()}
    b, first = next(iter(counts.values())), next(iter(values.values()))
    if len(set(counts.values())) > 1:
        raise UserError(f"every modality needs the same number of items, got {counts}")
    present = torch.tensor([name in values for name in names], device=first.device)
    if mask is None:
        return dict(values), present.expand(b, -1)
    if isinstance(mask, Mapping):
        mask = torch.stack([mask[n].bool() if n in mask else present[i].expand(b) for i, n in enumerate(names)], 1)
    if mask.dtype != torch.bool or tuple(mask.shape) != (b, len(names)):
        raise UserError(
            f"a mask is boolean of shape (B, M) = ({b}, {len(names)}), got {mask.dtype} of shape {tuple(mask.shape)}"
        )
    observed = mask & present
    if bool((empty := ~observed.any(1)).any()):
        index = empty.nonzero().flatten().tolist()
        raise UserError(f"items {str(index[:10])[1:-1]} have no observed modality: leave them out")
    return {name: _filled(part, observed[:, names.index(name)]) for name, part in values.items()}, observed


def _filled(part: Tensor, here: Tensor) -> Tensor:
    """0 where the modality is missing: what stands there, NaN included, must not reach a network."""
    if bool(here.all()):
        return part
    return torch.where(here.reshape(-1, *[1] * (part.ndim - 1)), part, torch.zeros_like(part))


def part_of(x: Items, names: tuple[str, ...]) -> Items:
    """The same items with these modalities only; the columns of a mask stay.

    Raises:
        UserError: a modality that the items lack.
    """
    values = x[0] if isinstance(x, tuple) else x
    if missing := [name for name in names if name not in values]:
        raise UserError(f"the items lack the modality {missing[0]!r}: they have {', '.join(values)}")
    part = {name: values[name] for name in names}
    return (part, x[1]) if isinstance(x, tuple) else part


def take(x: Items, index: Tensor) -> Items:
    """Some of the items."""
    if isinstance(x, tuple):
        return tuple(take(part, index) for part in x)
    if isinstance(x, Mapping):
        return {name: part[index] for name, part in x.items()}
    return x[index]


def from_multivae(batch: Any) -> Items:
    """Items of a multivae data set, batch or dict: its ``data`` and, where some are missing, its ``masks`` (a dict of (B,))."""
    fields = batch if isinstance(batch, Mapping) else vars(batch)
    data = fields.get("data", fields)
    values = {name: torch.as_tensor(part) for name, part in data.items() if name not in ("labels", "masks")}
    masks = fields.get("masks")
    if masks is None:
        return values
    return values, {name: torch.as_tensor(part).bool() for name, part in masks.items()}
