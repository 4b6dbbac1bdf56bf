"""Models of items with labels, and classifier-free guidance, against conditional densities that are known."""

import pytest
import torch
from torch import nn

from infimum.diffusion import (
    DiffusionConfig,
    DiffusionLearner,
    FlowEvidence,
    GaussianDiffusion,
    GuidedTrajectory,
    sample,
    transport,
)
from infimum.diffusion.heads import convert
from infimum.diffusion.schedules import alpha_sigma
from infimum.errors import UserError
from infimum.evidence import Plan, elbo, evaluate, iwae
from infimum.testing import check_model
from infimum.training import Run, load_model, train

MEANS = torch.tensor([-0.7, 0.2, 0.9], dtype=torch.float64)
SD, LOW, HIGH = 0.3, -8.0, 7.0
SHARES = torch.full((3,), 1 / 3, dtype=torch.float64)


class Conditional(nn.Module):
    """E[f | z, label] of three Gaussians, and of their mixture without a label."""

    def __init__(self, head):
        super().__init__()
        self.head, self.asked = head, 0
        self.anchor = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, inner, u, context):
        self.asked += len(inner)
        snr = (HIGH - u * (HIGH - LOW))[:, None]
        alpha, sigma = alpha_sigma(snr)
        scale = {"flow": 1 / (alpha + sigma)}.get(self.head, 1.0)
        z = inner / scale
        v = alpha**2 * SD**2 + sigma**2
        each = MEANS + alpha * SD**2 / v * (z - alpha * MEANS)  # (N, 3)
        share = (SHARES.log() - 0.5 * (z - alpha * MEANS) ** 2 / v).softmax(1)
        x = (torch.where(context.sum(1, keepdim=True) > 0, context, share) * each).sum(1, keepdim=True)
        out = convert(x, z, snr, source="x", to=self.head)
        return out - z if self.head == "eps" else out


def conditional(head="v", **config):
    options = {"low": LOW, "high": HIGH, "head": head, "classes": 3} | config
    model = GaussianDiffusion(DiffusionConfig((1,), **options), Conditional(head)).double().eval()
    return model


@pytest.mark.parametrize("head", ["v", "eps", "flow"])
def test_guidance_is_the_gradient_of_a_sharpened_density(head):
    """score + w (score(z | label) - score(z)) of densities that are differentiated numerically, at every log-SNR."""
    model = conditional(head)
    z = torch.linspace(-1.5, 1.5, 9, dtype=torch.float64)[:, None]
    labels = torch.tensor([2]).expand(9)
    for w in (0.0, 0.5, 3.0):
        path = model.trajectory(None, labels, w)
        for snr in (-3.0, 0.0, 4.0):
            s = torch.full((9,), snr, dtype=torch.float64)
            alpha, sigma = alpha_sigma(s[:1])
            scale = (alpha**2 * SD**2 + sigma**2).sqrt()
            at = z.clone().requires_grad_()
            parts = torch.distributions.Normal(alpha * MEANS, scale).log_prob(at)
            own, mixed = parts[:, 2], (parts + SHARES.log()).logsumexp(1)
            (wanted,) = torch.autograd.grad(((1 + w) * own - w * mixed).sum(), at)
            assert torch.allclose(path.denoise(z, s, to="score"), wanted, atol=1e-9)


