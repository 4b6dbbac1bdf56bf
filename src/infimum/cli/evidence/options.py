"""The flags of ``infimum evidence``: which method each belongs to, and what contradicts what."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

import tyro

from infimum.cli.language import rows_of
from infimum.cli.models import check_apart, check_device, check_target
from infimum.errors import UserError
from infimum.evidence import Plan

__all__ = ["Evidence", "check", "draws_of", "for_texts", "plan_of"]


@dataclass(frozen=True)
class Evidence:
    """Held-out log-evidence of a checkpoint, with its side, standard error, diagnostics and certificate.

    Methods: is (importance sampling), stratified (the same, draws shared out evenly over the proposals), ais (annealed importance
    sampling: a lower side for any data), smc (sequential Monte Carlo: over the steps of sequential latents, else annealing with
    resampling), bdmc (annealing from both sides, on items drawn from the model; with --data also forward on your data,
    and the gap as its calibration).
    """

    checkpoint: tyro.conf.Positional[str]
    """run directory or checkpoint folder"""
    adapter: str | None = None
    """folder of low-rank adapters of a language model, as Adapter.save or peft writes them"""
    method: Literal["is", "stratified", "ais", "smc", "bdmc"] = "is"
    """how the evidence is estimated"""
    data: str | None = None
    """file or folder of your own, preprocessed as the training data were (default: the held-out split); for a language model, .txt
    with a text a line, or .jsonl with prompt and completion, or text"""
    chat: bool = False
    """put the prompts of --data into the chat template of a language model's tokenizer"""
    split: Literal["train", "valid", "test"] | None = None
    """split of the training data (default: test)"""
    simulate: int | None = None
    """bracket the evidence of this many items drawn from the model itself: their latents are posterior draws, which an upper
    bound needs (is, stratified, bdmc; default of bdmc: 100)"""
    k: int | None = None
    """draws an item (default 5000, of a language model 128), annealed chains an item (ais, bdmc: 16), or particles of a system
    (smc: 500; annealed: 8)"""
    plan: Literal["iid", "antithetic", "stratified", "sobol"] | None = None
    """how the draws of an item relate (is; default iid)"""
    replicates: int | None = None
    """independent repetitions, the unit of standard errors: of a stratified or Sobol plan within --k, or of smc (default 8;
    annealed: 2)"""
    proposal: Literal["auto", "encoder", "defensive"] = "auto"
    """where draws come from; defensive: shared among the encoder, the encoder stretched, and the prior (auto: for
    VAEs under is and stratified)"""
    given: tuple[str, ...] = ()
    """modalities that are known: evidence of --target given these, as an interval (multimodal models)"""
    target: tuple[str, ...] = ()
    """modalities whose evidence given --given is wanted (default: all others)"""
    orders: int | None = None
    """random orders of the tokens to unroll, a network call a token each: importance weights and a certificate (masked
    diffusion)"""
    temperatures: int | None = None
    """of annealing (ais, smc, bdmc; default 100)"""
    schedule: Literal["sigmoid", "linear", "adaptive"] | None = None
    """of the temperatures; adaptive: constant conditional effective sample size, from a pilot run (default sigmoid)"""
    kernel: Literal["auto", "hmc", "mala", "metropolis", "gibbs"] | None = None
    """moves of the chains, tuned in a pilot run and frozen; auto: gibbs for bits, else hmc (ais, smc, bdmc)"""
    leapfrog: int | None = None
    """leapfrog steps of a move of hmc (default 10)"""
    delta: float = 0.05
    """probability that the certificate fails; split between the sides of a bracket"""
    unit: Literal["nats", "bits", "bits/dim"] = "nats"
    """of the printed numbers and of --csv and --parquet"""
    seed: int = 0
    """of the draws"""
    rows: int = 2**11
    """(draw, item) pairs through the network at a time"""
    device: str = "cpu"
    """cpu, cuda, cuda:1, mps"""
    json: str | None = None
    """write the estimate, item by item, for infimum compare"""
    csv: str | None = None
    """write one line an item"""
    parquet: str | None = None
    """the same table as a Parquet file"""
    quiet: bool = False
    """print the result only"""


_METHODS = {
    "simulate": ("is", "stratified", "bdmc"),
    "plan": ("is",),
    "replicates": ("is", "stratified", "smc"),
    "temperatures": ("ais", "smc", "bdmc"),
    "schedule": ("ais", "smc", "bdmc"),
    "kernel": ("ais", "smc", "bdmc"),
    "leapfrog": ("ais", "smc", "bdmc"),
}
"""Which methods a flag belongs to."""

_DRAWS = {"is": 5000, "stratified": 5000, "ais": 16, "smc": 500, "bdmc": 16}

OF_TEXTS = 128
"""Draws an item of a language model: as many as of LLaDA's likelihoods (2502.09992)."""

_ANNEALED = {"replicates": 2, "k": 8}
"""Systems and particles where smc anneals: every particle takes all the moves."""


