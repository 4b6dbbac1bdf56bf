"""Schedules, heads, weightings: densities against finite differences, closed forms of 2303.00848, and the monotone ones."""

import math

import pytest
import torch

from infimum.diffusion.dictionary import TRAININGS, training
from infimum.diffusion.heads import HEADS, check_head, convert, error_factor, target
from infimum.diffusion.schedules import LAWS, FixedSchedule, LearnedLinear, alpha_sigma, beta_linear, cosine
from infimum.diffusion.weightings import (
    EDM_PEAK,
    ELBO,
    edm_monotonic_weighting,
    edm_weighting,
    exponential,
    implied,
    min_snr,
    p2,
    shifted,
    sigmoid,
)
from infimum.errors import UserError

LOW, HIGH = -9.5, 9.0
T = torch.linspace(0, 1, 4001, dtype=torch.float64)
INSIDE = T[1:-1]


def schedules():
    return {name: FixedSchedule(name, LOW, HIGH) for name in LAWS} | {"learned": LearnedLinear(LOW, HIGH)}


@pytest.mark.parametrize("name", [*LAWS, "learned"])
def test_a_schedule_agrees_with_itself(name):
    """Ends, inverse, slope by central differences, and a density that integrates to one (Simpson)."""
    s = schedules()[name]
    with torch.no_grad():
        assert float(s.log_snr(torch.zeros(1).double())) == pytest.approx(HIGH, abs=1e-9)
        assert float(s.log_snr(torch.ones(1).double())) == pytest.approx(LOW, abs=1e-9)
        snr = s.log_snr(INSIDE)
        assert bool((snr.diff() < 0).all())
        torch.testing.assert_close(s.time(snr), INSIDE, rtol=0, atol=1e-10)
        h = 1e-6
        numeric = (s.log_snr(INSIDE + h) - s.log_snr(INSIDE - h)) / (2 * h)
        inner = slice(20, -20)
        torch.testing.assert_close(s.slope(INSIDE)[inner], numeric[inner], rtol=1e-5, atol=0)
        torch.testing.assert_close(s.density(snr), -1 / s.slope(INSIDE), rtol=1e-9, atol=0)
        grid = torch.linspace(LOW, HIGH, 20001, dtype=torch.float64)
        p, step = s.density(grid), (HIGH - LOW) / 20000
        mass = step / 3 * (p[0] + p[-1] + 4 * p[1:-1:2].sum() + 2 * p[2:-2:2].sum())
        assert float(mass) == pytest.approx(1, abs=1e-9)


def test_the_formulas_of_the_laws():
    """lambda(t) as published: with wide ends the cut-off is no more."""
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    published = {
        "cosine": -2 * torch.log(torch.tan(math.pi / 2 * t)),
        "flow": 2 * torch.log((1 - t) / t),
    }
    for name, expected in published.items():
        s = FixedSchedule(name, -60, 60)
        torch.testing.assert_close(s.log_snr(t), expected, rtol=0, atol=1e-9)
    s = FixedSchedule("beta-linear", *beta_linear().support)
    torch.testing.assert_close(s.log_snr(t), -torch.log(torch.expm1(1e-4 + 10 * t**2)), rtol=0, atol=1e-9)
    s = FixedSchedule("edm", -60, 60)
    normal = torch.distributions.Normal(*torch.tensor([2.4, 2.4], dtype=torch.float64))
    torch.testing.assert_close(
        s.density(torch.linspace(-5, 9, 9).double()), normal.log_prob(torch.linspace(-5, 9, 9).double()).exp()
    )
    b, a = math.atan(math.exp(-HIGH / 2)), math.atan(math.exp(-LOW / 2)) - math.atan(math.exp(-HIGH / 2))
    torch.testing.assert_close(
        FixedSchedule("cosine", LOW, HIGH).log_snr(t), -2 * torch.log(torch.tan(a * t + b)), rtol=0, atol=1e-9
    )
    # alpha^2 density: gamma(t) = -log(e^(-Z t) (1 + e^-g0) - 1), Z = log((1 + e^-g0) / (1 + e^-g1)), g = -lambda (2305.03935)
    g0, g1 = -HIGH, -LOW
    z = math.log((1 + math.exp(-g0)) / (1 + math.exp(-g1)))
    torch.testing.assert_close(
        FixedSchedule("velocity", LOW, HIGH).log_snr(t),
        torch.log(torch.exp(-z * t) * (1 + math.exp(-g0)) - 1),
        rtol=0,
        atol=1e-8,
    )


