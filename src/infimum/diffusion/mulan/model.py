"""MuLAN: diffusion whose noise is learned, one schedule for each dimension, made of an auxiliary latent (2312.13236)."""

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from infimum.diffusion.config import DiffusionConfig, schedule_of
from infimum.diffusion.heads import Head, convert, error_factor, input_scale, target
from infimum.diffusion.model import GaussianDiffusion
from infimum.diffusion.mulan.curves import (
    Curves,
    MonotoneSchedule,
    PolynomialSchedule,
    ScalarSchedule,
    VectorSchedule,
)
from infimum.diffusion.mulan.encoder import LatentEncoder
from infimum.diffusion.mulan.latents import Divergence, LatentKind, Noise, latent_of
from infimum.diffusion.schedules import Schedule, alpha_sigma
from infimum.diffusion.trajectory import Trajectory
from infimum.errors import UserError
from infimum.evidence import Draws, event_sum
from infimum.nets import mlp

__all__ = ["Mulan", "MulanConfig", "VectorTrajectory", "schedule_report"]


@dataclass(frozen=True)
class MulanConfig(DiffusionConfig):
    """What a `Mulan` is built from.

    Attributes:
        schedule: "polynomial" or "monotone", learned between fixed ends; or one for all, as in `schedule_of`.
        multivariate: whether a learned schedule has a curve for every dimension.
        schedule_width: hidden units of a learned schedule (paper: as many as dimensions).
        latent: "k-hot", "one-hot", "gaussian" or "none".
        size: m, numbers of the latent (paper: 50).
        active: k, of "k-hot" (paper: 15).
        noise: of "k-hot": "gumbel", "sog", "sog-official" or "none", see `KHot`.
        divergence: of "k-hot": "subset", "ordered", "deterministic" or "categorical", see `KHot`; the last makes no bound.
        encoder_network: "mlp", or "conv" for images.
        encoder_width: of the encoder.
        encoder_blocks: of the encoder (paper: 4).
    """

    schedule: str = "polynomial"
    multivariate: bool = True
    schedule_width: int = 64
    latent: LatentKind = "k-hot"
    size: int = 16
    active: int = 4
    noise: Noise = "gumbel"
    divergence: Divergence = "subset"
    encoder_network: Literal["mlp", "conv"] = "mlp"
    encoder_width: int = 64
    encoder_blocks: int = 4

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        super().__post_init__()
        if self.classes or self.variance != "posterior":
            raise UserError(
                f"a learned noise has no labels and the variances of the posterior, got {self.classes} classes and variance "
                f"{self.variance!r}"
            )
        if self.encoder_network not in ("mlp", "conv"):
            raise UserError(f"no encoder network {self.encoder_network!r}: choose mlp or conv")
        if self.encoder_network == "conv" and len(self.shape) != 3:
            raise UserError(
                f"encoder network 'conv' is for images (C, H, W), and items have shape {self.shape}: choose mlp"
            )
        if self.encoder_width < 4 or self.encoder_blocks < 1:
            raise UserError(
                f"an encoder has a width of at least 4 and a block, got {self.encoder_width} and {self.encoder_blocks}"
            )
        latent_of(self.latent, self.size, self.active, self.noise, self.divergence)

    @property
    def context(self) -> int:
        """Numbers of the latent."""
        return 0 if self.latent == "none" else self.size

    def check_schedule(self) -> None:
        """Refuse an unknown schedule."""
        if self.schedule == "adaptive":
            raise UserError("schedule 'adaptive' follows the errors of one log-SNR for all: use polynomial or monotone")
        if self.schedule not in ("polynomial", "monotone"):
            schedule_of(self.schedule, self.low, self.high)


