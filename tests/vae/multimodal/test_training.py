"""Training, saving, resuming and the command line, for complete and incomplete items of several kinds."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from infimum.cli import main
from infimum.data import DataSpec
from infimum.evidence import Plan, elbo, evaluate, load_estimate, weigh
from infimum.training import Run, load_model, save_model, train
from infimum.vae.multimodal import (
    Modality,
    MultimodalConfig,
    MultimodalLearner,
    MultimodalObjective,
    MultimodalVAE,
    from_multivae,
    mmvae,
    mopoe,
    mvae,
)
from vae.multimodal.cases import draws, linear_parts, mixed, orthogonal_world

CONFIGS = {
    "mvae": mvae(mixed(), latent=2),
    "mmvae as published": mmvae(mixed(), latent=2, family="laplace", learn_prior=True),
    "mopoe": mopoe(mixed(), latent=2),
    "chosen subsets": MultimodalConfig(mixed(), 2, subsets=(("vector", "text"), ("label",)), weights=(3.0, 1.0)),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_saved_models_come_back_bit_for_bit(name, tmp_path):
    torch.manual_seed(1)
    model = MultimodalVAE(CONFIGS[name]).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    save_model(tmp_path / "checkpoint", model, "multimodal-vae", {})
    again, _ = load_model(tmp_path / "checkpoint")
    assert again.config == model.config and again.names == model.names
    x = model.simulate(3)[1]
    assert torch.equal(weigh(model, x, draws(4, 3)).log_w, weigh(again, x, draws(4, 3)).log_w)


def incomplete(n: int = 300):
    """Items of a linear world, half of their modalities missing as multivae gives them."""
    world = orthogonal_world()
    x = {name: part.float() for name, part in world.simulate(n, seed=1)[1].items()}
    here = torch.rand(n, 3, generator=torch.Generator().manual_seed(0)) < 0.5
    here[~here.any(1), 0] = True
    for m, part in enumerate(x.values()):
        part[~here[:, m]] = math.nan  # must not be looked at
    return world, from_multivae(SimpleNamespace(data=x, masks=dict(zip(x, here.T, strict=True))))


@pytest.mark.parametrize(
    "objective",
    [
        MultimodalObjective(),
        MultimodalObjective(draws="iid"),
        MultimodalObjective("tight_iwae", k=2, gradient="dreg"),
        MultimodalObjective("looser_iwae", k=2),
        MultimodalObjective("subset_elbos", random_subsets=1),
    ],
)
def test_incomplete_items_train_a_better_model_of_complete_ones(objective, tmp_path):
    world, x = incomplete()
    torch.manual_seed(0)
    model = MultimodalVAE(mopoe(linear_parts(world), latent=2, prior_expert="all"))
    test = {name: part.float() for name, part in world.simulate(200, seed=2)[1].items()}

    def held_out() -> float:
        return evaluate(model.eval(), test, Plan.iid(50), seed=1).mean().value

    before = held_out()
    train(MultimodalLearner(model, x, objective, batch=50, lr=2e-2), steps=80, run=Run(tmp_path / "run", quiet=True))
    truth = float(world.log_evidence(test).mean())
    assert before < truth - 2
    assert before + 0.5 * (truth - before) < held_out() < truth + 0.1


def test_resuming_gives_the_same_numbers(tmp_path):
    world, x = incomplete(100)

    def learner() -> MultimodalLearner:
        torch.manual_seed(0)
        model = MultimodalVAE(mopoe(linear_parts(world), latent=2))
        return MultimodalLearner(model, x, MultimodalObjective("looser_iwae", k=2), batch=32, lr=1e-2, clip=5.0)

    whole = learner()
    train(whole, steps=9, run=Run(tmp_path / "whole", quiet=True))
    train(learner(), steps=4, run=Run(tmp_path / "broken", quiet=True), every=4)
    rest = learner()
    train(rest, steps=9, run=Run(tmp_path / "broken", quiet=True, resume=True))
    for one, other in zip(whole.model.parameters(), rest.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_command_line_evaluates_it(tmp_path, capsys):
    """``infimum evidence``: the bound of the file's items, and brackets of simulated ones."""
    torch.manual_seed(0)
    model = MultimodalVAE(mopoe({"a": Modality((3,), "gaussian"), "b": Modality((2,), "gaussian")}, latent=2)).eval()
    spec = json.loads(DataSpec("pairs", "real", (5,)).to_json())
    save_model(tmp_path / "checkpoint", model, "multimodal-vae", spec)
    x = torch.randn(30, 5)
    np.save(tmp_path / "x.npy", x.numpy())
    words = ["evidence", str(tmp_path / "checkpoint"), "--data", str(tmp_path / "x.npy"), "--k", "40"]
    assert main([*words, "--json", str(tmp_path / "e.json")]) == 0
    saved = load_estimate(tmp_path / "e.json")
    parts = {"a": x[:, :3], "b": x[:, 3:]}
    torch.testing.assert_close(saved.value, evaluate(model, parts, Plan.iid(40), keys=saved.keys).value)
    assert "IWAE-40" in capsys.readouterr().out
    assert main(["evidence", str(tmp_path / "checkpoint"), "--simulate", "20", "--k", "40"]) == 0
    assert "gap" in capsys.readouterr().out


def test_the_bound_of_a_trained_model_is_its_elbo():
    """What training reports under "mixture_elbo" is the engine's ELBO of the same draws."""
    world = orthogonal_world()
    torch.manual_seed(0)
    model = MultimodalVAE(mmvae(linear_parts(world), latent=2)).double()
    x = world.simulate(20, seed=3)[1]
    objective = MultimodalObjective("mixture_elbo", k=2)
    set_of = draws(0, 20, plan=objective.plan(model))
    told = objective.backward(model, x, set_of)["mixture_elbo"]
    torch.testing.assert_close(told, elbo(weigh(model, x, set_of)).value.mean().detach())
