"""Drawing from a diffusion model: from noise to data along a grid of log-SNRs, by a stochastic or a deterministic rule."""

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from infimum.diffusion.adaptive import adaptive_flow
from infimum.diffusion.model import GaussianDiffusion
from infimum.diffusion.schedules import alpha_sigma
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
    decode: bool = True,
) -> Float[Tensor, "K B *shape"]:
    """Items from the model, at times that are even between 1 and 0 ("heun": at even log-SNRs).

    Args:
        model: in eval mode.
        draws: K draws of B items. Streams: "prior" (z_1), "step/i".
        sampler: "ancestral": p(z_s | z_t), exact for a model of as many steps; "ddim" (2010.02502), from deterministic at ``eta`` 0
            to ancestral at 1; "dpmpp-2m", second order with one evaluation a step (2211.01095); "heun", EDM's second order with
            two evaluations a step (2206.00364); "ode", Runge-Kutta of order 4 with four evaluations a step;
            "ode-adaptive", of order 5 with steps that every item chooses by itself, see `adaptive_flow`.
        steps: how many ("ode-adaptive": no matter).
        eta: of "ddim", in [0, 1].
        clip: predictions of the data into [-1, 1] ("ancestral", "ddim", "dpmpp-2m").
        churn: of "heun": share of noise added in each step, S_churn / N (2206.00364), up to sqrt(2) - 1.
        tolerance: of "ode-adaptive".
        decode: z_0 to the most probable x; otherwise z_0 / alpha_0.

    Raises:
        UserError: an unknown sampler, no steps, or an eta or churn out of range.
    """
    if sampler not in SAMPLERS:
        raise UserError(f"no sampler {sampler!r}: choose one of {', '.join(SAMPLERS)}")
    if steps < 1:
        raise UserError(f"steps is {steps}, expected at least 1")
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
    z = draws.normal("prior", model.config.dims).to(dtype)
    shape = z.shape[:2]
    z = z.flatten(0, 1)
    low, high = float(model.schedule.low), float(model.schedule.high)
    if sampler == "heun":
        grid = torch.linspace(low, high, steps + 1, dtype=torch.float64, device=z.device)
    else:
        grid = model.schedule.log_snr(torch.linspace(1, 0, steps + 1, dtype=torch.float64, device=z.device)).double()

    def noise(i: int) -> Tensor:
        return draws.normal(f"step/{i}", model.config.dims).to(dtype).flatten(0, 1)

    def predicted(z: Tensor, log_snr: Tensor, then: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(f^, eps^)."""
        f = model.denoise(z, log_snr.expand(len(z)), to="x", then=then)
        if clip:
            f = f.clamp(-1, 1)
        alpha, sigma = (part.to(dtype) for part in alpha_sigma(log_snr))
        return f, (z - alpha * f) / sigma

    if sampler == "ode-adaptive":
        z, _ = adaptive_flow(model, z, tolerance=tolerance)
    last: tuple[Tensor, Tensor] | None = None
    for i in range(0 if sampler == "ode-adaptive" else steps):
        now, then = grid[i], grid[i + 1]
        if sampler in ("ancestral", "ddim"):
            strength = 1.0 if sampler == "ancestral" else eta
            f, eps = predicted(z, now, then)
            z = _ddim(z, f, eps, now, then, strength, wide[i].to(dtype) * noise(i) if strength else None)
        elif sampler == "dpmpp-2m":
            f, _ = predicted(z, now)
            z = _second_order(z, f, now, then, last)
            last = f, (then - now) / 2
        elif sampler == "heun":
            z = _heun(model, z, now, then, churn, noise(i) if churn else None)
        else:
            z = _runge_kutta(model, z, now, then)
    clean = z / alpha_sigma(grid[-1])[0].to(dtype)
    out = model.decoder.decode(clean) if decode else clean
    return out.unflatten(0, shape).unflatten(-1, model.config.shape)


def _ddim(z: Tensor, f: Tensor, eps: Tensor, now: Tensor, then: Tensor, eta: float, noise: Tensor | None) -> Tensor:
    """z_s = alpha_s f^ + sqrt(sigma_s^2 - eta^2 sigma_Q^2) eps^ + eta sigma_Q noise; eta = 1 is q(z_s | z_t, f^)."""
    alpha, sigma = alpha_sigma(then)
    q_2 = -torch.expm1(now - then) * sigma.square()  # sigma_s^2 (1 - exp(lambda_t - lambda_s))
    z = alpha.to(z.dtype) * f + (sigma.square() - eta**2 * q_2).clamp_min(0).sqrt().to(z.dtype) * eps
    return z if noise is None else z + (eta * q_2.sqrt()).to(z.dtype) * noise


def _second_order(z: Tensor, f: Tensor, now: Tensor, then: Tensor, last: tuple[Tensor, Tensor] | None) -> Tensor:
    """DPM-Solver++(2M) in half log-SNRs (2211.01095, algorithm 2)."""
    h = (then - now) / 2
    d = f
    if last is not None:
        weight = (h / (2 * last[1])).to(z.dtype)
        d = (1 + weight) * f - weight * last[0]
    ratio = (alpha_sigma(then)[1] / alpha_sigma(now)[1]).to(z.dtype)
    return ratio * z - (alpha_sigma(then)[0] * torch.expm1(-h)).to(z.dtype) * d


def _heun(model: GaussianDiffusion, z: Tensor, now: Tensor, then: Tensor, churn: float, noise: Tensor | None) -> Tensor:
    """One step of EDM's sampler in x = z / alpha at noise levels s = exp(-lambda / 2)."""
    s, s_next = (-now / 2).exp(), (-then / 2).exp()
    x = z / alpha_sigma(now)[0].to(z.dtype)
    if noise is not None:
        more = s * (1 + churn)
        x = x + (more.square() - s.square()).sqrt().to(z.dtype) * noise
        s = more

    def slope(x: Tensor, s: Tensor) -> Tensor:
        log_snr = -2 * s.log()
        f = model.denoise(x * alpha_sigma(log_snr)[0].to(x.dtype), log_snr.expand(len(x)), to="x")
        return (x - f) / s.to(x.dtype)

    step = (s_next - s).to(z.dtype)
    d = slope(x, s)
    guess = x + step * d
    x = x + step / 2 * (d + slope(guess, s_next))
    return x * alpha_sigma(then)[0].to(z.dtype)


def _runge_kutta(model: GaussianDiffusion, z: Tensor, now: Tensor, then: Tensor) -> Tensor:
    """Order 4 in lambda: dz / dlambda = -1/2 sigma (eps^ - sigma z)."""
    h = (then - now).to(z.dtype)

    def slope(z: Tensor, log_snr: Tensor) -> Tensor:
        sigma = alpha_sigma(log_snr)[1].to(z.dtype)
        return -0.5 * sigma * (model.denoise(z, log_snr.expand(len(z)), to="eps") - sigma * z)

    middle = (now + then) / 2
    a = slope(z, now)
    b = slope(z + h / 2 * a, middle)
    c = slope(z + h / 2 * b, middle)
    return z + h / 6 * (a + 2 * b + 2 * c + slope(z + h * c, then))
