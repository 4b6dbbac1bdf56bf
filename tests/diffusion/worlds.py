"""Diffusion models of data with known bounds: analytic denoisers, and the terms of a model by quadrature."""

import numpy as np
import torch
from torch import nn

from infimum.diffusion import DiffusionConfig, GaussianDiffusion
from infimum.diffusion.heads import convert
from infimum.diffusion.schedules import alpha_sigma
from infimum.evidence import Draws

LOW, HIGH = -5.0, 13.3


class Denoiser(nn.Module):
    """An analytic denoiser of data f as the network of any head: the optimum for Gaussian or enumerable data."""

    def __init__(self, head, low, high, *, variance=None, values=None, probabilities=None):
        super().__init__()
        self.head, self.low, self.high, self.variance = head, low, high, variance
        self.values, self.probabilities = values, probabilities

    def forward(self, inner, u):
        snr = (self.high - u * (self.high - self.low))[:, None]
        alpha, sigma = alpha_sigma(snr)
        scale = {"edm": 1 / (sigma**2 + 0.25 * alpha**2).sqrt(), "flow": 1 / (alpha + sigma)}.get(self.head, 1.0)
        z = inner / scale
        if self.variance is not None:
            eps = sigma * z / (alpha**2 * self.variance + sigma**2)
            out = convert(eps, z, snr, source="eps", to=self.head)
        else:
            log_p = (
                self.probabilities.log()
                - 0.5 * ((z[..., None] - alpha[..., None] * self.values) / sigma[..., None]) ** 2
            )
            out = convert((log_p.softmax(-1) * self.values).sum(-1), z, snr, source="x", to=self.head)
        return out - z if self.head == "eps" else out


def gaussian(variance=0.37, low=LOW, high=HIGH, head="eps", **config):
    network = Denoiser(head, low, high, variance=variance)
    return GaussianDiffusion(DiffusionConfig((1,), low=low, high=high, head=head, **config), network).double().eval()


P = torch.tensor([0.3, 0.05, 0.1, 0.02, 0.2, 0.13, 0.15, 0.05], dtype=torch.float64)


def enumerable(low=LOW, high=HIGH, head="eps", **config):
    values = (2 * torch.arange(8, dtype=torch.float64) + 1) / 8 - 1
    network = Denoiser(head, low, high, values=values, probabilities=P)
    return (
        GaussianDiffusion(DiffusionConfig((1,), levels=8, low=low, high=high, head=head, **config), network)
        .double()
        .eval()
    )


class Given(Draws):
    """Draws at given times and noise."""

    def __init__(self, lead, eps):
        object.__setattr__(self, "given", lead)
        object.__setattr__(self, "eps", eps)

    def lead(self):
        return self.given

    def normal(self, name, *event):
        return self.eps[..., None]


def quadrature(model, times=2000, nodes=200):
    """Parts of the bound, averaged over x, by midpoints in time and Gauss-Hermite nodes in the noise."""
    at, weight = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(nodes))
    weight = weight / weight.sum()
    x = torch.arange(8, dtype=torch.float64)[:, None]
    f = model.encode(x)
    t = (torch.arange(times, dtype=torch.float64) + 0.5) / times
    k = times * nodes
    lead = t.repeat_interleave(nodes)[:, None].expand(k, 8)
    eps = at.repeat(times)[:, None].expand(k, 8)
    share = weight.repeat(times) / times
    steps = model.config.depth
    if steps is not None:
        lead = (
            ((torch.arange(steps, dtype=torch.float64) + 0.5) / steps).repeat_interleave(nodes)[:, None].expand(-1, 8)
        )
        eps, share = at.repeat(steps)[:, None].expand(-1, 8), weight.repeat(steps) / steps
    with torch.no_grad():
        diffusion = (share @ model.diffusion(f, Given(lead, eps))) @ P
        reconstruction = (weight @ model.reconstruction(x, f, Given(None, at[:, None].expand(-1, 8)))) @ P
        return {
            "diffusion": float(diffusion),
            "reconstruction": float(reconstruction),
            "prior": float(model.prior(f) @ P),
        }
