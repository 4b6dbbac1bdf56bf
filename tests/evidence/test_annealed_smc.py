"""Annealing with resampling: unbiased against closed form and enumeration, and `ais` where nothing is resampled."""

import math

import pytest
import torch

from evidence.support import LocalNormal, close, draws, unchecked, z_score  # noqa: F401
from infimum.errors import UserError
from infimum.evidence import Plan, ais, annealed_smc, fivo, gibbs, hmc, iwae, metropolis, weigh
from infimum.testing import LinearGaussian
from infimum.vae import BeliefNet, BeliefNetConfig
from testing.oracle_cases import rand, spd

N = 4000
BETAS = [0, 0.1, 0.3, 0.6, 0.8, 1]
FAR = {"mean": -1.0, "log_sd": math.log(1.3)}
TRUTH = -0.25 * 1.2**2 - 0.5 * math.log(4 * math.pi)  # N(1.2; 0, 2)


@pytest.mark.parametrize("resample", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kernel", [metropolis(1.0), hmc(0.4, 3)], ids=["metropolis", "hmc"])
def test_the_evidence_estimate_is_unbiased(kernel, resample):
    """00-bounds 3.5's example: E p^/p = 1 (|z| < 5) over 4,000 systems of 8 chains, five temperatures."""
    model = LocalNormal(N, **FAR)
    w = annealed_smc(model, model.x, draws(Plan(levels=8), N), BETAS, kernel, resample=resample, rows=8 * N)
    assert w.shape == (1, N)
    assert z_score((w.log_w[0] - TRUTH).exp(), 1.0) < 5
    assert float(w.log_w.mean()) < TRUTH


def test_bits_are_unbiased_for_the_enumerated_evidence():
    """A belief net with 2^6 latents: E p^/p = 1 (|z| < 5) over 3,000 copies of one item, and p^ of 64 chains is close."""
    torch.manual_seed(0)
    net = BeliefNet(BeliefNetConfig(shape=(12,), latent=6)).double().eval()
    x = (rand(1, 12) > 0).double().expand(3000, 12)
    truth = float(net.log_evidence(x[:1]).value[0].detach())
    betas = [0, 0.2, 0.5, 1]
    w = annealed_smc(net, x, draws(Plan(levels=4), 3000), betas, gibbs())
    assert z_score((w.log_w[0] - truth).exp(), 1.0) < 5


def test_without_resampling_a_row_is_the_mean_of_annealed_weights():
    """Kernels that move nothing: every increment is a part of log w, whatever the schedule (the same latents as `weigh`)."""
    exact = LinearGaussian(rand(4, 2), rand(4), spd(4), shift=0.5)
    x, part = rand(3, 4), draws(Plan(replicates=2, levels=5), 3)
    with torch.no_grad():
        still = annealed_smc(exact, x, part, [0, 0.3, 1], lambda z, *_: z, resample=0.0)
        own = weigh(exact, x, part.fork("0")).log_w  # each temperature draws in a fork of its own
    close(still.log_w, own.unflatten(0, (2, 5)).logsumexp(1) - math.log(5))
    one = annealed_smc(exact, x, part, [0, 1], metropolis(1.0))
    close(one.log_w, own.unflatten(0, (2, 5)).logsumexp(1) - math.log(5))


def test_resampling_helps_where_weights_are_uneven():
    """A proposal far from the posterior, short schedules: the bound of one system is tighter (|z| > 5), chains and moves alike."""
    model = LocalNormal(N, mean=-4.0, log_sd=-0.5)
    betas = [t / 12 for t in range(13)]
    gap = [
        annealed_smc(model, model.x, draws(Plan(levels=16), N), betas, metropolis(0.7), resample=r, rows=16 * N).log_w[
            0
        ]
        for r in (0.0, 0.5)
    ]
    better = gap[1] - gap[0]
    assert float(better.mean() / (better.std() / N**0.5)) > 5
    assert float(gap[1].mean()) < TRUTH


def test_systems_are_the_replicates_and_chunks_change_nothing():
    exact = LinearGaussian(rand(4, 2), rand(4), spd(4), shift=0.5)
    x, part, betas, seen = rand(5, 4), draws(Plan(replicates=3, levels=4), 5), [0, 0.2, 0.6, 1], []
    whole = annealed_smc(exact, x, part, betas, metropolis(0.3))
    assert whole.shape == (3, 5) and iwae(whole).certified and fivo(whole).copies == 3
    for rows in (4, 8, 13):
        some = annealed_smc(exact, x, part, betas, metropolis(0.3), rows=rows, progress=seen.append)
        close(some.log_w, whole.log_w, rtol=0, atol=1e-12)
        assert seen[-1] == 3 * 4 * 5 * 3 and some.calls == whole.calls
    assert whole.calls == ais(exact, x, draws(12, 5), betas, metropolis(0.3)).calls
    order = torch.tensor([4, 1, 0])
    close(
        annealed_smc(exact, x[order], part.take(order), betas, metropolis(0.3)).log_w, whole.log_w[:, order],
        rtol=0, atol=1e-12,
    )  # fmt: skip


def test_refusals(unchecked):  # noqa: F811
    model = LocalNormal(3, **FAR)
    part = draws(Plan(levels=4), 3)
    with pytest.raises(UserError, match="betas that increase from 0 to 1"):
        annealed_smc(model, model.x, part, [0, 0.5], metropolis(1.0))
    with pytest.raises(UserError, match="a fraction of the particles"):
        annealed_smc(model, model.x, part, [0, 1], metropolis(1.0), resample=2)
    with pytest.raises(UserError, match="independent particles"):
        annealed_smc(model, model.x, draws(Plan.antithetic(4), 3), [0, 1], metropolis(1.0))
    net = BeliefNet(BeliefNetConfig(shape=(12,), latent=6)).eval()
    with pytest.raises(UserError, match="discrete: use the gibbs kernel"):
        annealed_smc(net, (rand(3, 12) > 0).float(), draws(Plan(levels=4), 3), [0, 0.5, 1], metropolis(1.0))
