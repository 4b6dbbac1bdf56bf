"""Updates at their edges: nothing to learn in a part of a step, low precision, other processes, and what is counted."""

import copy
import json
import math
import os

import pytest
import torch

from alignment.test_learners import LENGTH, count_of_threes, learner_of, prompts, small
from alignment.worlds import fixture, mixture, model_of, table_of
from discrete.worlds import random_table
from infimum.alignment import (
    BGPO,
    ESPO,
    SPG,
    GroupDiffusionPO,
    Reinforce,
    Sampling,
    TokenTable,
    elbo_of,
    estimator_report,
    token_means,
    token_table,
)
from infimum.alignment import table_of as scores_of
from infimum.discrete import MaskedDiffusion, MaskedDiffusionConfig, canvas_of
from infimum.evidence import Plan
from infimum.training import Run, load_modules, train
from training.learners import pair, weights


class Sometimes:
    """A reward that tells completions apart in some calls only."""

    def __init__(self, live):
        self.live, self.call = live, 0

    def __call__(self, rollouts):
        self.call += 1
        return count_of_threes(rollouts) if self.live(self.call - 1) else torch.ones(len(rollouts.rows))


@pytest.mark.parametrize("dead", [0, 1])
def test_a_micro_batch_with_equal_rewards_loses_no_gradient(dead, tmp_path):
    """Two micro-batches a step, one of which teaches nothing: whichever it is, the other's gradient is applied, in its step."""
    model = small()
    learner = learner_of(model, SPG(masking="random", num_iterations=1))
    learner.reward = Sometimes(lambda call: call % 2 != dead)
    moved, last = [], copy.deepcopy(model)

    def see(step, _):
        nonlocal last
        moved.append(any(not torch.equal(a, b) for a, b in zip(model.parameters(), last.parameters(), strict=True)))
        last = copy.deepcopy(model)

    train(learner, steps=4, accumulate=2, run=Run(tmp_path / "run", quiet=True, trackers=[see]))
    assert moved == [True] * 4


