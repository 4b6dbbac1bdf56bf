"""Completions under random tables, old policies near them, and every objective."""

import warnings

import torch

from discrete.worlds import fixture, model_of
from infimum.alignment import BGPO, ESPO, SPG, DiffuGRPO, GroupDiffusionPO, Reinforce


def table_of(a, b, c=0, n=4):
    """T(a, b, c): (1 + (a i + b b(S) + c) mod 7) / 8."""
    i, s = torch.arange(n), torch.arange(2**n)[:, None]
    return (1 + (a * i + b * s + c) % 7).double() / 8


def mixture(theta, other):
    """0.9 theta + 0.1 other: the old policy, or the reference, of the fixtures."""
    return model_of(0.9 * theta + 0.1 * other)


def every_objective():
    """Each method with more than one mask and more than one kind of loss."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "spg mix": SPG(num_masks=4, masking="random", eubo_beta=1.5),
            "spg eubo, blocks": SPG(num_masks=4, negative="eubo", block_length=3, eubo_beta=1.0),
            "spg official": SPG(num_masks=4, flavour="official", block_length=3, perturb=0.15),
            "spg certified": SPG(num_masks=4, masking="random", certified=True),
            "gdpo": GroupDiffusionPO(points=4, epsilon=0.2),
            "gdpo, bernoulli, kl": GroupDiffusionPO(points=2, per_node=2, mask="bernoulli", ratio_norm="none", beta=0.1, kl="k3"),
            "bgpo": BGPO(n_t=4),
            "bgpo, whole length": BGPO(n_t=4, ratio_norm="none", lead="random"),
            "bgpo, itself": BGPO(n_t=4, engine="two_pass", epsilon=0.1),
            "diffu-grpo": DiffuGRPO(beta=0.04),
            "espo": ESPO(pairs=2, beta=0.01),
            "reinforce": Reinforce(num_masks=4),
            "one step": Reinforce(one_step=True),
        }  # fmt: skip


__all__ = ["every_objective", "fixture", "mixture", "model_of", "table_of"]
