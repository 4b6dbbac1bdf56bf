"""Learners as users run them: rewards rise, pairs are told apart, runs resume, adapters are their own reference."""

import copy
import math

import pytest
import torch

from infimum.alignment import (
    BGPO,
    ESPO,
    SPG,
    VRPO,
    DiffuGRPO,
    GroupDiffusionPO,
    PolicyLearner,
    PreferenceLearner,
    Reinforce,
    Sampling,
    pairs_of,
)
from infimum.discrete import MaskedDiffusion, MaskedDiffusionConfig
from infimum.errors import UserError
from infimum.language import group_advantages
from infimum.language.lora import add_lora
from infimum.training import Run, load_model, train

LENGTH = 4


def small(seed=0, **options):
    torch.manual_seed(seed)
    return MaskedDiffusion(MaskedDiffusionConfig(5, length=6, network="mlp", width=32, blocks=1, **options)).eval()


def prompts(n=20):
    """Two given tokens, four to be written."""
    g = torch.Generator().manual_seed(1)
    return {"tokens": torch.randint(0, 5, (n, 6), generator=g), "target": torch.arange(6).expand(n, 6) >= 2}


def count_of_threes(rollouts):
    return ((rollouts.tokens == 3) & rollouts.canvas.target).sum(1).double() / LENGTH


OBJECTIVES = {
    "reinforce": Reinforce(), "spg": SPG(masking="random"), "gdpo": GroupDiffusionPO(num_iterations=2),
    "bgpo": BGPO(n_t=4, num_iterations=2), "ratio": BGPO(n_t=4, engine="two_pass", num_iterations=2, fresh_masks=False),
    "diffu-grpo": DiffuGRPO(num_iterations=2, perturb=0.1),
    "espo": ESPO(num_iterations=2),
}  # fmt: skip


def learner_of(model, objective, **options):
    return PolicyLearner(
        model, prompts(), count_of_threes, objective,
        **{
            "batch": 4, "num_generations": 4, "lr": 1e-2, "decay": 0.0, "clip": 1.0, "sampling": Sampling(steps=2, temperature=1.0),
        } | options,
    )  # fmt: skip


def rewards(path):
    import json

    return [json.loads(line)["reward"] for line in path.read_text().splitlines()]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_rewards_rise(name, tmp_path):
    """From one in five threes to most of them in 40 steps, under every objective."""
    model = small()
    train(learner_of(model, OBJECTIVES[name]), steps=40, run=Run(tmp_path / "run", quiet=True))
    found = rewards(tmp_path / "run" / "metrics.jsonl")
    assert sum(found[:5]) / 5 < 0.45 and sum(found[-5:]) / 5 > 0.75


@pytest.mark.parametrize("name", ["spg", "bgpo", "ratio"])
def test_resumed_runs_end_in_the_same_bits(name, tmp_path):
    """Stopped after 3 of 6 steps and taken up again; rows and micro-batches change nothing beyond rounding."""
    ends = []
    for folder, parts in (("whole", (6,)), ("parts", (3, 6))):
        for steps in parts:
            model = small()
            run = Run(tmp_path / folder, quiet=True, resume=steps != parts[0])
            train(learner_of(model, OBJECTIVES[name]), steps=steps, run=run, every=3)
        ends.append(model)
    for a, b in zip(ends[0].parameters(), ends[1].parameters(), strict=True):
        assert torch.equal(a, b)
    for rows in (1, 5, 16):
        model = small()
        train(learner_of(model, OBJECTIVES[name], rows=rows), steps=6, run=Run(tmp_path / f"rows-{rows}", quiet=True))
        for a, b in zip(ends[0].parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=2e-4)
    again = load_model(tmp_path / "whole" / "checkpoint")[0]
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), ends[0].parameters(), strict=True))


def test_equal_rewards_change_nothing(tmp_path):
    model = small()
    before = copy.deepcopy(model)
    learner = learner_of(model, SPG(masking="random"))
    learner.reward = lambda rollouts: torch.ones(len(rollouts.rows))
    train(learner, steps=2, run=Run(tmp_path / "run", quiet=True))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True))
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert '"frac_zero_advantage": 1.0' in text


def test_a_divergence_holds_the_policy_back(tmp_path):
    """Under a strong divergence from the reference the policy moves less; the reference does not move."""
    moves = []
    for beta in (0.0, 50.0):
        model, reference = small(), small()
        method = GroupDiffusionPO(num_iterations=2, beta=beta, kl="k2", ratio_norm="length")
        learner = learner_of(model, method, reference=reference if beta else None)
        train(learner, steps=10, run=Run(tmp_path / f"run-{beta}", quiet=True))
        assert all(torch.equal(a, b) for a, b in zip(reference.parameters(), small().parameters(), strict=True))
        x = prompts()
        z = torch.where(x["target"], 5, x["tokens"])
        with torch.no_grad():
            p, q = (m.network(z).log_softmax(-1) for m in (model, reference))
        moves.append(float((q.exp() * (q - p)).sum(-1).mean()))
    assert moves[1] < 0.5 * moves[0]


