"""Gaussian diffusion as a path model: prior divergence in closed form, reconstruction and diffusion by unbiased terms."""

import copy
import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from infimum.diffusion.decoder import decoder_of
from infimum.diffusion.heads import Head, check_head, convert, error_factor, input_scale, target
from infimum.diffusion.learned import AdaptiveBins, MonotoneNet
from infimum.diffusion.schedules import LAWS, FixedSchedule, LearnedLinear, Schedule, alpha_sigma
from infimum.errors import UserError
from infimum.evidence import Draws, PathModel, event_sum
from infimum.nets import ADMUNet, DiT, ResidualMLP, VDMUNet

__all__ = ["DiffusionConfig", "GaussianDiffusion", "schedule_of"]

SCHEDULES = (*LAWS, "learned", "monotone", "adaptive")

NETWORKS = ("mlp", "unet", "adm", "dit")

SPREAD_RATE = 0.01
"""Least weight of a step's newest errors in its optimal variance."""


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
        schedule_of(self.schedule, self.low, self.high)

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


def _network(config: DiffusionConfig) -> nn.Module:
    options: dict[str, Any] = {
        "width": config.width, "blocks": config.blocks, "fourier": config.frequencies, "dropout": config.dropout
    }  # fmt: skip
    if config.network == "mlp":
        return ResidualMLP(config.dims, **options)
    if config.network == "unet":
        return VDMUNet(config.shape[0], **options)
    if config.network == "dit":
        return DiT(config.shape[0], patch=config.patch, **options)
    return ADMUNet(config.shape[0], multiples=(1, *[2] * config.halvings), **options)


