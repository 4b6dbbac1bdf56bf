"""Gaussian diffusion as a path model: prior divergence in closed form, reconstruction and diffusion by unbiased terms."""

import copy
import dataclasses
from typing import Any, Literal

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn

from infimum.diffusion.config import DiffusionConfig, network_of, schedule_of
from infimum.diffusion.decoder import decoder_of
from infimum.diffusion.heads import Head, convert, error_factor, input_scale, target
from infimum.diffusion.schedules import Schedule, alpha_sigma
from infimum.diffusion.trajectory import GuidedTrajectory, ScalarTrajectory, Trajectory
from infimum.errors import UserError
from infimum.evidence import Draws, PathModel, event_sum

__all__ = ["GaussianDiffusion"]

SPREAD_RATE = 0.01
"""Least weight of a step's newest errors in its optimal variance."""


class GaussianDiffusion(PathModel):
    """-log p(x) <= prior + reconstruction + diffusion, in nats an item (VDM, 2107.00630; 2303.00848).

    z_t = alpha_t f + sigma_t eps on the variance-preserving path, p(z_1) = N(0, I), p(z_s | z_t) = q(z_s | z_t, f = x^(z_t)),
    p(x | z_0) of the decoder. The network is told the log-SNR, never the time, so that schedules may be exchanged. The lead of the
    draws is the time.

    Streams: "eps" (diffusion), "z0" (reconstruction).

    Args:
        config: see there.
        network: any module of ((N, *shape), (N,)) to (N, *shape), the second the log-SNR scaled to [0, 1] by the configured ends;
            with classes it is given the label as well, (N, classes) of 0 and 1, all 0 for none. The configured network by default.
            `load_model` cannot rebuild a model with a network of its own.
    """

    Config = DiffusionConfig
    weightable = True
    """Whether the diffusion loss may be weighted: the network alone minimises it, log-SNR by log-SNR."""
    separable = True
    """Whether the expected bound of continuous time depends on the schedule by its ends alone."""
    spread: Tensor
    seen: Tensor

    def __init__(self, config: DiffusionConfig, network: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        self.target = "log p(x|c)" if config.classes else "log p(x)"
        self.decoder = decoder_of(config.levels)
        self.schedule = self._schedule(config)
        self.network = network_of(config) if network is None else network
        self._flat = network is None and config.network == "mlp"
        self._reserve()

    def _schedule(self, config: DiffusionConfig) -> Any:
        return schedule_of(config.schedule, config.low, config.high)

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
    def measure_variances(self, x: Any, draws: Draws) -> None:
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
        f, context = self.split(self.encode(x))
        log_snr, cleaner, i = self._step(draws.lead())
        self._measure(self.mismatch(f, draws.normal("eps", f.shape[1]).to(f.dtype), log_snr, cleaner, context), i)

    @property
    def ceiling(self) -> float | None:
        """log p(x) of discrete data cannot exceed 0; a density has no ceiling."""
        return None if self.decoder.density else 0.0

    def encode(self, x: Any) -> Any:
        """f, flat: the data as they are diffused, (B, D). With classes x is a pair, and f has the label beside it: (B, classes).

        Raises:
            UserError: items of another shape, numbers that are no levels, or what are no labels.
        """
        if not self.config.classes:
            return self.scaled(x)
        if not isinstance(x, tuple | list) or len(x) != 2:
            raise UserError(
                f"a model of {self.config.classes} classes takes pairs (items, labels), got {type(x).__name__}: give it the labels"
            )
        f = self.scaled(x[0])
        return f, self.labels(x[1]).to(f.dtype)

    def scaled(self, x: Float[Tensor, "B *shape"]) -> Float[Tensor, "B D"]:
        """f of items alone.

        Raises:
            UserError: items of another shape, or numbers that are no levels.
        """
        if tuple(x.shape[1:]) != self.config.shape:
            raise UserError(f"expected items of shape {self.config.shape}, got {tuple(x.shape[1:])}")
        return self.decoder.scaled(x.flatten(1))

    def labels(self, label: Int[Tensor, "B"]) -> Float[Tensor, "B classes"]:
        """One-hot; a label of -1 means none, all 0.

        Raises:
            UserError: a model without labels, or labels out of range.
        """
        classes = self.config.classes
        if not classes:
            raise UserError("the model was trained without labels, and none can be asked of it: build it with classes")
        if label.ndim != 1 or label.is_floating_point():
            raise UserError(f"expected int64 labels of shape (B,), got {label.dtype} of shape {tuple(label.shape)}")
        if label.numel() and not -1 <= int(label.min()) <= int(label.max()) < classes:
            raise UserError(
                f"labels lie in 0 .. {classes - 1}, or are -1 for none, got {int(label.min())} to {int(label.max())}"
            )
        hot = torch.nn.functional.one_hot(label.clamp_min(0), classes).float()
        return hot * (label >= 0)[:, None]

    def predict(
        self, z: Float[Tensor, "N D"], log_snr: Float[Tensor, "N"], context: Float[Tensor, "N m"] | None = None
    ) -> Float[Tensor, "N D"]:
        """The head's output for latents at their log-SNRs. Heads "eps" start at z."""
        low, high = self.config.low, self.config.high
        inner = z * input_scale(self.config.head, log_snr)[:, None].to(z.dtype)
        told = (((high - log_snr) / (high - low)).to(z.dtype), *(() if context is None else (context,)))
        out = self.network(inner if self._flat else inner.unflatten(1, self.config.shape), *told).flatten(1)
        return out + z if self.config.head == "eps" else out

    def denoise(
        self,
        z: Float[Tensor, "N D"],
        log_snr: Float[Tensor, "N"],
        to: Head = "x",
        then: Float[Tensor, "#N"] | None = None,
        context: Float[Tensor, "N m"] | None = None,
    ) -> Float[Tensor, "N D"]:
        """The prediction as that of any head: "x" is the data, "eps" the noise, "score" the gradient of the log-density.

        Args:
            z: latents.
            log_snr: of each.
            to: the head.
            then: log-SNR to which a sampler steps, where the model's own step depends on it (`DiffEnc`); None: infinitely close.
            context: one-hot labels of a model with classes.
        """
        out = self.predict(z, log_snr, context)
        return convert(out, z, log_snr[:, None].to(z.dtype), source=self.config.head, to=to)

    def trajectory(
        self, draws: Draws | None = None, labels: Int[Tensor, "B"] | None = None, guidance: float = 0.0
    ) -> Trajectory:
        """Along which it is sampled.

        Args:
            draws: K draws of B items, where rows differ by something that is drawn (`Mulan`).
            labels: of the B items of a model with classes; every draw has them.
            guidance: see `GuidedTrajectory`.

        Raises:
            UserError: labels of a model without classes, none for one with classes, or guidance without labels.
        """
        if labels is None:
            if self.config.classes:
                raise UserError(f"a model of {self.config.classes} classes is asked for items of a label: give labels")
            if guidance:
                raise UserError(f"guidance is {guidance} and there are no labels to guide to: give labels")
            return ScalarTrajectory(self)
        context = self.labels(labels)
        if draws is not None:
            context = context.expand(draws.shape[0], -1, -1).flatten(0, 1)
        return GuidedTrajectory(self, context, guidance) if guidance else ScalarTrajectory(self, context)

    def error(
        self,
        f: Float[Tensor, "B D"],
        eps: Float[Tensor, "K B D"],
        log_snr: Float[Tensor, "K B"],
        context: Float[Tensor, "B m"] | None = None,
    ) -> Float[Tensor, "K B"]:
        """|eps - eps^|^2 of the noise, from the head's own error."""
        snr = log_snr[..., None].to(eps.dtype)
        alpha, sigma = alpha_sigma(snr)
        z = alpha * f + sigma * eps
        rows = None if context is None else context.expand(len(eps), -1, -1).flatten(0, 1)
        out = self.predict(z.flatten(0, 1), log_snr.flatten(), rows).unflatten(0, z.shape[:2])
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

    def diffusion(
        self,
        f: Float[Tensor, "B D"],
        draws: Draws,
        times: Schedule | None = None,
        context: Float[Tensor, "B m"] | None = None,
    ) -> Float[Tensor, "K B"]:
        """One unbiased term of the diffusion loss in nats for every draw; its time is the lead. Stream: "eps".

        Continuous time: -1/2 lambda'(t) |eps - eps^|^2. T steps: T KL(q(z_s | z_t, x) to p(z_s | z_t)), t = i/T, s = (i - 1)/T,
        which is T/2 expm1(lambda_s - lambda_t) |eps - eps^|^2 for variances of the posterior.

        Args:
            f: encoded data.
            draws: K for each item.
            times: another schedule of the same ends, which changes the variance alone.
            context: one-hot labels of a model with classes.
        """
        lead = draws.lead()
        eps = draws.normal("eps", f.shape[1]).to(f.dtype)
        if self.config.depth is None:
            schedule = self.schedule if times is None else times
            log_snr = schedule.log_snr(lead)
            return -0.5 * schedule.slope(lead) * self.error(f, eps, log_snr, context)
        log_snr, cleaner, i = self._step(lead)
        return self.config.depth * self._transition(self.mismatch(f, eps, log_snr, cleaner, context), i)

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
        context: Float[Tensor, "B m"] | None = None,
    ) -> Float[Tensor, "K B"]:
        """|mu_Q - mu_P|^2 / sigma_Q^2 of the step from ``log_snr`` to ``cleaner``, one draw of z_t each."""
        return torch.expm1(cleaner - log_snr) * self.error(f, eps, log_snr, context)

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

    def check(self, x: Any) -> None:
        """Refuse networks that could not be trained on such items; nothing to look at here."""

    def generate(self, draws: Draws, condition: Int[Tensor, "B"] | None = None) -> Float[Tensor, "K B *shape"]:
        """Items by ancestral sampling: as many steps as the model has, 250 in continuous time. Streams: "prior", "step/i".

        Args:
            draws: K draws of B items.
            condition: labels of the B items, for a model with classes.
        """
        from infimum.diffusion.samplers import sample

        return sample(self, draws, steps=self.config.depth or 250, labels=condition)

    def trajectory_of(self, context: Float[Tensor, "N m"] | None) -> Trajectory:
        """That of rows whose context is known, as `infer` has it."""
        return ScalarTrajectory(self, context)

    # --- the bound

    def infer(self, s: Any, draws: Draws) -> Float[Tensor, "K B m"] | None:
        """What the network is told of items besides the log-SNR, for every draw: their labels, a latent (`Mulan`), or nothing."""
        context = self.split(s)[1]
        return None if context is None else context.expand(draws.shape[0], -1, -1)

    def log_context(self, s: Any, context: Float[Tensor, "K B m"]) -> tuple[Tensor, Tensor]:
        """(log p, log q) in nats of a context that is drawn; labels are not."""
        nothing = context.new_zeros(context.shape[:2])
        return nothing, nothing

    @staticmethod
    def split(s: Any) -> tuple[Tensor, Tensor | None]:
        """f, and the labels that `encode` has put beside it."""
        return s if isinstance(s, tuple) else (s, None)

    def parts(self, x: Any, s: Any, draws: Draws) -> dict[str, Float[Tensor, "..."]]:
        """The summands of -ELBO in nats: "prior" (B,), closed form; "reconstruction" and "diffusion" (K, B)."""
        f, context = self.split(s)
        item = x[0] if self.config.classes else x
        return {
            "prior": self.prior(f),
            "reconstruction": self.reconstruction(item, f, draws),
            "diffusion": self.diffusion(f, draws, context=context),
        }

    def constant(self, x: Any, s: Any) -> Float[Tensor, "B"]:
        """Minus the prior divergence, in nats."""
        return -self.prior(self.split(s)[0])

    def terms(self, x: Any, s: Any, draws: Draws) -> Float[Tensor, "K B"]:
        """Minus reconstruction and diffusion, in nats: E[constant + term] <= log p(x), or log p(x | label)."""
        each = self.parts(x, s, draws)
        return -(each["reconstruction"].to(each["diffusion"].dtype) + each["diffusion"])
