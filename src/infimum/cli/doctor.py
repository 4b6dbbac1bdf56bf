"""``infimum doctor``: what is installed, what the machine has, and whether the engine gives exact answers on it."""

import importlib.metadata
import importlib.util
import os
import platform
import time
from collections.abc import Sequence

from infimum.errors import UserError

__all__ = ["main"]

EXTRAS = {
    "lm": ("transformers", "tokenizers", "peft", "datasets"),
    "images": ("scikit-image", "diffusers", "pillow", "tifffile", "mlxtend"),
    "text": ("gensim", "faiss-cpu", "sentence-transformers"),
    "tables": ("polars",),
    "agents": ("gymnasium", "minigrid"),
    "docking": ("gemmi",),
    "trackers": ("tensorboard",),
}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _check(device: str) -> tuple[bool, str]:
    """A linear-Gaussian model, whose evidence is known: the certified bound must lie below, the estimate within noise."""
    import torch

    from infimum.evidence import Plan, evaluate, iwae
    from infimum.testing import LinearGaussian

    torch.manual_seed(0)
    model = LinearGaussian(torch.randn(6, 3), torch.zeros(6), torch.full((6,), 0.5), shift=0.3, stretch=1.2).eval()
    keys = torch.arange(200)
    _, x = model.simulate(200, seed=0)
    started = time.monotonic()
    mean = evaluate(model.to(device), x.to(device), Plan.iid(2000), iwae, keys=keys).mean(1e-6)
    with torch.no_grad():
        truth = float(model.log_evidence(x.to(device)).mean())
    z = (mean.value - truth) / mean.stderr
    good = abs(z) < 5 and mean.certificate is not None and mean.certificate <= truth
    return (
        good,
        f"exact {truth:.4f}, estimate {mean.value:.4f} ({z:+.1f} standard errors), {time.monotonic() - started:.1f} s",
    )


def main(words: Sequence[str]) -> int:
    """Print what was found; exit code 1 if the engine is not exact here."""
    if words and words[0] in ("-h", "--help"):
        print("usage: infimum doctor        packages, devices, and a check of the engine against an exact answer")
        return 0
    if words:
        raise UserError(f"infimum doctor takes no arguments, got {words[0]!r}")
    import torch

    from infimum import __version__

    print(f"infimum {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads of {os.cpu_count()} cores")
    devices = ["cpu"]
    if torch.cuda.is_available():
        devices.append("cuda")
        print(f"cuda: {torch.cuda.get_device_name()}")
    else:
        print("cuda: none")
    for extra, packages in EXTRAS.items():
        versions = {package: _version(package) for package in packages}
        missing = [package for package, version in versions.items() if version is None]
        state = "installed" if not missing else f"lacks {', '.join(missing)}: pip install 'infimum[{extra}]'"
        print(f"extra {extra}: {state}")
    healthy = True
    for device in devices:
        good, told = _check(device)
        healthy &= good
        print(f"engine on {device}: {'exact' if good else 'WRONG'} ({told})")
    return 0 if healthy else 1
