"""PPCA for every number of components of a grid: from one eigendecomposition, or by coordinate ascent where cells are missing."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from infimum.evidence import Estimate
from infimum.selection import orbit
from infimum.selection.axes import leading_axes
from infimum.selection.cavi import State, ascend, divergence, start
from infimum.selection.cells import Cells
from infimum.selection.collapsed import collapsed, collapsed_spectrum
from infimum.selection.posterior import Posterior
from infimum.selection.settings import PPCASettings
from infimum.selection.spectrum import Spectrum, solve_spectrum

__all__ = ["CellsGrid", "Rows", "SpectrumGrid"]


@dataclass(frozen=True)
class Rows:
    """What a grid found, one entry for each number of components; in nats of the data set.

    Attributes:
        elbo: all constants included.
        orbit: correction for the rotation orbit (Laplace), or for flips of signs under ARD.
        noise: 1 / E[1 / sigma^2].
        converged: whether the bound had settled.
        at_floor: whether the noise was held at its floor.
        noise_from_prior: whether the Gamma prior of the noise weighs more than the squared error of the fit.
        sweeps: over all factors.
    """

    elbo: np.ndarray
    orbit: np.ndarray
    noise: np.ndarray
    converged: np.ndarray
    at_floor: np.ndarray
    noise_from_prior: np.ndarray
    sweeps: int


class SpectrumGrid:
    """Complete data, from which the mean was subtracted where it is to be: eigenvalues decide everything.

    Args:
        x: the table.
        q: numbers of components.
        settings: mean is not "vb".
        sweeps: at most so many.
        tolerance: relative change of the bound at which it has settled.
    """

    def __init__(
        self, x: Float[Tensor, "n d"], q: Sequence[int], settings: PPCASettings, *, sweeps: int, tolerance: float
    ) -> None:
        self.n, self.d = x.shape
        self.q, self.settings = list(q), settings
        values, self.axes = leading_axes(x, min(self.n, self.d))
        self.eigenvalues = values = torch.cat((values, values.new_zeros(self.d - len(values))))
        numbers = torch.tensor(self.q, device=x.device)
        self.fit: Spectrum = solve_spectrum(values, self.n, numbers, settings, sweeps=sweeps, tolerance=tolerance)
        top = max(self.q)
        power, spread = self.fit.power[:, :top], self.fit.spread[:, :top]
        if settings.prior == "ard":
            correction = orbit.signs(torch.where(spread > 0, power / spread.clamp_min(1e-300), 0.0)).sum(-1)
        else:
            correction = orbit.laplace_spectrum(power, spread)
        fit = self.fit
        v = fit.noise[:, None]
        pull = fit.power / (v + fit.power + self.d * fit.spread)
        error = self.n * (values * (1 - pull).square()).sum(-1)
        elbo, adjusted, noise, converged, at_floor, errors = (
            t.cpu().numpy() for t in (fit.elbo, correction, fit.noise, fit.converged, fit.at_floor, error)
        )
        from_prior = _from_prior(settings, errors)
        self.rows = Rows(elbo, adjusted, noise, converged, at_floor, from_prior, len(fit.history))

    def posterior(self, row: int) -> Posterior:
        """q of the parameters with ``self.q[row]`` components."""
        q = self.q[row]
        power, spread = self.fit.power[row, :q], self.fit.spread[row, :q]
        order = power.argsort(descending=True, stable=True)
        axes = torch.zeros(self.d, q, dtype=torch.float64, device=power.device)
        known = min(q, self.axes.shape[1])
        axes[:, :known] = self.axes[:, :known]
        zero = torch.zeros(self.d, dtype=torch.float64, device=power.device)
        return Posterior(
            (axes * power.sqrt())[:, order], torch.diag(spread[order])[None], zero.long(), zero, zero,
            1 / float(self.fit.noise[row]), _shape(self.settings, self.n * self.d),
        )  # fmt: skip

    def collapsed(self, row: int, draws: int, rng: Any) -> Estimate:
        """The collapsed bound."""
        return collapsed_spectrum(self.fit, row, self.eigenvalues, self.n, self.settings, draws=draws, rng=rng)


class CellsGrid:
    """Missing cells, or a mean with a factor of its own: coordinate ascent, q + 1 components from q and from the principal axes.

    Args:
        cells: the data, from which a mean was subtracted where one is to be.
        q: numbers of components, increasing.
        settings: the model's.
        sweeps: at most so many a start.
        tolerance: relative change of the bound at which it has settled.
    """

    def __init__(
        self, cells: Cells, q: Sequence[int], settings: PPCASettings, *, sweeps: int, tolerance: float
    ) -> None:
        self.cells, self.q, self.settings = cells, list(q), settings
        values, axes = leading_axes(cells.values[0], max(self.q))
        x = cells.values[0]
        square = float(_square(x))
        _, sizes = cells.sizes()
        means = cells.values[1] @ torch.ones(cells.shape[0], dtype=torch.float64, device=sizes.device) / sizes
        variance = square / cells.count - (
            0 if settings.mean == "zero" else float((sizes * means**2).sum()) / cells.count
        )
        floor = settings.floor * variance
        self.states: list[State] = []
        self.elbo: list[float] = []
        for number in self.q:
            least = floor if settings.noise == "plugin" else max(floor, 1e-3 * variance)
            left = max(variance - float(values[:number].sum()) / cells.shape[1], least)
            noise = left * cells.shape[1] / max(cells.shape[1] - number, 1)
            scale = (values[:number] - noise).clamp_min(1e-2 * noise).sqrt()
            starts = [start(cells, number, settings, noise, axes[:, :number] * scale)]
            if self.states and settings.noise != "plugin":
                starts.append(self._grown(self.states[-1], number))
            found = [(ascend(s, cells, settings, floor=floor, sweeps=sweeps, tolerance=tolerance), s) for s in starts]
            best, state = max(found, key=lambda pair: (pair[1].converged, pair[0]))
            self.elbo.append(best)
            self.states.append(state)
        corrections = [self._orbit(row) for row in range(len(self.q))]
        errors = np.array([float(_square(self._error(s))) for s in self.states])
        self.rows = Rows(
            np.array(self.elbo), np.array(corrections), np.array([1 / s.precision for s in self.states]),
            np.array([s.converged for s in self.states]), np.array([s.at_floor for s in self.states]),
            _from_prior(settings, errors), max(len(s.history) for s in self.states),
        )  # fmt: skip

    def _error(self, state: State) -> Tensor:
        """The observed cells less their fit."""
        x = self.cells.values[0]
        if not x.is_sparse_csr:
            return x - self.cells.row_mask[self.cells.row_pattern] * (state.mean + state.scores @ state.loadings.T)
        row = torch.repeat_interleave(torch.arange(x.shape[0], device=x.device), x.crow_indices().diff())
        column = x.col_indices()
        fit = state.mean[column] + (state.scores[row] * state.loadings[column]).sum(1)
        return torch.sparse_csr_tensor(x.crow_indices(), column, x.values() - fit, x.shape)

    def _grown(self, state: State, number: int) -> State:
        """The smaller model's solution, with the leading axes of its residual as further columns."""
        cells, extra = self.cells, number - state.loadings.shape[1]
        values, axes = leading_axes(self._error(state), extra)
        new = axes * values.clamp_min(1e-2 / state.precision).sqrt()
        grown = start(cells, number, self.settings, 1 / state.precision, torch.cat((state.loadings, new), 1))
        old = state.loadings.shape[1]
        grown.loadings_cov[:, :old, :old] = state.loadings_cov
        grown.prior[:old] = state.prior
        return dataclasses.replace(grown, mean=state.mean, mean_var=state.mean_var)

    def _orbit(self, row: int) -> float:
        q = self.posterior(row)
        if self.settings.prior != "ard":
            return orbit.laplace(*self._there(q))
        loadings, cov, pattern = self._there(q)
        if not loadings.shape[1]:
            return 0.0
        precision = torch.linalg.inv(cov).diagonal(dim1=1, dim2=2)[pattern]
        return float(orbit.signs((loadings.square() * precision).sum(0)).sum())

    @staticmethod
    def _there(q: Posterior) -> tuple[Tensor, Tensor, Tensor]:
        keep = (q.loadings_cov.diagonal(dim1=1, dim2=2) > 0).all(0)
        return q.loadings[:, keep], q.loadings_cov[:, keep][:, :, keep], q.column_pattern

    def posterior(self, row: int) -> Posterior:
        """q of the parameters with ``self.q[row]`` components, in the principal axes of E[W] (under ARD: columns sorted)."""
        state, q = self.states[row], self.q[row]
        d, there = state.loadings.shape
        if self.settings.prior == "ard":
            order = state.loadings.square().sum(0).argsort(descending=True, stable=True)
            turn = torch.eye(there, dtype=torch.float64, device=state.mean.device)[:, order]
        else:
            turn = torch.linalg.svd(state.loadings, full_matrices=d < there)[2].T
        loadings = torch.zeros(d, q, dtype=torch.float64, device=state.mean.device)
        cov = torch.zeros(len(state.loadings_cov), q, q, dtype=torch.float64, device=state.mean.device)
        loadings[:, :there] = state.loadings @ turn
        cov[:, :there, :there] = turn.T @ state.loadings_cov @ turn
        return Posterior(
            loadings, cov, self.cells.column_pattern, state.mean, state.mean_var, state.precision,
            _shape(self.settings, self.cells.count),
        )  # fmt: skip

    def collapsed(self, row: int, draws: int, rng: Any) -> Estimate:
        """The collapsed bound."""
        posterior, state = self.posterior(row), self.states[row]
        cells = self.cells if not bool(state.mean.any()) else _moved(self.cells, state.mean)
        return collapsed(
            posterior, divergence(state, self.cells, self.settings), cells, self.settings, draws=draws, rng=rng
        )


def _from_prior(settings: PPCASettings, error: np.ndarray) -> np.ndarray:
    return (settings.noise == "gamma") & (settings.noise_rate > settings.alpha * error / 2)


def _square(table: Tensor) -> Float[Tensor, ""]:
    return (table.values() if table.is_sparse_csr else table).square().sum()


def _shape(settings: PPCASettings, count: int) -> float:
    return settings.noise_shape + settings.alpha * count / 2 if settings.noise == "gamma" else math.inf


def _moved(cells: Cells, mean: Float[Tensor, "d"]) -> Cells:
    """The cells less a mean."""
    x = cells.values[0]
    if not x.is_sparse_csr:
        moved = x - cells.row_mask[cells.row_pattern] * mean
        return dataclasses.replace(cells, values=(moved, moved.T))
    pair = []
    for table, by_column in ((x, True), (cells.values[1], False)):
        row = torch.repeat_interleave(torch.arange(table.shape[0], device=x.device), table.crow_indices().diff())
        shift = mean[table.col_indices() if by_column else row]
        pair.append(
            torch.sparse_csr_tensor(table.crow_indices(), table.col_indices(), table.values() - shift, table.shape)
        )
    return dataclasses.replace(cells, values=(pair[0], pair[1]))
