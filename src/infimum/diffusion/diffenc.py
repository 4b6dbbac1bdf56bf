"""DiffEnc: diffusion of a learned encoding of the data that changes with time (Nielsen et al. 2024, 2310.19789)."""

import copy
import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from infimum.diffusion.config import DiffusionConfig
from infimum.diffusion.heads import Head, convert, target
from infimum.diffusion.model import GaussianDiffusion
from infimum.diffusion.schedules import alpha_sigma
from infimum.errors import UserError
from infimum.evidence import Draws, event_sum
from infimum.nets import EncoderUNet, ResidualMLP

__all__ = ["DiffEnc", "DiffEncConfig", "Encoding", "counterterm_report"]

Encoding = Literal["learned", "scaled", "identity"]


@dataclass(frozen=True)
class DiffEncConfig(DiffusionConfig):
    """What a `DiffEnc` is built from.

    Attributes:
        head: what the network predicts (paper: "v").
        encoder: x_t = alpha^2 f + sigma^2 y(f, lambda) with a network y ("learned"); y = 0 ("scaled", the paper's non-trainable
            ablation); or y = f, so that x_t = f ("identity").
        encoder_network: "mlp", or "unet" for images.
        encoder_width: of the encoder.
        encoder_blocks: of the encoder (paper: 2, 4 or 8).
        encoder_levels: of the U-Net (paper: 2).
    """

    head: Head = "v"
    encoder: Encoding = "learned"
    encoder_network: Literal["mlp", "unet"] = "mlp"
    encoder_width: int = 64
    encoder_blocks: int = 2
    encoder_levels: int = 2

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        super().__post_init__()
        if self.encoder not in get_args(Encoding):
            raise UserError(f"no encoder {self.encoder!r}: choose one of {', '.join(get_args(Encoding))}")
        if self.encoder_network not in ("mlp", "unet"):
            raise UserError(f"no encoder network {self.encoder_network!r}: choose mlp or unet")
        if self.encoder_network == "unet" and len(self.shape) != 3:
            raise UserError(
                f"encoder network 'unet' is for images (C, H, W), and items have shape {self.shape}: choose mlp"
            )


