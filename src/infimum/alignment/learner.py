"""Online policy optimisation of a masked diffusion model: completions, rewards, advantages, and any `Objective`."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from infimum.alignment.backward import Engine, objective_backward, table_of
from infimum.alignment.objective import Objective
from infimum.alignment.table import TokenTable, answered, take
from infimum.data import batches
from infimum.discrete import Cache, Canvas, MaskedDiffusion, Order, canvas_of, fill
from infimum.errors import UserError
from infimum.evidence import Draws, Plan
from infimum.language.advantages import ScaleRewards, group_advantages
from infimum.training import Fit

__all__ = ["PolicyLearner", "Reference", "Rollouts", "Sampling"]

Reference = MaskedDiffusion | Callable[[], AbstractContextManager[Any]]
"""A frozen model; or a context in which the policy itself is the reference, such as peft's ``model.disable_adapter``."""


@dataclass(frozen=True)
class Sampling:
    """How completions are written, see `infimum.discrete.fill`.

    Args:
        order: "confidence" (LLaDA), "threshold", "random" or "ancestral".
        steps: network calls a completion; None: one a token.
        block_length: tokens of a block, from the left to the right (32); None: the whole canvas at once.
        temperature: of the tokens (0.9; Sudoku 0.3).
        guidance, threshold, forbidden, last, cache, rows: see there.
    """

    order: Order = "confidence"
    steps: int | None = None
    block_length: int | None = None
    temperature: float = 0.9
    guidance: float = 0.0
    threshold: float = 0.9
    forbidden: tuple[int, ...] = ()
    last: tuple[int, ...] = ()
    cache: Cache = "none"
    rows: int = 256

    def options(self) -> dict[str, Any]:
        """What `fill` takes."""
        return dict(self.__dict__)


