"""Regularisers that are no bounds: identities, closed forms, naive formulas. z-tests: false alarm 1e-6 each (|z| < 4.9)."""

import math

import pytest
import torch
from torch import nn

from evidence.support import z_score
from infimum.errors import UserError
from infimum.vae.posteriors import gaussian_divergence
from infimum.vae.regularisers import (
    aggregate_divergence,
    batch_decomposition,
    discriminator_loss,
    free_bits,
    free_bits_batch,
    generator_loss,
    latent_discriminator,
    mean_discrepancy,
)

Z = 4.9
close = torch.testing.assert_close


def batch(n: int = 8, d: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    mean = torch.randn(n, d, generator=g, dtype=torch.float64).requires_grad_()
    return mean, (0.5 * torch.randn(n, d, generator=g, dtype=torch.float64) - 0.5).requires_grad_()


def drawn(s: tuple[torch.Tensor, torch.Tensor], m: int = 16, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return s[0] + s[1].exp() * torch.randn(m, *s[0].shape, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("aggregate", [None, 4])
def test_density_gaps_are_corners_of_the_decomposition(aggregate: int | None) -> None:
    """(0, 0, 1) is the gap of marginals, (0, 1, 1) the joint one: values and gradients."""
    s = batch()
    z = drawn(s)
    parts = batch_decomposition(*s, z, aggregate=aggregate)
    for weights, marginal in (((0.0, 0.0, 1.0), True), ((0.0, 1.0, 1.0), False)):
        gap = aggregate_divergence(*s, z, marginal=marginal, aggregate=aggregate)
        close(parts.weighted(weights), gap)
        one, other = (torch.autograd.grad(v, s, retain_graph=True) for v in (parts.weighted(weights), gap))
        for a, b in zip(one, other, strict=True):
            close(a, b)


def test_the_parts_add_up_to_the_mean_divergence() -> None:
    """Of 400 estimates the mean of I + TC + sum_d KL_d is the closed form; every part is positive, and I below log n."""
    s = tuple(t.detach() for t in batch())
    found = [batch_decomposition(*s, drawn(s, 50, seed)) for seed in range(400)]
    total = torch.stack([parts.weighted((1.0, 1.0, 1.0)) for parts in found])
    assert z_score(total, gaussian_divergence(*s).sum(-1).mean()) < Z
    means = torch.stack([torch.stack(parts) for parts in found]).mean(0)
    assert bool((means > 0.05).all()) and float(means[0]) < math.log(8)


def test_gradients_are_those_of_minibatch_weighted_sampling() -> None:
    """1802.04942, eq. S3, written out for N = 1000 items: log q(z) = logsumexp_j log q(z|x_j) - log(N M)."""
    s = batch(6)
    z = drawn(s, 1)
    normal = torch.distributions.Normal(s[0], s[1].exp())
    each, own = normal.log_prob(z[0][:, None]), normal.log_prob(z[0]).sum(-1)
    count = math.log(1000 * 6)
    log_q, log_q_d = each.sum(-1).logsumexp(1) - count, (each.logsumexp(1) - count).sum(-1)
    log_p = torch.distributions.Normal(0.0, 1.0).log_prob(z[0]).sum(-1)
    theirs = (own - log_q + 6 * (log_q - log_q_d) + log_q_d - log_p).mean()
    mine = batch_decomposition(*s, z).weighted((1.0, 6.0, 1.0))
    for a, b in zip(*(torch.autograd.grad(v, s, retain_graph=True) for v in (mine, theirs)), strict=True):
        close(a, b)


def test_one_posterior_a_mixture_has_no_information_and_independent_dimensions() -> None:
    s = batch()
    parts = batch_decomposition(*s, drawn(s), aggregate=1)
    close(torch.stack(parts[:2]), torch.zeros(2, dtype=torch.float64), atol=1e-12, rtol=0)
    with pytest.raises(UserError, match="a batch of 8 does not divide into parts of 3"):
        batch_decomposition(*s, drawn(s), aggregate=3)


def test_a_discriminator_at_its_optimum_knows_the_divergence_of_jensen_and_shannon() -> None:
    """Logits log p / q: the loss is 2 log 2 - 2 JS(p, q), by quadrature; the generator's is log 2 where the logits are 0."""
    from scipy import integrate, stats

    g = torch.Generator().manual_seed(0)
    p, q = torch.distributions.Normal(0.0, 1.0), torch.distributions.Normal(1.0, 0.5)
    x, y = torch.randn(200_000, generator=g).double(), (1 + 0.5 * torch.randn(200_000, generator=g)).double()
    made = float(discriminator_loss(p.log_prob(x) - q.log_prob(x), p.log_prob(y) - q.log_prob(y)))

    def density(t: float) -> float:
        a, b = stats.norm.pdf(t), stats.norm.pdf(t, 1, 0.5)
        return -a * math.log(a / (a + b)) - b * math.log(b / (a + b))

    # the two means have standard deviations below 1.2 / sqrt(200,000) each
    assert abs(made - integrate.quad(density, -9, 9)[0]) < Z * 2 * 1.2 / math.sqrt(200_000)
    assert float(generator_loss(torch.zeros(7, 1))) == pytest.approx(math.log(2))


def test_the_discriminator_of_latents() -> None:
    """Three layers of width D, and it learns to tell N(2, 1) from N(0, 1)."""
    torch.manual_seed(0)
    net = latent_discriminator(4)
    assert [tuple(p.shape) for p in net.parameters()] == [(4, 4), (4,), (4, 4), (4,), (1, 4), (1,)]
    assert sum(isinstance(layer, nn.Sigmoid) for layer in net) == 2
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    for _ in range(200):
        real = torch.randn(64, 4)
        loss = discriminator_loss(net(real), net(torch.randn(64, 4) + 2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(
        discriminator_loss(net(torch.randn(2000, 4)), net(torch.randn(2000, 4) + 2)).detach()
    ) < 0.3 * math.log(2)


def test_free_bits() -> None:
    divergence = torch.tensor([[0.1, 3.0], [0.5, 0.2]])
    assert float(free_bits(divergence, 0.6)) == pytest.approx((3.0 + 0.5) / 2)  # above .3 nats a dimension
    assert float(free_bits_batch(divergence, 0.8)) == pytest.approx(0.4 + 1.6)  # means .3 and 1.6


def test_mean_discrepancy_is_unbiased_and_what_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(5, 2, generator=generator).double() for _ in range(2))

    def k(a: torch.Tensor, b: torch.Tensor) -> float:
        return 4 / (4 + float(((a - b) ** 2).sum()))

    pairs = [(i, j) for i in range(5) for j in range(5)]
    want = (
        sum(k(x[i], x[j]) + k(y[i], y[j]) for i, j in pairs if i != j) / 20
        - 2 * sum(k(x[i], y[j]) for i, j in pairs) / 25
    )
    assert float(mean_discrepancy(x, y)) == pytest.approx(want)
    same = torch.stack([mean_discrepancy(*torch.randn(2, 8, 3, generator=generator)) for _ in range(800)])
    assert z_score(same, 0.0) < Z
    with pytest.raises(UserError, match="use a batch of at least 8"):
        mean_discrepancy(x[:1], y[:1])
