"""Recipe: text VAEs by a density gap and by the cures of posterior collapse that it is compared with."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from infimum.data import Dataset
from infimum.data.sentences import load_sentences
from infimum.data.text import WORDS, Vocabulary
from infimum.errors import UserError
from infimum.evidence import Plan, elbo, evaluate
from infimum.recipes.base import Metrics, Recipe, mean_json, spec_json
from infimum.recipes.iwae import paired
from infimum.training import Run, train
from infimum.vae.text import (
    Plateau,
    TextLearner,
    TextObjective,
    TextVAE,
    TextVAEConfig,
    collapse_alarm,
    initialise,
    interpolate,
    latent_report,
    posterior_log_likelihood,
    prior_log_likelihood,
    reconstruct,
)

__all__ = ["DgVae"]

MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "vae": ({"regulariser": "kl"}, {}),
    "cyclic": ({"regulariser": "kl", "anneal": "cyclic"}, {}),
    **{f"beta-{beta:g}".replace("0.", "."): ({"regulariser": "kl", "beta": beta}, {}) for beta in (0.8, 0.4, 0.2, 0.1, 0.0)},
    "bn": ({"regulariser": "kl"}, {"posterior": "batch-norm", "gamma": 0.6}),
    **{
        f"bn-{gamma:g}".replace("0.", "."): ({"regulariser": "kl"}, {"posterior": "batch-norm", "gamma": gamma})
        for gamma in (0.7, 0.9, 1.2, 1.5, 1.8)
    },
    "delta": ({"regulariser": "kl"}, {"posterior": "delta", "delta": 0.15}),
    "fb": ({"regulariser": "free-bits", "target": 8.0}, {}),
    **{f"fb-{target}": ({"regulariser": "free-bits", "target": float(target)}, {}) for target in (4, 9, 16, 25, 36, 49)},
    "fb-batch": ({"regulariser": "free-bits-batch", "target": 8.0}, {}),
    "skip": ({"regulariser": "kl"}, {"skip": True}),
    "bow": ({"regulariser": "kl"}, {"bag_of_words": True}),
    "tc": ({"regulariser": "tc", "parts": (1.0, 6.0, 1.0)}, {}),
    "mmd": ({"regulariser": "mmd"}, {}),
    "aae": ({"regulariser": "aae"}, {}),
    **{f"dg-{b}": ({"regulariser": "gap", "aggregate": b}, {}) for b in (1, 2, 4, 8, 16)},
    "dg": ({"regulariser": "gap"}, {}),
    "dg-joint": ({"regulariser": "gap-joint"}, {}),
    "vmf": ({"regulariser": "kl"}, {"posterior": "vmf"}),
    "dg-vmf": ({"regulariser": "gap"}, {"posterior": "vmf"}),
    **{
        f"{name}-{kappa}": ({"regulariser": regulariser}, {"posterior": "vmf", "kappa": float(kappa)})
        for name, regulariser in (("vmf", "kl"), ("dg-vmf", "gap"))
        for kappa in (25, 50, 100, 200)
    },
}  # fmt: skip
"""Objective and posterior of every model; what is not named here is a flag."""

SHOWN = {
    "prior_ll": "prior LL", "post_ll": "post LL", "reconstruction": "reconstr.", "divergence": "KL", "information": "MI",
    "active": "AU", "consistent": "CU", "hole": "KL(p to q)",
    "outside": "KL(q to p)",
}  # fmt: skip

DRAWN = {
    "prior_ll": "prior LL, nats", "post_ll": "post LL, nats", "divergence": "KL, nats", "information": "MI, nats",
    "active": "active units", "consistent": "consistent units", "hole": "KL(p to q), nats",
}  # fmt: skip


@dataclass(frozen=True)
class DgVae(Recipe):
    """Density-gap VAE (arXiv 2211.00321) on sentences: active latents and a prior to draw from, beside VAE, BN-VAE, free bits."""

    data: str = "wikipedia"
    """sentences: wikipedia, a .txt file with one a line, or file.csv:column (paper: Yelp, Yahoo, SNLI)"""
    models: tuple[str, ...] = ("vae", "bn", "fb", "dg")
    """what is trained: vae, cyclic, beta-.8 -.4 -.2 -.1 -0, bn (gamma .6), bn-.7 -.9 -1.2 -1.5 -1.8, delta, fb (8 nats), fb-4 -9
    -16 -25 -36 -49, fb-batch, skip, bow, tc (beta-TCVAE), mmd, aae, dg-1 -2 -4 -8 -16 (mixtures of so many posteriors), dg (of the
    batch), dg-joint, vmf and dg-vmf (concentration --kappa), vmf-25 -50 -100 -200, dg-vmf-25 -50 -100 -200"""
    seeds: int = 5
    """trainings of each, from --seed on"""
    network: Literal["lstm", "transformer"] = "lstm"
    """encoder and decoder (paper: lstm)"""
    latent: int = 16
    """latent dimensions (paper: 32)"""
    embedding: int = 64
    """width of the word vectors (paper: 128 for short, 512 for long sentences)"""
    hidden: int = 64
    """width of the networks (paper: 512 for short, 1024 for long sentences)"""
    dropout: float = 0.0
    """of word vectors and outputs of the decoder (paper: 0.5)"""
    word_dropout: float = 0.0
    """share of words that the decoder does not get to read (paper: 0)"""
    kappa: float = 13.0
    """concentration of vmf and dg-vmf (paper: 13 to 200)"""
    draws: int = 32
    """latents a sentence in the density gap (paper: 32)"""
    epochs: int = 3
    """passes through the training sentences (paper: up to 100)"""
    anneal_epochs: float = 1.5
    """epochs in which the weight of the regulariser rises from 0 to 1 (paper: 10)"""
    batch: int = 32
    """sentences a step (paper: 32)"""
    bucketing: Literal["random", "length"] = "random"
    """batches of any sentences, padded, or of sentences of one length (official code: length)"""
    optimizer: Literal["adam", "sgd"] = "adam"
    """adam, or sgd from the official starting values (paper: sgd)"""
    lr: float = 4e-3
    """learning rate (paper: 0.5 for sgd, 1e-3 for adam)"""
    schedule: Literal["none", "plateau"] = "none"
    """of the rate: none, or plateau: half of it and back to the best weights after 5 epochs without a lower validation loss, from
    epoch 16 on; the fifth time ends the training (paper: plateau)"""
    words: int = WORDS
    """size of the vocabulary of the user's file"""
    longest: int = 20
    """tokens of the longest sentence of the user's file that is kept"""
    items: int = 400
    """test sentences whose likelihoods are estimated; the latents are measured on all"""
    eval_k: int = 16
    """draws a sentence, half from the prior and half from the posterior (paper: 16)"""
    delta: float = 0.05
    """probability that a certificate or an interval fails"""
    split_seed: int = 0
    """seed of the split into train, valid and test"""

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "gpu": {
            "latent": 32, "embedding": 128, "hidden": 512, "dropout": 0.5, "epochs": 40, "anneal_epochs": 10.0, "optimizer": "sgd",
            "lr": 0.5, "schedule": "plateau", "seeds": 1, "items": 10_000,
        },
        "paper": {
            "latent": 32, "embedding": 512, "hidden": 1024, "dropout": 0.5, "epochs": 100, "anneal_epochs": 10.0,
            "optimizer": "sgd", "lr": 0.5, "schedule": "plateau",
            "bucketing": "length", "seeds": 1, "words": 20_000, "longest": 200, "items": 10_000,
            "models": tuple(MODELS),
        },
    }  # fmt: skip

    def check(self) -> None:
        """Refuse what cannot be trained, before anything is written."""
        super().check()
        wrong = [name for name in self.models if name not in MODELS]
        if wrong or not self.models or len(set(self.models)) < len(self.models):
            raise UserError(f"--models is {' '.join(self.models)}, expected some of {' '.join(MODELS)}, each once")
        for name in ("seeds", "epochs", "embedding", "hidden", "items"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} is {getattr(self, name)}, expected a whole number of at least 1")
        if self.eval_k % 2:
            raise UserError(
                f"--eval-k is {self.eval_k}, expected an even number: half of the draws come from the prior"
            )
        small = Vocabulary.fit([["a"]])
        for name in self.models:
            self._objective(name).check(self._config(name, small, self.longest + 1), self.batch)

    def run(self, run: Run) -> Metrics:
        """Train every model from every seed, measure all on the same sentences, compare."""
        dataset, corpus = load_sentences(self.data, seed=self.split_seed, words=self.words, longest=self.longest)
        if run.writes and not run.quiet:
            print(
                f"{len(dataset.train)} sentences to train on; {corpus.left_out} of other lengths or repeated are left out, "
                f"{corpus.unknown:.0%} of the words are unknown to the vocabulary of {len(corpus.vocabulary)}"
            )
        found: dict[str, list[Metrics]] = {name: [] for name in self.models}
        for name in self.models:
            for seed in range(run.seed, run.seed + self.seeds):
                one = self._train(run, dataset, corpus.vocabulary, name, seed)
                if one is None:
                    return {"interrupted": True}
                found[name].append(one)
        metrics: Metrics = {name: _summaries(each) for name, each in found.items()}
        metrics["information cap"] = found[self.models[0]][0]["cap"]
        if "dg" in found and len(found) > 1:
            metrics["dg minus"] = {
                other: {key: paired(_column(found["dg"], key), _column(each, key), self.delta) for key in ("prior_ll", "post_ll")}
                for other, each in found.items() if other != "dg"
            }  # fmt: skip
        if run.writes:
            from infimum.report.dots import dots

            self._show(dataset, metrics)
            measured = {name: {key: metrics[name][key]["values"] for key in DRAWN} for name in self.models}
            dots(measured, DRAWN, run.figures / "models.png")
        return metrics

    def _objective(self, name: str) -> TextObjective:
        common: dict[str, Any] = {
            "draws": self.draws, "anneal_epochs": self.anneal_epochs, "cycle_epochs": 2 * self.anneal_epochs,
            "word_dropout": self.word_dropout,
        }  # fmt: skip
        return TextObjective(**common | MODELS[name][0])

    def _config(self, name: str, vocabulary: Vocabulary, length: int) -> TextVAEConfig:
        common: dict[str, Any] = {
            "words": vocabulary.words, "length": length, "latent": self.latent, "embedding": self.embedding, "hidden": self.hidden,
            "network": self.network, "dropout": self.dropout, "kappa": self.kappa,
        }  # fmt: skip
        return TextVAEConfig(**common | MODELS[name][1])

    def _train(self, run: Run, dataset: Dataset, vocabulary: Vocabulary, name: str, seed: int) -> Metrics | None:
        """One model and what is measured of it; None if it was interrupted."""
        child = Run(
            run.path / f"{name}-{seed}", seed=seed, device=str(run.device), precision=run.precision, resume=run.resume,
            quiet=run.quiet, config=run.config,
        )  # fmt: skip
        torch.manual_seed(seed)
        model = TextVAE(self._config(name, vocabulary, dataset.spec.shape[0])).to(run.device)
        if self.optimizer == "sgd":
            initialise(model)
        objective = self._objective(name)
        plateau = Plateau(model) if self.schedule == "plateau" else None
        learner = TextLearner(
            model, dataset.train.to(run.device), objective, batch=self.batch, optimizer=self.optimizer, lr=self.lr,
            bucketing=self.bucketing, seed=seed, valid=None if plateau is None else dataset.valid, plateau=plateau,
        )  # fmt: skip
        steps = self.epochs * learner.epoch
        validation: dict[str, Any] = {"validate": learner.validate, "validate_every": learner.epoch} if plateau else {}
        result = train(learner, steps=steps, run=child, every=max(1, steps // 4), data=spec_json(dataset), **validation)
        if result.interrupted:
            return None
        if plateau is not None:
            model.load_state_dict(plateau.best.state_dict())
        metrics = self._measure(model.eval(), dataset, child, objective)
        if plateau is not None:
            metrics["best_validation"] = float(plateau.value)
        metrics |= {"steps": result.step, "seconds": result.seconds, "steps_per_second": result.rate}
        child.finish(metrics)
        return metrics

    def _measure(self, model: TextVAE, dataset: Dataset, run: Run, objective: TextObjective) -> Metrics:
        """Likelihoods of some test sentences, latents of all of them, and what the decoder makes of a few."""
        all_x, all_keys = dataset.test.to(run.device), dataset.test_ids.to(run.device)
        x, keys = all_x[: self.items], all_keys[: self.items]
        options: dict[str, Any] = {"keys": keys, "seed": run.seed, "rows": 512}
        lower = evaluate(model, x, Plan.iid(2), elbo, **options).mean(self.delta)
        prior = prior_log_likelihood(model, x, k=self.eval_k, **options).mean(self.delta)
        post = posterior_log_likelihood(model, x, k=self.eval_k, **options).mean(self.delta)
        report = latent_report(model, all_x, all_keys, seed=run.seed)
        with torch.no_grad():
            own = float(model.family.divergence(model.encode(x)).mean())
        pairs = interpolate(model, x[:2], x[2:4], steps=5)
        return {
            "prior_ll": prior.value,
            "post_ll": post.value,
            "reconstruction": lower.value + own,
            "elbo": lower.value,
            **report._asdict(),
            "estimate": mean_json(prior),
            "objective": objective.warning or "ELBO",
            "collapse": collapse_alarm(model, all_x),
            "bucketing": self.bucketing,
            "reconstructed": list(zip(model.vocabulary.decode(x[:3]), reconstruct(model, x[:3]), strict=True)),
            "interpolated": [[line[i] for line in pairs] for i in range(len(pairs[0]))],
        }

    def _show(self, dataset: Dataset, metrics: Metrics) -> None:
        items = min(self.items, len(dataset.test))
        print(
            f"\n{items} test sentences of {dataset.spec.name} (latents: {len(dataset.test)}), batches by {self.bucketing}; "
            f"mean over {self.seeds} seeds ± standard deviation"
        )
        width = max(9, *(len(name) + 1 for name in self.models))
        print(f"{'model':{width}s}" + "".join(f"{title:>15s}" for title in SHOWN.values()))
        for name in self.models:
            print(f"{name:{width}s}" + "".join(f"{_pm(metrics[name][key]):>15s}" for key in SHOWN))
        print(
            f"  prior LL: lower bound on log p(x), nats a sentence; post LL: log E_q[p(x|z)], no bound on it; MI is capped at "
            f"{metrics['information cap']:.2f}"
        )
        for other, each in metrics.get("dg minus", {}).items():
            answers = ", ".join(f"{SHOWN[key]} {_interval(one)}" for key, one in each.items())
            print(f"  dg - {other}: {answers}")
        for name in self.models:
            if alarms := [text for text in metrics[name]["collapse"] if text]:
                print(f"  {name}, {len(alarms)} of {self.seeds} seeds: {alarms[0]}")


def _column(each: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [float(one[key]) for one in each]


def _summaries(each: list[Metrics]) -> Metrics:
    """Mean and standard deviation over seeds of every number."""
    answer: Metrics = {}
    for key in (*SHOWN, "elbo"):
        values = _column(each, key)
        sd = statistics.stdev(values) if len(values) > 1 else None
        answer[key] = {"mean": statistics.fmean(values), "sd": sd, "values": values}
    return answer | {
        "certificates": [one["estimate"]["certificate"] for one in each],
        "collapse": [one["collapse"] for one in each],
    }


def _interval(one: Metrics) -> str:
    if one["low"] is None:
        return f"{one['difference']:+.2f}"
    return f"{one['difference']:+.2f} [{one['low']:+.2f}, {one['high']:+.2f}]"


def _pm(cell: Metrics) -> str:
    return f"{cell['mean']:.2f}" + ("" if cell["sd"] is None else f" ± {cell['sd']:.2f}")
