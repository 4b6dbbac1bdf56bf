"""What does a gradient rule or a plan of draws buy: variance of the gradient times the time that it takes?

The encoder's gradient on one batch of 64 binarised digits, under a VAE, a VAE with a mixture posterior and a sigmoid belief
net, each half trained; K = 8 draws an item. Within a target (the bound whose gradient is taken) a row is compared with the
plain rule there: the smaller the product of variance and time, the better.
"""

import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

from common import options, save, seconds
from infimum.data import load
from infimum.evidence import LatentModel, Plan, Rule, bound_backward, tvo_rule
from infimum.training import Run, train
from infimum.vae import VAE, BeliefNet, BeliefNetConfig, Objective, VAEConfig, VAELearner

K, BATCH, HALF_TRAINED = 8, 64, 400
TVO = tvo_rule((0.0, 0.1, 0.3, 1.0))
IID, TWINS, SOBOL, STRATA = Plan.iid(K), Plan.antithetic(K), Plan.sobol(K), Plan.stratified(K)
Row = tuple[str, str, str, str | Rule, Plan]  # target, rule, plan; the first row of a target is its plain one

VAE_ROWS: list[Row] = [
    ("ELBO", "elbo", "random", "elbo", IID), ("ELBO", "elbo", "antithetic", "elbo", TWINS),
    ("ELBO", "elbo", "Sobol", "elbo", SOBOL), ("ELBO", "stl", "random", "stl", IID),
    ("ELBO", "stl", "antithetic", "stl", TWINS), ("ELBO", "stl", "Sobol", "stl", SOBOL),
    ("ELBO", "rloo", "random", "rloo", IID),
    ("IWAE-8", "iwae", "random", "iwae", IID), ("IWAE-8", "iwae", "antithetic", "iwae", TWINS),
    ("IWAE-8", "iwae", "Sobol", "iwae", SOBOL), ("IWAE-8", "dreg", "random", "dreg", IID),
    ("IWAE-8", "vimco", "random", "vimco", IID), ("IWAE-8", "stl_iwae (biased)", "random", "stl_iwae", IID),
    ("wake-phi", "rws", "random", "rws", IID), ("wake-phi", "rws_dreg", "random", "rws_dreg", IID),
    ("TVO", "tvo", "random", TVO, IID),
]  # fmt: skip
MIXTURE_ROWS: list[Row] = [
    ("ELBO", "elbo", "random", "elbo", IID), ("ELBO", "elbo", "stratified components", "elbo", STRATA),
    ("IWAE-8", "iwae", "random", "iwae", IID), ("IWAE-8", "iwae", "stratified components", "iwae", STRATA),
]  # fmt: skip
BELIEF_ROWS: list[Row] = [
    ("ELBO", "rloo", "random", "rloo", IID), ("ELBO", "disarm", "antithetic", "disarm", TWINS),
    ("IWAE-8", "vimco", "random", "vimco", IID),
    ("wake-phi", "rws", "random", "rws", IID), ("TVO", "tvo", "random", TVO, IID),
]  # fmt: skip


def models(x: Tensor, steps: int) -> dict[str, tuple[LatentModel, list[Row]]]:
    """The three models after some training, where neither the encoder's start nor its optimum is special."""
    shape = tuple(x.shape[1:])
    torch.manual_seed(0)
    found: dict[str, tuple[LatentModel, list[Row]]] = {
        "VAE": (VAE(VAEConfig(shape, latent=8)), VAE_ROWS),
        "VAE, mixture of 4": (VAE(VAEConfig(shape, latent=8, posterior="mixture")), MIXTURE_ROWS),
        "belief net": (BeliefNet(BeliefNetConfig(shape, latent=12)), BELIEF_ROWS),
    }
    for name, (model, _) in found.items():
        rule = "vimco" if name == "belief net" else "elbo"
        with tempfile.TemporaryDirectory() as folder:
            learner = VAELearner(model, x, Objective(rule=rule, k=4))
            run = Run(Path(folder, "run"), quiet=True)
            seconds(lambda learner=learner, run=run: train(learner, steps=steps, run=run, every=steps))
        model.eval()
    return found


def distances(gradients: Tensor) -> Tensor:
    """Squared distance of every replicate from their mean, scaled so that the average is the trace of the covariance."""
    r = gradients.shape[0]
    return (gradients - gradients.mean(0)).square().sum(1) * r / (r - 1)


def measure(model: LatentModel, rows: list[Row], x: Tensor, replicates: int) -> list[dict]:
    """All rows in turns, a replicate each, so that a slow moment of the machine meets them all."""
    weights = list(model.encoder.parameters())
    gradients: list[list[Tensor]] = [[] for _ in rows]
    times: list[list[float]] = [[] for _ in rows]
    for r in range(-3, replicates):
        for i, (*_, rule, plan) in enumerate(rows):
            model.zero_grad()
            keys = torch.arange(BATCH) + (r + 3) * BATCH  # a running count, as in training
            draws = plan.draws(keys, salt="train")
            start = time.perf_counter()
            bound_backward(model, x, draws, rule)
            taken = time.perf_counter() - start
            if r >= 0:
                times[i].append(taken)
                gradients[i].append(torch.cat([p.grad.flatten() for p in weights]))
    spread = [distances(torch.stack(each)) for each in gradients]
    cost = [1e3 * sorted(each)[len(each) // 2] for each in times]
    generator = torch.Generator().manual_seed(0)
    pick = torch.randint(replicates, (2000, replicates), generator=generator)
    plain: dict[str, int] = {}
    answers = []
    for i, (target, rule_name, plan_name, _, _) in enumerate(rows):
        base = plain.setdefault(target, i)
        # Both sides resample their replicates; the times are medians over all of them.
        boot = spread[i][pick].mean(1) / spread[base][pick.flip(0)].mean(1) * (cost[i] / cost[base])
        product = float(spread[i].mean() / spread[base].mean()) * cost[i] / cost[base]
        answers.append({
            "target": target, "rule": rule_name, "plan": plan_name, "variance": float(spread[i].mean()), "ms": cost[i],
            "variance_relative": float(spread[i].mean() / spread[base].mean()),
            "variance_x_time_relative": 1.0 if i == base else product,
            "low": 1.0 if i == base else float(boot.quantile(0.025)),
            "high": 1.0 if i == base else float(boot.quantile(0.975)),
        })  # fmt: skip
    return answers


def main() -> None:
    args = options(__doc__ or "")
    replicates, steps = (10, 20) if args.quick else (300, HALF_TRAINED)
    dataset = load("digits")
    x = dataset.train[:BATCH]
    found = models(dataset.train, steps)
    result = {name: measure(model, rows, x, replicates) for name, (model, rows) in found.items()}
    save("gradients", args, {"k": K, "batch": BATCH, "replicates": replicates, "models": result})


if __name__ == "__main__":
    main()
