"""DiffEnc against its own algebra, Bayes' rule, quadrature and plain diffusion (12 section 6)."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from diffusion.worlds import Given, P, quadrature
from infimum.diffusion import (
    DiffEnc,
    DiffEncConfig,
    DiffusionConfig,
    DiffusionLearner,
    FlowEvidence,
    GaussianDiffusion,
    alpha_sigma,
    convert,
    counterterm_report,
    sample,
)
from infimum.diffusion.samplers import _ddim
from infimum.errors import UserError
from infimum.evidence import Plan, elbo, evaluate, path_terms
from infimum.testing import check_model
from infimum.training import Fit, Run, load_model, save_model, train

ENTROPY = float(-(P * P.log()).sum())
X = torch.randint(0, 8, (6, 3), generator=torch.Generator().manual_seed(0)).double()


class Fixed(Fit):
    """Draws of step 0, and gradients that are left where they are."""

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

    def update(self, *names, clip=None):
        pass


def built(shape=(3,), *, random=True, module=None, network=None, **options):
    """A small model in float64; ``random``: moved away from its start at zero."""
    torch.manual_seed(1)
    settings = {"levels": 8, "low": -5.0, "high": 9.0, "width": 16, "blocks": 1, "encoder_width": 16} | options
    model = DiffEnc(DiffEncConfig(shape, **settings), network, module).double()
    if random:
        with torch.no_grad():
            for name, p in model.named_parameters():
                if not name.startswith("schedule"):
                    p.add_(0.2 * torch.randn_like(p))
    return model.eval()


def rows(model, n=200, seed=2):
    g = torch.Generator().manual_seed(seed)
    f = torch.rand(n, model.config.dims, generator=g, dtype=torch.float64) * 2 - 1
    low, high = model.config.low, model.config.high
    snr = low + (high - low) * torch.rand(n, generator=g, dtype=torch.float64)
    return f, snr, torch.randn(n, model.config.dims, generator=g, dtype=torch.float64)


@pytest.mark.parametrize(
    ("shape", "options"),
    [((3,), {}), ((1, 8, 8), {"encoder_network": "unet", "encoder_width": 8}), ((3,), {"encoder": "scaled"})],
)
def test_the_slope_of_the_encoding(shape, options):
    """dx_t/dlambda = sigma^2 (x_t - y + dy/dlambda), by jvp and by central differences of the encoding itself.

    They are short, as the derivative of a maximum over pixels jumps and the embedding has 70 radians in a unit of lambda.
    """
    model = built(shape, **options)
    f, snr, _ = rows(model, 7)
    x, y, slope = model.encoding_with_slope(f, snr)
    sigma_2 = torch.sigmoid(-snr)[:, None]
    h = 1e-7
    numeric = (model.encoding(f, snr + h) - model.encoding(f, snr - h)) / (2 * h)
    torch.testing.assert_close(sigma_2 * (x - y + slope), numeric, rtol=1e-5, atol=2e-6)
    if options.get("encoder") != "scaled":
        assert float(slope.detach().abs().max()) > 1e-2


@pytest.mark.parametrize("head", ["v", "eps", "x", "flow"])
def test_three_forms_of_the_loss(head):
    """SNR |x_t + dx_t/dlambda - (1 + sigma^2) x^|^2, the v form and the code's, item by item; whatever the network predicts."""
    model = built(head=head)
    f, snr, eps = rows(model)
    x, y, slope = model.encoding_with_slope(f, snr)
    at = snr[:, None]
    alpha, sigma = alpha_sigma(at)
    z = alpha * x + sigma * eps
    v_hat = convert(model.predict(z, snr), z, at, source=head, to="v")
    v, x_hat = alpha * eps - sigma * x, alpha * z - sigma * v_hat
    direct = at.exp() * (x + sigma**2 * (x - y + slope) - (1 + sigma**2) * x_hat) ** 2
    short = alpha**2 * ((1 + sigma**2) * (v - v_hat) + sigma * (y - slope)) ** 2
    printed = alpha**2 * (v - v_hat + sigma * (x_hat - x + y - slope)) ** 2
    got = model.error(f, eps[None], snr[None])[0]
    for form in (direct, short, printed):
        torch.testing.assert_close(got, form.sum(1), rtol=1e-9, atol=1e-10)


