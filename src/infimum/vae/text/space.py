"""What lies in the latent space: reconstructions, sentences on the way between two others, and along one dimension."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from infimum.errors import UserError
from infimum.vae.text.decoding import greedy_words
from infimum.vae.text.model import TextVAE

__all__ = ["distinct", "interpolate", "path_between", "reconstruct", "traverse"]


def _sentences(model: TextVAE, z: Float[Tensor, "A B D"]) -> list[list[str]]:
    texts = model.vocabulary.decode(greedy_words(model, z.flatten(0, 1)))
    return [texts[i : i + z.shape[1]] for i in range(0, len(texts), z.shape[1])]


def path_between(
    model: TextVAE, a: Float[Tensor, "B D"], b: Float[Tensor, "B D"], steps: int
) -> Float[Tensor, "S B D"]:
    """From a to b in equal steps: along the line, or along the great circle where the latents lie on a sphere.

    Raises:
        UserError: fewer than 2 steps.
    """
    if steps < 2:
        raise UserError(f"an interpolation has at least its 2 ends, got steps={steps}")
    t = torch.linspace(0, 1, steps, dtype=a.dtype, device=a.device)[:, None, None]
    if model.config.posterior != "vmf":
        return (1 - t) * a + t * b
    angle = (a * b).sum(-1, keepdim=True).clamp(-1, 1).acos()
    near = angle < 1e-4  # there the circle is the line
    part = torch.where(near, 1.0, angle)
    left = torch.where(near, 1 - t, ((1 - t) * part).sin() / part.sin())
    right = torch.where(near, t, (t * part).sin() / part.sin())
    return torch.nn.functional.normalize(left * a + right * b, dim=-1)


@torch.no_grad()
def interpolate(
    model: TextVAE, first: Float[Tensor, "B T"], second: Float[Tensor, "B T"], *, steps: int = 11
) -> list[list[str]]:
    """Sentences by greedy decoding at equal steps between the centres of q(z | first) and q(z | second) (official: 11).

    Returns:
        ``steps`` lists of B sentences.
    """
    start, end = (model.family.centre(model.encode(x)) for x in (first, second))
    return _sentences(model, path_between(model, start, end, steps))


@torch.no_grad()
def traverse(
    model: TextVAE, x: Float[Tensor, "B T"], dim: int, *, span: float = 3.0, steps: int = 7
) -> list[list[str]]:
    """Sentences by greedy decoding as dimension ``dim`` of the centre of q(z | x) moves from -span to span about it.

    On the sphere the moved point is projected back.

    Raises:
        UserError: a dimension that the model does not have, or no steps.
    """
    latent = model.config.latent
    if not 0 <= dim < latent or steps < 1:
        raise UserError(
            f"dim is one of 0 .. {latent - 1} and steps at least 1, got dim {dim} and {steps} steps: the model has {latent} "
            "latent dimensions"
        )
    z = model.family.centre(model.encode(x))
    move = torch.zeros(steps, 1, latent, dtype=z.dtype, device=z.device)
    move[:, 0, dim] = torch.linspace(-span, span, steps, dtype=z.dtype, device=z.device)
    moved = z + move
    return _sentences(model, torch.nn.functional.normalize(moved, dim=-1) if model.config.posterior == "vmf" else moved)


@torch.no_grad()
def reconstruct(model: TextVAE, x: Float[Tensor, "B T"]) -> list[str]:
    """Sentences by greedy decoding at the centres of q(z | x)."""
    return _sentences(model, model.family.centre(model.encode(x))[None])[0]


def distinct(sentences: list[str], n: int) -> float:
    """Distinct-n (Li et al. 2016): different n-grams over all n-grams of the sentences; NaN where there are none."""
    words = [sentence.split() for sentence in sentences]
    grams = [tuple(each[i : i + n]) for each in words for i in range(len(each) - n + 1)]
    return len(set(grams)) / len(grams) if grams else math.nan
