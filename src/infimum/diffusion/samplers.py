"""Drawing from a diffusion model: from noise to data along a grid of log-SNRs, by a stochastic or a deterministic rule."""

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from infimum.diffusion.adaptive import adaptive_flow
from infimum.diffusion.model import GaussianDiffusion
from infimum.diffusion.schedules import alpha_sigma
from infimum.diffusion.trajectory import ScalarTrajectory, Trajectory
from infimum.errors import UserError
from infimum.evidence import Draws

__all__ = ["SAMPLERS", "Sampler", "edm_levels", "sample"]

Sampler = Literal["ancestral", "ddim", "dpmpp-2m", "heun", "ode", "ode-adaptive"]
SAMPLERS: tuple[Sampler, ...] = get_args(Sampler)


def edm_levels(steps: int, *, low: float = 0.002, high: float = 80.0, rho: float = 7.0) -> Float[Tensor, "steps"]:
    """Noise levels of EDM from ``high`` down to ``low``, even in sigma^(1 / rho) (2206.00364, eq. 5).

    Raises:
        UserError: fewer than two steps, or levels that do not fall.
    """
    if steps < 2 or not 0 < low < high:
        raise UserError(
            f"EDM's levels need at least 2 steps and 0 < low < high, got {steps} steps from {high} to {low}"
        )
    part = torch.arange(steps, dtype=torch.float64) / (steps - 1)
    return (high ** (1 / rho) + part * (low ** (1 / rho) - high ** (1 / rho))) ** rho


