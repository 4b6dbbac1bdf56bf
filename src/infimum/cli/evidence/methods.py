"""What each method makes of a model and items: estimates, or a bracket on items drawn from the model."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from infimum.cli.evidence.options import Evidence, annealing_flag, draws_of, plan_of
from infimum.cli.models import Items
from infimum.errors import UserError
from infimum.evidence import (
    Annealing,
    Bracket,
    Estimate,
    Kernel,
    Plan,
    SequentialModel,
    ais,
    annealed_smc,
    bdmc,
    elbo,
    evaluate,
    fivo,
    gibbs,
    hmc,
    iw_eubo,
    iwae,
    linear_betas,
    mala,
    metropolis,
    sigmoid_betas,
    smc,
    tune,
)
from infimum.evidence._tree import leaves, map_tree
from infimum.evidence.bdmc import annealed
from infimum.training.progress import Progress, on_terminal

__all__ = ["bracket_of", "estimates_of"]


def estimates_of(model: Any, items: Items, options: Evidence) -> list[Estimate]:
    """Estimates of given items, the best last."""
    x, keys = map_tree(lambda t: t.to(options.device), items.x), items.keys.to(options.device)
    if options.method == "smc":
        return _particles(model, x, keys, options)
    if options.method in ("ais", "bdmc"):
        return [_forward(_annealable(model, options), x, keys, options)]
    return _weighted(model, x, keys, options)


def bracket_of(model: Any, options: Evidence) -> Bracket:
    """Certified bounds from both sides, on items simulated from the model (bidirectional Monte Carlo, 1511.02543)."""
    flag = "--method bdmc" if options.method == "bdmc" else "--simulate"
    if not hasattr(model, "simulate"):
        raise UserError(f"{flag} draws items from the model, and a {type(model).__name__} has no simulate(n, seed)")
    n = 100 if options.simulate is None else options.simulate
    with torch.no_grad():
        z, x = model.simulate(n, options.seed)
    z, x = (map_tree(lambda t: t.to(options.device), part) for part in (z, x))
    if options.method == "bdmc":
        proposal = _annealable(model, options)
        path = _path(proposal, x, torch.arange(n, device=options.device), options)
        chains = draws_of(options)
        with _progress(options, 2 * chains * n * (len(path.betas) - 1)) as seen:
            return bdmc(proposal, (z, x), path, chains=chains, seed=options.seed, rows=options.rows, progress=seen)
    proposal, seeds = _proposal(model, options), (options.seed, options.seed + 1)
    with _progress(options, 2 * n, lines=False) as seen:
        plan, k = plan_of(options), draws_of(options)
        splits = _splits(n, k) if plan == Plan.iid(k) else 1
        lower = evaluate(
            proposal, x, plan, lambda w: iwae(w, splits=splits), seed=seeds[0], rows=options.rows, progress=seen
        )
        upper = evaluate(
            proposal, x, Plan(levels=draws_of(options)), iw_eubo, seed=seeds[1], rows=options.rows, latents=z,
            progress=lambda done: seen(n + done),
        )  # fmt: skip
    return Bracket(lower, upper)


@contextmanager
def _progress(options: Evidence, steps: int, *, lines: bool = True) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; elsewhere plain lines, where the work is long enough for them."""
    bar = on_terminal() and not options.quiet
    with Progress(start=0, steps=steps, bar=bar, silent=options.quiet or not (bar or lines)) as progress:
        yield lambda done: progress.advance(done, {})


def _proposal(model: Any, options: Evidence) -> Any:
    """The model with the proposal that was asked for."""
    from infimum.vae import defensive
    from infimum.vae.model import Autoencoder

    text = hasattr(model, "vocabulary")
    if isinstance(model, Autoencoder) or text:
        # annealing moves its chains away from q; what it needs of q is closeness, not heavy tails
        own = options.proposal == "encoder" or (options.proposal == "auto" and options.method in ("ais", "smc", "bdmc"))
        if text and not own:
            from infimum.vae.text import with_prior

            return with_prior(model)
        return model if own else defensive(model)
    if options.proposal == "defensive":
        raise UserError(f"--proposal defensive is for VAEs, this is a {type(model).__name__}: use encoder")
    return model


def _weighted(model: Any, x: Any, keys: torch.Tensor, options: Evidence) -> list[Estimate]:
    """All that the model offers: exact evidence, importance-weighted bounds, or an ELBO."""
    if not (hasattr(model, "log_joint") or hasattr(model, "terms") or hasattr(model, "log_evidence")):
        hint = ": use --method smc" if isinstance(model, SequentialModel) else ""
        raise UserError(
            f"this model has no evidence by draws (it is a {type(model).__name__}){hint or ': nothing to estimate'}"
        )
    found: list[Estimate] = []
    k = draws_of(options)
    plan = plan_of(options)
    splits = _splits(len(keys), k) if plan == Plan.iid(k) else 1
    tight = [iwae] if splits == 1 else [lambda w: iwae(w, splits=splits), iwae]
    if hasattr(model, "log_evidence"):
        try:
            with torch.no_grad():
                found.append(model.log_evidence(x))
        except UserError as error:
            print(f"no exact evidence: {error}")
    if hasattr(model, "log_joint") or hasattr(model, "terms"):
        weighted = hasattr(model, "log_joint")
        proposal = _proposal(model, options)
        common: dict[str, Any] = {"keys": keys, "seed": options.seed, "rows": options.rows}
        with _progress(options, len(keys)) as seen:
            common["progress"] = seen
            if weighted and proposal is not model:  # the ELBO is the encoder's own
                found.append(evaluate(model, x, Plan.iid(min(k, 500)), elbo, **common))
                found += evaluate(proposal, x, plan, tight, **common)
            else:
                found += evaluate(model, x, plan, [elbo, *tight] if weighted else [elbo], **common)
    if options.orders is not None:
        if not hasattr(model, "unrolled") or options.orders < 1:
            raise UserError(
                f"--orders is {options.orders} for a {type(model).__name__}: it is at least 1, and for masked diffusion models"
            )
        plan = Plan.iid(options.orders)
        found.append(
            evaluate(model.unrolled(options.rows), x, plan, iwae, keys=keys, seed=options.seed, rows=options.rows)
        )
    return found