def check(options: Evidence) -> None:
    """Refuse what cannot be meant, before a model is read.

    Raises:
        UserError: names the flag, its value and the remedy.
    """
    for flag, methods in _METHODS.items():
        if getattr(options, flag) is not None and options.method not in methods:
            raise UserError(
                f"--{flag} is for --method {' or '.join(methods)}, and this is --method {options.method}: leave one of them out"
            )
    if not 0 < options.delta < 1:
        raise UserError(f"--delta is the probability that the certificate fails, in (0, 1), got {options.delta}")
    _within("k", draws_of(options), 1, 1_000_000, "the number of draws an item, chains or particles")
    if not 0 <= options.seed < 2**63 - 1:
        raise UserError(f"--seed is {options.seed}, expected a whole number from 0 to 2^63 - 2")
    if options.rows < 1:
        raise UserError(f"--rows is the number of pairs at a time, at least 1, got {options.rows}")
    _within("temperatures", options.temperatures, 1, 1_000_000, "the number of annealing steps")
    _within("leapfrog", options.leapfrog, 1, 10_000, "the number of leapfrog steps of a move")
    if options.method == "smc":
        _within("replicates", options.replicates, 1, 1_000_000, "the number of independent particle systems")
    if options.target and not options.given:
        raise UserError(
            "--target names what is to be told from --given: give both, or neither for the evidence of all modalities"
        )
    if options.given:
        other = next((f for f in ("json", "csv", "parquet") if getattr(options, f) is not None), None)
        if other or options.method not in ("is", "stratified") or options.unit != "nats":
            raise UserError(
                "--given prints an interval in nats, a difference of two evidences by importance sampling: leave out "
                f"{f'--{other}' if other else f'--method {options.method}' if options.unit == 'nats' else f'--unit {options.unit}'}"
            )
        if options.proposal == "defensive":
            raise UserError(
                "--proposal defensive is for VAEs of one modality, --given for those of several: leave one of them out"
            )
    if options.simulate is not None and options.simulate < 1:
        raise UserError(f"--simulate is how many items to draw, at least 1, got {options.simulate}")
    if options.leapfrog is not None and options.kernel not in (None, "auto", "hmc"):
        raise UserError(f"--leapfrog is for --kernel hmc, and this is --kernel {options.kernel}: leave one of them out")
    if options.data is not None and options.split is not None:
        raise UserError(
            "--data evaluates all items of a file, --split a part of the training data: leave one of them out"
        )
    if options.simulate is not None and options.method != "bdmc" and (options.data or options.split):
        raise UserError("--simulate draws its items from the model: leave --data and --split out, or use --method bdmc")
    if options.json is not None and on_simulated_only(options):
        raise UserError(
            "--json keeps an estimate for infimum compare, and items drawn from the model are no other model's: use --csv"
        )
    plan_of(options)
    check_device(options.device)
    for flag in ("json", "csv", "parquet"):
        check_target(f"--{flag}", getattr(options, flag))
    check_apart(options.data, {f"--{flag}": getattr(options, flag) for flag in ("csv", "parquet", "json")})


def for_texts(options: Evidence, length: int) -> Evidence:
    """The options with as many draws and rows as a language model takes.

    Raises:
        UserError: a unit a dimension, which texts of unlike lengths have not.
    """
    if options.unit == "bits/dim":
        raise UserError(
            "--unit bits/dim is for items of one shape, and texts have lengths of their own: use nats or bits"
        )
    k = OF_TEXTS if options.k is None else options.k
    return dataclasses.replace(options, k=k, rows=rows_of(length, options.rows))


def on_simulated_only(options: Evidence) -> bool:
    """Whether all items are drawn from the model."""
    if options.method == "bdmc":
        return options.data is None and options.split is None
    return options.simulate is not None


def annealing_flag(options: Evidence) -> str | None:
    """A flag of annealing that was given, if any."""
    return next(
        (f for f in ("temperatures", "schedule", "kernel", "leapfrog") if getattr(options, f) is not None), None
    )


def draws_of(options: Evidence) -> int:
    """Draws, chains or particles an item."""
    return _DRAWS[options.method] if options.k is None else options.k


def plan_of(options: Evidence, *, few: bool = False) -> Plan:
    """How the draws of an item are spent; ``few``: of particles that anneal."""
    k, replicates = draws_of(options), 8 if options.replicates is None else options.replicates
    if options.method == "smc":
        if few:
            return Plan(replicates=options.replicates or _ANNEALED["replicates"], levels=options.k or _ANNEALED["k"])
        return Plan(replicates=replicates, levels=k)
    kind = "stratified" if options.method == "stratified" else options.plan or "iid"
    if kind in ("iid", "antithetic"):
        if options.replicates is not None:
            raise UserError(
                f"--replicates is for stratified and Sobol plans; every draw of an {kind} plan is its own: leave it out"
            )
        return Plan.iid(k) if kind == "iid" else Plan.antithetic(k)
    if replicates < 1 or k % replicates:
        raise UserError(f"--replicates {replicates} must divide --k {k}")
    if kind == "sobol":
        return Plan.sobol(k // replicates, replicates)
    return Plan.stratified(k // replicates, replicates=replicates)


def _within(flag: str, value: int | None, low: int, high: int, what: str) -> None:
    if value is not None and not low <= value <= high:
        raise UserError(f"--{flag} is {what}, at least {low} and at most {high:,}, got {value}")
