"""Masked diffusion over a table: a denoiser so small that log p(x) under a random order and the ELBO are exact."""

import itertools
import math
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.distributions import Categorical

from infimum.errors import UserError
from infimum.evidence.draws import Draws
from infimum.evidence.model import PathModel
from infimum.testing.oracles.base import Oracle, double, inverse_cdf, parameter

__all__ = ["MaskedTable", "TinyMasked", "UnrolledMasked"]

LONGEST = 6  # 6! = 720 orders


class MaskedTable(torch.nn.Module):
    """p(x_i | visible tokens) of every canvas, looked up.

    A canvas is a sequence over V tokens and the mask (number V); its row is the base-(V+1) number of its symbols,
    position 0 least significant. `logits` has shape ((V+1)^L, L, V) and is normalised over V.
    """

    def __init__(self, logits: Float[Tensor, "R L V"]) -> None:
        super().__init__()
        rows, self.length, self.vocabulary = logits.shape
        if rows != (self.vocabulary + 1) ** self.length or self.length > LONGEST:
            raise UserError(
                f"a table of shape {tuple(logits.shape)} is not ((V+1)^L, L, V) with L <= {LONGEST}: "
                f"expected {(self.vocabulary + 1) ** self.length} rows"
            )
        self.logits = parameter(logits)

    @staticmethod
    def fixture(reference: bool = False) -> "MaskedTable":
        """The closed-form table: L = 4, V = 2, x = (0, 0, 0, 0) has the published probabilities.

        With S the masked set and b(S) = sum over S of 2^j, token 0 at i in S has probability
        (1 + ((3 i + 5 b) mod 7)) / 8, or (1 + ((5 i + 3 b) mod 7)) / 8 for the reference policy; values of visible
        tokens play no part. No joint distribution has these conditionals, so bounds are strict.
        """
        length = 4
        symbols = _canvases(length, 2)
        b = ((symbols == 2) * 2 ** torch.arange(length)).sum(-1, keepdim=True)
        i = torch.arange(length)
        mixed = 5 * i + 3 * b if reference else 3 * i + 5 * b
        p = (1 + mixed % 7).double() / 8
        return MaskedTable(torch.stack([p, 1 - p], -1).log())

    @staticmethod
    def from_joint(joint: Float[Tensor, "..."], noise: float | int = 0.0, seed: int = 0) -> "MaskedTable":
        """True conditionals of a joint table of shape (V,) * L, their logits perturbed by `noise` standard normals.

        Without noise all orders agree and the ELBO equals log p(x).
        """
        length, vocabulary = joint.ndim, joint.shape[0]
        symbols = _canvases(length, vocabulary)
        tokens = torch.cartesian_prod(*[torch.arange(vocabulary)] * length)  # rows in the order of joint.flatten()
        fits = (symbols[:, None] == tokens) | (symbols[:, None] == vocabulary)
        mass = fits.all(-1) * joint.double().flatten()  # (R, V^L)
        at = torch.nn.functional.one_hot(tokens, vocabulary).double()  # (V^L, L, V)
        logits = torch.einsum("rx,xlv->rlv", mass, at).log().clamp_min(-700.0).log_softmax(-1)
        generator = torch.Generator().manual_seed(seed)
        return MaskedTable(logits + noise * torch.randn(logits.shape, generator=generator, dtype=torch.float64))

    def forward(self, x: Int[Tensor, "*n L"], masked: Bool[Tensor, "*n L"]) -> Float[Tensor, "*n L"]:
        """log p(x_i | tokens outside `masked`) at every position."""
        place = (self.vocabulary + 1) ** torch.arange(self.length, device=x.device)
        row = (torch.where(masked, self.vocabulary, x) * place).sum(-1)
        table = self.logits.log_softmax(-1)[row]
        return table.gather(-1, x.expand(masked.shape).unsqueeze(-1)).squeeze(-1)

    def _subsets(self, x: Int[Tensor, "B L"]) -> tuple[Bool[Tensor, "M L"], Float[Tensor, "M B L"]]:
        """All 2^L masks and the log-probabilities under each."""
        masks = (torch.arange(2**self.length)[:, None] >> torch.arange(self.length) & 1).bool()
        wide = masks[:, None].expand(-1, x.shape[0], -1)
        return masks, self(x.expand(wide.shape), wide)

    def log_evidence(self, x: Int[Tensor, "B L"]) -> Float[Tensor, "B"]:
        """log of the mean over all L! orders of the product of conditionals, by a recursion over masked sets.

        f(empty) = 1, f(S) = mean over i in S of p(x_i | x with S masked) f(S minus i).
        """
        masks, log_p = self._subsets(x)
        log_f = [torch.zeros_like(log_p[0, :, 0])]
        for s in range(1, 2**self.length):
            members = masks[s].nonzero().flatten()
            parts = [log_p[s, :, i] + log_f[s - 2 ** int(i)] for i in members]
            log_f.append(torch.stack(parts).logsumexp(0) - math.log(len(parts)))
        return log_f[-1]

    def elbo(self, x: Int[Tensor, "B L"]) -> Float[Tensor, "B"]:
        """Exact ELBO: sum over l = 1..L of (1/l) x the mean over masked sets of size l of their log-scores."""
        masks, log_p = self._subsets(x)
        size = masks.sum(-1)
        score = (log_p * masks[:, None]).sum(-1)
        share = [0.0 if n == 0 else 1 / (n * math.comb(self.length, n)) for n in size.tolist()]
        return score.new_tensor(share) @ score

    def level_mean(self, x: Int[Tensor, "B L"], t: Float[Tensor, "N"]) -> Float[Tensor, "N B"]:
        """f(t) = E[(1/t) x score | mask probability t], a polynomial of degree L-1 whose integral is the ELBO."""
        masks, log_p = self._subsets(x)
        size = masks.sum(-1).double()
        score = (log_p * masks[:, None]).sum(-1)
        t = t.double().unsqueeze(-1)
        # t^(|S|-1): the empty set has score 0 and is given weight 0 instead of 0 / t.
        weight = torch.where(size > 0, t ** (size - 1).clamp_min(0) * (1 - t) ** (self.length - size), 0.0)
        return weight @ score