class TrainedPart(nn.Module):
    """The parameters of a model that are trained, and no others: what a checkpoint of an adapter holds."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        for name, p in model.named_parameters():
            if p.requires_grad:
                self.register_parameter(name.replace(".", "-"), p)


def parts_of(policy: MaskedDiffusion) -> dict[str, nn.Module]:
    """What is saved: the policy, or the trained part of a frozen one (low-rank adapters).

    Raises:
        UserError: nothing is trained.
    """
    flags = [p.requires_grad for p in policy.parameters()]
    if not any(flags):
        raise UserError("the policy has no parameter that requires a gradient: add an adapter, or unfreeze it")
    return {"model": policy} if all(flags) else {"trained": TrainedPart(policy)}


class Rollouts(NamedTuple):
    """Finished completions, as a reward sees them: those of a prompt stand together.

    Attributes:
        rows: which prompt each answers.
        tokens: (B, L), prompts and completions.
        canvas: what was to be filled in: ``canvas.target`` marks the completions.
    """

    rows: Int[Tensor, "B"]
    tokens: Int[Tensor, "B L"]
    canvas: Canvas


class PolicyLearner:
    """A step writes completions, rewards them, and updates the policy ``objective.num_iterations`` times; for `train`.

    The network is in evaluation mode throughout: dropout would make policy and old policy differ for reasons of their own.

    Args:
        policy: trained in place.
        prompts: canvases (N, L) with "tokens", "target" and, if padded, "present", see `infimum.discrete.completions`.
        reward: `Rollouts` to rewards (B,).
        objective: the method: `SPG`, `GroupDiffusionPO`, `BGPO`, `DiffuGRPO`, `ESPO`, `Reinforce`, or your own.
        batch: prompts a step, over all processes.
        num_generations: completions of each (6), TRL's name.
        sampling: how they are written.
        scale_rewards: whether advantages are divided by the standard deviation of their group, see `group_advantages`.
        end: token that ends a text; None: completions fill their canvas.
        score_behind_end: score what stands behind the end as well, instead of hiding it.
        reference: needed where the objective's ``beta`` is positive, see `Reference`.
        engine: "auto": one graph for as many completions as fit into ``rows``; "graph", "two_pass" or "stream" (linear objectives).
        rows: masked canvases at a time: what memory grows with.
        lr, betas, decay: of AdamW (3e-6; 0.9, 0.99; 0.1).
        clip: largest gradient norm (0.2).
        seed: of the order of the prompts.

    Raises:
        UserError: no prompts, a group of one, a divergence without a reference, an engine that the objective does not have.
    """

    def __init__(
        self,
        policy: MaskedDiffusion,
        prompts: Mapping[str, Tensor],
        reward: Callable[[Rollouts], Tensor],
        objective: Objective,
        *,
        batch: int = 16,
        num_generations: int = 6,
        sampling: Sampling | None = None,
        scale_rewards: ScaleRewards = "none",
        end: int | None = None,
        score_behind_end: bool = False,
        reference: Reference | None = None,
        engine: Engine = "auto",
        rows: int = 256,
        lr: float = 3e-6,
        betas: tuple[float, float] = (0.9, 0.99),
        decay: float = 0.1,
        clip: float | None = 0.2,
        seed: int = 0,
    ) -> None:
        if not len(prompts.get("tokens", ())):
            raise UserError("there are no prompts to train on, expected at least 1")
        if num_generations < 2:
            raise UserError(f"num_generations is {num_generations}, expected 2 or more: one completion has no baseline")
        if objective.beta and reference is None:
            raise UserError(f"beta is {objective.beta} and there is no reference: pass one, or set beta to 0")
        if engine not in get_args(Engine):
            raise UserError(f"engine is {engine!r}: choose one of {', '.join(get_args(Engine))}")
        if engine == "stream" and not objective.linear:
            raise UserError(
                f"engine 'stream' needs an objective that is a sum over masks, {type(objective).__name__} is none: use two_pass"
            )
        if batch < 1 or rows < 1:
            raise UserError(f"batch is {batch} and rows {rows}, expected at least 1 of each")
        self.sampling = sampling or Sampling()
        if self.sampling.temperature == 0:
            warnings.warn(
                "temperature 0 writes one completion for every member of a group: there is nothing to learn from",
                stacklevel=2,
            )
        self.policy, self.prompts, self.reward, self.objective = policy, dict(prompts), reward, objective
        self.batch, self.size, self.scale, self.end, self.hide = (
            batch,
            num_generations,
            scale_rewards,
            end,
            not score_behind_end,
        )
        self.reference, self.engine, self.rows, self.clip, self.seed = reference, engine, rows, clip, seed
        self.modules: Mapping[str, nn.Module] = parts_of(policy)
        trained = [p for p in policy.parameters() if p.requires_grad]
        self.optimizers: Mapping[str, torch.optim.Optimizer] = {
            "main": torch.optim.AdamW(trained, lr=lr, betas=betas, weight_decay=decay, fused=True)
        }
        self.calls = 0
        """Masked canvases that went through the network, forward, for writing and for scoring."""

    def batches(self, start: int) -> Iterator[Int[Tensor, "P"]]:
        """Numbers of prompts, pure in the number of the batch."""
        index = torch.arange(len(self.prompts["tokens"]))
        for _, rows in batches(index, self.batch, seed=self.seed, start=start):
            yield rows

    def step(self, batch: Int[Tensor, "P"], fit: Fit) -> Mapping[str, float | Tensor]:
        """One batch of completions and its updates."""
        self.policy.eval()
        rollouts = self.rollouts(batch, fit.draws(Plan.iid(1), len(batch) * self.size))
        rewards = self._rewards(rollouts)
        groups = rewards.view(-1, self.size)
        advantages = group_advantages(groups, self.scale)
        metrics: dict[str, float | Tensor] = {
            "reward": rewards.mean(),
            "frac_zero_advantage": (advantages == 0).all(1).double().mean(),
            "completion_length": self._answers(rollouts).lengths.double().mean(),
            "identical": _identical(rollouts, self.size),
        }
        return metrics | self._updates(rollouts, advantages.flatten(), fit)

    def rollouts(self, rows: Int[Tensor, "P"], draws: Draws) -> Rollouts:
        """Completions of some prompts; ``draws`` are one for each of P x G. Streams: those of `fill`."""
        rows = rows.repeat_interleave(self.size).to(draws.device)
        x = {name: each.to(draws.device)[rows] for name, each in self.prompts.items()}
        done = fill(self.policy, x, draws, **self.sampling.options())
        self.calls += done.calls
        s = canvas_of(x, self.policy.config.vocabulary, self.policy.config.mask, filled=False)
        return Rollouts(rows, done.tokens[0], s)

    def _answers(self, rollouts: Rollouts) -> Canvas:
        return answered(rollouts.canvas, rollouts.tokens, end=self.end, mask_id=self.policy.config.mask, hide=self.hide)

    def _rewards(self, rollouts: Rollouts) -> Float[Tensor, "B"]:
        rewards = torch.as_tensor(self.reward(rollouts), dtype=torch.float64, device=rollouts.tokens.device)
        if rewards.shape != rollouts.rows.shape:
            raise UserError(
                f"the reward returned {tuple(rewards.shape)} for {len(rollouts.rows)} completions: one number each"
            )
        return rewards

    def _updates(self, rollouts: Rollouts, advantages: Float[Tensor, "B"], fit: Fit) -> dict[str, float | Tensor]:
        # completions without an advantage change nothing, unless they are held to a reference; several processes make the same
        # network calls all the same
        live = advantages != 0
        if self.objective.beta or fit.world > 1:
            live = torch.ones_like(live)
        s = self._answers(rollouts)
        count = s.lengths.sum() if self.objective.per == "token" else torch.tensor(len(s.lengths))
        unit = float(fit.mean(count.double().to(fit.device)))
        one = self.objective
        first = fit.draws(one.plan, len(s.lengths))
        plans = [
            first,
            *(fit.draws(one.plan, len(s.lengths)) if one.fresh_masks else first for _ in range(one.num_iterations - 1)),
        ]
        if not bool(live.any()):
            return {}
        s, advantages = take(s, live), advantages[live].to(_dtype(self.policy))
        plans = [draws.take(live) for draws in plans]
        olds: list[list[TokenTable] | None] = [None] * len(plans)
        if one.compares and one.fresh_masks:  # before the policy moves; the first update compares with itself
            olds[1:] = [self._tables(self.policy, s, draws) for draws in plans[1:]]
        references = self._references(s, plans)
        found: dict[str, list[Tensor]] = {}
        kept: list[TokenTable] | None = None
        for i, draws in enumerate(plans):
            old = kept if (kept is not None and not one.fresh_masks) else olds[i]
            tables = []
            for part, items in enumerate(self._parts(len(s.lengths))):
                with fit.autocast():
                    now = objective_backward(
                        self.policy, take(s, items), draws.take(items), one, advantages[items], unit=unit, engine=self.engine,
                        rows=self.rows, old=None if old is None else old[part],
                        reference=None if references is None else references[i][part], backward=fit.backward,
                    )  # fmt: skip
                tables.append(now)
                before = now if old is None else old[part]
                for name, value in one.report(now, before).items():
                    found.setdefault(name, []).append(value.detach())
                    fit.watch(**{name: value})
            kept = tables if kept is None else kept
            fit.update(clip=self.clip)
            self.calls += draws.shape[0] * draws.shape[1]
        if "largest_d" in found and float(torch.cat(found["largest_d"]).max()) > 10:
            warnings.warn(
                "the policy has drifted by more than 10 nats a token from the one that wrote the completions: fewer "
                "iterations, or a "
                "lower learning rate",
                stacklevel=2,
            )
        outside = found.get("clip_ratio", [])
        outside = outside[len(outside) // len(plans) :]  # the first update has ratios of 1
        if outside and bool((torch.cat(outside) == 1).all()):
            warnings.warn(
                "every ratio is outside of its clip: nothing is learnt; divide log-ratios by the length (ratio_norm), or lower the "
                "learning rate",
                stacklevel=2,
            )
        return {name: torch.cat(parts).mean() for name, parts in found.items()}

    def _parts(self, items: int) -> list[Tensor]:
        """Completions whose masks fit into ``rows`` together: an objective is a sum over completions."""
        size = max(1, self.rows // self.objective.plan.k)
        return list(torch.arange(items).split(size))

    def _tables(self, policy: MaskedDiffusion, s: Canvas, draws: Draws) -> list[TokenTable]:
        self.calls += draws.shape[0] * draws.shape[1]
        return [
            table_of(policy, take(s, items), draws.take(items), self.objective, self.rows)
            for items in self._parts(len(s.lengths))
        ]

    def _references(self, s: Canvas, plans: list[Draws]) -> list[list[TokenTable]] | None:
        if not self.objective.beta or self.reference is None:
            return None
        distinct = plans if self.objective.fresh_masks else plans[:1]
        if isinstance(self.reference, MaskedDiffusion):
            found = [self._tables(self.reference, s, draws) for draws in distinct]
        else:
            with self.reference():
                found = [self._tables(self.policy, s, draws) for draws in distinct]
        return found if self.objective.fresh_masks else found * len(plans)


def _dtype(policy: MaskedDiffusion) -> torch.dtype:
    """Of scores: float32 at least."""
    return torch.promote_types(next(policy.parameters()).dtype, torch.float32)


def _identical(rollouts: Rollouts, size: int) -> Float[Tensor, ""]:
    """Share of groups whose completions are all the same."""
    groups = rollouts.tokens.view(-1, size, rollouts.tokens.shape[1])
    return (groups == groups[:, :1]).all(2).all(1).double().mean()