class DiffEnc(GaussianDiffusion):
    """A `GaussianDiffusion` whose inference model noises x_t = x(f, lambda_t), not f: z_t = alpha_t x_t + sigma_t eps.

    The generative model is p(z_s | z_t) with the mean (alpha_s / alpha_t) r z_t + alpha_s (1 - r + (lambda_s - lambda_t) sigma_t^2)
    x^(z_t), r = exp(lambda_t - lambda_s). Its last summand stands for the drift of the encoding, which is unknown when sampling;
    the bound compares with the mean that is sampled, and so holds whatever the encoder. Nothing of it is left out of the gradient.

    In continuous time this is the reverse process of a plain diffusion with the data prediction (1 + sigma^2) x^, which is what
    `denoise` returns: samplers and the flow's likelihood apply as they are, and `without_encoder` has the plain bound of the same
    model.

    Streams: those of `GaussianDiffusion`.

    Args:
        config: see there.
        network: the denoiser, see `GaussianDiffusion`.
        encoder: y before its tanh, any module of ((N, *shape), (N,)) to (N, *shape) that is differentiable in its second argument,
            the log-SNR scaled to [0, 1] by the configured ends, 0 where it is clean; the configured network by default.
            `load_model` cannot rebuild a model with one of its own.
    """

    Config = DiffEncConfig
    config: DiffEncConfig
    weightable = False

    def __init__(
        self, config: DiffEncConfig, network: nn.Module | None = None, encoder: nn.Module | None = None
    ) -> None:
        super().__init__(config, network)
        self._flat_encoder = encoder is None and config.encoder_network == "mlp"
        if config.encoder != "learned":
            if encoder is not None:
                raise UserError(f"encoder={config.encoder!r} has no network: leave it out, or use encoder='learned'")
            self.encoder = None
        else:
            self.encoder = _encoder(config) if encoder is None else encoder

    # --- the inference model

    def encoding(self, f: Float[Tensor, "N D"], log_snr: Float[Tensor, "N"]) -> Float[Tensor, "N D"]:
        """x_t of every row at its own log-SNR."""
        with _exactly(f):
            return self._mix(f, self._y(f, log_snr), log_snr)

    def encoding_with_slope(
        self, f: Float[Tensor, "N D"], log_snr: Float[Tensor, "N"]
    ) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N D"], Float[Tensor, "N D"]]:
        """(x_t, y, dy / dlambda), the derivative in forward mode with the same dropout; gradients go through all three."""
        if self.encoder is None:
            y = self._y(f, log_snr)
            return self._mix(f, y, log_snr), y, torch.zeros_like(f)
        log_snr = log_snr.contiguous()
        with _exactly(f):
            pair = torch.func.jvp(lambda at: self._y(f, at), (log_snr,), (torch.ones_like(log_snr),))
        y, slope = pair[0], pair[1]
        return self._mix(f, y, log_snr), y, slope

    def _y(self, f: Tensor, log_snr: Tensor) -> Tensor:
        if self.encoder is None:
            return f if self.config.encoder == "identity" else torch.zeros_like(f)
        low, high = self.config.low, self.config.high
        u = ((high - log_snr) / (high - low)).to(f.dtype)
        if self._flat_encoder:
            return self.encoder(f, u).tanh()
        out = self.encoder(f.unflatten(1, self.config.shape), u)
        if out.shape != (len(f), *self.config.shape):
            raise UserError(
                f"the encoder makes {tuple(out.shape[1:])} of items of shape {self.config.shape}: it must keep the shape"
            )
        return out.flatten(1).tanh()

    @staticmethod
    def _mix(f: Tensor, y: Tensor, log_snr: Tensor) -> Tensor:
        snr = log_snr[:, None].to(f.dtype)
        return torch.sigmoid(snr) * f + torch.sigmoid(-snr) * y

    # --- the terms of the bound

    def error(
        self,
        f: Float[Tensor, "B D"],
        eps: Float[Tensor, "K B D"],
        log_snr: Float[Tensor, "K B"],
        context: Float[Tensor, "B m"] | None = None,
    ) -> Float[Tensor, "K B"]:
        """SNR |x_t + dx_t/dlambda - (1 + sigma^2) x^|^2 = |(1 + sigma^2) (eps^ - eps) + alpha sigma (dy/dlambda - y)|^2.

        The diffusion term is -1/2 lambda'(t) times this, as it is for a plain diffusion.
        """
        k, b = log_snr.shape
        flat = log_snr.flatten()
        x, y, slope = self.encoding_with_slope(f.expand(k, b, -1).flatten(0, 1), flat)
        noise, snr = eps.flatten(0, 1), flat[:, None].to(eps.dtype)
        alpha, sigma = alpha_sigma(snr)
        z = alpha * x + sigma * noise
        told = None if context is None else context.expand(k, b, -1).flatten(0, 1)
        out = convert(self.predict(z, flat, told), z, snr, source=self.config.head, to="eps")
        wrong = (1 + sigma.square()) * (out - noise) + alpha * sigma * (slope - y)
        wrong = wrong.to(torch.promote_types(wrong.dtype, torch.float32))
        return event_sum(wrong.square(), 1).unflatten(0, (k, b))

    def mismatch(
        self,
        f: Float[Tensor, "B D"],
        eps: Float[Tensor, "K B D"],
        log_snr: Float[Tensor, "K B"],
        cleaner: Float[Tensor, "K B"],
        context: Float[Tensor, "B m"] | None = None,
    ) -> Float[Tensor, "K B"]:
        """|mu_Q - mu_P|^2 / sigma_Q^2 of one step: SNR_s / (1 - r) |(1 - r) x_t + x_s - x_t - (1 - r + h sigma_t^2) x^|^2, h =
        lambda_s - lambda_t, in a form without differences of nearly equal numbers.

        It is expm1(h) |eps^ - eps + alpha_t sigma_t (alpha_s^2 (f - y_s) + (y_s - y_t - h x^) / (1 - r))|^2.
        """
        k, b = log_snr.shape
        rows, now, then = f.expand(k, b, -1).flatten(0, 1), log_snr.flatten(), cleaner.flatten()
        noise = eps.flatten(0, 1)
        if self.encoder is None:
            y_t, y_s = self._y(rows, now), self._y(rows, then)
        else:
            with _exactly(f):  # both under one dropout mask
                both = torch.func.vmap(lambda at: self._y(rows, at), randomness="same")(torch.stack((now, then)))
            y_t, y_s = both[0], both[1]
        snr, h = now[:, None].to(f.dtype), (then - now)[:, None].to(f.dtype)
        alpha, sigma = alpha_sigma(snr)
        z = alpha * self._mix(rows, y_t, now) + sigma * noise
        out = self.predict(z, now, None if context is None else context.expand(k, b, -1).flatten(0, 1))
        x_hat = convert(out, z, snr, source=self.config.head, to="x")
        eps_hat = convert(out, z, snr, source=self.config.head, to="eps")
        drift = torch.sigmoid(snr + h) * (rows - y_s) + (y_s - y_t - h * x_hat) / -torch.expm1(-h)
        wrong = eps_hat - noise + alpha * sigma * drift
        wrong = wrong.to(torch.promote_types(wrong.dtype, torch.float32))
        return (torch.expm1(then - now).to(wrong.dtype) * event_sum(wrong.square(), 1)).unflatten(0, (k, b))

    def prior(self, f: Float[Tensor, "B D"]) -> Float[Tensor, "B"]:
        """KL(q(z_1 | x) to N(0, I)) in nats, of the encoding at time 1: exact."""
        return super().prior(self.encoding(f, self.schedule.low.expand(len(f)).to(f.dtype)))

    def reconstruction(
        self, x: Float[Tensor, "B *shape"], f: Float[Tensor, "B D"], draws: Draws
    ) -> Float[Tensor, "K B"]:
        """-log p(x | z_0) in nats, z_0 around the encoding at time 0. Stream: "z0"."""
        return super().reconstruction(x, self.encoding(f, self.schedule.high.expand(len(f)).to(f.dtype)), draws)

    # --- the generative model

    def denoise(
        self,
        z: Float[Tensor, "N D"],
        log_snr: Float[Tensor, "N"],
        to: Head = "x",
        then: Float[Tensor, "#N"] | None = None,
        context: Float[Tensor, "N m"] | None = None,
    ) -> Float[Tensor, "N D"]:
        """The prediction of the plain diffusion with the same reverse process, as that of any head.

        Its data prediction is (1 + sigma^2) x^, and (1 + (lambda_s - lambda_t) sigma^2 / (1 - r)) x^ for a step to ``then``.
        """
        snr = log_snr[:, None].to(z.dtype)
        sigma_2 = torch.sigmoid(-snr)
        if then is not None:
            h = (then - log_snr)[:, None].to(z.dtype)
            sigma_2 = sigma_2 * h / -torch.expm1(-h)
        x = (1 + sigma_2) * convert(self.predict(z, log_snr, context), z, snr, source=self.config.head, to="x")
        alpha, sigma = alpha_sigma(snr)
        return target(to, x, (z - alpha * x) / sigma, snr)

    def without_encoder(self) -> "DiffEnc":
        """The same generative model with x_t = f: it samples the same, has fewer parameters, and its bound is the plain one."""
        bare = copy.deepcopy(self)
        bare.encoder, bare.config = None, dataclasses.replace(self.config, encoder="identity")
        return bare

    @torch.no_grad()
    def check(self, x: Float[Tensor, "B *shape"]) -> None:
        """Refuse an encoder that mixes items, changes their shape, or whose derivative is not that of its values.

        A copy is looked at whose parameters are moved at random, as encoders start at 0.

        Raises:
            UserError: says which; warns where x_t is not f at lambda_max.
        """
        x = x[:4]
        if self.encoder is None or not len(x):
            return
        mixes = UserError(
            "the encoder of an item depends on the other items of its batch: use GroupNorm or infimum.nets.LayerNorm in the encoder"
        )
        if any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in self.encoder.modules()):
            raise mixes
        f, probe = self.scaled(x).double(), copy.deepcopy(self).double().eval()
        assert probe.encoder is not None
        generator = torch.Generator().manual_seed(0)
        weights = list(probe.encoder.parameters())
        ways = [torch.randn(p.shape, generator=generator).to(p) for p in weights]
        for p, way in zip(weights, ways, strict=True):
            p.add_(way, alpha=0.1)
        low, high = self.config.low, self.config.high
        some = (high - (high - low) * torch.linspace(0.4, 0.6, len(f), device=f.device)).to(f.dtype)
        if len(f) > 1 and not torch.allclose(probe._y(f[:1], some[:1]), probe._y(f, some)[:1], atol=1e-2, rtol=1e-2):
            raise mixes
        path = (high - (high - low) * torch.linspace(0.445, 0.555, 513, device=f.device)).to(f.dtype)
        try:
            _, y, slope = probe.encoding_with_slope(f[:1].expand(513, -1), path)
        except (NotImplementedError, RuntimeError) as error:
            raise UserError(
                "the encoder has no forward-mode derivative in its second argument: it must be differentiable in log_snr "
                f"({str(error).splitlines()[0]})"
            ) from None
        moved, told = y[-1] - y[0], torch.trapezoid(slope, path[:, None], dim=0)
        if float((moved - told).norm()) > 0.25 * float((y.diff(dim=0).abs().sum(0)).norm()) + 1e-6:
            raise UserError(
                "the encoder's values change with log-SNR by other than its derivative says: it must be differentiable in log_snr, "
                "so embed that without rounding"
            )
        probe.requires_grad_(True)
        wrong = 0
        for _ in range(6):
            ways = [torch.randn(p.shape, generator=generator).to(p) for p in weights]
            with torch.enable_grad():
                told_way = _directional(lambda: probe.encoding_with_slope(f[:1], path[:1])[2], weights, ways)
            sides = []
            for step in (1e-7, -2e-7, 1e-7):
                for p, way in zip(weights, ways, strict=True):
                    p.add_(way, alpha=step)
                sides.append(probe.encoding_with_slope(f[:1], path[:1])[2].sum())
            moved_way = float(sides[0] - sides[1]) / 2e-7
            wrong += abs(moved_way - told_way) > 0.01 * abs(moved_way) + 1e-4
        if wrong > 1:  # one may have met a kink, as of a maximum over pixels
            raise UserError(
                "the derivative of the encoder in log_snr has a wrong gradient, as that of torch.nn.LayerNorm has: use GroupNorm "
                "or infimum.nets.LayerNorm in the encoder"
            )
        end, f = self.schedule.high, f.to(self.scaled(x).dtype)
        off = float((self.encoding(f, end.expand(len(f)).to(f.dtype)) - f).abs().max() * (0.5 * end).exp())
        if off > 0.1:
            warnings.warn(
                f"at the largest log-SNR the encoding is up to {off:.2g} standard deviations of the noise away from the data, and "
                "reconstruction will suffer: raise high",
                stacklevel=2,
            )


