"""Checkpoints: found whole at any instant, exact, strict, and refused in one sentence when they are not right."""

import json
import os
import random
import struct
import time
from dataclasses import dataclass, field
from typing import Literal

import pytest
import torch
from torch import nn

from infimum.errors import UserError
from infimum.training import MODELS, Run, files, from_json, load_model, save_model, to_json, train
from infimum.training.files import current, replacing
from infimum.training.tensors import pack, read_tensors, unpack
from training.learners import Vae, same, spawn


@dataclass(frozen=True)
class Likelihood:
    name: Literal["bernoulli", "gaussian"] = "bernoulli"
    scale: float | None = None


@dataclass(frozen=True)
class Config:
    width: int
    hidden: tuple[int, ...] = (8, 8)
    shape: tuple[int, int] = (2, 3)
    likelihood: Likelihood = field(default_factory=Likelihood)
    rate: float = 1.0
    options: dict[str, bool] = field(default_factory=dict)


class Net(nn.Module):
    Config = Config

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.encode, self.decode = nn.Linear(config.width, 4), nn.Linear(4, config.width)
        self.tied = nn.Linear(config.width, 4)
        self.tied.weight = self.encode.weight
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("view", torch.arange(6.0).view(2, 3)[:, 1:].t())


@pytest.fixture(autouse=True)
def table(monkeypatch):
    monkeypatch.setitem(MODELS, "net", f"{Net.__module__}:{Net.__qualname__}")


CONFIG = Config(5, (7,), (1, 4), Likelihood("gaussian", 0.1), 2, {"flow": True})


def saved(path):
    torch.manual_seed(0)
    net = Net(CONFIG)
    save_model(path, net, "net", {"threshold": 0.5, "names": ("a", "b")})
    return net


def edit(path, change):
    head = json.loads((path / "config.json").read_text())
    change(head)
    (path / "config.json").write_text(json.dumps(head))


def test_a_model_comes_back_bit_for_bit_with_its_data(tmp_path):
    net = saved(tmp_path / "net")
    again, data = load_model(tmp_path / "net")
    assert again.config == CONFIG and not again.training
    assert same(net.state_dict(), again.state_dict())
    assert again.tied.weight is again.encode.weight
    assert data == {"threshold": 0.5, "names": ["a", "b"]}
    assert sorted(f.name for f in (tmp_path / "net").iterdir()) == ["config.json", "data.json", "model.safetensors"]


class Learner:
    def __init__(self):
        torch.manual_seed(1)
        self.net = Net(CONFIG)
        self.modules = {"critic": nn.Linear(2, 2), "net": self.net}
        self.optimizers = {"main": torch.optim.SGD(self.net.parameters(), 0.1)}

    def batches(self, start):
        while True:
            yield torch.ones(4, 5)

    def step(self, x, fit):
        loss = ((self.net.decode(self.net.encode(x) + self.net.tied(x)) - x) ** 2).mean()
        fit.backward(loss)
        fit.update()
        return {"loss": loss}


def test_the_checkpoint_of_a_run_gives_its_model_averaged_or_not(tmp_path):
    learner = Learner()
    result = train(learner, steps=4, run=Run(tmp_path), ema={"net": 0.5}, data={"threshold": 1})
    expected = {"config.json", "model.safetensors", "data.json", "state.json", "optimizer-main.safetensors"}
    assert {f.name for f in result.checkpoint.iterdir()} == expected
    raw, data = load_model(result.checkpoint, averaged=False)
    assert data == {"threshold": 1} and same(raw.state_dict(), learner.net.state_dict())
    mean, _ = load_model(result.checkpoint)
    with result.averages["net"].swap():
        assert same(mean.state_dict(), learner.net.state_dict())
    assert not torch.equal(mean.encode.weight, raw.encode.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda h: h.update(model="os:system"),
            "the model 'os:system' is unknown; known are autoregressive, belief-net, cond",
        ),
        (lambda h: h.update(model=["net"]), "is unknown; known are"),
        (lambda h: h.update(model=None), "holds a training state and no model"),
        (lambda h: h.update(format=2), "has checkpoint format 2, and 1 is read: upgrade"),
        (lambda h: h.update(config=[]), r"config is \[\], and an object with the fields of Config"),
        (lambda h: h["config"].update(depth=1), "config.depth is not a field of Config: it has width, hidden"),
        (lambda h: h["config"].pop("width"), "config.width is missing"),
        (lambda h: h["config"].update(width="5"), "config.width is '5', and int was expected"),
        (lambda h: h["config"].update(width=True), "config.width is True, and int was expected"),
        (lambda h: h["config"].update(width=5.0), "config.width is 5.0, and int was expected"),
        (lambda h: h["config"].update(hidden=[1, "a"]), r"config.hidden\[1\] is 'a', and int was expected"),
        (lambda h: h["config"].update(shape=[1]), "config.shape has 1 entries, and 2 were expected"),
        (lambda h: h["config"]["likelihood"].update(name="cauchy"), "likelihood.name is 'cauchy', and one of 'bern"),
        (lambda h: h["config"]["likelihood"].update(scale="x"), "likelihood.scale is 'x', and float or null was"),
        (lambda h: h["config"]["options"].update(flow=1), "options.flow is 1, and bool was expected"),
        (lambda h: h["config"].update(width=6), r"encode.weight is \(\(4, 5\), 'torch.float32'\), and the model has"),
    ],
)
def test_a_wrong_config_is_one_sentence(change, message, tmp_path):
    saved(tmp_path / "net")
    edit(tmp_path / "net", change)
    with pytest.raises(UserError, match=message) as caught:
        load_model(tmp_path / "net")
    assert "\n" not in str(caught.value)


