"""The autoregressive twin, the learner, and what a checkpoint of either offers."""

import itertools

import pytest
import torch

from infimum.discrete import (
    Autoregressive,
    MaskedDiffusion,
    MaskedDiffusionConfig,
    SequenceLearner,
    completions,
    exact_elbo,
    exact_log_likelihood,
)
from infimum.errors import UserError
from infimum.evidence import Plan, elbo, path_terms
from infimum.training import Run, load_model, train

SMALL = {"vocabulary": 3, "width": 16, "heads": 2, "blocks": 1}


def chain(n, length=5, seed=0):
    """Sequences of a Markov chain over three tokens, and their log-probability."""
    start = torch.tensor([0.6, 0.3, 0.1]).double()
    step = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.2, 0.7], [0.4, 0.5, 0.1]]).double()
    every = torch.tensor(list(itertools.product(range(3), repeat=length)))
    log_p = start[every[:, 0]].log() + step[every[:, :-1], every[:, 1:]].log().sum(1)
    g = torch.Generator().manual_seed(seed)
    return every[torch.multinomial(log_p.exp(), n, True, generator=g)], every, log_p


def test_the_twin_is_a_distribution_and_each_token_sees_what_is_before():
    torch.manual_seed(0)
    model = Autoregressive(MaskedDiffusionConfig(**SMALL)).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.5 * torch.randn_like(p))
    x = torch.tensor(list(itertools.product(range(3), repeat=4)))
    found = model.log_evidence(x, rows=7)
    assert float(found.value.logsumexp(0)) == pytest.approx(0, abs=1e-12) and found.side == "exact"
    given = completions([[0, 1], [2]], [[1, 2], [0, 0, 1]], pad_id=0)
    pieces = [torch.tensor([[0, 1, 1, 2]]), torch.tensor([[0, 1]]), torch.tensor([[2, 0, 0, 1]]), torch.tensor([[2]])]
    whole, prompt, second, start = (float(model.log_evidence(piece).value) for piece in pieces)
    assert model.log_evidence(given).value.tolist() == pytest.approx([whole - prompt, second - start], abs=1e-9)
    with pytest.raises(UserError, match="before its targets"):
        model.log_prob({"tokens": x[:1], "target": torch.tensor([[1, 0, 1, 1]]).bool()})


def test_the_twin_draws_from_its_distribution():
    """Chi-square over 27 sequences, below the 1 - 1e-6 quantile of 26 degrees of freedom."""
    torch.manual_seed(0)
    model = Autoregressive(MaskedDiffusionConfig(**SMALL, length=3)).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.5 * torch.randn_like(p))
    x = torch.tensor(list(itertools.product(range(3), repeat=3)))
    p = model.log_evidence(x).value.exp()
    made = model.generate(Plan.iid(5000).draws(torch.arange(4)))
    number = (made.long() * torch.tensor([9, 3, 1])).sum(-1).flatten()
    seen = torch.bincount(number, minlength=27).double()
    assert float(((seen - 20_000 * p) ** 2 / (20_000 * p)).sum()) < 79


@pytest.mark.parametrize("kind", [MaskedDiffusion, Autoregressive])
def test_training_finds_the_chain(kind, tmp_path):
    """Within 0.06 nats of the entropy of a Markov chain; a saved model says the same; the bound is below."""
    x, every, log_p = chain(4000)
    torch.manual_seed(0)
    model = kind(MaskedDiffusionConfig(3, width=32, heads=2, blocks=2))
    learner = SequenceLearner(model, x, batch=128, lr=5e-3, levels=2 if kind is MaskedDiffusion else 1)
    result = train(learner, steps=400, run=Run(tmp_path / "run", quiet=True))
    model = load_model(result.checkpoint)[0].eval()
    with torch.no_grad():
        q = exact_log_likelihood(model, every).value if kind is MaskedDiffusion else model.log_evidence(every).value
        assert float(q.logsumexp(0)) == pytest.approx(0, abs=1e-4)
        assert 0 < float(log_p.exp() @ (log_p - q)) < 0.06
        if kind is MaskedDiffusion:
            assert 0 < float(log_p.exp() @ (q - exact_elbo(model, every).value)) < 0.1


@pytest.mark.parametrize(
    ("normalise", "form"), [("token", "count"), ("sequence", "count"), ("masked", "count"), ("token", "time")]
)
def test_losses_are_what_they_are_called(normalise, form, tmp_path):
    """Of one step, from the masks of that step."""
    x, _, _ = chain(8)
    torch.manual_seed(0)
    model = MaskedDiffusion(MaskedDiffusionConfig(**SMALL, form=form, floor=0.001 if form == "time" else 0.0)).eval()
    seen = []
    inner = model.masks
    model.masks = lambda s, draws: (seen.append((s, draws)), inner(s, draws))[1]
    before = {name: p.clone() for name, p in model.state_dict().items()}
    learner = SequenceLearner(model, x, batch=8, normalise=normalise)
    result = train(learner, steps=1, run=Run(tmp_path / "run", quiet=True))
    model.load_state_dict(before)
    s, draws = seen[0]
    masks = inner(s, draws)
    score = model.token_scores(s, masks).sum(-1)
    wanted = {
        "token": -(masks.weight * score).mean() / 5,
        "sequence": -(masks.weight * score).mean(),
        "masked": -(score / masks.scored.sum(-1).clamp_min(1)).mean(),
    }[normalise]
    assert result.metrics["loss"] == pytest.approx(float(wanted.detach()), rel=1e-5)
    assert torch.equal(draws.lead()[0].mul(8).floor().sort().values, torch.arange(8.0).double())  # levels tile


