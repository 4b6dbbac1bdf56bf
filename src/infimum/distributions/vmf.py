"""Von Mises-Fisher distribution on the unit sphere, and the uniform one: densities, divergence, keyed and differentiable draws."""

import dataclasses
import functools
import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, constraints, register_kl

from infimum.distributions.bessel import bessel_ratio, log_bessel
from infimum.errors import UserError
from infimum.evidence import Draws, draw

__all__ = ["HypersphericalUniform", "VonMisesFisher", "angle_icdf", "log_area"]

PANELS, NODES, STEPS = 64, 16, 60
"""Of the distribution function of the angle: panels, Gauss-Legendre nodes in each, and steps of its inversion at most."""
WINDOW = 14.0
"""Standard deviations about the mode that hold all mass that float64 can see."""


def log_area(dim: int) -> float:
    """Log of the area of the unit sphere in R^dim: log 2 + (dim / 2) log pi - log Gamma(dim / 2)."""
    return math.log(2) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2)


class HypersphericalUniform(Distribution):
    """Uniform on the unit sphere of R^dim: batch shape (), event (dim,)."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, dim: int, validate_args: bool | None = None) -> None:
        if dim < 2:
            raise UserError(f"a sphere needs at least 2 dimensions, got {dim}")
        self.dim = dim
        super().__init__(torch.Size(), torch.Size([dim]), validate_args=validate_args)

    def log_prob(self, value: Float[Tensor, "*n D"]) -> Float[Tensor, "*n"]:
        """-log area, in nats; the value is taken to lie on the sphere."""
        return value.new_full(value.shape[:-1], -log_area(self.dim))

    def entropy(self) -> Tensor:
        """log area, in nats."""
        return torch.tensor(log_area(self.dim))

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Normalised normal draws."""
        return torch.nn.functional.normalize(torch.randn(*sample_shape, self.dim), dim=-1)


