"""Gradients of the learner against autograd, adaptive and monotone schedules, resuming, refusals."""

import math

import pytest
import torch

from infimum.data import load
from infimum.diffusion import DiffusionConfig, GaussianDiffusion
from infimum.diffusion.learned import AdaptiveBins, MonotoneNet
from infimum.diffusion.learner import DiffusionLearner
from infimum.diffusion.schedules import FixedSchedule
from infimum.diffusion.weightings import ELBO, sigmoid
from infimum.errors import UserError
from infimum.evidence import Plan, elbo, evaluate, path_terms
from infimum.testing import check_model
from infimum.training import Fit, Run, load_model, train


def model(schedule="linear", **config):
    torch.manual_seed(0)
    settings = {"shape": (3,), "levels": 17, "low": -5.0, "high": 8.0, "width": 8, "blocks": 1}
    made = GaussianDiffusion(DiffusionConfig(schedule=schedule, **settings | config)).double()
    with torch.no_grad():
        for p in made.network.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()), dtype=p.dtype))
    return made


X = torch.randint(0, 17, (8, 3), generator=torch.Generator().manual_seed(0)).double()


class Fixed(Fit):
    """The loop's side of one step: draws of keys 0 .. B - 1, gradients kept."""

    def __init__(self):
        pass

    def draws(self, plan, n):
        return plan.draws(torch.arange(n), dtype=torch.float64)

    def autocast(self):
        import contextlib

        return contextlib.nullcontext()

    def watch(self, **terms):
        pass

    def backward(self, loss):
        loss.backward()

    def update(self, name="main", clip=None):
        return torch.zeros(())


@pytest.mark.parametrize("schedule", ["linear", "learned", "monotone"])
def test_gradients_are_those_of_the_elbo_and_of_its_variance(schedule):
    """All but the interior: autograd of minus the ELBO in bits a dimension. The interior: of the mean squared diffusion loss."""
    m = model(schedule)
    if schedule == "monotone":
        with torch.no_grad():  # bent: at the start it is nearly a line, without a gradient to speak of
            m.schedule.w2.mul_(300), m.schedule.w3.mul_(3000)
    learner = DiffusionLearner(m, X, batch=8)
    fit = Fixed()
    learner.step(X, fit)
    got = {name: p.grad.clone() for name, p in m.named_parameters() if p.grad is not None}
    m.zero_grad()
    draws = fit.draws(learner.plan, 8)
    loss = -elbo(path_terms(m, X, draws)).value.mean() / (3 * math.log(2))
    loss.backward()
    inside = {id(p) for p in m.schedule.interior} if schedule == "monotone" else set()
    for name, p in m.named_parameters():
        if id(p) not in inside and p.grad is not None:
            torch.testing.assert_close(got[name], p.grad, rtol=1e-9, atol=1e-12)
    if schedule == "monotone":
        each = m.diffusion(m.encode(X), draws) / (3 * math.log(2))
        wanted = torch.autograd.grad(each.square().mean(), m.schedule.interior)
        names = {id(p): name for name, p in m.named_parameters()}
        for p, gradient in zip(m.schedule.interior, wanted, strict=True):
            torch.testing.assert_close(got[names[id(p)]], gradient, rtol=1e-9, atol=1e-12)
        assert max(float(g.abs().max()) for g in wanted) > 1e-3
    assert len(got) == sum(p.requires_grad for p in m.parameters())


def test_a_weighted_loss_is_what_it_says():
    """Loss of a step = mean of 1/2 w / p |eps - eps^|^2, under the draws' own density."""
    m, times = model(), FixedSchedule("cosine", -5.0, 8.0)
    learner = DiffusionLearner(m, X, weighting=sigmoid(1.0), times=times, batch=8)
    report = learner.step(X, Fixed())
    draws = Plan(lead="stratified", spread=8).draws(torch.arange(8), dtype=torch.float64)
    snr = times.log_snr(draws.lead())
    with torch.no_grad():
        error = m.error(m.encode(X), draws.normal("eps", 3), snr)
    wanted = (0.5 * torch.sigmoid(1 - snr) / times.density(snr) * error).mean() / 3
    torch.testing.assert_close(report["loss"], wanted)


def error_of(snr):
    """E|eps - eps^|^2 of the optimal denoiser of Gaussian data of variance 0.37."""
    return torch.sigmoid(snr + math.log(0.37))


def test_adaptive_bins_follow_the_error():
    """Histogram to w |eps - eps^|^2 (total variation below .05), a lower variance than uniform, the same mean (|z| < 5)."""
    bins = AdaptiveBins(-10.0, 10.0, bins=50, rate=0.995)
    g = torch.Generator().manual_seed(0)

    def sample(n):
        snr = bins.log_snr(torch.rand(n, generator=g, dtype=torch.float64))
        noisy = error_of(snr) * torch.randn(n, generator=g, dtype=torch.float64).square()
        return snr, noisy

    uniform = AdaptiveBins(-10.0, 10.0, bins=50)
    for _ in range(4000):
        bins.update(*sample(128))
    centres = torch.linspace(-9.8, 9.8, 50, dtype=torch.float64)
    target = error_of(centres) / error_of(centres).sum()
    assert float((bins.heights / bins.heights.sum() - target).abs().sum() / 2) < 0.05
    means, variances = [], []
    for schedule in (uniform, bins):
        snr = schedule.log_snr(torch.rand(100_000, generator=g, dtype=torch.float64))
        loss = 0.5 * error_of(snr) / schedule.density(snr)
        means.append((float(loss.mean()), float(loss.std() / 100_000**0.5)))
        variances.append(float(loss.var()))
    assert abs(means[0][0] - means[1][0]) < 5 * math.hypot(means[0][1], means[1][1])
    assert variances[1] < 0.05 * variances[0]


