"""Debiased values of log p(x): orders of the bias, unbiasedness of randomised sums, and where they refuse or warn."""

import itertools
import math
import warnings

import pytest
import torch

from evidence.support import LocalNormal, close, draws, z_score
from infimum.errors import UserError
from infimum.evidence import LogWeights, Plan, delta_corrected, iwae, jvi, log_evidence, mlmc, sumo, weigh
from infimum.evidence.debias import leave_one_out
from infimum.testing import LinearGaussian, exact_bounds, gamma2_example, one_dimensional
from testing.oracle_cases import rand


def good_model() -> LinearGaussian:
    return LinearGaussian(torch.ones(1, 1), torch.zeros(1), torch.ones(1), shift=0.4, stretch=1.3)


def table(k: int, b: int, seed: int = 0):
    model, x = good_model(), torch.full((1, 1), 1.2).double()
    with torch.no_grad():
        w = weigh(model, x.expand(b, 1), draws(k, b, seed), rows=10**6)
        return w, model.log_evidence(x).item()


def subsets(log_w: torch.Tensor, size: int) -> torch.Tensor:
    """Average over all subsets of a size of their log-mean-exp, one by one."""
    each = [log_w[list(rows)].logsumexp(0) - math.log(size) for rows in itertools.combinations(range(len(log_w)), size)]
    return torch.stack(each).mean(0)


@pytest.mark.parametrize("k", [2, 3, 7])
def test_jvi_is_the_jackknife_of_all_subsets(k):
    """00-bounds 3.3: J = sum_j c_j Lbar_{K-j}, c_j = (-1)^j (K-j)^m / ((m-j)! j!), with every subset written out."""
    log_w = 2 * rand(k, 9)
    one = k * subsets(log_w, k) - (k - 1) * subsets(log_w, k - 1)
    close(jvi(LogWeights(log_w)).value, one, rtol=0, atol=1e-12)
    if k > 2:
        two = (
            k**2 / 2 * subsets(log_w, k)
            - (k - 1) ** 2 * subsets(log_w, k - 1)
            + (k - 2) ** 2 / 2 * subsets(log_w, k - 2)
        )
        close(jvi(LogWeights(log_w), 2).value, two, rtol=0, atol=1e-11)


def test_leave_one_out_keeps_its_digits_when_one_weight_dominates():
    """00-bounds 3.3: "unstable when one weight dominates (w~ > 1 - 1e-6): recompute that column"."""
    log_w = rand(6, 8)
    log_w[2] += torch.tensor([0.0, 10, 13, 14, 15, 20, 40, 700]).double()
    got = leave_one_out(log_w)
    for k in range(6):
        rest = torch.cat((log_w[:k], log_w[k + 1 :])).logsumexp(0)
        close(got[k], rest, rtol=0, atol=1e-9)
    naive = log_w.logsumexp(0) + torch.log1p(-(log_w - log_w.logsumexp(0)).exp())
    assert not torch.allclose(naive[2, -2:], got[2, -2:])
    close(leave_one_out(torch.zeros(2, 1).double()), torch.zeros(2, 1).double())


def test_jvi_removes_the_first_order_of_the_bias():
    """T10: the bias of L_K falls like 1/K, that of JVI_1 like 1/K^2 (log-log slopes -1 and -2 between K = 4 and 16).

    Common weights for L and J, 60,000 items; slopes within 5 standard errors and the next order of the expansion (0.25).
    """
    bias, error = {}, {}
    for k in (4, 16):
        w, truth = table(k, 60_000)
        for name, value in (("iwae", iwae(w).value), ("jvi", jvi(w).value)):
            # The mean of p^/p - 1 is 0: a control variate that takes most of the noise of either.
            gap = value - truth - ((w.log_w - truth).exp().mean(0) - 1)
            bias[name, k], error[name, k] = float(gap.mean()), float(gap.std()) / 60_000**0.5
    for name, slope in (("iwae", -1.0), ("jvi", -2.0)):
        assert abs(bias[name, 4]) > 5 * error[name, 4] and abs(bias[name, 16]) > 3 * error[name, 16]
        got = math.log(abs(bias[name, 16] / bias[name, 4])) / math.log(4)
        noise = (error[name, 4] / bias[name, 4]) ** 2 + (error[name, 16] / bias[name, 16]) ** 2
        assert abs(got - slope) < 5 * noise**0.5 / math.log(4) + 0.25


def test_delta_correction_removes_the_first_order():
    """00-bounds 3.2: bias O(K^-2): at K = 32 below a fifth of that of L_K."""
    w, truth = table(32, 60_000)
    control = (w.log_w - truth).exp().mean(0) - 1
    plain, corrected = (float((e.value - truth - control).mean()) for e in (iwae(w), delta_corrected(w)))
    assert abs(corrected) < abs(plain) / 5
    ratio = (w.log_w - iwae(w).value).exp()
    close(delta_corrected(w).value, iwae(w).value + ratio.var(0) / 64)