class Mulan(GaussianDiffusion):
    """-log p(x) <= E_q(c|x)[prior + reconstruction + diffusion] + KL(q(c | x) to p(c)), in nats an item.

    Given c, z_t = alpha(c, t) f + sigma(c, t) eps with a log-SNR for each dimension, and the denoiser is told c and the mean
    log-SNR. In continuous time the diffusion term is -1/2 sum_i lambda_i'(c, t) |eps_i - eps^_i|^2, an integral along a path that
    the schedule may choose: where the denoiser is not Bayes' the bound depends on it. One draw of c for each of the time.

    Streams: "c", "eps", "z0".

    Args:
        config: see there.
        network: any module of ((N, *shape), (N,), (N, size)) to (N, *shape): image, mean log-SNR scaled to [0, 1] by the configured
            ends, latent; the configured network by default. `load_model` cannot rebuild a model with a network of its own.
        encoder: any module of (N, *shape) to (N, numbers of the latent's parameters); the configured network by default.
    """

    Config = MulanConfig
    config: MulanConfig
    schedule: Any
    weightable = False
    separable = False

    def __init__(self, config: MulanConfig, network: nn.Module | None = None, encoder: nn.Module | None = None) -> None:
        super().__init__(config, network)
        self.latent = latent_of(config.latent, config.size, config.active, config.noise, config.divergence)
        self._flat_encoder = encoder is None and config.encoder_network == "mlp"
        self.encoder = self._encoder() if encoder is None and self.latent.numbers else encoder

    def _schedule(self, config: DiffusionConfig) -> VectorSchedule:
        assert isinstance(config, MulanConfig)
        made = {"polynomial": PolynomialSchedule, "monotone": MonotoneSchedule}.get(config.schedule)
        if made is None:
            return ScalarSchedule(schedule_of(config.schedule, config.low, config.high))
        return made(
            config.dims if config.multivariate else 1, config.context, config.schedule_width, config.low, config.high
        )

    def _encoder(self) -> nn.Module:
        config = self.config
        if config.encoder_network == "mlp":
            return mlp(config.dims, [config.encoder_width] * 2, self.latent.numbers, "silu")
        channels, height, width = config.shape
        return LatentEncoder(
            (channels, height, width), self.latent.numbers, width=config.encoder_width, blocks=config.encoder_blocks,
            fourier=config.frequencies, dropout=config.dropout,
        )  # fmt: skip

    @property
    def surrogate(self) -> str:
        """Why its terms make no bound, or ""."""
        return self.latent.surrogate

    # --- the inference model

    def encode(self, x: Float[Tensor, "B *shape"]) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B n"]]:
        """(f, parameters of q(c | x)).

        Raises:
            UserError: items of another shape, numbers that are no levels, or parameters that are not finite.
        """
        f = self.scaled(x)
        if self.encoder is None:
            return f, f[:, :0]
        s = self.encoder(f if self._flat_encoder else f.unflatten(1, self.config.shape))
        if s.shape != (len(f), self.latent.numbers):
            raise UserError(
                f"the encoder makes {tuple(s.shape)} of {len(f)} items: a {self.config.latent} latent of size "
                f"{self.latent.size} needs {self.latent.numbers} numbers an item"
            )
        if not bool(torch.isfinite(s).all()):
            raise UserError("the encoder of the latent makes numbers that are not finite: lower the learning rate")
        return f, s.to(torch.promote_types(s.dtype, torch.float32))

    def infer(self, s: Any, draws: Draws) -> Float[Tensor, "K B m"]:
        """c of q(c | x). Stream: "c"."""
        return self.latent.sample(s[1], draws)[0]

    def log_context(self, s: Any, context: Float[Tensor, "K B m"]) -> tuple[Tensor, Tensor]:
        """(log p(c), log q(c | x)) in nats."""
        return self.latent.log_prior(context), self.latent.log_q(s[1], context)

    # --- the generative model

    def predict(
        self, z: Float[Tensor, "N D"], log_snr: Float[Tensor, "N d"], context: Float[Tensor, "N m"] | None = None
    ) -> Float[Tensor, "N D"]:
        """The head's output for latents at their log-SNRs, d = 1 or one for each dimension. Heads "eps" start at z."""
        low, high = self.config.low, self.config.high
        inner = z * input_scale(self.config.head, log_snr).to(z.dtype)
        level = ((high - log_snr.mean(1)) / (high - low)).to(z.dtype)
        assert context is not None
        out = self.network(inner if self._flat else inner.unflatten(1, self.config.shape), level, context.to(z.dtype))
        return out.flatten(1) + (z if self.config.head == "eps" else 0)

    def denoise(
        self,
        z: Float[Tensor, "N D"],
        log_snr: Float[Tensor, "N d"],
        to: Head = "x",
        then: Float[Tensor, "#N"] | None = None,
        context: Float[Tensor, "N m"] | None = None,
    ) -> Float[Tensor, "N D"]:
        """The prediction as that of any head, at a log-SNR for each dimension; ``then`` changes nothing."""
        return convert(self.predict(z, log_snr, context), z, log_snr.to(z.dtype), source=self.config.head, to=to)

    def trajectory(
        self, draws: Draws | None = None, labels: Int[Tensor, "B"] | None = None, guidance: float = 0.0
    ) -> Trajectory:
        """Along which it is sampled, one latent of the prior for every draw. Stream: "c".

        Raises:
            UserError: labels or guidance, or no draws.
        """
        if labels is not None or guidance:
            raise UserError("a learned noise has no labels, and guidance goes to a label: leave both out")
        if draws is None:
            raise UserError(
                "the noise depends on a latent: give draws, or use trajectory_of(c) for latents of your own"
            )
        return self.trajectory_of(self.latent.prior(draws).flatten(0, 1))

    def trajectory_of(self, context: Float[Tensor, "N m"] | None) -> Trajectory:
        """That of given latents.

        Raises:
            UserError: no latents, or of another size.
        """
        if context is None or context.ndim != 2 or context.shape[1] != self.config.context:
            raise UserError(
                f"expected latents (N, {self.config.context}), got {None if context is None else tuple(context.shape)}: "
                "infer(s, draws) makes them, flattened over draws and items"
            )
        return VectorTrajectory(self, context)

    # --- the bound

    def squares(
        self,
        f: Float[Tensor, "B D"],
        eps: Float[Tensor, "K B D"],
        log_snr: Float[Tensor, "N d"],
        context: Float[Tensor, "N m"],
    ) -> Float[Tensor, "N D"]:
        """(eps_i - eps^_i)^2 of every dimension, from the head's own error; N = K B rows."""
        rows, noise, snr = f.expand_as(eps).flatten(0, 1), eps.flatten(0, 1), log_snr.to(eps.dtype)
        alpha, sigma = alpha_sigma(snr)
        out = self.predict(alpha * rows + sigma * noise, log_snr, context)
        out = out.to(torch.promote_types(out.dtype, torch.float32))
        return (out - target(self.config.head, rows, noise, snr)).square() * error_factor(self.config.head, snr)

    def parts(self, x: Any, s: Any, draws: Draws) -> dict[str, Float[Tensor, "..."]]:
        """The summands of -ELBO in nats: "prior" (B,), closed form; "reconstruction", "diffusion" and "divergence" (K, B)."""
        f, parameters = s
        context, divergence = self.latent.sample(parameters, draws)
        return {
            "prior": self.prior(f),
            "reconstruction": self.reconstruction(x, f, draws),
            "diffusion": self._diffusion(f, context.flatten(0, 1), draws),
            "divergence": divergence,
        }

    def _diffusion(self, f: Float[Tensor, "B D"], context: Float[Tensor, "N m"], draws: Draws) -> Float[Tensor, "K B"]:
        curves: Curves = self.schedule.given(context)
        eps, t = draws.normal("eps", f.shape[1]).to(f.dtype), draws.lead().flatten()
        depth = self.config.depth
        if depth is None:
            log_snr, factor = curves.log_snr(t), -curves.slope(t)
        else:
            i = (t * depth).floor().clamp(0, depth - 1) + 1
            log_snr = curves.log_snr(i / depth)
            factor = depth * torch.expm1(curves.log_snr((i - 1) / depth) - log_snr)
        squares = self.squares(f, eps, log_snr, context)
        return 0.5 * event_sum(factor.to(squares.dtype) * squares, 1).unflatten(0, draws.shape)

    def diffusion(
        self, f: Float[Tensor, "B D"], draws: Draws, times: Schedule | None = None, context: Tensor | None = None
    ) -> Float[Tensor, "K B"]:
        """One unbiased term of the diffusion loss in nats for every draw, given a latent (B, m) for every item.

        Raises:
            UserError: times of another schedule, or no latents.
        """
        if times is not None or context is None:
            raise UserError(
                "the diffusion loss of a learned noise follows its own schedule, given latents: give context alone"
            )
        return self._diffusion(f, context.expand(draws.shape[0], -1, -1).flatten(0, 1), draws)

    def terms(self, x: Any, s: Any, draws: Draws) -> Float[Tensor, "K B"]:
        """Minus reconstruction, diffusion and divergence of the latent, in nats."""
        each = self.parts(x, s, draws)
        rest = each["reconstruction"].to(each["diffusion"].dtype) + each["diffusion"]
        return -(rest + each["divergence"].to(rest.dtype))

    @torch.no_grad()
    def check(self, x: Float[Tensor, "B *shape"]) -> None:
        """Warn of dimensions that do not vary, whose curves nothing identifies."""
        if len(x) > 1 and self.config.multivariate and not isinstance(self.schedule, ScalarSchedule):
            still = int((x.flatten(1) == x.flatten(1)[:1]).all(0).sum())
            if still:
                warnings.warn(
                    f"{still} of {self.config.dims} dimensions are the same in all items looked at: their schedules are not "
                    "identified",
                    stacklevel=2,
                )