def test_without_a_network_the_loss_is_a_weighted_one():
    """y = 0: (1 + sigma^2)^2 |eps - eps^|^2, of the noised alpha^2 f."""
    model = built(encoder="scaled")
    f, snr, eps = rows(model)
    alpha, sigma = alpha_sigma(snr[:, None])
    z = alpha**3 * f + sigma * eps
    wrong = eps - convert(model.predict(z, snr), z, snr[:, None], source="v", to="eps")
    torch.testing.assert_close(model.error(f, eps[None], snr[None])[0], (((1 + sigma**2) * wrong) ** 2).sum(1))
    fresh = built(random=False)  # y starts at 0
    x = X[:, :3]
    plan = Plan.stratified(16)
    told = [evaluate(m, x, plan, elbo).value for m in (fresh, built(random=False, encoder="scaled"))]
    torch.testing.assert_close(told[0], told[1])


class Shrunk(nn.Module):
    """x^ = x^_plain / (1 + sigma^2), as a network of head "x"."""

    def __init__(self, plain):
        super().__init__()
        self.plain = plain

    def forward(self, z, u):
        low, high = self.plain.config.low, self.plain.config.high
        snr = high - u * (high - low)
        return self.plain.denoise(z, snr, to="x") / (1 + torch.sigmoid(-snr))[:, None]


def test_an_identity_encoder_is_a_plain_diffusion():
    """Every term, and in the limit of many steps the bound of T steps too."""
    torch.manual_seed(3)
    config = DiffusionConfig((3,), levels=8, low=-5.0, high=9.0, width=16, blocks=1, head="v")
    plain = GaussianDiffusion(config).double().eval()
    with torch.no_grad():
        for p in plain.network.parameters():
            p.add_(0.2 * torch.randn_like(p))
    model = built(encoder="identity", head="x", network=Shrunk(plain))
    draws = Plan.iid(4).draws(torch.arange(6), dtype=torch.float64)
    f = plain.encode(X)
    with torch.no_grad():
        torch.testing.assert_close(model.diffusion(f, draws), plain.diffusion(f, draws))
        torch.testing.assert_close(model.prior(f), plain.prior(f))
        torch.testing.assert_close(model.reconstruction(X, f, draws), plain.reconstruction(X, f, draws))
        z, snr = torch.randn(9, 3, dtype=torch.float64), torch.linspace(-5, 9, 9, dtype=torch.float64)
        for to in ("x", "eps", "score"):
            torch.testing.assert_close(model.denoise(z, snr, to=to), plain.denoise(z, snr, to=to))


class OneEncoder(nn.Module):
    def forward(self, x, u):
        return 0.7 * x + 0.1 * (13.3 - 18.3 * u)[:, None]


class OneDenoiser(nn.Module):
    def forward(self, z, u):
        return 0.3 * z + 0.1 * torch.sin(13.3 - 18.3 * u)[:, None]


def one(depth=None):
    config = DiffEncConfig((1,), low=-5.0, high=13.3, depth=depth)
    return DiffEnc(config, OneDenoiser(), OneEncoder()).double().eval()


@pytest.mark.parametrize(("depth", "loss"), [(10, 18.1001), (100, 7.0467), (1000, 6.5050), (None, 6.448399)])
def test_many_steps_become_continuous_time(depth, loss):
    """The spec's scalar case, by quadrature of the model's own terms: x = 0.6, y = tanh(0.7 x + 0.1 lambda)."""
    nodes, weight = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(40))
    times = depth or 2000
    lead = ((torch.arange(times, dtype=torch.float64) + 0.5) / times).repeat_interleave(40)[:, None]
    eps = nodes.repeat(times)[:, None]
    share = (weight / weight.sum()).repeat(times) / times
    with torch.no_grad():
        each = one(depth).diffusion(torch.full((1, 1), 0.6, dtype=torch.float64), Given(lead, eps))
    assert float(share @ each[:, 0]) == pytest.approx(loss, abs=6e-5 if depth else 2e-6)


