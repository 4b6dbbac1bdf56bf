"""MuLAN: schedules, the path of the loss, the bound and the flow against closed forms (17 section 6)."""

import itertools
import math

import pytest
import torch
from torch import nn

from infimum.diffusion import (
    DiffusionConfig,
    DiffusionLearner,
    FlowBound,
    FlowEvidence,
    GaussianDiffusion,
    Mulan,
    MulanConfig,
    Schedule,
    path_integral,
    sample,
    schedule_report,
    transport,
)
from infimum.diffusion.heads import convert
from infimum.diffusion.mulan import MonotoneSchedule, PolynomialCurves, PolynomialSchedule, chosen
from infimum.diffusion.schedules import alpha_sigma
from infimum.errors import UserError
from infimum.evidence import Plan, elbo, evaluate, iwae
from infimum.testing import check_model
from infimum.training import Run, load_model, train

LOW, HIGH = -4.0, 6.0
S = torch.tensor([[1.0, 0.8], [0.8, 0.8]], dtype=torch.float64)
EYE = torch.eye(2, dtype=torch.float64)


# --- schedules (oracle 1)


def curves(n=6, d=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    a, b, e = (3 * torch.randn(n, d, generator=g, dtype=torch.float64) for _ in range(3))
    return PolynomialCurves(a, b, 1e-3 + e.abs(), -8.0, 5.0)


def monotone(n=6, d=5):
    torch.manual_seed(1)
    schedule = MonotoneSchedule(d, 3, 16, -8.0, 5.0).double()
    for p in schedule.parameters():
        nn.init.normal_(p)
    return schedule.given(torch.randn(n, 3, dtype=torch.float64))


@pytest.mark.parametrize("made", [curves, monotone])
def test_curves_reach_their_ends_fall_and_have_their_slope(made):
    of = made()
    times = torch.linspace(0, 1, 1000, dtype=torch.float64)
    table = torch.stack([of.log_snr(t.expand(6)).detach() for t in times])
    assert torch.allclose(table[0], torch.full((6, 5), 5.0, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(table[-1], torch.full((6, 5), -8.0, dtype=torch.float64), atol=1e-9)
    assert bool((table.diff(dim=0) <= 1e-12).all())
    t = torch.linspace(0.05, 0.95, 6, dtype=torch.float64)
    h = 1e-5
    numeric = (of.log_snr(t + h) - of.log_snr(t - h)) / (2 * h)
    assert torch.allclose(of.slope(t), numeric, rtol=1e-6, atol=1e-6)
    rows = torch.tensor([4, 1])
    assert torch.allclose(of.take(rows).log_snr(t[rows]), of.log_snr(t)[rows], rtol=1e-12)


def test_a_polynomial_may_stand_still():
    """a t^2 + b t + e with a root at 1/2: the slope is 0 there and nothing divides by it."""
    of = PolynomialCurves(*(torch.tensor([[v]]) for v in (0.0, -2.0, 1.0)), -8.0, 5.0)
    half = torch.tensor([0.5], dtype=torch.float64)
    assert float(of.slope(half)) == 0 and float(of.log_snr(half)) == pytest.approx(-1.5)


# --- the path (oracles 5 and 6)


def posterior(points):
    """Posterior covariance of f ~ N(0, S) given z at log-SNRs (N, 2)."""
    return torch.linalg.inv(torch.linalg.inv(S) + torch.diag_embed(points.exp()))


def optimal(points):
    return posterior(points).diagonal(dim1=1, dim2=2)


def perturbed(points):
    """x^ = E[f | z] + 0.05 z_2 in the first coordinate."""
    alpha, sigma = alpha_sigma(points[:, 1])
    return optimal(points) + torch.stack((0.0025 * (alpha**2 * S[1, 1] + sigma**2), 0 * alpha), 1)


def triangular(points):
    """f_1 predicted from z_1 alone, f_2 from both."""
    return torch.stack((1 / (1 / S[0, 0] + points[:, 0].exp()), optimal(points)[:, 1]), 1)


def separable(points):
    return 1 / (1 / S.diagonal() + points.exp())


T = torch.linspace(0, 1, 4001, dtype=torch.float64)[:, None]
STRAIGHT = HIGH + (LOW - HIGH) * torch.cat((T, T), 1)
BENT = HIGH + (LOW - HIGH) * torch.cat((T**3, T**0.6), 1)
SECOND_NOISED_LAST = torch.tensor([[HIGH, HIGH], [LOW, HIGH], [LOW, LOW]], dtype=torch.float64)
FIRST_NOISED_LAST = SECOND_NOISED_LAST.flip(1)


def finely(points, steps=400):
    """The same polygon in small pieces."""
    part = torch.arange(steps, dtype=torch.float64)[:, None] / steps
    lines = [a + (b - a) * part for a, b in itertools.pairwise(points)]
    return torch.cat([*lines, points[-1:]])


def between():
    """Mutual information of f and z at the ends, the lower limit of every path."""
    return sum(sign * 0.5 * torch.logdet(EYE + math.exp(end) * S) for sign, end in ((1, HIGH), (-1, LOW)))


def test_the_loss_of_an_optimal_denoiser_is_the_mutual_information_on_every_path():
    for points in (STRAIGHT, BENT, finely(SECOND_NOISED_LAST), finely(FIRST_NOISED_LAST)):
        assert float(path_integral(optimal, points)) == pytest.approx(float(between()), abs=1e-6)
    assert float(between()) == pytest.approx(5.081236, abs=1e-6)


def test_the_loss_of_a_wrong_denoiser_depends_on_the_path():
    found = [float(path_integral(perturbed, p)) for p in (STRAIGHT, BENT, finely(SECOND_NOISED_LAST))]
    assert found == pytest.approx([5.486142, 5.531687, 5.484896], abs=2e-6)
    assert float(path_integral(perturbed, STRAIGHT.flip(0))) == pytest.approx(found[0])  # either way round


def test_a_triangular_denoiser_gains_by_noising_the_second_coordinate_first():
    found = [float(path_integral(triangular, finely(p) if len(p) == 3 else p))
             for p in (STRAIGHT, FIRST_NOISED_LAST, SECOND_NOISED_LAST)]  # fmt: skip
    assert found == pytest.approx([5.444485, 5.086928, 5.867745], abs=2e-6)


def descended(field, steps=400):
    """The loss on the curves of a polynomial schedule, before and after gradient descent from near the straight line."""
    torch.manual_seed(0)
    schedule = PolynomialSchedule(2, 0, 16, LOW, HIGH).double()
    with torch.no_grad():
        for head in (schedule.a, schedule.b, schedule.e):
            head.weight.mul_(0.1)
            head.bias.zero_()
    t = torch.linspace(0, 1, 129, dtype=torch.float64)

    def loss():
        return path_integral(field, schedule.given(torch.zeros(129, 0)).log_snr(t))

    adam, first = torch.optim.Adam(schedule.parameters(), lr=0.05), float(loss().detach())
    for _ in range(steps):
        adam.zero_grad()
        value = loss()
        value.backward()
        adam.step()
    return first, float(loss().detach())


def test_a_learned_schedule_recovers_what_a_restricted_denoiser_loses():
    """More than 95% of the gap between the straight path and the mutual information; nothing where the path does not matter."""
    first, last = descended(triangular)
    assert first == pytest.approx(5.444485, abs=0.05)
    assert last < 5.10 and (5.444485 - last) / (5.444485 - float(between())) > 0.95
    for field in (optimal, separable):
        first, last = descended(field, steps=100)
        assert abs(first - last) < 1e-3


# --- models


class Linear(nn.Module):
    """The optimal denoiser of N(0, S) as a network, which knows the schedule and reads the time off the mean."""

    def __init__(self, head):
        super().__init__()
        self.head, self.model = head, []
        self.anchor = nn.Parameter(torch.zeros(()))

    def forward(self, inner, level, context):
        each, back = level.detach().unique(return_inverse=True)
        of, wanted = self.model[0].schedule.given(context[: len(each)]), HIGH - each * (HIGH - LOW)
        low, high = torch.zeros_like(wanted), torch.ones_like(wanted)
        for _ in range(36):
            middle = (low + high) / 2
            later = of.log_snr(middle).mean(1) > wanted
            low, high = torch.where(later, middle, low), torch.where(later, high, middle)
        snr = of.log_snr(low).detach().expand(-1, 2)[back]
        alpha, sigma = alpha_sigma(snr)
        scale = {"edm": 1 / (sigma**2 + 0.25 * alpha**2).sqrt(), "flow": 1 / (alpha + sigma)}.get(self.head, 1.0)
        z = inner / scale
        x = (posterior(snr) @ (alpha / sigma**2 * z)[..., None])[..., 0]
        out = convert(x, z, snr, source="x", to=self.head)
        return out - z if self.head == "eps" else out


def exact(head="v", seed=0, **config):
    torch.manual_seed(seed)
    network = Linear(head)
    options = {"latent": "none", "low": LOW, "high": HIGH, "head": head} | config
    model = Mulan(MulanConfig((2,), **options), network).double().eval()
    network.model = [model]
    if isinstance(model.schedule, PolynomialSchedule):
        with torch.no_grad():
            model.schedule.a.bias.normal_()
            model.schedule.b.bias.copy_(torch.tensor([2.0, -2.0]))
    return model


def data(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 2, generator=g, dtype=torch.float64) @ torch.linalg.cholesky(S).T


@pytest.mark.parametrize("head", ["v", "eps", "x", "edm"])
def test_the_diffusion_term_of_an_optimal_denoiser_is_the_mutual_information(head):
    """Whatever the curves. Four standard errors."""
    model, x = exact(head), data(2000)
    terms = model.parts(x, model.encode(x), Plan.stratified(32).draws(torch.arange(2000)))
    each = terms["diffusion"].detach().mean(0)
    assert abs(float(each.mean() - between())) < 4 * float(each.std()) / 2000**0.5
    assert float(terms["divergence"].abs().max()) == 0


@pytest.mark.parametrize("head", ["eps", "x", "score", "flow", "edm"])
def test_heads_have_equal_losses(head):
    """Sample by sample: the same denoiser as another head."""
    x, draws = data(20), Plan.stratified(8).draws(torch.arange(20))
    one, other = (exact(h).parts(x, exact(h).encode(x), draws)["diffusion"] for h in ("v", head))
    assert torch.allclose(one, other, rtol=1e-9)


def test_equal_curves_are_a_plain_diffusion_of_that_schedule():
    """Oracle 2, sample by sample: a fixed scalar schedule, and a polynomial with equal coefficients."""
    torch.manual_seed(0)
    common = {"low": -6.0, "high": 8.0, "head": "v", "width": 16, "blocks": 1, "levels": 8}
    x = torch.randint(0, 8, (10, 3)).double()
    draws = Plan.stratified(16).draws(torch.arange(10))
    for schedule in ("cosine", "polynomial"):
        mulan = Mulan(MulanConfig((3,), schedule=schedule, latent="none", **common)).double().eval()
        plain = GaussianDiffusion(DiffusionConfig((3,), **common), nn.Module()).double().eval()
        for p in mulan.network.parameters():
            nn.init.normal_(p, std=0.1)
        plain.network, plain._flat = mulan.network, True
        if schedule == "polynomial":
            with torch.no_grad():
                for head, value in ((mulan.schedule.a, 2.0), (mulan.schedule.b, -1.0), (mulan.schedule.e, 0.5)):
                    head.weight.zero_()
                    head.bias.fill_(value)
            plain.schedule = Bare(mulan.schedule)
        else:
            plain.schedule = mulan.schedule.inner
        mine, theirs = (m.terms(x, m.encode(x), draws) for m in (mulan, plain))
        assert torch.allclose(mine, theirs, rtol=1e-10, atol=1e-10)
        assert torch.allclose(*(m.constant(x, m.encode(x)) for m in (mulan, plain)))


class Bare(Schedule):
    """A vector schedule of equal curves as a scalar one."""

    def __init__(self, of):
        super().__init__()
        self.of, self.low_, self.high_ = of, of.low, of.high

    low = property(lambda self: self.low_)
    high = property(lambda self: self.high_)

    def log_snr(self, t):
        return self.of.given(torch.zeros(t.numel(), 0)).log_snr(t.flatten())[:, 0].view_as(t)

    def slope(self, t):
        return self.of.given(torch.zeros(t.numel(), 0)).slope(t.flatten())[:, 0].view_as(t)


def test_in_steps_the_loss_falls_to_that_of_continuous_time():
    """T steps of the optimal denoiser: the sum over steps of expm1 of the step in log-SNR, in closed form; four standard errors."""
    x, values = data(500), []
    for depth in (2, 8, 32, 256, 4096):
        model = exact("eps", depth=depth)
        of = model.schedule.given(torch.zeros(depth, 0))
        t = torch.arange(1, depth + 1, dtype=torch.float64) / depth
        now, then = of.log_snr(t).detach(), of.log_snr(t - 1 / depth).detach()
        value = 0.5 * (torch.expm1(then - now) * now.exp() * optimal(now)).sum()
        values.append(float(value))
        if depth > 256:
            continue
        draws = Plan.stratified(256).draws(torch.arange(500))
        each = model.parts(x, model.encode(x), draws)["diffusion"].detach().mean(0)
        assert abs(float(each.mean() - value)) < 4 * float(each.std()) / 500**0.5
    assert values == sorted(values, reverse=True)
    assert values[-1] == pytest.approx(float(between()), rel=0.02) and values[-1] > float(between())


# --- the bound (oracle 11)


@pytest.mark.parametrize("divergence", ["subset", "ordered", "deterministic"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_network_beats_the_entropy(divergence, seed):
    """Eight values with known probabilities; m = 4, k = 1; networks at random. Four standard errors."""
    torch.manual_seed(seed)
    p = torch.rand(8, dtype=torch.float64)
    p = p / p.sum()
    config = MulanConfig(
        (1,), levels=8, low=-5.0, high=9.0, size=4, active=1, divergence=divergence, width=16, blocks=1, schedule_width=8
    )  # fmt: skip
    model = Mulan(config).double().eval()
    with torch.no_grad():
        for weight in (*model.network.parameters(), *model.schedule.parameters(), *model.encoder.parameters()):
            weight.copy_(0.4 * torch.randn_like(weight))
    x = torch.arange(8, dtype=torch.float64)[:, None]
    estimate = evaluate(model, x, Plan.stratified(256, replicates=2), elbo, seed=seed)
    assert estimate.side == "lower"
    bound, error = float((p * estimate.value).sum()), float((p * estimate.stderr).square().sum().sqrt())
    assert bound < float((p * p.log()).sum()) + 4 * error


class Table(nn.Module):
    """Says the value of the latent's subset."""

    def __init__(self, subsets, values):
        super().__init__()
        self.subsets, self.values = subsets, values

    def forward(self, z, u, context):
        return self.values[(context @ self.subsets.T).argmax(1)]


class Revealing(nn.Module):
    def __init__(self, subsets, levels):
        super().__init__()
        self.subsets, self.levels = subsets, levels

    def forward(self, f):
        return 60 * self.subsets[((f[:, 0] + 1) * self.levels / 2 - 0.5).round().long()]


def test_the_published_divergence_beats_the_entropy_and_has_no_side():
    """Twenty values, a subset for each: the bound is the entropy, log 20; with the divergence of one draw it is log 2."""
    subsets = torch.tensor([[float(i in s) for i in range(6)] for s in itertools.combinations(range(6), 3)])
    subsets, values = subsets.double(), ((2 * torch.arange(20.0) + 1) / 20 - 1)[:, None].double()
    found = {}
    for divergence in ("subset", "deterministic", "categorical"):
        config = MulanConfig(
            (1,), levels=20, low=-20.0, high=14.0, head="x", size=6, active=3, divergence=divergence, schedule="linear"
        )
        model = Mulan(config, Table(subsets, values), Revealing(subsets, 20)).double().eval()
        model._flat = model._flat_encoder = True
        x = torch.arange(20, dtype=torch.float64)[:, None]
        found[divergence] = evaluate(model, x, Plan.stratified(4), elbo)
    assert float(found["subset"].value.mean()) == pytest.approx(-math.log(20), abs=1e-3)
    assert float(found["deterministic"].value.mean()) == pytest.approx(-math.log(20), abs=1e-3)
    assert float(found["categorical"].value.mean()) == pytest.approx(-math.log(2), abs=1e-3)
    assert (found["subset"].side, found["categorical"].side) == ("lower", "none")
    assert found["categorical"].name == "ELBO, surrogate"


# --- the flow (oracles 10 and 12)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_flow_of_an_exact_denoiser_has_the_density_of_the_data_on_every_path(seed):
    """From q(z_0) to q(z_1) along curves of each dimension's own: 1e-5."""
    model = exact("eps", seed=seed)
    z = data(5, 3)

    def log_density(z, log_snr):
        alpha, sigma = alpha_sigma(torch.tensor(log_snr, dtype=torch.float64))
        normal = torch.distributions.MultivariateNormal(
            torch.zeros(2, dtype=torch.float64), alpha**2 * S + sigma**2 * EYE
        )
        return normal.log_prob(z)

    end, change = transport(model.trajectory_of(torch.zeros(5, 0)), z, steps=60)
    assert torch.allclose(log_density(end, LOW) + change, log_density(z, HIGH), atol=1e-5)


def small(dtype=torch.float64, **config):
    torch.manual_seed(0)
    options = {
        "levels": 8, "low": -5.0, "high": 9.0, "size": 5, "active": 2, "width": 16, "blocks": 1, "schedule_width": 8,
        "encoder_width": 8, "head": "v",
    } | config  # fmt: skip
    model = Mulan(MulanConfig((3,), **options))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if not name.startswith("schedule"):
                p.copy_(0.3 * torch.randn_like(p))
    return (model.double() if dtype == torch.float64 else model).eval()  # schedules stay in float64


X = torch.tensor([[0.0, 3, 7], [5, 1, 2], [4, 4, 4], [7, 0, 6]], dtype=torch.float64)


def test_importance_weights_over_latent_and_noise_average_to_one_probability():
    """p(x) by the sum over all latents with many draws of the noise each, and by joint importance weights: four standard errors."""
    model = small(size=3, active=1)
    flow = FlowEvidence(model, steps=40).eval()
    x = X[:2]
    draws = Plan.sobol(64, replicates=4).draws(torch.arange(2))
    f = model.scaled(x)
    z = flow._sample(f, draws)
    total = []
    for c in torch.eye(3, dtype=torch.float64):
        context = c.expand(*z.shape[:2], 3)
        w = flow.log_joint(x, (z, context)) - flow._log_q(f, z)
        total.append(w.unflatten(0, (4, 64)).exp().mean(1))  # (4, B), with p(c)
    total = torch.stack(total).sum(0).detach()
    exact_p, error = total.mean(0), total.std(0) / 2
    found = evaluate(flow, x, Plan.iid(512), iwae, seed=1)
    away = (found.value.exp() - exact_p).abs() / (error**2 + (found.stderr * exact_p) ** 2).sqrt()
    assert float(away.max()) < 4
    assert found.side == "lower" and found.certified


def test_hutchinsons_bound_has_the_mean_of_the_exact_trace():
    """The same draws of latent and noise; four standard errors."""
    model = small()
    draws = Plan.iid(60).draws(torch.arange(4))
    noisy, plain = FlowBound(model, steps=150).eval(), FlowEvidence(model, steps=150).eval()
    terms = noisy.terms(X, noisy.encode(X), draws).detach()
    s = plain.encode(X)
    z = plain.sample(s, draws)
    gap = (terms - (plain.log_joint(X, z) - plain.log_proposal(s, z))).detach()
    assert float((gap.mean(0) / (gap.std(0) / 60**0.5)).abs().max()) < 4
    assert float(gap.std()) > 1e-6


def test_the_truncated_normal_has_its_own_constants():
    """Entropy below the normal's: at three standard deviations .016035 nats with Z = .9973002; the published code has .01522."""
    model = small(high=2 * math.log(24.0))  # a cell of 8 levels is three standard deviations wide
    flow = FlowEvidence(model, steps=1)
    f = model.scaled(X)
    z = flow._sample(f, Plan.sobol(4096).draws(torch.arange(4)))
    entropy = -flow._log_q(f, z).mean() / 3
    sigma = flow._cell()[1]
    assert flow._cell()[2] / sigma == pytest.approx(3, abs=1e-12)
    assert 0.5 * math.log(2 * math.pi * math.e * sigma**2) - float(entropy) == pytest.approx(0.016035, abs=2e-6)
    assert math.erf(3 / 2**0.5) == pytest.approx(0.9973002, abs=1e-7)


# --- training, sampling, checkpoints


@pytest.mark.parametrize(
    "config",
    [
        {}, {"divergence": "ordered"}, {"latent": "one-hot"}, {"latent": "gaussian"}, {"latent": "none"},
        {"schedule": "monotone"}, {"multivariate": False}, {"schedule": "learned"}, {"depth": 7},
        {"noise": "sog", "divergence": "deterministic"},
        {"levels": None},
    ],
)  # fmt: skip
def test_models_keep_the_engines_contract(config):
    check_model(small(torch.float32, **config), X.float())


def test_a_step_has_the_gradient_of_the_bound(tmp_path):
    """Every parameter's gradient after a step of the learner is that of the mean bound in bits a dimension."""
    model = small(torch.float32)
    learner = DiffusionLearner(model, X.float(), batch=4, lr=1e-9)
    seen = {}

    def keep(optimizer, *_):
        seen.update({id(p): p.grad.clone() for g in optimizer.param_groups for p in g["params"] if p.grad is not None})

    learner.optimizers["main"].register_step_pre_hook(keep)
    kept, parts = [], model.parts
    model.parts = lambda x, s, draws: (kept.append((x, draws)), parts(x, s, draws))[1]
    train(learner, steps=1, run=Run(tmp_path / "run", quiet=True))
    batch, draws = kept[0]
    model.zero_grad()
    s = model.encode(batch)
    bound = (model.constant(batch, s) + model.terms(batch, s, draws).mean(0)).mean()
    (-bound / (3 * math.log(2))).backward()
    compared = [p for p in model.parameters() if p.grad is not None and id(p) in seen]
    assert len(compared) == len(list(model.parameters()))
    for p in compared:
        assert float((p.grad - seen[id(p)]).norm()) < 1e-4 * float(p.grad.norm())


def test_a_run_is_loaded_again_with_all_that_it_learned(tmp_path):
    model = small(torch.float32)
    result = train(DiffusionLearner(model, X.float(), batch=4), steps=3, run=Run(tmp_path / "run", quiet=True))
    again = load_model(result.checkpoint)[0].eval()
    assert isinstance(again, Mulan) and again.config == model.config
    draws = Plan.stratified(4).draws(torch.arange(4))
    assert torch.equal(again.terms(X.float(), again.encode(X.float()), draws),
                       model.eval().terms(X.float(), model.encode(X.float()), draws))  # fmt: skip


def test_images_and_convolutions(tmp_path):
    torch.manual_seed(0)
    config = MulanConfig((1, 4, 4), levels=4, network="unet", width=8, blocks=1, encoder_network="conv", encoder_width=8,
                         encoder_blocks=1, size=4, active=2)  # fmt: skip
    x = torch.randint(0, 4, (8, 1, 4, 4)).float()
    model = Mulan(config)
    before = model.encoder.outputs.weight.detach().clone()
    train(DiffusionLearner(model, x, batch=8, lr=1e-2), steps=3, run=Run(tmp_path / "run", quiet=True))
    assert check_model(model.eval(), x).passed
    assert float((model.encoder.outputs.weight.detach() - before).abs().max()) > 1e-3


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpmpp-2m", "heun", "ode", "ode-adaptive"])
def test_samplers_follow_the_curves_to_the_data(sampler):
    """Of N(0, S) by the exact denoiser on bent curves. Variances at four standard errors; the ends are those of the schedule."""
    model = exact("v")
    n = 4000
    draws = Plan.iid(1).draws(torch.arange(n))
    x = sample(model, draws, sampler=sampler, steps=60, tolerance=1e-3, decode=False)[0]
    start, end = (torch.tensor(v, dtype=torch.float64) for v in (LOW, HIGH))
    if (
        sampler == "ancestral"
    ):  # from N(0, I), which at log-SNR -4 is not yet the marginal: the Gaussian recursion gives the answer
        grid = torch.linspace(1, 0, 61, dtype=torch.float64)
        covariance = EYE
        of = model.schedule.given(torch.zeros(1, 0))
        for a, b in itertools.pairwise(grid):
            now, then = of.log_snr(a[None])[0].detach(), of.log_snr(b[None])[0].detach()
            step, noise = transition(now, then)
            covariance = step @ covariance @ step.T + noise
        wanted = covariance / alpha_sigma(end)[0] ** 2
    else:
        # the flow is linear: it carries the marginal at the start to that at the end, and N(0, I) by the same matrix
        matrix = flow_matrix(model, start, end)
        wanted = matrix @ matrix.T / alpha_sigma(end)[0] ** 2
    found = x.T @ x / n
    error = ((x[:, :, None] * x[:, None, :]).flatten(1).std(0) / n**0.5).view(2, 2)
    bias = 0.03 if sampler == "ddim" else 0.004  # first order at 60 steps, second and higher
    assert float(((found - wanted).abs() - bias).div(error).max()) < 4


def transition(now, then):
    """Matrix and covariance of p(z_s | z_t) with the mean of E[f | z_t]."""
    alpha, sigma = alpha_sigma(now)
    alpha_s, sigma_s = alpha_sigma(then)
    gain = posterior(now[None])[0] @ torch.diag(alpha / sigma**2)
    r = (now - then).exp()
    step = torch.diag(alpha_s / alpha * r) + torch.diag(alpha_s * (1 - r)) @ gain
    return step, torch.diag(sigma_s**2 * (1 - r))


def flow_matrix(model, start, end):
    """d z_0 / d z_1 of the linear flow, by the solver at very many steps."""
    from infimum.diffusion.samplers import _runge_kutta

    path = model.trajectory_of(torch.zeros(2, 0))
    z = EYE.clone()
    for s, s_next in itertools.pairwise(torch.linspace(-1, 0, 101, dtype=torch.float64)):
        z = _runge_kutta(path, z, s.expand(2), s_next.expand(2))
    return z.T.detach()


def test_samples_have_latents_of_the_prior():
    model = small()
    draws = Plan.iid(6).draws(torch.arange(5))
    path = model.trajectory(draws)
    assert torch.equal(path.context, model.latent.prior(draws).flatten(0, 1))
    assert len(path.context.unique(dim=0)) > 3
    assert torch.equal(sample(model, draws, steps=5), sample(model, draws, steps=5))


def test_the_report_tells_curves_and_an_unused_latent():
    model = small()
    report = schedule_report(model, X, Plan.iid(8).draws(torch.arange(4)), times=5)
    assert report["log_snr"].shape == (5, 3) and float(report["spread"].max()) > 0
    assert torch.allclose(report["log_snr"][0], torch.full((3,), 9.0, dtype=torch.float64))
    with torch.no_grad():
        for p in model.encoder.parameters():
            p.zero_()
        for head in (model.schedule.a, model.schedule.b, model.schedule.e):
            head.weight.zero_()
    with pytest.warns(UserWarning, match="the auxiliary latent is unused"):
        schedule_report(model, X, Plan.iid(8).draws(torch.arange(4)))


def test_still_dimensions_are_warned_of():
    x = X.clone()
    x[:, 1] = 2
    with pytest.warns(UserWarning, match="1 of 3 dimensions are the same"):
        DiffusionLearner(small(), x)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"size": 4, "active": 4}, "1 <= active < size"),
        ({"schedule": "wavy"}, "no schedule 'wavy'"),
        ({"schedule": "adaptive"}, "use polynomial or monotone"),
        ({"encoder_network": "conv"}, "choose mlp"),
        ({"encoder_width": 1}, "width of at least 4"),
        ({"depth": 4, "variance": "optimal"}, "variances of the posterior"),
        ({"schedule_width": 2**15}, "lower hidden"),
    ],
)
def test_what_cannot_be_built_is_refused(config, says):
    with pytest.raises(UserError, match=says):
        Mulan(MulanConfig((3,), levels=8, **config))


def test_what_cannot_be_done_is_refused():
    model = small()
    with pytest.raises(UserError, match="no labels"):
        sample(model, Plan.iid(1).draws(torch.arange(2)), labels=torch.tensor([0, 1]))
    with pytest.raises(UserError, match="give draws"):
        model.trajectory()
    with pytest.raises(UserError, match="give context alone"):
        model.diffusion(model.scaled(X), Plan.iid(1).draws(torch.arange(4)))
    with pytest.raises(UserError, match="expected items of shape"):
        model.encode(torch.zeros(2, 4))
    with pytest.raises(UserError, match="churn"):
        sample(model, Plan.iid(1).draws(torch.arange(2)), sampler="heun", steps=2, churn=0.1)
    model.encoder[0].weight.data.fill_(math.nan)
    with pytest.raises(UserError, match="not finite"):
        model.encode(X)
    c = chosen(torch.rand(2, 5), 2)
    assert model.trajectory_of(c.double()).take(torch.tensor([1])).context.shape == (1, 5)
