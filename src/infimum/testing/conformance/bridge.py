"""Is a function the normalised density of these draws? A test that holds for any density and any dimension.

With any normalised r, E_q[r / (q + r)] = E_r[q / (q + r)] exactly when q is normalised and the first draws come from it
(Bennett 1976; Meng & Wong 1996). Both integrands lie in [0, 1], so no tail can spoil the test.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from infimum.testing.conformance.coordinates import Coordinates, Flat
from infimum.testing.conformance.report import Failed, Skipped
from infimum.testing.conformance.statistics import normal_limit, two_sample_z

__all__ = ["check_density"]

OVERLAP = 0.05  # below, the two densities meet in too few draws for the central limit theorem


class _Reference:
    """r: a Gaussian for the continuous coordinates times the observed frequencies of the whole-number rows."""

    def __init__(self, fit: Flat, seed: int) -> None:
        self.generator = torch.Generator(fit.continuous.device).manual_seed(seed)
        self.fit = fit
        u = fit.continuous
        n, d = u.shape[0], u.shape[-1]
        self.mean = u.mean(0)
        centred = u - self.mean
        enough = n > 4 * d
        cov = (
            torch.einsum("nbi,nbj->bij", centred, centred) / (n - 1)
            if enough
            else centred.square().mean(0).diag_embed()
        )
        scale = cov.diagonal(dim1=-2, dim2=-1).mean(-1) if d else cov.new_zeros(cov.shape[0])
        jitter = (1e-9 * scale + 1e-300)[:, None, None] * torch.eye(d, dtype=cov.dtype, device=cov.device)
        self.factor = torch.linalg.cholesky(cov + jitter)

    def sample(self, n: int) -> tuple[Tensor, Tensor]:
        b, d = self.mean.shape
        noise = torch.randn(n, b, d, generator=self.generator, dtype=torch.float64, device=self.mean.device)
        u = self.mean + torch.einsum("bij,nbj->nbi", self.factor, noise)
        rows = torch.randint(self.fit.whole.shape[0], (n, b), generator=self.generator, device=self.mean.device)
        m = self.fit.whole.shape[-1]
        return u, self.fit.whole.gather(0, rows[..., None].expand(-1, -1, m))

    def log_prob(self, u: Tensor, whole: Tensor) -> Float[Tensor, "n B"]:
        d = u.shape[-1]
        centred = (u - self.mean).movedim(0, -1)  # (B, d, n)
        square = torch.linalg.solve_triangular(self.factor, centred, upper=False).square().sum(-2).T
        volume = self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) + 0.5 * d * math.log(2 * math.pi)
        return -0.5 * square - volume + self._log_frequency(whole)

    def _log_frequency(self, whole: Tensor) -> Float[Tensor, "n B"]:
        n, b, m = whole.shape
        if m == 0:
            return torch.zeros(n, b, dtype=torch.float64, device=whole.device)
        columns = []
        size = self.fit.whole.shape[0]
        for i in range(b):
            both = torch.cat((self.fit.whole[:, i], whole[:, i]))
            _, number = torch.unique(both, dim=0, return_inverse=True)
            count = torch.bincount(number[:size], minlength=int(number.max()) + 1)
            columns.append((count[number[size:]].double() / size).log())
        return torch.stack(columns, 1)


def check_density(
    log_density: Callable[[Any], Tensor],
    draws: Any,
    level: float,
    seed: int,
    what: str,
    remedy: str,
    support: Any = None,
) -> str:
    """Test that ``exp(log_density)`` is normalised and is the density of ``draws``.

    Args:
        log_density: of latents (n, B, *event), in nats (n, B).
        draws: latents (n, B, *event): independent over n; half of them fit the reference, half are tested.
        level: false-alarm rate.
        seed: of the reference's draws.
        what: the name of the density, for the message.
        remedy: what to look at when the test fails.
        support: constraint that the latents satisfy, where known.
    """
    coordinates = Coordinates(draws, support)
    flat = coordinates.flat(draws)
    half = flat.continuous.shape[0] // 2
    fit, test = flat.rows(slice(0, half)), flat.rows(slice(half, None))
    if bool((fit.continuous == fit.continuous[:1]).all(0).any()):
        raise Skipped(f"a continuous latent of {what} does not vary")
    reference = _Reference(fit, seed)

    def log_q(u: Tensor, whole: Tensor) -> Tensor:
        z = coordinates.latents(u, whole)
        back = coordinates.flat(z)
        value = log_density(z).double() + back.log_volume
        return torch.where(value.isnan() | (value == math.inf), -math.inf, value)

    def log_ratio(u: Tensor, whole: Tensor) -> Tensor:
        """log r - log q, where at least one of them has mass."""
        ours, theirs = reference.log_prob(u, whole), log_q(u, whole)
        both = (ours == -math.inf) & (theirs == -math.inf)
        return torch.where(both, 0.0, ours - torch.where(both, 0.0, theirs))

    at_q = log_ratio(test.continuous, test.whole)
    at_r = log_ratio(*reference.sample(at_q.shape[0]))
    a, b = at_q.sigmoid(), (-at_r).sigmoid()
    told = torch.maximum(a.mean(0), b.mean(0)) > OVERLAP
    if not bool(told.any()):
        raise Skipped(f"{what} is too far from every reference density that was fitted to its draws to tell")
    z = torch.where(told, two_sample_z(a, b), 0.0)
    limit = normal_limit(level, z.numel())
    total, item = _log_total(at_q, at_r), int(z.argmax())
    if float(z.max()) > limit:
        raise Failed(
            f"{what} is not the normalised density of its draws (|z| = {float(z.max()):.1f}, expected at most {limit:.1f}; "
            f"it would have to be divided by exp({float(total[item]):.2f})): {remedy}"
        )
    return f"integrates to exp({float(total[told].abs().max()):.3f}) at most, |z| = {float(z.max()):.1f} <= {limit:.1f}"


def _log_total(at_q: Float[Tensor, "n B"], at_r: Float[Tensor, "n B"]) -> Float[Tensor, "B"]:
    """The bridge estimate of log of the integral of q, by bisection: its score falls in t."""
    low, high = torch.full_like(at_q[0], -1e4), torch.full_like(at_q[0], 1e4)
    for _ in range(60):
        t = (low + high) / 2
        small = (at_q + t).sigmoid().mean(0) < (-at_r - t).sigmoid().mean(0)
        low, high = torch.where(small, t, low), torch.where(small, high, t)
    return (low + high) / 2
