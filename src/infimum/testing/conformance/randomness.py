"""Where a model's randomness comes from: its draws, and nothing else."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from infimum.evidence._tree import leaves
from infimum.evidence.plan import Plan
from infimum.testing.conformance.case import FEW, ITEMS, Case, differs_tree, discrete, pick
from infimum.testing.conformance.report import Failed, Skipped
from infimum.testing.conformance.shapes import draw_few, skip_in_eval

__all__ = [
    "densities",
    "deterministic",
    "fresh",
    "in_mode",
    "modes_agree",
    "own_randomness",
    "path_deterministic",
    "path_fresh",
    "path_modes_agree",
    "path_own_randomness",
    "replayable",
]

Call = Callable[[], Any]
MANY = 64


def _twice(call: Call, reseed: bool) -> tuple[Any, Any]:
    """Two calls under the same, or under different states of torch's generator."""
    torch.manual_seed(1)
    first = call()
    torch.manual_seed(2 if reseed else 1)
    return first, call()


def densities(case: Case) -> Call:
    """A call of everything that must be a function of its arguments alone."""
    s, z = draw_few(case)
    return lambda: (case.model.encode(case.x), case.model.log_proposal(s, z), case.model.log_joint(case.x, z))


def _deterministic(call: Call, what: str) -> str:
    if differs_tree(*_twice(call, reseed=True)):
        raise Failed(
            f"two calls of {what} with the same arguments differ: the network draws numbers of its own (dropout); "
            "evaluate in eval mode, and take dropout out of a model that is trained by its bound"
        )
    return "two calls with the same arguments agree"


def deterministic(case: Case) -> str:
    """encode, log_proposal and log_joint are functions."""
    return _deterministic(densities(case), "encode, log_proposal or log_joint")


def path_deterministic(case: Case) -> str:
    """encode, constant and terms are functions of their arguments and draws."""
    return _deterministic(_path_call(case), "encode, constant or terms")


def in_mode(model: nn.Module, train: bool, call: Call) -> Any:
    """The result of a call in train or in eval mode; every part's own mode is put back."""
    modes = {part: part.training for part in model.modules()}
    try:
        model.train(train)
        return call()
    finally:
        for part, mode in modes.items():
            part.training = mode


def _modes_agree(case: Case, call: Call) -> str:
    skip_in_eval(case)
    if differs_tree(in_mode(case.model, True, call), in_mode(case.model, False, call)):
        raise Failed(
            "train mode and eval mode give different numbers (dropout, batch norm): the bound that is trained is not that "
            "of the model which is evaluated; use layer norm, and no dropout"
        )
    return "train mode and eval mode give the same numbers"


def modes_agree(case: Case) -> str:
    """Train mode changes nothing."""
    return _modes_agree(case, densities(case))


def path_modes_agree(case: Case) -> str:
    """Train mode changes nothing."""
    return _modes_agree(case, _path_call(case))


def _sampler(case: Case, **draws: int) -> Call:
    s = case.model.encode(case.x)
    return lambda: case.model.sample(s, case.draws(Plan.iid(FEW), **draws))


def _path_call(case: Case, k: int = FEW, **draws: int) -> Call:
    def call() -> Any:
        s = case.model.encode(case.x)
        return s, case.model.constant(case.x, s), case.model.terms(case.x, s, case.draws(Plan.iid(k), **draws))

    return call


def replayable(case: Case) -> str:
    """The same draws give the same latents."""
    if differs_tree(*_twice(_sampler(case), reseed=False)):
        raise Failed(
            "sample(s, draws) called twice with the same draws gave different latents: it keeps a state; take every random "
            "number from draws.normal, draws.uniform, draws.choose or draws.seeds"
        )
    return "the same draws give the same latents"


OWN = (
    "depends on torch's global generator: take every random number from draws.normal, draws.uniform, draws.choose or "
    "draws.seeds"
)


def own_randomness(case: Case) -> str:
    """torch.manual_seed changes nothing."""
    if differs_tree(*_twice(_sampler(case), reseed=True)):
        raise Failed(f"sample(s, draws) {OWN}")
    return "torch.manual_seed changes nothing"


def path_own_randomness(case: Case) -> str:
    """torch.manual_seed changes no term."""
    eval_call = _path_call(case)
    if differs_tree(*in_mode(case.model, False, lambda: _twice(eval_call, reseed=True))):
        raise Failed(f"terms(x, s, draws) {OWN}")
    return "torch.manual_seed changes nothing"


def fresh(case: Case) -> str:
    """Other seeds, draws and item keys give other latents, except where q leaves one value only."""
    s = case.model.encode(pick(case.x, torch.zeros(ITEMS, dtype=torch.int64, device=case.device)))

    def few(**draws: int) -> Any:
        return case.model.sample(s, case.draws(Plan.iid(MANY), **draws))

    z, other = few(), few(seed=1)
    parts = list(leaves(z))
    if all(discrete(part) for part in parts):
        log_q = case.model.log_proposal(s, z)
        ruled_out = float(log_q.double().sum()) < -25.0  # a chance of e-11 that independent draws repeat all of these
        if not ruled_out:
            raise Skipped("the proposal leaves one value only, so that independent draws repeat it")
    tail = torch.arange(1, MANY, device=case.device)
    rest = torch.arange(1, ITEMS, device=case.device)
    repeats = {
        "seed": not differs_tree(z, other),
        "draw": not differs_tree(pick(z, tail), pick(z, tail - 1)),
        "item": not differs_tree(pick(z, rest, 1), pick(z, rest - 1, 1)),
    }
    for name, stale in repeats.items():
        if stale:
            raise Failed(
                f"sample(s, draws) gives the same latents for every {name}: do not keep draws between calls or share them; "
                "ask `draws` for them in every call"
            )
    return "other seeds, draws and items give other latents"


def path_fresh(case: Case) -> str:
    """Other seeds and draws give other terms."""
    terms, other = _path_call(case, MANY)()[2], _path_call(case, MANY, seed=1)()[2]
    among = bool((terms != terms[:1]).any())
    if not differs_tree(terms, other):
        if not among:
            raise Skipped("the terms do not vary at all")
        raise Failed("terms(x, s, draws) gives the same terms for every seed: ask `draws` for numbers in every call")
    if not among:
        raise Failed("terms(x, s, draws) gives the same term for every draw: ask `draws` for (K, B, ...) numbers")
    return "other seeds and draws give other terms"
