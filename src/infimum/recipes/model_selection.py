"""Recipe: choosing the number of components by the evidence bound, in simulated worlds and on real tables."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from infimum.errors import UserError
from infimum.recipes.base import Metrics, Recipe
from infimum.recipes.selection_worlds import FACTORS, RULES, WORLDS, choices, hit_rates, hit_table, simulate
from infimum.training import Run

__all__ = ["REFERENCE", "ModelSelection"]

REFERENCE: dict[str, dict[str, float]] = {
    "50 Gauss": {"a=1": 0.15, "a=.9, s=1": 0.0, "a=.5, s=1": 0.0, "minka": 0.65, "bic": 0.45, "parallel": 0.1,
                 "a=1 + orbit": 0.55, "a=.9 + orbit": 0.45},
    "200 Gauss": {"a=1": 1.0, "a=.9, s=1": 0.9, "a=.5, s=1": 0.4, "minka": 1.0, "bic": 1.0, "parallel": 0.25,
                  "a=.5, s=1 + orbit": 0.8},
    "200 t3": {"a=1": 0.9, "a=.9, s=1": 0.95, "a=.5, s=1": 0.75, "minka": 0.35, "bic": 0.65, "parallel": 0.35,
               "a=.5, s=1 + orbit": 1.0, "a=.9 + orbit": 0.85},
    "200 heteroscedastic": {"a=1": 0.35, "a=.9, s=1": 0.75, "a=.5, s=1": 0.55, "minka": 0.0, "bic": 0.1, "parallel": 0.3,
                            "a=.5, s=1 + orbit": 0.85, "a=.9 + orbit": 0.25},
}  # fmt: skip
"""Shares of hits of another implementation (NumPy, 20 data sets), which this one should be near."""


TABLES = ("iris", "wine", "breast_cancer", "digits")


@dataclass(frozen=True)
class ModelSelection(Recipe):
    """Number of components by the evidence bound (arXiv 1810.11859) in simulated worlds, on real tables and with missing cells."""

    replicates: int = 20
    """data sets of each simulated world"""
    rows: tuple[int, ...] = ()
    """other numbers of rows: every noise with each of them, instead of the four worlds"""
    tables: tuple[str, ...] = TABLES
    """embedded tables"""
    missing: float = 0.3
    """share of the cells of wine that is hidden"""
    certificates: int = 60
    """data sets over which both sides of the oracle inequality are averaged"""
    clusters: int = 8
    """largest number of clusters tried on three clusters"""

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "gpu": {"replicates": 200},
        "paper": {"replicates": 200, "rows": (50, 200, 1000, 5000)},
    }

    def check(self) -> None:
        """Refuse what cannot be simulated, before anything is written."""
        super().check()
        if self.replicates < 1:
            raise UserError(f"--replicates is {self.replicates}, expected a whole number of at least 1")
        if any(n < 4 for n in self.rows):
            raise UserError(f"--rows is {self.rows}, expected numbers of at least 4")
        if not set(self.tables) <= set(TABLES):
            raise UserError(f"--tables is {' '.join(self.tables)}, expected some of {' '.join(TABLES)}")
        if not 0 < self.missing <= 0.6:
            raise UserError(f"--missing is {self.missing}, expected a share above 0 and at most 0.6")
        if self.certificates < 2:
            raise UserError(f"--certificates is {self.certificates}, expected a whole number of at least 2")
        if self.clusters < 3:
            raise UserError(f"--clusters is {self.clusters}, expected a whole number of at least 3")

    def run(self, run: Run) -> Metrics:
        """Measure everything, write figures and table.txt."""
        worlds = self._worlds()
        told = _progress(run)
        rates = hit_rates(self.replicates, seed=run.seed, worlds=worlds, told=told)
        parts: Metrics = {"hit_rates": rates, "reference": _reference(rates)}
        steps: dict[str, Callable[[Run], Any]] = {
            "prediction": self._prediction, "tables": self._tables, "wine with missing cells": self._wine,
            "three clusters": self._clusters, "certificate": self._certificates,
        }  # fmt: skip
        for name, step in steps.items():
            if run.writes and not run.quiet:
                print(name, flush=True)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                parts[name] = step(run)
        if run.writes:
            self._show(run, parts)
        return parts

    def _worlds(self) -> dict[str, tuple[int, str]]:
        from infimum.recipes.selection_worlds import NOISES

        return {f"{n} {noise}": (n, noise) for n in self.rows for noise in NOISES} if self.rows else dict(WORLDS)

    def _prediction(self, run: Run) -> Metrics:
        """Held-out log-likelihood of the chosen number against the best number, Gaussian noise, 200 rows; nats a row."""
        from infimum.selection import VariationalPPCA

        chosen, best = [], []
        for r in range(self.replicates):
            rng = np.random.default_rng([run.seed, 100, r])
            x = simulate("gauss", 1200, rng)
            fitted = VariationalPPCA(max_components=9, random_state=0).fit(x[:200])
            scores = [VariationalPPCA(n_components=q).fit(x[:200]).score(x[200:]) for q in range(10)]
            chosen.append(scores[fitted.n_components_])
            best.append(max(scores))
        return {"chosen": float(np.mean(chosen)), "best": float(np.mean(best)),
                "loss": float(np.mean([1 - b / c for b, c in zip(best, chosen, strict=True)]))}  # fmt: skip

    def _tables(self, run: Run) -> Metrics:
        """Chosen numbers on embedded tables, standardised; constant columns of digits are left out."""
        from infimum.data import embedded

        found = {}
        for name in self.tables:
            x = np.asarray(getattr(embedded, name)().values, dtype=np.float64)
            x = x.reshape(len(x), -1)
            x = x[:, np.ptp(x, axis=0) > 0]
            z = (x - x.mean(0)) / x.std(0)
            found[name] = {"rows": len(z), "columns": z.shape[1], "chosen": choices(z, RULES)}
        return found

    def _wine(self, run: Run) -> Metrics:
        """Hidden cells of wine, predicted with the number chosen by the bound, by hidden cells of the rest, and with the best."""
        from infimum.data import embedded
        from infimum.selection import VariationalPPCA, compare_criteria

        x = embedded.wine().values
        x = (x - x.mean(0)) / x.std(0)
        hidden = np.random.default_rng([run.seed, 200]).random(x.shape) < self.missing
        hidden[hidden.all(1), 0] = False
        seen = np.where(hidden, np.nan, x)
        model = VariationalPPCA(max_components=x.shape[1] - 1, tol=1e-7, random_state=0)
        chosen = compare_criteria(seen, methods=["evidence", "cells"], estimator=model, seed=run.seed).choice
        by_count = {}
        for q in range(x.shape[1]):
            mean, sd = VariationalPPCA(n_components=q, tol=1e-7, random_state=0).fit(seen).impute(seen)
            error = (x - mean)[hidden]
            loss = 0.5 * (error / sd[hidden]) ** 2 + np.log(sd[hidden]) + 0.5 * math.log(2 * math.pi)
            by_count[q] = {"rmse": float(np.sqrt((error**2).mean())), "nll": float(loss.mean())}
        best = min(by_count, key=lambda q: by_count[q]["nll"])
        rules = {"evidence": chosen["evidence"], "hidden cells": chosen["cells"], "best in hindsight": best}
        return {"cells": int(hidden.sum()), "by_components": {str(q): one for q, one in by_count.items()},
                "rules": {rule: {"n_components": q, **by_count[q]} for rule, q in rules.items()}}  # fmt: skip

    def _clusters(self, run: Run) -> Metrics:
        """Three separated clusters: criterion by number of clusters, beside BIC and the raw bound of scikit-learn."""
        from sklearn.mixture import BayesianGaussianMixture, GaussianMixture

        from infimum.selection import VariationalGaussianMixture

        rng = np.random.default_rng([run.seed, 300])
        x = np.concatenate([rng.normal(center, 1.0, (100, 2)) for center in ((0, 0), (6, 0), (0, 6))])
        fitted = VariationalGaussianMixture(max_components=self.clusters, random_state=run.seed).fit(x)
        counts = range(1, self.clusters + 1)
        options: dict[str, Any] = {"n_init": 5, "max_iter": 500, "random_state": 0}
        kind = "dirichlet_distribution"
        raw = [
            BayesianGaussianMixture(n_components=k, weight_concentration_prior_type=kind, **options).fit(x).lower_bound_
            for k in counts
        ]
        bic = [-GaussianMixture(k, **options).fit(x).bic(x) / 2 for k in counts]
        scores = {"criterion": fitted.criterion_["criterion"].tolist(), "bic": bic, "sklearn bound": raw}
        return {"scores": scores, "chosen": {name: int(np.argmax(each)) + 1 for name, each in scores.items()}}

    def _certificates(self, run: Run) -> Metrics:
        """Both sides of the oracle inequality: 6 columns, 2 factors, 100 rows, a = 0.5, in the model and outside it."""
        from scipy import stats

        from infimum.selection import VariationalPPCA, certify

        d, n = 6, 100
        directions = np.linalg.qr(np.random.default_rng([run.seed, 400]).standard_normal((d, 2)))[0] * np.array(
            [2.0, 1.5]
        )
        covariance = directions @ directions.T + np.eye(d)
        model = VariationalPPCA(
            alpha=0.5, prior="fixed", noise="known", noise_variance=1.0, mean="zero", random_state=0
        )
        gauss = stats.multivariate_normal(np.zeros(d), covariance)
        student = stats.multivariate_t(np.zeros(d), covariance * 3 / 5, df=5)
        options: dict[str, Any] = {"replicates": self.certificates, "seed": run.seed}
        found = {
            "Gaussian": certify(
                model, lambda rng: gauss.rvs(n, random_state=rng), gauss.logpdf, covariance=covariance, **options
            ),
            "Student t5": certify(model, lambda rng: student.rvs(n, random_state=rng), student.logpdf, **options),
        }
        return {
            name: {"risk": float(one.risk.mean()), "limit": float(one.limit.mean()), "slack": one.slack[0], "stderr": one.slack[1],
                   "beyond": int((one.risk > one.limit).sum()), "replicates": len(one.risk)}
            for name, one in found.items()
        }  # fmt: skip

    def _show(self, run: Run, parts: Metrics) -> None:
        from infimum.report.selection import hits
        from infimum.training.files import write_text

        hits(parts["hit_rates"], run.figures / "hit-rates.png")
        text = _text(parts, self)
        write_text(run.path / "table.txt", text + "\n")
        print(f"\n{text}")


def _progress(run: Run) -> Callable[[int, int], None]:
    def told(done: int, of: int) -> None:
        run.log(done, {"data_sets": done})
        if run.writes and not run.quiet and done % max(1, of // 4) == 0:
            print(f"simulated worlds: {done} of {of} data sets", flush=True)

    return told


def _reference(rates: Metrics) -> Metrics:
    """Every share that has one beside the other implementation's."""
    pairs = {
        f"{world}: {rule}": {"share": rates[world][rule]["hits"], "reference": share}
        for world, row in REFERENCE.items() if world in rates for rule, share in row.items()
    }  # fmt: skip
    beyond = [name for name, pair in pairs.items() if abs(pair["share"] - pair["reference"]) > 0.15 + 1e-9]
    return {"pairs": pairs, "beyond": beyond}


