"""Models of diffusers: the same noising and sampling steps as their schedulers, and DDPM's bound by its own formulas."""

import json
import math
import shutil

import numpy as np
import pytest
import torch

from infimum.cli import main
from infimum.diffusion import (
    BinnedDecoder,
    DiffusersModel,
    FlowEvidence,
    TableSchedule,
    alpha_sigma,
    from_diffusers,
    sample,
)
from infimum.diffusion.samplers import _ddim
from infimum.errors import UserError
from infimum.evidence import Plan, elbo, evaluate, iwae
from infimum.testing import check_model

diffusers = pytest.importorskip("diffusers")
X = torch.randint(0, 256, (3, 1, 8, 8), generator=torch.Generator().manual_seed(0)).double()


def unet(**options):
    torch.manual_seed(0)
    settings = {
        "sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8, 16), "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "norm_num_groups": 4, "attention_head_dim": 4,
    }  # fmt: skip
    return diffusers.UNet2DModel(**settings | options)


def scheduler(kind="DDPMScheduler", **options):
    plain = {"clip_sample": False} if kind in ("DDPMScheduler", "DDIMScheduler") else {}
    return getattr(diffusers, kind)(**{"num_train_timesteps": 20, "beta_end": 0.3} | plain | options)


def built(net=None, **options):
    made = scheduler(**options)
    return DiffusersModel(unet() if net is None else net, made).double().eval(), made


