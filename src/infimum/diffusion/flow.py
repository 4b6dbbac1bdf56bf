"""The probability-flow ODE of a diffusion model as a density: exact determinants for importance weights, or Hutchinson's trace."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from infimum.diffusion.model import GaussianDiffusion
from infimum.diffusion.schedules import alpha_sigma
from infimum.diffusion.trajectory import Trajectory
from infimum.errors import UserError
from infimum.evidence import Draws, LatentModel, PathModel, event_sum

__all__ = ["FlowBound", "FlowEvidence", "log_flow", "transport"]

LARGEST = 2**22
"""Numbers of Jacobians in float64 at a time."""

Dequantisation = Literal["truncated-normal", "uniform"]


def log_flow(
    model: GaussianDiffusion | Trajectory,
    z: Float[Tensor, "N D"],
    *,
    steps: int = 100,
    probes: Float[Tensor, "N D"] | None = None,
    rows: int = 2**14,
) -> Float[Tensor, "N"]:
    """log p(z_0) in nats under the probability-flow ODE from N(0, I) at time 1; see `transport` for the arguments.

    It is another model than the ELBO's: the deterministic flow.
    """
    end, change = transport(model, z, steps=steps, probes=probes, rows=rows)
    return event_sum(-0.5 * end.square(), 1).double() - 0.5 * z.shape[1] * math.log(2 * math.pi) + change


def transport(
    model: GaussianDiffusion | Trajectory,
    z: Float[Tensor, "N D"],
    *,
    steps: int = 100,
    probes: Float[Tensor, "N D"] | None = None,
    rows: int = 2**14,
) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N"]]:
    """z_1 at the end of dz/ds = -1/2 dlambda/ds sigma (eps^ - sigma z), and log |dz_1 / dz_0|; s is the log-SNR of a plain model.

    Runge-Kutta of order 4 on a fixed grid of s, so that no item depends on another. Without probes the determinant is that of the
    solver's own steps, so that the density is exact for the flow *in so many steps*, a model of its own; an integral of the trace
    would be off by the solver's error, tenths of a nat for networks that resolve grey levels. The distance of that model from the
    flow falls sixteenfold with twice the ``steps``.

    Args:
        model: in eval mode, or its trajectory for these rows (`Mulan`: for their auxiliary latents).
        z: z_0 = alpha_0 f + sigma_0 eps.
        steps: of the solver, 4 evaluations each.
        probes: +-1 (N, D), one for a whole path: Hutchinson's unbiased estimate of the integral of the trace, for any dimension.
        rows: (item, dimension) pairs at a time in the determinants, whose memory grows as N D^2.

    Raises:
        UserError: a network without a forward-mode derivative, or a step that folds space over, and has no density.
    """
    path = model if isinstance(model, Trajectory) else model.trajectory()
    grid = torch.linspace(path.end, path.start, steps + 1, dtype=torch.float64, device=z.device)
    change = torch.zeros(len(z), dtype=torch.float64, device=z.device)

    def slope(z: Tensor, s: Tensor) -> Tensor:
        s = s.expand(len(z))
        sigma, rate = alpha_sigma(path.log_snr(s))[1], path.rate(s)
        return -0.5 * (rate * sigma).to(z.dtype) * (path.denoise(z, s, to="eps") - sigma.to(z.dtype) * z)

    for now, then in pairwise(grid):
        h, middle = then - now, (now + then) / 2

        def step(z: Tensor, now: Tensor = now, middle: Tensor = middle, then: Tensor = then) -> Tensor:
            each = (then - now).to(z.dtype)
            a = slope(z, now)
            b = slope(z + each / 2 * a, middle)
            c = slope(z + each / 2 * b, middle)
            return z + each / 6 * (a + 2 * b + 2 * c + slope(z + each * c, then))

        if probes is None:
            z, inner = _log_determinant(step, z, rows)
            change = change + inner
            continue
        # the same stages, each with its divergence
        each, slopes, traces, at = h.to(z.dtype), [], [], z
        for s, share in ((now, 0.5), (middle, 0.5), (middle, 1.0), (then, 0.0)):
            value, trace = _hutchinson(lambda z, s=s: slope(z, s), at, probes)
            slopes.append(value)
            traces.append(trace.double())
            at = z + share * each * value
        a, b, c, d = slopes
        z = z + each / 6 * (a + 2 * b + 2 * c + d)
        change = change + h / 6 * (traces[0] + 2 * traces[1] + 2 * traces[2] + traces[3])
    return z, change


def _hutchinson(function: Any, z: Tensor, probes: Tensor) -> tuple[Tensor, Tensor]:
    """The function's values and an unbiased estimate of the trace of each row's Jacobian, by forward differentiation."""
    with _forward_derivatives():
        pair = torch.func.jvp(function, (z,), (probes,))
    return pair[0], (pair[1] * probes).sum(1)


def _log_determinant(function: Any, z: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """The function's values and the log-determinant of each row's Jacobian, in float64."""
    n, d = z.shape
    basis = torch.eye(d, dtype=z.dtype, device=z.device)
    with _forward_derivatives():
        jacobian = torch.func.vmap(
            lambda e: torch.func.jvp(function, (z,), (e.expand(n, d),))[1], chunk_size=max(1, rows // n)
        )(basis)
        value = function(z)
    parts: list[Any] = [
        torch.linalg.slogdet(some.transpose(0, 1).double()) for some in jacobian.split(max(1, LARGEST // d**2), 1)
    ]
    if not bool(torch.cat([part.sign > 0 for part in parts]).all()):
        raise UserError(
            "a step of the solver folds space over, so that its flow has no density: take more steps, or check that the network's "
            "output is finite"
        )
    return value, torch.cat([part.logabsdet for part in parts])


@contextmanager
def _forward_derivatives() -> Iterator[None]:
    """Attention by formula, as the fused one has no forward-mode derivative; one sentence where a network has none."""
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    except (NotImplementedError, RuntimeError) as error:
        if not any(words in str(error) for words in ("forward AD", "view size is not compatible")):
            raise
        raise UserError(
            f"the network has no forward-mode derivative, which the flow's likelihood needs: use the ELBO "
            f"({str(error).splitlines()[0][:100]})"
        ) from None


class _Flow:
    """Dequantisation of discrete data around z_0 = alpha_0 f, and the flow's density."""

    model: GaussianDiffusion
    dequantisation: Dequantisation
    steps: int

    def _check(self, model: GaussianDiffusion, dequantisation: Dequantisation, steps: int) -> None:
        if model.config.levels is None and dequantisation != "uniform":
            raise UserError("continuous data need no dequantisation: use log_flow(model, x) itself")
        if dequantisation not in ("truncated-normal", "uniform"):
            raise UserError(f"no dequantisation {dequantisation!r}: choose truncated-normal or uniform")
        if model.config.levels is None:
            raise UserError("continuous data need no dequantisation: use log_flow(model, x) itself")
        if steps < 1:
            raise UserError(f"the solver needs at least 1 step, got {steps}")

    def _cell(self) -> tuple[float, float, float]:
        """alpha_0, sigma_0, and the half width of a level's cell in z_0."""
        alpha, sigma = (float(part) for part in alpha_sigma(self.model.schedule.high.double()))
        return alpha, sigma, alpha * self.model.decoder.reach

    def _sample(self, f: Tensor, draws: Draws) -> Tensor:
        alpha, sigma, half = self._cell()
        u = draws.uniform("dequantisation", f.shape[1]).double()
        if self.dequantisation == "uniform":
            away = (2 * u - 1) * half
        else:
            tail = torch.special.ndtr(torch.tensor(-half / sigma, dtype=torch.float64))
            away = sigma * torch.special.ndtri(tail + u * (1 - 2 * tail))
        return (alpha * f.double() + away.clamp(-half, half)).to(f.dtype)

    def _log_q(self, f: Tensor, z: Tensor) -> Tensor:
        alpha, sigma, half = self._cell()
        d = f.shape[1]
        if self.dequantisation == "uniform":
            return torch.full(z.shape[:2], -d * math.log(2 * half), dtype=torch.float64, device=z.device)
        mass = math.erf(half / sigma / math.sqrt(2))
        away = (z.double() - alpha * f.double()) / sigma
        return event_sum(-0.5 * away.square(), 1) - d * (0.5 * math.log(2 * math.pi) + math.log(sigma) + math.log(mass))


