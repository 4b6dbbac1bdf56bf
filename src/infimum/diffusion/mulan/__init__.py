"""MuLAN: learned, multivariate, data-dependent noise (Sahoo et al. 2024, 2312.13236)."""

from infimum.diffusion.mulan.curves import (
    Curves,
    MonotoneSchedule,
    PolynomialCurves,
    PolynomialSchedule,
    ScalarSchedule,
    VectorSchedule,
    path_integral,
)
from infimum.diffusion.mulan.encoder import LatentEncoder
from infimum.diffusion.mulan.latents import GaussianLatent, KHot, Latent, NoLatent, OneHot, latent_of
from infimum.diffusion.mulan.model import Mulan, MulanConfig, VectorTrajectory, schedule_report
from infimum.diffusion.mulan.subsets import (
    chosen,
    gumbel,
    log_count,
    log_ordered,
    log_subset,
    straight_through,
    sum_of_gamma,
)

__all__ = [
    "Curves",
    "GaussianLatent",
    "KHot",
    "Latent",
    "LatentEncoder",
    "MonotoneSchedule",
    "Mulan",
    "MulanConfig",
    "NoLatent",
    "OneHot",
    "PolynomialCurves",
    "PolynomialSchedule",
    "ScalarSchedule",
    "VectorSchedule",
    "VectorTrajectory",
    "chosen",
    "gumbel",
    "latent_of",
    "log_count",
    "log_ordered",
    "log_subset",
    "path_integral",
    "schedule_report",
    "straight_through",
    "sum_of_gamma",
]