@pytest.mark.parametrize("beta", ["linear", "squaredcos_cap_v2", "scaled_linear"])
def test_log_snrs_are_those_of_the_scheduler(beta):
    """alpha f + sigma eps is what add_noise makes, at every timestep; between them log-SNR is linear, and time its inverse."""
    model, made = built(beta_schedule=beta)
    f, eps = torch.randn(2, 20, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).unbind()
    t = torch.arange(20)
    snr = model.schedule.log_snr(t.double() / 19)
    alpha, sigma = alpha_sigma(snr[:, None])
    torch.testing.assert_close(alpha * f + sigma * eps, made.add_noise(f, eps, t).double(), rtol=1e-5, atol=1e-6)
    assert (float(model.schedule.high), float(model.schedule.low)) == (float(snr[0]), float(snr[-1]))
    at = torch.rand(50, dtype=torch.float64)
    torch.testing.assert_close(model.schedule.time(model.schedule.log_snr(at)), at)
    h = 1e-7
    numeric = (model.schedule.log_snr(at + h) - model.schedule.log_snr(at - h)) / (2 * h)
    torch.testing.assert_close(model.schedule.slope(at), numeric, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_a_step_is_the_schedulers_own(prediction, clip, variance):
    """DDPMScheduler.step with the same noise, at every timestep; DDIMScheduler.step without."""
    model, made = built(prediction_type=prediction, clip_sample=clip, variance_type=variance)
    other = scheduler("DDIMScheduler", prediction_type=prediction, clip_sample=clip)
    made.set_timesteps(20), other.set_timesteps(20)
    z = torch.randn(2, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for t in range(19, 0, -1):
        now, then = model.schedule.table[t], model.schedule.table[t - 1]
        with torch.no_grad():
            out = model.network(z, torch.tensor(t)).sample
            f, eps = (model.denoise(z.flatten(1), now.expand(2), to=to) for to in ("x", "eps"))
        noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(t), dtype=torch.float64)
        ratio = model.variance_ratio(torch.tensor([float(t)], dtype=torch.float64)).rsqrt()
        mine = _ddim(z.flatten(1), f, eps, now, then, 1.0, ratio * noise.flatten(1))
        theirs = made.step(out, t, z, generator=torch.Generator().manual_seed(t)).prev_sample
        torch.testing.assert_close(mine, theirs.flatten(1).double(), rtol=1e-4, atol=1e-5)
        plain = _ddim(z.flatten(1), f, eps, now, then, 0.0, None)
        torch.testing.assert_close(
            plain,
            other.step(out, t, z, eta=0.0, use_clipped_model_output=clip).prev_sample.flatten(1).double(),
            rtol=1e-4,
            atol=1e-5,
        )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"clip_sample": True},
        {"clip_sample": True, "clip_sample_range": 0.4},
        {"variance_type": "fixed_large"},
        {"prediction_type": "v_prediction"},
    ],
)
def test_the_bound_is_that_of_ddpm(options):
    """L_0 + sum of KL(q(x_s | x_t, x_0) to p(x_s | x_t)) + L_T by Ho et al.'s formulas in betas, at the very same draws."""
    model, made = built(**options)
    betas, bars = made.betas.double(), made.alphas_cumprod.double()
    f = 2 * X.flatten(1) / 255 - 1
    torch.testing.assert_close(model.encode(X), f)
    draws = Plan.stratified(19).draws(torch.arange(3), dtype=torch.float64)
    eps = draws.normal("eps", 64)
    normal, kl = torch.distributions.Normal, torch.distributions.kl_divergence

    def image(z, t):
        with torch.no_grad():
            out = model.network(z.view(-1, 1, 8, 8), torch.tensor(t)).sample.view(z.shape)
        bar = bars[t]
        if options.get("prediction_type") == "v_prediction":
            x = bar.sqrt() * z - (1 - bar).sqrt() * out
        else:
            x = (z - (1 - bar).sqrt() * out) / bar.sqrt()
        reach = options.get("clip_sample_range", 1.0)
        return x.clamp(-reach, reach) if options.get("clip_sample") else x

    total = torch.zeros(3, dtype=torch.float64)
    for k in range(19):
        for b in range(3):
            t = int((draws.lead()[k, b] * 19).floor()) + 1
            bar, before, beta = bars[t], bars[t - 1], betas[t]
            z = bar.sqrt() * f[b] + (1 - bar).sqrt() * eps[k, b]

            def mean(x0, z=z, bar=bar, before=before, beta=beta):
                return (before.sqrt() * beta * x0 + (1 - beta).sqrt() * (1 - before) * z) / (1 - bar)

            small = ((1 - before) / (1 - bar) * beta).sqrt()
            wide = beta.sqrt() if options.get("variance_type") == "fixed_large" else small
            total[b] += kl(normal(mean(f[b]), small), normal(mean(image(z, t)), wide)).sum()
    with torch.no_grad():
        torch.testing.assert_close(model.diffusion(f, draws).mean(0), total, rtol=1e-4, atol=1e-4)
        last = kl(normal(bars[-1].sqrt() * f, (1 - bars[-1]).sqrt()), normal(0.0, 1.0)).sum(1)
        torch.testing.assert_close(model.prior(f), last, rtol=1e-6, atol=1e-8)
        z = bars[0].sqrt() * f + (1 - bars[0]).sqrt() * draws.normal("z0", 64)[0]
        spread = (betas[1] * (1 - bars[0]) / (1 - bars[1])).sqrt()  # posterior_variance[1] of Ho et al.'s code
        around = normal(image(z, 0), spread)
        upper = torch.where(f > 0.9999, 1.0, around.cdf(f + 1 / 255))
        lower = torch.where(f < -0.9999, 0.0, around.cdf(f - 1 / 255))
        near = (upper - lower) > 1e-9  # where differences of probabilities have digits
        assert float(near.double().mean()) > 0.2
        decoder, high, x = BinnedDecoder(256), -2 * spread.log(), X.flatten(1)
        clean = image(z, 0)[None]
        each = torch.stack([decoder.log_prob(x[:, [j]], clean[..., [j]], high)[0] for j in range(64)], 1)
        torch.testing.assert_close(each[near], (upper - lower)[near].log(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(
            model.reconstruction(X, f, draws)[0], -each.sum(1), rtol=1e-5, atol=0
        )  # a network in float32


class Constant(torch.nn.Module):
    """Knows the image."""

    def __init__(self, image):
        super().__init__()
        self.image = torch.nn.Parameter(image)

    def forward(self, z, t):
        return self.image.expand(z.shape)


@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
def test_samples_are_the_prediction_of_the_last_step(sampler):
    """Of a network that knows the only image every sample is that image, whatever noise is left at timestep 0."""
    model = DiffusersModel(
        Constant(2 * X[:1].float() / 255 - 1), scheduler(prediction_type="sample", beta_start=0.02), shape=(1, 8, 8)
    )
    drawn = sample(model, Plan.iid(1).draws(torch.arange(3)), sampler=sampler, steps=19)[0]
    assert torch.equal(drawn, X[:1].float().expand(3, -1, -1, -1))


def test_steps_of_ones_own_have_variances_of_ones_own():
    """w of another number of steps and kind is what was asked, not the table's."""
    for kind in ("fixed_small", "fixed_large"):
        model, _ = built(variance_type=kind)
        halved = model.in_steps(40, variance="ratio", ratio=0.5)
        i = torch.arange(1, 41).double()
        assert torch.equal(halved.variance_ratio(i), torch.full((40,), 0.5, dtype=torch.float64))
        best = model.in_steps(19, variance="optimal")
        best.measure_variances(X, Plan.stratified(19).draws(torch.arange(3)))
        spread = best.spread.double()
        assert (
            torch.allclose(best.variance_ratio(torch.arange(1, 20).double()), 1 / (1 + spread))
            and float(spread.min()) > 0
        )
        assert model.variance_ratio(i[:19]).unique().numel() == (1 if kind == "fixed_small" else 19)


class Normal(torch.nn.Module):
    """The denoiser of N(0, v)."""

    def __init__(self, scheduler, v):
        super().__init__()
        self.bars, self.v = scheduler.alphas_cumprod.double(), v
        self.anchor = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, z, t):
        snr = torch.logit(self.bars)
        i = t.floor().long().clamp_max(len(snr) - 2)
        alpha, sigma = alpha_sigma(torch.lerp(snr[i], snr[i + 1], t.double() - i)[:, None, None, None])
        return sigma * z / (alpha**2 * self.v + sigma**2)


@pytest.mark.parametrize("levels", [2, 4])
def test_the_flows_cells_share_all_the_mass(levels):
    """Sum over levels of P(x) of a narrow normal: its mass between the outer edges; 1e-3."""
    made = scheduler(num_train_timesteps=200, beta_start=0.0005, beta_end=0.1)
    v = 0.3
    model = DiffusersModel(Normal(made, v), made, shape=(1, 1, 1), levels=levels).double().eval()
    x = torch.arange(levels).double().view(-1, 1, 1, 1)
    found = evaluate(FlowEvidence(model, dequantisation="uniform", steps=60).eval(), x, Plan.sobol(256), iwae)
    alpha, sigma = alpha_sigma(model.schedule.high)
    edge = float(alpha * (1 + 1 / (levels - 1)) / (alpha**2 * v + sigma**2).sqrt())
    assert float(found.value.exp().sum()) == pytest.approx(math.erf(edge / 2**0.5), abs=1e-3)


def test_predictions_between_timesteps_and_beside_the_square():
    """The network is asked at t + 1/2 for the log-SNR in the middle; of 8 x 12 pixels it gets rows of 12."""
    net = unet(sample_size=(8, 12))
    model, _ = built(net)
    assert model.config.shape == (1, 8, 12)
    z = torch.randn(2, 96, dtype=torch.float64)
    snr = (model.schedule.table[7] + model.schedule.table[8]) / 2
    with torch.no_grad():
        wanted = model.network(z.view(2, 1, 8, 12), torch.full((2,), 7.5, dtype=torch.float64)).sample
        torch.testing.assert_close(model.predict(z, snr.expand(2)), wanted.flatten(1))


@pytest.mark.parametrize("cast", ["float", "bfloat16 network", "double, single items"])
def test_precisions(cast):
    """A model in another precision has a bound close to that in double precision, on the same draws."""
    model, made = built()
    plan = Plan.stratified(19)
    wanted = float(evaluate(model, X, plan, elbo).value.mean())
    if cast == "bfloat16 network":
        other = DiffusersModel(unet().bfloat16(), made).eval()
    else:
        other = DiffusersModel(unet(), made).eval()
        other = other.float() if cast == "float" else other.double()
    found = float(evaluate(other, X.float(), plan, elbo).value.mean())
    assert found == pytest.approx(wanted, rel=0.02 if cast == "bfloat16 network" else 1e-4)


def test_attention_without_a_forward_derivative_is_named():
    model = DiffusersModel(unet(), scheduler()).eval()
    with pytest.raises(
        UserError, match="has no forward-mode derivative, which the flow's likelihood needs: use the ELBO"
    ):
        evaluate(FlowEvidence(model, steps=2).eval(), X.float(), Plan.iid(1), elbo)


def test_cells_far_away_keep_their_digits():
    """log of the mass by 30 digits of mpmath, where differences of probabilities have none."""
    for x, clean, wanted in ((10, 0.9, -16519.7039465), (250, -0.9, -17239.9722157), (128, 0.3, -430.9275663)):
        got = BinnedDecoder(256).log_prob(*(torch.tensor(v, dtype=torch.float64) for v in ([[x]], [[[clean]]], 9.21)))
        assert float(got) == pytest.approx(wanted, rel=1e-9)


def damaged(name):
    def act(where):
        index = json.loads((where / "model_index.json").read_text())
        settings = json.loads((where / "scheduler" / "scheduler_config.json").read_text())
        network = json.loads((where / "unet" / "config.json").read_text())
        if name in ("no scheduler named", "custom code"):
            index["scheduler"] = [] if name == "no scheduler named" else ["my_code", "DDPMScheduler"]
        if name == "a module for a scheduler":
            index["scheduler"] = ["diffusers", "schedulers"]
        if name == "odd betas":
            settings["beta_schedule"] = "nonsense"
        if name == "odd table":
            settings["trained_betas"] = "abc"
        if name == "quantised":
            network["quantization_config"] = {"quant_method": "bitsandbytes"}
        if name == "other widths":
            network["block_out_channels"] = [12, 16]
        if name == "more weights":
            network["layers_per_block"] = 2
        (where / "model_index.json").write_text(json.dumps(index))
        (where / "scheduler" / "scheduler_config.json").write_text(json.dumps(settings))
        (where / "unet" / "config.json").write_text(json.dumps(network))
        if name == "no scheduler folder":
            (where / "scheduler" / "scheduler_config.json").unlink()
        if name == "no config":
            (where / "unet" / "config.json").unlink()
        if name == "broken json":
            (where / "unet" / "config.json").write_text("{")
        if name == "broken weights":
            (where / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"abc")

    return act


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no scheduler named", "names the scheduler None"), ("a module for a scheduler", "which diffusers does not have"),
        ("custom code", "of 'my_code'"), ("odd betas", "cannot be read by diffusers"), ("odd table", "cannot be read by diffusers"),
        ("quantised", "is quantised"), ("other widths", "cannot be read by diffusers|do not fit"),
        ("more weights", "cannot be read by diffusers|do not fit"), ("no scheduler folder", "complete pipeline's folder"),
        ("no config", "complete pipeline's folder"), ("broken json", "complete pipeline's folder"),
        ("broken weights", "cannot be read by diffusers"),
    ],
)  # fmt: skip
def test_damaged_folders_are_one_sentence(folder, tmp_path, name, says, capsys):
    where = tmp_path / "copy"
    shutil.copytree(folder, where)
    damaged(name)(where)
    with pytest.raises(UserError, match=says):
        from_diffusers(where)
    assert main(["sample", str(where), "--n", "1", "--out", str(tmp_path / "s.npy")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("infimum: ") and "Traceback" not in error


def test_weights_are_asked_for_as_safetensors_from_here(folder, monkeypatch):
    asked = {}
    real = diffusers.UNet2DModel.from_pretrained

    def watched(*args, **options):
        asked.update(options)
        return real(*args, **options)

    monkeypatch.setattr(diffusers.UNet2DModel, "from_pretrained", watched)
    from_diffusers(folder)
    assert asked["use_safetensors"] is True and asked["local_files_only"] is True


def test_a_shape_of_ones_own_is_checked_too():
    for net, shape, says in (
        ({"num_class_embeds": 3}, (1, 8, 8), "conditioned on classes"),
        ({"out_channels": 2}, (1, 8, 8), "learned variances"),
        ({}, (3, 8, 8), "takes 1 channels"),
    ):
        with pytest.raises(UserError, match=says):
            DiffusersModel(unet(**net), scheduler(), shape=shape)
    assert DiffusersModel(unet(), scheduler("DPMSolverMultistepScheduler")).config.depth == 19


@pytest.mark.parametrize("precision", [2.0, 9.2])
def test_cells_share_all_the_mass(precision):
    """Sum over levels of p(x | x^) = 1, also far from the grid, and in single precision."""
    decoder, high = BinnedDecoder(16), torch.tensor(precision, dtype=torch.float64)
    for dtype, error in ((torch.float64, 1e-12), (torch.float32, 2e-5)):
        clean = torch.tensor([-3.0, -1.0, -0.51, 0.0, 0.313, 1.0, 2.5], dtype=dtype)[None, :, None]
        each = torch.stack(
            [decoder.log_prob(torch.full((7, 1), float(x), dtype=dtype), clean, high)[0] for x in range(16)]
        )
        torch.testing.assert_close(each.double().exp().sum(0), torch.ones(7, dtype=torch.float64), rtol=0, atol=error)
        assert bool(each.isfinite().all())
    assert decoder.decode(decoder.scaled(torch.arange(16.0))).tolist() == list(range(16))


def test_it_keeps_the_rules_of_a_model():
    check_model(built(clip_sample=True)[0], X)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("pipeline")
    diffusers.DDPMPipeline(unet(), scheduler(clip_sample=True)).save_pretrained(where)
    return where


def test_a_pipelines_folder(folder, tmp_path, capsys):
    """Read, evaluated and sampled by the commands as by the library."""
    model = from_diffusers(folder)
    assert model.config.shape == (1, 8, 8) and model.config.depth == 19 and model.clip == 1.0
    np.save(tmp_path / "x.npy", X.numpy().astype(np.uint8))
    words = [
        "evidence",
        str(folder),
        "--data",
        str(tmp_path / "x.npy"),
        "--k",
        "8",
        "--plan",
        "stratified",
        "--unit",
        "bits/dim",
    ]
    assert main([*words, "--quiet"]) == 0
    said = capsys.readouterr().out.strip()
    told = evaluate(model, X.float(), Plan.stratified(1, replicates=8), elbo).to_unit("bits/dim", 64).mean()
    assert said == str(told) and not math.isnan(told.value)
    assert main(["sample", str(folder), "--n", "2", "--out", str(tmp_path / "s.npy")]) == 0
    drawn = np.load(tmp_path / "s.npy")
    assert drawn.shape == (2, 1, 8, 8) and drawn.min() >= 0 and drawn.max() <= 255
    assert sample(model, Plan.iid(1).draws(torch.arange(2)), sampler="dpmpp-2m", steps=5).shape == (1, 2, 1, 8, 8)
    assert main(["evidence", str(folder), "--quiet"]) == 2
    assert "give --data FILE" in capsys.readouterr().err


def test_folders_that_are_not_converted(folder, tmp_path):
    with pytest.raises(UserError, match=r"no readable model_index\.json"):
        from_diffusers(tmp_path)
    (tmp_path / "model_index.json").write_text(
        json.dumps({"_class_name": "Latent", "vae": ["diffusers", "AutoencoderKL"]})
    )
    with pytest.raises(UserError, match="holds a Latent of vae: only unconditional models of pixels"):
        from_diffusers(tmp_path)
    (tmp_path / "model_index.json").write_text((folder / "model_index.json").read_text())
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(UserError, match="pickled weights are not read"):
        from_diffusers(tmp_path)
    index = json.loads((folder / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps(index | {"scheduler": ["diffusers", "os"]}))
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="names the scheduler 'os' of 'diffusers', which diffusers does not have"):
        from_diffusers(tmp_path)


@pytest.mark.parametrize(
    ("net", "options", "says"),
    [
        ({"num_class_embeds": 3}, {}, "conditioned on classes"),
        ({"out_channels": 2}, {}, "makes 2 channels of 1: learned variances"),
        ({"sample_size": None}, {}, r"give shape=\(C, H, W\)"),
        ({}, {"variance_type": "learned_range"}, "variance_type 'learned_range'"),
        ({"time_embedding_type": "fourier"}, {}, "only positional embeddings"),
        ({}, {"variance_type": "fixed_large_log"}, "variance_type 'fixed_large_log'"),
        ({}, {"thresholding": True}, "with thresholding is not converted"),
        ({}, {"kind": "LCMScheduler"}, "steps of a consistency model"),
        ({}, {"kind": "EulerDiscreteScheduler", "timestep_type": "continuous"}, "timestep_type='continuous'"),
        (
            {},
            {"kind": "UniPCMultistepScheduler", "use_flow_sigmas": True, "prediction_type": "epsilon"},
            "use_flow_sigmas",
        ),
        ({}, {"rescale_betas_zero_snr": True}, "must be finite and fall"),
    ],
)
def test_models_that_are_not_converted(net, options, says):
    with pytest.raises(UserError, match=says):
        DiffusersModel(unet(**net), scheduler(**options))
    with pytest.raises(UserError, match="is not converted: use one with alphas_cumprod"):
        DiffusersModel(unet(), diffusers.FlowMatchEulerDiscreteScheduler())
    with pytest.raises(UserError, match="must be finite and fall from step to step"):
        TableSchedule(torch.tensor([1.0, 2.0]))
