"""The rate that is halved on a plateau of the validation loss: what it counts, and a training that is broken and resumed."""

import math
from pathlib import Path

import pytest
import torch

from infimum.errors import UserError
from infimum.training import Run, train
from infimum.vae.text import Plateau, TextLearner, TextObjective, TextVAE
from infimum.vae.text.buckets import buckets
from vae.text.cases import small


def weigh(value: float, net: torch.nn.Linear) -> None:
    with torch.no_grad():
        net.weight.fill_(value)


def test_counts_of_an_official_run() -> None:
    """Best in epoch 3; 5 epochs without improvement are over after 8, epoch 16 is the first that counts, then every fifth."""
    net = torch.nn.Linear(1, 1)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.8)
    plateau, halved = Plateau(net), []
    for epoch in range(1, 40):
        weigh(epoch, net)
        net(torch.ones(1, 1)).sum().backward()
        optimizer.step()
        if epoch == 3:
            kept = net.weight.clone()
        plateau.see({1: 5.0, 2: 4.0, 3: 1.0}.get(epoch, 2.0 if epoch % 2 else math.nan), net)
        if plateau.settle(net, optimizer):
            halved.append(epoch)
            assert torch.equal(net.weight, kept) and not optimizer.state
            assert optimizer.param_groups[0]["lr"] == pytest.approx(0.8 * 0.5 ** len(halved))
        assert not plateau.settle(net, optimizer)
        if plateau.finished:
            break
    assert halved == [16, 21, 26, 31, 36] and epoch == 36
    assert torch.equal(plateau.best.weight, kept)


def test_an_improvement_starts_the_count_again() -> None:
    net = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    plateau = Plateau(net, wait=2, first=1, reductions=9)
    seen = []
    for loss in (3.0, 3.5, 2.0, 2.5, 1.0, 1.0, 1.0, 0.5):
        plateau.see(loss, net)
        seen.append(plateau.settle(net, optimizer))
    assert seen == [False] * 6 + [True, False]  # a loss that is the same is no improvement


@pytest.mark.parametrize("wrong", [{"wait": 0}, {"factor": 1.0}, {"reductions": 0}, {"first": 0}], ids=str)
def test_refusals(wrong: dict) -> None:
    with pytest.raises(UserError, match="expected at least 1 of each"):
        Plateau(torch.nn.Linear(1, 1), **wrong)


def learner(kind: str) -> tuple[TextVAE, TextLearner]:
    model = small(dropout=0.3, seed=9)
    x = small().simulate(96, seed=5)[1]
    plateau = Plateau(model, wait=1, first=2, reductions=3)
    objective = TextObjective(kind, draws=4, anneal="none", word_dropout=0.2)
    return model, TextLearner(model, x[48:], objective, batch=16, lr=0.2, valid=x[:40], plateau=plateau)


def run_to(steps: int, folder: Path, kind: str) -> tuple[TextVAE, TextLearner]:
    model, one = learner(kind)
    run = Run(folder, quiet=True, resume=folder.exists())
    train(one, steps=steps, run=run, every=1000, validate=one.validate, validate_every=one.epoch)
    return model, one


@pytest.mark.parametrize("kind", ["gap", "aae"])
def test_a_broken_run_goes_on_to_the_same_bits(kind: str, tmp_path: Path) -> None:
    """Broken between a validation and the step that acts on it, and in the middle of an epoch; the rate was lowered by then."""
    whole, first = run_to(21, tmp_path / "whole", kind)
    for steps in (9, 14, 21):
        again, second = run_to(steps, tmp_path / "broken", kind)
    assert int(first.plateau.counts[2]) >= 2
    assert first.optimizers["main"].param_groups[0]["lr"] == 0.2 * 0.5 ** (
        int(first.plateau.counts[2]) - int(first.plateau.counts[3])
    )
    for name, module in first.modules.items():
        for key, value in module.state_dict().items():
            assert torch.equal(value, second.modules[name].state_dict()[key]), (name, key)
    best = torch.cat([p.flatten() for p in first.plateau.best.parameters()])
    assert not torch.equal(best, torch.cat([p.detach().flatten() for p in whole.parameters()]))
    assert all(p.requires_grad for p in again.parameters())


def test_the_last_reduction_ends_the_training(tmp_path: Path) -> None:
    """At rate 0 nothing improves: a first validation, then two without improvement; resumed, it stays where it is."""
    model = small(seed=9)
    x = small().simulate(96, seed=5)[1]
    plateau = Plateau(model, wait=1, first=1, reductions=2)
    one = TextLearner(model, x[48:], TextObjective(draws=4), batch=16, lr=0.0, valid=x[:48], plateau=plateau)
    for resume in (False, True):
        run = Run(tmp_path / "run", quiet=True, resume=resume)
        result = train(one, steps=1000, run=run, every=1000, validate=one.validate, validate_every=one.epoch)
        assert result.step == 3 * one.epoch and result.stopped_early and one.finished


@pytest.mark.parametrize("bucketing", ["random", "length"])
def test_validation_is_the_loss_at_full_weight_of_whole_batches(bucketing: str) -> None:
    """The same at every call, and what the objective says of each batch by itself; nothing is drawn from torch's generator."""
    model = small(seed=9)
    x = small().simulate(400, seed=5)[1]
    one = TextLearner(model, x, TextObjective(draws=4), batch=16, bucketing=bucketing, valid=x[:200])
    before = torch.get_rng_state()
    first, again = one.validate(), one.validate()
    assert torch.equal(before, torch.get_rng_state()) and first == again
    objective = TextObjective(draws=4)
    rows = torch.arange(192).view(12, 16) if bucketing == "random" else buckets(one.valid, 16)
    losses = [
        objective.loss(model, one.valid[part], objective.plan.draws(part, seed=0, salt="validation"))[0].detach()
        for part in rows
    ]
    assert first == pytest.approx(-float(torch.stack(losses).mean()), rel=1e-6)


def test_sentences_that_do_not_fill_a_batch_are_refused() -> None:
    model = small()
    x = model.simulate(48, seed=5)[1]
    for options, says in (
        ({"valid": x[:10]}, "10 sentences to validate on do not fill a batch of 16"),
        ({"plateau": Plateau(model)}, "give sentences to validate on"),
    ):
        with pytest.raises(UserError, match=says):
            TextLearner(model, x, TextObjective(), batch=16, **options)
    with pytest.raises(UserError, match="has no sentences to validate on"):
        TextLearner(model, x, TextObjective(), batch=16).validate()
