"""Models of the library `diffusers` as diffusion models with a bound: their network, scheduler and prediction type, converted."""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn

from infimum.diffusion.config import DiffusionConfig
from infimum.diffusion.decoder import BinnedDecoder
from infimum.diffusion.heads import Head, convert, target
from infimum.diffusion.model import GaussianDiffusion
from infimum.diffusion.schedules import Schedule, alpha_sigma
from infimum.errors import UserError
from infimum.evidence import Draws, event_sum

__all__ = ["DiffusersModel", "TableSchedule", "from_diffusers"]

HEADS_OF: dict[str, Head] = {"epsilon": "eps", "sample": "x", "v_prediction": "v"}
"""Prediction types of `diffusers`."""

VARIANCES = ("fixed_small", "fixed_small_log", "fixed_large")

OTHERS = ("LCMScheduler", "TCDScheduler")
"""Schedulers of consistency models, whose steps are not DDPM's."""


class TableSchedule(Schedule):
    """Log-SNRs of T timesteps at times 0, 1/(T - 1), ..., 1, linear between them.

    Raises:
        UserError: fewer than two, or not finite and falling.
    """

    table: Tensor

    def __init__(self, log_snr: Float[Tensor, "T"]) -> None:
        super().__init__()
        if len(log_snr) < 2 or not bool(log_snr.isfinite().all()) or not bool((log_snr.diff() < 0).all()):
            raise UserError(
                f"a scheduler's log-SNRs must be finite and fall from step to step, got {log_snr[:1].tolist()} to "
                f"{log_snr[-1:].tolist()} in {len(log_snr)} steps: take two steps at least, betas above 0, and no end in pure "
                "noise (rescale_betas_zero_snr)"
            )
        self.register_buffer("table", log_snr.double())

    @property
    def low(self) -> Float[Tensor, ""]:
        return self.table[-1]

    @property
    def high(self) -> Float[Tensor, ""]:
        return self.table[0]

    def _cell(self, t: Tensor) -> tuple[Tensor, Tensor]:
        at = t.double() * (len(self.table) - 1)
        at = torch.where((at - at.round()).abs() < 1e-9 * len(self.table), at.round(), at)  # i / T is not exact
        i = at.floor().clamp(0, len(self.table) - 2).long()
        return i, at - i

    def log_snr(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        i, part = self._cell(t)
        return torch.lerp(self.table[i].double(), self.table[i + 1].double(), part).to(t.dtype)

    def slope(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        i, _ = self._cell(t)
        return ((self.table[i + 1] - self.table[i]) * (len(self.table) - 1)).to(t.dtype)

    def time(self, log_snr: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        snr = log_snr.double().contiguous()
        i = (torch.searchsorted(-self.table.double(), -snr, right=True) - 1).clamp(0, len(self.table) - 2)
        part = (self.table[i] - snr) / (self.table[i] - self.table[i + 1])
        return ((i + part) / (len(self.table) - 1)).to(log_snr.dtype)


class DiffusersModel(GaussianDiffusion):
    """An unconditional image model of `diffusers`, as DDPM's chain of T steps (Ho et al. 2020, 2006.11239).

    z at time 0 is `diffusers`' timestep 0, z at time 1 its last one: T - 1 transitions, the reconstruction from timestep 0, and the
    prior. Variances are the scheduler's ("fixed_small": the posterior's; "fixed_large": beta_t). Where the scheduler clips
    predictions of the image, so does the model: that is `DDPMScheduler`'s own step, and `DDIMScheduler`'s with eta=1 and
    use_clipped_model_output=True; its defaults sample another chain, which has no such bound.

    p(x | z_0) is the mass of a normal around x^(z_0) in the pixel's cell, with open cells at the ends (2006.11239, eq. 13). Its
    variance is that of the posterior at timestep 1, as in the published code of Ho et al. (eq. 13 has beta_1, about twice that).
    Samples are x^(z_0), as those of `diffusers`.

    Streams: those of `GaussianDiffusion`.

    Args:
        unet: a `UNet2DModel`, or any network of (images, timesteps) with `.sample` in what it returns.
        scheduler: with `alphas_cumprod` and `config.prediction_type`.
        shape: (C, H, W); that of the network's configuration if not given.
        levels: grey levels; f = 2 x / (levels - 1) - 1, as in the training scripts of `diffusers`.

    Raises:
        UserError: a conditional network, learned variances, an unknown prediction type, no size, or log-SNRs that do not fall.
    """

    schedule: TableSchedule

    def __init__(
        self, unet: nn.Module, scheduler: Any, *, shape: tuple[int, ...] | None = None, levels: int = 256
    ) -> None:
        settings, kind = scheduler.config, type(scheduler).__name__
        if not hasattr(scheduler, "alphas_cumprod") or settings.get("prediction_type") not in HEADS_OF:
            raise UserError(
                f"a {kind} with prediction type {settings.get('prediction_type')!r} is not converted: use one with "
                f"alphas_cumprod and prediction type {', '.join(HEADS_OF)}"
            )
        odd = [name for name in ("thresholding", "use_flow_sigmas") if settings.get(name)]
        odd += ["timestep_type='continuous'"] if settings.get("timestep_type") == "continuous" else []
        if odd or kind in OTHERS:
            raise UserError(
                f"a {kind} with {', '.join(odd) or 'the steps of a consistency model'} is not converted: use a DDPMScheduler or "
                "DDIMScheduler without"
            )
        if not isinstance(levels, int):
            raise UserError(f"levels is {levels}, expected the number of grey levels, such as 256")
        spread = settings.get("variance_type") or "fixed_small"
        if spread not in VARIANCES:
            raise UserError(
                f"variance_type {spread!r} of the scheduler is not converted: use one of {', '.join(VARIANCES)}"
            )
        shape = _shape_of(unet, shape)
        alphas = scheduler.alphas_cumprod.double()
        schedule = TableSchedule(torch.logit(alphas))
        wide = spread.startswith("fixed_large")
        config = DiffusionConfig(
            shape, levels=levels, low=float(schedule.low), high=float(schedule.high),
            head=HEADS_OF[settings["prediction_type"]], depth=len(alphas) - 1, variance="ratio" if wide else "posterior",
        )  # fmt: skip
        super().__init__(config, unet)
        self.schedule, self.decoder = schedule, BinnedDecoder(levels)
        reach = settings.get("clip_sample_range", 1.0) if settings.get("clip_sample", False) else None
        self.clip: float | None = reach
        self.wide = wide

    def in_steps(
        self,
        depth: int | None,
        *,
        variance: Literal["posterior", "ratio", "optimal"] = "posterior",
        ratio: float = 1.0,
    ) -> "GaussianDiffusion":
        """The same network in T steps along the scheduler's log-SNRs, with variances of their own."""
        other = super().in_steps(depth, variance=variance, ratio=ratio)
        assert isinstance(other, DiffusersModel)
        other.wide = False
        return other

    def variance_ratio(self, i: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """sigma_Q^2 / sigma_P^2: 1, or (1 - alpha^2_s) / (1 - alpha^2_t) where sigma_P^2 is beta_t."""
        if not self.wide:
            return torch.ones_like(i) if self.config.variance == "posterior" else super().variance_ratio(i)
        noise = torch.sigmoid(-self.schedule.table.double())
        return (noise[i.long() - 1] / noise[i.long()]).to(i.dtype)

    def predict(
        self, z: Float[Tensor, "N D"], log_snr: Float[Tensor, "N"], context: Float[Tensor, "N m"] | None = None
    ) -> Float[Tensor, "N D"]:
        """The network's output at the timestep of each log-SNR; between timesteps at a fraction of one."""
        at = self.schedule.time(log_snr.double()) * (len(self.schedule.table) - 1)
        near = at.round()
        at = torch.where((at - near).abs() < 1e-2, near, at)
        own = next((p.dtype for p in self.network.parameters()), z.dtype)
        # timesteps stay in single precision at least: half precision cannot hold them
        made = self.network(z.unflatten(1, self.config.shape).to(own), at.to(torch.promote_types(own, torch.float32)))
        return (made if isinstance(made, Tensor) else made.sample).flatten(1).to(z.dtype)

    def denoise(
        self,
        z: Float[Tensor, "N D"],
        log_snr: Float[Tensor, "N"],
        to: Head = "x",
        then: Float[Tensor, "#N"] | None = None,
        context: Float[Tensor, "N m"] | None = None,
    ) -> Float[Tensor, "N D"]:
        """The prediction as that of any head, that of the image clipped as the scheduler does."""
        snr = log_snr[:, None].to(z.dtype)
        out = self.predict(z, log_snr)
        if self.clip is None:
            return convert(out, z, snr, source=self.config.head, to=to)
        alpha, sigma = alpha_sigma(snr)
        x = convert(out, z, snr, source=self.config.head, to="x").clamp(-self.clip, self.clip)
        return target(to, x, (z - alpha * x) / sigma, snr)

    def error(
        self,
        f: Float[Tensor, "B D"],
        eps: Float[Tensor, "K B D"],
        log_snr: Float[Tensor, "K B"],
        context: Float[Tensor, "B m"] | None = None,
    ) -> Float[Tensor, "K B"]:
        """|eps - eps^|^2 of the noise, of the clipped prediction."""
        snr = log_snr[..., None].to(eps.dtype)
        alpha, sigma = alpha_sigma(snr)
        z = (alpha * f + sigma * eps).flatten(0, 1)
        out = self.denoise(z, log_snr.flatten(), to="eps").unflatten(0, log_snr.shape)
        return event_sum((out - eps).square(), 1).to(torch.promote_types(out.dtype, torch.float32))

    def reconstruction(
        self, x: Float[Tensor, "B *shape"], f: Float[Tensor, "B D"], draws: Draws
    ) -> Float[Tensor, "K B"]:
        """-log p(x | z_0) in nats of one draw of z_0 each, around the network's prediction. Stream: "z0"."""
        eps = draws.normal("z0", f.shape[1]).to(f.dtype)
        alpha, sigma = (part.to(f.dtype) for part in alpha_sigma(self.schedule.high))
        z = (alpha * f + sigma * eps).flatten(0, 1)
        clean = self.denoise(z, self.schedule.high.expand(len(z)), to="x").unflatten(0, eps.shape[:2])
        noise, step = torch.sigmoid(-self.schedule.table[0]), self.schedule.table[0] - self.schedule.table[1]
        return -self.decoder.log_prob(x.flatten(1), clean, -torch.log(noise * -torch.expm1(-step)))


def from_diffusers(folder: str | Path, *, levels: int = 256) -> DiffusersModel:
    """The model of a pipeline's folder (`DDPMPipeline.save_pretrained`): `unet/` and `scheduler/`, weights as safetensors only.

    Nothing is fetched and no code from the folder is run.

    Args:
        folder: with `model_index.json`.
        levels: grey levels of the images.

    Raises:
        UserError: `diffusers` is not installed, no such folder, another kind of pipeline, or no safetensors.
    """
    try:
        import diffusers
    except ImportError:
        raise UserError("models of diffusers need that package: pip install 'infimum[images]'") from None
    folder = Path(folder)
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise UserError(f"{folder} has no readable model_index.json: give the folder of a diffusers pipeline") from None
    parts = {name: value for name, value in index.items() if isinstance(value, list)} if isinstance(index, dict) else {}
    if set(parts) != {"unet", "scheduler"} or parts["unet"] != ["diffusers", "UNet2DModel"]:
        kind = index.get("_class_name") if isinstance(index, dict) else None
        raise UserError(
            f"{folder} holds a {kind} of {', '.join(sorted(parts)) or 'nothing'}: only unconditional models of pixels are "
            "converted, a UNet2DModel with a scheduler"
        )
    if not (folder / "unet" / "diffusion_pytorch_model.safetensors").exists():
        raise UserError(
            f"{folder / 'unet'} has no diffusion_pytorch_model.safetensors: save the pipeline with safe_serialization=True and no "
            "variant, as pickled weights are not read"
        )
    library, name = (*parts["scheduler"], None, None)[:2]
    cls = getattr(diffusers, str(name), None) if library == "diffusers" else None
    if not (isinstance(cls, type) and issubclass(cls, diffusers.SchedulerMixin)):
        raise UserError(f"{folder} names the scheduler {name!r} of {library!r}, which diffusers does not have")
    try:
        plain = "quantization_config" not in json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8"))
        json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise UserError(
            f"{folder} has no readable unet/config.json and scheduler/scheduler_config.json: give a complete pipeline's folder"
        ) from None
    if not plain:
        raise UserError(
            f"{folder / 'unet'} is quantised, which is not converted: save the pipeline without quantisation"
        )
    try:
        unet, told = diffusers.UNet2DModel.from_pretrained(
            folder.absolute() / "unet", use_safetensors=True, local_files_only=True, output_loading_info=True
        )
        scheduler = cls.from_pretrained(folder.absolute() / "scheduler", local_files_only=True)
    except (OSError, ValueError, TypeError, RuntimeError, NotImplementedError, SafetensorError) as error:
        raise UserError(f"{folder} cannot be read by diffusers: {' '.join(str(error).split())[:200]}") from None
    wrong = [*told["missing_keys"], *told["unexpected_keys"]]
    if wrong:
        raise UserError(
            f"{folder / 'unet'}: weights and config.json do not fit, as for {', '.join(wrong[:3])}: save the pipeline anew"
        )
    return DiffusersModel(unet, scheduler, levels=levels).eval()


def _shape_of(unet: nn.Module, shape: tuple[int, ...] | None) -> tuple[int, ...]:
    """(C, H, W); refuses networks that are told more than image and time, or say more than the image."""
    config: Any = getattr(unet, "config", {})
    if config.get("class_embed_type") is not None or config.get("num_class_embeds") is not None:
        raise UserError("the network is conditioned on classes, and only unconditional ones are converted")
    if config.get("out_channels") != config.get("in_channels"):
        raise UserError(
            f"the network makes {config.get('out_channels')} channels of {config.get('in_channels')}: learned variances are not "
            "converted"
        )
    if config.get("time_embedding_type", "positional") != "positional":
        raise UserError(
            f"the network embeds time by {config['time_embedding_type']!r}, and only positional embeddings are converted, which "
            "have values between timesteps"
        )
    if shape is not None:
        if config.get("in_channels", shape[0]) != shape[0]:
            raise UserError(
                f"the network takes {config['in_channels']} channels, and shape is {shape}: give (C, H, W) of its own"
            )
        return shape
    size = config.get("sample_size")
    if size is None:
        raise UserError("the network's configuration has no sample_size: give shape=(C, H, W)")
    side = (size, size) if isinstance(size, int) else tuple(size)
    return (int(config["in_channels"]), *side)
