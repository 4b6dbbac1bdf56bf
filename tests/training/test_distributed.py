"""Two gloo processes equal one, whatever a step does; FSDP2 equals the unsharded run."""

import os
import signal
import time

import pytest
import torch
from torch import nn

from infimum.errors import UserError
from infimum.training import Run, distributed, load_modules, train
from infimum.training.tensors import read_tensors
from training.learners import LEARNERS, Vae, lines, pair, weights


def make(kind):
    return Vae(dropout=0.0) if kind == "vae" else LEARNERS[kind]()


def close(a, b, atol=1e-6):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=atol)


@pytest.mark.parametrize("kind", LEARNERS)
def test_two_processes_equal_one(kind, tmp_path):
    def body():
        learner = make(kind)
        run = Run(tmp_path / "two", seed=11)
        if not run.writes:  # the first process's weights count
            for p in (p for module in learner.modules.values() for p in module.parameters()):
                p.data.add_(1.0)
        train(learner, steps=10, run=run, every=4)
        other = torch.cat([v.flatten() for v in weights(learner).values()])
        spread = (distributed.gather(other) - other).abs().max()
        os._exit(33 if spread == 0 else 1)

    assert pair(body) == [33, 33]
    one, two = make(kind), make(kind)
    train(one, steps=10, run=Run(tmp_path / "one", seed=11))
    load_modules(tmp_path / "two" / "checkpoint", two.modules)
    close(weights(one), weights(two))
    for a, b in zip(lines(tmp_path / "one"), lines(tmp_path / "two"), strict=True):
        assert a == pytest.approx(b, abs=1e-5)


def test_two_processes_resume_to_the_same_bits(tmp_path):
    """With dropout: each process has a generator of its own, and both are saved."""

    def body(path, steps, resume):
        learner = Vae()
        train(learner, steps=steps, run=Run(path, resume=resume))
        os._exit(33)

    assert pair(body, tmp_path / "unbroken", 9, False) == [33, 33]
    assert pair(body, tmp_path / "broken", 4, False) == [33, 33]
    assert pair(body, tmp_path / "broken", 9, True) == [33, 33]
    a, b = (read_tensors(tmp_path / name / "checkpoint" / "model.safetensors") for name in ("unbroken", "broken"))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["rng.cpu"][0], a["rng.cpu"][1])


def test_a_signal_to_one_process_stops_both_after_the_same_step(tmp_path):
    def body():
        learner = Vae(dropout=0.0)
        step = learner.step

        def signalled(batch, fit):
            if fit.rank == 1 and fit.step == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(batch, fit)

        learner.step = signalled
        result = train(learner, steps=50, run=Run(tmp_path))
        os._exit(33 if result.interrupted and result.step == 6 else 1)

    assert pair(body) == [33, 33]


def test_a_batch_that_does_not_divide_is_refused(tmp_path):
    def body():
        try:
            train(Vae(size=7), steps=1, run=Run(tmp_path))
        except UserError as error:
            os._exit(33 if "a batch of 7 does not divide by 2 processes" in str(error) else 2)

    assert pair(body) == [33, 33]


def test_a_used_folder_stops_every_process(tmp_path):
    (tmp_path / "something").write_text("here")

    def body():
        try:
            Run(tmp_path)
        except UserError:
            os._exit(33)

    began = time.monotonic()
    assert pair(body) == [33, 33]
    assert time.monotonic() - began < 30


def test_a_parameter_without_a_gradient_in_one_process_only(tmp_path):
    def body():
        distributed.connect("cpu")
        p, q, r = (nn.Parameter(torch.zeros(3)) for _ in range(3))
        p.grad = torch.full((3,), float(distributed.rank() + 1))
        if distributed.rank() == 0:
            q.grad = torch.full((3,), 4.0)
        extra = distributed.mean_gradients([p, q, r], torch.tensor(float(distributed.rank())))
        right = (p.grad == 1.5).all() and (q.grad == 2.0).all() and r.grad is None and extra == 0.5
        os._exit(33 if right else 1)

    assert pair(body) == [33, 33]


class Stack:
    """A small transformer; each block, and the whole, is sharded when `shard` is set."""

    def __init__(self, shard):
        torch.manual_seed(0)
        block = lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)  # noqa: E731
        self.net = nn.Sequential(nn.Linear(5, 8), block(), block(), nn.Linear(8, 5))
        if shard:
            from torch.distributed.fsdp import fully_shard

            for part in self.net:
                fully_shard(part)
            fully_shard(self.net)
        self.modules = {"net": self.net}
        # the gradient of a key's bias is zero but for rounding: a small eps would blow the rounding up to a full step
        self.optimizers = {"main": torch.optim.AdamW(self.net.parameters(), 1e-3, eps=1e-3)}

    def batches(self, start):
        table = torch.randn(40, 4, 6, 5, generator=torch.Generator().manual_seed(1))
        yield from table[start:]

    def step(self, x, fit):
        loss = ((self.net(x) - x) ** 2).mean()
        fit.backward(loss)
        norm = fit.update(clip=0.5)
        return {"loss": loss, "norm": norm}


def test_fsdp2_equals_unsharded_and_resumes(tmp_path):
    def body(steps, resume):
        run = Run(tmp_path / "two", resume=resume)
        learner = Stack(shard=True)
        sharded = all(p.to_local().numel() < p.numel() for p in learner.net.parameters() if p.shape[0] > 1)
        train(learner, steps=steps, run=run, ema={"net": 0.9})
        os._exit(33 if sharded else 1)

    assert pair(body, 5, False) == [33, 33]
    assert pair(body, 12, True) == [33, 33]
    one, two = Stack(shard=False), Stack(shard=False)
    result = train(one, steps=12, run=Run(tmp_path / "one"), ema={"net": 0.9})
    load_modules(tmp_path / "two" / "checkpoint", two.modules)
    close(weights(one), weights(two), atol=1e-5)
    sharded = read_tensors(tmp_path / "two" / "checkpoint" / "model.safetensors")
    close(
        {f"ema.net.{k}": v for k, v in result.averages["net"].values.items()},
        {k: v for k, v in sharded.items() if k.startswith("ema.")},
        atol=1e-5,
    )
    for a, b in zip(lines(tmp_path / "one"), lines(tmp_path / "two"), strict=True):
        assert a == pytest.approx(b, abs=1e-4)
