"""Accumulation, clipping, schedules, averages and the guard, against closed forms."""

import math
import os
import re
import signal
import sys

import pytest
import torch
from torch import nn

from infimum.errors import UserError
from infimum.evidence import Plan
from infimum.training import EMA, NonFinite, Run, burda, constant, cosine, load_modules, train, warmup
from training.learners import LEARNERS, Vae, lines, same, weights


class Line:
    """w -> w - lr * c: the gradient of a linear loss is the batch itself, so everything has a closed form."""

    def __init__(self, gradients, lr=0.5, clip=None):
        self.w = nn.ParameterList([nn.Parameter(torch.zeros(2, dtype=torch.float64))])
        self.gradients, self.clip, self.seen, self.keys = gradients, clip, [], []
        self.modules = {"line": self.w}
        self.optimizers = {"main": torch.optim.SGD(self.w.parameters(), lr)}

    def batches(self, start):
        yield from self.gradients[start:]

    def step(self, g, fit):
        self.keys.append(fit.draws(Plan.iid(1), 4).keys.tolist())
        fit.backward((self.w[0] * g).sum())
        norm = fit.update(clip=self.clip)
        self.seen.append(self.w[0].detach().clone())
        return {"norm": norm}


def gradients(n, seed=0):
    return list(torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))


def test_clipping_and_the_norm(tmp_path):
    learner = Line([torch.tensor([3.0, 4.0]).double(), torch.tensor([0.3, 0.4]).double()], lr=1.0, clip=1.0)
    train(learner, steps=2, run=Run(tmp_path))
    torch.testing.assert_close(learner.seen[0], -torch.tensor([0.6, 0.8]).double())
    torch.testing.assert_close(learner.seen[1], -torch.tensor([0.9, 1.2]).double())
    assert [line["norm"] for line in lines(tmp_path)] == pytest.approx([5.0, 0.5])


def test_schedule_is_the_rate_of_each_step(tmp_path):
    g, schedule = gradients(9), cosine(9, warmup=3, final=0.1)
    learner = Line(g)
    train(learner, steps=9, run=Run(tmp_path), schedule=schedule)
    expected = -0.5 * torch.stack([schedule(i) * g[i] for i in range(9)]).cumsum(0)
    torch.testing.assert_close(torch.stack(learner.seen), expected)