def test_ratios_outside_of_their_clip_are_told(tmp_path):
    method = GroupDiffusionPO(num_iterations=3, epsilon=1e-9, ratio_norm="none")
    with pytest.warns(UserWarning, match="every ratio is outside"):
        train(learner_of(small(), method, lr=0.1, clip=None), steps=1, run=Run(tmp_path / "run", quiet=True))


# -- preferences -----------------------------------------------------------------------------------------------------


def eight_pairs():
    g = torch.Generator().manual_seed(2)
    target = torch.arange(6).expand(8, 6) >= 2
    one, other = (torch.randint(0, 5, (8, 6), generator=g) for _ in range(2))
    other[:, :2] = one[:, :2]
    return pairs_of({"tokens": one, "target": target}, {"tokens": other, "target": target})


@pytest.mark.parametrize("engine", ["auto", "two_pass"])
def test_pairs_are_learnt(engine, tmp_path):
    """07-vrpo 6.6: over-fitting 8 pairs takes the loss below 0.1; the first one is log 2, and the two engines agree."""
    import json

    model, reference = small(), small()
    learner = PreferenceLearner(
        model, eight_pairs(), reference, VRPO(sft_weight=0.0, beta=1.0), batch=8, lr=1e-2, engine=engine, rows=12
    )
    train(learner, steps=60, run=Run(tmp_path / "run", quiet=True))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["loss/preference"] == pytest.approx(math.log(2), abs=1e-6)
    assert lines[-1]["loss/preference"] < 0.1 and lines[-1]["rewards/accuracies"] == 1.0
    assert lines[-1]["rewards/margins"] == pytest.approx(
        lines[-1]["rewards/chosen"] - lines[-1]["rewards/rejected"], abs=1e-5
    )


def test_engines_and_micro_batches_of_preferences(tmp_path):
    ends = []
    for i, options in enumerate(
        ({"rows": 10**6}, {"rows": 4}, {"rows": 1, "engine": "two_pass"}, {"rows": 40, "engine": "graph"})
    ):
        model = small().double()
        reference = copy.deepcopy(model)
        learner = PreferenceLearner(model, eight_pairs(), reference, VRPO(n_t=3), batch=8, lr=1e-2, **options)
        train(learner, steps=3, run=Run(tmp_path / f"run-{i}", quiet=True))
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=0, atol=1e-9)


