"""Plain training loops beside infimum's: that of diffusers' unconditional example, and VDM's in JAX (2107.00630)."""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


def diffusers_loop(network: nn.Module, x: Tensor, steps: int, *, batch: int, lr: float) -> None:
    """The steps of diffusers' train_unconditional.py: DDPM's noise at random timesteps, MSE, AdamW, clipping, EMA, Accelerator.

    Args:
        network: of (images, timesteps), a tensor or an object with `.sample`.
        x: images in [-1, 1].
        steps: of the optimizer.
        batch: images a step.
        lr: the learning rate, along a cosine with warm-up.
    """
    from accelerate import Accelerator
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel

    accelerator = Accelerator(cpu=True)
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.01)
    loader = DataLoader(TensorDataset(x), batch_size=batch, shuffle=True, drop_last=True)
    rates = get_scheduler("cosine", optimizer, num_warmup_steps=10, num_training_steps=steps)
    network.train()
    network, optimizer, loader, rates = accelerator.prepare(network, optimizer, loader, rates)
    ema = EMAModel(network.parameters(), decay=0.9999, use_ema_warmup=True)
    done = 0
    while done < steps:
        for (clean,) in loader:
            noise = torch.randn_like(clean)
            at = torch.randint(0, 1000, (len(clean),), dtype=torch.int64)
            noisy = scheduler.add_noise(clean, noise, at)
            with accelerator.accumulate(network):
                out = network(noisy, at)
                loss = F.mse_loss((out if isinstance(out, Tensor) else out.sample).float(), noise.float())
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
                rates.step()
                optimizer.zero_grad()
            ema.step(network.parameters())
            loss.detach().item()  # the example logs it
            done += 1
            if done == steps:
                return


class OfTimesteps(nn.Module):
    """A network of (z, u in [0, 1]) as one of timesteps."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor, at: Tensor) -> Tensor:
        """Timestep 999 is u = 1."""
        return self.network(z, at.to(z.dtype) / 999)


class Sampled(nn.Module):
    """A network of diffusers as one of (z, u in [0, 1])."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        """u = 1 is timestep 999."""
        return self.unet(z, u * 999).sample


# --- VDM in JAX: the algorithm of google-research/vdm's training step, restated for the network of `ResidualMLP`


def weights_of(model: Any) -> dict[str, np.ndarray]:
    """A torch model's parameters for `JaxVDM`, by name."""
    return {name: p.detach().float().numpy().copy() for name, p in model.named_parameters()}


