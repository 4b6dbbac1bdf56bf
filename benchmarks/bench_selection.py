"""Which criterion finds the true number of components, and what does it cost? PPCA and mixtures beside their peers."""

import json
import math
import multiprocessing
import queue
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from common import RESULTS, options, paired, ratio, save
from infimum.recipes.selection_worlds import FACTORS, RULES, choices, simulate
from infimum.selection import VariationalGaussianMixture, VariationalPPCA, compare_criteria

SHOWN = ("default", "a=1", "a=.5, s=1")
"""Rules of infimum, each with and without the orbit's correction."""
NOISES = {"Gauss": "gauss", "Student t3": "t3", "heteroscedastic": "hetero"}
ROWS = 200
SLOW = {"bayespy": 10, "vbpca-py": 10, "hidden cells": 5}
"""Data sets of a world that the slow ones see: they take ten seconds and more each."""
LIMIT = 600.0
"""Seconds after which a slow peer is stopped."""


def hidden(x: np.ndarray, rng: np.random.Generator, share: float = 0.2) -> np.ndarray:
    """The table with a share of its cells missing completely at random; no row loses all."""
    gone = rng.random(x.shape) < share
    gone[gone.all(1), 0] = False
    return np.where(gone, np.nan, x)


def vbpca(x: np.ndarray, grid: range) -> dict[str, int]:
    """vbpca-py over a grid: by its default metric (error of its own probes) and by its variational cost."""
    from vbpca_py import select_n_components

    best, _, trace, _ = select_n_components(x, components=grid, num_cpu=1, rmsstop=(100, 1e-4, 1e-3))
    costs = {int(entry["k"]): float(entry["cost"]) for entry in trace if math.isfinite(float(entry["cost"]))}
    return {"vbpca-py, probes": int(best), "vbpca-py, cost": min(costs, key=lambda k: costs[k])}


def bayespy(x: np.ndarray, grid: range, sweeps: int = 100) -> dict[str, int]:
    """bayespy's PCA (ARD) at each number of components, the largest lower bound wins; 0 components have no node."""
    from bayespy.inference import VB
    from bayespy.nodes import Gamma, GaussianARD, SumMultiply

    n, d = x.shape
    seen = ~np.isnan(x)
    x = x - np.nanmean(x, 0)  # as infimum does by default
    bounds = {}
    for q in grid:
        if q == 0:
            continue
        np.random.seed(0)
        z = GaussianARD(0, 1, plates=(1, n), shape=(q,))
        alpha = Gamma(1e-3, 1e-3, plates=(q,))
        w = GaussianARD(0, alpha, plates=(d, 1), shape=(q,))
        tau = Gamma(1e-3, 1e-3)
        y = GaussianARD(SumMultiply("i,i", w, z), tau, plates=(d, n))
        y.observe(np.nan_to_num(x).T, mask=seen.T)
        w.initialize_from_random()
        fit = VB(y, z, w, tau, alpha)  # scores first: loadings are what was initialised
        fit.update(repeat=sweeps, tol=1e-6, verbose=False)
        bounds[q] = float(fit.L[fit.iter - 1])
    return {"bayespy": max(bounds, key=lambda q: bounds[q])}


def share(chosen: list[int]) -> dict[str, float]:
    """Share of hits with its binomial standard error, mean choice, and over how many data sets."""
    hits = sum(q == FACTORS for q in chosen) / len(chosen)
    error = math.sqrt(hits * (1 - hits) / len(chosen))
    return {"share": hits, "stderr": error, "mean": statistics.fmean(chosen), "replicates": len(chosen)}


def hit_rates(replicates: int, slow: dict[str, int]) -> dict[str, dict[str, dict[str, float]]]:
    """Hits by world and criterion; slow peers see the first data sets only."""
    rules = {name: RULES[name] for name in SHOWN}
    table = {}
    for w, (name, noise) in enumerate([*NOISES.items(), ("Gauss, 20% missing", "gauss")]):
        chosen: dict[str, list[int]] = {}
        missing = "missing" in name
        for r in range(replicates):
            rng = np.random.default_rng([7, w, r])
            x = simulate(noise, ROWS, rng)
            x = hidden(x, rng) if missing else x
            found = choices(x, rules, () if missing else ("minka", "bic", "parallel", "cv"))
            if missing and r < slow["hidden cells"]:
                found |= {"hidden cells": compare_criteria(x, methods=["cells"], max_components=9).choice["cells"]}
            found |= bayespy(x, range(10)) if r < slow["bayespy"] else {}
            found |= vbpca(x, range(10)) if r < slow["vbpca-py"] else {}
            if r < slow["bayespy"]:  # what infimum does on the data sets that the slow ones see
                found |= {f"{rule}, these alone": found[rule] for rule in ("default", "a=.5, s=1 + orbit")}
            for rule, q in found.items():
                chosen.setdefault(rule, []).append(q)
        table[name] = {rule: share(each) for rule, each in chosen.items()}
        print(name, table[name], flush=True)
    return table


def table_of(n: int, d: int) -> np.ndarray:
    return simulate("gauss", n, np.random.default_rng([9, n]), d=d)


def limited(call: Callable[[], Any]) -> float | None:
    """Seconds of a call in a process of its own, or None where it is stopped after `LIMIT` seconds."""
    context = multiprocessing.get_context("fork")
    answer = context.Queue()

    def timed() -> None:
        start = time.perf_counter()
        call()
        answer.put(time.perf_counter() - start)

    child = context.Process(target=timed)
    child.start()
    try:
        return float(answer.get(timeout=LIMIT))
    except queue.Empty:
        return None
    finally:
        child.kill()


