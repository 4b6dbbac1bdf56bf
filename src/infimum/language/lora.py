"""Low-rank adapters (peft) on any network, with a report of what they matched; the network without them is the reference."""

import json
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from infimum.errors import UserError
from infimum.training import distributed

__all__ = ["PRESETS", "Adapter", "Preset", "add_lora", "merge_saved"]

Preset = Literal["all-linear", "d1-compat"]
PRESETS: dict[str, tuple[str, ...]] = {
    "d1-compat": ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "gate_proj"),
}
"""Names of layers by preset. d1 and SPG ask for Llama's names, of which LLaDA has q_proj, k_proj, v_proj and up_proj alone."""
HEAD = ("lm_head", "embed_out", "ff_out", "output_projection", "head")

CONFIG, WEIGHTS, ROOT = "adapter_config.json", "adapter_model.safetensors", "base_model.model."
PARTS = ("lora_A", "lora_B")

PLAIN: dict[str, tuple[object, ...]] = {
    "peft_type": ("LORA",), "use_dora": (False, None), "use_rslora": (False, None), "lora_bias": (False, None),
    "bias": ("none", None), "rank_pattern": ({}, None), "alpha_pattern": ({}, None), "modules_to_save": ([], None),
    "layer_replication": (None,),
}  # fmt: skip
"""Settings of peft, with the values that a plain adapter has."""


@dataclass(frozen=True)
class Adapter:
    """A network with adapters in place.

    Attributes:
        network: it.
        matched: names of the layers that got one.
        missed: names that were asked for and matched nothing.
        trained: parameters of the adapters; all others are frozen.
        prefix: what stands in front of the names in files.
    """

    network: nn.Module
    matched: tuple[str, ...]
    missed: tuple[str, ...]
    trained: int
    prefix: str = ""
    _config: Any = field(repr=False, default=None)

    @contextmanager
    def off(self) -> Iterator[None]:
        """The network as it was: the reference of a preference or of a divergence, without a second copy of its weights."""
        # peft's enable_adapters would also turn requires_grad off and on, which loses gradients of weights sharded by FSDP2
        layers = list(self._layers().values())
        before = [layer.disable_adapters for layer in layers]
        for layer in layers:
            layer._disable_adapters = True
        try:
            yield
        finally:
            for layer, was in zip(layers, before, strict=True):
                layer._disable_adapters = was

    def merge(self) -> None:
        """Add the adapters to the weights, in place: the same function without their cost, in the layers that it had before.

        They are gone then: they cannot be trained any more, nor switched off.
        """
        root = _root(self.network)
        for name, layer in self._layers().items():
            layer.merge()
            above, _, leaf = name.rpartition(".")
            setattr(root.get_submodule(above), leaf, layer.get_base_layer())

    def save(self, folder: str | Path) -> Path:
        """``adapter_config.json`` and ``adapter_model.safetensors``, as peft writes them.

        Names are those of the checkpoint that the network is of, so that ``PeftModel.from_pretrained`` puts them on the
        checkpoint's model: on `LladaForMaskedDiffusion`, or on the causal model of a `FullAttention`. Of several processes all call
        it, and the first one writes.
        """
        from peft import LoraConfig
        from safetensors.torch import save_file

        state = {}
        for name, layer in self._layers().items():
            for part in PARTS:
                weight: Tensor = getattr(layer, part)["default"].weight
                state[f"{ROOT}{self.prefix}{name}.{part}.weight"] = distributed.whole(weight.detach()).contiguous()
        path = Path(folder)
        if distributed.rank() > 0:
            return path
        path.mkdir(parents=True, exist_ok=True)
        part_file = path / f".{WEIGHTS}"
        save_file(state, part_file)
        part_file.replace(path / WEIGHTS)
        LoraConfig(
            r=self._config.r, lora_alpha=self._config.lora_alpha, lora_dropout=self._config.lora_dropout,
            fan_in_fan_out=self._config.fan_in_fan_out, target_modules=[self.prefix + name for name in self.matched],
        ).save_pretrained(str(path))  # fmt: skip
        return path

    def load(self, folder: str | Path) -> None:
        """What `save` has written.

        Raises:
            UserError: no such file, or adapters of another rank or scale, of other layers or sizes.
        """
        path, layers = Path(folder), self._layers()
        r, alpha, state = _saved(path, self.prefix)
        for name, here, there in (("r", self._config.r, r), ("alpha", self._config.lora_alpha, alpha)):
            if here != there:
                raise UserError(
                    f"{path / CONFIG} has {name} {there}, and this adapter {here}: add adapters of {name} {there}"
                )
        wanted = {
            f"{name}.{part}.weight": getattr(layer, part)["default"] for name, layer in layers.items() for part in PARTS
        }
        other, missing = sorted(set(state) - set(wanted)), sorted(set(wanted) - set(state))
        if other:
            raise UserError(f"{path / WEIGHTS} has adapters for {other[0]}, which this network has not")
        if missing:
            raise UserError(
                f"{path / WEIGHTS} has no {missing[0]}, which this network has: add adapters of the targets that it was saved with"
            )
        for name, module in wanted.items():
            if state[name].shape != module.weight.shape:
                raise UserError(
                    f"{path / WEIGHTS} does not fit the adapters of this network: {name} has shape {tuple(state[name].shape)}, "
                    f"expected {tuple(module.weight.shape)}"
                )
        with torch.no_grad():
            for name, module in wanted.items():
                module.weight.copy_(state[name])

    def _layers(self) -> dict[str, Any]:
        """By name.

        Raises:
            UserError: they have been merged.
        """
        matched = set(self.matched)
        found = {name: part for name, part in _root(self.network).named_modules() if name in matched and _tuned(part)}
        if not found:
            raise UserError("the adapters are merged into the weights and gone: add new ones, or load the model anew")
        return found


