"""What methods and learners refuse, at once and in one sentence."""

import copy
import warnings

import pytest
import torch

from alignment.test_learners import count_of_threes, eight_pairs, learner_of, prompts, small
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
)
from infimum.alignment.policy import check_reference
from infimum.errors import UserError


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SPG(flavour="offical"), "flavour is 'offical': choose bound or official"),
        (lambda: SPG(masking="foo"), "masking is 'foo': choose block"),
        (lambda: SPG(block_length=0), "block_length is 0"),
        (lambda: SPG(perturb=3.0), "perturb is 3.0"),
        (lambda: SPG(flavour="official", certified=True), "cannot be certified"),
        (lambda: SPG(perturb=0.1, certified=True), "cannot be certified"),
        (lambda: GroupDiffusionPO(rule="midpoint", points=0), "points is 0"),
        (lambda: GroupDiffusionPO(per_node=0), "per_node 0"),
        (lambda: GroupDiffusionPO(ratio_norm="foo"), "ratio_norm is 'foo'"),
        (lambda: GroupDiffusionPO(perturb=-0.1), "perturb is -0.1"),
        (lambda: GroupDiffusionPO(beta=0.1, kl="k9"), "kl is 'k9'"),
        (lambda: BGPO(ratio_norm="foo"), "ratio_norm is 'foo'"),
        (lambda: BGPO(lead="foo"), "lead is 'foo'"),
        (lambda: VRPO(lead="foo"), "lead is 'foo'"),
        (lambda: DiffuGRPO(perturb=2.0), "perturb is 2.0"),
        (lambda: Reinforce(num_masks=0), "num_masks is 0"),
        (lambda: ESPO(pairs=0), "pairs is 0"),
    ],
)  # fmt: skip
def test_methods(make, words):
    """A wrong word reaches the method's own check, as it does for a user: annotations are checked in tests alone."""
    from jaxtyping import config

    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(UserError, match=words):
            make()
    finally:
        config.update("jaxtyping_disable", before)


def test_references():
    """Of both learners: what is none, the policy itself, another vocabulary; a model is put into evaluation mode."""
    policy, other = small(), small().train()
    held = GroupDiffusionPO(beta=0.1, kl="k2")
    wide = small()
    wide.config = type(wide.config)(**{**wide.config.__dict__, "vocabulary": 9})
    for reference, words in (
        (policy, "shares parameters"), (wide, "vocabulary of 9 with mask 9, the policy 5 with mask 5"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            PolicyLearner(policy, prompts(), count_of_threes, held, reference=reference)
        with pytest.raises(UserError, match=words):
            PreferenceLearner(policy, eight_pairs(), reference)
    for reference, words in ((policy.network, "is a CanvasMLP"), (3, "is a int"), (None, "is a NoneType")):
        with pytest.raises(UserError, match=words):
            check_reference(policy, reference)
    learner_of(policy, held, reference=other)
    assert not other.training


def test_ends_agree():
    class Reward:
        end = 3

        def __call__(self, rollouts):
            return torch.zeros(len(rollouts.rows))

    with pytest.raises(UserError, match="end is 4 and the reward's 3"):
        PolicyLearner(small(), prompts(), Reward(), Reinforce(), end=4)
    with pytest.raises(UserError, match="end is 99, which is not in the vocabulary"):
        PolicyLearner(small(), prompts(), count_of_threes, Reinforce(), end=99)


def test_rewards_are_numbers(tmp_path):
    from infimum.training import Run, train

    learner = learner_of(small(), Reinforce())
    learner.reward = lambda rollouts: [None] * len(rollouts.rows)
    with pytest.raises(UserError, match="the reward returned what is no table of numbers"):
        train(learner, steps=1, run=Run(tmp_path / "run", quiet=True))


def test_blocks_that_disagree_are_told():
    with pytest.warns(
        UserWarning, match="masks go by blocks of 2 tokens and completions are written by blocks of None"
    ):
        learner_of(small(), SPG(block_length=2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learner_of(small(), SPG(block_length=2), sampling=Sampling(block_length=2, temperature=1.0))
        learner_of(small(block_length=2), SPG(block_length=2))  # the sampler goes by the policy's blocks


def test_equal_completions_are_counted_by_their_tokens():
    """The same completion behind a prompt of another length is the same; a longer one with the same beginning is not."""
    from infimum.alignment import pairs_of
    from infimum.discrete import completions

    chosen = completions([[1], [1, 2], [3]], [[0, 1], [2, 2, 2], [4]], pad_id=0)
    rejected = completions([[1], [1, 2], [3]], [[0, 1, 1], [2, 2, 2], [1]], pad_id=0)
    policy = small()
    with pytest.warns(UserWarning, match="1 of 3 pairs have the same completion twice"):
        PreferenceLearner(policy, pairs_of(chosen, rejected), copy.deepcopy(policy))
    pairs = pairs_of(chosen, rejected)
    del pairs["rejected/present"]
    with pytest.raises(UserError, match="the pairs have no rejected/present"):
        PreferenceLearner(policy, pairs, copy.deepcopy(policy))
