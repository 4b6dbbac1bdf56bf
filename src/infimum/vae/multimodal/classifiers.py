"""Classifiers of real data, one a modality: the judges of coherence, and the features of the Frechet distance."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from infimum.data import batches
from infimum.errors import UserError
from infimum.vae.multimodal.metrics import Coherence, agreement

__all__ = ["PictureClassifier", "train_classifiers"]

LEAST = 0.9
"""Accuracy on real data below which a classifier is no judge."""


class PictureClassifier(nn.Module):
    """Two convolutions and two linear layers on pictures (N, C, H, W)."""

    def __init__(self, shape: tuple[int, ...], classes: int, width: int = 16, features: int = 64) -> None:
        super().__init__()
        c, h, w = shape
        self.body = nn.Sequential(
            nn.Conv2d(c, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(),
            nn.Linear(2 * width * -(-h // 4) * -(-w // 4), features), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(features, classes)

    def features(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N features"]:
        """What the last layer sees."""
        return self.body(x)

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N classes"]:
        """Logits."""
        return self.head(self.body(x))

    def predict(self, x: Float[Tensor, "*n C H W"]) -> Int[Tensor, "*n"]:
        """The most probable label."""
        flat = x.reshape(-1, *x.shape[-3:])
        with torch.no_grad():
            return torch.cat([self(part).argmax(-1) for part in flat.split(2048)]).reshape(x.shape[:-3])


def train_classifiers(
    train: Mapping[str, Float[Tensor, "N C H W"]],
    labels: Int[Tensor, "N"],
    test: Mapping[str, Float[Tensor, "L C H W"]],
    truth: Int[Tensor, "L"],
    *,
    steps: int = 300,
    batch: int = 128,
    lr: float = 2e-3,
    seed: int = 0,
    least: float = LEAST,
) -> tuple[dict[str, PictureClassifier], dict[str, Coherence]]:
    """A classifier for each modality, and its accuracy on real test data.

    Raises:
        UserError: an accuracy below ``least``: such a judge says nothing about coherence.
    """
    judges, accuracy = {}, {}
    classes = int(max(labels.max(), truth.max())) + 1
    for name, x in train.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            judge = PictureClassifier(tuple(x.shape[1:]), classes).to(x.device)
        optimizer = torch.optim.Adam(judge.parameters(), lr=lr, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        order = batches(torch.arange(len(x), device=x.device), batch, seed=seed)
        for _ in range(steps):
            index = next(order)[0]
            optimizer.zero_grad()
            F.cross_entropy(judge(x[index]), labels[index]).backward()
            optimizer.step()
            schedule.step()
        judges[name] = judge.eval()
        accuracy[name] = agreement(judge.predict(test[name]), truth)
        if accuracy[name].value < least:
            raise UserError(
                f"the classifier of {name!r} is right on {accuracy[name].value:.1%} of real test items, and at least {least:.0%} "
                "is asked of a judge of coherence: train it longer (steps), on more data, or ask less (least)"
            )
    return judges, accuracy
