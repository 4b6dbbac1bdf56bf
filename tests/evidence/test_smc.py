"""Sequential Monte Carlo against the forward algorithm and the Kalman filter; FIVO; systematic resampling."""

import math

import pytest
import torch

from evidence.sequential import KalmanSteps, MarkovSteps
from evidence.support import close, draws, unchecked, z_score  # noqa: F401
from infimum.errors import UserError
from infimum.evidence import Plan, elbo, fivo, iwae, smc
from infimum.evidence.smc import SequentialModel, systematic
from infimum.testing import HiddenMarkov, LinearGaussianSSM
from testing.oracle_cases import rand, spd

N = 4000
HMM = HiddenMarkov(rand(3).softmax(0), (2 * rand(3, 3)).softmax(1), (2 * rand(3, 4)).softmax(1), length=8)
SSM = LinearGaussianSSM(0.6 * rand(2, 2), rand(3, 2), spd(2), spd(3), rand(2), spd(2), length=6)
MODELS = {
    "hidden Markov, prior moves": MarkovSteps(HMM),
    "hidden Markov, flattened moves": MarkovSteps(HMM, flat=2.0),
    "hidden Markov, guided moves": MarkovSteps(HMM, guided=True),
    "linear-Gaussian": KalmanSteps(SSM),
}


def copies(model, n: int = N):
    """One simulated item, n times: independent copies of one estimate."""
    x = model.oracle.simulate(1, 2)[1]
    return x.expand(n, *x.shape[1:]), float(model.oracle.log_evidence(x)[0].detach())


