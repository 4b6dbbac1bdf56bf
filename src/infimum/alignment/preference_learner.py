"""Learning from preferences: a step is a batch of pairs."""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from infimum.alignment.backward import Engine
from infimum.alignment.policy import Reference, check_reference, parts_of
from infimum.alignment.preference import PARTS, VRPO, canvases, preference_backward, preference_loss
from infimum.alignment.table import take
from infimum.data import batches
from infimum.discrete import MaskedDiffusion
from infimum.errors import UserError
from infimum.training import Fit

__all__ = ["PreferenceLearner"]


class PreferenceLearner:
    """A step is a batch of preference pairs, for `train`. The network is in evaluation mode: no dropout.

    Args:
        policy: trained in place.
        pairs: see `pairs_of`.
        reference: a frozen model, or a context in which the policy is the reference, such as peft's ``model.disable_adapter``.
        method: `VRPO`.
        batch: pairs a step, over all processes (64).
        engine: "auto": one graph for as many pairs as fit into ``rows`` with their draws; "graph" or "two_pass".
        rows: masked canvases at a time: what memory grows with.
        lr, betas, decay: of AdamW (5e-7; 0.9, 0.95; 0.01).
        clip: largest gradient norm; None: no clipping.
        seed: of the order of the pairs.

    Raises:
        UserError: no pairs, pairs that are none, a reference that shares its parameters with the policy.
    """

    def __init__(
        self,
        policy: MaskedDiffusion,
        pairs: Mapping[str, Tensor],
        reference: Reference,
        method: VRPO | None = None,
        *,
        batch: int = 64,
        engine: Engine = "auto",
        rows: int = 256,
        lr: float = 5e-7,
        betas: tuple[float, float] = (0.9, 0.95),
        decay: float = 0.01,
        clip: float | None = 1.0,
        seed: int = 0,
    ) -> None:
        self.policy, self.pairs, self.reference, self.method = policy, dict(pairs), reference, method or VRPO()
        missing = [
            f"{name}/{part}" for name in ("chosen", "rejected") for part in PARTS if f"{name}/{part}" not in pairs
        ]
        if missing:
            raise UserError(f"the pairs have no {missing[0]}: make them with pairs_of or text_pairs")
        if engine not in ("auto", "graph", "two_pass"):
            raise UserError(f"engine is {engine!r}: choose auto, graph or two_pass; a sigmoid is no sum over masks")
        if batch < 1 or rows < 1:
            raise UserError(f"batch is {batch} and rows {rows}, expected at least 1 of each")
        self.batch, self.engine, self.rows, self.clip, self.seed = batch, engine, rows, clip, seed
        first = canvases(policy, {name: each[:1] for name, each in self.pairs.items()})
        del first  # refuses what is no batch
        same = self._same()
        if same:
            warnings.warn(
                f"{same} of {len(self.pairs['chosen/tokens'])} pairs have the same completion twice and teach nothing",
                stacklevel=2,
            )
        trained = [p for p in policy.parameters() if p.requires_grad]
        check_reference(policy, reference)
        self._alike = isinstance(reference, MaskedDiffusion) and all(
            torch.equal(a, b) for a, b in zip(policy.parameters(), reference.parameters(), strict=False)
        )
        self.modules: Mapping[str, nn.Module] = parts_of(policy)
        self.optimizers: Mapping[str, torch.optim.Optimizer] = {
            "main": torch.optim.AdamW(trained, lr=lr, betas=betas, weight_decay=decay, fused=True)
        }

    def _same(self) -> int:
        """Pairs whose completions have the same tokens, wherever they stand."""
        rows = []
        for name in ("chosen", "rejected"):
            target = self.pairs[f"{name}/target"]
            found = self.pairs[f"{name}/tokens"][target].tolist()
            ends = target.sum(1).cumsum(0).tolist()
            rows.append([found[a:b] for a, b in zip([0, *ends], ends, strict=False)])
        return sum(one == other for one, other in zip(*rows, strict=True))

    def batches(self, start: int) -> Iterator[Any]:
        """Minibatches, pure in their number."""
        index = torch.arange(len(self.pairs["chosen/tokens"]))
        for _, i in batches(index, self.batch, seed=self.seed, start=start):
            yield {name: each[i.to(each.device)] for name, each in self.pairs.items()}

    def step(self, batch: Any, fit: Fit) -> Mapping[str, float | Tensor]:
        """One update; metrics by TRL's names."""
        self.policy.to(fit.device).eval()  # of an adapter the loop has moved the trained part alone
        if isinstance(self.reference, MaskedDiffusion):
            self.reference.to(fit.device).eval()
        one = self.method
        s = canvases(self.policy, batch)
        items = len(s[0].lengths)
        draws = fit.draws(one.plan, items)
        losses, plain, rewards, size = [], [], [], max(1, self.rows // (2 * one.plan.k))
        for part in torch.arange(items, device=draws.device).split(size):
            mine, some = (take(s[0], part), take(s[1], part)), draws.take(part)
            with fit.autocast():
                score = preference_backward(
                    self.policy, self.reference, mine, some, one, unit=float(items), engine=self.engine, rows=self.rows,
                    backward=fit.backward,
                )  # fmt: skip
            losses.append(preference_loss(score, one))
            plain.append(losses[-1] + one.sft_weight * score.chosen / score.lengths)
            rewards.append(one.beta * score.rewards)
            if fit.step == 0 and self._alike and one.share_noise and bool((score.margin != 0).any()):
                raise UserError(
                    f"policy and reference have the same weights and a score of {float(score.margin.abs().max()):.3g} nats: "
                    f"they do not "
                    "see the same masks, or dropout is active"
                )
            fit.watch(score=score.policy[..., 0] - score.policy[..., 1])
        fit.update(clip=self.clip)
        gain = torch.cat(rewards)
        margin = gain[:, 0] - gain[:, 1]
        return {
            "loss": torch.cat(losses).mean(),
            "loss/preference": torch.cat(plain).mean(),
            "rewards/chosen": gain[:, 0].mean(),
            "rewards/rejected": gain[:, 1].mean(),
            "rewards/margins": margin.mean(),
            "rewards/accuracies": (margin > 0).double().mean(),
        }
