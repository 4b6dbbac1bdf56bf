"""How often do certificates and delta intervals hold, with a good and a bad proposal?

50 items of z ~ N(0, 1), x|z ~ N(z, 0.1), K = 64 draws each; q is the exact posterior moved and stretched. Every
replicate has items and draws of its own. The truth is the exact mean of log p(x) over the items of the replicate.
"""

import math

import torch

from common import options, save
from infimum.evidence import Defensive, Estimate, Plan, evaluate, pareto_threshold
from infimum.evidence.model import LatentModel
from infimum.testing import LinearGaussian

ITEMS, K, DELTA = 50, 64, 0.05
PROPOSALS = {"good (shift 0.3 sd, 1.3x too wide)": (0.3, 1.3), "bad (shift 1 sd, 0.6x too narrow)": (1.0, 0.6)}


def model_with(shift: float, stretch: float, proposal: str = "posterior") -> LinearGaussian:
    """The model with a proposal made from its posterior or its prior."""
    one = torch.ones(1)
    return LinearGaussian(one[:, None], 0 * one, 0.1 * one, proposal=proposal, shift=shift, stretch=stretch).eval()


def share(hits: int, of: int) -> dict[str, float]:
    """A proportion and its binomial standard error."""
    p = hits / of
    return {"share": p, "stderr": math.sqrt(p * (1 - p) / of)}


def row(model: LatentModel, x: torch.Tensor, exact: torch.Tensor, replicates: int) -> dict:
    """Coverage of one proposal over all replicates."""
    whole = evaluate(model, x, Plan.iid(K), batch=5000, rows=2**18)
    covered = violated = 0
    slack, half, flags = [], [], []
    for r in range(replicates):
        at = slice(r * ITEMS, (r + 1) * ITEMS)
        part = Estimate(whole.value[at], whole.stderr[at], whole.side, whole.certified, whole.unbiased_for, whole.name,
                        diagnostics={n: t[at] for n, t in whole.diagnostics.items()}, draws=K)  # fmt: skip
        mean, truth = part.mean(DELTA), float(exact[at].mean())
        assert mean.certificate is not None and mean.tail is not None
        violated += mean.certificate > truth
        covered += abs(mean.value - truth) <= 1.96 * mean.stderr
        slack.append(mean.value - mean.certificate)
        half.append(1.96 * mean.stderr)
        flags.append(mean.tail.unreliable)
    return {
        "bias_nats": float((whole.value - exact).mean()),
        "certificate_violated": share(violated, replicates),
        "certificate_slack_nats": slack[0],
        "delta_interval_covers": share(covered, replicates),
        "delta_interval_half_width_nats": sum(half) / replicates,
        "items_flagged_by_pareto_k": sum(flags) / replicates,
        "replicates_with_most_items_flagged": share(sum(f > 0.5 for f in flags), replicates),
    }


def main() -> None:
    args = options(__doc__ or "")
    replicates = 40 if args.quick else 2000
    rows = {}
    for name, (shift, stretch) in PROPOSALS.items():
        model = model_with(shift, stretch)
        _, x = model.simulate(ITEMS * replicates, seed=1)
        with torch.no_grad():
            exact = model.log_evidence(x)
        rows[name] = row(model, x, exact, replicates)
        if name.startswith("bad"):
            rows[f"{name}, defensive: half of the draws from the prior"] = row(
                Defensive(model, model_with(0.0, 1.0, "prior")).eval(), x, exact, replicates
            )
    save("coverage", args, {"replicates": replicates, "items": ITEMS, "k": K, "delta": DELTA,
                            "pareto_limit": pareto_threshold(K), "rows": rows})  # fmt: skip


if __name__ == "__main__":
    main()