def test_schedules():
    assert [constant()(i) for i in (0, 9)] == [1.0, 1.0]
    assert [warmup(4)(i) for i in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    c = cosine(10, warmup=2, final=0.2)
    assert [c(0), c(1), c(2), c(6), c(10), c(99)] == pytest.approx([0.5, 1.0, 1.0, 0.6, 0.2, 0.2])
    # Burda et al.: stage i lasts 3^i epochs; here an epoch has 10 steps
    b, stages = burda(10), [i for i in range(8) for _ in range(10 * 3**i)]
    assert len(stages) == 32_800
    assert all(b(step) == 10 ** (-stage / 7) for step, stage in enumerate(stages))
    assert b(10**6) == pytest.approx(0.1)


def test_average_is_the_closed_form(tmp_path):
    learner = Line(gradients(7))
    result = train(learner, steps=7, run=Run(tmp_path), ema={"line": 0.8})
    seen = [torch.zeros(2, dtype=torch.float64), *learner.seen]
    expected = 0.8**7 * seen[0] + sum(0.2 * 0.8 ** (7 - k) * seen[k] for k in range(1, 8))
    torch.testing.assert_close(result.averages["line"].values["0"], expected)
    before = learner.w[0].detach().clone()
    with result.averages["line"].swap():
        torch.testing.assert_close(learner.w[0].detach(), expected)
    assert torch.equal(learner.w[0].detach(), before)


def test_average_of_tied_parameters_has_every_name():
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    b.weight = a.weight
    average = EMA(nn.Sequential(a, b), 0.5)
    assert average.named()["1.weight"] is average.named()["0.weight"]


def test_accumulation_is_one_large_batch(tmp_path):
    """Four batches of 8 are one of 32: the same keys, and gradients equal to rounding; for two optimizers as well."""
    for kind in ("vae", "adversarial"):
        make = {"vae": lambda size: Vae(size, dropout=0.0), "adversarial": LEARNERS["adversarial"]}[kind]
        parts, whole = make(8), make(32)
        train(parts, steps=6, run=Run(tmp_path / f"{kind}-parts"), accumulate=4)
        train(whole, steps=6, run=Run(tmp_path / f"{kind}-whole"))
        for name, value in weights(whole).items():
            torch.testing.assert_close(weights(parts)[name], value, rtol=0, atol=1e-5)
        assert len(lines(tmp_path / f"{kind}-parts")) == 6


def test_accumulation_is_the_mean_and_the_keys_run_on(tmp_path):
    g = gradients(8)
    learner = Line(g)
    train(learner, steps=2, run=Run(tmp_path), accumulate=4)
    torch.testing.assert_close(learner.w[0].detach(), -0.5 * (sum(g[:4]) / 4 + sum(g[4:]) / 4))
    assert [key for keys in learner.keys for key in keys] == list(range(32))


def test_accumulation_refuses_several_updates_of_one_optimizer(tmp_path):
    with pytest.raises(UserError, match="--accumulate 2 needs one update"):
        train(LEARNERS["reinforcement"](), steps=1, run=Run(tmp_path), accumulate=2)


class Breaks(Vae):
    """From step 8 on, item 3's term is NaN."""

    def __init__(self, how):
        super().__init__()
        self.how = how

    def step(self, x, fit):
        if fit.step == 7 and self.how == "item":
            x = x.index_fill(0, torch.tensor([3]), math.nan)
        if fit.step == 7 and self.how == "gradient":
            self.decoder[1].bias.register_hook(lambda g: g * math.inf)
        if fit.step == 7 and self.how == "loss":
            fit.backward(self.encoder.bias.sum() * 0 + math.inf)
        if fit.step == 7 and self.how == "parameter":
            self.optimizers["main"].param_groups[0]["lr"] = math.inf
        return super().step(x, fit)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("item", r"step 8, optimizer 'main': the term 'kl' is not finite for items \[3\]"),
        ("gradient", r"step 8, optimizer 'main': the gradient of decoder.1.bias is not finite"),
        ("loss", "step 8, optimizer 'main': the loss is inf"),
        ("parameter", "step 8: encoder.weight is not finite; the last checkpoint is kept"),
    ],
)
def test_the_guard_names_the_cause_and_keeps_the_last_checkpoint(how, message, tmp_path):
    learner = Breaks(how)
    with pytest.raises(NonFinite, match=message):
        train(learner, steps=20, run=Run(tmp_path / "run"), every=4)
    good, kept = Vae(), Vae()
    train(good, steps=4, run=Run(tmp_path / "good"))
    load_modules(tmp_path / "run" / "checkpoint", kept.modules)
    assert same(weights(good), weights(kept))
    if how != "parameter":
        seven = Vae()
        train(seven, steps=7, run=Run(tmp_path / "seven"))
        assert same(weights(seven), weights(learner))


def test_bf16_runs_networks_in_bfloat16(tmp_path):
    class Probe(Line):
        def step(self, g, fit):
            with fit.autocast():
                self.dtype = nn.functional.linear(g.float()[None], torch.ones(2, 2)).dtype
            return super().step(g, fit)

    for precision, dtype in (("bf16", torch.bfloat16), ("float32", torch.float32)):
        learner = Probe(gradients(1))
        train(learner, steps=1, run=Run(tmp_path / precision, precision=precision))
        assert learner.dtype == dtype


def test_early_stopping_keeps_the_best(tmp_path):
    """The score peaks at the third validation (step 6) and then falls; patience 2 stops at step 10."""
    scores = iter([1.0, 2.0, 5.0, 4.0, 3.0, 9.0])
    learner = Line(gradients(40))
    modes = []

    def validate():
        modes.append((learner.w.training, torch.is_grad_enabled()))
        return next(scores)

    result = train(learner, steps=40, run=Run(tmp_path), validate=validate, validate_every=2, patience=2)
    assert (result.step, result.stopped_early, result.best_step, result.best_value) == (10, True, 6, 5.0)
    assert modes == [(False, False)] * 5 and learner.w.training
    assert [line["step"] for line in lines(tmp_path) if "validation" in line] == [2, 4, 6, 8, 10]
    best = Line([])
    load_modules(result.best, best.modules)
    assert torch.equal(best.w[0], learner.seen[5])
    again = Line(gradients(40))
    resumed = train(again, steps=40, run=Run(tmp_path, resume=True), validate=validate, validate_every=2, patience=2)
    assert (resumed.step, resumed.stopped_early) == (10, True)


