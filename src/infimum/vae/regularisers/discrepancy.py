"""Samples of the batch's mixture against samples of the prior, by a kernel."""

from jaxtyping import Float
from torch import Tensor

from infimum.errors import UserError

__all__ = ["mean_discrepancy"]


def mean_discrepancy(z: Float[Tensor, "N D"], prior: Float[Tensor, "N D"]) -> Float[Tensor, ""]:
    """WAE-MMD: squared mean discrepancy of two samples, unbiased, kernel C / (C + |x - y|^2), C = 2 D (1711.01558). No nats.

    Raises:
        UserError: fewer than two points.
    """
    n, d = z.shape
    if n < 2:
        raise UserError("a mean discrepancy compares samples, and the batch has one item: use a batch of at least 8")

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        gap = (x[:, None] - y).square().sum(-1)
        return 2 * d / (2 * d + gap)

    def within(x: Tensor) -> Tensor:
        k = kernel(x, x)
        return (k.sum() - k.diagonal().sum()) / (n * (n - 1))

    return within(z) + within(prior) - 2 * kernel(z, prior).mean()
