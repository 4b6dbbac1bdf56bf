"""The rotation orbit's correction: quadrature, importance sampling, Laplace, and limits."""

import math

import numpy as np
import pytest
import torch

from infimum.selection import orbit
from infimum.selection.orbit import _cayley, exact, laplace, laplace_spectrum, log_volume, signs

NO_PATTERN = torch.zeros(6, dtype=torch.long)


def factor(power, spread, d=6):
    """Mean loadings along the axes, one diagonal row covariance."""
    m = torch.zeros(d, len(power), dtype=torch.float64)
    m[range(len(power)), range(len(power))] = torch.tensor(power).double().sqrt()
    return m, torch.diag(torch.tensor(spread).double())[None]


def test_volume_of_the_orthogonal_group():
    """O(1) two points, O(2) two circles of length 2 pi, SO(3) of volume 8 pi^2 in angles about orthonormal axes."""
    expected = [0, math.log(2), math.log(4 * math.pi), math.log(2 * 8 * math.pi**2)]
    np.testing.assert_allclose(log_volume(torch.arange(4)), expected, atol=1e-12)


def test_one_column():
    """Two points: log 2 where the column is loud, 0 where it is silent, and the average over t ~ N(k, k) in between."""
    assert float(signs(torch.tensor([200.0]).double())) == pytest.approx(math.log(2), abs=1e-12)
    assert float(signs(torch.tensor([0.0]).double())) == pytest.approx(0, abs=1e-12)
    t = np.linspace(-30, 40, 200001)
    density = np.exp(-((t - 1.3) ** 2) / 2.6) / math.sqrt(2.6 * math.pi)
    middle = math.log(2) - np.trapezoid(density * np.logaddexp(0, -2 * t), t)
    assert float(signs(torch.tensor([1.3]).double())) == pytest.approx(middle, abs=1e-6)
    m, cov = factor([9.0], [0.1])
    found = exact(m, cov, NO_PATTERN, rng=np.random.default_rng(0))
    assert float(found.value) == pytest.approx(math.log(2), abs=1e-9)
    assert laplace(m, cov, NO_PATTERN) == pytest.approx(math.log(2), abs=1e-12)


@pytest.mark.parametrize(("power", "spread"), [([12.0, 6.0], [0.05, 0.05]), ([9.0, 4.0], [0.02, 0.04])])
def test_two_columns_by_angle_and_reflection(power, spread):
    m, cov = factor(power, spread)
    found = exact(m, cov, NO_PATTERN, draws=300, rotations=512, rng=np.random.default_rng(0))
    approximate = laplace(m, cov, NO_PATTERN)
    assert abs(float(found.value) - approximate) < 0.1 + 4 * float(found.stderr)
    pair = torch.tensor([power]).double(), torch.tensor([spread]).double()
    assert float(laplace_spectrum(*pair)) == pytest.approx(approximate, abs=1e-10)


def test_three_columns_by_importance_sampling():
    m, cov = factor([20.0, 12.0, 6.0], [0.05, 0.05, 0.05])
    found = exact(m, cov, NO_PATTERN, draws=300, rng=np.random.default_rng(0))
    assert abs(float(found.value) - laplace(m, cov, NO_PATTERN)) < 0.15 + 4 * float(found.stderr)


def test_silent_columns_can_be_turned_for_nothing():
    m, cov = factor([0.0, 0.0, 0.0], [0.3, 0.3, 0.3])
    assert laplace(m, cov, NO_PATTERN) == 0
    # the rotations leave q as it is: every weight is the density of the uniform law over that of the proposal, mean 1
    turns, weight = _cayley(4 * torch.eye(3, dtype=torch.float64), 3, 40000, np.random.default_rng(1))
    weights = (weight + math.log(40000)).exp()
    assert abs(float(weights.mean()) - 1) < 4 * float(weights.std()) / 200
    torch.testing.assert_close(turns @ turns.transpose(1, 2), torch.eye(3).double().expand(40000, 3, 3))
    # under the uniform law E[R_ab^2] = 1 / 3 and E[trace] = 0
    for statistic, truth in ((turns[:, 0, 2].square(), 1 / 3), (turns.diagonal(dim1=1, dim2=2).sum(1), 0.0)):
        product = weights * (statistic - truth)
        assert abs(float(product.mean())) < 4 * float(product.std()) / 200
    # one loud column among silent ones: the sphere of its directions is all that is left
    m, cov = factor([30.0, 0.0, 0.0], [0.05, 0.05, 0.05])
    found = exact(m, cov, NO_PATTERN, draws=300, rotations=8192, rng=np.random.default_rng(0))
    assert abs(float(found.value) - laplace(m, cov, NO_PATTERN)) < 0.15 + 4 * float(found.stderr)
    pair = torch.tensor([[30.0, 0, 0]]).double(), torch.full((1, 3), 0.05).double()
    assert float(laplace_spectrum(*pair)) == pytest.approx(laplace(m, cov, NO_PATTERN), abs=1e-10)


def test_covariances_of_their_own_for_every_row():
    """H from its definition, plane by plane; and the diagonal that stands in for it beyond 32 components is not smaller."""
    rng = np.random.default_rng(3)
    m = torch.as_tensor(rng.normal(size=(6, 3)))
    root = torch.as_tensor(rng.normal(size=(6, 3, 3)))
    precision = root @ root.transpose(1, 2) + torch.eye(3)
    planes = []
    for i in range(3):
        for j in range(i + 1, 3):
            e = torch.zeros(3, 3, dtype=torch.float64)
            e[i, j], e[j, i] = 1, -1
            planes.append(e)
    h = torch.stack([torch.stack([((m @ a.T) * torch.einsum("dij,dj->di", precision, m @ b.T)).sum() for b in planes])
                     for a in planes])  # fmt: skip
    torch.testing.assert_close(orbit._curvature(m, precision), h)
    value = laplace(m, torch.linalg.inv(precision), torch.arange(6))
    m3 = 3
    expected = float(log_volume(torch.tensor(3))) - m3 / 2 * math.log(2 * math.pi * math.e) + float(h.logdet()) / 2
    assert value == pytest.approx(max(expected, 0), abs=1e-9)


def test_many_components_use_the_diagonal(monkeypatch):
    m, cov = factor([9.0, 6.0, 4.0], [0.02, 0.03, 0.05])
    full = laplace(m, cov, NO_PATTERN)
    monkeypatch.setattr(orbit, "_FULL", 2)
    assert laplace(m, cov, NO_PATTERN) == pytest.approx(full, abs=1e-10)  # there H is diagonal
    rng = np.random.default_rng(3)
    root = torch.as_tensor(rng.normal(size=(6, 3, 3)))
    mixed = torch.linalg.inv(root @ root.transpose(1, 2) + torch.eye(3))
    m = torch.as_tensor(rng.normal(size=(6, 3))) * 4
    above = laplace(m, mixed, torch.arange(6))
    monkeypatch.setattr(orbit, "_FULL", 32)
    assert above > laplace(m, mixed, torch.arange(6)) > 0