def test_validation_sees_the_averaged_weights(tmp_path):
    learner, seen = Line(gradients(3)), []

    def validate():
        seen.append(learner.w[0].detach().clone())
        return 0.0

    result = train(learner, steps=3, run=Run(tmp_path), validate=validate, ema={"line": 0.9})
    assert torch.equal(seen[0], result.averages["line"].values["0"])
    assert not torch.equal(seen[0], learner.w[0])


def test_what_is_trained_must_be_saved(tmp_path):
    learner = Line(gradients(3))
    learner.optimizers["main"].add_param_group({"params": [nn.Parameter(torch.zeros(3))]})
    with pytest.raises(UserError, match=r"trains a parameter of shape \(3,\) that is in none"):
        train(learner, steps=1, run=Run(tmp_path))


def test_batches_that_end_are_refused(tmp_path):
    with pytest.raises(UserError, match="ended in step 4 of 9"):
        train(Line(gradients(3)), steps=9, run=Run(tmp_path))


def test_metrics_that_are_not_finite_become_null(tmp_path):
    run = Run(tmp_path)
    run.log(1, {"a": math.nan, "b": torch.tensor(2.0)})
    run.log(2, {"a": math.inf})
    assert lines(tmp_path) == [{"step": 1, "a": None, "b": 2.0}, {"step": 2, "a": None}]
    with pytest.raises(UserError, match="the metric 'c' is Tensor"):
        run.log(3, {"c": torch.zeros(2)})


def test_tensorboard_gets_every_metric(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(Line(gradients(3)), steps=3, run=Run(tmp_path, trackers=["tensorboard"]))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [e.value for e in events.Scalars("norm")] == pytest.approx([line["norm"] for line in lines(tmp_path)])


def test_plain_lines_tell_rate_and_time_left(tmp_path, capsys):
    train(Line(gradients(3)), steps=3, run=Run(tmp_path))
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 1 and out[0].startswith("step 3/3  norm") and "steps/s" in out[0] and "0 s left" in out[0]


def test_a_quiet_run_prints_nothing_but_why_it_stopped(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("infimum.training.progress.SECONDS", 0.0)
    train(Line(gradients(3)), steps=3, run=Run(tmp_path / "loud"))
    assert len(capsys.readouterr().out.splitlines()) > 1
    train(Line(gradients(3)), steps=3, run=Run(tmp_path / "quiet", quiet=True))
    assert not capsys.readouterr().out

    class Stopped(Line):
        def step(self, batch, fit):
            signal.raise_signal(signal.SIGTERM)
            return super().step(batch, fit)

    train(Stopped(gradients(3)), steps=3, run=Run(tmp_path / "stopped", quiet=True))
    assert capsys.readouterr().out.startswith("stopped after step 1 of 3, saved in ")


def test_two_draws_of_a_step_are_independent(tmp_path):
    """The same running count in both, and no number in common."""

    class Twice(Line):
        def step(self, g, fit):
            first, second = (fit.draws(Plan.iid(3), 4) for _ in range(2))
            assert torch.equal(first.keys, second.keys)
            assert not torch.isin(first.normal("z", 5), second.normal("z", 5)).any()
            return super().step(g, fit)

    train(Twice(gradients(2)), steps=2, run=Run(tmp_path))


@pytest.mark.skipif(not hasattr(os, "forkpty"), reason="no pseudo-terminals here")
def test_a_terminal_gets_a_bar_with_rate_and_time_left(tmp_path):
    child, terminal = os.forkpty()
    if child == 0:
        os.environ["TERM"], os.environ["COLUMNS"] = "xterm", "100"
        sys.stdout = open(1, "w")  # noqa: SIM115 - the terminal, past pytest's capture
        train(Line(gradients(3)), steps=3, run=Run(tmp_path))
        os._exit(0)
    out = b""
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        out += part
    assert os.waitpid(child, 0)[1] == 0
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.decode())
    assert "3/3" in text and "/s" in text and re.search(r"0:00:0\d", text) and "norm" in text