def test_jvi_exceeds_the_evidence_at_two_draws():
    """00-bounds 3.3 [checked]: "JVI_1 at K=2 has bias +.51 ...: never label it a bound". The proposal behind +.51 is not
    given; on the fixture with the same gamma2 the bias is positive too (|z| > 5), and no side is claimed.
    """
    model, x = gamma2_example()
    with torch.no_grad():
        w = weigh(model, x.expand(100_000, 1), draws(2, 100_000), rows=10**6)
    estimate = jvi(w)
    gap = estimate.value - exact_bounds(model, x).log_evidence.detach()
    assert float(gap.mean()) > 5 * float(gap.std()) / 100_000**0.5
    assert estimate.side == "none" and not estimate.certified


def test_bias_of_the_gamma2_example():
    """00-bounds 3.3 [checked]: gamma2 = 1.681: bias at K = 8 / 32 = -.1276 / -.0297; first order -.1051 / -.0263; second
    -.1202 / -.0272. The proposal is not given; ours has the same orders, so the same biases to O(1/K^3): |z| < 5 plus the
    distance of the quoted bias from its own second order (.0074 / .0025).
    """
    model, x = gamma2_example()
    exact = exact_bounds(model, x)
    for k, quoted, slack in ((8, -0.1276, 0.0074), (32, -0.0297, 0.0025)):
        with torch.no_grad():
            w = weigh(model, x.expand(40_000, 1), draws(k, 40_000), rows=10**6)
        gap = iwae(w).value - exact.log_evidence.detach()
        assert abs(float(gap.mean()) - quoted) < 5 * float(gap.std()) / 200 + slack


@pytest.mark.parametrize("estimator", [mlmc, sumo])
def test_randomised_sums_are_unbiased_for_log_p(estimator):
    """00-bounds 3.2: unbiased for log p itself; |z| < 5 over 30,000 items, where L_K at the same mean cost is off."""
    n = 30_000
    sd = 0.5**0.5
    model = LocalNormal(1, mean=0.6 + 0.4 * sd, log_sd=math.log(1.3 * sd))
    truth = torch.distributions.Normal(0.0, 2**0.5).log_prob(torch.tensor(1.2)).double()
    x = torch.full((n, 1), 1.2).double()
    model.encode = lambda x: (model.mean.expand(len(x)), model.log_sd.exp().expand(len(x)))
    estimate = estimator(model, x, torch.arange(n), replicates=2, rows=10**6)
    assert z_score(estimate.value, truth) < 5
    assert (estimate.side, estimate.certified, estimate.unbiased_for) == ("none", False, "log evidence")
    cost = estimate.calls // (2 * n)
    with torch.no_grad():
        assert z_score(iwae(weigh(model, x, draws(cost, n), rows=10**6)).value, truth) > 5


def test_variance_of_the_telescope_falls_by_a_quarter_a_level():
    """00-bounds 3.3: "Variance of Delta_j decays like 2^(-2j) when mu_4 exists"."""
    w, _ = table(64, 20_000)
    sd = []
    for j in (3, 4, 5):
        half = 2**j
        fine = iwae(LogWeights(w.log_w[: 2 * half])).value
        coarse = (iwae(LogWeights(w.log_w[:half])).value + iwae(LogWeights(w.log_w[half : 2 * half])).value) / 2
        assert (fine >= coarse - 1e-12).all()
        sd.append(float((fine - coarse).std()))
    assert 3 < sd[0] ** 2 / sd[1] ** 2 < 5.5 and 3 < sd[1] ** 2 / sd[2] ** 2 < 5.5


def test_levels_have_their_probabilities():
    """P(J >= j) = 2^(-1.5 j) for MLMC; P(level >= k) = 1/k up to 80 for SUMO: on a grid of uniforms, to its spacing."""
    from infimum.evidence.debias import _sumo_tail

    k = torch.tensor([1.0, 2, 79, 80, 81, 90]).double()
    close(_sumo_tail(k), torch.tensor([1, 1 / 2, 1 / 79, 1 / 80, 0.9 / 80, 0.9**10 / 80]).double())
    model = LocalNormal(1)
    model.encode = lambda x: (model.mean.expand(len(x)), model.log_sd.exp().expand(len(x)))
    n = 20_000
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cost = {
            e.__name__: e(model, torch.full((n, 1), 1.2).double(), torch.arange(n), replicates=1, rows=10**6).calls / n
            for e in (mlmc, sumo)
        }
    r = 2**-1.5
    assert cost["mlmc"] == pytest.approx(2 * (1 - r) / (1 - 2 * r), rel=0.15)  # E 2^(J+1); its own variance is large
    mean_level = sum(1 / i for i in range(1, 80)) + 1 / 80 / 0.1
    assert cost["sumo"] == pytest.approx(1 + mean_level, rel=0.1)


