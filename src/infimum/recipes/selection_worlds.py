"""Simulated worlds with a known number of factors, and how often each criterion finds it."""

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

__all__ = ["FACTORS", "NOISES", "RULES", "WORLDS", "choices", "hit_rates", "hit_table", "simulate"]

FACTORS, COLUMNS = 3, 10
WORLDS: dict[str, tuple[int, str]] = {
    "50 Gauss": (50, "gauss"), "200 Gauss": (200, "gauss"), "200 t3": (200, "t3"), "200 heteroscedastic": (200, "hetero"),
}  # fmt: skip
"""Rows and noise."""

NOISES: dict[str, Callable[[np.random.Generator, int, int], np.ndarray]] = {
    "gauss": lambda rng, n, d: rng.standard_normal((n, d)),
    "t3": lambda rng, n, d: rng.standard_t(3, (n, d)) / math.sqrt(3),
    "hetero": lambda rng, n, d: rng.standard_normal((n, d)) * np.linspace(0.6, 1.4, d),
    "laplace": lambda rng, n, d: rng.laplace(size=(n, d)) / math.sqrt(2),
    "contaminated": lambda rng, n, d: rng.standard_normal((n, d)) * np.where(rng.random((n, d)) < 0.05, 5.0, 1.0),
}
"""Unit variance, or an average near it; only the first is what PPCA assumes."""

RULES: dict[str, dict[str, Any]] = {
    "a=1": {"alpha": 1.0, "prior": "shared", "noise": "point"},
    "a=.9": {"alpha": 0.9, "prior": "shared", "noise": "point"},
    "a=.9, s=1": {"alpha": 0.9, "prior": "fixed", "noise": "point"},
    "a=.5, s=1": {"alpha": 0.5, "prior": "fixed", "noise": "point"},
    "default": {},
}
"""Arguments of `VariationalPPCA`; every rule is also read with the correction for the rotation orbit."""

_OTHERS = ("minka", "bic", "parallel", "cv")


def simulate(noise: str, n: int, rng: np.random.Generator, d: int = COLUMNS, q: int = FACTORS) -> np.ndarray:
    """(n, d): q factors along orthonormal directions with loadings from 2.5 down to 1.25, and noise."""
    directions = np.linalg.qr(rng.standard_normal((d, q)))[0]
    return rng.standard_normal((n, q)) @ (directions * np.linspace(2.5, 1.25, q)).T + NOISES[noise](rng, n, d)


def choices(x: np.ndarray, rules: Mapping[str, dict[str, Any]], others: tuple[str, ...] = _OTHERS) -> dict[str, int]:
    """Number of components by rule, by rule + orbit, and by each of the other criteria, over 0 .. d - 1."""
    from infimum.selection import VariationalPPCA, compare_criteria

    found: dict[str, int] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, settings in rules.items():
            fitted = VariationalPPCA(max_components=x.shape[1] - 1, random_state=0, **settings).fit(x)
            table = fitted.criterion_
            found[name] = fitted.n_components_
            corrected = np.where(table["converged"], table["criterion"] + table["orbit"], -np.inf)
            found[f"{name} + orbit"] = int(table["n_components"][np.argmax(corrected)])
        if others:
            found |= compare_criteria(x, max_components=x.shape[1] - 1, methods=others).choice
    return found


def hit_rates(
    replicates: int, *, seed: int = 0, worlds: Mapping[str, tuple[int, str]] = WORLDS,
    told: Callable[[int, int], None] = lambda done, of: None,
) -> dict[str, dict[str, dict[str, float]]]:  # fmt: skip
    """Share of data sets in which a criterion chooses the true number of factors, by world and criterion.

    Args:
        replicates: data sets of each world.
        seed: of the worlds.
        worlds: rows and noise by name.
        told: called with data sets done and in all.

    Returns:
        "hits": the share, "stderr": its binomial standard error, "mean": mean chosen number.
    """
    table = {}
    for w, (name, (n, noise)) in enumerate(worlds.items()):
        chosen: dict[str, list[int]] = {}
        for r in range(replicates):
            x = simulate(noise, n, np.random.default_rng([seed, w, r]))
            for rule, q in choices(x, RULES).items():
                chosen.setdefault(rule, []).append(q)
            told(w * replicates + r + 1, len(worlds) * replicates)
        table[name] = {rule: _share(np.array(each)) for rule, each in chosen.items()}
    return table


def _share(chosen: np.ndarray) -> dict[str, float]:
    hits = float((chosen == FACTORS).mean())
    return {"hits": hits, "stderr": math.sqrt(hits * (1 - hits) / len(chosen)), "mean": float(chosen.mean())}


def hit_table(rates: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Share of hits (mean chosen number) of each criterion, a column a world."""
    rules = list(next(iter(rates.values())))
    lines = [[f"share that chooses {FACTORS} (mean chosen)", *rates]]
    for rule in rules:
        lines.append([rule, *(f"{world[rule]['hits']:.2f} ({world[rule]['mean']:.2f})" for world in rates.values())])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = [
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    ]
    return "\n".join([text[0], "-" * len(text[0]), *text[1:]])
