"""Samplers: distributions by enumeration, rules by their definitions (00-masked-diffusion, 6.6, 6.9 to 6.11)."""

import itertools

import pytest
import torch

from infimum.discrete import MaskedDiffusion, MaskedDiffusionConfig, completions, exact_log_likelihood, fill
from infimum.errors import UserError
from infimum.evidence import Plan


def network(vocabulary=3, seed=0, **options):
    torch.manual_seed(seed)
    config = MaskedDiffusionConfig(vocabulary=vocabulary, width=16, heads=2, blocks=1, **options)
    model = MaskedDiffusion(config).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.5 * torch.randn_like(p))
    return model


def blank(n, length):
    return torch.zeros(n, length, dtype=torch.long)


def keys(n, k=1):
    return Plan.iid(k).draws(torch.arange(n))


def chi_square(tokens, log_p, n):
    """Of sequences of 3 tokens of 3 kinds, 26 degrees of freedom."""
    number = (tokens * torch.tensor([9, 3, 1])).sum(-1).flatten()
    found = torch.bincount(number, minlength=27).double()
    wanted = n * log_p.exp()
    return float(((found - wanted) ** 2 / wanted).sum())


@pytest.mark.parametrize("block", [None, 2])
def test_one_random_place_a_step_has_the_exact_distribution(block):
    """Chi-square of 20,000 sequences over all 27, below the 1 - 1e-6 quantile (79); two places a step are not that."""
    x = torch.tensor(list(itertools.product(range(3), repeat=3)))
    model = network(block_length=block)
    log_p = exact_log_likelihood(model, x).value.detach()
    made = fill(model, blank(2, 3), keys(2, 10_000), order="random", block_length=block, rows=5000)
    assert made.tokens.shape == (10_000, 2, 3) and chi_square(made.tokens, log_p, 20_000) < 79
    if block is None:
        assert (
            chi_square(fill(model, blank(2, 3), keys(2, 10_000), order="random", steps=1).tokens, log_p, 20_000) > 200
        )


def test_the_reverse_process_tends_to_it():
    """64 steps as exact as can be seen; 1 step is not; calls are saved where nothing is written."""
    x = torch.tensor(list(itertools.product(range(3), repeat=3)))
    model = network()
    log_p = exact_log_likelihood(model, x).value.detach()
    made = fill(model, blank(2, 3), keys(2, 10_000), order="ancestral", steps=64, rows=20_000)
    assert chi_square(made.tokens, log_p, 20_000) < 79 and made.steps == 64 and made.calls < 20_000 * 3.01
    assert chi_square(fill(model, blank(2, 3), keys(2, 10_000), order="ancestral", steps=1).tokens, log_p, 20_000) > 200


def test_the_reverse_process_keeps_its_marginals():
    """After i of T steps a token is masked with probability 1 - i / T: places of each step are counted."""
    model, seen = network(), []
    inner = model.vectors

    def spy(z, present, at):
        seen.append(int(at.sum()))
        return inner(z, present, at)

    model.vectors = spy
    fill(model, blank(1, 40), keys(1, 200), order="ancestral", steps=5, rows=200)
    assert sum(seen) == 8000 and all(abs(n - 1600) < 4.5 * (8000 * 0.16) ** 0.5 for n in seen)


