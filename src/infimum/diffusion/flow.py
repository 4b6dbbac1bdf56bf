"""The probability-flow ODE of a diffusion model as a density: exact trace for importance weights, Hutchinson's for a bound."""

import math
from itertools import pairwise
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from infimum.diffusion.model import GaussianDiffusion
from infimum.diffusion.schedules import alpha_sigma
from infimum.errors import UserError
from infimum.evidence import Draws, LatentModel, PathModel, event_sum

__all__ = ["FlowBound", "FlowEvidence", "log_flow", "transport"]

Dequantisation = Literal["truncated-normal", "uniform"]


def log_flow(
    model: GaussianDiffusion,
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
    model: GaussianDiffusion,
    z: Float[Tensor, "N D"],
    *,
    steps: int = 100,
    probes: Float[Tensor, "N D"] | None = None,
    rows: int = 2**14,
) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N"]]:
    """z_1 at the end of dz/dlambda = -1/2 sigma (eps^ - sigma z), and log |dz_1 / dz_0|.

    Runge-Kutta of order 4 on a fixed grid of log-SNRs, so that no item depends on another. Exact but for the solver, whose error
    falls sixteenfold with twice the ``steps``.

    Args:
        model: in eval mode.
        z: z_0 = alpha_0 f + sigma_0 eps.
        steps: of the solver, 4 evaluations each.
        probes: +-1 (N, D), one for a whole path: Hutchinson's unbiased estimate instead of the trace.
        rows: (item, dimension) pairs at a time in the exact trace.
    """
    low, high = float(model.schedule.low), float(model.schedule.high)
    grid = torch.linspace(high, low, steps + 1, dtype=torch.float64, device=z.device)
    change = torch.zeros(len(z), dtype=torch.float64, device=z.device)

    def slopes(z: Tensor, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        """dz/dlambda, and its divergence."""
        sigma = alpha_sigma(log_snr)[1].to(z.dtype)

        def eps(z: Tensor) -> Tensor:
            return model.denoise(z, log_snr.expand(len(z)), to="eps")

        out, trace = _trace(eps, z, probes, rows)
        divergence = -0.5 * (sigma * trace.double() - sigma.double().square() * z.shape[1])
        return -0.5 * sigma * (out - sigma * z), divergence

    for now, then in pairwise(grid):
        h, middle = then - now, (now + then) / 2
        step = h.to(z.dtype)
        a, da = slopes(z, now)
        b, db = slopes(z + step / 2 * a, middle)
        c, dc = slopes(z + step / 2 * b, middle)
        d, dd = slopes(z + step * c, then)
        z = z + step / 6 * (a + 2 * b + 2 * c + d)
        change = change + h / 6 * (da + 2 * db + 2 * dc + dd)
    return z, change


def _trace(function: Any, z: Tensor, probes: Tensor | None, rows: int) -> tuple[Tensor, Tensor]:
    """The function's values and the trace of each row's Jacobian, by forward differentiation."""
    if probes is not None:
        pair = torch.func.jvp(function, (z,), (probes,))
        return pair[0], (pair[1] * probes).sum(1)
    n, d = z.shape
    basis = torch.eye(d, dtype=z.dtype, device=z.device)

    def diagonal(direction: Tensor) -> Tensor:
        return torch.func.jvp(function, (z,), (direction.expand(n, d),))[1] @ direction

    each = torch.func.vmap(diagonal, chunk_size=max(1, rows // n))(basis)
    return function(z), each.sum(0)


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
        assert self.model.config.levels is not None
        alpha, sigma = (float(part) for part in alpha_sigma(self.model.schedule.high.double()))
        return alpha, sigma, alpha / self.model.config.levels

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
    """P(x) as the flow's mass in the cell of x: the latent is z_0 within it, with an exact trace: certified weights.

    One draw gives the ELBO over the dequantisation noise; K draws the importance-weighted bound. Stream: "dequantisation".

    Args:
        model: of discrete data, in eval mode; up to some hundred dimensions (the trace takes as many forward derivatives).
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

    def encode(self, x: Float[Tensor, "B *shape"]) -> Float[Tensor, "B D"]:
        """f."""
        return self.model.encode(x)

    def sample(self, s: Float[Tensor, "B D"], draws: Draws) -> Float[Tensor, "K B D"]:
        """z_0 in the cell."""
        return self._sample(s, draws)

    def log_proposal(self, s: Float[Tensor, "B D"], z: Float[Tensor, "K B D"]) -> Float[Tensor, "K B"]:
        """log q(z_0 | x) in nats."""
        return self._log_q(s, z)

    def log_joint(self, x: Float[Tensor, "B *shape"], z: Float[Tensor, "K B D"]) -> Float[Tensor, "K B"]:
        """log p(z_0) in nats; p(x | z_0) is one in the cell."""
        return log_flow(self.model, z.flatten(0, 1), steps=self.steps).unflatten(0, z.shape[:2])


class FlowBound(_Flow, PathModel):
    """The same ELBO over dequantisation noise with Hutchinson's trace: unbiased terms of a lower bound, for any dimension.

    Noise inside the exponential would bias importance weights, so there are none. Streams: "dequantisation", "probe".

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

    def encode(self, x: Float[Tensor, "B *shape"]) -> Float[Tensor, "B D"]:
        """f."""
        return self.model.encode(x)

    def constant(self, x: Float[Tensor, "B *shape"], s: Float[Tensor, "B D"]) -> Float[Tensor, "B"]:
        """Nothing."""
        return s.new_zeros(len(s))

    def terms(self, x: Float[Tensor, "B *shape"], s: Float[Tensor, "B D"], draws: Draws) -> Float[Tensor, "K B"]:
        """log p^(z_0) - log q(z_0 | x) in nats, unbiased."""
        z = self._sample(s, draws)
        probes = (draws.uniform("probe", s.shape[1]) < 0.5).to(z.dtype) * 2 - 1
        value = log_flow(self.model, z.flatten(0, 1), steps=self.steps, probes=probes.flatten(0, 1))
        return value.unflatten(0, z.shape[:2]) - self._log_q(s, z)