def ragged():
    return completions([[0, 1], [2], [1], []], [[1, 2], [0, 0, 1], [2], [1, 2, 0, 0, 1]], pad_id=0)


def test_given_tokens_are_not_learned():
    """Padding changes nothing; the head's gradient is that of targets: it is 0 for tokens that are given alone."""
    x = ragged()
    x["tokens"] = torch.where(x["target"] & (x["tokens"] == 2), 1, x["tokens"])  # 2 is given, and never written
    torch.manual_seed(0)
    model = MaskedDiffusion(MaskedDiffusionConfig(**SMALL))
    draws = Plan.iid(40).draws(torch.arange(4))
    value = elbo(path_terms(model, x, draws)).value
    moved = {**x, "tokens": torch.where(x["present"], x["tokens"], 2)}
    assert torch.equal(value, elbo(path_terms(model, moved, draws)).value)
    masks = model.masks(model.encode(x), draws)
    logits = torch.zeros(3, requires_grad=True)
    scored = model.encode(x).tokens.expand(masks.scored.shape)[masks.scored]
    logits.log_softmax(0)[scored].sum().backward()
    assert bool((scored != 2).all()) and not bool((masks.masked & ~model.encode(x).target).any())


@pytest.mark.parametrize("normalise", ["token", "sequence"])
def test_micro_batches_are_the_batch(normalise, tmp_path):
    """Of texts of unlike lengths: one step of two halves is one step of the whole, whatever a step is divided by."""
    ends = []
    for batch, accumulate in ((4, 1), (2, 2), (1, 4)):
        torch.manual_seed(0)
        model = MaskedDiffusion(MaskedDiffusionConfig(**SMALL)).double()
        learner = SequenceLearner(model, ragged(), batch=batch, normalise=normalise, lead="random", clip=None)
        learner.optimizers["main"].param_groups[0]["eps"] = 1e-3
        train(learner, steps=2, accumulate=accumulate, run=Run(tmp_path / f"{batch}", quiet=True))
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(ends[1], ends[0], rtol=0, atol=1e-9)
    torch.testing.assert_close(ends[2], ends[0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("lead", ["stratified", "lattice", "random"])
def test_steps_are_those_of_adamw(lead, tmp_path):
    """Three steps against torch's own, by the same masks: betas, decay of matrices alone, clipping, order of a seed."""
    x = chain(12)[0]
    options = {"lr": 1e-2, "betas": (0.8, 0.95)}
    torch.manual_seed(0)
    model = MaskedDiffusion(MaskedDiffusionConfig(**SMALL)).double()
    twin = MaskedDiffusion(model.config).double()
    twin.load_state_dict(model.state_dict())
    seen, inner = [], model.masks
    model.masks = lambda s, draws: (seen.append((s, draws)), inner(s, draws))[1]
    learner = SequenceLearner(model, x, batch=6, decay=0.5, clip=0.05, seed=3, lead=lead, **options)
    train(learner, steps=3, run=Run(tmp_path / "run", quiet=True))
    matrices, others = ([p for p in twin.parameters() if (p.ndim > 1) == m] for m in (True, False))
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.5}, {"params": others, "weight_decay": 0.0}], **options
    )
    order = []
    for s, draws in seen:
        masks = twin.masks(s, draws)
        loss = -(masks.weight * twin.token_scores(s, masks).sum(-1)).mean() / 5
        optimizer.zero_grad()
        loss.backward()
        norm = torch.cat([p.grad.flatten() for p in twin.parameters()]).norm()
        assert float(norm) > 0.05
        for p in twin.parameters():
            p.grad *= 0.05 / norm
        optimizer.step()
        order.append(s.tokens)
        level = draws.lead()[0].mul(6)
        tiles = torch.equal(level.floor().sort().values, torch.arange(6.0).double())
        even = float((level.sort().values.diff() - 1).abs().max()) < 1e-9
        assert (tiles, even) == {"stratified": (True, False), "lattice": (True, True), "random": (False, False)}[lead]
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
    assert not torch.equal(order[0], x[:6])


@pytest.mark.parametrize("kind", [MaskedDiffusion, Autoregressive])
def test_refusals(kind):
    model = kind(MaskedDiffusionConfig(**SMALL))
    with pytest.raises(UserError, match="at least 1"):
        SequenceLearner(model, torch.zeros(0, 4, dtype=torch.long))
    with pytest.raises(UserError, match="token 5"):
        SequenceLearner(model, torch.full((2, 4), 5))
    with pytest.raises(UserError, match="without a length"):
        model.generate(Plan.iid(1).draws(torch.arange(1)))
    if kind is Autoregressive:
        with pytest.raises(UserError, match="masks nothing"):
            SequenceLearner(model, torch.zeros(2, 4, dtype=torch.long), normalise="masked")
