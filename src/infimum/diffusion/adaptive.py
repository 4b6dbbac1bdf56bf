"""The probability flow by an adaptive solver whose steps are every item's own."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from infimum.diffusion.model import GaussianDiffusion
from infimum.diffusion.schedules import alpha_sigma
from infimum.diffusion.trajectory import Trajectory
from infimum.errors import UserError

__all__ = ["adaptive_flow"]

# Dormand & Prince 1980, RK5(4)7FM: weights of the stages, of the step, and of the difference to the embedded order 4
NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
STAGES = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


@torch.no_grad()
def adaptive_flow(
    model: GaussianDiffusion | Trajectory, z: Float[Tensor, "N D"], *, tolerance: float = 1e-4, most: int = 1000
) -> tuple[Float[Tensor, "N D"], Int[Tensor, "N"]]:
    """z_0 of z_1 along dz/ds = -1/2 dlambda/ds sigma (eps^ - sigma z), and how often the network was asked for each item.

    Runge-Kutta of order 5 with an error of order 4 (Dormand & Prince 1980). Every item has a step size of its own, so that no item
    depends on another; items that have arrived are left out of the network's batch.

    Args:
        model: in eval mode, or its trajectory for these rows.
        z: at time 1.
        tolerance: of a step's root mean square error, absolute and relative to z.
        most: steps that an item may try.

    Raises:
        UserError: a tolerance that is not positive, or an item that does not arrive.
    """
    if not tolerance > 0:
        raise UserError(f"tolerance is {tolerance}, expected a number above 0")
    path = model if isinstance(model, Trajectory) else model.trajectory()
    low, high = path.start, path.end
    z = z.clone()
    at = torch.full((len(z),), low, dtype=torch.float64, device=z.device)
    step = torch.full_like(at, 0.02 * (high - low))
    asked = torch.zeros(len(z), dtype=torch.long, device=z.device)

    def slope(some: Trajectory, z: Tensor, s: Tensor) -> Tensor:
        sigma, rate = alpha_sigma(some.log_snr(s))[1].to(z.dtype), some.rate(s).to(z.dtype)
        return -0.5 * rate * sigma * (some.denoise(z, s, to="eps") - sigma * z)

    first = slope(path, z, at)  # the last stage of an accepted step is the first of the next one
    asked += 1
    for _ in range(most):
        rows = (at < high).nonzero()[:, 0]
        if not len(rows):
            return z, asked
        now, here, some = at[rows], z[rows], path.take(rows)
        h = torch.minimum(step[rows], high - now)
        width = h[:, None].to(z.dtype)
        slopes, guess = [first[rows]], here
        for node, weights in zip(NODES[1:], STAGES[1:], strict=True):
            guess = here + width * sum(w * k for w, k in zip(weights, slopes, strict=True))
            slopes.append(slope(some, guess, now + node * h))
        asked[rows] += len(slopes) - 1
        off = width * sum(w * k for w, k in zip(ERROR, slopes, strict=True))
        scale = tolerance * (1 + torch.maximum(here.abs(), guess.abs()))
        error = (off / scale).square().mean(1).sqrt().double()
        kept = rows[error <= 1]
        z[kept], first[kept] = guess[error <= 1], slopes[-1][error <= 1]
        at[kept] = torch.where(h >= high - now, high, now + h)[error <= 1]
        step[rows] = h * (0.9 * error.clamp_min(1e-10) ** -0.2).clamp(0.2, 10.0)
    raise UserError(
        f"{int((at < high).sum())} of {len(z)} items did not arrive in {most} steps: raise the tolerance ({tolerance:g}) or most"
    )