def _text(parts: Metrics, recipe: ModelSelection) -> str:
    lines = [f"{recipe.replicates} data sets a world, {FACTORS} factors in 10 columns", hit_table(parts["hit_rates"])]
    pairs, beyond = parts["reference"]["pairs"], parts["reference"]["beyond"]
    if pairs:
        lines += [
            "",
            f"{len(pairs) - len(beyond)} of {len(pairs)} shares within 0.15 of those of another implementation",
        ]
        lines += [f"  {name}: {pairs[name]['share']:.2f}, the other {pairs[name]['reference']:.2f}" for name in beyond]
    one = parts["prediction"]
    text = f"{one['chosen']:.3f} with the chosen number, {one['best']:.3f} with the best"
    lines += ["", f"held-out log-likelihood in nats a row, 200 Gauss: {text}"]
    lines += ["", "standardised tables, chosen number"]
    names = ["default", "default + orbit", "a=1", "a=.5, s=1 + orbit", "minka", "bic", "parallel", "cv"]
    lines.append("  " + "table (rows x columns)".ljust(26) + "  ".join(names))
    for table, one in parts["tables"].items():
        cells = [str(one["chosen"].get(name, "-")).rjust(len(name)) for name in names]
        lines.append("  " + f"{table} ({one['rows']} x {one['columns']})".ljust(26) + "  ".join(cells))
    one = parts["wine with missing cells"]
    lines += ["", f"wine, {one['cells']} cells hidden ({recipe.missing:.0%}), standardised units"]
    lines += [
        f"  {rule}: {r['n_components']} components, rmse {r['rmse']:.3f}, {r['nll']:.3f} nats a cell"
        for rule, r in one["rules"].items()
    ]
    chosen = parts["three clusters"]["chosen"]
    lines += [
        "",
        f"three clusters: {', '.join(f'{name} chooses {k}' for name, k in chosen.items())} of 1 .. {recipe.clusters}",
        "",
    ]
    lines += ["oracle inequality, a=0.5, averages over data sets"]
    for name, c in parts["certificate"].items():
        slack = f"slack {c['slack']:.3f} ± {c['stderr']:.3f}"
        count = f"{c['beyond']} of {c['replicates']} data sets beyond"
        lines.append(f"  {name}: risk {c['risk']:.3f} <= {c['limit']:.3f} nats ({slack}); {count}")
    return "\n".join(lines)
