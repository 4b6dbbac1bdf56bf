"""A diffusion model, its data and its weighting as something that the training loop can train."""

import math
from collections.abc import Iterator, Mapping
from typing import Literal, get_args

import torch
from jaxtyping import Float
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
            learned
            or not all(
                math.isclose(float(a), float(b)) for a, b in zip(_ends(times), _ends(model.schedule), strict=True)
            )
        ):
            raise UserError(
                f"times run from {float(times.high):g} to {float(times.low):g} and the model's log-SNR from "
                f"{float(model.schedule.high):g} to {float(model.schedule.low):g}: give both the same, fixed ends"
            )
        if weighting is not None and not model.weightable:
            raise UserError(
                f"a {type(model).__name__} has an encoder that the bound as a whole trains, and a weighted loss would move it: use "
                "weighting=None"
            )
        if weighting is not None:
            weighting.is_monotonic(model.schedule)  # refuses what is not positive and finite
        if model.config.depth is not None and (
            weighting is not None or times is not None or isinstance(model.schedule, AdaptiveBins)
        ):
            raise UserError(
                f"a model of {model.config.depth} steps is trained by its own bound: weightings, other times and adaptive bins are "
                "for continuous time (depth=None)"
            )
        with torch.no_grad():
            model.check(x[:4])
        self.model, self.x, self.weighting = model, x, weighting
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
            "main": torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=(0.9, 0.99), eps=1e-8)
        }
        if interior:
            self.optimizers["interior"] = torch.optim.Adam(interior, lr=lr)

    def batches(self, start: int) -> Iterator[Tensor]:
        """Minibatches, pure in their number."""
        return (x for x, _ in batches(self.x, self.batch, seed=self.seed, start=start))

    def step(self, batch: Float[Tensor, "B *shape"], fit: Fit) -> Mapping[str, float | Tensor]:
        """One step of every optimizer."""
        if not self.model.training:
            self.model.train()
        draws = fit.draws(self.plan, batch.shape[0])
        unit = self.model.config.dims * (math.log(2) if self.weighting is None else 1.0)
        f = self.model.encode(batch)
        if self.model.config.depth is not None:
            return self._step_of_depth(batch, f, draws, fit)
        lead = draws.lead()
        log_snr, slope = self.times.log_snr(lead), self.times.slope(lead)
        # the schedule is cut off here: its ends and its interior get gradients of different losses
        given = [t.detach().requires_grad_(t.requires_grad) for t in (log_snr, slope)]
        with fit.autocast():
            error = self.model.error(f, draws.normal("eps", f.shape[1]).to(f.dtype), given[0])
        weight = 1.0 if self.weighting is None else self.weighting(given[0])
        each = -0.5 * given[1] * weight * error / unit
        report = {"diffusion": each.detach().mean()}
        loss = each.mean()
        if self.weighting is None:
            prior = self.model.prior(f).mean() / unit
            reconstruction = self.model.reconstruction(batch, f, draws).mean() / unit
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

    def _step_of_depth(
        self, batch: Float[Tensor, "B *shape"], f: Float[Tensor, "B D"], draws: Draws, fit: Fit
    ) -> Mapping[str, float | Tensor]:
        """A model of T steps: its bound depends on the whole schedule, which gets the gradient of the bound."""
        unit = self.model.config.dims * math.log(2)
        with fit.autocast():
            each = self.model.diffusion(f, draws) / unit
        prior = self.model.prior(f).mean() / unit
        reconstruction = self.model.reconstruction(batch, f, draws).mean() / unit
        loss = each.mean() + prior + reconstruction
        fit.watch(diffusion=each)
        fit.backward(loss)
        fit.update(clip=self.clip)
        if "interior" in self.optimizers:
            fit.update("interior", clip=1.0)
        return {
            "diffusion": each.detach().mean(),
            "prior": prior.detach(),
            "reconstruction": reconstruction.detach(),
            "loss": loss.detach(),
        }

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


def _ends(schedule: Schedule) -> tuple[Tensor, Tensor]:
    return schedule.low, schedule.high