def test_low_precision_has_ratios_of_one(tmp_path):
    """bf16 without a step of the optimizer: old, new and reference scores are one and the same."""
    torch.manual_seed(0)
    model = MaskedDiffusion(MaskedDiffusionConfig(5, width=16, heads=2, blocks=1)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(5)
    x = {"tokens": torch.zeros(20, 32, dtype=torch.long), "target": torch.arange(32).expand(20, 32) >= 2}
    for method in (
        GroupDiffusionPO(ratio_norm="none", num_iterations=3, beta=0.1, kl="k2"),
        BGPO(n_t=4, ratio_norm="none", num_iterations=3),
    ):
        learner = learner_of(model, method, lr=0.0, reference=copy.deepcopy(model), sampling=Sampling(steps=4))
        learner.prompts = x
        learner.reward = lambda rollouts: torch.rand(len(rollouts.rows))
        found = train(learner, steps=1, run=Run(tmp_path / type(method).__name__, quiet=True, precision="bf16")).metrics
        assert found["ratio"] == 1 and found["log_ratio"] == 0


def of_two_processes():
    torch.manual_seed(0)
    model = MaskedDiffusion(MaskedDiffusionConfig(5, width=16, heads=2, blocks=1)).double().eval()
    learner = learner_of(model, SPG(masking="random"), rows=6)
    learner.prompts = prompts()
    learner.optimizers["main"].param_groups[0]["eps"] = 1e-3
    learner.reward = Sometimes(lambda call: call < 2)
    return learner


def test_equal_rewards_everywhere_move_no_process(tmp_path):
    """Two steps with gradients, two without: momentum and decay of two processes move nothing, as those of one do not."""

    def body():
        train(of_two_processes(), steps=4, run=Run(tmp_path / "two", quiet=True))
        os._exit(33)

    assert pair(body) == [33, 33]
    one, two = of_two_processes(), of_two_processes()
    train(one, steps=4, run=Run(tmp_path / "one", quiet=True))
    load_modules(tmp_path / "two" / "checkpoint", two.modules)
    for a, b in zip(weights(one).values(), weights(two).values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-7)
    rows = [[json.loads(x) for x in (tmp_path / n / "metrics.jsonl").read_text().splitlines()] for n in ("one", "two")]
    for name in ("elbo", "eubo", "uncovered", "frac_zero_advantage"):
        assert rows[0][0][name] == pytest.approx(rows[1][0][name], abs=1e-6)
    assert "elbo" not in rows[0][3] and "elbo" not in rows[1][3]


def test_calls_are_counted(tmp_path):
    """Two a completion for writing it and as many as masks an update; half of the work where negatives are dropped."""
    model = small()
    halves = lambda rollouts: (torch.arange(len(rollouts.rows)) % 2).double()  # noqa: E731
    for method, updates in (
        (Reinforce(num_masks=3), 4 * 3 * 16),
        (SPG(negative="zero", num_masks=3, masking="random"), 4 * 3 * 8),
    ):
        learner = learner_of(copy.deepcopy(model), method)
        learner.reward = halves
        assert train(learner, steps=1, run=Run(tmp_path / str(updates), quiet=True)).metrics["calls"] == 32 + updates
        assert learner.calls == 32 + updates


def test_dropped_negatives_are_those_without_a_loss():
    """Leaving them out changes no gradient."""
    model, method = model_of(random_table(4, 3)), SPG(negative="zero", num_masks=3, masking="random")
    s = canvas_of(torch.ones(4, 4, dtype=torch.long), 2, 2)
    draws = method.plan.draws(torch.arange(4))
    table = token_table(model, s, draws, method.masks(model, s, draws))
    losses = method.losses(table, table, None, torch.tensor([1.0, -1.0, 0.5, -2.0], dtype=torch.float64))
    assert losses[1] == losses[3] == 0 and bool((losses[[0, 2]] > 0).all())


def test_espos_divergence_is_that_of_sequences_over_their_length():
    """beta (ELBO - ELBO_ref)^2 / (2 L)."""
    policy, other = model_of(fixture()), mixture(fixture(), table_of(5, 3))
    method = ESPO(pairs=3, beta=0.7)
    s = canvas_of(torch.ones(2, 4, dtype=torch.long), 2, 2)
    draws = method.plan.draws(torch.arange(2))
    now, reference = (scores_of(each, s, draws, method, 100) for each in (policy, other))
    advantages = torch.tensor([1.0, -1.0], dtype=torch.float64)
    d = elbo_of(now) - elbo_of(reference)
    found = method.losses(now, now, reference, advantages) - method.losses(now, now, None, advantages)
    torch.testing.assert_close(found, 0.7 * d.square() / 8)
    assert float(d.abs().max()) > 0.01


def test_mean_square_errors_are_those_of_completions():
    """Constant surrogates: errors of opposite signs do not cancel, and repetitions add nothing."""
    from infimum.alignment import Surrogate
    from infimum.discrete import exact_elbo, masks_of

    model = model_of(fixture(), characters="ab")
    x = torch.tensor([[1, 1, 1, 1], [0, 1, 0, 1]])
    bound = exact_elbo(model, x).value.detach()
    mean = float(bound.mean())
    one = Surrogate(
        Plan.iid(1), lambda p, s, d: masks_of(s, d), lambda t: torch.full((len(t.lengths),), mean).double(), "none"
    )
    row = estimator_report(model, x, repeats=5, choose={"constant": one})["constant"]
    assert row.mse == pytest.approx(float((mean - bound).square().mean()), rel=1e-9)
    assert row.mse > 0.01 and abs(row.elbo_bias) < 1e-6 and row.variance == pytest.approx(0, abs=1e-12)


def test_sides_of_models_with_blocks():
    """Masks over the whole completion say nothing of a model that writes by blocks; masks by its blocks bound it."""
    model = model_of(random_table(4, 8), block_length=2)
    rows = estimator_report(model, torch.ones(1, 4, dtype=torch.long), calls=4, repeats=4000)
    for name in ("ELBO, counts", "ELBO, counts, stratified", "ELBO, times"):
        assert rows[name].side == "lower" and abs(rows[name].elbo_bias) < 4.5 * rows[name].bias_stderr
    assert rows["ELBO, coupled (ESPO)"].side == "none"


def test_the_published_report_is_of_the_published_estimates():
    model, method = model_of(random_table(6, 2)), SPG(flavour="official", block_length=3, num_masks=4)
    s = canvas_of(torch.ones(3, 6, dtype=torch.long), 2, 2)
    table = scores_of(model, s, method.plan.draws(torch.arange(3)), method, 100)
    assert isinstance(table, TokenTable)
    found = method.report(table, table)
    lower, mix = method.estimates(table)
    torch.testing.assert_close(found["elbo"], lower)
    torch.testing.assert_close(found["eubo"], token_means(table, method.eubo_beta))
    torch.testing.assert_close(mix, (found["elbo"] + found["eubo"]) / 2)


def test_cut_ratios_are_told(tmp_path):
    """A step so long that the ratio of sums leaves exp(20)."""
    learner = learner_of(
        small(), GroupDiffusionPO(ratio_norm="none", num_iterations=2, fresh_masks=False), lr=30.0, clip=None
    )
    with pytest.warns(UserWarning, match="were cut off at 20"):
        train(learner, steps=1, run=Run(tmp_path / "run", quiet=True))
    assert math.exp(20) > LENGTH