def test_samples_have_their_label_and_guidance_moves_them_on():
    """Mean and variance of each label at four standard errors; guided ones lie further from the others."""
    model, n = conditional(), 2000
    draws = Plan.iid(1).draws(torch.arange(3 * n))
    labels = torch.arange(3).repeat_interleave(n)
    plain = sample(model, draws, sampler="ode", steps=60, labels=labels, decode=False)[0, :, 0].view(3, n)
    for row, mean in zip(plain, MEANS, strict=True):
        assert abs(float(row.mean() - mean)) < 4 * SD / n**0.5 + 1e-3
        assert abs(float(row.var() / SD**2 - 1)) < 4 * (2 / n) ** 0.5 + 1e-3
    guided = sample(model, draws, sampler="ode", steps=60, labels=labels, guidance=2.0, decode=False)[0, :, 0].view(
        3, n
    )
    assert (
        float(guided[2].mean()) > float(plain[2].mean()) + 0.05
        and float(guided[0].mean()) < float(plain[0].mean()) - 0.05
    )


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpmpp-2m", "heun", "ode-adaptive"])
def test_every_sampler_takes_labels_and_guidance(sampler):
    model = conditional()
    draws = Plan.iid(2).draws(torch.arange(4))
    labels = torch.tensor([0, 1, 2, 2])
    free, zero = (sample(model, draws, sampler=sampler, steps=8, labels=labels, guidance=w) for w in (0.0, 1e-12))
    assert free.shape == (2, 4, 1) and torch.allclose(free, zero, atol=1e-6)
    assert not torch.allclose(
        free, sample(model, draws, sampler=sampler, steps=8, labels=labels, guidance=1.0), atol=1e-3
    )


def test_no_guidance_asks_the_network_once():
    model = conditional()
    draws, labels = Plan.iid(1).draws(torch.arange(4)), torch.tensor([0, 1, 2, 2])
    counts = []
    for w in (0.0, 1.0):
        model.network.asked = 0
        sample(model, draws, sampler="ddim", steps=5, labels=labels, guidance=w)
        counts.append(model.network.asked)
    assert counts == [20, 40]
    path = model.trajectory(draws, labels, 1.0)
    assert isinstance(path, GuidedTrajectory) and len(path.take(torch.tensor([1, 3])).context) == 2


def test_the_bound_is_that_of_the_density_given_the_label():
    """log p(x | label) of the optimal denoiser: equality up to the ends, at four standard errors."""
    model = conditional()
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat(400)
    x = MEANS[labels, None] + SD * torch.randn(1200, 1, generator=generator, dtype=torch.float64)
    estimate = evaluate(model, (x, labels), Plan.stratified(64), elbo)
    assert estimate.target == "log p(x|c)" and estimate.side == "lower"
    log_p = torch.distributions.Normal(MEANS[labels], SD).log_prob(x[:, 0])
    gap = log_p - estimate.value
    assert abs(float(gap.mean())) < 4 * float(gap.std()) / 1200**0.5 + 5e-3  # the ends' share: SNR e^7 and e^-8
    other = evaluate(model, (x, (labels + 1) % 3), Plan.stratified(64), elbo)
    assert float(other.value.mean()) < float(estimate.value.mean()) - 0.5
    none = evaluate(model, (x, torch.full_like(labels, -1)), Plan.stratified(64), elbo)
    mixed = (torch.distributions.Normal(MEANS, SD).log_prob(x) + SHARES.log()).logsumexp(1)
    gap = mixed - none.value
    assert abs(float(gap.mean())) < 4 * float(gap.std()) / 1200**0.5 + 5e-3


def test_the_flow_has_the_density_given_the_label():
    model = conditional()
    labels = torch.tensor([0, 1, 2])
    z = torch.tensor([[-0.5], [0.4], [0.8]], dtype=torch.float64)

    def marginal(z, log_snr):
        alpha, sigma = alpha_sigma(torch.tensor(log_snr, dtype=torch.float64))
        return torch.distributions.Normal(alpha * MEANS, (alpha**2 * SD**2 + sigma**2).sqrt()).log_prob(z[:, 0])

    end, change = transport(model.trajectory(None, labels), z, steps=200)
    assert torch.allclose(marginal(end, LOW) + change, marginal(z, HIGH), atol=1e-6)


def built(classes=3):
    torch.manual_seed(0)
    config = DiffusionConfig((2,), levels=4, low=-5.0, high=6.0, width=16, blocks=1, classes=classes)
    return GaussianDiffusion(config)