def test_all_heads_tell_the_same():
    """Converted outputs have the squared errors that the factors say; a perfect output converts to a perfect one (1e-10)."""
    g = torch.Generator().manual_seed(0)
    f, eps, noise = torch.randn(3, 7, 5, generator=g, dtype=torch.float64)
    snr = torch.linspace(-6, 9, 7, dtype=torch.float64)[:, None]
    alpha, sigma = alpha_sigma(snr)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(snr))
    torch.testing.assert_close(alpha**2 / sigma**2, snr.exp())
    z = alpha * f + sigma * eps
    for head in HEADS:
        exact = target(head, f, eps, snr)
        guess = exact + noise
        for other in HEADS:
            torch.testing.assert_close(
                convert(exact, z, snr, source=head, to=other), target(other, f, eps, snr), rtol=1e-10, atol=1e-10
            )
            got = (convert(guess, z, snr, source=head, to=other) - target(other, f, eps, snr)).square()
            want = noise.square() * error_factor(head, snr) / error_factor(other, snr)
            torch.testing.assert_close(got, want, rtol=1e-8, atol=0)


def test_preconditioning_of_edm():
    """D = c_skip x + c_out F at the noise level s of x = z / alpha (2206.00364, table 1)."""
    g = torch.Generator().manual_seed(1)
    z, out = torch.randn(2, 6, 4, generator=g, dtype=torch.float64)
    snr = torch.linspace(-5, 8, 6, dtype=torch.float64)[:, None]
    s, sd = (-snr / 2).exp(), 0.5
    x = z / alpha_sigma(snr)[0]
    d = sd**2 / (s**2 + sd**2) * x + s * sd / (s**2 + sd**2).sqrt() * out
    torch.testing.assert_close(convert(out, z, snr, source="edm", to="x"), d, rtol=1e-11, atol=1e-12)


def test_implied_weightings_are_those_of_the_table():
    snr = torch.linspace(LOW, HIGH, 101, dtype=torch.float64)
    wide = {name: FixedSchedule(name, -40, 40) for name in ("cosine", "flow")}
    close = torch.testing.assert_close
    close(implied("v", wide["cosine"])(snr), (-snr / 2).exp() / math.pi, rtol=1e-8, atol=0)
    close(implied("flow", wide["flow"])(snr), (-snr / 2).exp() / 2, rtol=1e-8, atol=0)
    close(implied("eps", wide["cosine"])(snr), 1 / torch.cosh(snr / 2) / (2 * math.pi), rtol=1e-8, atol=0)
    close(implied("x", wide["flow"])(snr), (-snr).exp() / torch.cosh(snr / 4) ** 2 / 8, rtol=1e-8, atol=0)
    # the shifted cosine changes v regression by more than a constant: exp(-lambda / 2) is not kept (the paper's appendix errs)
    moved = implied("v", FixedSchedule(cosine(2 * math.log(64 / 256)), -40, 40))(snr)
    close(moved * (2 * math.pi), (1 + (-snr).exp()) / torch.cosh((snr - 2 * math.log(0.25)) / 2), rtol=1e-8, atol=0)
    ratio = moved / (-snr / 2).exp()
    assert float(ratio[0] / ratio[-1]) > 10
    assert pytest.approx(-3.3078, abs=5e-5) == EDM_PEAK
    assert float(edm_weighting()(torch.tensor(EDM_PEAK).double())) == pytest.approx(0.27103, abs=5e-6)
    close(shifted(sigmoid(2.0), 128)(snr), torch.sigmoid(2 - (snr + 2 * math.log(2))), rtol=1e-12, atol=0)
    close(p2(1.0)(snr), 1 / torch.cosh(snr / 2) / (1 + snr.exp()), rtol=1e-12, atol=0)
    close(min_snr(5.0)(snr), torch.minimum(torch.ones(()), 5 * (-snr).exp()) / torch.cosh(snr / 2), rtol=1e-12, atol=0)
    close(
        edm_monotonic_weighting()(snr).max(), edm_weighting()(torch.tensor([EDM_PEAK]).double())[0], rtol=1e-12, atol=0
    )


@pytest.mark.parametrize(
    ("name", "monotone"),
    [("elbo", True), ("ddpm", False), ("iddpm", False), ("v-cosine", True), ("flow-matching", True), ("indi", True),
     ("edm", False), ("edm-monotonic", True), ("sigmoid", True), ("p2", False), ("min-snr", False)],
)  # fmt: skip
def test_the_monotone_ones(name, monotone):
    assert training(name, LOW, HIGH).is_monotonic == monotone
    assert set(TRAININGS) >= {name}


