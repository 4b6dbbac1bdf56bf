"""Keyed draws of mixtures: the component is the lead coordinate."""

from torch import Tensor
from torch.distributions import Independent, MixtureSameFamily, Normal

from infimum.distributions.mixture import DiagonalMixture
from infimum.errors import UserError
from infimum.evidence import Draws, draw

__all__: list[str] = []


@draw.register
def _(q: DiagonalMixture, draws: Draws, name: str) -> Tensor:
    """Component from `draws.choose`, D normals from the stream `name`: (K, B, D)."""
    if q.batch_shape != (draws.shape[1],):
        raise UserError(
            f"the mixture has batch shape {tuple(q.batch_shape)}, expected ({draws.shape[1]},): one mixture an item"
        )
    noise = draws.normal(name, *q.event_shape).to(q.loc.dtype)
    return q.from_noise(draws.choose(q.logits), noise)


@draw.register
def _(q: MixtureSameFamily, draws: Draws, name: str) -> Tensor:
    """A mixture of Independent(Normal, 1), drawn as the `DiagonalMixture` that it is."""
    part = q.component_distribution
    if not (isinstance(part, Independent) and isinstance(part.base_dist, Normal) and len(q.event_shape) == 1):
        raise UserError(
            f"keyed draws of MixtureSameFamily need Independent(Normal, 1) components, got {part}: "
            "define sample(s, draws) on the model"
        )
    normal = part.base_dist
    return draw(DiagonalMixture(q.mixture_distribution.logits, normal.loc, normal.scale), draws, name)