@pytest.mark.parametrize("block", [None, 4])
def test_confidence_by_its_definition(block):
    """Against a loop over rows, steps and places, without temperature; the first steps take the rest."""
    model, length, steps = network(5), 10, {None: 4, 4: 6}[block]
    x = completions([[1, 2], [3], [0, 4, 4]], 10, pad_id=0, fill=5)
    made = fill(model, x, keys(3), order="confidence", steps=steps, block_length=block, temperature=0).tokens[0]
    for row in range(3):
        z = x["tokens"][row].clone()
        start = int(x["target"][row].nonzero()[0])
        edges = [(a, min(a + (block or length), length)) for a in range(0, length, block or length)]
        for first, end in edges:
            each, rest = divmod(end - first, steps // len(edges))
            for step in range(steps // len(edges)):
                at = torch.zeros_like(x["target"][[row]])
                at[0, start + first : start + end] = z[start + first : start + end] == 5
                p = model.logits(z[None], x["present"][[row]], at).softmax(1)
                best, token = p.max(1)
                chosen = best.argsort(descending=True)[: each + (step < rest)]
                z[at[0].nonzero()[:, 0][chosen]] = token[chosen]
        assert torch.equal(made[row], z)


def test_thresholds_at_their_ends():
    """At 1 a token a step as by confidence; at 0 a block in one step; between, no more steps than tokens."""
    model = network(5)
    x = completions([[1, 2], [3]], 6, pad_id=0, fill=5)
    one = fill(model, x, keys(2, 3), order="confidence", block_length=3, temperature=0.7)
    same = fill(model, x, keys(2, 3), order="threshold", threshold=1.0, block_length=3, temperature=0.7)
    assert torch.equal(one.tokens, same.tokens) and one.steps == same.steps == 6
    assert fill(model, x, keys(2, 3), order="threshold", threshold=0.0, block_length=3).steps == 2
    assert 2 <= fill(model, x, keys(2, 3), order="threshold", threshold=0.4, block_length=3).steps <= 6


def test_one_block_is_the_whole_and_prompts_stay():
    model = network(5)
    x = completions([[1, 2], [3]], 6, pad_id=0, fill=5)
    whole, block = (fill(model, x, keys(2, 4), steps=3, block_length=b).tokens for b in (None, 6))
    assert torch.equal(whole, block) and int(whole.max()) < 5
    assert torch.equal(whole[:, ~x["target"]], x["tokens"][~x["target"]].expand(4, -1))


@pytest.mark.parametrize("order", ["ancestral", "random", "confidence", "threshold"])
def test_items_are_independent_of_their_batch(order):
    """Other prompts, padding and chunks of rows change nothing."""
    model = network(5)
    prompts = [[1, 2, 3, 0], [3], [0, 4]]
    x = completions(prompts, 4, pad_id=0, fill=5)
    options = {"order": order, "steps": 2, "block_length": 2, "temperature": 0.8}
    together = fill(model, x, keys(3, 5), **options).tokens
    assert torch.equal(fill(model, x, keys(3, 5), rows=2, **options).tokens, together)
    for i in range(3):
        alone = fill(
            model, completions([prompts[i]], 4, pad_id=1, fill=5), keys(3, 5).take(torch.tensor([i])), **options
        )
        assert torch.equal(alone.tokens[..., -4:], together[:, [i], -4:])


def test_temperature_and_guidance_scale_the_logits():
    """One place: shares of p^(1/T), and of u + (s + 1)(c - u) without the prompt (|z| < 4.5)."""
    model = network(4)
    x = completions([[1, 3]], 1, pad_id=0, fill=4)
    at = x["target"]
    c = model.logits(x["tokens"], x["present"], at)[0]
    u = model.logits(torch.full((1, 3), 4), x["present"], at)[0]
    for options, logits in (
        ({"temperature": 0.5}, 2 * c),
        ({"guidance": 1.5}, u + 2.5 * (c - u)),
        ({"guidance": 0.0}, c),
    ):
        made = fill(model, x, keys(1, 20_000), rows=20_000, **options).tokens[:, 0, -1]
        share = torch.bincount(made, minlength=4).double() / 20_000
        p = logits.softmax(0).detach()
        assert bool(((share - p).abs() < 4.5 * (p * (1 - p) / 20_000).sqrt() + 1e-9).all())


def test_forbidden_and_last_tokens():
    model = network(4)
    made = fill(model, blank(1, 6), keys(1, 300), order="random", forbidden=[2, 0]).tokens
    assert set(made.flatten().tolist()) == {1, 3}
    differ = 0
    for seed in range(10):
        model = network(4, seed)
        x = completions([[seed % 4, 1, 2, 0, 3][: 1 + seed % 5]], 6, pad_id=0, fill=4)
        best, token = model.logits(x["tokens"], x["present"], x["target"]).softmax(1).max(1)
        late = int(token[best.argmax()])  # what greedy decoding writes first
        made = fill(model, x, keys(1), temperature=0, last=[late]).tokens[0, 0]
        z = x["tokens"][0].clone()
        for _ in range(6):
            still = (z == 4)[None]
            best, token = model.logits(z[None], x["present"], still).softmax(1).max(1)
            chosen = torch.where(token == late, best - 1, best).argmax()
            z[still[0].nonzero()[chosen, 0]] = token[chosen]
        assert torch.equal(made, z)
        differ += int(not torch.equal(fill(model, x, keys(1), temperature=0).tokens[0, 0], z))
    assert differ > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": -1.0}, "temperature is -1"),
        ({"guidance": -0.5}, "guidance -0.5"),
        ({"steps": 0}, "0 steps"),
        ({"steps": -1}, "-1 steps do not divide among 1 blocks of 6 tokens: take 1"),
        ({"block_length": 0}, "block_length is 0"),
        ({"block_length": -2}, "block_length is -2"),
        ({"steps": 5, "block_length": 2}, "take 3 or 6"),
        ({"steps": 7}, "take 6 or fewer"),
        ({"forbidden": [4]}, "not all in the vocabulary"),
        ({"forbidden": [0, 1, 2]}, "every token of the vocabulary is forbidden"),
    ],
)
def test_refusals(options, words):
    with pytest.raises(UserError, match=words):
        fill(network(), blank(1, 6), keys(1), **options)
    with pytest.raises(UserError, match="one key an item"):
        fill(network(), blank(2, 6), keys(1))
    with pytest.raises(UserError, match="among the given tokens"):
        fill(network(), {"tokens": torch.full((1, 3), 3), "target": torch.tensor([[1, 1, 0]]).bool()}, keys(1))


def test_a_broken_network_writes_nothing():
    model = network()
    with torch.no_grad():
        model.network.ff_out.weight[1] = torch.nan
    for temperature in (0.0, 1.0):
        with pytest.raises(UserError, match="logits are NaN"):
            fill(model, blank(1, 4), keys(1), temperature=temperature)


def test_a_tiny_temperature_is_greedy():
    """Logits over a temperature of 1e-300 overflow."""
    model, x = network(5), completions([[1, 2]], 6, pad_id=0, fill=5)
    greedy, cold = (fill(model, x, keys(1, 4), temperature=t).tokens for t in (0.0, 1e-300))
    assert torch.equal(greedy, cold)
