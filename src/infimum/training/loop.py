"""The training loop: one for every system."""

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from infimum.errors import UserError
from infimum.training import distributed
from infimum.training.average import EMA
from infimum.training.checkpoint import RESERVED, Parts, load_state, save_state
from infimum.training.config import from_json
from infimum.training.files import current
from infimum.training.fit import Fit
from infimum.training.progress import Progress, on_terminal
from infimum.training.run import Run, as_number
from infimum.training.schedules import Schedule
from infimum.training.stop import StopSignals
from infimum.training.validation import Best, Validate, measure

__all__ = ["Learner", "Result", "train"]


@runtime_checkable
class Learner(Protocol):
    """What is trained.  One step is one unit of work: stopping, saving and progress happen between steps.

    All state lives in `modules` (buffers for counts, priors, adaptive bins) and `optimizers`.
    A learner may have a property `finished`: true after a validation, it ends the training there.
    """

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """By name; the first one whose class is in `MODELS` is what `load_model` finds in the checkpoint."""

    @property
    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        """By name; one alone is called "main".  Their parameters are those of `modules`."""

    def batches(self, start: int) -> Iterator[Any]:
        """Global batches from number `start` on, without end, pure in `start`: the same in a resumed run.

        The loop gives each process its contiguous share, on its device (`infimum.training.distributed.place`):
        the batch size must divide by the number of processes, and a learner needs no knowledge of them.
        """

    def step(self, batch: Any, fit: Fit) -> Mapping[str, float | Tensor]:
        """One unit of work with `fit.draws`, `fit.backward`, `fit.update`; returns metrics, means over the batch."""


@dataclass(frozen=True)
class Result:
    """How a training ended.

    Attributes:
        step: steps done in all.
        metrics: of the last step, means over processes.
        interrupted: stopped by a signal before `steps`; the run can be resumed.
        stopped_early: the validation had not improved for `patience` times, or the learner said that it is finished.
        best_step, best_value: the best validation (larger is better), or None.
        checkpoint: the last state; `best` is the folder of the best one, if there was a validation.
        averages: the moving averages: `with result.averages["model"].swap(): ...`.
        seconds, rate: wall time of this call, and its steps a second.
    """

    step: int
    metrics: Mapping[str, float]
    interrupted: bool
    stopped_early: bool
    best_step: int | None
    best_value: float | None
    checkpoint: Path
    best: Path | None
    averages: Mapping[str, EMA]
    seconds: float
    rate: float


def train(
    learner: Learner,
    *,
    steps: int,
    run: Run,
    every: int = 500,
    accumulate: int = 1,
    schedule: Schedule | Mapping[str, Schedule] | None = None,
    ema: Mapping[str, float] | None = None,
    validate: Validate | None = None,
    validate_every: int | None = None,
    patience: int | None = None,
    data: Mapping[str, Any] | None = None,
) -> Result:
    """Train for `steps` steps, or go on from the checkpoint of `run` to the same end, bit for bit on a CPU.

    Args:
        every: steps between checkpoints.  SIGTERM and Ctrl-C save as well, after the step.
        accumulate: batches in a step: the gradient is the mean over them, and each optimizer steps after the last one
            (a step that goes on with a network which it has just updated still sees the old one until then).
        schedule: factor on the learning rate by step, for all optimizers or by name.
        ema: names of modules whose parameters are averaged -> decay.
        validate: evidence (larger is better) or an `Estimate`, every `validate_every` steps (default: `every`) and at
            the end; modules are in evaluation mode, without gradients, with averaged weights where there are any.
            The best state is kept in `run.best`.
        patience: stop after so many validations in a row without improvement.
        data: preprocessing of the data, for `data.json`.

    Raises:
        NonFinite: a loss, gradient or parameter became NaN or infinite.  The last checkpoint is kept.
        UserError: the arguments or the checkpoint do not fit the learner.
    """
    for name, number in {"every": every, "accumulate": accumulate, "validate_every": validate_every or 1}.items():
        if number < 1:
            raise UserError(f"train: {name} is {number}, and a positive number was expected")
    modules, optimizers = dict(learner.modules), dict(learner.optimizers)
    _check(modules, optimizers, ema or {})
    for module in modules.values():
        module.to(run.device)
    given = dict.fromkeys(optimizers, schedule) if callable(schedule) else schedule or {}
    averages = {name: EMA(modules[name], decay) for name, decay in (ema or {}).items()}
    fit = Fit(learner, run, accumulate=accumulate, schedules=given, averages=averages)
    kept = Parts(modules, optimizers, averages, run.device)
    step, best, metrics = _start(run, fit, kept)

    def save(folder: Path) -> None:
        fit.check_parameters()
        state = {"step": step, "examples": fit.examples, "best": asdict(best), "metrics": _nullable(metrics)}
        save_state(folder, kept, state=state, data=data or {})

    def over() -> bool:
        return (patience is not None and best.waited >= patience) or bool(getattr(learner, "finished", False))

    out_of_patience = over()
    batches = learner.batches(step * accumulate)
    shown = {"bar": on_terminal(), "quiet": run.quiet, "silent": not run.writes}
    with StopSignals() as stop, Progress(start=step, steps=steps, **shown) as progress:
        stopping = False
        while step < steps and not stopping and not out_of_patience:
            parts = []
            for micro in range(accumulate):
                fit.begin(step, micro)
                parts.append(learner.step(_next(batches, step, steps, run.device), fit))
            step += 1
            metrics, stopping = _agree(_average(parts) | fit.norms, stop.asked, run.device)
            last = step == steps
            if validate is not None and (last or step % (validate_every or every) == 0):
                metrics["validation"], error = measure(validate, modules, averages)
                if math.isfinite(error):
                    metrics["validation_stderr"] = error
                if best.see(metrics["validation"], step):
                    save(run.best)
                out_of_patience = over()
            run.log(step, metrics)
            progress.advance(step, metrics)
            if last or stopping or out_of_patience or step % every == 0:
                save(run.checkpoint)
    run.close()
    interrupted = stopping and step < steps and not out_of_patience
    if interrupted:
        progress.say(f"stopped after step {step} of {steps}, saved in {run.checkpoint}: continue with --resume")
    return Result(
        step=step,
        metrics=metrics,
        interrupted=interrupted,
        stopped_early=out_of_patience and step < steps,
        best_step=best.step,
        best_value=best.value,
        checkpoint=run.checkpoint,
        best=None if best.step is None else run.best,
        averages=averages,
        seconds=progress.seconds,
        rate=progress.rate,
    )


