"""Keyed draws of zuko's normalising flows."""

from torch import Tensor
from torch.distributions import Distribution

from infimum.evidence import Draws, draw

__all__: list[str] = []

# Importing zuko switches off argument checks of every torch distribution in the process; leave them as they were.
_checks = Distribution._validate_args
from zuko.distributions import NormalizingFlow  # noqa: E402

Distribution.set_default_validate_args(_checks)


@draw.register
def _(q: NormalizingFlow, draws: Draws, name: str) -> Tensor:
    """The base from the stream `name` through the inverse of the transform (zuko maps data to noise)."""
    base = q.base if q.batch_shape else q.base.expand((draws.shape[1],))  # a flow without context serves all items
    return q.transform.inv(draw(base, draws, name))