def _tuned(module: nn.Module) -> bool:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return isinstance(module, BaseTunerLayer)


def _root(network: nn.Module) -> nn.Module:
    """What the names of layers are relative to: of a causal model with full attention, the model."""
    from infimum.language.causal import FullAttention

    return network.model if isinstance(network, FullAttention) else network


def add_lora(
    network: nn.Module,
    targets: Preset | Sequence[str] = "all-linear",
    *,
    r: int = 128,
    alpha: float = 64,
    dropout: float = 0.05,
    seed: int = 0,
    prefix: str | None = None,
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
        prefix: in front of the layers' names in files, where the network is a part of the model that peft is to put them on; None:
            what the network says, which that of a `MaskPredictor` does.

    Raises:
        UserError: peft is not installed, the network has adapters already, or no layer has such a name.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UserError("low-rank adapters need peft: pip install 'infimum[lm]'") from None
    if type(r) is not int or r < 1 or not 0 < alpha < math.inf or not 0 <= dropout < 1:
        raise UserError(
            f"r is {r}, alpha {alpha} and dropout {dropout}, expected a whole r of at least 1, alpha above 0, dropout in [0, 1)"
        )
    if any(map(_tuned, network.modules())):
        raise UserError("the network has adapters already: merge them, or load the model anew")
    body = _body(network)
    if targets == "all-linear":
        wanted, missed = list(body), tuple[str, ...]()
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
    turned = not any(isinstance(body[name], nn.Linear) for name in wanted)  # weights of GPT-2 lie the other way around
    scale: Any = alpha  # peft takes any number
    config = LoraConfig(r=r, lora_alpha=scale, lora_dropout=dropout, target_modules=wanted, fan_in_fan_out=turned)
    for p in network.parameters():
        p.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, _root(network))
    network.train(network.training)  # new layers come in training mode
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    before = str(getattr(network, "checkpoint_prefix", "")) if prefix is None else prefix
    return Adapter(network, tuple(wanted), missed, trained, before, config)


def merge_saved(network: nn.Module, folder: str | Path) -> tuple[str, ...]:
    """Add the adapters of a folder, which `Adapter.save` or peft wrote, to the weights of a network; names of its layers.

    Raises:
        UserError: no adapters there, or those of another network.
    """
    path = Path(folder)
    r, alpha, state = _saved(path, str(getattr(network, "checkpoint_prefix", "")))
    layers = sorted({name.rsplit(".", 2)[0] for name in state})
    body = _body(network)
    if unknown := [name for name in layers if name not in body]:
        raise UserError(
            f"{path / WEIGHTS} has adapters for {unknown[0]}, which is no linear layer of this network's blocks"
        )
    trainable = [p for p in network.parameters() if p.requires_grad]
    adapter = add_lora(network, layers, r=r, alpha=alpha, dropout=0.0)
    adapter.load(path)
    adapter.merge()
    for p in trainable:
        p.requires_grad_(True)
    return adapter.matched


def _saved(path: Path, prefix: str) -> tuple[int, Any, dict[str, Tensor]]:
    """Rank, alpha, and weights by the names of the network's layers."""
    from safetensors.torch import load_file

    for name in (CONFIG, WEIGHTS):
        if not (path / name).is_file():
            raise UserError(f"{path / name} does not exist: give the folder that Adapter.save has written")
    try:
        settings = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        state = load_file(path / WEIGHTS)
    except Exception as error:  # safetensors has exceptions of its own, and JSON may be too deep
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the adapters of {path} cannot be read ({reason}): save them anew") from None
    if not isinstance(settings, dict):
        raise UserError(f"{path / CONFIG} holds no JSON object: save the adapters anew")
    for name, plain in PLAIN.items():
        if settings.get(name, plain[0]) not in plain:
            raise UserError(
                f"{path / CONFIG} has {name} {settings[name]!r}, and plain low-rank adapters alone are read: merge them with peft"
            )
    r, alpha = settings.get("r"), settings.get("lora_alpha")
    if type(r) is not int or type(alpha) not in (int, float):
        raise UserError(
            f"{path / CONFIG} has r {r!r} and lora_alpha {alpha!r}, expected numbers: save the adapters anew"
        )
    for name, value in state.items():
        if not name.endswith(tuple(f".{part}.weight" for part in PARTS)):
            raise UserError(f"{path / WEIGHTS} holds {name}, which is no plain low-rank adapter: merge it with peft")
        if value.ndim != 2 or value.shape[name.endswith(".lora_B.weight")] != r:
            raise UserError(
                f"{path / WEIGHTS} holds {name} of shape {tuple(value.shape)}, expected rank {r}: save it anew"
            )
    if not state:
        raise UserError(f"{path / WEIGHTS} holds no adapters: save them anew")
    return r, alpha, {name.removeprefix(ROOT).removeprefix(prefix): value for name, value in state.items()}


def _body(network: nn.Module) -> dict[str, nn.Module]:
    """Linear layers but the head."""
    from transformers.pytorch_utils import Conv1D

    modules = _root(network).named_modules()
    return {name: m for name, m in modules if isinstance(m, (nn.Linear, Conv1D)) and not _is_head(name)}


def _is_head(name: str) -> bool:
    """LLaDA's head has the leaf name of its feed-forward layers: a head is not inside of a block."""
    return name.rsplit(".", 1)[-1] in HEAD and not any(part.isdigit() for part in name.split("."))
