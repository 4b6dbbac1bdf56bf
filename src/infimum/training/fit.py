"""All that one step of training may ask of the loop."""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from infimum.errors import UserError
from infimum.evidence.draws import Draws
from infimum.evidence.plan import Plan
from infimum.training import distributed
from infimum.training.average import EMA
from infimum.training.run import Run
from infimum.training.schedules import Schedule

if TYPE_CHECKING:
    from infimum.training.loop import Learner

__all__ = ["Fit", "NonFinite"]


class NonFinite(UserError):
    """A loss, gradient or parameter became NaN or infinite; nothing was updated and the last checkpoint is kept."""


class Fit:
    """The loop's side of `Learner.step(batch, fit)`.

    Attributes:
        step: number of steps done before this one.
        device: where the batch is.
        rank, world: this process, and how many there are.  The batch that a step gets is this process's share.
        accumulate: micro-batches of a step; each must call `update` for every optimizer, with a gradient or without.
        examples: running counts of `draws`; saved with a checkpoint.
        norms: norms of the gradients of this step's updates.
    """

    def __init__(
        self,
        learner: "Learner",
        run: Run,
        *,
        accumulate: int,
        schedules: Mapping[str, Schedule],
        averages: Mapping[str, EMA],
    ) -> None:
        self.step, self.device = 0, run.device
        self.rank, self.world = distributed.rank(), distributed.world()
        self._run, self.accumulate, self._schedules, self._averages = run, accumulate, schedules, averages
        self._optimizers = dict(learner.optimizers)
        self._names = {p: f"{m}.{n}" for m, module in learner.modules.items() for n, p in module.named_parameters()}
        self.examples: list[int] = []
        self._micro = self._call = 0
        self._stash: dict[str, list[Tensor | None]] = {}
        self._updated: set[str] = set()
        self._loss: Tensor | None = None
        self._watched: dict[str, list[Tensor]] = {}
        self.norms: dict[str, float] = {}

    def draws(self, plan: Plan, n: int) -> Draws:
        """The draws for the next `n` examples of this process.

        Keys are a running count of examples, consecutive over processes and micro-batches, so that the numbers do not
        depend on how a batch is divided.  Salt "train"; later calls in the same step are forks "1", "2", ... with
        running counts of their own.
        """
        if self._call == len(self.examples):
            self.examples.append(0)
        first = self.examples[self._call] + self.rank * n
        keys = torch.arange(first, first + n, device=self.device)
        draws = plan.draws(keys, seed=self._run.seed, salt="train", device=self.device)
        draws = draws.fork(str(self._call)) if self._call else draws
        self.examples[self._call] += n * self.world
        self._call += 1
        return draws

    def autocast(self) -> AbstractContextManager[object]:
        """Context for networks: bfloat16 where the run asked for it.  Keep log-weights outside, in float32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._run.precision == "bf16")

    def mean(self, x: Tensor) -> Tensor:
        """Mean over processes: for buffers that a step updates from its share of the batch."""
        return distributed.mean(x)

    def watch(self, **terms: Shaped[Tensor, "*any"]) -> None:
        """Terms of the loss, items on the last axis: if training stops at a NaN, the term and its items are named."""
        for name, value in terms.items():
            self._watched.setdefault(name, []).append(value.detach())

    def backward(self, loss: Float[Tensor, ""], *, inputs: Sequence[Tensor] | None = None, keep: bool = False) -> None:
        """Add the gradient of a scalar loss, the mean over this process's examples; nothing is synchronised here.

        Args:
            inputs: the only parameters that get it: two losses over shared networks, each for its own optimizer.
            keep: the graph is needed for another loss.
        """
        self._loss = loss.detach() if self._loss is None else self._loss + loss.detach()
        loss.backward(inputs=None if inputs is None else list(inputs), retain_graph=keep or None)

    def update(self, name: str = "main", *, clip: float | None = None) -> Float[Tensor, ""]:
        """Mean of the gradients over micro-batches and processes, guard, clip, optimizer step, averages, zero.

        With `accumulate` micro-batches, all but the last only put the gradient of this optimizer aside.

        Args:
            clip: largest Euclidean norm of the gradient.

        Returns:
            The norm before clipping (before the last micro-batch: of the sum so far).

        Raises:
            NonFinite: the loss or the gradient is NaN or infinite; no parameter was changed by this update.
        """
        if name not in self._optimizers:
            raise UserError(f"fit.update({name!r}): the learner has the optimizers {', '.join(self._optimizers)}")
        optimizer = self._optimizers[name]
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if self.accumulate > 1:
            self._gather(name, parameters)
            if self._micro < self.accumulate - 1:
                return _norm([g for g in self._stash[name] if g is not None])
        loss = torch.zeros((), device=self.device) if self._loss is None else self._loss.to(self.device).float()
        loss = distributed.mean_gradients(parameters, loss)
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = _norm(gradients)
        size = float(norm)
        if not math.isfinite(size) or not math.isfinite(float(loss)):
            raise NonFinite(self._complaint(name, parameters, float(loss)))
        self._loss = None
        self.norms["grad_norm" if name == "main" else f"grad_norm.{name}"] = size
        if clip is not None and size > clip:
            torch._foreach_mul_(gradients, clip / size)
        if name in self._schedules:
            for group in optimizer.param_groups:
                base = group.setdefault("initial_lr", group["lr"])
                group["lr"] = base * self._schedules[name](self.step)
        optimizer.step()
        self._average(parameters)
        optimizer.zero_grad(set_to_none=True)
        return norm

    def begin(self, step: int, micro: int) -> None:
        """Called by the loop before each micro-batch."""
        self.step, self._micro, self._call = step, micro, 0
        self._updated.clear()
        if micro == 0:
            self._loss = None
            self._watched.clear()
            self.norms = {}

    def _gather(self, name: str, parameters: list[nn.Parameter]) -> None:
        """Put gradients aside; with the last micro-batch, write their mean back."""
        if name in self._updated:
            raise UserError(
                f"--accumulate {self.accumulate} needs one update of an optimizer in a step, and {name!r} is updated "
                "more than once: use --accumulate 1"
            )
        self._updated.add(name)
        held = self._stash.pop(name, [None] * len(parameters))
        for i, p in enumerate(parameters):
            if p.grad is not None:
                before = held[i]
                held[i] = p.grad if before is None else before + p.grad
            p.grad = None
        if self._micro < self.accumulate - 1:
            self._stash[name] = held
            return
        for p, gradient in zip(parameters, held, strict=True):
            p.grad = None if gradient is None else gradient / self.accumulate

    def _average(self, parameters: list[nn.Parameter]) -> None:
        updated = set(parameters)
        for average in self._averages.values():
            if any(p in updated for p in average.module.parameters()):
                average.update()

    def _complaint(self, name: str, parameters: list[nn.Parameter], loss: float) -> str:
        """What is not finite, from the most telling to the least: a term and its items, the loss, a gradient."""
        for term, parts in self._watched.items():
            bad = ~torch.isfinite(
                torch.cat([part.reshape(-1, part.shape[-1] if part.ndim else 1) for part in parts], -1)
            )
            if bad.any():
                items = bad.any(0).nonzero().flatten().tolist()
                what = f"the term {term!r} is not finite for items {items[:8]} of the batch"
                break
        else:
            broken = [p for p in parameters if p.grad is not None and not math.isfinite(float(_norm([p.grad])))]
            gradient = f"the gradient of {self._names.get(broken[0], 'a parameter')} is not finite" if broken else ""
            value = "" if math.isfinite(loss) else f"the loss is {loss}"
            what = " and ".join(part for part in (value, gradient) if part) or "the norm of the gradient overflows"
        return (
            f"step {self.step + 1}, optimizer {name!r}: {what}; nothing was updated and the last checkpoint is kept: "
            "lower the learning rate, clip the gradient, or look at the data"
        )

    def check_parameters(self) -> None:
        """Before a checkpoint is replaced.  Raises NonFinite in every process, naming a parameter where it is known."""
        own = [n for p, n in self._names.items() if not math.isfinite(float(_norm([p.detach()])))]
        if float(distributed.mean(torch.tensor(float(bool(own)), device=self.device))):
            what = own[0] if own else "a parameter of another process"
            raise NonFinite(f"step {self.step + 1}: {what} is not finite; the last checkpoint is kept: lower the rate")


def _norm(tensors: list[Tensor]) -> Float[Tensor, ""]:
    """Euclidean norm of all together; those sharded by FSDP2 count in full."""
    if not tensors:
        return torch.zeros(())
    sharded = [t for t in tensors if isinstance(t, DTensor)]
    plain = [t for t in tensors if not isinstance(t, DTensor)]
    norms = [distributed.whole(torch.nn.utils.get_total_norm(part)) for part in (plain, sharded) if part]
    return torch.linalg.vector_norm(torch.stack(norms))
