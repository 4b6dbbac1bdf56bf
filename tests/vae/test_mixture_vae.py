"""The mixture objective of 2309.13160: moments, floor, penalty, two optimizers from one forward pass, Laplace pixels."""

import math
from pathlib import Path

import pytest
import torch
import torch.distributions as td
from torch import nn

from evidence.support import unchecked, z_score  # noqa: F401
from infimum.data import load
from infimum.errors import UserError
from infimum.evidence import Plan
from infimum.nets import PatchDiscriminator
from infimum.testing import check_model
from infimum.training import Fit, Run, train
from infimum.vae import VAE, VAEConfig
from infimum.vae.adversarial import (
    Adversary,
    MixtureObjective,
    MixtureVAELearner,
    discriminator_loss,
    generator_loss,
)
from infimum.vae.convolutional import ConvolutionalVAE, ConvolutionalVAEConfig
from infimum.vae.likelihoods import likelihood_of
from infimum.vae.regularisers.aggregate import aggregate_divergence
from infimum.vae.regularisers.mixture_moment import (
    mixture_moments,
    moment_divergence,
    moment_floor,
    variance_penalty,
)

close = torch.testing.assert_close


def batch(b: int = 10, d: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    mean = 0.3 + 1.4 * torch.randn(b, d, generator=g, dtype=torch.float64)
    return mean, 0.5 * torch.randn(b, d, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("moment", ["means", "total"])
def test_the_divergence_is_that_of_the_normal_with_these_moments(moment):
    """Against torch.distributions to 1e-12; "total" has the variance of the mixture, against 2e5 draws of it (|z| < 5)."""
    mean, log_scale = batch()
    m, v = mixture_moments(mean, log_scale, moment)
    normal, prior = td.Normal(m, v.sqrt()), td.Normal(torch.zeros_like(m), torch.ones_like(m))
    close(moment_divergence(mean, log_scale, moment), td.kl_divergence(normal, prior).sum(), rtol=0, atol=1e-12)
    if moment == "total":
        g = torch.Generator().manual_seed(1)
        item = torch.randint(10, (200_000,), generator=g)
        z = mean[item] + log_scale.exp()[item] * torch.randn(200_000, 4, generator=g, dtype=torch.float64)
        assert z_score(z, m) < 5
        assert z_score((z - m).square(), v) < 5


def test_the_order_of_items_does_not_matter_and_the_gradient_is_right():
    mean, log_scale = batch()
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    for moment in ("means", "total"):
        close(moment_divergence(mean[order], log_scale[order], moment), moment_divergence(mean, log_scale, moment))
        leaf = (mean.clone().requires_grad_(), log_scale.clone().requires_grad_())
        assert torch.autograd.gradcheck(lambda a, b, moment=moment: moment_divergence(a, b, moment), leaf)


def test_it_is_zero_only_at_the_prior():
    mean, log_scale = batch()
    right = (mean - mean.mean(0)) / mean.std(0, correction=0)
    close(moment_divergence(right, log_scale), torch.tensor(0.0, dtype=torch.float64), rtol=0, atol=1e-12)
    assert float(moment_divergence(right * 1.1, log_scale)) > 0 and float(moment_divergence(right + 0.1, log_scale)) > 0
    ones = torch.zeros(6, 3, dtype=torch.float64)
    assert float(moment_divergence(ones, ones, "total")) == 0  # all posteriors N(0, I)
    with pytest.raises(UserError, match="dimension 0 has the same mean for all 6 items"):
        moment_divergence(ones, ones, "means")


def test_free_means_reach_the_moments():
    """Gradient descent on the divergence alone, 10 items in 4 dimensions: m = 0 and v = 1 to 1e-4."""
    mean = batch()[0].requires_grad_()
    optimizer = torch.optim.LBFGS([mean], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = moment_divergence(mean, torch.zeros_like(mean))
        loss.backward()
        return loss

    optimizer.step(closure)
    m, v = mixture_moments(mean.detach(), torch.zeros(10, 4, dtype=torch.float64), "means")
    close(m, torch.zeros_like(m), rtol=0, atol=1e-4)
    close(v, torch.ones_like(v), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("b", "quoted"), [(10, 0.1103), (20, 0.0524), (64, 0.0159), (32, 0.0322)])
def test_the_floor(b, quoted):
    """Mean over 2e5 batches of N(0, 1) means against the psi formula (|z| < 5), which gives the quoted figures."""
    assert abs(moment_floor(b) - quoted) < 5e-5
    g = torch.Generator().manual_seed(b)
    means = torch.randn(b, 200_000, generator=g)
    m, v = mixture_moments(means, torch.zeros_like(means), "means")
    assert z_score(-0.5 * (1 + v.double().log() - m.double().square() - v.double()), moment_floor(b)) < 5
    assert round(moment_floor(10, 512), 1) == 56.5


def test_the_penalty():
    """0 at unit variance; gradient in l of w (e^l - 1) a dimension and item, over the batch."""
    l = torch.linspace(-2, 2, 7, dtype=torch.float64)[:, None].requires_grad_()  # noqa: E741
    value = variance_penalty(l / 2)
    close(value, (l.exp() - 1 - l).mean())
    (gradient,) = torch.autograd.grad(value, l)
    close(gradient, (l.exp() - 1).detach() / 7)
    assert float(variance_penalty(torch.zeros(5, 3))) == 0


def test_adversarial_losses_at_equal_odds():
    """Logits 0: the discriminator's loss with the paper's weight is 200 log 2 = 138.63."""
    logits = torch.zeros(3, 1, 4, 4)
    assert 100 * float(discriminator_loss(logits, logits)) == pytest.approx(200 * math.log(2), rel=1e-6)
    assert float(generator_loss(logits)) == pytest.approx(math.log(2), rel=1e-6)
    one = torch.tensor([[[[2.0]]]])
    assert float(discriminator_loss(one, -one)) == pytest.approx(2 * math.log1p(math.exp(-2)), rel=1e-6)


def small(**changes) -> VAE:
    torch.manual_seed(0)
    config = {
        "shape": (1, 8, 8),
        "likelihood": "laplace",
        "levels": 17,
        "scale": 1.0,
        "latent": 3,
        "width": 4,
        "stages": 2,
    }
    return ConvolutionalVAE(ConvolutionalVAEConfig(**(config | changes)))


def pixels(n: int = 24) -> torch.Tensor:
    return torch.randint(0, 17, (n, 1, 8, 8), generator=torch.Generator().manual_seed(0)).float()


class Recorder(Fit):
    """A step whose gradients are kept, and no parameter changed."""

    def __init__(self, learner: MixtureVAELearner, path: Path):
        super().__init__(learner, Run(path, quiet=True, resume=True), accumulate=1, schedules={}, averages={})
        self.learner, self.gradients = learner, {}

    def draws(self, plan, n):
        return plan.draws(torch.arange(n), seed=1)

    def update(self, name="main", *, clip=None):
        parameters = self.learner.optimizers[name].param_groups[0]["params"]
        self.gradients[name] = [None if p.grad is None else p.grad.clone() for p in parameters]
        return torch.zeros(())


def test_each_optimizer_gets_the_gradient_of_its_own_loss(tmp_path):
    """By hand: the generator's loss has no discriminator gradient, the discriminator's ends at the reconstruction."""
    model, critic = small(), PatchDiscriminator(1, filters=(4, 1), strides=(2, 1), dropout=0.0)
    objective, x = MixtureObjective("means"), pixels()
    learner = MixtureVAELearner(model, x, objective, discriminator=critic, adversary=Adversary(weight=3.0))
    recorder = Recorder(learner, tmp_path)
    report = learner.step(x, recorder)
    model.zero_grad(), critic.zero_grad()
    s = model.encode(x)
    made = model.decode(model.sample(s, recorder.draws(Plan.iid(1), 24)))[0]
    images, logits = made.unflatten(1, (1, 8, 8)), critic(made.unflatten(1, (1, 8, 8)))
    scaled = x / 8 - 1
    reconstruction = (scaled - images).abs().flatten(1).sum(1).mean() + 64 * math.log(2 * 8)
    loss = reconstruction + moment_divergence(*s) + 0.1 * variance_penalty(s[1]) + 3 * generator_loss(logits)
    own = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    theirs = torch.autograd.grad(
        3 * discriminator_loss(critic(scaled), critic(images.detach())), list(critic.parameters())
    )
    for got, want in zip(
        recorder.gradients["main"] + recorder.gradients["discriminator"], (*own, *theirs), strict=True
    ):
        close(got, want, rtol=1e-4, atol=1e-5)
    assert float(report["reconstruction"]) == pytest.approx(float(reconstruction.detach()), rel=1e-5)
    floor = moment_floor(24, 3)
    assert float(report["moment kl above its floor"]) == pytest.approx(
        float(moment_divergence(*s).detach()) - floor, rel=1e-3, abs=1e-4
    )


def test_a_step_of_one_leaves_the_other_alone(tmp_path):
    model, critic = small(), PatchDiscriminator(1, filters=(4, 1), strides=(2, 1))
    learner = MixtureVAELearner(model, pixels(), MixtureObjective(), discriminator=critic)
    nets = {"main": model, "discriminator": critic}
    for name, other in (("main", "discriminator"), ("discriminator", "main")):
        recorder = Recorder(learner, tmp_path)
        learner.step(pixels(), recorder)
        before = {n: [p.detach().clone() for p in net.parameters()] for n, net in nets.items()}
        for p, g in zip(nets[name].parameters(), recorder.gradients[name], strict=True):
            p.grad = g
        learner.optimizers[name].step()
        assert all(torch.equal(a, b) for a, b in zip(before[other], nets[other].parameters(), strict=True))
        assert any(not torch.equal(a, b) for a, b in zip(before[name], nets[name].parameters(), strict=True))
        model.zero_grad(), critic.zero_grad()


def test_the_generator_waits_for_the_start(tmp_path):
    model, critic = small(), PatchDiscriminator(1, filters=(4, 1), strides=(2, 1), dropout=0.0)
    gradients = []
    for adversary in (Adversary(weight=5.0, start=1), Adversary(weight=0.0)):
        model.zero_grad(), critic.zero_grad()
        learner = MixtureVAELearner(model, pixels(), MixtureObjective(), discriminator=critic, adversary=adversary)
        recorder = Recorder(learner, tmp_path)
        recorder.learner.step(pixels(), recorder)
        gradients.append(recorder.gradients)
    for a, b in zip(gradients[0]["main"], gradients[1]["main"], strict=True):
        close(a, b)
    assert any(bool(g.abs().sum() > 0) for g in gradients[0]["discriminator"])


class Knowing(nn.Module):
    """A discriminator that cannot be deceived: images have whole grey levels."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        level = 8 * (x + 1)
        real = ((level - level.round()).abs() < 1e-4).all(dim=(1, 2, 3), keepdim=True)
        return torch.where(real, 20.0, -20.0) + 0 * self.weight


def test_a_saturated_discriminator_is_told_once(tmp_path):
    learner = MixtureVAELearner(small(), pixels(), MixtureObjective(), discriminator=Knowing(), batch=12)
    with pytest.warns(UserWarning, match="discriminator saturated: .* for 100 steps") as told:
        train(learner, steps=110, run=Run(tmp_path, quiet=True), every=110)
    assert sum("saturated" in str(w.message) for w in told) == 1


@pytest.mark.parametrize("divergence", ["joint", "marginal"])
def test_the_mixture_itself_as_divergence(divergence, tmp_path):
    """The terms of a step are those of `aggregate_divergence` with the step's own draws."""
    model, x = small(), pixels()
    learner = MixtureVAELearner(model, x, MixtureObjective(divergence))
    recorder = Recorder(learner, tmp_path)
    report = learner.step(x, recorder)
    s = model.encode(x)
    z = model.sample(s, recorder.draws(Plan.iid(1), 24))
    expected = aggregate_divergence(*s, z, marginal=divergence == "marginal")
    close(report[f"mixture kl ({divergence}, not a bound)"], expected.detach())


def test_variances_collapse_without_the_penalty(tmp_path):
    """2309.13160 on digits, 64 times the mean absolute error: the mean variance goes below 1e-3 with w_v = 0, and stays above .05
    with w_v = .1."""
    spread = {}
    digits = load("digits", kind="integer")
    for weight in (0.0, 0.1):
        torch.manual_seed(0)
        config = VAEConfig(
            shape=(1, 8, 8), likelihood="laplace", levels=17, scale=1.0, latent=8, hidden=(64,), activation="relu"
        )
        model = VAE(config)
        learner = MixtureVAELearner(model, digits.train, MixtureObjective("means", weight), lr=3e-3)
        train(learner, steps=1200, run=Run(tmp_path / str(weight), quiet=True), every=1200)
        with torch.no_grad():
            spread[weight] = float((2 * model.encode(digits.test)[1]).exp().mean())
    assert spread[0.0] < 1e-3 and spread[0.1] > 0.05


def test_pixels_are_a_density_that_integrates_to_one():
    """The Laplace of scaled pixels: normalised over grey levels by quadrature, largest at the median, mean in grey levels."""
    like = likelihood_of("laplace", 1, 17, 0.3)
    grid = torch.linspace(-200, 200, 400_001, dtype=torch.float64)[:, None]
    out = torch.full((1, 1, 1), 0.2, dtype=torch.float64)
    log_p = like.log_prob(grid, out)[0]
    close(
        torch.trapezoid(log_p.exp()[:, 0], grid[:, 0]),
        torch.tensor(1.0, dtype=torch.float64),
        rtol=0,
        atol=1e-6,
    )
    assert float(log_p.max()) == pytest.approx(-math.log(0.3 * 16), abs=1e-3)
    close(like.mean(out), torch.full_like(out, 9.6))
    drawn = like.sample(out.expand(4000, 50, 1), Plan.iid(4000).draws(torch.arange(50)))
    assert z_score((like.scaled(drawn.double()) - 0.2).abs().flatten(), 0.3) < 5
    assert z_score(drawn.double().flatten(), 9.6) < 5


@pytest.mark.parametrize("normalisation", ["train", "frozen"])
def test_the_convolutional_vae_keeps_the_contract(normalisation, tmp_path):
    """Put through the conformance suite, after a few steps of training that moves its batch statistics."""
    model = small(normalisation=normalisation)
    before = {name: b.clone() for name, b in model.named_buffers() if "running" in name}
    learner = MixtureVAELearner(model, pixels(), MixtureObjective(), batch=12, flip=True)
    train(learner, steps=3, run=Run(tmp_path / "r", quiet=True), every=3)
    moved = any(not torch.equal(b, before[name]) for name, b in model.named_buffers() if "running" in name)
    assert moved == (normalisation == "train")
    model.eval()
    assert model.ceiling is None
    check_model(model, pixels(6)).raise_if_failed()


def test_refusals(unchecked):  # noqa: F811
    mean, log_scale = batch(1)
    with pytest.raises(UserError, match="population variance of the means needs several items, got 1"):
        moment_divergence(mean, log_scale)
    with pytest.raises(UserError, match="at least 2 items, got 1"):
        moment_floor(1)
    with pytest.raises(UserError, match="got a batch of 3: use at least 4"):
        MixtureVAELearner(small(), pixels(), MixtureObjective(), batch=3)
    with pytest.raises(UserError, match="needs posterior 'diagonal', got 'full'"):
        MixtureVAELearner(small(posterior="full"), pixels(), MixtureObjective())
    with pytest.raises(UserError, match="one of kl, means, total, joint, marginal, got 'median'"):
        MixtureObjective("median")
    with pytest.raises(UserError, match="must not be negative, got -1"):
        MixtureObjective(var_weight=-1)
    with pytest.raises(UserError, match="weight and start"):
        Adversary(start=-1)
    with pytest.raises(UserError, match="one output a pixel"):
        small(likelihood="categorical")
    with pytest.raises(UserError, match="a positive scale, got 0"):
        small(scale=0.0)
    with pytest.raises(UserError, match="multiples of 8"):
        small(shape=(1, 12, 12), stages=3)
    for x in (pixels() / 16, pixels() - 8, pixels() * 16):  # of [0, 1], of [-8, 8], of 0 .. 255
        with pytest.raises(UserError, match=r"integers 0 \.\. 16, and the items range from"):
            MixtureVAELearner(small(), x, MixtureObjective())
    assert isinstance(small().encoder, nn.Sequential)
