"""Low-rank adapters (peft) on any network, with a report of what they matched; the network without them is the reference."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from infimum.errors import UserError

__all__ = ["PRESETS", "Adapter", "Preset", "add_lora"]

Preset = Literal["all-linear", "d1-compat"]
PRESETS: dict[str, tuple[str, ...]] = {
    "d1-compat": ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "gate_proj"),
}
"""Names of layers by preset. d1 and SPG ask for Llama's names, of which LLaDA has q_proj, k_proj, v_proj and up_proj alone."""
HEAD = ("lm_head", "embed_out", "ff_out", "output_projection", "head")


@dataclass(frozen=True)
class Adapter:
    """A network with adapters in place.

    Attributes:
        network: it.
        matched: names of the layers that got one.
        missed: names that were asked for and matched nothing.
        trained: parameters of the adapters; all others are frozen.
    """

    network: nn.Module
    matched: tuple[str, ...]
    missed: tuple[str, ...]
    trained: int
    _config: Any = field(repr=False, default=None)

    @contextmanager
    def off(self) -> Iterator[None]:
        """The network as it was: the reference of a preference or of a divergence, without a second copy of its weights."""
        # peft's enable_adapters would also turn requires_grad off and on, which loses gradients of weights sharded by FSDP2
        layers = list(_layers(self.network))
        before = [layer.disable_adapters for layer in layers]
        for layer in layers:
            layer._disable_adapters = True
        try:
            yield
        finally:
            for layer, was in zip(layers, before, strict=True):
                layer._disable_adapters = was

    def merge(self) -> None:
        """Add the adapters to the weights, in place: the same function without their cost. They cannot be trained any more."""
        for layer in _layers(self.network):
            layer.merge()

    def save(self, folder: str | Path) -> Path:
        """``adapter_config.json`` and ``adapter_model.safetensors``, as peft writes them."""
        from peft import get_peft_model_state_dict
        from safetensors.torch import save_file

        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        state = {f"base_model.model.{k}": v.contiguous() for k, v in get_peft_model_state_dict(self.network).items()}
        part = path / ".adapter_model.safetensors"
        save_file(state, part)
        part.replace(path / "adapter_model.safetensors")
        self._config.save_pretrained(str(path))
        return path

    def load(self, folder: str | Path) -> None:
        """What `save` has written.

        Raises:
            UserError: no such file, or adapters of other layers or sizes.
        """
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        path = Path(folder) / "adapter_model.safetensors"
        if not path.exists():
            raise UserError(f"{path} does not exist: give the folder that Adapter.save has written")
        state = {name.removeprefix("base_model.model."): value for name, value in load_file(path).items()}
        try:
            told: Any = set_peft_model_state_dict(self.network, state)
        except RuntimeError as error:
            raise UserError(
                f"{path} does not fit the adapters of this network: {str(error).splitlines()[-1]}"
            ) from None
        if told.unexpected_keys:
            raise UserError(f"{path} has adapters for {told.unexpected_keys[0]}, which this network has not")


def _layers(network: nn.Module) -> Iterator[Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return (module for module in network.modules() if isinstance(module, BaseTunerLayer))


def add_lora(
    network: nn.Module,
    targets: Preset | Sequence[str] = "all-linear",
    *,
    r: int = 128,
    alpha: int = 64,
    dropout: float = 0.05,
    seed: int = 0,
) -> Adapter:
    """Freeze a network and put low-rank adapters (2106.09685) into its linear layers, in place. At first they change nothing.

    Args:
        network: of any library; layers are found by the last part of their names.
        targets: "all-linear": every linear layer but the head; "d1-compat": the names that d1 and SPG ask for, most of which LLaDA
            does not have; or names of your own.
        r: rank (128).
        alpha: their sum is scaled by alpha / r (64).
        dropout: on their input, in training mode only: the learners of `infimum.alignment` run in evaluation mode.
        seed: of their initial values.

    Raises:
        UserError: peft is not installed, the network has adapters already, or no layer has such a name.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UserError("low-rank adapters need peft: pip install 'infimum[lm]'") from None
    if r < 1 or alpha <= 0 or not 0 <= dropout < 1:
        raise UserError(
            f"r is {r}, alpha {alpha} and dropout {dropout}, expected r of at least 1, alpha above 0, dropout in [0, 1)"
        )
    if any(True for _ in _layers(network)):
        raise UserError("the network has adapters already: merge them, or load the model anew")
    linear = {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    body = [name for name in linear if not _is_head(name)]
    if targets == "all-linear":
        wanted, missed = body, tuple[str, ...]()
    else:
        names = PRESETS.get(targets, (targets,)) if isinstance(targets, str) else tuple(targets)
        wanted = [name for name in body if any(name == n or name.endswith("." + n) for n in names)]
        missed = tuple(n for n in names if not any(name == n or name.endswith("." + n) for name in body))
    if not wanted:
        kinds = sorted({name.rsplit(".", 1)[-1] for name in body})
        raise UserError(
            f"no linear layer is called {', '.join(missed) or targets}: this network has {', '.join(kinds) or 'none'}"
        )
    if missed:
        warnings.warn(
            f"no layer is called {', '.join(missed)}; adapters are in {', '.join(sorted({n.rsplit('.', 1)[-1] for n in wanted}))}",
            stacklevel=2,
        )
    config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=wanted)
    for p in network.parameters():
        p.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, network)
    network.train(network.training)  # new layers come in training mode
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return Adapter(network, tuple(wanted), missed, trained, config)


def _is_head(name: str) -> bool:
    """LLaDA's head has the leaf name of its feed-forward layers: a head is not inside of a block."""
    return name.rsplit(".", 1)[-1] in HEAD and not any(part.isdigit() for part in name.split("."))