class JaxVDM:
    """VDM's loop: learned linear log-SNR, antithetic times by one shift, the whole bound, AdamW, EMA, one jitted step.

    Args:
        model: a `GaussianDiffusion` with schedule "learned", head "eps" and network "mlp", for configuration and weights.
        x: integers (N, D).
        batch: items a step.
        lr: along a cosine over ``steps``.
        steps: of the schedule of the learning rate.
        ema: decay of the averaged weights.
        seed: of order and noise.
    """

    def __init__(
        self, model: Any, x: Tensor, *, batch: int, lr: float, steps: int, ema: float, clip: float, seed: int
    ) -> None:
        import jax
        import jax.numpy as jnp

        self.jax, self.jnp, self.config = jax, jnp, model.config
        self.blocks, self.steps = len(model.network.blocks), float(steps)
        self.x, self.batch, self.rng = jnp.asarray(x.flatten(1).numpy()), batch, np.random.default_rng(seed)
        self.params = {k: jnp.asarray(v) for k, v in weights_of(model).items()}
        zeros = jax.tree.map(jnp.zeros_like, self.params)
        self.state = (self.params, zeros, zeros, self.params, jnp.zeros(()))
        self.key = jax.random.PRNGKey(seed)

        def update(state: Any, x: Any, key: Any, steps: Any) -> Any:
            params, m, v, averaged, n = state
            loss, g = jax.value_and_grad(self.loss)(params, x, key)
            norm = jnp.sqrt(sum(jnp.sum(a * a) for a in g.values()))
            g = jax.tree.map(lambda a: a * jnp.minimum(1.0, clip / norm), g)
            rate = lr * jnp.minimum(1.0, (n + 1) / 100) * 0.5 * (1 + jnp.cos(math.pi * jnp.minimum(n / steps, 1.0)))
            m = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, m, g)
            v = jax.tree.map(lambda a, b: 0.99 * a + 0.01 * b * b, v, g)
            hat = 1 - 0.9 ** (n + 1), 1 - 0.99 ** (n + 1)

            def moved(name: str) -> Any:
                p = params[name]
                decay = 0.01 if p.ndim > 1 else 0.0
                return p - rate * (m[name] / hat[0] / (jnp.sqrt(v[name] / hat[1]) + 1e-8) + decay * p)

            params = {name: moved(name) for name in params}
            averaged = jax.tree.map(lambda a, b: ema * a + (1 - ema) * b, averaged, params)
            return (params, m, v, averaged, n + 1), loss

        self.update = jax.jit(update)

    def ends(self, params: Any) -> tuple[Any, Any]:
        """-lambda at times 0 and 1."""
        start = params["schedule.b"]
        return start, start + self.jnp.abs(params["schedule.w"])

    def network(self, params: Any, z: Any, u: Any, key: Any = None) -> Any:
        """`ResidualMLP`, with dropout where a key is given."""
        jax, jnp, c = self.jax, self.jnp, self.config

        def linear(name: str, h: Any) -> Any:
            bias = params.get(f"network.{name}.bias")
            out = h @ params[f"network.{name}.weight"].T
            return out if bias is None else out + bias

        def norm(name: str, h: Any) -> Any:
            away = h - h.mean(-1, keepdims=True)
            scale = jax.lax.rsqrt((away**2).mean(-1, keepdims=True) + 1e-5)
            return away * scale * params[f"network.{name}.weight"] + params[f"network.{name}.bias"]

        half = c.width // 2
        rate = jnp.exp(jnp.arange(half) * (-math.log(10_000) / max(half - 1, 1)))
        angle = 1000 * u[:, None] * rate
        waves = jnp.concatenate((jnp.sin(angle), jnp.cos(angle)), -1)
        cond = jax.nn.silu(linear("embedding.2", jax.nn.silu(linear("embedding.0", waves))))
        turns = [2 * math.pi * k * z for k in c.frequencies]
        copies = [z, *(jnp.sin(w) for w in turns), *(jnp.cos(w) for w in turns)]
        features = jnp.concatenate(copies, 1)
        h = linear("inputs", features)
        for i in range(self.blocks):
            first = linear(f"blocks.{i}.first", jax.nn.silu(norm(f"blocks.{i}.norm", h)))
            inner = jax.nn.silu(first + linear(f"blocks.{i}.condition", cond))
            if key is not None and c.dropout:
                keep = jax.random.bernoulli(jax.random.fold_in(key, i), 1 - c.dropout, inner.shape)
                inner = jnp.where(keep, inner / (1 - c.dropout), 0.0)
            h = h + linear(f"blocks.{i}.second", inner)
        own = (features.reshape(len(z), len(copies), -1) * linear("own", cond)[..., None]).sum(1)
        return linear("outputs", jax.nn.silu(norm("norm", h))) + own

    def parts(self, params: Any, x: Any, t: Any, eps: Any, eps_0: Any, key: Any = None) -> Any:
        """Prior, reconstruction and diffusion in bits a dimension, each (B,)."""
        jax, jnp, c = self.jax, self.jnp, self.config
        start, end = self.ends(params)
        f = (2 * x + 1) / c.levels - 1
        gamma = start + (end - start) * t
        alpha, sigma = jnp.sqrt(jax.nn.sigmoid(-gamma))[:, None], jnp.sqrt(jax.nn.sigmoid(gamma))[:, None]
        z = alpha * f + sigma * eps
        out = self.network(params, z, (gamma + c.high) / (c.high - c.low), key) + z
        diffusion = 0.5 * (end - start) * ((eps - out) ** 2).sum(1)
        var = jax.nn.sigmoid(end)
        prior = 0.5 * ((1 - var) * f**2 + var - 1 - jnp.log(var)).sum(1)
        near = f + jnp.exp(0.5 * start) * eps_0
        values = (2 * jnp.arange(c.levels) + 1) / c.levels - 1
        logits = -0.5 * jnp.exp(-start) * (near[..., None] - values) ** 2
        log_p = jax.nn.log_softmax(logits, -1)
        chosen = jnp.take_along_axis(log_p, x.astype(int)[..., None], -1)[..., 0]
        unit = math.log(2) * x.shape[1]
        return prior / unit, -chosen.sum(1) / unit, diffusion / unit

    def loss(self, params: Any, x: Any, key: Any) -> Any:
        """The mean bound of a batch; times by one shift, as VDM does."""
        jax, jnp = self.jax, self.jnp
        keys = jax.random.split(key, 4)
        n = x.shape[0]
        t = jnp.mod(jax.random.uniform(keys[0]) + jnp.arange(n) / n, 1.0)
        eps, eps_0 = (jax.random.normal(k, x.shape) for k in keys[1:3])
        return sum(part.mean() for part in self.parts(params, x, t, eps, eps_0, keys[3]))

    def step(self) -> Any:
        """One step; the loss, not waited for."""
        rows = self.rng.integers(0, len(self.x), self.batch)
        self.key, key = self.jax.random.split(self.key)
        self.state, loss = self.update(self.state, self.x[rows], key, self.steps)
        return loss

    def copy_to(self, model: Any) -> None:
        """The averaged weights."""
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(torch.from_numpy(np.array(self.state[3][name])).to(p.dtype))