def _splits(n: int, k: int) -> int:
    """Groups whose bounds are averaged for few items: R = ceil(100 / N) with K / R >= 100 (00-bounds 3.1 e), a divisor of K."""
    wanted = min(math.ceil(100 / n), k // 100)
    return next((r for r in range(wanted, 0, -1) if k % r == 0), 1)


def _particles(model: Any, x: Any, keys: torch.Tensor, options: Evidence) -> list[Estimate]:
    """Particle systems over a model's own steps, or over the temperatures of an annealing path."""
    steps = isinstance(model, SequentialModel)
    if steps and annealing_flag(options):
        raise UserError(
            f"--{annealing_flag(options)} is for annealing, and --method smc follows the steps of a {type(model).__name__}: "
            "leave it out"
        )
    if not steps and not hasattr(model, "log_joint"):
        raise UserError(
            f"--method smc needs sequential latents (initial, transition, log_increment), or log_joint(x, z) to anneal, and a "
            f"{type(model).__name__} has neither: use is"
        )
    model = model if steps else _proposal(model, options)
    plan = plan_of(options, few=not steps)
    draws = plan.draws(keys, seed=options.seed, salt="eval", device=options.device)
    size = f"{plan.levels} particles, {plan.replicates} systems"
    with torch.no_grad():
        if steps:
            count = model.steps(model.encode(map_tree(lambda t: t[:1], x)))
            with _progress(options, plan.k * len(keys) * count) as seen:
                table = smc(model, x, draws, rows=options.rows, progress=seen)
        else:
            path = _path(model, x, keys, options)
            count = len(path.betas) - 1
            size += f", {count} temperatures"
            with _progress(options, plan.k * len(keys) * count) as seen:
                table = annealed_smc(model, x, draws, path.betas, path.kernels, rows=options.rows, progress=seen)
    pair = {"FIVO" if steps else "log of one system": fivo(table), "SMC": iwae(table)}
    ceiling = getattr(model, "ceiling", None)
    return [dataclasses.replace(e, name=f"{name} ({size})", ceiling=ceiling) for name, e in pair.items()]


def _annealable(model: Any, options: Evidence) -> Any:
    if not hasattr(model, "log_joint"):
        raise UserError(
            f"--method {options.method} needs log_joint(x, z), which a {type(model).__name__} has not: use is"
        )
    return _proposal(model, options)


def _path(model: Any, x: Any, keys: torch.Tensor, options: Evidence) -> Annealing:
    """The schedule and the kernels, tuned in a pilot run on the first items."""
    draws = Plan.iid(draws_of(options)).draws(keys, seed=options.seed, salt="pilot", device=options.device)
    count = 100 if options.temperatures is None else options.temperatures
    betas = linear_betas(count) if options.schedule == "linear" else sigmoid_betas(count)
    if options.schedule == "adaptive" and draws_of(options) < 2:
        raise UserError("--schedule adaptive measures the spread of an item's chains: use --k 2 or more")
    kernel = _kernel(model, x, draws, options)
    return tune(model, x, draws, betas, kernel, adaptive=options.schedule == "adaptive")


def _kernel(model: Any, x: Any, draws: Any, options: Evidence) -> Kernel:
    name = options.kernel or "auto"
    if name == "auto":
        few = torch.arange(min(8, draws.shape[1]), device=draws.device)
        with torch.no_grad():
            z = model.sample(model.encode(map_tree(lambda t: t[few], x)), draws.take(few)[:8])
        bits = all(bool(((leaf == 0) | (leaf == 1)).all()) for leaf in leaves(z))
        name = "gibbs" if bits else "hmc"
    if name == "hmc":
        return hmc(leapfrog=10 if options.leapfrog is None else options.leapfrog)
    if options.leapfrog is not None:
        raise UserError(
            "--leapfrog is for --kernel hmc, and this model's latents are bits, moved by gibbs: leave it out"
        )
    others: dict[str, Callable[[], Kernel]] = {"mala": mala, "metropolis": metropolis, "gibbs": gibbs}
    return others[name]()


def _forward(model: Any, x: Any, keys: torch.Tensor, options: Evidence) -> Estimate:
    path = _path(model, x, keys, options)
    draws = Plan.iid(draws_of(options)).draws(keys, seed=options.seed, salt="eval", device=options.device)
    with _progress(options, draws.plan.k * len(keys) * (len(path.betas) - 1)) as seen:
        table = ais(model, x, draws, path.betas, path.kernels, rows=options.rows, progress=seen)
    return dataclasses.replace(annealed(table, path), ceiling=getattr(model, "ceiling", None))