class VonMisesFisher(Distribution):
    """Density C_D(kappa) exp(kappa loc . z) on the unit sphere of R^D, with respect to its area.

    Batch shape `*B`, event shape (D,). log C_D is computed for D >= 2 and any kappa >= 0, in float64. Draws are
    z = cos(t) loc + sin(t) v, v uniform across loc and t the angle, by the inverse of its distribution function: they are a
    function of D normals and one uniform number, and differentiable in loc and (implicitly) in kappa.

    Args:
        loc: mean directions, unit vectors (*B, D).
        concentration: kappa, (*B).

    Raises:
        UserError: a direction that is no unit vector, or a negative concentration.
    """

    arg_constraints = {  # noqa: RUF012
        "loc": constraints.real_vector,
        "concentration": constraints.nonnegative,
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self, loc: Float[Tensor, "..."], concentration: Float[Tensor, "..."], validate_args: bool | None = None
    ) -> None:
        batch = torch.broadcast_shapes(loc.shape[:-1], concentration.shape)
        if loc.shape[-1] < 2:
            raise UserError(f"a sphere needs at least 2 dimensions, got directions of {loc.shape[-1]}")
        length = loc.detach().double().norm(dim=-1)
        if not bool(((length - 1).abs() < 1e-3).all()):
            worst = float(length.flatten()[(length - 1).abs().argmax()])
            raise UserError(f"directions must be unit vectors, got one of length {worst:g}: divide by the length")
        bad = ~((concentration >= 0) & concentration.isfinite())
        if bool(bad.any()):
            raise UserError(f"a concentration is a finite number of at least 0, got {float(concentration[bad][0]):g}")
        self.loc, self.concentration = loc.expand(*batch, -1), concentration.expand(batch)
        self._parameters = (loc, concentration)
        super().__init__(batch, loc.shape[-1:], validate_args=validate_args)

    @property
    def _order(self) -> float:
        return self.event_shape[0] / 2 - 1

    def expand(
        self, batch_shape: torch.Size | list[int] | tuple[int, ...], _instance: "VonMisesFisher | None" = None
    ) -> "VonMisesFisher":
        new = self._get_checked_instance(VonMisesFisher, _instance)
        new.loc = self.loc.expand(*batch_shape, -1)
        new.concentration = self.concentration.expand(batch_shape)
        new._parameters = self._parameters
        super(VonMisesFisher, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        return new

    def _log_peak(self) -> Float[Tensor, "*B"]:
        """log C_D(kappa) + kappa, the log-density at loc."""
        return -log_bessel(self._order, self.concentration) - self.event_shape[0] / 2 * math.log(2 * math.pi)

    def log_normaliser(self) -> Float[Tensor, "*B"]:
        """log C_D(kappa) = (D/2 - 1) log kappa - (D/2) log 2 pi - log I_{D/2-1}(kappa), in nats."""
        return self._log_peak() - self.concentration

    def log_prob(self, value: Float[Tensor, "*n D"]) -> Float[Tensor, "*m"]:
        """log C_D(kappa) + kappa loc . value in nats; the value is taken to lie on the sphere."""
        return self._log_peak() + self.concentration * ((self.loc * value).sum(-1) - 1)

    @property
    def resultant(self) -> Float[Tensor, "*B"]:
        """A_D(kappa) = I_{D/2}(kappa) / I_{D/2-1}(kappa) = E[loc . z]."""
        return bessel_ratio(self._order, self.concentration)

    @property
    def mean(self) -> Float[Tensor, "*B D"]:
        """A_D(kappa) loc."""
        return self.resultant[..., None] * self.loc

    def entropy(self) -> Float[Tensor, "*B"]:
        """-log C_D(kappa) - kappa A_D(kappa), in nats."""
        return self.concentration * (1 - self.resultant) - self._log_peak()

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """From torch's generator."""
        shape = torch.Size(sample_shape) + self.batch_shape
        normal = torch.randn(*shape, *self.event_shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.from_noise(normal, torch.rand(shape, dtype=torch.float64, device=self.loc.device))

    def from_noise(self, normal: Float[Tensor, "*n D"], u: Float[Tensor, "*n"]) -> Float[Tensor, "*n D"]:
        """z from D standard normals, which give its direction across loc, and the distribution function at its angle."""
        across = normal - (normal * self.loc).sum(-1, keepdim=True) * self.loc
        across = torch.nn.functional.normalize(across, dim=-1)
        angle = angle_icdf(self.event_shape[0], self.concentration, u)[..., None].to(self.loc.dtype)
        return angle.cos() * self.loc + angle.sin() * across


@draw.register
def _(q: VonMisesFisher, draws: Draws, name: str) -> Tensor:
    """D normals from the stream ``name``, a uniform number from ``name`` + ".angle": (K, B, *rest, D)."""
    if not q.batch_shape or q.batch_shape[0] != draws.shape[1]:
        raise UserError(
            f"the posterior has batch shape {tuple(q.batch_shape)}, expected ({draws.shape[1]}, ...): one for each item"
        )
    rest = q.batch_shape[1:]
    normal = draws.normal(name, *rest, *q.event_shape).to(q.loc.dtype)
    return q.from_noise(normal, dataclasses.replace(draws, dtype=torch.float64).uniform(f"{name}.angle", *rest))


@draw.register
def _(q: HypersphericalUniform, draws: Draws, name: str) -> Tensor:
    return torch.nn.functional.normalize(draws.normal(name, q.dim), dim=-1)


@register_kl(VonMisesFisher, HypersphericalUniform)
def _to_uniform(p: VonMisesFisher, q: HypersphericalUniform) -> Tensor:
    """kappa A_D(kappa) + log C_D(kappa) - log C_D(0), in nats."""
    return log_area(q.dim) - p.entropy()


@register_kl(VonMisesFisher, VonMisesFisher)
def _to_another(p: VonMisesFisher, q: VonMisesFisher) -> Tensor:
    """-H(p) - log C_D(kappa_q) - kappa_q A_D(kappa_p) loc_p . loc_q, in nats."""
    return -p.entropy() - q.log_normaliser() - q.concentration * (p.mean * q.loc).sum(-1)


# --- the angle between a draw and the mean direction: density exp(kappa cos t) sin(t)^(D - 2) on (0, pi)


@functools.cache
def _rule(device: torch.device) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes in (0, 1) and weights."""
    from numpy.polynomial.legendre import leggauss

    nodes, weights = (torch.as_tensor(part, device=device) for part in leggauss(NODES))
    return (nodes + 1) / 2, weights / 2


def _log_density(dim: int, kappa: Tensor, t: Tensor) -> Tensor:
    """kappa (cos t - 1) + (D - 2) log sin t, without its constant."""
    bend = -2 * kappa * (t / 2).sin().square()
    return bend + (dim - 2) * t.sin().clamp_min(1e-300).log() if dim > 2 else bend


class _Angle:
    """The distribution function at the edges of panels, one table a concentration; columns are panels."""

    def __init__(self, dim: int, kappa: Float[Tensor, "*B"]) -> None:
        self.dim, self.kappa = dim, kappa[..., None]
        root = ((dim - 2) ** 2 + 4 * self.kappa.square()).sqrt()
        cosine = 2 * self.kappa / ((dim - 2) + root).clamp_min(1e-300)
        mode = cosine.clamp(0, 1).arccos()
        # 1 - cosine loses digits where kappa is large: sin^2(mode) = (D - 2) cosine / kappa
        sine = (dim - 2) * cosine / self.kappa.clamp_min(1e-300)
        mode = torch.where(cosine > 0.9, sine.clamp(0, 1).sqrt().arcsin(), mode)
        bend = self.kappa * cosine + ((dim - 2) / mode.sin().square().clamp_min(1e-300) if dim > 2 else 0)
        width = WINDOW / bend.clamp_min(1e-300).sqrt()
        self.low = (mode - width).clamp_min(0)
        self.step = ((mode + width).clamp_max(math.pi) - self.low) / PANELS
        self.level = _log_density(dim, self.kappa, mode.clamp_min(1e-12))
        self.edges = self.low + self.step * torch.arange(PANELS + 1, device=kappa.device)
        nodes, weights = _rule(kappa.device)
        t = self.edges[..., :-1, None] + self.step[..., None] * nodes
        density = self.density(t, extra=1)
        mass = (density * weights).sum(-1) * self.step
        self.total = mass.sum(-1, keepdim=True)
        self.mass = torch.nn.functional.pad(mass.cumsum(-1), (1, 0)) / self.total
        resultant = bessel_ratio(dim / 2 - 1, self.kappa)
        self.resultant = resultant
        lean = (density * (t.cos() - resultant[..., None]) * weights).sum(-1) * self.step
        self.lean = torch.nn.functional.pad(lean.cumsum(-1), (1, 0)) / self.total  # d mass / d kappa at the edges

    def density(self, t: Tensor, *, extra: int = 0) -> Tensor:
        """Over its value at the mode; ``extra`` trailing axes of t are nodes."""
        kappa, level = self.kappa, self.level
        for _ in range(extra):
            kappa, level = kappa[..., None], level[..., None]
        return (_log_density(self.dim, kappa, t) - level).exp()

    def within(self, start: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Integrals from the edge ``start`` to t of the density, and of it times cos - E cos, over the total."""
        nodes, weights = _rule(t.device)
        points = start[..., None] + (t - start)[..., None] * nodes
        density = self.density(points, extra=1)
        scale = (t - start) / self.total
        lean = density * (points.cos() - self.resultant[..., None])
        return (density * weights).sum(-1) * scale, (lean * weights).sum(-1) * scale

    def invert(self, u: Float[Tensor, "*B n"]) -> tuple[Float[Tensor, "*B n"], Float[Tensor, "*B n"]]:
        """The angles at which the distribution function is u, and their derivatives in kappa."""
        panel = (torch.searchsorted(self.mass.contiguous(), u.contiguous(), right=True) - 1).clamp(0, PANELS - 1)
        start, target = self.edges.gather(-1, panel), u - self.mass.gather(-1, panel)
        share = self.mass.gather(-1, panel + 1) - self.mass.gather(-1, panel)
        low, high = start, start + self.step
        t = start + self.step * (target / share.clamp_min(1e-300)).clamp(0, 1)
        for _ in range(STEPS):  # Newton, kept inside by bisection
            error = self.within(start, t)[0] - target
            low, high = torch.where(error < 0, t, low), torch.where(error < 0, high, t)
            new = t - error * self.total / self.density(t).clamp_min(1e-300)
            before, t = t, torch.where((new >= low) & (new <= high), new, (low + high) / 2)
            if bool(((t - before).abs() <= 1e-15 * t).all()):
                break
        slope = self.lean.gather(-1, panel) + self.within(start, t)[1]
        return t, -slope * self.total / self.density(t).clamp_min(1e-300)


class _AngleQuantile(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dim: int, kappa: Tensor, u: Tensor) -> Tensor:
        """One table for each concentration; an expanded one is computed once."""
        shape = u.shape
        single = kappa.numel() > 0 and all(s == 0 or n == 1 for s, n in zip(kappa.stride(), kappa.shape, strict=True))
        if single:
            t, slope = _Angle(dim, kappa.flatten()[0].double()).invert(u.double().flatten())
            t, slope = t.unflatten(0, shape), slope.unflatten(0, shape)
        else:
            lead = u.ndim - kappa.ndim
            rows = u.double().flatten(0, lead - 1).movedim(0, -1) if lead else u.double()[..., None]
            t, slope = _Angle(dim, kappa.double()).invert(rows)
            t, slope = (
                (part.movedim(-1, 0).unflatten(0, shape[:lead]) if lead else part[..., 0]) for part in (t, slope)
            )
        ctx.save_for_backward(slope)
        ctx.kappa = (kappa.shape, kappa.dtype)
        return t

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[None, Tensor, None]:
        (slope,) = ctx.saved_tensors
        shape, dtype = ctx.kappa
        return None, (grad[0] * slope).sum_to_size(shape).to(dtype), None


def angle_icdf(dim: int, concentration: Float[Tensor, "*B"], u: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """The angle t between a draw and the mean direction at which its distribution function is u, float64.

    Increasing in u; differentiable in the concentration by the implicit function theorem. Memory: 16 numbers an element of u.

    Args:
        dim: D, at least 2.
        concentration: kappa >= 0; its shape ends that of u.
        u: in (0, 1).
    """
    return _AngleQuantile.apply(dim, concentration, u)
