"""Tempered coordinate ascent for mixtures against closed forms, enumeration and quadrature."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_t, norm
from scipy.stats import t as student

from infimum.selection.mixture_ascent import ascend, dirichlet_divergence, expected_log, indicators, leap, step
from infimum.selection.mixture_axes import Known
from infimum.selection.multinomial import Counts, Multinomials
from infimum.selection.restarts import start_labels
from selection.mixture_cases import KINDS, clusters, enumerated, exact, family, tensor

both = pytest.mark.parametrize("kind", [*KINDS, "multinomial"])


def model(kind: str, n: int = 30, seed: int = 0):
    """Components, and rows that they can read."""
    rng = np.random.default_rng(seed)
    if kind == "multinomial":
        return Multinomials(0.6), Counts.of(rng.poisson(3.0, size=(n, 4)), "cpu")
    components = family(kind)
    return components, components.read(tensor(rng.normal(size=(n, 2)) * 2 + 1))


def soft(n: int, k: int, restarts: int = 3, seed: int = 1) -> torch.Tensor:
    return tensor(np.random.default_rng(seed).dirichlet(np.ones(k), size=(restarts, n))).transpose(1, 2)


def bound(components, rows, r, concentration, factor, alpha, prior) -> torch.Tensor:
    """The bound at any responsibilities, weights and components, term by term."""
    joint = components.log_likelihood(rows, factor) + expected_log(concentration)[..., None]
    local = (r * joint).sum((1, 2)) - torch.xlogy(r, r).sum((1, 2))
    return alpha * local - dirichlet_divergence(concentration, prior) - components.divergence(factor)


@pytest.mark.parametrize("alpha", [0.3, 0.9, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_one_component_is_the_exact_evidence(kind, alpha):
    x = clusters((9, 4), seed=3)
    components = family(kind)
    found = step(
        components, components.read(tensor(x)), torch.ones(1, 1, len(x), dtype=torch.float64), alpha=alpha, prior=0.8
    )
    assert float(found.elbo) == pytest.approx(exact(kind, components, x, alpha), rel=1e-11)


@both
def test_predictive_densities_multiply_to_the_evidence(kind):
    """log p(x_1 .. x_n) = sum_i log p(x_i | x_1 .. x_i-1): the predictive and the bound know nothing of each other."""
    components, rows = model(kind, 12)
    n = 12
    ones = torch.ones(1, 1, n, dtype=torch.float64)
    before = torch.arange(n)[:, None] > torch.arange(n)
    factor = components.update(rows, before.double()[None])  # "component" i has seen the rows before i
    chain = components.log_predictive(rows, factor)[0].diagonal().sum()
    assert float(chain) == pytest.approx(float(step(components, rows, ones, alpha=1.0, prior=1.0).elbo), rel=1e-11)


@both
@pytest.mark.parametrize("alpha", [0.4, 1.0])
def test_no_update_lowers_the_bound(kind, alpha):
    components, rows = model(kind)
    prior = 0.7
    r = soft(30, 3)
    concentration, factor = (
        torch.full((3, 3), 2.0, dtype=torch.float64),
        components.update(rows, 0.1 * soft(30, 3, seed=2)),
    )
    value = bound(components, rows, r, concentration, factor, alpha, prior)
    for _ in range(15):
        new = step(components, rows, r, alpha=alpha, prior=prior)
        for part in ((r, new.concentration, factor), (r, new.concentration, new.factor),
                     (new.responsibilities, new.concentration, new.factor)):  # fmt: skip
            following = bound(components, rows, *part, alpha, prior)
            assert (following >= value - 1e-10 * value.abs()).all()
            value = following
        torch.testing.assert_close(new.elbo, value, rtol=1e-12, atol=0)
        r, concentration, factor = new.responsibilities, new.concentration, new.factor


@both
def test_every_factor_is_at_its_best(kind):
    """Weights and components that come from other responsibilities are worse: the updates are maximisations, not only steps up."""
    components, rows = model(kind)
    r, other = soft(30, 2), soft(30, 2, seed=7)
    best = step(components, rows, r, alpha=0.6, prior=0.7)
    top = bound(components, rows, r, best.concentration, best.factor, 0.6, 0.7)
    for share in (1e-3, 0.1):
        near = step(components, rows, (1 - share) * r + share * other, alpha=0.6, prior=0.7)
        assert (bound(components, rows, r, near.concentration, best.factor, 0.6, 0.7) < top).all()
        assert (bound(components, rows, r, best.concentration, near.factor, 0.6, 0.7) < top).all()


@both
def test_history_of_all_restarts_rises_through_leaps(kind):
    components, rows = model(kind, 60)
    labels = torch.as_tensor(np.random.default_rng(0).integers(3, size=(6, 60)))
    fit = ascend(components, rows, labels, 3, alpha=0.9, prior=0.5, sweeps=500, tolerance=1e-10)
    history = torch.stack(fit.history)
    assert (history.diff(dim=0) >= -1e-10 * history[1:].abs()).all()
    assert fit.converged and fit.best.elbo[0] >= fit.elbo.max() - 1e-9


def test_leaps_find_the_optimum_of_plain_sweeps_in_fewer():
    components, rows = model("diag", 80, seed=4)
    labels = torch.as_tensor(np.random.default_rng(2).integers(4, size=(1, 80)))
    fit = ascend(components, rows, labels, 4, alpha=0.9, prior=1.0, sweeps=5000, tolerance=1e-13)
    r, plain = indicators(labels, 4), []
    while len(plain) < 2 or plain[-1] - plain[-2] > 1e-13 * abs(plain[-1]):
        new = step(components, rows, r, alpha=0.9, prior=1.0)
        r = new.responsibilities
        plain.append(float(new.elbo))
    assert float(fit.best.elbo) == pytest.approx(plain[-1], rel=1e-9)
    assert fit.sweeps < len(plain) / 2


def test_leap_reaches_the_limit_of_a_geometric_sequence():
    limit, start = soft(5, 3, 1), soft(5, 3, 1, seed=2)
    first, second, third = (limit + 0.8**i * (start - limit) for i in range(3))
    torch.testing.assert_close(leap(first, second, third), limit)


@pytest.mark.parametrize("kind", KINDS)
def test_below_the_enumerated_evidence(kind):
    """2^10 assignments; of clusters far apart the bound loses log 2!, the other labelling, and nothing else."""
    for apart in (0.5, 8.0, 3e4):
        x = clusters((5, 5), seed=2, apart=apart)
        components = family(kind)
        truth = enumerated(lambda rows, x=x, c=components: exact(kind, c, x[rows]), 10, 0.8)
        labels = torch.as_tensor(start_labels(x, 2, 8, np.random.default_rng(0)))
        fit = ascend(
            components, components.read(tensor(x)), labels, 2, alpha=1.0, prior=0.8, sweeps=2000, tolerance=1e-12
        )
        gap = float(fit.best.elbo) - truth
        assert gap < 0
    assert gap == pytest.approx(-math.log(2), abs=1e-4)


@pytest.mark.parametrize("alpha", [0.3, 0.9, 1.0])
def test_below_the_tempered_evidence_by_quadrature(alpha):
    """d = 1, K = 2, known variance: int (sum_k p_k N(x_i; m_k, 1))^alpha over p, m_1, m_2; at alpha = 1 two referees agree."""
    x = np.array([-2.1, -1.7, -2.4, -1.2, 1.6, 2.2, 1.9])
    components = Known(tensor([0.0]), 0.2, tensor([[1.0]]))
    nodes, weights = np.polynomial.legendre.leggauss(40)
    p, wp = (nodes + 1) / 2, weights / 2
    m = np.linspace(-12, 12, 401)
    density = norm.pdf(x[:, None], m)
    prior = norm.pdf(m, 0, math.sqrt(5)) * (m[1] - m[0])
    total = 0.0
    for share, w in zip(p, wp, strict=True):
        mixed = np.log(share * density[:, :, None] + (1 - share) * density[:, None, :] + 1e-300).sum(0)
        total += w * float(prior @ np.exp(alpha * mixed) @ prior)
    truth = math.log(total)
    if alpha == 1:
        other = enumerated(lambda rows: exact("known", components, x[rows, None]), 7, 1.0)
        assert truth == pytest.approx(other, abs=1e-8)
    labels = torch.as_tensor(start_labels(x[:, None], 2, 6, np.random.default_rng(0)))
    fit = ascend(
        components, components.read(tensor(x[:, None])), labels, 2, alpha=alpha, prior=1.0, sweeps=2000, tolerance=1e-12
    )
    assert truth - 3 < float(fit.best.elbo) < truth


@both
def test_copies_at_a_share_of_alpha_change_nothing(kind):
    components, rows = model(kind)
    times = 4
    table = (rows.values if kind == "multinomial" else rows).repeat(times, 1)
    copies = Counts.of(table.numpy(), "cpu") if kind == "multinomial" else table
    labels = torch.as_tensor(np.random.default_rng(0).integers(3, size=(1, 30)))
    options = {"prior": 0.5, "sweeps": 300, "tolerance": 1e-13}
    one = ascend(components, rows, labels, 3, alpha=0.8, **options)
    many = ascend(components, copies, labels.repeat(1, times), 3, alpha=0.8 / times, **options)
    torch.testing.assert_close(many.best.elbo, one.best.elbo, rtol=1e-10, atol=0)
    torch.testing.assert_close(many.best.concentration, one.best.concentration, rtol=1e-6, atol=1e-6)


@both
def test_names_of_components_do_not_matter(kind):
    components, rows = model(kind)
    labels = torch.as_tensor(np.random.default_rng(0).integers(3, size=(1, 30)))
    one, other = (
        ascend(components, rows, z, 3, alpha=0.8, prior=0.5, sweeps=200, tolerance=1e-12) for z in (labels, 2 - labels)
    )
    torch.testing.assert_close(one.best.elbo, other.best.elbo, rtol=1e-11, atol=0)
    torch.testing.assert_close(one.best.concentration.flip(1), other.best.concentration)


def test_chunks_and_groups_of_restarts_change_nothing(monkeypatch):
    components, rows = model("full")
    labels = torch.as_tensor(np.random.default_rng(0).integers(3, size=(5, 30)))
    options = {"alpha": 0.8, "prior": 0.5, "sweeps": 200, "tolerance": 1e-12}
    one = ascend(components, rows, labels, 3, **options)
    monkeypatch.setattr("infimum.selection.mixture_ascent._CELLS", 200)
    monkeypatch.setattr("infimum.selection.mixture_full._CELLS", 70)
    other = ascend(components, rows, labels, 3, **options)
    torch.testing.assert_close(one.elbo, other.elbo, rtol=1e-11, atol=0)
    assert one.sweeps == other.sweeps


def test_predictives_are_those_of_scipy():
    x = np.random.default_rng(3).normal(size=(6, 2)) * 3
    weights = soft(30, 2, 1) * 2
    for kind in KINDS[:3]:
        components, rows = model(kind)
        q = components.update(rows, weights)
        found = components.log_predictive(components.read(tensor(x)), q)[0].numpy()
        for k in range(2):
            beta, dof, mean = float(q.precision[0, k]), float(q.dof[0, k]), components.means(q)[0, k].numpy()
            scale = q.scale[0, k].numpy() * (1 + 1 / beta)
            if kind == "full":
                truth = multivariate_t(mean, scale / (dof - 1), dof - 1).logpdf(x)
            elif kind == "diag":
                truth = student(dof, mean, np.sqrt(scale / dof)).logpdf(x).sum(1)
            else:
                truth = multivariate_t(mean, np.eye(2) * scale[0] / dof, dof).logpdf(x)
            np.testing.assert_allclose(found[k], truth, rtol=1e-11)


def test_starts_cover_separate_clusters_and_survive_copies():
    x = clusters((30, 30, 30), apart=50.0)
    labels = start_labels(x, 3, 10, np.random.default_rng(0))
    truth = np.repeat(np.arange(3), 30)
    spread = [len(np.unique(row * 3 + truth)) == 3 for row in labels[:5]]
    assert all(spread)  # k-means++: a centre in each, but for a chance below (1 / 50)^2 a restart
    same = start_labels(np.ones((4, 2)), 3, 3, np.random.default_rng(0))
    assert same.shape == (3, 4) and (same == 0).all()
