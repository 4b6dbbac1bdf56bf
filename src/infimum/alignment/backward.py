"""The gradient of an objective: in one graph, in two passes, or draw by draw where it is a sum over draws."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from infimum.alignment.objective import Objective
from infimum.alignment.table import TokenTable, token_table
from infimum.discrete import Canvas, MaskedDiffusion, Masks
from infimum.errors import UserError
from infimum.evidence import Draws, two_pass_backward

__all__ = ["Engine", "engine_of", "objective_backward", "table_of"]

Engine = Literal["auto", "graph", "two_pass", "stream"]


def engine_of(engine: Engine, objective: Objective, draws: Draws, rows: int) -> Engine:
    """What "auto" means: one graph where all canvases fit into ``rows``, else one pass where the objective allows, else two."""
    wanted = getattr(objective, "engine", None)
    if engine != "auto":
        return engine
    if wanted in ("graph", "two_pass"):
        return wanted
    if draws.shape[0] * draws.shape[1] <= rows:
        return "graph"
    return "stream" if objective.linear else "two_pass"


@torch.no_grad()
def table_of(policy: MaskedDiffusion, s: Canvas, draws: Draws, objective: Objective, rows: int) -> TokenTable:
    """All scores without a graph, ``rows`` canvases at a time."""
    return _joined([token_table(policy, s, some, objective.masks(policy, s, some)) for some in draws.chunks(rows)])


def objective_backward(
    policy: MaskedDiffusion,
    s: Canvas,
    draws: Draws,
    objective: Objective,
    advantages: Float[Tensor, "B"],
    *,
    unit: float,
    engine: Engine = "auto",
    rows: int = 256,
    old: TokenTable | None = None,
    reference: TokenTable | None = None,
    backward: Callable[[Tensor], Any] = Tensor.backward,
) -> TokenTable:
    """Accumulate the gradient of the sum of an objective's losses over ``unit`` into ``.grad``.

    All engines give the same gradient. Memory: "graph" holds the activations of all K x B canvases, the others those of ``rows``;
    calls: "two_pass" K x B more without a graph.

    Args:
        policy: in evaluation mode.
        s: canvas of B completions.
        draws: K masks each.
        objective: what is minimised.
        advantages: of the completions.
        unit: what the sum is divided by.
        engine: see there.
        rows: canvases at a time, one draw of all B at the least.
        old: scores of the policy that wrote the completions, under the same masks; None: it is this one.
        reference: of the reference model.
        backward: what is called on every scalar.

    Returns:
        The scores, detached.

    Raises:
        UserError: old or reference scores of other masks; a sum over draws asked of an objective that is none; a network that does
            not reproduce itself.
    """
    engine = engine_of(engine, objective, draws, rows)
    if engine == "stream" and not objective.linear:
        raise UserError(f"{type(objective).__name__} is no sum over masks: use engine two_pass")
    masks = objective.masks(policy, s, draws)
    for other, name in ((old, "old"), (reference, "reference")):
        if other is not None and not (
            other.scored.shape == masks.scored.shape
            and torch.equal(other.scored, masks.scored)
            and torch.equal(other.weight, masks.weight)
        ):
            raise UserError(f"the ratio mixes masks: the {name} scores were taken under other draws than the policy's")

    def part_of(some: Draws) -> tuple[Masks, slice]:
        at = slice(some.start - draws.start, some.stop - draws.start)
        return Masks(*(each[at] for each in masks)), at

    def losses(now: TokenTable, at: slice) -> Tensor:
        before = now.detach() if old is None else _slice(old, at)
        held = None if reference is None else _slice(reference, at)
        return objective.losses(now, before, held, advantages).sum() / unit

    if engine == "two_pass":
        share = draws.log_share.exp()
        full = TokenTable(masks.weight.new_empty(0, 0, 0), masks.scored, masks.weight, share, s.lengths)
        seen: list[Tensor] = []

        def objective_of(scores: Tensor) -> Tensor:
            seen.append(scores.detach())
            return losses(full._replace(scores=scores), slice(0, len(scores)))

        def stat(some: Draws) -> Tensor:
            return policy.token_scores(s, part_of(some)[0])

        two_pass_backward(stat, draws, objective_of, rows=rows, backward=backward)
        return full._replace(scores=seen[0])
    tables = []
    for some in [draws] if engine == "graph" else list(draws.chunks(rows)):
        part, at = part_of(some)
        now = token_table(policy, s, some, part)
        backward(losses(now, at))
        tables.append(now.detach())
    return _joined(tables)


def _slice(table: TokenTable, at: slice) -> TokenTable:
    return table._replace(
        scores=table.scores[at], scored=table.scored[at], weight=table.weight[at], share=table.share[at]
    )


def _joined(tables: list[TokenTable]) -> TokenTable:
    if len(tables) == 1:
        return tables[0]
    scores, scored, weight, share = (torch.cat([table[i] for table in tables]) for i in range(4))
    return TokenTable(scores, scored, weight, share, tables[0].lengths)