@pytest.mark.parametrize("resample", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", MODELS)
def test_the_evidence_estimate_is_unbiased(name, resample):
    """E p^/p = 1 (|z| < 5) over 4,000 systems of 16 particles, without, with adaptive and with constant resampling."""
    model = MODELS[name]
    x, truth = copies(model)
    with torch.no_grad():
        w = smc(model, x, draws(Plan(levels=16), N), resample=resample)
    assert w.shape == (1, N)
    assert z_score((w.log_w[0] - truth).exp(), 1.0) < 5
    assert float(w.log_w.mean()) < truth


def test_resampling_helps_on_long_sequences():
    """50 steps, 32 particles: the bound without resampling is several nats worse."""
    oracle = HiddenMarkov(rand(3).softmax(0), (2 * rand(3, 3)).softmax(1), (2 * rand(3, 4)).softmax(1), length=50)
    x = oracle.simulate(200, 1)[1]
    truth = oracle.log_evidence(x).detach()
    with torch.no_grad():
        gap = [
            (smc(MarkovSteps(oracle), x, draws(Plan(levels=32), 200), resample=r).log_w[0] - truth) for r in (0, 0.5)
        ]
    assert float(gap[0].mean()) < float(gap[1].mean()) - 3
    assert -0.7 < float(gap[1].mean()) < 0


def test_without_resampling_it_is_importance_sampling_of_whole_paths():
    model = MarkovSteps(HMM, flat=2.0)
    x = HMM.simulate(3, 4)[1]
    with torch.no_grad():
        got = smc(model, x, draws(Plan(levels=40), 3), resample=0.0).log_w[0]
        z = model.paths
        log_q = torch.zeros(z.shape[:2]).double()
        for t in range(x.shape[1]):
            before = None if t == 0 else (z[..., t - 1], None)
            log_q += model._proposal(x, t, before).expand(*z.shape[:2], 3).gather(-1, z[..., t : t + 1])[..., 0]
        close(got, (HMM.log_joint(x, z) - log_q).logsumexp(0) - math.log(40))


def test_an_optimal_proposal_has_no_error():
    """One step, guided by the only symbol: every increment is p(x), so every system is exact."""
    x = HMM.simulate(5, 4)[1][:, :1]
    with torch.no_grad():
        w = smc(MarkovSteps(HMM, guided=True), x, draws(Plan(replicates=2, levels=4), 5))
    close(w.log_w, HMM.log_evidence(x).detach().expand(2, 5))


def test_systems_are_the_replicates():
    """R systems of P particles: R rows; the standard error is that between systems, and covers the truth as it should."""
    model = MODELS["linear-Gaussian"]
    x, truth = copies(model, 1000)
    part = draws(Plan(replicates=20, levels=16), 1000)
    with torch.no_grad():
        w = smc(model, x, part)
    assert w.shape == (20, 1000) and w.block == 1 and torch.equal(w.keys, part.keys)
    tight, bound = iwae(w), fivo(w)
    assert (tight.side, tight.certified, tight.unbiased_for) == ("lower", True, "evidence")
    assert (bound.name, bound.side, bound.certified, bound.copies) == ("FIVO", "lower", True, 20)
    close(bound.value, elbo(w).value)
    assert bool((bound.value <= tight.value).all())
    # the spread between systems is, on average over the items, the squared error of their mean (|z| < 5)
    ratio = (w.log_w - truth).exp()
    assert z_score(ratio.var(0) / 20 - (ratio.mean(0) - 1).square()) < 5
    close(tight.stderr, ratio.std(0) / 20**0.5 / ratio.mean(0))
    # 3.1 e: R systems shrink the slack of the certificate by R
    close(bound.mean().value - bound.mean().certificate, math.log(20) / (20 * 1000))
    with torch.no_grad():
        assert iwae(smc(model, x, draws(Plan(levels=16), 1000))).stderr.isnan().all()


def test_chunks_and_batches_change_nothing():
    model = MODELS["hidden Markov, prior moves"]
    x = HMM.simulate(7, 1)[1]
    part = draws(Plan(replicates=6, levels=8), 7)
    order = torch.tensor([6, 0, 3])
    seen = []
    with torch.no_grad():
        whole = smc(model, x, part)
        for rows in (1, 20, 100):
            close(smc(model, x, part, rows=rows, progress=seen.append).log_w, whole.log_w, rtol=0, atol=1e-12)
        close(smc(model, x[order], part.take(order)).log_w, whole.log_w[:, order], rtol=0, atol=1e-12)
    assert whole.calls == seen[-1] == 6 * 8 * 7 * 8


def test_systematic_resampling_gives_floor_or_ceiling_and_the_right_mean():
    """Every parent has floor or ceil of P w offspring, and P w on average over u (an exact midpoint rule in u)."""
    w = draws(1, 1).normal("w", 3, 6, 4)[0, 0].softmax(1)  # (R, P, B)
    n, counts = 20_000, []
    for u in ((torch.arange(n) + 0.5) / n).double()[:: n // 200]:
        parents = systematic(w.log(), u.expand(3, 4))
        assert bool((parents.diff(dim=1) >= 0).all())
        counts.append((parents[:, :, None] == torch.arange(6)[:, None]).sum(1))
    counts = torch.stack(counts).double()
    assert bool((counts >= (6 * w).floor()).all()) and bool((counts <= (6 * w).ceil()).all())
    close(counts.mean(0), 6 * w, rtol=0, atol=2 / 200)


def test_a_dead_system_gives_no_mass_and_no_nan():
    class Impossible(MarkovSteps):
        def log_increment(self, s, t, before, state):
            step = super().log_increment(s, t, before, state)
            return torch.where(s[:, t] == 0, -math.inf, step)

    x = torch.tensor([[1, 1, 1], [1, 0, 1]])
    with torch.no_grad():
        w = smc(Impossible(HMM), x, draws(Plan(replicates=2, levels=4), 2))
    assert bool(w.log_w[:, 0].isfinite().all()) and bool((w.log_w[:, 1] == -math.inf).all())


def test_training_drops_the_gradient_of_the_resampling_alone():
    """Without resampling the gradient of the bound is autograd's; its mean over systems is that of log p where exact."""
    x = HMM.simulate(4, 4)[1][:, :1]
    w = smc(MarkovSteps(HMM, guided=True), x, draws(Plan(levels=4), 4))
    (got,) = torch.autograd.grad(w.log_w.sum(), HMM.emission)
    (exact,) = torch.autograd.grad(HMM.log_evidence(x).sum(), HMM.emission)
    assert got.isfinite().all() and float(exact.abs().max()) > 0.1
    w = smc(MODELS["linear-Gaussian"], SSM.simulate(4, 0)[1], draws(Plan(levels=8), 4))
    (got,) = torch.autograd.grad(w.log_w.sum(), SSM.transition)
    assert got.isfinite().all() and float(got.abs().max()) > 0


def test_refusals(unchecked):  # noqa: F811
    model = MODELS["hidden Markov, prior moves"]
    x = HMM.simulate(2, 1)[1]
    assert isinstance(model, SequentialModel)
    with pytest.raises(UserError, match="smc needs sequential latents, and a HiddenMarkov has no steps"):
        smc(HMM, x, draws(Plan(levels=4), 2))
    with pytest.raises(UserError, match="independent particles"):
        smc(model, x, draws(Plan.sobol(4), 2))
    with pytest.raises(UserError, match=r"in \[0, 1\], got 2"):
        smc(model, x, draws(Plan(levels=4), 2), resample=2.0)

    class Broken(MarkovSteps):
        def log_increment(self, s, t, before, state):
            return super().log_increment(s, t, before, state) * (math.nan if t == 2 else 1)

    with pytest.raises(UserError, match=r"NaN or \+inf at step 2"):
        smc(Broken(HMM), x, draws(Plan(levels=4), 2))


class NamesItsStreamResample:
    """z_t uniform; p(x) = E[2 z_0 (1 + z_0 z_1)] = 4 / 3. The parents must not be chosen by the numbers that move the particles."""

    def encode(self, x):
        return x

    def steps(self, s):
        return 2

    def initial(self, s, draws):
        return draws.uniform("resample")

    def transition(self, s, t, before, draws):
        return draws.uniform("resample")

    def log_increment(self, s, t, before, state):
        return (2 * state).log() if t == 0 else (1 + before * state).log()


def test_a_models_streams_do_not_choose_parents():
    """|z| < 5 over 200,000 items; sharing the numbers is 7 standard errors off."""
    x = torch.zeros(200_000, 1)
    draws = Plan(levels=2).draws(torch.arange(len(x)))
    with torch.no_grad():
        p = smc(NamesItsStreamResample(), x, draws, resample=1.0).log_w[0].exp()
    assert abs(float((p.mean() - 4 / 3) / (p.std() / len(p) ** 0.5))) < 5