@pytest.mark.parametrize("head", ["v", "eps"])
def test_the_mean_of_a_step_is_that_of_bayes_and_of_the_sampler(head):
    """|mu_Q - mu_P|^2 / sigma_Q^2: mu_Q by conditioning the joint Gaussian of (z_s, z_t), mu_P by the ancestral sampler's step."""
    model = built(head=head)
    f, now, eps = rows(model, 50)
    then = now + torch.rand(50, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    x_t, x_s = model.encoding(f, now), model.encoding(f, then)
    (a_t, s_t), (a_s, s_s) = (alpha_sigma(snr[:, None]) for snr in (now, then))
    z = a_t * x_t + s_t * eps
    covariance = a_t / a_s * s_s**2  # of z_s and z_t = (a_t / a_s) z_s + a_t (x_t - x_s) + noise
    mu_q = a_s * x_s + covariance / s_t**2 * (z - a_t * x_t)
    q_2 = s_s**2 - covariance**2 / s_t**2
    mu_p = torch.cat(
        [
            _ddim(z[i : i + 1], *(model.denoise(z[i : i + 1], now[i : i + 1], to, then[i : i + 1]) for to in ("x", "eps")), now[i],
                  then[i], 1.0, None)
            for i in range(50)
        ]
    )  # fmt: skip
    printed = (
        a_s / a_t * (now - then).exp()[:, None] * z
        + a_s * (1 - (now - then).exp()[:, None]) * (x := convert(model.predict(z, now), z, now[:, None], source=head, to="x"))
        + a_s * (then - now)[:, None] * s_t**2 * x
    )  # fmt: skip
    torch.testing.assert_close(mu_p, printed, rtol=1e-10, atol=1e-11)
    exact = ((mu_q - mu_p) ** 2 / q_2).sum(1)
    torch.testing.assert_close(model.mismatch(f, eps[None], now[None], then[None])[0], exact, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("options", [{"variance": "ratio", "ratio": 0.9}, {"variance": "optimal"}, {}])
@pytest.mark.parametrize("kind", [DiffEnc, GaussianDiffusion])
def test_variances_of_the_steps(kind, options):
    """T KL(q(z_s | z_t, x) to p(z_s | z_t)) by torch.distributions, from the means' distance and both variances."""
    if kind is DiffEnc:
        model = built(depth=5, **options)
    else:
        model = GaussianDiffusion(
            DiffusionConfig((3,), levels=8, low=-5.0, high=9.0, width=16, blocks=1, depth=5, **options)
        )
        model = model.double().eval()
    if options.get("variance") == "optimal":
        model.spread.copy_(torch.tensor([0.1, 0.2, 0.5, 1.0, 3.0]))
    f = rows(model, 5)[0]
    draws = Plan.stratified(5).draws(torch.arange(5), dtype=torch.float64)
    eps = draws.normal("eps", 3)
    i = (draws.lead() * 5).floor() + 1
    now, then = model.schedule.log_snr(i / 5), model.schedule.log_snr((i - 1) / 5)
    with torch.no_grad():
        distance = (model.mismatch(f, eps, now, then) / 3).sqrt()  # a number of deviations in each dimension
        ratio = {
            "ratio": torch.full_like(i, 0.9),
            "optimal": 1 / (1 + torch.tensor([0.1, 0.2, 0.5, 1.0, 3.0])[i.long() - 1]),
        }
        scale = ratio.get(options.get("variance"), torch.ones_like(i)).rsqrt()
        q = torch.distributions.Normal(distance, torch.ones_like(distance))
        exact = 3 * torch.distributions.kl_divergence(q, torch.distributions.Normal(torch.zeros_like(distance), scale))
        torch.testing.assert_close(model.diffusion(f, draws) / 5, exact, rtol=1e-6, atol=1e-7)


def test_a_ratio_other_than_one_costs_more_with_every_step():
    """D T/2 (w - 1 - log w) grows linearly, so that continuous time admits w = 1 only; the sampler's noise is wider by it."""
    f = rows(built(), 4)[0]
    extra = []
    for depth in (8, 16, 32):
        draws = Plan.stratified(32).draws(torch.arange(4), dtype=torch.float64)
        with torch.no_grad():
            wide = built(depth=depth, variance="ratio", ratio=0.9)
            extra.append(wide.diffusion(f, draws) - 0.9 * built(depth=depth).diffusion(f, draws))
    for depth, each in zip((8, 16, 32), extra, strict=True):
        torch.testing.assert_close(
            each, torch.full_like(each, 1.5 * depth * (0.9 - 1 - math.log(0.9))), rtol=1e-9, atol=1e-9
        )
    model, same = built(depth=1, variance="ratio", ratio=0.25), built(depth=1)
    draws = Plan.iid(1).draws(torch.arange(3), dtype=torch.float64)
    a, b = (sample(m, draws, steps=1, decode=False) for m in (model, same))
    alpha, sigma = alpha_sigma(torch.tensor(9.0, dtype=torch.float64))
    q = sigma * math.sqrt(-math.expm1(-14.0))
    torch.testing.assert_close(a - b, q / alpha * draws.normal("step/0", 3))  # twice the deviation, once more
    with pytest.raises(UserError, match="variances of its own for its 1 steps, and 5 were asked"):
        sample(model, draws, steps=5)


def test_training_measures_the_best_variances():
    """1 + E|mu_Q - mu_P|^2 / (D sigma_Q^2) for each step: with it the bound is no looser than with the posterior's."""
    model = built(depth=4, variance="optimal").train()
    plan = Plan.stratified(64, replicates=4)
    f = model.encode(X)
    with torch.no_grad():
        for seed in range(40):
            model.diffusion(f, plan.draws(torch.arange(6), seed=seed, dtype=torch.float64))
        draws = plan.draws(torch.arange(6), seed=99, dtype=torch.float64)
        i = (draws.lead() * 4).floor() + 1
        now, then = model.schedule.log_snr(i / 4), model.schedule.log_snr((i - 1) / 4)
        each = model.mismatch(f, draws.normal("eps", 3), now, then) / 3
        exact = torch.stack([each[i == step].mean() for step in range(1, 5)])
        error = torch.stack([each[i == step].std() / (i == step).sum().sqrt() for step in range(1, 5)])
        assert bool(((model.spread - exact).abs() < 5 * error).all())
        model.eval()
        best, plain = (float(m.diffusion(f, draws).mean()) for m in (model, built(depth=4)))
        assert best < plain
        told = built().in_steps(4, variance="optimal")
        told.measure_variances(X, draws)
        torch.testing.assert_close(told.spread, exact.to(told.spread))


class Best(nn.Module):
    """x^ = E[x_t + dx_t/dlambda | z_t] / (1 + sigma^2) for enumerable data: the best denoiser of an encoder."""

    def __init__(self, model):
        super().__init__()
        object.__setattr__(self, "model", model)

    def forward(self, z, u):
        model = self.model
        snr = model.config.high - u * (model.config.high - model.config.low)
        f = ((2 * torch.arange(8, dtype=torch.float64) + 1) / 8 - 1)[:, None]
        moments = []
        for value in f:
            x, y, slope = model.encoding_with_slope(value.expand(len(snr), -1), snr)
            moments.append((x, x + torch.sigmoid(-snr)[:, None] * (x - y + slope)))
        x, goal = (torch.stack(part, -1)[:, 0] for part in zip(*moments, strict=True))
        alpha, sigma = alpha_sigma(snr[:, None])
        share = (P.log() - 0.5 * ((z - alpha * x) / sigma) ** 2).softmax(-1)
        return ((share * goal).sum(-1) / (1 + torch.sigmoid(-snr)))[:, None]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_encoder_undercuts_the_entropy(seed):
    """Enumerable data, random encoders, the best denoiser of each, quadrature of the very terms: H < -ELBO < H + 0.05."""
    torch.manual_seed(seed)
    config = DiffEncConfig((1,), levels=8, low=-8.0, high=12.0, encoder_width=8, head="x")
    model = DiffEnc(config, nn.Identity()).double().eval()
    with torch.no_grad():
        for p in model.encoder.parameters():
            p.add_(0.05 * torch.randn_like(p))
    model.network = Best(model)
    assert ENTROPY < sum(quadrature(model, times=400, nodes=60).values()) < ENTROPY + 0.05


@pytest.mark.parametrize("variance", ["posterior", "optimal"])
def test_samples_and_bound_are_of_one_model(variance):
    """p(x) of eight steps by propagating the printed means and variances over a grid: the bound lies above its cross-entropy, and
    20,000 samples have its distribution (|z| < 5 at nine points).
    """
    torch.manual_seed(0)
    config = DiffEncConfig(
        (1,), levels=8, low=-3.0, high=6.0, depth=8, variance=variance, width=32, blocks=1, encoder_width=16
    )
    model = DiffEnc(config).double()
    x = torch.multinomial(P, 4000, replacement=True, generator=torch.Generator().manual_seed(1)).double()[:, None]
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(200):
        some = x[torch.randint(0, 4000, (128,), generator=torch.Generator().manual_seed(step))]
        draws = Plan(lead="stratified", spread=128).draws(torch.arange(128), seed=step, dtype=torch.float64)
        optimizer.zero_grad()
        (-elbo(path_terms(model, some, draws)).value.mean()).backward()
        optimizer.step()
    model.eval().requires_grad_(False)
    grid = torch.linspace(-6, 6, 3001, dtype=torch.float64)
    width = float(grid[1] - grid[0])
    mass = torch.exp(-0.5 * grid**2) / math.sqrt(2 * math.pi) * width
    for i in range(8, 0, -1):
        now, then = (model.schedule.log_snr(torch.tensor(k / 8, dtype=torch.float64)) for k in (i, i - 1))
        (a_t, s_t), (a_s, s_s) = alpha_sigma(now), alpha_sigma(then)
        r, snr = (now - then).exp(), now.expand(3001)
        x_hat = convert(model.predict(grid[:, None], snr), grid[:, None], snr[:, None], source="v", to="x")[:, 0]
        mean = a_s / a_t * r * grid + a_s * (1 - r) * x_hat + a_s * (then - now) * s_t**2 * x_hat
        spread = s_s**2 * (1 - r)
        if variance == "optimal":
            spread = spread * (1 + model.spread[i - 1].double())
        kernel = torch.exp(-0.5 * (grid[None] - mean[:, None]) ** 2 / spread) / torch.sqrt(2 * math.pi * spread) * width
        mass = mass @ kernel
    assert float(mass.sum()) == pytest.approx(1.0, abs=1e-4)
    a_0 = float(alpha_sigma(torch.tensor(6.0, dtype=torch.float64))[0])
    log_p = torch.stack(
        [model.decoder.log_prob(torch.full((3001, 1), float(k), dtype=torch.float64), grid[None, :, None] / a_0,
                                torch.tensor(6.0, dtype=torch.float64))[0] for k in range(8)]
    )  # fmt: skip
    cross = -float((P * (log_p.exp() @ mass).log()).sum())
    bound = sum(quadrature(model, nodes=60).values())
    assert ENTROPY < cross < bound < ENTROPY + 2.0
    drawn = (
        sample(model, Plan.iid(1).draws(torch.arange(20_000), dtype=torch.float64), steps=8, decode=False).flatten()
        * a_0
    )
    below = mass.cumsum(0)
    for at in range(700, 2400, 200):
        share, p = float((drawn <= grid[at] + width / 2).double().mean()), float(below[at])
        assert abs(share - p) < 5 * math.sqrt(max(p * (1 - p), 1e-5) / 20_000) + 1e-3


def test_the_encoder_is_no_part_of_the_generative_model():
    """Without it: the same samples by every sampler, the same flow, the plain bound of the effective denoiser."""
    model = built(low=-6.0)
    bare = model.without_encoder()
    assert bare.encoder is None and sum(p.numel() for p in bare.parameters()) < sum(
        p.numel() for p in model.parameters()
    )
    draws = Plan.iid(2).draws(torch.arange(3), dtype=torch.float64)
    for sampler in ("ancestral", "ddim", "dpmpp-2m", "heun", "ode"):
        pair = [sample(m, draws, sampler=sampler, steps=6, decode=False) for m in (model, bare)]
        torch.testing.assert_close(*pair, rtol=0, atol=0)
    with torch.no_grad():
        pair = [evaluate(FlowEvidence(m, steps=100).eval(), X, Plan.iid(2), elbo).value for m in (model, bare)]
    torch.testing.assert_close(*pair, rtol=0, atol=0)

    class Effective(nn.Module):
        def forward(self, z, u):
            return model.denoise(z, 9.0 - u * 15.0, to="x")

    config = DiffusionConfig((3,), levels=8, low=-6.0, high=9.0, head="x")
    plain = GaussianDiffusion(config, Effective()).double().eval()
    plan = Plan.stratified(32)
    torch.testing.assert_close(evaluate(bare, X, plan, elbo).value, evaluate(plain, X, plan, elbo).value)


def test_its_own_steps_become_those_of_plain_diffusion():
    """The ancestral step of DiffEnc and of the effective denoiser differ by O(1 / T) in all."""
    model = built(low=-6.0)

    class Still(DiffEnc):
        def denoise(self, z, log_snr, to="x", then=None):
            return super().denoise(z, log_snr, to)

    still = Still(model.config).double().eval()
    still.load_state_dict(model.state_dict())
    draws = Plan.iid(1).draws(torch.arange(20), dtype=torch.float64)
    apart = [
        float((sample(model, draws, steps=t, decode=False) - sample(still, draws, steps=t, decode=False)).abs().mean())
        for t in (50, 100, 200)
    ]
    assert apart[0] > 1e-3
    for more, less in itertools.pairwise(apart):
        assert 1.6 < more / less < 2.5


def test_the_encoding_at_the_noisy_end_saves_the_prior():
    """y = 0, lambda_min = -5, f = 1: 1/2 (alpha^6 + sigma^2 - log sigma^2 - 1) / log 2 = 0.000016 bits for 0.004844."""
    ends = {"low": -5.0, "high": 13.3, "levels": None}
    f = torch.ones(1, 1, dtype=torch.float64)
    scaled, plain = (built((1,), encoder=e, **ends) for e in ("scaled", "identity"))
    alpha_2 = 1 / (1 + math.exp(5))
    exact = 0.5 * (alpha_2**3 - alpha_2 - math.log1p(-alpha_2)) / math.log(2)
    assert float(scaled.prior(f)) / math.log(2) == pytest.approx(exact, abs=1e-12) == pytest.approx(0.000016, abs=5e-7)
    assert float(plain.prior(f)) / math.log(2) == pytest.approx(0.004844, abs=5e-7)


def test_the_counter_term_is_measured():
    """y = 0: the counter-term knows the whole drift. Otherwise the squares by hand at one log-SNR."""
    x = X[:, :3]
    told = counterterm_report(built(encoder="scaled"), x, bins=4)
    assert told["log_snr"].tolist() == [-3.25, 0.25, 3.75, 7.25] and not bool(told["mismatch"].any())
    assert not bool(told["moved"].any())
    model = built()
    for refused, bins in ((model.without_encoder(), 4), (model, 0)):
        with pytest.raises(UserError, match="is measured where the encoding moves, in at least one bin"):
            counterterm_report(refused, x, bins=bins)
    told = counterterm_report(model, x, bins=4)
    model.requires_grad_(False)
    f, snr = model.encode(x), torch.full((6,), 0.25, dtype=torch.float64)
    y = (model.encoding(f, snr) - torch.sigmoid(snr)[:, None] * f) / torch.sigmoid(-snr)[:, None]
    h = 1e-5
    drift = (model.encoding(f, snr + h) - model.encoding(f, snr - h)) / (2 * h)
    known = torch.sigmoid(-snr)[:, None] * model.encoding(f, snr)
    assert float(told["mismatch"][1]) == pytest.approx(
        float((drift - known).square().sum() / drift.square().sum()), rel=1e-5
    )
    assert float(told["size"][1]) == pytest.approx(float(y.norm(dim=1).mean()) / 3**0.5)
    assert float(told["moved"][1]) > 0.01


@pytest.mark.parametrize(
    "options", [{"schedule": "learned"}, {"depth": 7, "schedule": "learned"}, {"depth": 7, "schedule": "monotone"}]
)
def test_a_step_has_the_gradient_of_the_bound(options):
    """Of the denoiser, the encoder (through its forward derivative) and the schedule."""
    model = built(**options).train()
    learner = DiffusionLearner(model, X, batch=6)
    learner.step(X, Fixed())
    got = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    draws = Plan(lead="stratified", spread=6).draws(torch.arange(6), dtype=torch.float64)
    (-elbo(path_terms(model, X, draws)).value.mean() / (3 * math.log(2))).backward()
    for name, p in model.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(got[name], p.grad, rtol=1e-8, atol=1e-11)
    assert bool(got["encoder.inputs.weight"].any()) and any(name.startswith("schedule") for name in got)


@pytest.mark.parametrize("name", ["encoder.inputs.weight", "schedule.b", "schedule.w"])
@pytest.mark.parametrize("depth", [None, 5])
def test_gradients_are_those_of_the_values(name, depth):
    """Of an encoder's weight, which moves x_t and dy/dlambda, and of learned ends, by central differences of the bound."""
    model = built(schedule="learned", depth=depth)
    draws = Plan.iid(3).draws(torch.arange(6), dtype=torch.float64)
    parameter = dict(model.named_parameters())[name]
    index = (0,) * parameter.ndim

    def bound():
        return elbo(path_terms(model, X, draws)).value.mean()

    gradient = float(torch.autograd.grad(bound(), parameter)[0][index])
    values = []
    for step in (1e-6, -1e-6):
        with torch.no_grad():
            parameter[index] += step
            values.append(float(bound().detach()))
            parameter[index] -= step
    assert gradient == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5) and abs(gradient) > 1e-4


def test_the_reconstruction_is_of_the_encoding():
    """At a low lambda_max, where x_0 is far from f: the decoder's own log-density around it."""
    model = built(high=2.0, low=-6.0)
    f, draws = model.encode(X), Plan.iid(4).draws(torch.arange(6), dtype=torch.float64)
    high = torch.tensor(2.0, dtype=torch.float64)
    with torch.no_grad():
        x_0 = model.encoding(f, high.expand(6))
        clean = x_0 + (-0.5 * high).exp() * draws.normal("z0", 3)
        torch.testing.assert_close(model.reconstruction(X, f, draws), -model.decoder.log_prob(X, clean, high))
    assert float((x_0 - f).abs().max()) > 0.05


def test_one_dropout_mask_for_all_that_an_encoder_says():
    """In train mode too: dx_t/dlambda is that of the values, and many steps cost what continuous time costs (|z| < 5)."""
    model = built(dropout=0.4, random=False)
    with torch.no_grad():
        for p in model.encoder.parameters():
            p.add_(0.2 * torch.randn_like(p))
    model.train()
    f, snr, _ = rows(model, 3)
    with torch.no_grad():
        torch.manual_seed(0)
        _, y, slope = model.encoding_with_slope(f, snr)
        torch.manual_seed(0)
        assert not torch.equal(y, model.encoding_with_slope(f, snr)[1]) or bool((y != 0).any())
        sides = []
        for step in (1e-6, -1e-6):
            torch.manual_seed(0)
            sides.append(model.encoding_with_slope(f, snr + step)[1])
        torch.testing.assert_close(slope, (sides[0] - sides[1]) / 2e-6, rtol=1e-4, atol=1e-5)
        draws = Plan.iid(3000).draws(torch.arange(3), dtype=torch.float64)
        f = model.encode(X[:3])
        many, limit = (model.in_steps(t).diffusion(f, draws).mean(1) for t in (20_000, None))
        gap = (many - limit).mean() / ((many.var() + limit.var()) / 3000).sqrt()
        assert abs(float(gap)) < 5


def test_steps_without_cancellation():
    """In single precision, of 10,000 steps: an error below a third of that of the printed form, where digits cancel."""
    exact = built((16,), high=13.3)
    single = DiffEnc(exact.config)
    single.load_state_dict(exact.state_dict())
    single.eval()
    f, now, eps = rows(exact, 400)
    then = now + 18.3 / 10_000
    with torch.no_grad():
        a = exact.mismatch(f, eps[None], now[None], then[None])
        b = single.mismatch(f.float(), eps.float()[None], now[None], then[None])
        x_t, x_s = single.encoding(f.float(), now.float()), single.encoding(f.float(), then.float())
        at, h = now.float()[:, None], (then - now).float()[:, None]
        alpha, sigma = alpha_sigma(at)
        z = alpha * x_t + sigma * eps.float()
        x = convert(single.predict(z, now), z, at, source="v", to="x")
        wrong = -torch.expm1(-h) * x_t + (x_s - x_t) - (-torch.expm1(-h) + h * sigma**2) * x
        printed = (then.exp() / -torch.expm1(now - then)) * wrong.square().sum(1)
    assert float((a - b).abs().max()) < float((a - printed).abs().max()) / 3


@pytest.mark.parametrize("encoder", ["mlp", "unet"])
def test_the_encoder_is_exact_under_autocast(encoder):
    """bf16 for the denoiser alone: y and its derivative are those of single precision."""
    shape, x = ((1, 4, 4), torch.randint(0, 8, (3, 1, 4, 4)).float())
    model = built(shape, encoder_network=encoder, encoder_width=8).float()
    f, snr = model.encode(x), torch.tensor([-2.0, 1.0, 4.0])
    exact = model.encoding_with_slope(f, snr)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for a, b in zip(exact, model.encoding_with_slope(f, snr), strict=True):
            assert b.dtype == torch.float32 and torch.equal(a, b)
        model.error(f, torch.randn(1, 3, 16), snr[None]).sum().backward()
    assert bool(next(model.encoder.parameters()).grad.isfinite().all())


def test_back_and_forth_between_steps(tmp_path):
    """Variances go with their steps; what is not measured is refused; the checkpoint of either comes back."""
    model = built().in_steps(6, variance="optimal")
    model.measure_variances(X, Plan.stratified(12).draws(torch.arange(6), dtype=torch.float64))
    again = model.in_steps(None)
    assert not any(name in again.state_dict() for name in ("spread", "seen"))
    for number, one in enumerate((model, again)):
        built_anew = DiffEnc(one.config)
        built_anew.load_state_dict(one.state_dict())  # single precision, as models are saved
        save_model(tmp_path / str(number), built_anew, "diffenc", {})
        back = load_model(tmp_path / str(number))[0]
        torch.testing.assert_close(back.state_dict(), built_anew.state_dict())
    for one in (again, built(depth=3)):
        with pytest.raises(UserError, match=r"are not measured: take in_steps\(T, variance='optimal'\)"):
            one.measure_variances(X, Plan.stratified(12).draws(torch.arange(6)))


@pytest.mark.parametrize("options", [{}, {"depth": 6, "variance": "optimal"}, {"levels": None}])
def test_it_keeps_the_rules_of_a_model(options):
    model = built(**options)
    x = X if model.config.levels else torch.randn(6, 3, dtype=torch.float64)
    check_model(model, x)


def test_a_checkpoint_comes_back_and_training_learns(tmp_path):
    x = torch.randint(0, 2, (64, 1, 4, 4), generator=torch.Generator().manual_seed(3)).repeat_interleave(2, 3).float()
    config = DiffEncConfig(
        (1, 4, 8),
        levels=2,
        high=7.0,
        width=32,
        blocks=1,
        network="unet",
        encoder_network="unet",
        encoder_width=8,
        dropout=0.1,
    )
    torch.manual_seed(0)
    learner = DiffusionLearner(DiffEnc(config), x, lr=3e-3, batch=32, clip=1.0)
    plan = Plan.stratified(8)
    before = evaluate(learner.model.eval(), x, plan, elbo).value.mean()
    train(learner, steps=60, run=Run(tmp_path / "run", quiet=True), every=60)
    model = load_model(tmp_path / "run" / "checkpoint")[0]
    assert type(model) is DiffEnc and model.config == config
    after = evaluate(model, x, plan, elbo).value
    torch.testing.assert_close(after, evaluate(learner.model.eval(), x, plan, elbo).value)
    assert float(after.mean()) > float(before) + 5
    report = counterterm_report(model, x)
    assert float(report["moved"].max()) > 0
    save_model(tmp_path / "bare", model.without_encoder(), "diffenc", {})
    bare = load_model(tmp_path / "bare")[0]
    draws = Plan.iid(1).draws(torch.arange(2))
    torch.testing.assert_close(sample(bare, draws, steps=5), sample(model, draws, steps=5))


class Started(nn.Module):
    """A network that starts at 0, as it should."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))


class Rounded(Started):
    def forward(self, x, u):
        return self.weight * x * (u * 50).round()[:, None] + 0.01 * u[:, None]


class Batched(Started):
    def forward(self, x, u):
        return self.weight * (x - x.mean(0)) * 10


class Attentive(nn.Module):
    """The fused attention of torch, which has no forward-mode derivative."""

    def forward(self, x, u):
        tokens = (x[:, None, :, None] * u[:, None, None, None]).expand(-1, 1, 3, 4)
        return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)[:, 0, :, 0]


class Normed(nn.Module):
    """A network with torch's layer norm before its last layer."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.norm, self.last = nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x, u):
        return self.last(self.norm(self.first(torch.cat((x, u[:, None]), 1)).sin()))


class Closed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u):
        return u * 1

    @staticmethod
    def backward(ctx, g):
        return g