@pytest.mark.parametrize("name", sorted(TRAININGS))
@pytest.mark.parametrize("law", ["linear", "flow"])
def test_the_weighted_loss_is_its_mixture_of_elbos(name, law):
    """2303.00848, section 3.5 by Simpson's rule, for a denoiser that is wrong: integration by parts, and a total mass of one."""
    one = training(name, LOW, HIGH).to(schedule=FixedSchedule(law, LOW, HIGH))
    if name in ("ddpm", "iddpm", "v-cosine", "x-cosine", "flow-matching", "indi"):
        one = one.to(weighting=training(name, LOW, HIGH).weighting)
    # min-SNR has a corner, hence a jump in the density of t
    t = torch.linspace(0, 1, 4_000_001 if name == "min-snr" else 40_001, dtype=torch.float64)
    snr, slope = one.schedule.log_snr(t), one.schedule.slope(t)

    def error(lam):  # E|eps - eps^|^2 of some denoiser
        return 0.3 + torch.sigmoid(lam / 3) + 0.1 * torch.sin(lam)

    def simpson(y):
        return (y[0] + y[-1] + 4 * y[1:-1:2].sum() + 2 * y[2:-2:2].sum()) / (3 * (len(y) - 1))

    def tail(lam):  # 1/2 int_low^lam error, exact: L(t; x) - L(1; x) of the path from t to 1
        def primitive(u):
            return 0.3 * u + 3 * torch.nn.functional.softplus(u / 3) - 0.1 * torch.cos(u)

        return 0.5 * (primitive(lam) - primitive(torch.tensor(LOW).double()))

    w0 = one.weighting(torch.tensor(LOW).double())
    left = simpson(one.weighting(snr) / w0 * -slope * error(snr) / 2)
    with pytest.warns(UserWarning, match="signed mixture") if not one.is_monotonic else _nothing():
        augmentation = one.weighting.augmentation(one.schedule)
    density = augmentation.density(t)
    right = simpson(density * tail(snr)) + augmentation.atom * tail(snr[0])
    size = float(simpson(density.abs())) + augmentation.atom  # 1 where the weighting is monotone
    assert float(left) == pytest.approx(float(right), rel=2e-5)
    assert float(simpson(density)) + augmentation.atom == pytest.approx(1, abs=2e-5 * size)
    assert augmentation.signed == bool((density < -1e-9).any())


def _nothing():
    import contextlib

    return contextlib.nullcontext()


def test_the_loss_depends_on_the_weighting_alone():
    """Mean of factor x head error over the draws of six schedules, or with six heads: 1/2 int w E|eps - eps^|^2 dlambda."""
    t = (torch.arange(1_000_000, dtype=torch.float64) + 0.5) / 1_000_000
    between = LOW + (HIGH - LOW) * t
    loss = float((torch.sigmoid(2 - between) * torch.sigmoid(between + 1)).mean()) * (HIGH - LOW) / 2
    for law in LAWS:
        for head in HEADS if law == "cosine" else HEADS[:1]:
            one = training("sigmoid", LOW, HIGH).to(head=head, schedule=FixedSchedule(law, LOW, HIGH))
            snr = one.schedule.log_snr(t)
            noise_error = torch.sigmoid(snr + 1)  # E|eps - eps^|^2
            value = float((one.factor(snr) * noise_error / error_factor(head, snr)).mean())
            assert value == pytest.approx(loss, rel=1e-5)


def test_refusals():
    with pytest.raises(UserError, match="no schedule 'sine'"):
        FixedSchedule("sine")
    with pytest.raises(UserError, match="the first above the second"):
        FixedSchedule("linear", 3, -3)
    with pytest.raises(UserError, match=r"beta-linear has log-SNRs from -10\.000 to 9\.210"):
        training("ddpm")
    with pytest.raises(UserError, match="no recipe 'sgm'"):
        training("sgm")
    with pytest.raises(UserError, match="no head 'mu'"):
        check_head("mu")
    with pytest.raises(UserError, match="positive signal-to-noise"):
        min_snr(0.0)
    with pytest.raises(UserError, match="at least 1 pixel"):
        shifted(ELBO, 0)
    with pytest.raises(UserError, match="not a positive finite number at log-SNR"):
        type(ELBO)("bad", lambda snr: torch.log(snr)).is_monotonic(FixedSchedule())
    assert exponential().is_monotonic(FixedSchedule())