def oversized(data):
    return struct.pack("<Q", 2**62) + data[8:]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-7],
        lambda data: data[:4],
        lambda data: b"",
        lambda data: b"\x80\x04\x95pickle",
        oversized,
        lambda data: data[:8] + b"\xff" * 40 + data[48:],
        lambda data: data + b"more",
    ],
)
def test_damaged_weights_are_one_sentence(damage, tmp_path):
    saved(tmp_path / "net")
    file = tmp_path / "net" / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match="is damaged or no safetensors file") as caught:
        load_model(tmp_path / "net")
    assert "\n" not in str(caught.value)


def test_missing_and_foreign_tensors_are_named(tmp_path):
    saved(tmp_path / "net")
    from safetensors.torch import save_file

    tensors = read_tensors(tmp_path / "net" / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if k != "model.decode.bias"}, tmp_path / "net" / "model.safetensors")
    with pytest.raises(UserError, match=r"lacks model\.decode\.bias"):
        load_model(tmp_path / "net")
    save_file(tensors | {"model.extra": torch.zeros(1)}, tmp_path / "net" / "model.safetensors")
    with pytest.raises(UserError, match=r"has model\.extra, unknown to the model"):
        load_model(tmp_path / "net")
    (tmp_path / "net" / "model.safetensors").unlink()
    with pytest.raises(UserError, match="does not exist"):
        load_model(tmp_path / "net")
    with pytest.raises(UserError, match="is not a folder"):
        load_model(tmp_path / "other")
    (tmp_path / "net" / "config.json").write_text('{"format": NaN}')
    with pytest.raises(UserError, match="NaN is not a JSON number"):
        load_model(tmp_path / "net")
    (tmp_path / "net" / "config.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="cannot be read as JSON"):
        load_model(tmp_path / "net")


def test_a_folder_with_other_files_is_not_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("three years")
    with pytest.raises(UserError, match="holds other files and no checkpoint"):
        saved(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "three years"


def test_config_round_trip():
    assert from_json(Config, json.loads(json.dumps(to_json(CONFIG)))) == CONFIG
    with pytest.raises(UserError, match=r"config\.rate is nan"):
        to_json(Config(1, rate=float("nan")))


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.Adam(p, 0.1, amsgrad=True),
        lambda p: torch.optim.SGD([{"params": p[:1], "lr": 0.03}, {"params": p[1:], "lr": 0.01}], momentum=0.9),
        lambda p: torch.optim.LBFGS(p, 0.1),
        lambda p: torch.optim.RMSprop(p, 0.01, centered=True),
        lambda p: torch.optim.Adafactor(p),
    ],
)
def test_optimizers_continue_bit_for_bit(make, tmp_path):
    def steps(p, optimizer, n):
        def closure():
            optimizer.zero_grad()
            loss = sum(((q - i) ** 4).sum() for i, q in enumerate(p))
            loss.backward()
            return loss

        for _ in range(n):
            optimizer.step(closure)

    def parameters():
        g = torch.Generator().manual_seed(0)
        return [nn.Parameter(torch.randn(3, 2, generator=g)), nn.Parameter(torch.randn((), generator=g))]

    a = parameters()
    whole = make(a)
    steps(a, whole, 7)
    b = parameters()
    first = make(b)
    steps(b, first, 3)
    tensors, packed = pack(first)
    packed = json.loads(json.dumps(packed, allow_nan=False))
    c = [nn.Parameter(q.detach().clone()) for q in b]
    second = make(c)
    unpack(second, tensors, packed, tmp_path)
    steps(c, second, 4)
    assert all(torch.equal(p, q) for p, q in zip(a, c, strict=True))
    other = torch.optim.Adadelta(c)
    with pytest.raises(UserError, match="and Adadelta over"):
        unpack(other, tensors, packed, tmp_path)