class FlowEvidence(_Flow, LatentModel):
    """P(x) as the flow's mass in the cell of x: the latent is z_0 within it, with exact determinants: certified weights.

    The model is the flow in as many steps of Runge-Kutta, see `transport`. One draw gives the ELBO over the dequantisation noise; K
    draws the importance-weighted bound. Stream: "dequantisation".

    Args:
        model: of discrete data, in eval mode; up to some hundred dimensions (a determinant takes as many forward derivatives).
        dequantisation: "truncated-normal": the noise of z_0 that the network knows, cut off at the cell (2305.03935); "uniform".
        steps: of the solver.

    Raises:
        UserError: continuous data, an unknown dequantisation, no steps.
    """

    ceiling = 0.0

    def __init__(
        self, model: GaussianDiffusion, *, dequantisation: Dequantisation = "truncated-normal", steps: int = 100
    ) -> None:
        super().__init__()
        self._check(model, dequantisation, steps)
        self.model, self.dequantisation, self.steps = model, dequantisation, steps
        self.eval() if not model.training else self.train()

    def encode(self, x: Any) -> Any:
        """The model's."""
        return self.model.encode(x)

    def sample(self, s: Any, draws: Draws) -> Any:
        """(z_0 in the cell, what the trajectory depends on: a label or an auxiliary latent, or None)."""
        return self._sample(self.model.split(s)[0], draws), self.model.infer(s, draws)

    def log_proposal(self, s: Any, z: Any) -> Float[Tensor, "K B"]:
        """log q(z_0 | x) in nats, and log q(c | x)."""
        known = self._log_q(self.model.split(s)[0], z[0])
        return known if z[1] is None else known + self.model.log_context(s, z[1])[1]

    def log_joint(self, x: Any, z: Any) -> Float[Tensor, "K B"]:
        """log p(z_0 | c) in nats, and log p(c); p(x | z_0) is one in the cell."""
        clean, context = z
        path = self.model.trajectory_of(None if context is None else context.flatten(0, 1))
        value = log_flow(path, clean.flatten(0, 1), steps=self.steps).unflatten(0, clean.shape[:2])
        return value if context is None else value + self.model.log_context(self.model.encode(x), context)[0]


