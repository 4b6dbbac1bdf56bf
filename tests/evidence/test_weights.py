"""Tables: layout, shapes, missing numbers, chunks, posterior draws, memory, differences."""

import dataclasses
import math
import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Independent, Normal

from evidence.support import close, draws, unchecked, z_score  # noqa: F401
from infimum.errors import UserError
from infimum.evidence import (
    Defensive,
    LatentModel,
    LogWeights,
    PathModel,
    PathTerms,
    Plan,
    difference,
    double_reductions,
    elbo,
    evaluate,
    event_sum,
    exhaustive,
    harmonic,
    iw_eubo,
    iwae,
    path_terms,
    weigh,
)
from infimum.testing import GaussianMixture, LinearGaussian
from testing.oracle_cases import rand, spd


class Net(LatentModel):
    """A small VAE of float32 networks; counts its calls."""

    def __init__(self, dim: int = 6, latent: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder = nn.Linear(dim, 2 * latent), nn.Linear(latent, dim)
        self.latent, self.calls, self.largest = latent, 0, 0

    def encode(self, x):
        self.calls += 1
        return self.encoder(x)

    def posterior(self, s):
        return Independent(Normal(s[:, : self.latent], (0.3 * s[:, self.latent :]).exp()), 1)

    def log_joint(self, x, z):
        self.largest = max(self.largest, z.shape[0] * z.shape[1])
        return event_sum(Normal(0.0, 1.0).log_prob(z), 1) + event_sum(
            Bernoulli(logits=self.decoder(z), validate_args=False).log_prob(x), 1
        )


X = (rand(7, 6) > 0).float()


@pytest.mark.parametrize("rows", [1, 3, 7, 20, 50, 10**6])
def test_chunks_and_item_blocks_do_not_change_the_table(rows):
    """T9: streaming equals one-shot to 1e-10, also for B > rows; the draws are equal, the network is float32 rounding."""
    model = Net()
    whole = weigh(model, X, draws(9, 7, dtype=torch.float32))
    parts = weigh(model, X, draws(9, 7, dtype=torch.float32), rows=rows)
    close(parts.log_w, whole.log_w, rtol=1e-6, atol=1e-5)
    exact = LinearGaussian(rand(4, 2), rand(4), spd(4), shift=0.2)
    x = rand(7, 4)
    close(weigh(exact, x, draws(9, 7), rows=rows).log_w, weigh(exact, x, draws(9, 7)).log_w, rtol=0, atol=1e-10)


def test_encoder_runs_once_a_batch():
    """DESIGN 6: "an encoder runs once a batch, whatever K is"; ENGINE 1: at most ``rows`` pairs at a time."""
    model = Net()
    weigh(model, X, draws(100, 7, dtype=torch.float32), rows=30)
    assert model.calls == 1 and model.largest == 28


def test_evidence_depends_on_the_item_alone():
    """T14: permuting, re-batching and padding the data set changes no item's estimate."""
    model = LinearGaussian(rand(4, 2), rand(4), spd(4), shift=0.2).eval()
    x, keys = rand(11, 4), torch.arange(11) * 7
    whole = evaluate(model, x, Plan.iid(20), keys=keys, batch=4)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(0))
    again = evaluate(model, x[order], Plan.iid(20), keys=keys[order], batch=3, rows=17)
    close(again.value, whole.value[order], rtol=0, atol=1e-10)
    assert torch.equal(again.keys, whole.keys[order])