class VectorTrajectory(Trajectory):
    """The curves of given latents, s = -t.

    Args:
        model: the denoiser.
        context: latents (N, m).
        curves: theirs; made of them if not given.
    """

    start, end = -1.0, 0.0

    def __init__(self, model: Mulan, context: Float[Tensor, "N m"], curves: Curves | None = None) -> None:
        self.model, self.context = model, context
        self.curves = model.schedule.given(context) if curves is None else curves

    def log_snr(self, s: Float[Tensor, "N"]) -> Float[Tensor, "N d"]:
        return self.curves.log_snr(-s)

    def rate(self, s: Float[Tensor, "N"]) -> Float[Tensor, "N d"]:
        return -self.curves.slope(-s)

    def denoise(
        self, z: Float[Tensor, "N D"], s: Float[Tensor, "N"], to: Head = "x", then: Float[Tensor, "N"] | None = None
    ) -> Float[Tensor, "N D"]:
        return self.model.denoise(z, self.log_snr(s), to=to, context=self.context)

    def of_times(self, t: Float[Tensor, "T"]) -> Float[Tensor, "T"]:
        return -t.double()

    def take(self, rows: Int[Tensor, "n"]) -> "VectorTrajectory":
        return VectorTrajectory(self.model, self.context[rows], self.curves.take(rows))


