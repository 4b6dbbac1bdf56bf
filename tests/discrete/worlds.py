"""Predictors that are tables: one probability for every set of masked positions, and joints over all sequences."""

import itertools

import torch
from torch import nn

from infimum.discrete import MaskedDiffusion, MaskedDiffusionConfig


class Table(nn.Module):
    """p(x_i = 1 | set S masked) = table[b(S), i], b(S) = sum of 2^j; tokens are 0 and 1, the mask is 2."""

    def __init__(self, table):
        super().__init__()
        self.table = nn.Parameter(table.double())
        self.calls = 0

    def forward(self, z, present=None):
        self.calls += len(z)
        n = self.table.shape[1]
        number = ((z[:, -n:] == 2).long() << torch.arange(n)).sum(1)
        p = self.table[number]
        logits = torch.stack((1 - p, p, torch.ones_like(p)), -1).log()
        return torch.cat((logits.new_zeros(len(z), z.shape[1] - n, 3), logits), 1)


def fixture(a=3, b=5, n=4):
    """pi_i(S) = (1 + (a i + b b(S)) mod 7) / 8."""
    i, s = torch.arange(n), torch.arange(2**n)[:, None]
    return (1 + (a * i + b * s) % 7).double() / 8


def random_table(n, seed):
    g = torch.Generator().manual_seed(seed)
    return 0.02 + 0.96 * torch.rand(2**n, n, generator=g, dtype=torch.float64)


def model_of(table, **options):
    return MaskedDiffusion(MaskedDiffusionConfig(vocabulary=2, **options), Table(table)).eval()


def ones(n=4):
    return torch.ones(1, n, dtype=torch.long)


def by_orders(table, block=None):
    """log p, and the ELBO with its variance over orders, by all orders (within blocks)."""
    n = table.shape[1]
    blocks = [list(range(j, min(j + (block or n), n))) for j in range(0, n, block or n)]
    totals = []
    for orders in itertools.product(*(itertools.permutations(b) for b in blocks)):
        masked, total = set(range(n)), 0.0
        for i in itertools.chain(*orders):
            total += float(table[sum(2**j for j in masked), i].log())
            masked.remove(i)
        totals.append(total)
    totals = torch.tensor(totals, dtype=torch.float64)
    return (
        float(totals.logsumexp(0) - torch.tensor(float(len(totals))).double().log()),
        float(totals.mean()),
        float(totals.var(unbiased=False)),
    )


def joint_table(n, seed):
    """Conditionals of one joint over {0, 1}^n, for the sequence of ones; and its log-probability."""
    g = torch.Generator().manual_seed(seed)
    p = torch.rand((2,) * n, generator=g, dtype=torch.float64) + 0.01
    p = p / p.sum()
    table = torch.full((2**n, n), 0.5, dtype=torch.float64)
    for number in range(1, 2**n):
        seen = tuple(slice(None) if number >> j & 1 else 1 for j in range(n))
        for i in range(n):
            if number >> i & 1:
                one = tuple(1 if j == i else part for j, part in enumerate(seen))
                table[number, i] = p[one].sum() / p[seen].sum()
    return table, float(p[(1,) * n].log())