PROBE = """
import resource, sys, torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from evidence.test_weights import Net
from infimum.evidence import Plan, bound_backward, evaluate, iwae, two_pass_backward
k, way = int(sys.argv[1]), sys.argv[2]
model = Net(784, 20).eval()
x = torch.zeros(20, 784)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
if way == "evaluate":
    evaluate(model, x, Plan.iid(k), rows=2000)
elif way == "bound_backward":
    bound_backward(model, x, Plan.iid(k).draws(torch.arange(20)), "dreg", rows=2000)
else:
    stat = lambda part: model.decoder(part.normal("z", 20)).sum(-1)
    two_pass_backward(stat, Plan.iid(k).draws(torch.arange(20)), lambda s: s.logsumexp(0).sum(), rows=2000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def memory(k: int, way: str) -> float:
    """Peak resident megabytes that one computation adds, in a process of its own."""
    tests = os.path.dirname(os.path.dirname(__file__))
    env = {
        **os.environ,
        "MALLOC_MMAP_THRESHOLD_": "65536",
    }  # glibc gives freed blocks back, so that the peak is what is live
    source = "import infimum\n" + PROBE.format(tests=tests)
    out = subprocess.run(
        [sys.executable, "-c", source, str(k), way], capture_output=True, text=True, check=True, env=env
    )
    return int(out.stdout) / 1024


@pytest.mark.slow
@pytest.mark.parametrize("way", ["evaluate", "bound_backward", "two_pass_backward"])
def test_peak_memory_is_flat_in_k(way):
    """ENGINE 1 [m]: "Peak memory for K = 40 / 400 / 3,000 was 258.3 / 258.9 / 258.8 MB"; ENGINE 7: "memory of one chunk".

    K = 3,000 needs 20 x 3,000 x 784 float32 = 188 MB for a single activation in one graph; the growth allowed from K = 100
    (already one full chunk) is 20 MB: tables of (3,000, 20) and the allocator.
    """
    assert memory(3000, way) - memory(100, way) < 20


# -- posterior and mixed draws -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [2, 5, 1000])
def test_latents_take_their_places(rows):
    """latents (K, B): all posterior; (R, B): the first draw of every replicate, whatever the chunks and item blocks."""
    model, x = LinearGaussian(rand(4, 2), rand(4), spd(4), shift=0.5), rand(5, 4)
    plan = Plan(replicates=3, levels=4)
    part = draws(plan, 5)
    exact = model.posterior_sample(x, draws(3, 5, seed=1))
    w = weigh(model, x, part, latents=exact, rows=rows)
    plain = weigh(model, x, part)
    s = model.encode(x)
    first = model.log_joint(x, exact) - model.log_proposal(s, exact)
    assert w.source == "mixed" and w.block == 4
    close(w.log_w[::4], first)
    keep = torch.arange(12) % 4 != 0
    close(w.log_w[keep], plain.log_w[keep])
    every = model.posterior_sample(x, part)
    post = weigh(model, x, part, latents=every, rows=rows)
    assert post.source == "posterior"
    close(post.log_w, model.log_joint(x, every) - model.log_proposal(s, every))
    single = weigh(model, x, draws(1, 5), latents=every[:1])
    assert single.source == "posterior" and iw_eubo(single).side == "upper"
    close(iw_eubo(single).value, harmonic(single).value)


@pytest.mark.parametrize("shape", [(2, 5, 2), (12, 4, 2), (4, 5, 2)])
def test_latents_of_another_shape_are_refused(shape):
    model, x = LinearGaussian(rand(4, 2), rand(4), spd(4)), rand(5, 4)
    with pytest.raises(
        UserError, match=r"latents must be \(12, 5, ...\) posterior draws, or \(3, 5, ...\) for one a replicate"
    ):
        weigh(model, x, draws(Plan(replicates=3, levels=4), 5), latents=torch.zeros(shape).double())


# -- what is wrong with a model ------------------------------------------------------------------------------------------


def broken(**methods):
    """A small model with some methods replaced."""

    class Broken(Net):
        pass

    for name, method in methods.items():
        setattr(Broken, name, method)
    return Broken()


def refused(model, match, *, items: int = 7):
    with pytest.raises(UserError, match=match):
        weigh(model, X[:items], draws(5, items, dtype=torch.float32))


def test_shapes_are_refused_by_message(unchecked):  # noqa: F811
    """ENGINE 6: (K, B, 784): "sum the event axes: wrap the likelihood in Independent"; 00-bounds 9, T1: transposed layout."""
    pixels = lambda self, x, z: Bernoulli(logits=self.decoder(z)).log_prob(x)  # noqa: E731
    refused(
        broken(log_joint=pixels),
        r"log_joint\(x, z\) of shape \(K, B\) = \(5, 7\), got \(5, 7, 6\): sum the event axes: wrap the likelihood in Independent",
    )
    loose = lambda self, s: Normal(s[:, :2], s[:, 2:].exp())  # noqa: E731
    refused(broken(posterior=loose), r"log_proposal\(s, z\) of shape .*got \(5, 7, 2\): sum the event axes")
    turned = lambda self, x, z: Net.log_joint(self, x, z).T  # noqa: E731
    refused(broken(log_joint=turned), r"got \(7, 5\): draws come first: do not transpose")
    flat = lambda self, x, z: Net.log_joint(self, x, z).sum(0)  # noqa: E731
    refused(broken(log_joint=flat), r"got \(7,\): one number for each draw and item")
    with pytest.raises(
        UserError, match=r"draws first, got \(2, 3, 784\): sum the event axes: wrap the likelihood in Independent"
    ):
        LogWeights(torch.zeros(2, 3, 784))
    with pytest.raises(UserError, match=r"got \(3,\): add the axis of draws"):
        LogWeights(torch.zeros(3))
    with pytest.raises(UserError, match=r"floating-point nats, got torch.int64"):
        LogWeights(torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(UserError, match="at least 1 draw per item, got K=0"):
        LogWeights(torch.zeros(0, 3))


def bad_at(value: float, items=(3, 5)):
    def log_joint(self, x, z):
        out = Net.log_joint(self, x, z)
        index = torch.arange(out.shape[1])
        return torch.where(torch.isin(index, torch.tensor(items)), value, out)

    return log_joint


def test_numbers_that_are_none_are_named_by_part_and_item():
    """ENGINE 6: "log p(x|z) is NaN for items [3, 17], found by looking at the parts"; 00-bounds 2: which part is to blame."""
    refused(broken(log_joint=bad_at(math.nan)), r"log p\(x, z\) is NaN for items \[3, 5\]")
    refused(broken(log_joint=bad_at(math.inf)), r"log p\(x, z\) is \+inf for items \[3, 5\]")
    parts = lambda self, x, z: {"log p(z)": torch.zeros(z.shape[:2]), "log p(x|z)": bad_at(math.nan)(self, x, z)}  # noqa: E731
    refused(broken(log_joint=bad_at(math.nan), parts=parts), r"log p\(x\|z\) is NaN for items \[3, 5\]")

    def log_q(value):
        return lambda self, s, z: torch.where(torch.arange(z.shape[1]) == 2, value, self.posterior(s).log_prob(z))

    refused(broken(log_proposal=log_q(math.nan)), r"log q\(z\|x\) is NaN for items \[2\]")
    refused(
        broken(log_proposal=log_q(-math.inf)),
        r"log q\(z\|x\) is -inf for items \[2\]: the sampler and log_proposal disagree",
    )
    # an encoder whose variance underflowed: +inf would otherwise pass for a draw without mass
    refused(broken(log_proposal=log_q(math.inf)), r"log q\(z\|x\) is \+inf for items \[2\]")
    with pytest.raises(UserError, match=r"log_w is NaN for items \[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ...\]"):
        LogWeights(torch.full((2, 30), math.nan))
    with pytest.raises(UserError, match=r"log_w is \+inf for items \[1\]"):
        LogWeights(torch.tensor([[0.0, math.inf]]))
    with pytest.raises(UserError, match=r"the path term is NaN for items \[0\]"):
        PathTerms(torch.full((2, 1), math.nan), torch.zeros(1))
    with pytest.raises(UserError, match=r"the constant of the bound is NaN for items \[0\]"):
        PathTerms(torch.zeros(2, 1), torch.full((1,), math.nan))


def test_minus_infinity_is_legal():
    w = weigh(broken(log_joint=bad_at(-math.inf)), X, draws(5, 7, dtype=torch.float32))
    assert (w.log_w[:, [3, 5]] == -math.inf).all() and iwae(w).value[3] == -math.inf


def test_a_posterior_of_another_batch_is_refused():
    model = broken(posterior=lambda self, s: Independent(Normal(s[:3, :2], 1.0), 1))
    refused(model, r"the posterior has batch shape \(3, 2\), expected \(7, ...\): one for each item")


def test_a_model_without_its_methods_says_which():
    class Empty(LatentModel):
        pass

    with pytest.raises(NotImplementedError, match=r"Empty must define encode\(x\)"):
        weigh(Empty(), X, draws(2, 7))
    Empty.encode = lambda self, x: x
    with pytest.raises(NotImplementedError, match=r"Empty must define posterior\(s\), or sample\(s, draws\)"):
        weigh(Empty(), X, draws(2, 7))


def test_sets_that_are_no_average_are_refused():
    part = draws(Plan.stratified(4, replicates=2), 7, dtype=torch.float32)
    with pytest.raises(UserError, match=r"draws 1..8 cut a replicate of 4 draws: slice whole replicates"):
        weigh(Net(), X, part[1:])
    weigh(Net(), X, part[4:])
    with pytest.raises(UserError, match="the batch is empty"):
        weigh(Net(), X[:0], draws(2, 0))


def test_shares_must_make_an_average(unchecked):  # noqa: F811
    with pytest.raises(UserError, match=r"shares must sum to 1 over the draws, got 2: use log_softmax"):
        LogWeights(rand(2, 3), torch.zeros(2, 1).double())
    with pytest.raises(UserError, match=r"log_share must broadcast to \(2, 3\), got \(3, 1\)"):
        LogWeights(rand(2, 3), torch.zeros(3, 1).double())
    with pytest.raises(UserError, match="K=5 draws do not divide into replicates of 2"):
        LogWeights(rand(5, 3), block=2)
    with pytest.raises(UserError, match=r"the table has shape \(5, 3\) but its draws have \(4, 3\)"):
        LogWeights(rand(5, 3), draws=draws(4, 3))
    with pytest.raises(UserError, match="one entry for each of 3 items, got 1"):
        PathTerms(rand(5, 3), torch.zeros(1))
    with pytest.raises(UserError, match="q must sum to 1 over the candidates, got 4"):
        exhaustive(rand(4, 2), torch.zeros(4, 2).double())


# -- precision -----------------------------------------------------------------------------------------------------------


def test_event_sums_keep_their_digits():
    """00-bounds 2: sums of 196,608 pixels in bf16 are meaningless: float32 at least, float64 under evaluation, outside autocast."""
    pixels = torch.full((1, 1, 196_608), -0.1, dtype=torch.bfloat16)
    truth = 196_608 * float(pixels[0, 0, 0])
    with torch.autocast("cpu", torch.bfloat16):
        total = event_sum(pixels, 1)
    assert total.dtype == torch.float32 and float(total) == pytest.approx(truth, rel=1e-6)
    with double_reductions():
        assert event_sum(pixels, 1).dtype == torch.float64
        w = weigh(Net(), X, draws(2, 7, dtype=torch.float32))
        assert w.log_w.dtype == torch.float64
    assert weigh(Net(), X, draws(2, 7, dtype=torch.float32)).log_w.dtype == torch.float32
    close(event_sum(rand(2, 3, 4, 5), 2), rand(2, 3, 4, 5).sum((-1, -2)))
    close(event_sum(rand(2, 3), 0), rand(2, 3))


@pytest.mark.parametrize("size", [1, 31, 32, 63, 64, 65, 784, 3072])
def test_float32_events_are_summed_as_well_as_they_are_known(size):
    """Runs of 32 are added in float32: log2(32) roundings of at most the run's magnitude each, nothing left out."""
    values = -100 * rand(3, 2, size).abs().float()
    with double_reductions():
        total = event_sum(values, 1)
    exact = torch.tensor([[math.fsum(row.tolist()) for row in rows] for rows in values], dtype=torch.float64)
    assert total.dtype == torch.float64 and total.shape == (3, 2)
    assert float(((total - exact) / exact).abs().max()) <= 5 * 2.0**-24