class FlowBound(_Flow, PathModel):
    """The same ELBO over dequantisation noise with Hutchinson's trace: terms of a lower bound, for any dimension.

    Unbiased but for the solver's error, which is that of an integral of the trace: compare with twice the ``steps``. Noise inside
    the exponential would bias importance weights, so there are none. Streams: "dequantisation", "probe".

    Args:
        model: of discrete data, in eval mode.
        dequantisation: as `FlowEvidence`.
        steps: of the solver.

    Raises:
        UserError: as `FlowEvidence`.
    """

    ceiling = 0.0

    def __init__(
        self, model: GaussianDiffusion, *, dequantisation: Dequantisation = "truncated-normal", steps: int = 100
    ) -> None:
        super().__init__()
        self._check(model, dequantisation, steps)
        self.model, self.dequantisation, self.steps = model, dequantisation, steps
        self.eval() if not model.training else self.train()

    def encode(self, x: Any) -> Any:
        """The model's."""
        return self.model.encode(x)

    def constant(self, x: Any, s: Any) -> Float[Tensor, "B"]:
        """Nothing."""
        f = self.model.split(s)[0]
        return f.new_zeros(len(f))

    def terms(self, x: Any, s: Any, draws: Draws) -> Float[Tensor, "K B"]:
        """log p^(z_0 | c) - log q(z_0 | x), and log p(c) - log q(c | x), in nats, unbiased."""
        f, context = self.model.split(s)[0], self.model.infer(s, draws)
        z = self._sample(f, draws)
        probes = (draws.uniform("probe", f.shape[1]) < 0.5).to(z.dtype) * 2 - 1
        path = self.model.trajectory_of(None if context is None else context.flatten(0, 1))
        value = log_flow(path, z.flatten(0, 1), steps=self.steps, probes=probes.flatten(0, 1)).unflatten(0, z.shape[:2])
        value = value - self._log_q(f, z)
        if context is None:
            return value
        log_p, log_q = self.model.log_context(s, context)
        return value + log_p - log_q
