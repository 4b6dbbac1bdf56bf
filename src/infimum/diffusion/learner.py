"""A diffusion model, its data and its weighting as something that the training loop can train."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from infimum.data import batches
from infimum.diffusion.learned import AdaptiveBins, MonotoneNet
from infimum.diffusion.model import GaussianDiffusion
from infimum.diffusion.schedules import Schedule
from infimum.diffusion.weightings import Weighting
from infimum.errors import UserError
from infimum.evidence import Draws, Plan
from infimum.training import Fit

__all__ = ["DiffusionLearner"]

Lead = Literal["stratified", "lattice", "random"]


class DiffusionLearner:
    """Minimises minus the ELBO in bits a dimension, or a weighted loss L_w in nats a dimension (2303.00848).

    The times of a batch tile (0, 1): each is uniform on its own. Schedules are trained for what they are: the ends of a learned one
    by the ELBO; the interior of a `MonotoneNet` by the variance of the loss (optimizer "interior"), since the expected ELBO does
    not know it; the bins of an `AdaptiveBins` by the errors of the step.

    Args:
        model: trained in place.
        x: training items (N, *shape).
        labels: of the items, int64 (N,), for a model with classes.
        drop: share of labels that are left out, so that the model also knows items without one (classifier-free guidance).
        weighting: w(lambda) of the diffusion loss alone; None: the whole ELBO.
        times: the schedule that the times of training follow, with the model's ends; None: the model's own.
        batch: items a step, over all processes.
        lr: learning rate of AdamW (VDM: 2e-4).
        decay: its weight decay, not on biases, norms and schedules (VDM: 0.01).
        clip: largest gradient norm; None: no clipping (VDM).
        lead: how times are spread over the batch: "stratified", "lattice" (one shift for all, as VDM does), or "random".
        seed: of the order of the items.

    Raises:
        UserError: times with other ends, a weighting with a schedule whose ends are learned, an unknown lead, or a model of T steps
            with a weighting, other times or adaptive bins.
    """

    def __init__(
        self,
        model: GaussianDiffusion,
        x: Float[Tensor, "N *shape"],
        *,
        labels: Int[Tensor, "M"] | None = None,
        drop: float = 0.0,
        weighting: Weighting | None = None,
        times: Schedule | None = None,
        batch: int = 128,
        lr: float = 2e-4,
        decay: float = 0.01,
        clip: float | None = None,
        lead: Lead = "stratified",
        seed: int = 0,
    ) -> None:
        if lead not in get_args(Lead):
            raise UserError(f"no lead {lead!r}: choose one of {', '.join(get_args(Lead))}")
        learned = any(p.requires_grad for p in model.schedule.parameters())
        if weighting is not None and learned:
            raise UserError(
                "a weighted loss has no gradient that could train a schedule's ends: use a fixed schedule, or weighting=None"
            )
        if times is not None and (
            learned or not all(math.isclose(a, b) for a, b in zip(times.limits, model.schedule.limits, strict=True))
        ):
            raise UserError(
                "times run from {1:g} to {0:g} and the model's log-SNR from ".format(*times.limits)
                + "{1:g} to {0:g}: give both the same, fixed ends".format(*model.schedule.limits)
            )
        if weighting is not None and not model.weightable:
            raise UserError(
                f"a {type(model).__name__} has an encoder that the bound as a whole trains, and a weighted loss would move it: use "
                "weighting=None"
            )
        if weighting is not None:
            weighting.is_monotonic(model.schedule)  # refuses what is not positive and finite
        if (model.config.depth is not None or not model.separable) and (
            weighting is not None or times is not None or isinstance(model.schedule, AdaptiveBins)
        ):
            raise UserError(
                f"a {type(model).__name__} of {model.config.depth or 'infinitely many'} steps is trained by its own bound: "
                "weightings, other times and adaptive bins are for continuous time and one log-SNR for all dimensions"
            )
        if (labels is None) == (model.config.classes > 0) or not 0 <= drop < 1 or (drop > 0 and labels is None):
            raise UserError(
                f"a model of {model.config.classes} classes is trained with labels where it has classes, of which a share drop in "
                f"[0, 1) is left out, got {'no labels' if labels is None else 'labels'} and drop={drop}"
            )
        if labels is not None:
            if len(labels) != len(x):
                raise UserError(f"every item needs a label, got {len(x)} items and {len(labels)} labels")
            model.labels(labels)  # refuses what are none
        with torch.no_grad():
            model.check(x[:256])
        self.model, self.x, self.weighting = model, x, weighting
        self.labels, self.drop = labels, drop
        self.times = model.schedule if times is None else times
        self.batch, self.clip, self.seed = batch, clip, seed
        self.plan = Plan(lead=lead, spread=batch if lead != "random" else 1)
        self.modules: Mapping[str, nn.Module] = {"model": model} if times is None else {"model": model, "times": times}
        own = set(model.schedule.parameters())
        interior = list(model.schedule.interior) if isinstance(model.schedule, MonotoneNet) else []
        ends = [p for p in model.schedule.parameters() if all(p is not other for other in interior)]
        rest = [p for p in model.parameters() if p not in own and p.requires_grad]
        groups = [
            {"params": [p for p in rest if p.ndim > 1], "weight_decay": decay},
            {"params": [*(p for p in rest if p.ndim < 2), *ends], "weight_decay": 0.0},
        ]
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "main": torch.optim.AdamW(
                [g for g in groups if g["params"]], lr=lr, betas=(0.9, 0.99), eps=1e-8, fused=True
            )
        }
        if interior:
            self.optimizers["interior"] = torch.optim.Adam(interior, lr=lr, fused=True)

    def batches(self, start: int) -> Iterator[Any]:
        """Minibatches, pure in their number: items, or pairs of items and labels."""
        found = batches(self.x, self.batch, seed=self.seed, start=start)
        if self.labels is None:
            return (x for x, _ in found)
        labels = self.labels
        return ((x, labels[i.to(labels.device)]) for x, i in found)

    def step(self, batch: Any, fit: Fit) -> Mapping[str, float | Tensor]:
        """One step of every optimizer."""
        if not self.model.training:
            self.model.train()
        draws = fit.draws(self.plan, len(batch[0] if isinstance(batch, tuple | list) else batch))
        s = self._without_some_labels(self.model.encode(batch), draws)
        if self.model.config.depth is not None or not self.model.separable:
            return self._step_of_bound(batch, s, draws, fit)
        return self._step_of_times(batch, s, draws, fit)

    def _without_some_labels(self, s: Any, draws: Draws) -> Any:
        """Stream: "label"."""
        if not self.drop:
            return s
        f, context = s
        return f, context * (draws.uniform("label")[0] >= self.drop)[:, None].to(context.dtype)

    def _step_of_times(self, batch: Any, s: Any, draws: Draws, fit: Fit) -> Mapping[str, float | Tensor]:
        """Continuous time and one log-SNR for all dimensions: the schedule gets gradients of its own."""
        f, context = self.model.split(s)
        unit = self.model.config.dims * (math.log(2) if self.weighting is None else 1.0)
        lead = draws.lead()
        log_snr, slope = self.times.log_snr(lead), self.times.slope(lead)
        # the schedule is cut off here: its ends and its interior get gradients of different losses
        given = [t.detach().requires_grad_(t.requires_grad) for t in (log_snr, slope)]
        with fit.autocast():
            error = self.model.error(f, draws.normal("eps", f.shape[1]).to(f.dtype), given[0], context)
        weight = 1.0 if self.weighting is None else self.weighting(given[0])
        each = -0.5 * given[1] * weight * error / unit
        report = {"diffusion": each.detach().mean()}
        loss = each.mean()
        if self.weighting is None:
            prior = self.model.prior(f).mean() / unit
            item = batch[0] if self.labels is not None else batch
            reconstruction = self.model.reconstruction(item, f, draws).mean() / unit
            loss = loss + prior + reconstruction
            report |= {"prior": prior.detach(), "reconstruction": reconstruction.detach()}
        fit.watch(diffusion=each)
        fit.backward(loss)
        if log_snr.requires_grad:
            self._schedule_backward([log_snr, slope], given, each.detach())
        fit.update(clip=self.clip)
        if "interior" in self.optimizers:
            fit.update("interior", clip=1.0)
        if isinstance(self.times, AdaptiveBins):
            self.times.update(
                log_snr.detach(), (weight * error).detach() if self.weighting is not None else error.detach()
            )
        report["loss"] = loss.detach()
        if log_snr.requires_grad:
            report |= {"log-SNR high": self.times.high.detach(), "log-SNR low": self.times.low.detach()}
        return report

    def _step_of_bound(self, batch: Any, s: Any, draws: Draws, fit: Fit) -> Mapping[str, float | Tensor]:
        """T steps, or a schedule that the bound depends on as a whole: everything gets the gradient of the bound."""
        unit = self.model.config.dims * math.log(2)
        with fit.autocast():
            parts = {name: each / unit for name, each in self.model.parts(batch, s, draws).items()}
        loss = torch.stack([each.mean() for each in parts.values()]).sum()
        fit.watch(diffusion=parts["diffusion"])
        fit.backward(loss)
        fit.update(clip=self.clip)
        if "interior" in self.optimizers:
            fit.update("interior", clip=1.0)
        return {name: each.detach().mean() for name, each in parts.items()} | {"loss": loss.detach()}

    def _schedule_backward(self, made: list[Tensor], given: list[Tensor], each: Float[Tensor, "K B"]) -> None:
        """Gradients of the mean loss for the ends, and of the mean squared loss for the interior (2107.00630, appendix I)."""
        gradients = [g.grad if g.grad is not None else torch.zeros_like(g) for g in given]
        inside = list(self.times.interior) if isinstance(self.times, MonotoneNet) else []
        ends = [p for p in self.times.parameters() if all(p is not other for other in inside)]
        for parameters, scale in ((ends, torch.ones_like(each)), (inside, 2 * each)):
            if not parameters:
                continue
            found = torch.autograd.grad(
                made, parameters, [g * scale.to(g.dtype) for g in gradients], retain_graph=True, allow_unused=True
            )
            for p, gradient in zip(parameters, found, strict=True):
                if gradient is not None:
                    p.grad = gradient if p.grad is None else p.grad + gradient