def test_sumo_telescopes_to_the_bound():
    """E over levels of the sum cut at n draws is L_n of those draws, exactly, for every table: the weights are 1/P(level >= k)."""
    from infimum.evidence.debias import _sumo_tail, _sumo_value

    n = 100  # beyond the 80 where the tail changes form
    log_w = 2 * rand(n, 3)
    least = _sumo_tail(torch.arange(1.0, n + 1).double())  # P(level >= k)
    total = least[n - 2] * _sumo_value(log_w, n - 1)
    for level in range(1, n - 1):
        total = total + (least[level - 1] - least[level]) * _sumo_value(log_w[: level + 1], level)
    close(total, log_w.logsumexp(0) - math.log(n), rtol=0, atol=1e-10)


def test_randomised_sums_depend_on_the_item_alone():
    """T14 for sums whose number of draws is itself random."""
    model, x = good_model(), rand(6, 1)
    keys = torch.arange(6) + 3
    for estimator in (mlmc, sumo):
        whole = estimator(model, x, keys, replicates=4)
        order = torch.tensor([5, 2, 0])
        close(
            estimator(model, x[order], keys[order], replicates=4, rows=2).value, whole.value[order], rtol=0, atol=1e-12
        )
        assert estimator(model, x, keys, replicates=1).stderr.isnan().all()
        with pytest.raises(UserError, match="replicates >= 1, got 0"):
            estimator(model, x, keys, replicates=0)


def test_heavy_tails_are_warned_about():
    """00-bounds 3.3: "without that, refuse (k-hat >= 1/2 -> warn)". A proposal 0.4x too narrow has k = 0.84."""
    model = LinearGaussian(torch.ones(1, 1), torch.zeros(1), torch.ones(1), stretch=0.4)
    x = torch.full((20, 1), 1.2).double()
    for estimator in (mlmc, sumo):
        with pytest.warns(
            UserWarning, match="median Pareto k of the items is .*the variance of the estimate is infinite"
        ):
            estimator(model, x, torch.arange(20), replicates=40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mlmc(good_model(), x, torch.arange(20), replicates=40)


def test_refusals():
    """00-bounds 9: "needs at least 2 draws per item, got K=1"; ENGINE 6: K = 1 for JVI."""
    with pytest.raises(UserError, match="jvi of order 1 needs at least 2 draws per item, got K=1"):
        jvi(LogWeights(rand(1, 3)))
    with pytest.raises(UserError, match="jvi of order 2 needs at least 3 draws per item, got K=2"):
        jvi(LogWeights(rand(2, 3)), 2)
    with pytest.raises(UserError, match="delta_corrected needs at least 2 draws per item, got K=1"):
        delta_corrected(LogWeights(rand(1, 3)))
    for bound in (jvi, delta_corrected):
        for plan in (Plan.antithetic(4), Plan.stratified(4)):
            with pytest.raises(
                UserError, match=r"needs independent draws of equal share from the proposal: use Plan.iid\(k\)"
            ):
                bound(LogWeights(rand(4, 3), draws=draws(plan, 3)))
        with pytest.raises(UserError, match="needs independent draws of equal share"):
            bound(LogWeights(rand(4, 3), rand(4, 3).log_softmax(0)))


def test_smoothed_evidence_has_less_error_when_tails_are_heavy():
    """3.7: "PSIS-smoothed evidence is a point estimate, not a bound": smaller squared error of p^/p than the raw mean, k = .64."""
    model = LinearGaussian(torch.ones(1, 1), torch.zeros(1), torch.ones(1), stretch=0.6)
    x = torch.full((2000, 1), 1.2).double()
    with torch.no_grad():
        w = weigh(model, x, draws(500, 2000), rows=10**6)
        truth = model.log_evidence(x[:1])
    error = {e.__name__: ((e(w).value - truth).exp() - 1).square().mean() for e in (iwae, log_evidence)}
    assert error["log_evidence"] < error["iwae"]


@pytest.mark.parametrize("estimator", [mlmc, sumo])
def test_pareto_k_stands_beside_the_standard_error(estimator):
    """Issue: Pareto k beside every standard error; here of the 2 R draws that every level has, one value an item."""
    model, x = one_dimensional()
    many = x.repeat(4, *[1] * (x.ndim - 1))
    estimate = estimator(model, many, torch.arange(4), replicates=40)
    assert estimate.diagnostics["pareto_k"].shape == (4,)
    assert estimate.draws == 80
    assert "Pareto k" in str(estimate.mean())