def _directional(value: Callable[[], Tensor], weights: list[nn.Parameter], ways: list[Tensor]) -> float:
    """The derivative of the sum of a value along ways of the weights, by its gradient; 0 where it has none."""
    total = value().sum()
    if not weights or not total.requires_grad:
        return 0.0
    found = torch.autograd.grad(total, weights, allow_unused=True)
    return sum(float((g * way).sum()) for g, way in zip(found, ways, strict=True) if g is not None)


@contextmanager
def _exactly(f: Tensor) -> Iterator[None]:
    """The encoder in full precision and with attention that has a forward-mode derivative."""
    with torch.autocast(f.device.type, enabled=False), sdpa_kernel(SDPBackend.MATH):
        yield


def _encoder(config: DiffEncConfig) -> nn.Module:
    options: dict[str, Any] = {
        "width": config.encoder_width, "blocks": config.encoder_blocks, "dropout": config.dropout
    }  # fmt: skip
    if config.encoder_network == "mlp":
        return ResidualMLP(config.dims, fused=False, **options)
    return EncoderUNet(config.shape[0], levels=config.encoder_levels, **options)


@torch.no_grad()
def counterterm_report(
    model: DiffEnc, x: Float[Tensor, "B *shape"], *, bins: int = 10
) -> dict[str, Float[Tensor, "bins"]]:
    """How far the counter-term is from the drift of the encoding, at log-SNRs evenly between the ends.

    Args:
        model: in eval mode.
        x: items, over which squares are averaged.
        bins: how many log-SNRs, at the middle of each bin.

    Raises:
        UserError: an identity encoder, whose encoding does not move, or no bins.

    Returns:
        "log_snr"; "mismatch": E|sigma^2 (dy/dlambda - y)|^2 / E|dx_t/dlambda|^2, what is left of the drift once the part that
        the generative model knows is taken away (above 1 where the counter-term expects more than there is); "moved":
        E|x_t - alpha^2 f| / E|f|, what the network adds; "size": E|y| / sqrt(D).
    """
    if model.config.encoder == "identity" or bins < 1:
        raise UserError(
            f"a counter-term is measured where the encoding moves, in at least one bin: got encoder {model.config.encoder!r} and "
            f"{bins} bins"
        )
    f = model.encode(x)
    low, high = model.schedule.limits
    centres = low + (high - low) * (torch.arange(bins, dtype=torch.float64, device=f.device) + 0.5) / bins
    rows: dict[str, list[float]] = {"mismatch": [], "moved": [], "size": []}
    for centre in centres:
        snr = centre.to(f.dtype).expand(len(f))
        x_t, y, slope = model.encoding_with_slope(f, snr)
        alpha_2, sigma_2 = torch.sigmoid(centre).to(f.dtype), torch.sigmoid(-centre).to(f.dtype)
        drift = sigma_2 * (x_t - y + slope)
        rest = sigma_2 * (slope - y)
        rows["mismatch"].append(float(rest.square().sum() / drift.square().sum().clamp_min(1e-30)))
        rows["moved"].append(float((x_t - alpha_2 * f).norm(dim=1).mean() / f.norm(dim=1).mean()))
        rows["size"].append(float(y.norm(dim=1).mean()) / math.sqrt(f.shape[1]))
    return {"log_snr": centres} | {name: torch.tensor(each, dtype=torch.float64) for name, each in rows.items()}