# -- defensive proposals -------------------------------------------------------------------------------------------------


DEFENSIVE = {
    "iid": Plan.iid(4),
    "four strata": Plan.stratified(4),
    "three strata": Plan.stratified(3),  # the middle one is split between the proposals
    "antithetic": Plan.antithetic(4),
    "sobol": Plan.sobol(4),
}


@pytest.mark.parametrize("plan", DEFENSIVE.values(), ids=DEFENSIVE)
def test_defensive_weights_are_unbiased(plan):
    """T6: E p^/p = 1 (|z| < 5), for continuous latents, and for proposals that read the lead themselves."""
    n = 20_000
    narrow = LinearGaussian(torch.ones(1, 1), torch.zeros(1), torch.ones(1), shift=1.0, stretch=0.5)
    prior = LinearGaussian(torch.ones(1, 1), torch.zeros(1), torch.ones(1), proposal="prior")
    means = 2 * rand(3, 2)
    mixture = GaussianMixture(torch.zeros(3), means, torch.stack([spd(2)] * 3), shift=1.0)
    uniform = GaussianMixture(torch.zeros(3), means, torch.stack([spd(2)] * 3), proposal="prior")
    for model, other, x in ((narrow, prior, torch.full((1, 1), 1.2).double()), (mixture, uniform, rand(1, 2))):
        x = x.expand(n, -1)
        both = Defensive(model, other)
        with torch.no_grad():
            w = weigh(both, x, draws(plan, n), rows=10**6)
            assert z_score((iwae(w).value - model.log_evidence(x[:1])).exp()[:, None], 1.0) < 5
        assert iwae(w).certified
    with torch.no_grad():
        nested = Defensive(mixture, Defensive(uniform, mixture, uniform))
        ratio = (iwae(weigh(nested, x, draws(plan, n), rows=10**6)).value - mixture.log_evidence(x[:1])).exp()
        assert z_score(ratio[:, None], 1.0) < 5
    with torch.no_grad():  # bounded by n p(x|z) with the prior among n proposals
        z = both.sample(both.encode(x), draws(plan, n))
        likelihood = mixture.log_joint(x, z) - uniform.log_proposal(uniform.encode(x), z)
        assert (w.log_w <= math.log(2) + likelihood + 1e-9).all()
    with pytest.raises(UserError, match="at least one further proposal"):
        Defensive(model)