@torch.no_grad()
def sample(
    model: GaussianDiffusion,
    draws: Draws,
    *,
    sampler: Sampler = "ancestral",
    steps: int = 250,
    eta: float = 0.0,
    clip: bool = False,
    churn: float = 0.0,
    tolerance: float = 1e-4,
    labels: Int[Tensor, "B"] | None = None,
    guidance: float = 0.0,
    decode: bool = True,
) -> Float[Tensor, "K B *shape"]:
    """Items from the model, at times that are even between 1 and 0 ("heun": at even log-SNRs).

    Args:
        model: in eval mode.
        draws: K draws of B items. Streams: "prior" (z_1), "step/i", and those of the model's trajectory.
        sampler: "ancestral": p(z_s | z_t), exact for a model of as many steps; "ddim" (2010.02502), from deterministic at ``eta`` 0
            to ancestral at 1; "dpmpp-2m", second order with one evaluation a step (2211.01095); "heun", EDM's second order with
            two evaluations a step (2206.00364); "ode", Runge-Kutta of order 4 with four evaluations a step;
            "ode-adaptive", of order 5 with steps that every item chooses by itself, see `adaptive_flow`.
        steps: how many ("ode-adaptive": no matter).
        eta: of "ddim", in [0, 1].
        clip: predictions of the data into [-1, 1] ("ancestral", "ddim", "dpmpp-2m").
        churn: of "heun": share of noise added in each step, S_churn / N (2206.00364), up to sqrt(2) - 1.
        tolerance: of "ode-adaptive".
        labels: of the B items, for a model with classes.
        guidance: w of classifier-free guidance, see `GuidedTrajectory`; 0: none.
        decode: z_0 to the most probable x; otherwise z_0 / alpha_0.

    Raises:
        UserError: an unknown sampler, no steps, an eta or churn out of range, labels that the model does not take, or churn for a
            model whose noise levels are a curve.
    """
    if sampler not in SAMPLERS:
        raise UserError(f"no sampler {sampler!r}: choose one of {', '.join(SAMPLERS)}")
    if steps < 1:
        raise UserError(f"steps is {steps}, expected at least 1")
    if not 0 <= guidance < math.inf:
        raise UserError(f"guidance is {guidance}, expected a finite number of at least 0")
    if not 0 <= eta <= 1 or not 0 <= churn <= math.sqrt(2) - 1:
        raise UserError(f"eta is {eta} and churn {churn}, expected eta in [0, 1] and churn in [0, sqrt(2) - 1]")
    wide = torch.ones(steps, dtype=torch.float64)  # standard deviation of p(z_s | z_t) over that of the posterior
    if sampler == "ancestral" and model.config.variance != "posterior":
        if steps != model.config.depth:
            raise UserError(
                f"the model has variances of its own for its {model.config.depth} steps, and {steps} were asked: sample in as "
                "many, or by another sampler"
            )
        wide = model.variance_ratio(torch.arange(steps, 0, -1, dtype=torch.float64)).rsqrt()
    parameter = next(iter(model.network.parameters()), None)  # schedules are float64
    dtype = torch.float32 if parameter is None else parameter.dtype
    path = model.trajectory(draws, labels, guidance)
    z = draws.normal("prior", model.config.dims).to(dtype)
    shape = z.shape[:2]
    z = z.flatten(0, 1)
    if sampler == "heun":
        grid = torch.linspace(path.start, path.end, steps + 1, dtype=torch.float64, device=z.device)
    else:
        grid = path.of_times(torch.linspace(1, 0, steps + 1, dtype=torch.float64, device=z.device))

    def noise(i: int) -> Tensor:
        return draws.normal(f"step/{i}", model.config.dims).to(dtype).flatten(0, 1)

    def predicted(z: Tensor, s: Tensor, log_snr: Tensor, then: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(f^, eps^)."""
        f = path.denoise(z, s, to="x", then=then)
        if clip:
            f = f.clamp(-1, 1)
        alpha, sigma = (part.to(dtype) for part in alpha_sigma(log_snr))
        return f, (z - alpha * f) / sigma

    if sampler == "ode-adaptive":
        z, _ = adaptive_flow(path, z, tolerance=tolerance)
    last: tuple[Tensor, Tensor] | None = None
    for i in range(0 if sampler == "ode-adaptive" else steps):
        s, s_next = (grid[j].expand(len(z)) for j in (i, i + 1))
        now, then = path.log_snr(s), path.log_snr(s_next)
        if sampler in ("ancestral", "ddim"):
            strength = 1.0 if sampler == "ancestral" else eta
            f, eps = predicted(z, s, now, s_next)
            z = _ddim(z, f, eps, now, then, strength, wide[i].to(dtype) * noise(i) if strength else None)
        elif sampler == "dpmpp-2m":
            f, _ = predicted(z, s, now)
            z = _second_order(z, f, now, then, last)
            last = f, (then - now) / 2
        elif sampler == "heun":
            z = _heun(path, z, s, s_next, churn, noise(i) if churn else None)
        else:
            z = _runge_kutta(path, z, s, s_next)
    end = grid[-1].expand(len(z))
    last_step = decode and model.decoder.predicts
    clean = path.denoise(z, end, to="x") if last_step else z / alpha_sigma(path.log_snr(end))[0].to(dtype)
    out = model.decoder.decode(clean) if decode else clean
    return out.unflatten(0, shape).unflatten(-1, model.config.shape)


def _ddim(z: Tensor, f: Tensor, eps: Tensor, now: Tensor, then: Tensor, eta: float, noise: Tensor | None) -> Tensor:
    """z_s = alpha_s f^ + sqrt(sigma_s^2 - eta^2 sigma_Q^2) eps^ + eta sigma_Q noise; eta = 1 is q(z_s | z_t, f^)."""
    alpha, sigma = alpha_sigma(then)
    # sigma_s^2 (1 - exp(lambda_t - lambda_s)); rounding may make a curve that stands still fall
    q_2 = (-torch.expm1(now - then) * sigma.square()).clamp_min(0)
    z = alpha.to(z.dtype) * f + (sigma.square() - eta**2 * q_2).clamp_min(0).sqrt().to(z.dtype) * eps
    return z if noise is None else z + (eta * q_2.sqrt()).to(z.dtype) * noise


def _second_order(z: Tensor, f: Tensor, now: Tensor, then: Tensor, last: tuple[Tensor, Tensor] | None) -> Tensor:
    """DPM-Solver++(2M) in half log-SNRs (2211.01095, algorithm 2)."""
    h = (then - now) / 2
    d = f
    if last is not None:
        # a dimension whose noise level stood still in the last step has nothing to extrapolate from
        weight = torch.where(last[1] > 0, h / (2 * last[1]), 0.0).to(z.dtype)
        d = (1 + weight) * f - weight * last[0]
    ratio = (alpha_sigma(then)[1] / alpha_sigma(now)[1]).to(z.dtype)
    return ratio * z - (alpha_sigma(then)[0] * torch.expm1(-h)).to(z.dtype) * d


def _heun(path: Trajectory, z: Tensor, s: Tensor, s_next: Tensor, churn: float, noise: Tensor | None) -> Tensor:
    """One step of EDM's sampler in x = z / alpha at noise levels exp(-lambda / 2)."""
    now, then = path.log_snr(s), path.log_snr(s_next)
    x = z / alpha_sigma(now)[0].to(z.dtype)
    if noise is not None:
        if not isinstance(path, ScalarTrajectory):
            raise UserError(f"churn is {churn}, and added noise leaves a curve of noise levels: use churn=0")
        level = (-now / 2).exp()
        more = level * (1 + churn)
        x = x + (more.square() - level.square()).sqrt().to(z.dtype) * noise
        now = -2 * more.log()
        s = now[:, 0]

    def slope(x: Tensor, s: Tensor, log_snr: Tensor) -> Tensor:
        f = path.denoise(x * alpha_sigma(log_snr)[0].to(x.dtype), s, to="x")
        return (x - f) * (log_snr / 2).exp().to(x.dtype)

    step = ((-then / 2).exp() - (-now / 2).exp()).to(z.dtype)
    d = slope(x, s, now)
    x = x + step / 2 * (d + slope(x + step * d, s_next, then))
    return x * alpha_sigma(then)[0].to(z.dtype)


def _runge_kutta(path: Trajectory, z: Tensor, s: Tensor, s_next: Tensor) -> Tensor:
    """Order 4 in s: dz / ds = -1/2 dlambda/ds sigma (eps^ - sigma z)."""
    h = (s_next - s)[:, None].to(z.dtype)

    def slope(z: Tensor, s: Tensor) -> Tensor:
        sigma, rate = alpha_sigma(path.log_snr(s))[1].to(z.dtype), path.rate(s).to(z.dtype)
        return -0.5 * rate * sigma * (path.denoise(z, s, to="eps") - sigma * z)

    middle = (s + s_next) / 2
    a = slope(z, s)
    b = slope(z + h / 2 * a, middle)
    c = slope(z + h / 2 * b, middle)
    return z + h / 6 * (a + 2 * b + 2 * c + slope(z + h * c, s_next))