def test_bins_agree_with_themselves():
    bins = AdaptiveBins(-3.0, 5.0, bins=7)
    bins.heights.copy_(torch.rand(7, generator=torch.Generator().manual_seed(1)).double() + 0.1)
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    snr = bins.log_snr(t)
    torch.testing.assert_close(snr[[0, -1]], torch.tensor([5.0, -3.0]).double())
    torch.testing.assert_close(bins.time(snr), t, rtol=0, atol=1e-12)
    grid = torch.linspace(-3, 5, 80_001, dtype=torch.float64)
    assert float(bins.density(grid).mean()) * 8 == pytest.approx(1, abs=1e-3)
    torch.testing.assert_close(bins.slope(t), -1 / bins.density(snr))
    bins.update(
        torch.tensor([-2.9, -2.8]), torch.tensor([4.0, 2.0])
    )  # two draws in the first bin: rate^2 of it is kept
    assert float(bins.heights[0]) == pytest.approx(
        0.999**2 * (float(torch.rand(7, generator=torch.Generator().manual_seed(1))[0]) + 0.1) + (1 - 0.999**2) * 3.0,
        rel=1e-6,
    )
    bins.heights.zero_().add_(torch.tensor([1.0, 0, 0, 0, 0, 0, 0]))
    bins.update(torch.tensor([4.9]), torch.tensor([0.0]))
    assert float(bins.heights.min()) == pytest.approx(1e-3 * (1 / 7), rel=1e-9)


def test_the_monotone_network_keeps_its_ends():
    net = MonotoneNet(-5.0, 8.0, units=32)
    with torch.no_grad():
        (
            net.w2.mul_(1000),
            net.w3.mul_(3000),
            net.b2.add_(torch.randn(32, generator=torch.Generator().manual_seed(0)).double()),
        )
    t = torch.linspace(0, 1, 2001, dtype=torch.float64)
    with torch.no_grad():
        snr, slope = net.log_snr(t), net.slope(t)
        torch.testing.assert_close(snr[[0, -1]], torch.tensor([8.0, -5.0]).double())
        assert bool((snr.diff() < 0).all()) and float((snr - (8 - 13 * t)).abs().max()) > 0.5
        h = 1e-6
        numeric = (net.log_snr(t[1:-1] + h) - net.log_snr(t[1:-1] - h)) / (2 * h)
        torch.testing.assert_close(slope[1:-1], numeric, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(net.time(snr), t, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "config",
    [
        {}, {"head": "v", "depth": 7}, {"schedule": "monotone", "head": "edm"}, {"levels": None}, {"network": "unet"},
        {"network": "adm", "halvings": 0}, {"network": "dit", "patch": 1},
    ],
)  # fmt: skip
def test_the_model_keeps_the_contract(config):
    unet = "network" in config
    m = model(**config | {"shape": (1, 1, 3)} if unet else config).eval()
    x = (
        X
        if config.get("levels", 17)
        else torch.randn(8, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    )
    report = check_model(m, x[:, None, None] if unet else x)
    assert report.passed, str(report)


@pytest.mark.parametrize("schedule", ["monotone", "adaptive"])
def test_training_lowers_the_bound_and_is_saved(schedule, tmp_path):
    """Digits, a few steps: bits a dimension fall, the checkpoint gives the same evidence, resuming ends at the same bits."""
    data = load("digits", kind="integer")
    ends = {}
    for name, stop in (("whole", None), ("halves", 20)):
        torch.manual_seed(0)
        config = DiffusionConfig((1, 8, 8), levels=17, schedule=schedule, low=-5.0, high=8.0, width=32, blocks=1)
        m = GaussianDiffusion(config)
        learner = DiffusionLearner(m, data.train, lr=3e-3, clip=1.0)
        before = evaluate(m.eval(), data.test[:50], Plan.stratified(16), elbo).value.mean()
        if stop:
            train(learner, steps=stop, run=Run(tmp_path / name, quiet=True), every=stop)
            torch.manual_seed(5)
            learner = DiffusionLearner(GaussianDiffusion(config), data.train, lr=3e-3, clip=1.0)
        result = train(learner, steps=60, run=Run(tmp_path / name, quiet=True, resume=bool(stop)), every=60)
        ends[name] = load_model(result.checkpoint)[0].eval()
        after = evaluate(ends[name], data.test[:50], Plan.stratified(16), elbo).value.mean()
        assert after > before
        drawn = ends[name].generate(Plan.iid(1).draws(torch.arange(3)))
        assert drawn.shape == (1, 3, 1, 8, 8) and bool(((drawn >= 0) & (drawn <= 16) & (drawn == drawn.round())).all())
        if schedule == "adaptive":
            assert float(ends[name].schedule.heights.std()) > 0
    for (name, a), b in zip(ends["whole"].state_dict().items(), ends["halves"].state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_refusals():
    m = model()
    with pytest.raises(UserError, match="give both the same, fixed ends"):
        DiffusionLearner(m, X, times=FixedSchedule("cosine", -4.0, 8.0))
    with pytest.raises(UserError, match="no gradient that could train a schedule's ends"):
        DiffusionLearner(model("learned"), X, weighting=ELBO)
    with pytest.raises(UserError, match="at least 1 bin and a rate"):
        AdaptiveBins(bins=0)
    with pytest.raises(UserError, match="negative or not finite"):
        AdaptiveBins().update(torch.zeros(1), torch.tensor([math.nan]))
    with pytest.raises(UserError, match="at least 1 unit"):
        MonotoneNet(units=0)
