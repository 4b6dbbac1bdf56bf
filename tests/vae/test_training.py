"""Training and saving, through the loop and the checkpoint format that everything uses."""

import pytest
import torch

from infimum.data import load
from infimum.evidence import Plan, elbo, evaluate, weigh
from infimum.training import Run, load_model, save_model, train
from infimum.vae import (
    VAE,
    BeliefNet,
    BeliefNetConfig,
    ConditionalVAE,
    ConditionalVAEConfig,
    Objective,
    VAEConfig,
    VAELearner,
)
from vae.vae_cases import draws

MODELS = {
    **{
        f"vae {name}": ("vae", lambda name=name: VAE(VAEConfig((2, 3), latent=2, hidden=(8,), posterior=name)))
        for name in ("diagonal", "full", "mixture", "flow")
    },
    "vae gaussian": ("vae", lambda: VAE(VAEConfig((6,), "gaussian", latent=2, hidden=()))),
    "vae integers": ("vae", lambda: VAE(VAEConfig((2, 3), "discretised-logistic", levels=4, latent=2, hidden=(8,)))),
    "conditional": (
        "conditional-vae",
        lambda: ConditionalVAE(ConditionalVAEConfig((2, 3), latent=2, hidden=(8,), classes=3, posterior="mixture")),
    ),
    "belief net": ("belief-net", lambda: BeliefNet(BeliefNetConfig((2, 3), latent=3, hidden=(8,), decoder=(5,)))),
}


@pytest.mark.parametrize("name", MODELS)
def test_saved_models_come_back_bit_for_bit(name, tmp_path):
    key, build = MODELS[name]
    torch.manual_seed(1)
    model = build().eval()
    with torch.no_grad():  # not the values that building gives
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    save_model(tmp_path / "checkpoint", model, key, {"threshold": 0.5})
    torch.manual_seed(2)
    again, data = load_model(tmp_path / "checkpoint")
    assert data == {"threshold": 0.5}
    assert again.config == model.config
    assert not again.training
    items = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]]).repeat(3, 1, 1)
    x = items.flatten(1) if name == "vae gaussian" else items
    batch = (x, torch.arange(3)) if key == "conditional-vae" else x
    tables = [weigh(m, batch, draws(4, 3)).log_w for m in (model, again)]
    assert torch.equal(*tables)


@pytest.mark.parametrize(("rule", "k"), [("stl", 1), ("dreg", 5)])
def test_thirty_steps_on_digits_raise_the_held_out_elbo(rule, k, tmp_path):
    data = load("digits", kind="binary", threshold=None)
    torch.manual_seed(0)
    model = VAE(VAEConfig(tuple(data.spec.shape), latent=4, hidden=(32,)))

    def held_out() -> float:
        return evaluate(model.eval(), data.test[:100], Plan.iid(20), elbo).mean().value

    before = held_out()
    learner = VAELearner(model, data.train, Objective(rule, k=k), batch=64, lr=5e-3)
    result = train(learner, steps=30, run=Run(tmp_path / "run", quiet=True))
    assert held_out() > before + 5  # 44 nats of log 2 a pixel at the start; any working training gains far more
    assert result.step == 30
    assert set(result.metrics) >= ({"elbo"} if k == 1 else {"elbo", "iwae"})
    saved, _ = load_model(result.checkpoint)
    x = data.test[:5]
    assert torch.equal(weigh(saved, x, draws(3, 5)).log_w, weigh(model, x, draws(3, 5)).log_w)


def test_conditional_learner_hands_over_the_labels(tmp_path):
    torch.manual_seed(0)
    model = ConditionalVAE(ConditionalVAEConfig((4,), latent=2, hidden=(8,), classes=4))
    x, labels = torch.eye(4).repeat(20, 1), torch.arange(4).repeat(20)
    learner = VAELearner(model, x, Objective(), batch=16, lr=1e-2, condition=labels)
    items, condition = next(learner.batches(3))
    assert torch.equal(items.argmax(-1), condition)
    before = evaluate(model.eval(), (x[:4], labels[:4]), Plan.iid(50), elbo).mean().value
    train(learner, steps=60, run=Run(tmp_path / "run", quiet=True))
    assert evaluate(model.eval(), (x[:4], labels[:4]), Plan.iid(50), elbo).mean().value > before + 0.5