class Backward(nn.Module):
    def forward(self, x, u):
        return x * Closed.apply(u)[:, None]


class Reshaped(nn.Module):
    def forward(self, x, u):
        return x[:, :2]


@pytest.mark.parametrize(
    ("encoder", "says"),
    [
        (Rounded(), "so embed that without rounding"),
        (Backward(), "has no forward-mode derivative"),
        (Normed(), "has a wrong gradient, as that of torch.nn.LayerNorm"),
        (Batched(), "use GroupNorm or infimum"),
        (nn.BatchNorm1d(3), "use GroupNorm or infimum"),
        (Reshaped(), "it must keep the shape"),
    ],
)
def test_encoders_that_cannot_be_trained_are_refused(encoder, says):
    model = built(module=encoder, random=False)
    with pytest.raises(UserError, match=says):
        DiffusionLearner(model, X)


def test_encoders_that_can_be_trained_are_not_refused():
    for module in (Attentive(), None):
        DiffusionLearner(built(module=module, random=False), X)
    for width in (8, 16):
        torch.manual_seed(width)
        config = DiffEncConfig((1, 8, 8), levels=8, encoder_network="unet", encoder_width=width)
        DiffEnc(config).check(torch.randint(0, 8, (4, 1, 8, 8)).float())


def test_an_encoding_that_is_not_the_data_at_the_clean_end_is_told():
    with pytest.warns(UserWarning, match="standard deviations of the noise away from the data, .* raise high"):
        DiffusionLearner(built(high=2.0, low=-6.0), X)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"encoder_network": "unet"}, "is for images"),
        ({"variance": "ratio", "ratio": 0.9}, "needs a depth"),
        ({"variance": "ratio", "ratio": 0.0, "depth": 3}, "ratio is 0.0"),
        ({"ratio": 0.9, "depth": 3}, "1 unless variance is 'ratio'"),
    ],
)
def test_refusals_of_configurations(options, says):
    with pytest.raises(UserError, match=says):
        DiffEncConfig((3,), levels=8, **options)
    config = dataclasses.replace(DiffEncConfig((3,)), encoder="scaled")
    with pytest.raises(UserError, match="has no network: leave it out"):
        DiffEnc(config, encoder=nn.Identity())


def test_a_model_of_steps_takes_no_weighting():
    from infimum.diffusion import ELBO

    plain = DiffusionConfig((3,), levels=8, low=-5.0, high=9.0, width=16, blocks=1, depth=5)
    with pytest.raises(UserError, match="is trained by its own bound"):
        DiffusionLearner(GaussianDiffusion(plain), X, weighting=ELBO)
    with pytest.raises(UserError, match="has an encoder that the bound as a whole trains"):
        DiffusionLearner(built(), X, weighting=ELBO)
