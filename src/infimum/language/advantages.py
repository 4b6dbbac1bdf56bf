"""How much better than its group a completion is."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from infimum.errors import UserError

__all__ = ["ScaleRewards", "group_advantages"]

ScaleRewards = Literal["none", "group"]


def group_advantages(rewards: Float[Tensor, "P G"], scale_rewards: ScaleRewards = "none") -> Float[Tensor, "P G"]:
    """Rewards less their group's mean, divided by its standard deviation if asked for.

    A group whose rewards are all equal has advantages of 0, however they are scaled.

    Args:
        rewards: of G completions of each of P prompts.
        scale_rewards: "none" (SPG, GDPO) or "group" (GRPO, BGPO), TRL's name.

    Raises:
        UserError: one completion a prompt, or rewards that are not finite.
    """
    if rewards.shape[1] < 2:
        raise UserError("a group of 1 completion has no baseline and no advantage: num_generations is 2 or more")
    if scale_rewards not in ("none", "group"):
        raise UserError(f"scale_rewards is {scale_rewards!r}: choose none or group")
    if not bool(rewards.isfinite().all()):
        bad = (~rewards.isfinite()).nonzero()[0].tolist()
        raise UserError(f"the reward of prompt {bad[0]}, completion {bad[1]} is {float(rewards[*bad])}, not a number")
    spread = rewards.amax(1, keepdim=True) > rewards.amin(1, keepdim=True)
    advantages = torch.where(spread, rewards - rewards.mean(1, keepdim=True), 0.0)
    if scale_rewards == "none":
        return advantages
    deviation = rewards.std(1, keepdim=True)
    return torch.where(spread, advantages / deviation.clamp_min(math.ulp(1.0)), 0.0)