def write(path, n):
    with replacing(path) as folder:
        for name in "abc":
            (folder / name).write_text(str(n) * 50)


def read(path):
    folder = current(path)
    texts = {(folder / name).read_text() for name in "abc"}
    assert len(texts) == 1
    return int(texts.pop()[0])


def test_every_instant_of_a_replacement_has_a_whole_folder(tmp_path, monkeypatch):
    """A crash before each rename, removal and flush in turn: the old or the new one is found, and the next save works."""
    names = [(os, "rename"), (files.shutil, "rmtree"), (os, "fsync")]
    path, seen = tmp_path / "checkpoint", set()
    for crash in range(40):
        write(path, 1)
        calls = 0

        def guard(original, crash=crash):
            def call(*args, **kwargs):
                nonlocal calls
                calls += 1
                if calls > crash:
                    raise KeyboardInterrupt  # from here on nothing works: the process is dead
                return original(*args, **kwargs)

            return call

        with monkeypatch.context() as patch:
            for module, name in names:
                patch.setattr(module, name, guard(getattr(module, name)))
            try:
                write(path, 2)
                finished = True
            except KeyboardInterrupt:
                finished = False
        seen.add((read(path), path.exists()))
        write(path, 3)
        assert read(path) == 3
        if finished:
            break
    assert finished and seen == {(1, True), (1, False), (2, True)}


def test_kill_nine_while_saving(tmp_path):
    """A process that does nothing but save is killed at random moments; what is found is whole and never goes back."""
    from infimum.training.average import EMA
    from infimum.training.checkpoint import Parts, load_state, save_state

    def parts(n):
        net = nn.Linear(3, 3)
        nn.init.constant_(net.weight, float(n))
        nn.init.constant_(net.bias, float(n))
        optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
        net(torch.full((1, 3), float(n))).sum().backward()
        optimizer.step()
        nn.init.constant_(net.weight, float(n))
        return Parts({"net": net}, {"main": optimizer}, {"net": EMA(net, 0.5)}, torch.device("cpu"))

    path, rng, last = tmp_path / "checkpoint", random.Random(5), 0
    save_state(path, parts(0), state={"step": 0}, data={})

    def body(first):
        for n in range(first, 10_000):
            save_state(path, parts(n), state={"step": n}, data={})

    for _ in range(12):
        process = spawn(body, last + 1)
        time.sleep(rng.uniform(0.08, 0.25))
        assert process.is_alive()
        process.kill()
        process.join()
        found = parts(-1)
        step = load_state(path, found)["step"]
        moments = found.optimizers["main"].state[found.modules["net"].weight]["momentum_buffer"]
        assert bool((found.modules["net"].weight == step).all() and (moments == step).all())
        assert bool((found.averages["net"].values["weight"] == step).all()) and step >= last
        last = step
    assert last > 0


def test_a_run_directory_that_is_no_run_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match=r"config.json does not exist"):
        Run(tmp_path, resume=True)


def test_resume_into_another_learner_is_refused(tmp_path):
    train(Vae(), steps=2, run=Run(tmp_path))
    other = Vae()
    other.optimizers["second"] = torch.optim.SGD(other.encoder.parameters(), 0.1)
    with pytest.raises(UserError, match=r"has the optimizers \['main'\], and \['main', 'second'\] were expected"):
        train(other, steps=4, run=Run(tmp_path, resume=True))
    wider = Vae()
    wider.modules["extra"] = nn.Linear(2, 2)
    with pytest.raises(UserError, match=r"lacks extra.bias, extra.weight"):
        train(wider, steps=4, run=Run(tmp_path, resume=True))