X = torch.tensor([[0.0, 3], [1, 1], [2, 0], [3, 3]])
Y = torch.tensor([0, 1, 2, 1])


@pytest.mark.parametrize("network", ["mlp", "unet", "adm", "dit"])
def test_models_with_labels_keep_the_engines_contract_and_are_trained(network, tmp_path):
    torch.manual_seed(0)
    shape = (2,) if network == "mlp" else (1, 4, 4)
    config = DiffusionConfig(shape, levels=4, network=network, width=16, blocks=1, classes=3)
    model = GaussianDiffusion(config)
    x = X if network == "mlp" else torch.randint(0, 4, (4, 1, 4, 4)).float()
    result = train(
        DiffusionLearner(model, x, labels=Y, drop=0.2, batch=4, lr=1e-2), steps=4, run=Run(tmp_path / "a", quiet=True)
    )
    check_model(model.eval(), (x, Y))
    draws = Plan.stratified(4).draws(torch.arange(4))
    s, other = model.encode((x, Y)), model.encode((x, (Y + 1) % 3))
    assert not torch.allclose(model.terms((x, Y), s, draws), model.terms((x, Y), other, draws))
    again = load_model(result.checkpoint)[0].eval()
    assert torch.equal(again.terms((x, Y), s, draws), model.terms((x, Y), s, draws))


def test_dropped_labels_are_the_share_that_was_asked(tmp_path):
    """The contexts that the network gets in training; exact binomial limits at 1e-6."""
    model, seen = built(), []
    model.network.register_forward_pre_hook(lambda module, args: seen.append(args[2].sum(1)))
    learner = DiffusionLearner(model, X.repeat(250, 1), labels=Y.repeat(250), drop=0.25, batch=1000)
    train(learner, steps=2, run=Run(tmp_path / "run", quiet=True))
    dropped = torch.cat(seen) == 0
    assert len(dropped) == 2000 and 405 < int(dropped.sum()) < 595
    assert set(torch.cat(seen).tolist()) == {0.0, 1.0}


def test_importance_weights_of_the_flow_given_the_label():
    torch.manual_seed(0)
    model = built().double().eval()
    with torch.no_grad():
        for p in model.network.parameters():
            p.copy_(0.1 * torch.randn_like(p))
    x = (X.double(), Y)
    value = evaluate(FlowEvidence(model, steps=60).eval(), x, Plan.iid(16), iwae)
    plain = evaluate(FlowEvidence(model, steps=60).eval(), (X.double(), (Y + 1) % 3), Plan.iid(16), iwae)
    assert value.certified and not torch.allclose(value.value, plain.value)


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda: sample(built(), Plan.iid(1).draws(torch.arange(2))), "give labels"),
        (lambda: sample(built(0), Plan.iid(1).draws(torch.arange(2)), guidance=1.0), "give labels"),
        (lambda: sample(built(0), Plan.iid(1).draws(torch.arange(2)), labels=Y[:2]), "build it with classes"),
        (lambda: sample(built(), Plan.iid(1).draws(torch.arange(2)), labels=Y[:2] + 5), r"0 \.\. 2"),
        (lambda: built().encode(X), "takes pairs"),
        (lambda: DiffusionLearner(built(), X), "trained with labels where it has classes"),
        (lambda: DiffusionLearner(built(0), X, labels=Y), "trained with labels where it has classes"),
        (lambda: DiffusionLearner(built(), X, labels=Y, drop=1.0), r"share drop in \[0, 1\)"),
        (lambda: DiffusionLearner(built(), X, labels=Y[:2]), "4 items and 2 labels"),
        (lambda: built(-1), "classes is -1"),
        (lambda: built().network(torch.zeros(2, 2), torch.zeros(2), torch.zeros(2, 5)), "context of 3 numbers"),
    ],
)
def test_misuse_is_refused(act, says):
    with pytest.raises(UserError, match=says):
        act()
