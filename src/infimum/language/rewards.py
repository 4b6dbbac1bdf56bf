"""Reward functions in TRL's signature, called and added up."""

import asyncio
import functools
import inspect
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
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
    such as ``trainer_state``; one without ``**kwargs`` gets those that it names. It returns a list, an array or a tensor with a
    number or None for each completion, and may be a coroutine. None means that it does not apply, and counts nothing.

    Args:
        functions: TRL's reward functions.
        prompts: texts, or lists of messages.
        completions: texts, or lists of one message.
        completion_ids: tokens of the completions.
        columns: of the data, a value for each completion; one by the name of another argument is not passed on.
        weights: of the functions; None: 1 each.

    Returns:
        The sums, float64, and the means by the functions' names; of two functions with one name, the second is "name-2", and of one
        that applies to no completion the mean is NaN.

    Raises:
        UserError: a function returns another number of rewards, or something that is no number; it asks for a column that is not
            there; none applies to a completion; or a weight is no finite number.
    """
    weights = [1.0] * len(functions) if weights is None else list(weights)
    if not functions or len(weights) != len(functions):
        raise UserError(
            f"got {len(functions)} reward functions and {len(weights)} weights, expected as many, and one at least"
        )
    names = _names(functions)
    factors = [_number(weight) for weight in weights]
    if None in factors:
        wrong = factors.index(None)
        raise UserError(f"the weight of {names[wrong]} is {_shown(weights[wrong])}, expected a finite number")
    table = torch.full((len(functions), len(completions)), math.nan, dtype=torch.float64)
    for i, (name, function) in enumerate(zip(names, functions, strict=True)):
        given = {**(columns or {}), **others}
        given |= {"prompts": list(prompts), "completions": list(completions), "completion_ids": list(completion_ids)}
        found = function(**_accepted(function, name, given))
        if inspect.isawaitable(found):
            found = _finished(found)
        for j, value in enumerate(_listed(found, name, len(completions))):
            if value is None:
                continue
            number = _number(value)
            if number is None:
                raise UserError(
                    f"{name} returned {_shown(value)} for completion {j}, expected a finite number, or None where it does not apply"
                )
            table[i, j] = number
    silent = table.isnan().all(0)
    if bool(silent.any()):
        raise UserError(f"no reward function applies to completion {int(silent.nonzero()[0])}: every one returned None")
    total = (table.nan_to_num(0.0) * torch.tensor(factors, dtype=torch.float64)[:, None]).sum(0)
    means = {name: float(row[~row.isnan()].mean()) for name, row in zip(names, table, strict=True)}
    return total, means


def _names(functions: Sequence[RewardFunction]) -> list[str]:
    seen: Counter[str] = Counter()
    names = []
    for function in functions:
        inner = function
        while isinstance(inner, functools.partial):
            inner = inner.func
        name = str(getattr(inner, "__name__", type(inner).__name__))
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return names


def _accepted(function: RewardFunction, name: str, given: dict[str, Any]) -> dict[str, Any]:
    """What a function takes of what there is."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # written in C
        return given
    parameters = signature.parameters.values()
    if not any(each.kind is each.VAR_KEYWORD for each in parameters):
        given = {key: value for key, value in given.items() if key in signature.parameters}
    for each in parameters:
        if (
            each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
            and each.default is each.empty
            and each.name not in given
        ):
            raise UserError(
                f"{name} needs the column {each.name!r} and the data have {', '.join(given)}: add it to every row"
            )
    return given


def _listed(found: Any, name: str, count: int) -> list[Any]:
    """What a function returned, as a list."""
    shape = getattr(found, "shape", None)
    flat = isinstance(found, Iterable) and not isinstance(found, str | bytes | Mapping)
    if not flat or (shape is not None and len(shape) != 1):
        what = f"an array of shape {tuple(shape)}" if shape else f"{found!r:.40}"
        raise UserError(f"{name} returned {what}, expected a list with one reward for each of {count} completions")
    listed = list(found.tolist() if shape is not None else found)
    if len(listed) != count:
        raise UserError(f"{name} returned {len(listed)} rewards for {count} completions: one each")
    return listed


def _number(value: Any) -> float | None:
    """A finite number of any type, as a float; None if it is none."""
    if isinstance(value, str | bytes) or getattr(value, "ndim", None):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None
    return number if math.isfinite(number) else None


def _shown(value: Any) -> str:
    try:
        return f"{value!r:.40}"
    except ValueError:  # an integer of more digits than Python writes
        return f"a number of {value.bit_length()} bits"


def _finished(found: Awaitable[Any]) -> Any:
    """What a coroutine returns. In a thread of its own: this one may have a running loop, as in a notebook."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, _wait(found)).result()


async def _wait(found: Awaitable[Any]) -> Any:
    return await found