class Noisy(torch.nn.Module):
    """A network that draws numbers of its own."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, z, present=None):
        return torch.nn.functional.dropout(self.inner(z), 0.3)


def test_an_unshared_score_of_equal_models_is_caught(tmp_path):
    model = MaskedDiffusion(MaskedDiffusionConfig(5, length=6), Noisy(small().network))
    learner = PreferenceLearner(model, eight_pairs(), copy.deepcopy(model), VRPO(n_t=2), batch=8)
    with pytest.raises(UserError, match="dropout is active"):
        train(learner, steps=1, run=Run(tmp_path / "run", quiet=True))


# -- adapters --------------------------------------------------------------------------------------------------------


def transformer(seed=0):
    torch.manual_seed(seed)
    return MaskedDiffusion(MaskedDiffusionConfig(5, width=16, heads=2, blocks=2)).eval()


def test_adapters_off_are_the_base(tmp_path):
    """LoRA at its start and switched off is the base; merged it is the adapter; a saved one is the same again."""
    model, base = transformer(), transformer()
    with pytest.warns(UserWarning, match="o_proj, down_proj, gate_proj"):
        adapter = add_lora(model.network, "d1-compat", r=4, alpha=8)
    assert {name.rsplit(".", 1)[-1] for name in adapter.matched} == {"q_proj", "k_proj", "v_proj", "up_proj"}
    z = prompts()["tokens"]
    torch.testing.assert_close(model.network(z), base.network(z), rtol=0, atol=0)
    reward = count_of_threes
    learner = PolicyLearner(
        model, prompts(), reward, GroupDiffusionPO(num_iterations=2, beta=0.01, kl="k3"), batch=4, num_generations=4, lr=1e-2,
        sampling=Sampling(steps=2), reference=adapter.off,
    )  # fmt: skip
    assert list(learner.modules) == ["trained"]
    train(learner, steps=8, run=Run(tmp_path / "run", quiet=True), every=4)
    assert not torch.equal(model.network(z), base.network(z))
    with adapter.off():
        assert torch.equal(model.network(z), base.network(z))
    # only the adapters are in the checkpoint
    assert (tmp_path / "run" / "checkpoint" / "model.safetensors").stat().st_size < 4 * adapter.trained + 8000
    # peft's files
    adapter.save(tmp_path / "adapter")
    other = transformer()
    with pytest.warns(UserWarning, match="no layer is called"):
        again = add_lora(other.network, "d1-compat", r=4, alpha=8, seed=5)
    again.load(tmp_path / "adapter")
    assert torch.equal(other.network(z), model.network(z))
    before = model.network(z)
    adapter.merge()
    torch.testing.assert_close(model.network(z), before, rtol=0, atol=1e-5)
    # a resumed run of an adapter ends in the same bits
    ends = []
    for folder, parts in (("whole", (6,)), ("parts", (3, 6))):
        for steps in parts:
            one = transformer()
            with pytest.warns(UserWarning, match="no layer is called"):
                lora = add_lora(one.network, "d1-compat", r=4, alpha=8)
            mine = PolicyLearner(
                one, prompts(), reward, SPG(masking="random"), batch=4, num_generations=4, lr=1e-2, reference=lora.off,
                sampling=Sampling(steps=2),
            )  # fmt: skip
            train(mine, steps=steps, run=Run(tmp_path / folder, quiet=True, resume=steps != parts[0]), every=3)
        ends.append(one.network(z))
    assert torch.equal(*ends)


def test_adapters_of_all_layers_but_the_head():
    model = transformer()
    adapter = add_lora(model.network, r=2)
    leaves = {name.rsplit(".", 1)[-1] for name in adapter.matched}
    assert leaves == {"q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out"}
    assert "ff_out" not in adapter.matched and len(adapter.matched) == 14
    for refused, words in (
        (lambda: add_lora(model.network), "adapters already"),
        (lambda: add_lora(transformer().network, ("nothing",)), "no linear layer is called nothing"),
        (lambda: add_lora(transformer().network, ("ff_out.nothing",)), "ff_proj, k_proj"),
        (lambda: add_lora(transformer().network, r=0), "r is 0"),
        (lambda: adapter.load("/nowhere"), "does not exist"),
    ):
        with pytest.raises(UserError, match=words):
            refused()


# -- advantages and refusals -------------------------------------------------------------------------------------------


def test_advantages():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.3, 0.3, 0.3, 0.3]], dtype=torch.float64)
    plain, scaled = group_advantages(rewards), group_advantages(rewards, "group")
    assert plain.tolist() == [[0.5, -0.5, -0.5, 0.5], [0.0] * 4]
    torch.testing.assert_close(scaled[0], plain[0] / rewards[0].std())
    assert scaled[1].tolist() == [0.0] * 4
    torch.testing.assert_close(group_advantages(7 * rewards - 3, "group"), scaled, rtol=0, atol=1e-12)
    torch.testing.assert_close(group_advantages(rewards + 5), plain, rtol=0, atol=1e-12)
    for bad, words in ((rewards[:, :1], "no baseline"), (rewards * math.nan, "not a number")):
        with pytest.raises(UserError, match=words):
            group_advantages(bad)


def test_refusals(tmp_path):
    model = small()
    for options, words in (
        ({"num_generations": 1}, "no baseline"), ({"engine": "stream"}, "no sum over masks|is none"), ({"rows": 0}, "at least 1"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            learner_of(model, SPG(masking="random"), **options)
    with pytest.raises(UserError, match="there is no reference"):
        learner_of(model, ESPO(beta=0.1))
    with pytest.raises(UserError, match="no prompts"):
        PolicyLearner(model, {"tokens": torch.zeros(0, 6)}, count_of_threes, Reinforce())
    with pytest.warns(UserWarning, match="temperature 0"):
        learner_of(model, Reinforce(), sampling=Sampling(temperature=0.0))
    learner = learner_of(model, Reinforce())
    learner.reward = lambda rollouts: torch.ones(3)
    with pytest.raises(UserError, match="one number each"):
        train(learner, steps=1, run=Run(tmp_path / "run", quiet=True))
    with pytest.raises(UserError, match="pass a copy"):
        PreferenceLearner(model, eight_pairs(), model)
    pairs = eight_pairs()
    same = pairs | {n.replace("chosen", "rejected"): v for n, v in pairs.items() if "chosen" in n}
    with pytest.warns(UserWarning, match="teach nothing"):
        PreferenceLearner(small(), same, small())
    for p in model.parameters():
        p.requires_grad_(False)
    with pytest.raises(UserError, match="no parameter that requires"):
        learner_of(model, Reinforce())
