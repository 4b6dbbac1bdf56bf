"""Reward functions in TRL's signature, called and added up."""

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from infimum.errors import UserError

__all__ = ["RewardFunction", "call_rewards"]

RewardFunction = Callable[..., Any]


def call_rewards(
    functions: Sequence[RewardFunction],
    prompts: Sequence[Any],
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]],
    columns: Mapping[str, Sequence[Any]] | None = None,
    *,
    weights: Sequence[float] | None = None,
    **others: Any,
) -> tuple[Float[Tensor, "B"], dict[str, float]]:
    """The weighted sum of reward functions, and the mean of each.

    A function gets ``prompts``, ``completions``, ``completion_ids``, every further column of the data as a list, and ``others``
    such as ``trainer_state``; it returns a number or None for each completion, and may be a coroutine. None means that it does
    not apply, and counts nothing.

    Args:
        functions: TRL's reward functions.
        prompts: texts, or lists of messages.
        completions: texts, or lists of one message.
        completion_ids: tokens of the completions.
        columns: of the data, a value for each completion.
        weights: of the functions; None: 1 each.

    Raises:
        UserError: a function returns another number of rewards, or something that is no number; or none applies to a completion.
    """
    weights = [1.0] * len(functions) if weights is None else list(weights)
    if not functions or len(weights) != len(functions):
        raise UserError(
            f"got {len(functions)} reward functions and {len(weights)} weights, expected as many, and one at least"
        )
    table = torch.full((len(functions), len(completions)), math.nan, dtype=torch.float64)
    for i, function in enumerate(functions):
        name = getattr(function, "__name__", type(function).__name__)
        found = function(
            prompts=list(prompts), completions=list(completions), completion_ids=list(completion_ids), **(columns or {}), **others
        )  # fmt: skip
        if inspect.isawaitable(found):
            found = _finished(found)
        found = list(found)
        if len(found) != len(completions):
            raise UserError(f"{name} returned {len(found)} rewards for {len(completions)} completions: one each")
        for j, value in enumerate(found):
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise UserError(f"{name} returned {value!r} for completion {j}, expected a finite number, or None")
            table[i, j] = float(value)
    silent = table.isnan().all(0)
    if bool(silent.any()):
        raise UserError(f"no reward function applies to completion {int(silent.nonzero()[0])}: every one returned None")
    total = (table.nan_to_num(0.0) * torch.tensor(weights, dtype=torch.float64)[:, None]).sum(0)
    means = {
        getattr(f, "__name__", f"reward {i}"): float(row[~row.isnan()].mean())
        for i, (f, row) in enumerate(zip(functions, table, strict=True))
        if not bool(row.isnan().all())
    }
    return total, means


def _finished(found: Awaitable[Any]) -> Any:
    """What a coroutine returns. In a thread of its own: this one may have a running loop, as in a notebook."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, _wait(found)).result()


async def _wait(found: Awaitable[Any]) -> Any:
    return await found