def _canvases(length: int, vocabulary: int) -> Int[Tensor, "R L"]:
    """Symbols of every canvas row; number `vocabulary` is the mask."""
    base = vocabulary + 1
    return torch.arange(base**length)[:, None] // base ** torch.arange(length) % base


class TinyMasked(PathModel):
    """Masked-diffusion ELBO terms of a `MaskedTable`, one look-up a draw. x (B, L) int64.

    form "l": l = 1 + floor(L lead) positions are masked, a uniform subset from the stream "mask"; term (L/l) x score.
    form "t": t = lead, every position is masked if its uniform of the stream "mask" is below t; term score / t. Its
    variance is infinite under a random lead, and E[term | t] is a polynomial of degree L-1 (LLaDA, arXiv 2502.09992).
    """

    def __init__(self, table: MaskedTable, form: Literal["l", "t"] = "l") -> None:
        super().__init__()
        self.table, self.form = table, form

    def constant(self, x: Int[Tensor, "B L"], s: Int[Tensor, "B L"]) -> Float[Tensor, "B"]:
        return torch.zeros(x.shape[0], dtype=torch.float64, device=x.device)

    def masks(self, draws: Draws) -> tuple[Bool[Tensor, "K B L"], Float[Tensor, "K B"]]:
        """The masked positions of every draw and the weight of their score."""
        lead, length = draws.lead(), self.table.length
        if self.form == "t":
            return double(draws).uniform("mask", length) < lead.unsqueeze(-1), 1 / lead
        size = 1 + (lead * length).long().clamp_max(length - 1)
        return draws.subset("mask", size, length), length / size.double()

    def terms(self, x: Int[Tensor, "B L"], s: Int[Tensor, "B L"], draws: Draws) -> Float[Tensor, "K B"]:
        masked, weight = self.masks(draws)
        return weight * (self.table(x.expand(masked.shape), masked) * masked).sum(-1)

    def lead_degree(self, x: Int[Tensor, "B L"]) -> int | None:
        """L-1 in the t-form; the l-form is a step function of the lead."""
        return self.table.length - 1 if self.form == "t" else None

    def log_evidence(self, x: Int[Tensor, "B L"]) -> Float[Tensor, "B"]:
        """Exact log p(x) under a uniformly random order."""
        return self.table.log_evidence(x)

    def elbo(self, x: Int[Tensor, "B L"]) -> Float[Tensor, "B"]:
        """Exact value of E[terms]."""
        return self.table.elbo(x)