# -- path terms ----------------------------------------------------------------------------------------------------------


class Path(PathModel):
    target = "log p(x), a path"

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def constant(self, x, s):
        return -x.sum(-1)

    def terms(self, x, s, part):
        return self.scale * part.lead() * x.sum(-1) - part.normal("eps").square()


def test_path_terms_table():
    x = rand(5, 3)
    t = path_terms(Path(), x, draws(Plan.stratified(4, replicates=3), 5))
    assert t.shape == (12, 5) and t.target == "log p(x), a path" and t.calls == 60 and t.block == 4
    close(t.constant, -x.sum(-1))
    for rows in (1, 4, 13):
        parts = path_terms(Path(), x, draws(Plan.stratified(4, replicates=3), 5), rows=rows)
        assert torch.equal(parts.value, t.value) and torch.equal(parts.constant, t.constant)
    close(elbo(t).value, t.value.mean(0) + t.constant)
    with pytest.raises(UserError, match="cut a replicate"):
        path_terms(Path(), x, draws(Plan.stratified(4), 5)[:3])


def test_difference_of_shared_draws():
    """ENGINE 5: "same draws or an error; side none, paired stderr": the noise that both share cancels."""
    x, part = rand(5, 3), draws(32, 5)
    a, b = path_terms(Path(1.0), x, part), path_terms(Path(1.1), x, part)
    d = elbo(difference(a, b))
    close(d.value, elbo(a).value - elbo(b).value)
    assert (d.side, d.certified, d.unbiased_for) == ("none", False, None)
    assert "bounds nothing" in d.mean().obstacle
    assert (d.stderr < 0.5 * (elbo(a) - elbo(b)).stderr).all()
    assert (elbo(difference(a, a)).stderr == 0).all() and (elbo(difference(a, a)).value == 0).all()
    for other in (
        draws(32, 5, seed=1),
        part.fork("b"),
        draws(Plan.antithetic(32), 5),
        dataclasses.replace(part, dtype=torch.float32),
    ):
        with pytest.raises(UserError, match="two tables of the same draws: pass one Draws object to both models"):
            difference(a, path_terms(Path(), x, other))
    with pytest.raises(UserError, match="same draws"):
        difference(a, PathTerms(a.value, a.constant))
    with pytest.raises(UserError, match="one target, got 'log p"):
        difference(a, dataclasses.replace(b, target="log p(y)"))


