"""A run that is killed at any moment and resumed ends where the unbroken run ends, bit for bit."""

import os
import random
import signal
import time

import pytest

from infimum.errors import UserError
from infimum.training import Run, cosine
from training.learners import LEARNERS, go, lines, same, spawn, weights

OPTIONS = {"schedule": cosine(40, warmup=5)}


@pytest.mark.parametrize("kind", LEARNERS)
def test_kill_nine_at_random_moments(kind, tmp_path):
    options = OPTIONS | {"ema": {next(iter(LEARNERS[kind]().modules)): 0.9}}
    unbroken, whole = go(kind, tmp_path / "unbroken", **options)
    rng, kills = random.Random(kind), 0
    broken = tmp_path / "broken"
    for _ in range(8):
        process = spawn(lambda: go(kind, broken, resume=True, pause=0.01, **options))
        time.sleep(rng.uniform(0.05, 0.22))
        kills += process.is_alive()
        process.kill()
        process.join()
    resumed, result = go(kind, broken, resume=True, **options)
    assert kills >= 2
    assert same(weights(unbroken), weights(resumed))
    (name,) = result.averages
    assert same(whole.averages[name].values, result.averages[name].values)
    assert [line["step"] for line in lines(broken)] == list(range(1, 41))
    assert lines(broken) == lines(tmp_path / "unbroken")


def test_resume_needs_the_generator_of_torch(tmp_path):
    """The dropout of the VAE draws from torch's generator: without its state the resumed run differs."""
    unbroken, _ = go("vae", tmp_path / "a")
    go("vae", tmp_path / "b", steps=20)
    resumed, _ = go("vae", tmp_path / "b", resume=True)
    assert same(weights(unbroken), weights(resumed))
    again, _ = go("vae", tmp_path / "c", steps=20)
    assert not same(weights(unbroken), weights(again))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops_between_steps(number, tmp_path):
    def body():
        _, result = go("vae", tmp_path / "run", steps=10_000, pause=0.005, every=10_000)
        os._exit(33 if result.interrupted and 0 < result.step < 10_000 else 1)

    process = spawn(body)
    while not (tmp_path / "run" / "metrics.jsonl").exists():
        time.sleep(0.02)
    os.kill(process.pid, number)
    process.join(20)
    assert process.exitcode == 33
    done = lines(tmp_path / "run")[-1]["step"]
    unbroken, _ = go("vae", tmp_path / "unbroken", steps=done + 5)
    resumed, _ = go("vae", tmp_path / "run", steps=done + 5, resume=True)
    assert same(weights(unbroken), weights(resumed))


def test_a_second_interrupt_aborts_at_once(tmp_path):
    def body():
        learner, handlers = LEARNERS["vae"](), []
        before = signal.getsignal(signal.SIGINT)

        def step(batch, fit):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            handlers.append("never reached")

        learner.step = step
        from infimum.training import train

        try:
            train(learner, steps=5, run=Run(tmp_path / "run"))
        except KeyboardInterrupt:
            os._exit(33 if not handlers and signal.getsignal(signal.SIGINT) is before else 2)

    process = spawn(body)
    process.join(20)
    assert process.exitcode == 33
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_a_finished_run_resumes_to_itself(tmp_path):
    learner, first = go("vae", tmp_path / "run", steps=6)
    again, second = go("vae", tmp_path / "run", steps=6, resume=True)
    assert same(weights(learner), weights(again))
    assert (first.metrics, first.step) == (second.metrics, second.step)


def test_a_used_folder_is_refused(tmp_path):
    go("vae", tmp_path / "run", steps=2)
    with pytest.raises(UserError, match="--resume, or choose another --out"):
        Run(tmp_path / "run")


def test_another_configuration_is_refused_by_field(tmp_path):
    config = {"kind": "vae", "optim": {"lr": 1e-3}}
    Run(tmp_path / "run", seed=1, config=config)
    Run(tmp_path / "run", seed=1, config=config, resume=True)
    with pytest.raises(UserError, match=r"config\.optim\.lr is 0\.001 in .* and 0\.01 now"):
        Run(tmp_path / "run", seed=1, config=config | {"optim": {"lr": 1e-2}}, resume=True)
    with pytest.raises(UserError, match=r"seed is 1 in .* and 2 now"):
        Run(tmp_path / "run", seed=2, config=config, resume=True)
    with pytest.raises(UserError, match=r"config\.extra is absent in .* and 1 now"):
        Run(tmp_path / "run", seed=1, config=config | {"extra": 1}, resume=True)
