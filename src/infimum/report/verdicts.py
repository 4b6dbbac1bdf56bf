"""Models side by side: who is better than whom, and in what their configurations differ."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infimum.errors import UserError
from infimum.evidence import Estimate, compare
from infimum.report.words import clip, minus, number, setting

__all__ = ["Pairing", "differences", "flatten", "pairings", "ranking"]


@dataclass(frozen=True)
class Pairing:
    """The leader against another model."""

    leader: str
    other: str
    answer: str
    reason: str
    gap: str


def pairings(estimates: Mapping[str, Estimate], delta: float) -> list[Pairing]:
    """The model of the largest value against each other one; all answers together are wrong with probability delta.

    The leader is chosen by the data, so delta is shared by all pairs that could have been looked at.
    """
    if len(estimates) < 2:
        return []
    leader = max(estimates, key=lambda name: _value(estimates[name]))
    share = delta / math.comb(len(estimates), 2)
    return [_pair(leader, name, estimates[leader], e, share) for name, e in estimates.items() if name != leader]


def _value(estimate: Estimate) -> float:
    mean = float(estimate.value.mean()) if estimate.value.numel() else math.nan
    return -math.inf if math.isnan(mean) else mean


def _pair(leader: str, name: str, a: Estimate, b: Estimate, delta: float) -> Pairing:
    try:
        verdict = compare(a, b, delta=delta)
    except UserError as error:
        return Pairing(leader, name, "not comparable", str(error), "—")
    difference = (a.value - b.value).double()
    n = difference.numel()
    spread = f" ± {number(float(difference.std()) / math.sqrt(n))}" if n > 1 else ""
    answer = f"{verdict.answer} (certified)" if verdict.certified else verdict.answer
    return Pairing(leader, name, answer, minus(verdict.reason), f"{number(float(difference.mean()))}{spread}")


def ranking(result: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """(comparison, mean difference, interval, answer) of a recipe that trained its models from several seeds."""
    rows = result.get("ranking")
    found = []
    for name, one in rows.items() if isinstance(rows, Mapping) else ():
        if isinstance(one, Mapping) and isinstance(one.get("answer"), str):
            interval = f"[{number(one.get('low'))}, {number(one.get('high'))}]" if one.get("low") is not None else "—"
            found.append((clip(name), number(one.get("difference")), interval, clip(one["answer"])))
    return found


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted names."""
    flat: dict[str, Any] = {}
    for name, part in value.items():
        if isinstance(part, Mapping) and part and prefix.count(".") < 8:
            flat |= flatten(part, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = part
    return flat


def differences(
    configs: Sequence[Mapping[str, Any]],
) -> tuple[list[tuple[str, list[str]]], list[tuple[str, str]]]:
    """Fields in which configurations differ, with each one's value; and the fields that all share."""
    flat = [flatten(config) for config in configs]
    differ, same = [], []
    for name in dict.fromkeys(name for config in flat for name in config):
        texts = [setting(config[name]) if name in config else "—" for config in flat]
        values = [repr(config.get(name, ...)) for config in flat]
        if len(set(values)) > 1:
            differ.append((clip(name), texts))
        else:
            same.append((clip(name), texts[0]))
    return differ, same