def _check(
    modules: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer], ema: Mapping[str, float]
) -> None:
    """Everything that is trained must be saved, under a name that can be."""
    for name in [*modules, *optimizers]:
        if name in RESERVED or not re.fullmatch(r"[\w-]+", name):
            raise UserError(f"the learner names a part {name!r}: use letters, digits, _ and -, and not ema or rng")
    if unknown := [name for name in ema if name not in modules]:
        raise UserError(f"ema names {unknown[0]!r}, which is not among the learner's modules: {', '.join(modules)}")
    saved = {p for module in modules.values() for p in module.parameters()}
    for name, optimizer in optimizers.items():
        for p in (p for group in optimizer.param_groups for p in group["params"]):
            if p not in saved:
                raise UserError(
                    f"optimizer {name!r} trains a parameter of shape {tuple(p.shape)} that is in none of the learner's "
                    "modules and would not be saved: put it into a module"
                )


@dataclass(frozen=True)
class _State:
    """The loop's own part of `state.json`."""

    format: int
    step: int
    examples: list[int]
    best: Best
    metrics: dict[str, float | None]


def _start(run: Run, fit: Fit, kept: Parts) -> tuple[int, Best, dict[str, float]]:
    """Restore the last checkpoint, or begin: the first process's weights everywhere, one generator a process."""
    if run.resume and current(run.checkpoint) is not None:
        where = str(run.checkpoint / "state.json")
        state = from_json(_State, load_state(run.checkpoint, kept), where)
        best = 0 if state.best.step is None else state.best.step
        if state.step < 0 or not 0 <= best <= state.step or min(state.examples, default=0) < 0:
            raise UserError(
                f"{where}: step {state.step}, best step {best} and examples {state.examples} cannot be: the checkpoint is "
                "damaged, use another one"
            )
        fit.examples = list(state.examples)
        run.rewind(state.step)
        metrics = {name: math.nan if x is None else x for name, x in state.metrics.items()}
        return state.step, state.best, metrics
    run.rewind(0)
    distributed.synchronise(kept.modules.values())
    if distributed.rank() > 0:
        digest = hashlib.blake2b(f"{run.seed}/{distributed.rank()}".encode(), digest_size=4).digest()
        torch.manual_seed(int.from_bytes(digest, "big"))
    return 0, Best(), {}


def _next(batches: Iterator[Any], step: int, steps: int, device: torch.device) -> Any:
    try:
        return distributed.place(next(batches), device)
    except StopIteration:
        raise UserError(
            f"the learner's batches ended in step {step + 1} of {steps}: they must go on, epoch after epoch"
        ) from None


def _average(parts: list[Mapping[str, float | Tensor]]) -> dict[str, float]:
    """Mean of each metric over the micro-batches that gave it."""
    numbers: dict[str, list[float]] = {}
    for part in parts:
        for name, value in part.items():
            numbers.setdefault(name, []).append(as_number(name, value))
    return {name: math.fsum(values) / len(values) for name, values in numbers.items()}


def _agree(metrics: dict[str, float], stop: bool, device: torch.device) -> tuple[dict[str, float], bool]:
    """Mean of the metrics over processes, and whether any of them was asked to stop."""
    if distributed.world() == 1:
        return metrics, stop
    dtype = torch.float32 if device.type == "mps" else torch.float64
    *means, asked = distributed.mean(
        torch.tensor([*metrics.values(), float(stop)], dtype=dtype, device=device)
    ).tolist()
    return dict(zip(metrics, means, strict=True)), asked > 0


def _nullable(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {name: x if math.isfinite(x) else None for name, x in metrics.items()}
