"""Small learners of the three kinds that the loop must serve, and the processes that run, kill and resume them."""

import json
import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from infimum.evidence import Plan
from infimum.training import Result, Run, train


def items(start, size, width):
    """Global batches of a fixed pseudo-random table, pure in `start`."""
    table = torch.randn(96, width, generator=torch.Generator().manual_seed(3))
    while True:
        yield table[torch.arange(start * size, (start + 1) * size) % len(table)]
        start += 1


class Vae:
    """Gaussian VAE with keyed draws and a dropout layer, which uses torch's own generator."""

    def __init__(self, size=8, dropout=0.1, clip=1.0, lr=3e-3):
        torch.manual_seed(0)
        self.size, self.clip = size, clip
        self.encoder, self.decoder = nn.Linear(5, 6), nn.Sequential(nn.Dropout(dropout), nn.Linear(3, 5))
        self.modules = {"encoder": self.encoder, "decoder": self.decoder}
        parameters = [p for m in self.modules.values() for p in m.parameters()]
        self.optimizers = {"main": torch.optim.Adam(parameters, lr)}

    def batches(self, start):
        return items(start, self.size, 5)

    def step(self, x, fit):
        mean, log_scale = self.encoder(x).chunk(2, -1)
        z = mean + log_scale.exp() * fit.draws(Plan.iid(2), len(x)).normal("z", 3)
        kl = 0.5 * (mean**2 + (2 * log_scale).exp() - 1 - 2 * log_scale).sum(-1)
        loss = (0.5 * ((self.decoder(z) - x) ** 2).sum(-1).mean(0) + kl).mean()
        fit.watch(kl=kl)
        fit.backward(loss)
        fit.update(clip=self.clip)
        return {"loss": loss}


class Adversarial:
    """Two optimizers share one pass."""

    def __init__(self, size=8):
        torch.manual_seed(0)
        self.size = size
        self.generator, self.discriminator = nn.Linear(2, 5), nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))
        self.modules = {"generator": self.generator, "discriminator": self.discriminator}
        self.optimizers = {
            "generator": torch.optim.AdamW(self.generator.parameters(), 1e-2),
            "discriminator": torch.optim.SGD(self.discriminator.parameters(), 1e-2, momentum=0.9),
        }

    def batches(self, start):
        return items(start, self.size, 5)

    def step(self, x, fit):
        fake = self.generator(fit.draws(Plan.iid(1), len(x)).normal("z", 2)[0])
        other = self.generator(fit.draws(Plan.iid(1), len(x)).normal("z", 2)[0]).detach()
        g_loss = nn.functional.softplus(-self.discriminator(fake)).mean()
        fit.backward(g_loss)
        self.discriminator.zero_grad()
        fit.update("generator")
        d_loss = nn.functional.softplus(self.discriminator(other)).mean()
        d_loss = d_loss + nn.functional.softplus(-self.discriminator(x)).mean()
        fit.backward(d_loss)
        fit.update("discriminator")
        return {"g": g_loss, "d": d_loss}


class Reinforcement:
    """One step: rollouts of a chain with keyed draws, rewards, advantages, a baseline in a buffer, several updates."""

    def __init__(self, length=4):
        torch.manual_seed(0)
        self.length, self.policy = length, nn.Linear(3, 3)
        self.policy.register_buffer("baseline", torch.zeros(()))
        self.modules = {"policy": self.policy}
        self.optimizers = {"main": torch.optim.Adam(self.policy.parameters(), 2e-2)}

    def batches(self, start):
        while True:
            yield None

    def step(self, batch, fit):
        n = 16 // fit.world
        draws = fit.draws(Plan.iid(1), n)
        state, states, actions, reward = torch.eye(3)[torch.zeros(n, dtype=torch.int64)], [], [], torch.zeros(n)
        for t in range(self.length):
            p = self.policy(state).softmax(-1).detach()
            action = (draws.uniform(f"action{t}")[0, :, None] > p.cumsum(-1)).sum(-1).clamp(max=2)
            states.append(state)
            actions.append(action)
            reward = reward + (action == t % 3).float()
            state = torch.eye(3)[action]
        s, a = torch.stack(states), torch.stack(actions)
        old = self.policy(s).log_softmax(-1).gather(-1, a[..., None]).sum((0, 2)).detach()
        advantage = reward - self.policy.baseline
        for _ in range(3):
            ratio = (self.policy(s).log_softmax(-1).gather(-1, a[..., None]).sum((0, 2)) - old).exp()
            fit.backward(-torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean())
            fit.update()
        self.policy.baseline.lerp_(fit.mean(reward.mean()), 0.1)
        return {"reward": reward.mean()}


LEARNERS = {"vae": Vae, "adversarial": Adversarial, "reinforcement": Reinforcement}


def weights(learner):
    return {f"{m}.{k}": v.clone() for m, module in learner.modules.items() for k, v in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def lines(path):
    return [json.loads(line) for line in (Path(path) / "metrics.jsonl").read_text().splitlines()]


def spawn(target: Callable, *args, env=None):
    """A real process; forked, so that torch need not be imported again."""

    def body():
        os.environ.update(env or {})
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 1)
        torch.set_num_threads(1)
        target(*args)

    process = multiprocessing.get_context("fork").Process(target=body)
    process.start()
    return process


def pair(target: Callable, *args):
    """Two processes in one gloo group."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [spawn(target, *args, env=common | {"RANK": str(r), "LOCAL_RANK": str(r)}) for r in range(2)]
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def slowly(learner, seconds):
    """The same learner; a step takes at least so long, so that a kill can hit anywhere in it."""
    step = learner.step

    def slow(batch, fit):
        time.sleep(seconds * 0.5)
        metrics = step(batch, fit)
        time.sleep(seconds * 0.5)
        return metrics

    learner.step = slow
    return learner


def go(kind, path, steps=40, resume=False, pause=0.0, every=3, **options) -> tuple[object, Result]:
    learner = LEARNERS[kind]()
    run = Run(path, seed=11, quiet=True, resume=resume, config={"kind": kind})
    if pause:
        slowly(learner, pause)
    return learner, train(learner, steps=steps, run=run, every=every, **options)
