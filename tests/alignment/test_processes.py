"""Two gloo processes equal one, and FSDP2 with adapters equals the unsharded run, for online and for preference learning."""

import os

import pytest
import torch

from alignment.test_learners import count_of_threes, eight_pairs, prompts
from infimum.alignment import BGPO, SPG, VRPO, PolicyLearner, PreferenceLearner, Sampling
from infimum.discrete import MaskedDiffusion, MaskedDiffusionConfig
from infimum.errors import UserError
from infimum.language.lora import add_lora
from infimum.training import Run, distributed, load_modules, train
from training.learners import lines, pair, weights


def policy():
    torch.manual_seed(0)
    return MaskedDiffusion(MaskedDiffusionConfig(5, width=16, heads=2, blocks=2)).double().eval()


def learner_of(kind, shard=False):
    model = policy()
    options = {"batch": 4, "lr": 1e-2, "clip": 1.0, "rows": 6}
    reference = policy()
    if kind.endswith("adapter"):
        adapter = add_lora(model.network, r=4)
        reference = adapter.off
    if shard:
        distributed.connect("cpu")
        distributed.shard(model.network)
    if kind.startswith("preference"):
        learner = PreferenceLearner(model, eight_pairs(), reference, VRPO(n_t=2), **options)
    else:
        method = SPG(masking="random", num_masks=4) if kind.startswith("spg") else BGPO(n_t=8, num_iterations=2)
        sampling = Sampling(steps=2, temperature=1.0)
        learner = PolicyLearner(
            model, prompts(), count_of_threes, method, num_generations=4, sampling=sampling, **options
        )
    # where a gradient is zero but for rounding, a small eps would blow the rounding up to a full step
    learner.optimizers["main"].param_groups[0]["eps"] = 1e-3
    return learner


@pytest.mark.parametrize("kind", ["spg", "bgpo", "preference"])
def test_two_processes_equal_one(kind, tmp_path):
    def body():
        learner = learner_of(kind)
        train(learner, steps=4, run=Run(tmp_path / "two", quiet=True))
        os._exit(33)

    assert pair(body) == [33, 33]
    one, two = learner_of(kind), learner_of(kind)
    train(one, steps=4, run=Run(tmp_path / "one", quiet=True))
    load_modules(tmp_path / "two" / "checkpoint", two.modules)
    a, b = weights(one), weights(two)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=1e-7)
    first, second = (lines(tmp_path / name)[0] for name in ("one", "two"))
    key = "loss" if kind == "preference" else "reward"
    assert first[key] == pytest.approx(second[key], abs=1e-5)


@pytest.mark.parametrize("kind", ["bgpo", "spg adapter", "preference adapter"])
def test_sharded_equals_whole(kind, tmp_path):
    """The first update to rounding, whether all weights are trained or adapters alone; and a resumed run goes on."""

    def body(steps, resume):
        learner = learner_of(kind, shard=True)
        module = next(iter(learner.modules.values()))
        sharded = all(p.to_local().numel() < p.numel() for p in module.parameters() if p.shape[0] > 1)
        train(learner, steps=steps, run=Run(tmp_path / "two", quiet=True, resume=resume))
        os._exit(33 if sharded else 1)

    assert pair(body, 2, False) == [33, 33]
    one, two = learner_of(kind), learner_of(kind)
    train(one, steps=2, run=Run(tmp_path / "one", quiet=True))
    load_modules(tmp_path / "two" / "checkpoint", two.modules)
    a, b = weights(one), weights(two)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=1e-7)
    assert pair(body, 3, True) == [33, 33]


def test_orders_of_uneven_calls_are_refused_for_sharded_weights():
    """Each network call gathers the weights from all processes: one that needs fewer would leave the others waiting."""

    def body():
        model = policy()
        distributed.connect("cpu")
        distributed.shard(model.network)
        for order in ("threshold", "ancestral"):
            with pytest.raises(UserError, match="sharded weights need as many in every process"):
                PolicyLearner(model, prompts(), count_of_threes, BGPO(), sampling=Sampling(order=order))
        os._exit(33)

    assert pair(body) == [33, 33]


def test_sharded_adapters_are_saved_whole(tmp_path):
    """What two processes write is what one writes."""

    def body():
        adapter = add_lora(policy().network, r=4)
        distributed.connect("cpu")
        distributed.shard(adapter.network)
        adapter.save(tmp_path / "two")
        os._exit(33)

    assert pair(body) == [33, 33]
    add_lora(policy().network, r=4).save(tmp_path / "one")
    one, two = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
