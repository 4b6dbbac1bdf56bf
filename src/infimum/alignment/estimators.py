"""Surrogates of the log-likelihood beside the truth: bias, variance, network calls and memory of each, where all masks can be
summed.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from infimum.alignment.backward import objective_backward
from infimum.alignment.gdpo import GroupDiffusionPO
from infimum.alignment.grpo import ESPO, Reinforce
from infimum.alignment.objective import Objective, count_masks
from infimum.alignment.spg import SPG
from infimum.alignment.surrogates import elbo_of, eubo_of, token_means
from infimum.alignment.table import TokenTable, token_table
from infimum.discrete import Canvas, MaskedDiffusion, Masks, exact_elbo, exact_log_likelihood, masks_of
from infimum.errors import UserError
from infimum.evidence import Draws, Plan
from infimum.testing import peak_saved_bytes

__all__ = ["EstimatorRow", "Surrogate", "estimator_report", "memory_report", "surrogates"]


@dataclass(frozen=True)
class Surrogate:
    """A way to estimate the log-likelihood of a completion.

    Attributes:
        plan: of its masks.
        masks: how they are drawn.
        value: of a table, (B,).
        side: of log p, "lower", or "none".
        by_blocks: whether masks go by the model's blocks; if not, it says nothing of the log p of a model with blocks.
    """

    plan: Plan
    masks: Callable[[MaskedDiffusion, Canvas, Draws], Masks]
    value: Callable[[TokenTable], Float[Tensor, "B"]]
    side: str
    by_blocks: bool = True


def _of(method: Objective, value: Callable[[TokenTable], Tensor], side: str) -> Surrogate:
    return Surrogate(method.plan, method.masks, value, side, by_blocks=False)


def surrogates(calls: int = 4, *, beta: float = 1.5, block_length: int | None = None) -> dict[str, Surrogate]:
    """Those of this room, each with ``calls`` network calls, but mean field, which has one.

    Args:
        calls: K, an even number.
        beta: order of the EUBO.
        block_length: of the published SPG; None: the completion is one block.

    Raises:
        UserError: an odd number of calls.
    """
    if calls < 2 or calls % 2:
        raise UserError(f"calls is {calls}, expected an even number from 2 on: coupled masks come in pairs")

    def times(floor: float) -> Any:
        return lambda policy, s, draws: masks_of(s, draws, "time", floor=floor, block_length=policy.config.block_length)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spg = SPG(num_masks=calls, masking="random")
        official = SPG(num_masks=calls, flavour="official", masking="block", block_length=block_length)
        found = {
            "ELBO, counts": Surrogate(Plan.iid(calls), count_masks, elbo_of, "lower"),
            "ELBO, counts, stratified": Surrogate(Plan.stratified(calls), count_masks, elbo_of, "lower"),
            "ELBO, coupled (ESPO)": _of(ESPO(pairs=calls // 2), elbo_of, "lower"),
            "ELBO, times": Surrogate(Plan.iid(calls), times(0.0), elbo_of, "lower"),
            "ELBO, times from .001": Surrogate(Plan.iid(calls), times(0.001), elbo_of, "none"),
        }
        for mask, name in (
            ("bernoulli", "Bernoulli"),
            ("count_corrected", "counts"),
            ("count_official", "official counts"),
        ):
            method = GroupDiffusionPO(points=calls, mask=mask)  # type: ignore[arg-type]
            found[f"GDPO, Gauss-{calls}, {name}"] = _of(method, elbo_of, "none")
        found["GDPO, midpoints, counts"] = _of(GroupDiffusionPO(rule="midpoint", points=calls), elbo_of, "none")
        found[f"SPG, EUBO of order {beta:g}"] = _of(spg, lambda t: eubo_of(t, beta), "none")
        found["SPG, EUBO of order L"] = _of(spg, lambda t: eubo_of(t, 1.0, certified=True), "none")
        found["SPG, published ELBO"] = _of(official, token_means, "none")
        found[f"SPG, published EUBO of order {beta:g}"] = _of(official, lambda t: token_means(t, beta), "none")
        found["mean field (diffu-GRPO)"] = _of(Reinforce(one_step=True), elbo_of, "none")
    return found


@dataclass(frozen=True)
class EstimatorRow:
    """What a surrogate costs and is worth; in nats a completion, means over completions.

    Attributes:
        bias: mean less log p, over repetitions.
        bias_stderr: of it, Monte Carlo.
        elbo_bias: mean less the ELBO.
        variance: over repetitions.
        variance_stderr: of it, over completions.
        calls: network calls an evaluation.
        mse: mean square error about the ELBO, mean over completions, free of what the repetitions themselves add.
        saved_bytes: what autograd keeps for the gradient of one evaluation of a completion, in one graph.
        side: of log p that its expectation is on, where that is known.
    """

    bias: float
    bias_stderr: float
    elbo_bias: float
    variance: float
    variance_stderr: float
    mse: float
    calls: int
    saved_bytes: int
    side: str


def estimator_report(
    model: MaskedDiffusion,
    x: Any,
    *,
    calls: int = 4,
    repeats: int = 400,
    beta: float = 1.5,
    block_length: int | None = None,
    seed: int = 0,
    choose: Mapping[str, Surrogate] | None = None,
) -> dict[str, EstimatorRow]:
    """Every surrogate at equal network calls beside the exact log-likelihood and the exact ELBO of some completions.

    Args:
        model: in evaluation mode.
        x: a batch of completions of at most 14 tokens, see `MaskedDiffusion`.
        calls: network calls an evaluation.
        repeats: independent evaluations of each completion.
        beta: order of the EUBO.
        block_length: of the published SPG's blocks.
        seed: of the masks.
        choose: surrogates by name; None: `surrogates`.

    Raises:
        UserError: completions that are too long for exact sums.
    """
    s = model.encode(x)
    with torch.no_grad():
        truth, bound = exact_log_likelihood(model, x).value, exact_elbo(model, x).value
    b, found = len(s.lengths), {}
    wide = Canvas(*(each.repeat_interleave(repeats, 0) for each in s))
    for name, one in (choose or surrogates(calls, beta=beta, block_length=block_length)).items():
        keys = torch.arange(b * repeats, device=s.tokens.device)
        draws = one.plan.draws(keys, seed=seed, salt="estimators")
        values = []
        with torch.no_grad():
            for items in keys.split(4096):
                part, some = Canvas(*(each[items] for each in wide)), draws.take(items)
                values.append(one.value(token_table(model, part, some, one.masks(model, part, some))))
        value = torch.cat(values).double().view(b, repeats)
        spread = value.var(1)
        error = float((spread / repeats).mean().sqrt()) / b**0.5
        found[name] = EstimatorRow(
            float((value.mean(1) - truth).mean()), error, float((value.mean(1) - bound).mean()), float(spread.mean()),
            float(spread.std()) / b**0.5 if b > 1 else float("nan"),
            float(((value.mean(1) - bound).square() - spread / repeats + spread).mean()), one.plan.k,
            _saved(model, s, draws, one), one.side if one.by_blocks or model.config.block_length is None else "none",
        )  # fmt: skip
    return found


def _saved(model: MaskedDiffusion, s: Canvas, draws: Draws, one: Surrogate) -> int:
    part = Canvas(*(each[:1] for each in s))
    some = draws.take(torch.arange(1, device=draws.device))
    with peak_saved_bytes(model) as peak:
        value = one.value(token_table(model, part, some, one.masks(model, part, some)))
        del value
    return peak.bytes


def memory_report(
    model: MaskedDiffusion, x: Any, objectives: Mapping[str, Objective], *, rows: int | None = None, masks: int = 1
) -> dict[str, int]:
    """Bytes that autograd keeps for gradients of each objective at most, see `peak_saved_bytes`.

    A canvas with more masks has more logits: to compare numbers of masks, let all see as many.

    Args:
        model: in evaluation mode.
        x: completions.
        objectives: by name; `BGPO` names its own engine.
        rows: canvases at a time; None: one draw of the batch.
        masks: as many gradients as it takes to see so many masks a completion.
    """
    s, found = model.encode(x), {}
    items = len(s.lengths)
    advantages = torch.where(torch.arange(items) % 2 == 0, 1.0, -1.0).to(next(model.parameters()))
    for name, one in objectives.items():
        found[name] = 0
        for seed in range(max(1, masks // one.plan.k)):
            draws = one.plan.draws(torch.arange(items, device=s.tokens.device), seed=seed)
            model.zero_grad(set_to_none=True)
            with peak_saved_bytes(model) as peak:
                objective_backward(model, s, draws, one, advantages, unit=float(items), rows=rows or items)
            found[name] = max(found[name], peak.bytes)
    model.zero_grad(set_to_none=True)
    return found