class GaussianDiffusion(PathModel):
    """-log p(x) <= prior + reconstruction + diffusion, in nats an item (VDM, 2107.00630; 2303.00848).

    z_t = alpha_t f + sigma_t eps on the variance-preserving path, p(z_1) = N(0, I), p(z_s | z_t) = q(z_s | z_t, f = x^(z_t)),
    p(x | z_0) of the decoder. The network is told the log-SNR, never the time, so that schedules may be exchanged. The lead of the
    draws is the time.

    Streams: "eps" (diffusion), "z0" (reconstruction).

    Args:
        config: see there.
        network: any module of ((N, *shape), (N,)) to (N, *shape), the second the log-SNR scaled to [0, 1] by the configured ends;
            the configured network by default. `load_model` cannot rebuild a model with a network of its own.
    """

    Config = DiffusionConfig
    weightable = True
    """Whether the diffusion loss may be weighted: the network alone minimises it, log-SNR by log-SNR."""
    spread: Tensor
    seen: Tensor

    def __init__(self, config: DiffusionConfig, network: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        self.decoder = decoder_of(config.levels)
        self.schedule = schedule_of(config.schedule, config.low, config.high)
        self.network = _network(config) if network is None else network
        self._flat = network is None and config.network == "mlp"
        self._reserve()

    def _reserve(self) -> None:
        """Room for the squared errors of each step, where variances are made of them."""
        for name in ("spread", "seen"):
            self._buffers.pop(name, None)
        if self.config.variance == "optimal":
            assert self.config.depth is not None
            self.register_buffer("spread", torch.zeros(self.config.depth))
            self.register_buffer("seen", torch.zeros(self.config.depth))

    def in_steps(
        self,
        depth: int | None,
        *,
        variance: Literal["posterior", "ratio", "optimal"] = "posterior",
        ratio: float = 1.0,
    ) -> "GaussianDiffusion":
        """The same networks as a model of T steps; "optimal" variances are those of `measure_variances`, or of more training."""
        other = copy.deepcopy(self)
        other.config = dataclasses.replace(self.config, depth=depth, variance=variance, ratio=ratio)
        other._reserve()
        return other.to(next(self.buffers(), torch.zeros(())).device)

    @torch.no_grad()
    def measure_variances(self, x: Float[Tensor, "B *shape"], draws: Draws) -> None:
        """Set the "optimal" variances from items: sigma_P^2 = sigma_Q^2 + E|mu_Q - mu_P|^2 / D for each step (2310.19789).

        Args:
            x: items that the model may know, of training.
            draws: K for each; steps that none of them visits keep what they have.

        Raises:
            UserError: variances that are not measured.
        """
        if self.config.variance != "optimal":
            raise UserError(
                f"variances of {self.config.variance!r} are not measured: take in_steps(T, variance='optimal') of the model"
            )
        f = self.encode(x)
        log_snr, cleaner, i = self._step(draws.lead())
        self._measure(self.mismatch(f, draws.normal("eps", f.shape[1]).to(f.dtype), log_snr, cleaner), i)

    @property
    def ceiling(self) -> float | None:
        """log p(x) of discrete data cannot exceed 0; a density has no ceiling."""
        return None if self.decoder.density else 0.0

    def encode(self, x: Float[Tensor, "B *shape"]) -> Float[Tensor, "B D"]:
        """f, flat: the data as they are diffused.

        Raises:
            UserError: items of another shape, or numbers that are no levels.
        """
        if tuple(x.shape[1:]) != self.config.shape:
            raise UserError(f"expected items of shape {self.config.shape}, got {tuple(x.shape[1:])}")
        return self.decoder.scaled(x.flatten(1))

    def predict(self, z: Float[Tensor, "N D"], log_snr: Float[Tensor, "N"]) -> Float[Tensor, "N D"]:
        """The head's output for latents at their log-SNRs. Heads "eps" start at z."""
        low, high = self.config.low, self.config.high
        inner = z * input_scale(self.config.head, log_snr)[:, None].to(z.dtype)
        condition = ((high - log_snr) / (high - low)).to(z.dtype)
        if self._flat:
            out = self.network(inner, condition)
        else:
            out = self.network(inner.unflatten(1, self.config.shape), condition).flatten(1)
        return out + z if self.config.head == "eps" else out

    def denoise(
        self,
        z: Float[Tensor, "N D"],
        log_snr: Float[Tensor, "N"],
        to: Head = "x",
        then: Float[Tensor, ""] | None = None,
    ) -> Float[Tensor, "N D"]:
        """The prediction as that of any head: "x" is the data, "eps" the noise, "score" the gradient of the log-density.

        Args:
            z: latents.
            log_snr: of each.
            to: the head.
            then: log-SNR to which a sampler steps, where the model's own step depends on it (`DiffEnc`); None: infinitely close.
        """
        out = self.predict(z, log_snr)
        return convert(out, z, log_snr[:, None].to(z.dtype), source=self.config.head, to=to)

    def error(
        self, f: Float[Tensor, "B D"], eps: Float[Tensor, "K B D"], log_snr: Float[Tensor, "K B"]
    ) -> Float[Tensor, "K B"]:
        """|eps - eps^|^2 of the noise, from the head's own error."""
        snr = log_snr[..., None].to(eps.dtype)
        alpha, sigma = alpha_sigma(snr)
        z = alpha * f + sigma * eps
        out = self.predict(z.flatten(0, 1), log_snr.flatten()).unflatten(0, z.shape[:2])
        out = out.to(torch.promote_types(out.dtype, torch.float32))
        wrong = event_sum((out - target(self.config.head, f.expand_as(eps), eps, snr)).square(), 1)
        return wrong * error_factor(self.config.head, log_snr).to(wrong.dtype)

    def prior(self, f: Float[Tensor, "B D"]) -> Float[Tensor, "B"]:
        """KL(q(z_1 | x) to N(0, I)) in nats: exact."""
        low = self.schedule.low
        alpha_2, sigma_2 = torch.sigmoid(low), torch.sigmoid(-low)
        rest = sigma_2 - 1 - torch.nn.functional.logsigmoid(-low)
        return 0.5 * (event_sum(f.square(), 1) * alpha_2 + f.shape[1] * rest)

    def reconstruction(
        self, x: Float[Tensor, "B *shape"], f: Float[Tensor, "B D"], draws: Draws
    ) -> Float[Tensor, "K B"]:
        """-log p(x | z_0) in nats of one draw of z_0 each. Stream: "z0"."""
        high = self.schedule.high
        eps = draws.normal("z0", f.shape[1]).to(f.dtype)
        return -self.decoder.log_prob(x.flatten(1), f + (-0.5 * high).exp().to(f.dtype) * eps, high)

    def diffusion(self, f: Float[Tensor, "B D"], draws: Draws, times: Schedule | None = None) -> Float[Tensor, "K B"]:
        """One unbiased term of the diffusion loss in nats for every draw; its time is the lead. Stream: "eps".

        Continuous time: -1/2 lambda'(t) |eps - eps^|^2. T steps: T KL(q(z_s | z_t, x) to p(z_s | z_t)), t = i/T, s = (i - 1)/T,
        which is T/2 expm1(lambda_s - lambda_t) |eps - eps^|^2 for variances of the posterior.

        Args:
            f: encoded data.
            draws: K for each item.
            times: another schedule of the same ends, which changes the variance alone.
        """
        lead = draws.lead()
        eps = draws.normal("eps", f.shape[1]).to(f.dtype)
        if self.config.depth is None:
            schedule = self.schedule if times is None else times
            log_snr = schedule.log_snr(lead)
            return -0.5 * schedule.slope(lead) * self.error(f, eps, log_snr)
        log_snr, cleaner, i = self._step(lead)
        return self.config.depth * self._transition(self.mismatch(f, eps, log_snr, cleaner), i)

    def _step(
        self, lead: Float[Tensor, "K B"]
    ) -> tuple[Float[Tensor, "K B"], Float[Tensor, "K B"], Float[Tensor, "K B"]]:
        """Log-SNRs at t = i/T and s = (i - 1)/T, and i, of a time within step i."""
        assert self.config.depth is not None
        steps = self.config.depth
        i = (lead * steps).floor().clamp(0, steps - 1) + 1
        return self.schedule.log_snr(i / steps), self.schedule.log_snr((i - 1) / steps), i

    def mismatch(
        self,
        f: Float[Tensor, "B D"],
        eps: Float[Tensor, "K B D"],
        log_snr: Float[Tensor, "K B"],
        cleaner: Float[Tensor, "K B"],
    ) -> Float[Tensor, "K B"]:
        """|mu_Q - mu_P|^2 / sigma_Q^2 of the step from ``log_snr`` to ``cleaner``, one draw of z_t each."""
        return torch.expm1(cleaner - log_snr) * self.error(f, eps, log_snr)

    def _transition(self, mismatch: Float[Tensor, "K B"], i: Float[Tensor, "K B"]) -> Float[Tensor, "K B"]:
        """KL(q(z_s | z_t, x) to p(z_s | z_t)) in nats: D/2 (w - 1 - log w) + w/2 |mu_Q - mu_P|^2 / sigma_Q^2 (2310.19789)."""
        if self.config.variance == "posterior":
            return 0.5 * mismatch
        if self.config.variance == "optimal" and self.training:
            self._measure(mismatch.detach(), i.detach())
        w = self.variance_ratio(i)
        return 0.5 * (self.config.dims * (w - 1 - w.log()) + w * mismatch)

    def variance_ratio(self, i: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """w = sigma_Q^2 / sigma_P^2 of step i from i/T to (i - 1)/T, at most 1 where it is optimal."""
        if self.config.variance == "optimal":
            return 1 / (1 + self.spread.to(i.dtype)[i.long() - 1])
        return torch.full_like(i, self.config.ratio)

    @torch.no_grad()
    def _measure(self, mismatch: Tensor, i: Tensor) -> None:
        """Moving mean over visits of |mu_Q - mu_P|^2 / (D sigma_Q^2), step by step; a step's first visits count in full."""
        at = i.flatten().long() - 1
        count = torch.bincount(at, minlength=len(self.spread)).to(self.spread)
        total = self.spread.new_zeros(len(self.spread)).index_add_(0, at, mismatch.flatten().to(self.spread))
        if dist.is_available() and dist.is_initialized():  # every process has the same variances
            both = torch.stack((count, total))
            dist.all_reduce(both)
            count, total = both.unbind()
        self.seen += count
        rate = (count / self.seen.clamp_min(1)).clamp_min(SPREAD_RATE).where(count > 0, 0.0)
        self.spread.lerp_(total / (self.config.dims * count.clamp_min(1)), rate)

    def check(self, x: Float[Tensor, "B *shape"]) -> None:
        """Refuse networks that could not be trained on such items; nothing to look at here."""

    def generate(self, draws: Draws) -> Float[Tensor, "K B *shape"]:
        """Items by ancestral sampling: as many steps as the model has, 250 in continuous time. Streams: "prior", "step/i"."""
        from infimum.diffusion.samplers import sample

        return sample(self, draws, steps=self.config.depth or 250)

    def constant(self, x: Float[Tensor, "B *shape"], s: Float[Tensor, "B D"]) -> Float[Tensor, "B"]:
        """Minus the prior divergence, in nats."""
        return -self.prior(s)

    def terms(self, x: Float[Tensor, "B *shape"], s: Float[Tensor, "B D"], draws: Draws) -> Float[Tensor, "K B"]:
        """Minus reconstruction and diffusion, in nats: E[constant + term] <= log p(x)."""
        diffusion = self.diffusion(s, draws)
        return -(self.reconstruction(x, s, draws).to(diffusion.dtype) + diffusion)