# -- evaluate ------------------------------------------------------------------------------------------------------------


def test_evaluate_refusals():
    """ENGINE 6: "a model in train mode under evaluate"."""
    model, x = Net(), X
    with pytest.raises(UserError, match=r"the model is in train mode .*call model.eval\(\)"):
        evaluate(model, x)
    model.eval()
    model.decoder.train()
    with pytest.raises(UserError, match=r"train mode \(decoder\)"):
        evaluate(model, x)
    model.eval()
    with pytest.raises(UserError, match=r"plan.spread must be 1, got 4"):
        evaluate(model, x, Plan(spread=4))
    with pytest.raises(UserError, match="the data set is empty"):
        evaluate(model, x[:0])
    with pytest.raises(UserError, match=r"one key for each of 7 items, got \(3,\)"):
        evaluate(model, x, keys=torch.arange(3))


def test_evaluate_answers_item_by_item():
    model = Net().eval()
    seen = []
    lower, mean = evaluate(model, X, Plan.iid(40), [iwae, elbo], batch=3, progress=seen.append)
    assert seen == [3, 6, 7] and lower.value.shape == (7,) and lower.value.dtype == torch.float64
    assert (mean.value <= lower.value).all() and lower.calls == 280 and not lower.value.requires_grad
    close(lower.value, evaluate(model, X, Plan.iid(40), rows=11).value, rtol=1e-6, atol=1e-6)
    assert torch.equal(lower.keys, torch.arange(7))
    again = evaluate(model, X, Plan.iid(40), keys=torch.zeros(7, dtype=torch.int64))
    assert again.mean().certificate is None and "items share keys" in again.mean().obstacle
    path = evaluate(Path().eval(), rand(7, 3), Plan.iid(8), elbo)
    assert (path.side, path.certified) == ("lower", False)