def speed(sizes: dict[tuple[int, int], tuple[int, int, dict[str, range]]]) -> dict[str, Any]:
    """Paired seconds of a whole grid; a slow peer is timed once, on the numbers of components that it is given."""
    table = {}
    for (n, d), (top, runs, slow) in sizes.items():
        x = table_of(n, d)
        sides: dict[str, Callable[[], Any]] = {
            "infimum": lambda x=x, top=top: VariationalPPCA(max_components=top, random_state=0).fit(x),
            **{name: lambda x=x, top=top, name=name: compare_criteria(x, max_components=top, methods=[name])
               for name in ("minka", "bic", "parallel", "cv") if not (name == "parallel" and n > 10_000)},
        }  # fmt: skip
        times = paired({name: (lambda call=call: call) for name, call in sides.items()}, runs)
        entry: dict[str, Any] = {
            "components": top,
            "seconds": {name: statistics.median(each) for name, each in times.items()},
        }
        entry["ratio"] = {name: ratio(each, times["infimum"]) for name, each in times.items() if name != "infimum"}
        for name, grid in slow.items():
            peer = {"vbpca-py": vbpca, "bayespy": bayespy}[name]
            taken = limited(lambda peer=peer, x=x, grid=grid: peer(x, grid))
            label = name if len(grid) > 1 else f"{name}, {grid[0]} components only"
            entry["seconds"][label] = taken or f"stopped after {LIMIT:.0f}"
            entry["ratio"][label] = ratio([taken or LIMIT], [statistics.median(times["infimum"])])
        table[f"n={n:,}, d={d}"] = entry
        print(n, d, entry, flush=True)
    return table


def mixtures(replicates: int, top: int) -> dict[str, dict[str, dict[str, float]]]:
    """Share of data sets in which 3 of 1 .. top clusters are chosen: separated, overlapping, and heavy-tailed clusters."""
    from sklearn.mixture import BayesianGaussianMixture, GaussianMixture

    from infimum.selection import from_sklearn

    worlds = {"separated by 6 sd": (6.0, None), "separated by 4 sd": (4.0, None), "6 sd, Student t4": (6.0, 4)}
    table = {}
    for w, (name, (gap, freedom)) in enumerate(worlds.items()):
        chosen: dict[str, list[int]] = {}
        for r in range(replicates):
            rng = np.random.default_rng([11, w, r])
            centers = gap * np.array([[0, 0], [1, 0], [0.5, math.sqrt(0.75)]])
            noise = rng.standard_normal((3, 60, 2)) if freedom is None else rng.standard_t(freedom, (3, 60, 2))
            x = (centers[:, None] + noise).reshape(-1, 2)
            native = {}
            for a in (0.9, 0.5):
                fitted = VariationalGaussianMixture(max_components=top, alpha=a, random_state=r).fit(x)
                native[f"infimum, a={a:g}"] = fitted.n_components_
            raw, repaired, bic = [], [], []
            for k in range(1, top + 1):
                common: dict[str, Any] = {"n_components": k, "n_init": 5, "random_state": r}
                bic.append(-GaussianMixture(**common).fit(x).bic(x))
                bayesian = BayesianGaussianMixture(weight_concentration_prior_type="dirichlet_distribution", reg_covar=0,
                                                   max_iter=1000, tol=1e-6, **common).fit(x)  # fmt: skip
                raw.append(bayesian.lower_bound_)
                repaired.append(from_sklearn(bayesian, x).elbo - k * math.log(2))
            sides = {
                "BayesianGaussianMixture, raw bound": raw,
                "BayesianGaussianMixture, repaired bound": repaired,
                "BIC": bic,
            }
            for rule, k in (native | {rule: int(np.argmax(each)) + 1 for rule, each in sides.items()}).items():
                chosen.setdefault(rule, []).append(k)
        table[name] = {rule: share(each) for rule, each in chosen.items()}
        print(name, table[name], flush=True)
    return table


def main() -> None:
    args = options(__doc__ or "", part={"help": "measure this part anew, keep the others of results/selection.json",
                                        "choices": ("hit_rates", "speed", "mixtures")})  # fmt: skip
    warnings.simplefilter("ignore")
    quick, none = args.quick, dict.fromkeys(SLOW, 0)
    whole, one = (dict.fromkeys(("bayespy", "vbpca-py"), grid) for grid in (range(10), range(FACTORS, FACTORS + 1)))
    sizes: dict[tuple[int, int], tuple[int, int, dict[str, range]]] = (
        {(60, 6): (3, 1, {"bayespy": range(4)})} if quick else
        {(200, 10): (9, 5, whole), (2000, 50): (9, 3, one), (20_000, 200): (9, 3, one)}
    )  # fmt: skip
    measures: dict[str, Callable[[], object]] = {
        "hit_rates": lambda: hit_rates(2, none) if quick else hit_rates(200, SLOW),
        "speed": lambda: speed(sizes),
        "mixtures": lambda: mixtures(1, 3) if quick else mixtures(20, 6),
    }
    measured = {name: measure() for name, measure in measures.items() if args.part in (None, name)}
    kept = json.loads((RESULTS / "selection.json").read_text(encoding="utf-8")) if args.part else {}
    result = kept | {"factors": FACTORS, "rows": ROWS, "goal": 10} | measured
    save("selection", args, result, *([] if quick else ["vbpca-py", "bayespy", "scikit-learn"]))


if __name__ == "__main__":
    main()
