"""The flags of ``infimum select``. Nothing heavy is imported: ``--help`` answers at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from infimum.errors import UserError

__all__ = ["Options"]

_OF_PPCA = ("orbit", "prior", "prior_variance", "noise", "noise_variance")
_OF_MIXTURE = ("covariance", "label_switching")


@dataclass(frozen=True)
class Options:
    """Choose the number of principal components, clusters or topics of a table by the evidence bound (1810.11859)."""

    file: tyro.conf.Positional[str | None] = None
    """.csv, .npy or .parquet, or digits, wine, breast_cancer, iris, diabetes; ppca takes empty cells as missing"""
    family: Literal["ppca", "mixture", "multinomial"] = "ppca"
    """principal components, Gaussian clusters, or clusters of counts"""
    max_components: int | None = None
    """largest number that is tried (ppca: 50, mixtures: 10, or what the table supports)"""
    alpha: float = 0.9
    """temper of the likelihood, above 0 and at most 1; the guarantee needs less than 1"""
    columns: str | None = None
    """columns to use, separated by commas: names of the header, or numbers from 0"""
    standardize: bool = False
    """divide every column by its standard deviation; changes the answer"""
    model_prior: Literal["geometric", "uniform"] = "geometric"
    """weights of the models: halved with each component, or equal"""
    orbit: bool = False
    """ppca: add the correction for rotations of the loadings; no strict bound, less cautious"""
    prior: Literal["fixed", "shared", "ard"] | None = None
    """ppca: variance of the loadings: given, one learned, or one a component (default: shared)"""
    prior_variance: float | None = None
    """ppca: variance of the loadings, or where learning starts (default: 1)"""
    noise: Literal["gamma", "point", "plugin", "known"] | None = None
    """ppca: noise variance: with a prior, maximised, left over, or given (default: gamma)"""
    noise_variance: float | None = None
    """ppca: the known noise variance"""
    covariance: Literal["full", "diag", "spherical"] | None = None
    """mixture: shape of the clusters (default: full)"""
    label_switching: bool = False
    """mixtures: add log K! to the criterion; no strict bound"""
    seed: int = 0
    """of restarts, folds and permutations"""
    comparators: bool = True
    """also show what other criteria choose"""
    json: str | None = None
    """write table, choice, settings and preprocessing to this file"""
    plot: str | None = None
    """write a figure (PNG) of the criterion to this file"""
    demo: Literal["misspecification"] | None = None
    """instead of a file: how often each criterion finds 3 components in four simulated worlds"""
    replicates: int = 20
    """of --demo"""

    def check(self) -> None:
        """Refuse flags that do not go together.

        Raises:
            UserError: names the flag.
        """
        if (self.file is None) == (self.demo is None):
            raise UserError("give one table to select for, infimum select FILE, or --demo misspecification")
        self._check_outputs()
        if not 0 < self.alpha <= 1:
            raise UserError(f"--alpha is {self.alpha}, expected a number above 0 and at most 1")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"--seed is {self.seed}, expected a whole number from 0 to 2^32 - 1")
        if self.replicates < 1:
            raise UserError(f"--replicates is {self.replicates}, expected a whole number of at least 1")
        least = 0 if self.family == "ppca" else 1
        if self.max_components is not None and self.max_components < least:
            raise UserError(f"--max-components is {self.max_components}, expected a whole number of at least {least}")
        if (self.noise == "known") != (self.noise_variance is not None):
            raise UserError("--noise known and --noise-variance go together: give both or neither")
        for name in ("prior_variance", "noise_variance"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise UserError(f"--{name.replace('_', '-')} is {value}, expected a positive number")
        foreign = _OF_MIXTURE if self.family == "ppca" else _OF_PPCA
        if self.family == "multinomial":
            foreign = (*foreign, "covariance", "standardize")
        for name in foreign:
            if getattr(self, name) not in (None, False):
                raise UserError(f"--{name.replace('_', '-')} does not go with --family {self.family}: leave it out")

    def _check_outputs(self) -> None:
        taken = {} if self.file is None else {Path(self.file).resolve(): "the table"}
        for name, value in (("json", self.json), ("plot", self.plot)):
            if value is None:
                continue
            path = Path(value)
            if name == "plot" and path.suffix.lower() != ".png":
                raise UserError(f"--plot {value} ends in {path.suffix!r}, expected .png: rename it")
            if path.resolve() in taken:
                raise UserError(f"--{name} {value} would overwrite {taken[path.resolve()]}: choose another name")
            if path.is_dir() or not path.parent.is_dir():
                what = "is a folder" if path.is_dir() else "lies in no folder that exists"
                raise UserError(f"--{name} {value} {what}: choose a file in a folder that exists")
            taken[path.resolve()] = f"--{name}"

    def settings(self) -> dict[str, Any]:
        """Arguments of the estimator; what was not given keeps the estimator's default."""
        chosen: dict[str, Any] = {
            "max_components": self.max_components, "alpha": self.alpha, "model_prior": self.model_prior,
            "random_state": self.seed,
        }  # fmt: skip
        names = _OF_PPCA if self.family == "ppca" else ("label_switching",)
        chosen |= {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.covariance is not None:
            chosen["covariance_type"] = self.covariance
        return chosen
