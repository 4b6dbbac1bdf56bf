"""What a denoising network predicts: noise, data, velocity, score, flow or EDM's F, and how each is turned into any other.

All on the variance-preserving path z = alpha f + sigma eps at log-SNR lambda.
"""

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from infimum.diffusion.schedules import alpha_sigma
from infimum.errors import UserError

__all__ = ["HEADS", "SIGMA_DATA", "Head", "check_head", "convert", "error_factor", "input_scale", "target"]

Head = Literal["eps", "x", "v", "score", "flow", "edm"]
HEADS: tuple[Head, ...] = get_args(Head)

SIGMA_DATA = 0.5
"""Standard deviation of the data in EDM's preconditioning (2206.00364)."""


def check_head(head: str) -> None:
    """Refuse an unknown name.

    Raises:
        UserError: with the known ones.
    """
    if head not in HEADS:
        raise UserError(f"no head {head!r}: choose one of {', '.join(HEADS)}")


def target(
    head: Head, f: Float[Tensor, "*n"], eps: Float[Tensor, "*n"], log_snr: Float[Tensor, "*m"]
) -> Float[Tensor, "*n"]:
    """What the network of a head should say of z = alpha f + sigma eps. ``log_snr`` is broadcast against the data."""
    alpha, sigma = alpha_sigma(log_snr)
    if head == "eps":
        return eps
    if head == "x":
        return f
    if head == "v":
        return alpha * eps - sigma * f
    if head == "score":
        return -eps / sigma
    if head == "flow":
        return eps - f
    norm = (sigma.square() + (SIGMA_DATA * alpha).square()).sqrt()
    return (sigma * f - SIGMA_DATA**2 * alpha * eps) / (SIGMA_DATA * norm)


def convert(
    out: Float[Tensor, "*n"], z: Float[Tensor, "*n"], log_snr: Float[Tensor, "*m"], *, source: Head, to: Head
) -> Float[Tensor, "*n"]:
    """The output of a network with head ``source`` as that of head ``to``."""
    if source == to:
        return out
    f, eps = _both(out, z, log_snr, source)
    return target(to, f, eps, log_snr)


def _both(out: Tensor, z: Tensor, log_snr: Tensor, head: Head) -> tuple[Tensor, Tensor]:
    """(f, eps) that a network's output stands for."""
    alpha, sigma = alpha_sigma(log_snr)
    if head == "eps":
        return (z - sigma * out) / alpha, out
    if head == "x":
        return out, (z - alpha * out) / sigma
    if head == "v":
        return alpha * z - sigma * out, alpha * out + sigma * z
    if head == "score":
        eps = -sigma * out
        return (z - sigma * eps) / alpha, eps
    if head == "flow":
        total = alpha + sigma
        return (z - sigma * out) / total, (z + alpha * out) / total
    norm = (sigma.square() + (SIGMA_DATA * alpha).square()).sqrt()
    f = (SIGMA_DATA**2 * alpha * z / norm + sigma * SIGMA_DATA * out) / norm
    eps = (sigma * z / norm - SIGMA_DATA * alpha * out) / norm
    return f, eps


def error_factor(head: Head, log_snr: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Squared error of the noise over that of the head: |eps - eps^|^2 = factor |target - output|^2."""
    alpha, sigma = alpha_sigma(log_snr)
    if head == "eps":
        return torch.ones_like(log_snr)
    if head == "x":
        return log_snr.exp()
    if head == "v":
        return alpha.square()
    if head == "score":
        return sigma.square()
    if head == "flow":
        return (alpha / (alpha + sigma)).square()
    return (SIGMA_DATA * alpha).square() / (sigma.square() + (SIGMA_DATA * alpha).square())


def input_scale(head: Head, log_snr: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """What z is multiplied by before the network: EDM scales to variance one, flow to the straight path, others not."""
    alpha, sigma = alpha_sigma(log_snr)
    if head == "edm":
        return 1 / (sigma.square() + (SIGMA_DATA * alpha).square()).sqrt()
    if head == "flow":
        return 1 / (alpha + sigma)
    return torch.ones_like(log_snr)