@torch.no_grad()
def schedule_report(
    model: Mulan, x: Float[Tensor, "B *shape"], draws: Draws, *, times: int = 11
) -> dict[str, Float[Tensor, "..."]]:
    """The schedules that items have.

    Args:
        model: in eval mode.
        x: items.
        draws: of their latents.
        times: evenly from 0 to 1.

    Returns:
        "time" (T,); "log_snr" (T, d), the mean over draws and items; "spread" (T, d), the standard deviation over latents;
        "divergence" (), mean KL(q(c | x) to p(c)) in nats. Warns where the latent is unused.
    """
    s = model.encode(x)
    context, divergence = model.latent.sample(s[1], draws)
    curves = model.schedule.given(context.flatten(0, 1))
    t = torch.linspace(0, 1, times, dtype=torch.float64, device=x.device)
    rows = divergence.numel()
    found = torch.stack([curves.log_snr(one.expand(rows)) for one in t])
    report = {
        "time": t,
        "log_snr": found.mean(1),
        "spread": found.std(1, correction=0),
        "divergence": divergence.mean(),
    }
    if model.latent.size and float(report["divergence"]) < 1e-2 and float(report["spread"].max()) < 1e-2:
        warnings.warn(
            "the auxiliary latent is unused: it says nothing of the items and moves no schedule", stacklevel=2
        )
    return report