class UnrolledMasked(Oracle):
    """The same table as importance weights: z is an order, log_w = log p(x | order), E exp(log_w) = p(x).

    z (K, B, L) int64, z[..., k] the position unmasked at step k, uniform over the L! orders: argsort of the stream
    "order". The prior over orders is the proposal; `shift` and `stretch` do not apply.
    """

    def __init__(self, table: MaskedTable) -> None:
        super().__init__("prior")
        self.table = table
        orders = torch.tensor(list(itertools.permutations(range(table.length))))
        self.register_buffer("orders", orders, persistent=False)  # (L!, L)

    orders: Tensor

    def log_evidence(self, x: Int[Tensor, "B L"]) -> Float[Tensor, "B"]:
        return self.table.log_evidence(x)

    def log_given_order(self, x: Int[Tensor, "B L"], z: Int[Tensor, "K B L"]) -> Float[Tensor, "K B"]:
        """sum over k of log p(x_z(k) | x_z(1..k-1)): L look-ups a draw."""
        rank = z.argsort(-1)  # when each position is unmasked
        masked = rank.unsqueeze(-2) >= torch.arange(self.table.length, device=z.device).unsqueeze(-1)  # (K, B, step, L)
        log_p = self.table(x.unsqueeze(-2).expand(masked.shape), masked)
        return log_p.gather(-1, z.unsqueeze(-1)).squeeze(-1).sum(-1)

    def exact_posterior(self, x: Int[Tensor, "B L"]) -> Categorical:
        """Over the rows of `orders`."""
        return Categorical(logits=self.log_given_order(x, self.support(x)).T)

    def support(self, x: Int[Tensor, "B L"]) -> Int[Tensor, "C B L"]:
        """All orders for every item, for `exhaustive`."""
        return self.orders[:, None].expand(-1, x.shape[0], -1)

    def encode(self, x: Int[Tensor, "B L"]) -> Int[Tensor, "B L"]:
        return x

    def sample(self, s: Int[Tensor, "B L"], draws: Draws) -> Int[Tensor, "K B L"]:
        return double(draws).uniform("order", self.table.length).argsort(-1)

    def log_proposal(self, s: Int[Tensor, "B L"], z: Int[Tensor, "K B L"]) -> Float[Tensor, "K B"]:
        return torch.full(z.shape[:-1], -math.lgamma(self.table.length + 1), dtype=torch.float64, device=z.device)

    def log_joint(self, x: Int[Tensor, "B L"], z: Int[Tensor, "K B L"]) -> Float[Tensor, "K B"]:
        return self.log_given_order(x, z) - math.lgamma(self.table.length + 1)

    def posterior_sample(self, x: Int[Tensor, "B L"], draws: Draws) -> Int[Tensor, "K B L"]:
        log_probs = self.exact_posterior(x).logits
        return self.orders[inverse_cdf(log_probs.expand(*draws.shape, -1), double(draws).uniform("posterior"))]

    def _ancestral(self, draws: Draws) -> tuple[Int[Tensor, "K B L"], Int[Tensor, "K B L"]]:
        length = self.table.length
        z = double(draws).uniform("prior", length).argsort(-1)
        u = double(draws).uniform("x", length)
        x = torch.zeros_like(z)
        masked = torch.ones_like(z, dtype=torch.bool)
        for k in range(length):
            at = z[..., k : k + 1]
            each = [self.table(torch.where(masked, v, x), masked) for v in range(self.table.vocabulary)]
            log_probs = torch.stack(each, -1).gather(-2, at.unsqueeze(-1).expand(*at.shape, len(each))).squeeze(-2)
            x = x.scatter(-1, at, inverse_cdf(log_probs, u[..., k]).unsqueeze(-1))
            masked = masked.scatter(-1, at, False)
        return z, x
