"""What a diffusion model is built from: shape, schedule, head, steps, network."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from infimum.diffusion.heads import Head, check_head
from infimum.diffusion.learned import AdaptiveBins, MonotoneNet
from infimum.diffusion.schedules import LAWS, FixedSchedule, LearnedLinear, Schedule
from infimum.errors import UserError
from infimum.nets import ADMUNet, DiT, ResidualMLP, VDMUNet

__all__ = ["DiffusionConfig", "network_of", "schedule_of"]

SCHEDULES = (*LAWS, "learned", "monotone", "adaptive")

NETWORKS = ("mlp", "unet", "adm", "dit")


def schedule_of(name: str, low: float, high: float) -> Schedule:
    """A schedule by name: one of `LAWS`, "learned" (linear, both ends), "monotone" (network) or "adaptive" (bins).

    Raises:
        UserError: an unknown name, or ends that it does not reach.
    """
    if name not in SCHEDULES:
        raise UserError(f"no schedule {name!r}: choose one of {', '.join(SCHEDULES)}")
    made: dict[str, Any] = {"learned": LearnedLinear, "monotone": MonotoneNet, "adaptive": AdaptiveBins}
    return made[name](low, high) if name in made else FixedSchedule(name, low, high)


@dataclass(frozen=True)
class DiffusionConfig:
    """What a `GaussianDiffusion` is built from.

    Attributes:
        shape: of an item.
        levels: V, of integers 0 .. V - 1; None: continuous data, whose density depends on ``high``.
        schedule: log-SNR over time: see `schedule_of`.
        low: lambda_min, where the latent is noise (8 bits: -5).
        high: lambda_max, where it is clean (8 bits: 13.3; V levels: the half width 1 / V about 3 exp(-high / 2)).
        head: what the network predicts.
        depth: T steps, or None: continuous time.
        variance: of p(z_s | z_t), with T steps: that of the "posterior" q(z_s | z_t, x); smaller than it by the factor ``ratio``;
            or "optimal", larger by the mean squared error of each step's mean, which training measures (2310.19789).
        ratio: w = sigma_Q^2 / sigma_P^2, for variance "ratio".
        network: "mlp"; or for images (C, H, W) "unet": VDM's, which keeps the resolution, "adm": one that halves it, or "dit": a
            transformer over patches.
        width: of the network.
        blocks: of the network ("adm": at each resolution).
        halvings: how often "adm" halves the resolution, with twice the channels below the first.
        patch: side of a patch of "dit", in pixels.
        octaves: of Fourier features of discrete data, from V / 2 cycles in a unit downwards (VDM: 2, which are its k = 7 and 6 at 8
            bits); None: all down to half a cycle, a table of the levels for the network to round by.
        dropout: in the network.
        classes: an item is a pair (x, label) with labels 0 .. classes - 1, and the model that of x given its label; 0: no labels.
    """

    shape: tuple[int, ...]
    levels: int | None = None
    schedule: str = "linear"
    low: float = -5.0
    high: float = 13.3
    head: Head = "eps"
    depth: int | None = None
    variance: Literal["posterior", "ratio", "optimal"] = "posterior"
    ratio: float = 1.0
    network: Literal["mlp", "unet", "adm", "dit"] = "mlp"
    width: int = 256
    blocks: int = 4
    halvings: int = 1
    patch: int = 2
    octaves: int | None = None
    dropout: float = 0.0
    classes: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        check_head(self.head)
        if not self.shape or min(self.shape) < 1:
            raise UserError(f"an item needs a shape of positive sizes, got {self.shape}")
        if self.octaves is not None and (self.octaves < 0 or (self.levels is None and self.octaves > 0)):
            raise UserError(
                f"octaves is {self.octaves}, expected a number of at least 0 for discrete data, and none for continuous data"
            )
        if self.depth is not None and self.depth < 1:
            raise UserError(f"depth is {self.depth}, expected at least 1 step, or none for continuous time")
        if self.variance not in ("posterior", "ratio", "optimal"):
            raise UserError(f"no variance {self.variance!r}: choose posterior, ratio or optimal")
        if not (0 < self.ratio < math.inf) or (self.ratio != 1 and self.variance != "ratio"):
            raise UserError(
                f"ratio is {self.ratio}: it is sigma_Q^2 / sigma_P^2 above 0, and 1 unless variance is 'ratio' ({self.variance!r})"
            )
        if self.variance != "posterior" and self.depth is None:
            raise UserError(
                f"variance {self.variance!r} needs a depth: in continuous time any ratio but 1 makes the bound infinitely loose"
            )
        if self.network not in NETWORKS:
            raise UserError(f"no network {self.network!r}: choose one of {', '.join(NETWORKS)}")
        if self.network != "mlp" and len(self.shape) != 3:
            raise UserError(
                f"network {self.network!r} is for images (C, H, W), and items have shape {self.shape}: choose mlp"
            )
        step = {"adm": 2**self.halvings, "dit": self.patch}.get(self.network, 1)
        if self.halvings < 0 or self.patch < 1 or any(side % step for side in self.shape[1:]):
            raise UserError(
                f"network {self.network!r} with {self.halvings} halvings and patch {self.patch} needs sides that {step} divides, "
                f"got {self.shape}: change halvings or patch"
            )
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout is {self.dropout}, expected a share from 0 up to but not including 1")
        if self.classes < 0:
            raise UserError(f"classes is {self.classes}, expected the number of labels, or 0 for none")
        self.check_schedule()

    def check_schedule(self) -> None:
        """Refuse an unknown schedule, or ends that it does not reach."""
        schedule_of(self.schedule, self.low, self.high)

    @property
    def context(self) -> int:
        """Numbers that the network is told besides the noise level."""
        return self.classes

    @property
    def dims(self) -> int:
        """Dimensions of an item."""
        return math.prod(self.shape)

    @property
    def frequencies(self) -> tuple[float, ...]:
        """Of the Fourier features, in cycles in a unit of z, the lowest first."""
        if self.levels is None:
            return ()
        count = int(math.log2(self.levels)) + 1 if self.octaves is None else self.octaves
        return tuple(self.levels / 2 * 2.0**-j for j in reversed(range(count)))


def network_of(config: DiffusionConfig) -> nn.Module:
    """The configured denoiser."""
    options: dict[str, Any] = {
        "width": config.width, "blocks": config.blocks, "fourier": config.frequencies, "dropout": config.dropout,
        "context": config.context,
    }  # fmt: skip
    if config.network == "mlp":
        return ResidualMLP(config.dims, **options)
    if config.network == "unet":
        return VDMUNet(config.shape[0], **options)
    if config.network == "dit":
        return DiT(config.shape[0], patch=config.patch, **options)
    return ADMUNet(config.shape[0], multiples=(1, *[2] * config.halvings), **options)
