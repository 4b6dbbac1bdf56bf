"""The conditional VAE against one linear-Gaussian model for every condition."""

import pytest
import torch

from infimum.errors import UserError
from infimum.evidence import weigh
from infimum.testing import LinearGaussian
from infimum.vae import ConditionalVAE, ConditionalVAEConfig
from vae.vae_cases import draws, z_score


def linear(classes: int) -> tuple[ConditionalVAE, torch.Tensor, torch.Tensor]:
    """Without hidden layers p(x | z, c) = N(W z + U c + b, Psi); items and their conditions."""
    torch.manual_seed(0)
    config = ConditionalVAEConfig(
        (4,), "gaussian", latent=2, hidden=(), classes=classes, condition=0 if classes else 3, posterior="full"
    )
    model = ConditionalVAE(config).double()
    with torch.no_grad():
        model.encoder[0].weight.mul_(0.2)
        model.encoder[0].bias.mul_(0.2)
    x = torch.linspace(-1.5, 1.5, 12).double().reshape(3, 4)
    return model, x, torch.tensor([0, 2, 1]) if classes else torch.eye(3).double() - 0.4


@pytest.mark.parametrize("classes", [0, 3])
def test_weights_are_unbiased_for_the_exact_conditional_evidence(classes):
    """E_q[w] = p(x | c), |z| < 5.5."""
    model, x, c = linear(classes)
    vector = torch.nn.functional.one_hot(c, 3).double() if classes else c
    layer = model.decoder[0]
    with torch.no_grad():
        log_p = torch.cat(
            [
                LinearGaussian(
                    layer.weight[:, :2], layer.weight[:, 2:] @ v + layer.bias, (2 * model.likelihood.log_scale).exp()
                ).log_evidence(item[None])
                for item, v in zip(x, vector, strict=True)
            ]
        )
        w = weigh(model, (x, c), draws(8000, 3))
        ratio = (w.log_w - log_p).exp()
    assert w.target == "log p(x|c)"
    assert z_score(ratio, 1.0) < 5.5
    with torch.no_grad():
        swapped = (weigh(model, (x, c.flip(0)), draws(8000, 3)).log_w - log_p).exp().mean(0)
    assert float((swapped - 1).abs().max()) > 0.05


def test_generation_and_reconstruction_follow_the_condition():
    model, x, c = linear(3)
    sample = model.generate(draws(8000, 3), c).detach()
    layer = model.decoder[0]
    mean = (layer.weight[:, 2:].T[c] + layer.bias).detach()
    assert z_score(sample, mean) < 5.5
    assert not torch.equal(model.reconstruct((x, c)), model.reconstruct((x, c.flip(0))))


@pytest.mark.parametrize(
    ("classes", "condition", "message"),
    [
        (3, torch.tensor([0, 3]), r"labels must lie in 0..2, got 0..3"),
        (3, torch.tensor([-1, 1]), r"labels must lie in 0..2, got -1..1"),
        (3, torch.tensor([0.0, 1.0]), r"expected int64 labels of shape \(B,\), got torch.float32"),
        (3, torch.tensor([[0], [1]]), r"expected int64 labels of shape \(B,\)"),
        (0, torch.zeros(2, 4).double(), r"expected conditions of shape \(B, 3\), got \(2, 4\)"),
        (0, torch.zeros(2).double(), r"expected conditions of shape \(B, 3\), got \(2,\)"),
    ],
)
def test_wrong_conditions_are_refused(classes, condition, message):
    model, x, _ = linear(classes)
    with pytest.raises(UserError, match=message):
        model.encode((x[:2], condition))


def test_generation_needs_a_condition():
    with pytest.raises(UserError, match="generates given a condition"):
        linear(3)[0].generate(draws(1, 2))


@pytest.mark.parametrize(("classes", "condition"), [(0, 0), (2, 2)])
def test_exactly_one_kind_of_condition(classes, condition):
    with pytest.raises(UserError, match="give either classes"):
        ConditionalVAEConfig((4,), classes=classes, condition=condition)
