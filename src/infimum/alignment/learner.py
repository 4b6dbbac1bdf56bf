"""Online policy optimisation of a masked diffusion model: completions, rewards, advantages, and any `Objective`."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from infimum.alignment.backward import Engine, objective_backward, table_of
from infimum.alignment.objective import Objective, warn_of_drift
from infimum.alignment.policy import Reference, check_reference, parts_of
from infimum.alignment.rollouts import Rollouts, Sampling, identical
from infimum.alignment.table import TokenTable, answered, take
from infimum.data import batches
from infimum.discrete import Canvas, MaskedDiffusion, canvas_of, fill
from infimum.errors import UserError
from infimum.evidence import Draws, Plan
from infimum.language.advantages import ScaleRewards, group_advantages
from infimum.training import Fit

__all__ = ["PolicyLearner"]


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
        scale_rewards: whether advantages are divided by the standard deviation of their group, see `group_advantages`; None: as the
            objective's paper has it (BGPO: "group", the others: "none").
        end: token that ends a text; None: completions fill their canvas.
        score_behind_end: score what stands behind the end as well, instead of hiding it.
        reference: needed where the objective's ``beta`` is positive, see `Reference`.
        engine: "auto": one graph for as many completions as fit into ``rows``; "graph", "two_pass" or "stream" (linear objectives).
        rows: masked canvases at a time: what memory grows with.
        lr, betas, decay: of AdamW (3e-6; 0.9, 0.99; 0.1).
        clip: largest gradient norm (0.2).
        seed: of the order of the prompts.

    Raises:
        UserError: no prompts, a group of one, a divergence without a reference or with one that is none, an engine that the
            objective does not have, another end than the reward's, sharded weights with an order whose calls differ by process.
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
        scale_rewards: ScaleRewards | None = None,
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
        if reference is not None:
            check_reference(policy, reference)
        if end is not None and not 0 <= end < policy.config.size:
            raise UserError(f"end is {end}, which is not in the vocabulary 0 .. {policy.config.size - 1}")
        if (other := getattr(reward, "end", end)) != end:
            raise UserError(
                f"end is {end} and the reward's {other}: what is rewarded must be what is scored, give both one end"
            )
        if engine not in get_args(Engine):
            raise UserError(f"engine is {engine!r}: choose one of {', '.join(get_args(Engine))}")
        if engine == "stream" and not objective.linear:
            raise UserError(
                f"engine 'stream' needs an objective that is a sum over masks, {type(objective).__name__} is none: use two_pass"
            )
        if batch < 1 or rows < 1:
            raise UserError(f"batch is {batch} and rows {rows}, expected at least 1 of each")
        self.sampling = sampling or Sampling()
        if self.sampling.order in ("threshold", "ancestral") and any(
            isinstance(p, DTensor) for p in policy.parameters()
        ):
            raise UserError(
                f"the order {self.sampling.order!r} takes as many network calls as its texts need, and sharded weights need as "
                "many in every process: use confidence or random"
            )
        written = self.sampling.block_length or policy.config.block_length
        if objective.written_by is not None and objective.written_by != written:
            warnings.warn(
                f"masks go by blocks of {objective.written_by} tokens and completions are written by blocks of "
                f"{written}: give Sampling the same block_length, or take masking='random'",
                stacklevel=2,
            )
        if self.sampling.temperature == 0:
            warnings.warn(
                "temperature 0 writes one completion for every member of a group: there is nothing to learn from",
                stacklevel=2,
            )
        self.policy, self.prompts, self.reward, self.objective = policy, dict(prompts), reward, objective
        self.batch, self.size, self.scale, self.end, self.hide = (
            batch,
            num_generations,
            objective.scale_rewards if scale_rewards is None else scale_rewards,
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
        """Masked canvases that went through this process's network, forward, for writing and for scoring; a metric of each step."""

    def batches(self, start: int) -> Iterator[Int[Tensor, "P"]]:
        """Numbers of prompts, pure in the number of the batch."""
        index = torch.arange(len(self.prompts["tokens"]))
        for _, rows in batches(index, self.batch, seed=self.seed, start=start):
            yield rows

    def step(self, batch: Int[Tensor, "P"], fit: Fit) -> Mapping[str, float | Tensor]:
        """One batch of completions and its updates."""
        before = self.calls
        self.policy.to(fit.device).eval()  # of an adapter the loop has moved the trained part alone
        if isinstance(self.reference, MaskedDiffusion):
            self.reference.to(fit.device).eval()
        with fit.autocast():
            rollouts = self.rollouts(batch, fit.draws(Plan.iid(1), len(batch) * self.size))
        rewards = self._rewards(rollouts)
        groups = rewards.view(-1, self.size)
        advantages = group_advantages(groups, self.scale)
        metrics: dict[str, float | Tensor] = {
            "reward": rewards.mean(),
            "frac_zero_advantage": (advantages == 0).all(1).double().mean(),
            "completion_length": self._answers(rollouts).lengths.double().mean(),
            "identical": identical(rollouts, self.size),
        }
        metrics |= {f"rewards/{name}": value for name, value in getattr(self.reward, "means", {}).items()}
        metrics |= self._updates(rollouts, advantages.flatten(), fit)
        return metrics | {"calls": (self.calls - before) * fit.world}

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
        found = self.reward(rollouts)
        try:
            rewards = torch.as_tensor(found, dtype=torch.float64, device=rollouts.tokens.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"the reward returned what is no table of numbers ({error}): one number each") from None
        if rewards.shape != rollouts.rows.shape:
            raise UserError(
                f"the reward returned {tuple(rewards.shape)} for {len(rollouts.rows)} completions: one number each"
            )
        return rewards

    def _updates(self, rollouts: Rollouts, advantages: Float[Tensor, "B"], fit: Fit) -> dict[str, float | Tensor]:
        # completions without an advantage change nothing, unless they are held to a reference
        counts = advantages > 0 if self.objective.drops_negative else advantages != 0
        if self.objective.beta:
            counts = torch.ones_like(counts)
        anywhere = float(fit.mean(counts.any().double().to(fit.device))) > 0
        # several processes make the same network calls
        live = torch.ones_like(counts) if fit.world > 1 else counts
        s = self._answers(rollouts)
        count = s.lengths.sum() if self.objective.per == "token" else torch.tensor(len(s.lengths))
        unit = float(fit.mean(count.double().to(fit.device)))
        one = self.objective
        first = fit.draws(one.plan, len(s.lengths))
        plans = [
            first,
            *(fit.draws(one.plan, len(s.lengths)) if one.fresh_masks else first for _ in range(one.num_iterations - 1)),
        ]
        if not anywhere:  # nor do optimizers move, but where other micro-batches have gradients
            for _ in plans if fit.accumulate > 1 else ():
                fit.update(clip=self.clip)
            return {}
        counts = counts[live]
        s, advantages = take(s, live), advantages[live].to(_dtype(self.policy))
        plans = [draws.take(live) for draws in plans]
        olds: list[list[TokenTable] | None] = [None] * len(plans)
        with fit.autocast():
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
                    found.setdefault(name, []).append(value.detach()[counts[items]])
                    fit.watch(**{name: value})
            kept = tables if kept is None else kept
            fit.update(clip=self.clip)
            self.calls += draws.shape[0] * draws.shape[1]
        warn_of_drift(
            {name: torch.cat(parts) for name, parts in found.items()}, found.get("clip_ratio", []), len(plans)
        )
        share = counts.double().mean()
        weight = share / fit.mean(share.to(fit.device)).to(share.device) if fit.world > 1 else torch.ones(())
        # processes are averaged by the loop: each counts by its completions
        return {
            name: torch.cat(parts).mean() * weight if bool(counts.any()) else torch.zeros(())
            for name, parts in found.items()
        }

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
