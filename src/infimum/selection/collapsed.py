"""The collapsed bound of variational PPCA: the latents summed out exactly, the parameters by Monte Carlo.

alpha E_q[sum_i log N(x_i; mu, W W^T + sigma^2 I)] - KL(q || prior) lies between the surrogate that coordinate ascent raises and the
log evidence; its distance from the surrogate is the part of the bound's looseness that can be seen.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from infimum.errors import UserError
from infimum.evidence import Estimate
from infimum.selection.cells import Cells
from infimum.selection.posterior import Posterior, log_density
from infimum.selection.settings import PPCASettings
from infimum.selection.spectrum import Spectrum, gamma_divergence

__all__ = ["collapsed", "collapsed_spectrum"]


def _estimate(values: Float[Tensor, "K"], settings: PPCASettings) -> Estimate:
    draws = len(values)
    if draws < 2:
        raise UserError(f"the collapsed bound needs at least 2 draws for a standard error, got {draws}")
    mean, stderr = values.mean()[None].cpu(), (values.std() / math.sqrt(draws))[None].cpu()
    return Estimate(
        mean, stderr, "lower", False, "elbo", f"collapsed bound, {draws} draws", settings.target, draws=draws,
        obstacle="the average over draws of the parameters holds in expectation only",
    )  # fmt: skip


def collapsed(
    posterior: Posterior, divergence: float, cells: Cells, settings: PPCASettings, *, draws: int = 64, rng: Any
) -> Estimate:
    """The collapsed bound of a data set in nats, with its Monte Carlo standard error.

    Args:
        posterior: q of all parameters.
        divergence: of q from the prior, in nats.
        cells: the data, from which ``posterior.mean`` was subtracted.
        settings: the model's.
        draws: of the parameters.
        rng: numpy Generator or RandomState.
    """
    loadings, precision, shift = posterior.draw(draws, rng)
    moved = bool((posterior.mean_var > 0).any())
    values = [
        log_density(cells, loadings[k], float(precision[k]), shift[k] if moved else None).sum() for k in range(draws)
    ]
    return _estimate(settings.alpha * torch.stack(values) - divergence, settings)


def collapsed_spectrum(
    spectrum: Spectrum,
    row: int,
    eigenvalues: Float[Tensor, "d"],
    n: int,
    settings: PPCASettings,
    *,
    draws: int = 64,
    rng: Any,
) -> Estimate:
    """The same for complete data, from the eigenvalues alone: in the principal axes, d q^2 operations a draw whatever n is.

    Args:
        spectrum: solutions for several numbers of components.
        row: which of them.
        eigenvalues: of the second moment of the data.
        n: rows of the data.
        settings: the model's.
        draws: of the parameters.
        rng: numpy Generator or RandomState.
    """
    d, alpha = eigenvalues.shape[0], settings.alpha
    there = (spectrum.spread[row] > 0).nonzero().flatten()
    power, spread, prior = (t[row, there] for t in (spectrum.power, spectrum.spread, spectrum.prior))
    q = len(there)
    v = torch.as_tensor(rng.standard_normal((draws, d, q)), device=eigenvalues.device) * spread.sqrt()
    v[:, there, torch.arange(q, device=there.device)] += power.sqrt()
    precision = torch.full((draws,), 1 / float(spectrum.noise[row]), dtype=torch.float64, device=eigenvalues.device)
    divergence = ((power + d * spread) / prior - d - d * (spread / prior).log()).sum() / 2
    if settings.noise == "gamma":
        shape = torch.tensor(settings.noise_shape + alpha * n * d / 2, dtype=torch.float64)
        rate = shape * float(spectrum.noise[row])
        divergence = divergence + gamma_divergence(shape, rate, settings.noise_shape, settings.noise_rate)
        scale = torch.as_tensor(rng.standard_gamma(float(shape), draws), device=eigenvalues.device)
        precision = precision * scale / float(shape)
    eye = torch.eye(q, dtype=torch.float64, device=eigenvalues.device)
    inner = eye + precision[:, None, None] * v.transpose(1, 2) @ v
    moment = v.transpose(1, 2) @ (n * eigenvalues[:, None] * v)
    explained = torch.linalg.solve(inner, moment).diagonal(dim1=1, dim2=2).sum(-1)
    quadratic = precision * n * eigenvalues.sum() - precision.square() * explained
    likelihood = n * d * (precision.log() - math.log(2 * math.pi)) - n * torch.linalg.slogdet(inner)[1] - quadratic
    return _estimate(alpha * likelihood / 2 - divergence, settings)
