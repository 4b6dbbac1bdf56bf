"""Makes the tables of README.md from results/*.json; `--check` only says whether they are up to date."""

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from common import HERE, RESULTS


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table; all but the first column are set to the right."""
    line = ["---", *["---:"] * (len(head) - 1)]
    return ["| " + " | ".join(cells) + " |" for cells in (head, line, *rows)]


def times(r: dict[str, float]) -> str:
    """A paired ratio with its spread."""
    return f"{r['median']:.2f} ({r['min']:.2f} to {r['max']:.2f})"


def verdict(goal: float, reached: Sequence[float]) -> str:
    """Whether a goal was met everywhere, somewhere or nowhere."""
    met = sum(x >= goal for x in reached)
    word = "met" if met == len(reached) else "not met" if met == 0 else f"met in {met} of {len(reached)} rows"
    return f"Goal: {goal:g}x, {word}."


def percent(share: dict[str, float]) -> str:
    """A proportion with its binomial standard error."""
    return f"{100 * share['share']:.2f} ± {100 * share['stderr']:.2f}%"


def foot(result: dict[str, Any]) -> list[str]:
    """Machine, date and command."""
    m = result["machine"]
    peers = "".join(
        f", {name} {m[name]}"
        for name in ("pythae", "multivae", "vbpca-py", "bayespy", "scikit-learn", "diffusers", "jax")
        if name in m
    )
    place = f"{m['cpu']}, {m['threads']} of {m['cores']} cores, Python {m['python']}, torch {m['torch']}{peers}"
    return ["", f"{place}; {result['date']}; `{result['command']}`"]


def evidence(r: dict[str, Any]) -> list[str]:
    """Speed, memory and error of the evidence."""
    speed, lines = [], []
    for network, s in r["speed"].items():
        for side, ratio in s["speedup"].items():
            ms = s["milliseconds_an_item"]
            speed.append([f"{network}: {side}", f"{ms[side]:.1f}", f"{ms['pythae']:.1f}", times(ratio),
                          f"{ratio['geometric_mean']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"])  # fmt: skip
    head = ["network: side", "ms an item", "pythae, ms an item", "speed-up, median (range)", "geometric mean [95%]"]
    lines += grid(head, speed)
    lines += ["", verdict(r["goal"], [s["speedup"]["infimum"]["median"] for s in r["speed"].values()])]
    runs = [f"{s['items']} items of {n} (pythae's batch_size {s['pythae_batch_size']})" for n, s in r["speed"].items()]
    lines += [f"Paired runs: {'; '.join(runs)}; K = {next(iter(r['speed'].values()))['k']}."]
    if "full" in r:
        f = r["full"]
        seconds = f"infimum {f['infimum_seconds']:.0f} s, pythae {f['pythae_seconds']:.0f} s ({f['ratio']:.2f}x)"
        ours, theirs = (f["mean_log_evidence"][side] for side in ("infimum", "pythae"))
        lines.append(
            f"All {f['items']} images, one run each and no pair: {seconds}; mean log p(x) {ours:.3f} and {theirs:.3f} nats."
        )
    memory = r["memory_mib"]
    lines += [
        "",
        (
            "Peak memory above the loaded model, MiB (infimum: 64 images at once; pythae: one after the other; the allocator gives "
            "freed blocks back at once). infimum keeps the table of 64 x K log-weights and two of its parts, 24 bytes an entry "
            "(7.3 MiB at K = 5,000), and works on copies of it; pythae keeps the draws of one image:"
        ),
        "",
    ]
    lines += grid(["K", *memory["infimum"]], [[n, *[f"{v:.0f}" for v in m.values()]] for n, m in memory.items()])
    a = r["accuracy"]
    lines += ["", f"Error an item where log p(x) is known exactly (linear-Gaussian, {a['items']} items), nats:", ""]
    lines += grid(["estimate", "rms error", "mean error", "ms an item", "speed-up, median (range)"],
                  [[n, f"{e['rms_error_nats']:.2g}", f"{e['mean_error_nats']:+.2g}", f"{e['milliseconds_an_item']:.2f}",
                    times(e["speedup"])] for n, e in a["rows"].items()])  # fmt: skip
    used = a["pythae_draws_used_when_asked"]
    lines += [
        "",
        "pythae at its default batch_size, "
        + ", ".join(f"asked for {n} draws, used {u}" for n, u in used.items())
        + ".",
    ]
    if "equal_error" in r:
        lines += ["", "Spread of an item's estimate over seeds, on the trained models:", ""]
        rows = [[f"{n}: {plan}", f"{e['rms_sd_nats']:.3f}", f"{e['mean']:.3f}", f"{e['milliseconds_an_item']:.1f}"]
                for n, plans in r["equal_error"].items() for plan, e in plans.items()]  # fmt: skip
        lines += grid(["network: draws", "sd, nats", "mean, nats", "ms an item"], rows)
    return lines


def training(r: dict[str, Any]) -> list[str]:
    """Throughput of both trainers."""
    rows = []
    for name, c in r["cases"].items():
        for rule, ratio in c["speedup"].items():
            rate, gain = c["examples_per_second"], c["gain_nats"][rule]
            rows.append([f"{name}: rule {rule}", f"{rate[rule]:,.0f}", f"{rate['pythae']:,.0f}", times(ratio),
                         f"{ratio['geometric_mean']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]",
                         f"{gain['mean']:+.2f} [{gain['low']:+.2f}, {gain['high']:+.2f}]"])  # fmt: skip
    head = [
        "network: side",
        "examples/s",
        "pythae",
        "speed-up, median (range)",
        "geometric mean [95%]",
        "held-out IWAE-64 less pythae's, nats [95%]",
    ]
    medians = [s["median"] for c in r["cases"].values() for s in c["speedup"].values()]
    return [*grid(head, rows), "", verdict(r["goal"], medians)]


def gradients(r: dict[str, Any]) -> list[str]:
    """Variance and time of gradient rules and plans."""
    rows = []
    for model, measured in r["models"].items():
        for m in measured:
            product = f"{m['variance_x_time_relative']:.3f}"
            if m["low"] != m["high"]:
                product += f" [{m['low']:.3f}, {m['high']:.3f}]"
            rows.append([f"{model}, {m['target']}: {m['rule']}, {m['plan']}", f"{m['variance']:.3g}", f"{m['ms']:.2f}",
                         f"{m['variance_relative']:.3f}", product])  # fmt: skip
    head = [
        "model, target: rule, draws",
        "variance (trace)",
        "ms",
        "variance, relative",
        "variance x time, relative [95%]",
    ]
    return [*grid(head, rows), "", f"K = {r['k']}, batch {r['batch']}, {r['replicates']} replicates."]


def coverage(r: dict[str, Any]) -> list[str]:
    """How often limits and intervals hold."""
    rows = [[name, f"{c['bias_nats']:+.3f}", percent(c["certificate_violated"]), percent(c["delta_interval_covers"]),
             f"{c['delta_interval_half_width_nats']:.3f}", f"{100 * c['items_flagged_by_pareto_k']:.1f}%"]
            for name, c in r["rows"].items()]  # fmt: skip
    head = [
        "proposal",
        "IWAE-64 less truth, nats",
        "certificate violated",
        "delta interval covers",
        "its half width",
        "items flagged",
    ]
    slack = next(iter(r["rows"].values()))["certificate_slack_nats"]
    text = f"{r['replicates']} replicates of {r['items']} items; the certificate may fail in {100 * r['delta']:g}% and costs "
    text += (
        f"{slack:.3f} nats; the interval should cover in 95%; items are flagged at Pareto k > {r['pareto_limit']:.2f}."
    )
    return [*grid(head, rows), "", text]


def random(r: dict[str, Any]) -> list[str]:
    """Cost of random numbers."""
    ns, share, step = r["nanoseconds_a_normal"], r["share_of_evaluation"], r["milliseconds_a_step"]
    sides = next(iter(ns.values()))
    lines = grid(
        ["nanoseconds a normal", *ns], [[side, *[f"{each[side]:.1f}" for each in ns.values()]] for side in sides]
    )
    parts = [f"{100 * part:.1f}% ({name})" for name, part in share.items()]
    lines += ["", f"Share of an evaluation (VAE whose decoder is one linear layer, K = 1,000): {', '.join(parts)}."]
    steps = [f"{each['noise']:.2f} ms instead of {each['torch.randn']:.3f} ms beside {each['network']:.2f} ms for the "
             f"passes of {name}" for name, each in step.items()]  # fmt: skip
    return [*lines, f"A training step of 128 items draws its noise in {'; '.join(steps)}."]


def selection(r: dict[str, Any]) -> list[str]:
    """Hits, times and clusters."""

    def hits(worlds: dict[str, dict[str, dict[str, float]]], head: str) -> list[str]:
        rules = list(dict.fromkeys(rule for world in worlds.values() for rule in world))
        rows = []
        for rule in rules:
            cells = [world.get(rule) for world in worlds.values()]
            rows.append([rule, *("-" if c is None else f"{c['share']:.2f} ± {c['stderr']:.2f} ({c['mean']:.1f}; {c['replicates']})"
                                 for c in cells)])  # fmt: skip
        return grid([head, *worlds], rows)

    lines = hits(
        r["hit_rates"], f"criterion: share that chooses {r['factors']} ± binomial error (mean chosen; data sets)"
    )
    names = list(dict.fromkeys(name for size in r["speed"].values() for name in size["seconds"]))
    rows = []
    for name in names:
        cells = []
        for size in r["speed"].values():
            against = size["ratio"].get(name)
            more = "" if against is None else f" ({against['median']:.3g}x)"
            seconds = size["seconds"].get(name, "not run")
            cells.append(seconds if isinstance(seconds, str) else f"{seconds:.3g}{more}")
        rows.append([name, *cells])
    sizes = [f"{name}, 0 to {size['components']} components" for name, size in r["speed"].items()]
    lines += ["", *grid(["seconds of the whole grid (of infimum's)", *sizes], rows), ""]
    slow = [
        size["ratio"][n]["median"]
        for size in r["speed"].values()
        for n in size["ratio"]
        if n.startswith(("vbpca-py", "bayespy"))
    ]
    lines += [f"{verdict(r['goal'], slow)[:-1]} (over vbpca-py and bayespy, where they were run).", ""]
    return lines + hits(
        r["mixtures"], "criterion: share that chooses 3 clusters ± binomial error (mean chosen; data sets)"
    )


def multimodal(r: dict[str, Any]) -> list[str]:
    """Training, joint evidence and quality beside multivae."""
    rows = [[kind, f"{c['tuples_per_second']['infimum']:,.0f}", f"{c['tuples_per_second']['multivae']:,.0f}", times(c["speedup"]),
             f"{c['speedup']['geometric_mean']:.2f} [{c['speedup']['low']:.2f}, {c['speedup']['high']:.2f}]"]
            for kind, c in r["training"].items()]  # fmt: skip
    lines = grid(["training: model", "tuples/s", "multivae", "speed-up, median (range)", "geometric mean [95%]"], rows)
    lines += ["", verdict(r["goals"]["training"], [c["speedup"]["median"] for c in r["training"].values()]), ""]
    rows = [[kind, *(f"{c['milliseconds_an_item'][side]:.1f}" for side in ("infimum", "multivae")), times(c["speedup"])]
            for kind, c in r["evaluation"].items()]  # fmt: skip
    k = next(iter(r["evaluation"].values()))["k"]
    lines += grid([f"joint evidence, K = {k}: model", "ms an item", "multivae", "speed-up, median (range)"], rows)
    lines += ["", verdict(r["goals"]["evaluation"], [c["speedup"]["median"] for c in r["evaluation"].values()])]
    lines += ["", "Error an item where log p(x) is known (linear-Gaussian, trained encoders), nats:", ""]
    rows = [[f"{kind}: {name}", f"{e['rms_error_nats']:.2g}", f"{e['mean_error_nats']:+.2g}", f"{e['milliseconds_an_item']:.2f}",
             times(e["speedup"])] for kind, c in r["accuracy"].items() for name, e in c.items()]  # fmt: skip
    lines += grid(["model: estimate", "rms error", "mean error", "ms an item", "speed-up, median (range)"], rows)
    lines += ["", *(f"multivae, {kind}: {error}." for kind, error in r["multivae_errors"].items()), ""]
    rows = [
        [kind, *(f"{g['mean']:+.3f} [{g['low']:+.3f}, {g['high']:+.3f}]" for g in c["gain"].values())]
        for kind, c in r["quality"].items()
    ]
    c = next(iter(r["quality"].values()))
    head = f"after {c['epochs']} epochs, infimum less multivae [95%, {c['gain']['joint']['pairs']} seeds]: model"
    return lines + grid([head, "evidence, nats a modality", "coherence given one", "joint coherence"], rows)


def mixture(r: dict[str, Any]) -> list[str]:
    """Training beside pythae's VAEGAN, and what both reach."""
    t, q = r["training"], r["quality"]
    rows = [[name, f"{t['images_per_second'][name]:,.0f}", f"{t['images_per_second']['pythae VAEGAN']:,.0f}", times(c),
             f"{c['geometric_mean']:.2f} [{c['low']:.2f}, {c['high']:.2f}]"] for name, c in t["speedup"].items()]  # fmt: skip
    lines = grid(["objective", "images/s", "pythae VAEGAN", "speed-up, median (range)", "geometric mean [95%]"], rows)
    lines += ["", verdict(r["goal"], [c["median"] for c in t["speedup"].values()]), ""]
    keys = ("mae", "sharpness", "frechet", "evidence")
    rows = [[name, *(f"{sum(each[k]) / len(each[k]):.3f}" for k in keys)] for name, each in q["reached"].items()]
    rows += [
        [f"{name} less pythae's", *(f"{c[k]['mean']:+.3f} [{c[k]['low']:+.3f}, {c[k]['high']:+.3f}]" for k in keys)]
        for name, c in q["less_pythae"].items()
    ]
    head = [
        f"after {q['epochs']} epochs, {q['seeds']} seeds [95%]",
        "error",
        "sharpness / that of the data",
        "Frechet",
        "evidence, nats",
    ]
    lines += grid(head, rows)
    share = r["pythae_share_of_the_discriminators_gradient_in_the_decoder"]
    return [
        *lines,
        "",
        f"pythae's step: {r['pythae_error']}. Measured multiple in the decoder: {share:+.2f} (-0.50 intended).",
    ]


def dg(r: dict[str, Any]) -> list[str]:
    """Posterior collapse and its cures, and what the density gap has more at equal likelihood."""
    keys = ("prior_ll", "post_ll", "divergence", "information", "active", "consistent", "hole")

    def cell(each: Sequence[float]) -> str:
        mean = sum(each) / len(each)
        return f"{mean:.2f} ± {(sum((v - mean) ** 2 for v in each) / (len(each) - 1)) ** 0.5:.2f}"

    def gap(c: dict[str, float]) -> str:
        return f"{c['mean']:+.2f} [{c['low']:+.2f}, {c['high']:+.2f}]" if "mean" in c else "-"

    rows = [[name, *(cell(row[key]) for key in keys)] for name, row in r["found"].items()]
    lines = grid(["model", "prior LL", "post LL", "KL", "MI", "AU", "CU", "KL(p to q)"], rows)
    cap = f"MI is capped at {r['information_cap']:.2f} nats."
    lines += ["", f"Means over {r['seeds']} seeds ± standard deviation; {cap}", ""]
    rows = [
        [f"{setting} less {family}", gap(row["active"]), gap(row["information"]), str(row["active"]["seeds"])]
        for setting, others in r["density_gap_less_others"].items()
        for family, row in others.items()
    ]
    lines += grid(["at the prior LL of the first", "active units [95%]", "MI, nats [95%]", "seeds in range"], rows)
    g = r["goal"]
    met = f"met by {', '.join(g['met_by'])}" if g["met_by"] else "not met"
    limit = f"{g['best_baseline_prior_ll']:.2f} - {g['its_standard_error']:.2f}"
    goal = f"the most active units ({g['most_active']:.1f}) at a prior LL of at least the best baseline's less its standard error"
    return [*lines, "", f"Goal: {goal} ({limit}): {met}."]


def diffusion(r: dict[str, Any]) -> list[str]:
    """Speed of training, variance of the gradient, error of the samplers."""

    def around(s: dict[str, float]) -> str:
        return f"{s['geometric_mean']:.2f} [{s['low']:.2f}, {s['high']:.2f}]"

    rows = [
        [name, *(f"{one['steps_per_second'][side]:.1f}" for side in ("infimum", "diffusers")), times(one["speedup"]),
         around(one["speedup"])] for name, one in r["throughput"].items()
    ]  # fmt: skip
    head = ["network", "infimum, steps/s", "diffusers' loop", "speed-up, median (range)", "geometric mean [95%]"]
    lines = [
        *grid(head, rows),
        "",
        verdict(r["goals"]["speed"], [o["speedup"]["median"] for o in r["throughput"].values()]),
    ]
    j = r["jax"]
    rate, gap = j["steps_per_second"], j["infimum_less_jax"]
    bits = {side: sum(each) / len(each) for side, each in j["bits"].items()}
    told = (
        f"VDM's loop in JAX, the recipe's residual MLP with the whole bound: {rate['VDM in JAX']:.1f} steps/s, infimum "
        f"{rate['infimum']:.1f} ({around(j['speedup'])}). Bits a dimension of the test digits after {j['seconds']:.0f} s "
        f"of training each: infimum {bits['infimum']:.4f}, JAX {bits['VDM in JAX']:.4f}, infimum less JAX {gap['mean']:+.4f} "
        f"[{gap['low']:+.4f}, {gap['high']:+.4f}], {j['seeds']} seeds. With equal weights, times and noise the bounds differ by "
        f"{j['largest_difference_of_the_bound']:.1g} at most."
    )
    count = r["gradients"]["draws"]
    lines += [
        "",
        told,
        "",
        f"Variance for one batch of {r['batch']} over {count} draws, beside random times with uniform log-SNRs:",
        "",
    ]
    g = r["gradients"]["rows"]
    rows = [
        [name, f"{row['mean_loss']:.3f}", f"{row['loss_gain']:.2f}", f"{row['gradient_gain']:.2f}"]
        for name, row in g.items()
    ]
    lines += grid(["times", "mean loss", "variance of the loss, times lower", "of the gradient, times lower"], rows)
    best = max((row["gradient_gain"], name) for name, row in g.items() if not name.startswith("noise"))
    goal = r["goals"]["variance"]
    word = "met" if best[0] >= goal else f"not met: the best is {best[0]:.2f}x ({best[1]})"
    lines += ["", f"Goal: {goal:g}x lower variance of the gradient, {word}.", ""]
    lines += [
        f"Error of z_0 by network evaluations, exact denoiser of a mixture in the plane, {r['samplers']['points']} points:",
        "",
    ]
    rows = []
    for row in r["samplers"]["rows"]:
        if "rms" in row:
            rows.append([row["sampler"], f"{row['evaluations']:.0f}", f"{row['rms']:.2g} ± {row['stderr']:.1g}", "-"])
        else:
            rows.append(
                [row["sampler"], f"{row['evaluations']:.0f}", "-", f"{row['energy']:+.4f} ± {row['energy_stderr']:.4f}"]
            )
    return lines + grid(["sampler", "evaluations", "rms error", "energy distance to the data"], rows)


def masked(r: dict[str, Any]) -> list[str]:
    """Speed of training and of the ELBO, and its variance."""

    def around(s: dict[str, float]) -> str:
        return f"{s['geometric_mean']:.2f} [{s['low']:.2f}, {s['high']:.2f}]"

    rows = [
        [name, *(f"{one['tokens_per_second'][side]:,.0f}" for side in ("infimum", "dllm")), around(one["training"]),
         around(one["elbo"])]
        for name, one in r["throughput"].items()
    ]  # fmt: skip
    head = [
        "vocabulary",
        "infimum, tokens/s of training",
        "dllm's step",
        "speed-up of training [95%]",
        "speed-up of the ELBO [95%]",
    ]
    lines = [
        *grid(head, rows),
        "",
        verdict(r["goals"]["speed"], [o["training"]["median"] for o in r["throughput"].values()]),
    ]
    v = r["variance"]
    lines += [
        "",
        f"Variance of the ELBO of a sequence at {v['calls']} network calls, mean over {v['items']} sequences, {v['unit']}:",
        "",
    ]
    rows = [
        [name, f"{row['variance']:.3g}", f"{row['gain']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"]
        for name, row in v["rows"].items()
    ]
    lines += grid(["masks", "variance", "times lower [95% over sequences]"], rows)
    best = max((row["gain"], name) for name, row in v["rows"].items())
    word = "met" if best[0] >= r["goals"]["variance"] else "not met"
    w = r["writing"]
    rows = [
        [name, f"{one['tokens_per_second']:.0f}", around(one["speed"]), f"{one['columns']:.0%}"]
        for name, one in w["rows"].items()
    ]
    return [
        *lines,
        "",
        f"Goal: {r['goals']['variance']:g}x lower variance, {word}: the best is {best[0]:.2f}x ({best[1]}).",
        "",
        f"Writing {w['length']} tokens behind each of {w['prompts']} prompts of as many, blocks of 32, two tokens a step:",
        "",
        *grid(["keys and values kept", "tokens/s", "times as fast as none [95%]", "columns computed"], rows),
    ]


def alignment(r: dict[str, Any]) -> list[str]:
    """Methods on Sudoku, surrogates beside the truth, memory."""

    def around(s: dict[str, float] | None) -> str:
        return "" if s is None else f"{s['mean']:+.3f} [{s['low']:+.3f}, {s['high']:+.3f}]"

    u = r["sudoku"]
    rows = [
        [name, f"{sum(one['greedy']) / len(one['greedy']):.3f}", around(one["gain"]), around(one["less"]),
         "" if one["less"] is None else f"{one['above']} of {u['seeds']}", f"{one['sampled']:.3f}", f"{one['calls'] / 1000:.0f}k",
         f"{one['seconds']:.0f}"]
        for name, one in u["rows"].items()
    ]  # fmt: skip
    head = [
        "method", "greedy", "over the base [95%]", "less ELBO, REINFORCE [95%]", "seeds above it", "sampled", "canvases", "seconds",
    ]  # fmt: skip
    lines = [
        (f"4 x 4 Sudoku, {u['steps']} steps, {u['seeds']} seeds, share of held-out puzzles that end as a valid grid; base: greedy "
        f"{u['base']['greedy']:.3f}, sampled {u['base']['sampled']:.3f}."), "", *grid(head, rows), "",
    ]  # fmt: skip
    e = r["estimators"]
    lines += [
        (f"Surrogates on the tiny world (sum of p over all sequences {e['sum']:.6f}, E log p {e['log p']:.3f}, ELBO "
        f"{e['gap']:.4f} nats "
        f"below), {e['sequences']} sequences, {e['calls']} network calls each (mean field: 1), nats:"), "",
    ]  # fmt: skip
    rows = [
        [name, f"{one['bias']:+.3f} ± {one['bias_stderr']:.3f}", f"{one['elbo_bias']:+.3f}", f"{one['variance']:.3f}",
         f"{one['mse']:.3f}", f"{one['saved_bytes'] / 1000:.1f}", one["side"]]
        for name, one in e["rows"].items()
    ]  # fmt: skip
    head = [
        "surrogate", "less log p", "less ELBO", "variance", "mean square error about the ELBO", "kB kept for a gradient", "side",
    ]  # fmt: skip
    lines += [*grid(head, rows), "", "Variance of VRPO's score, policy 0.02 from the reference in every weight:", ""]
    slope = {(one["n_t"], one["n_y"], one["shared"]): f"{one['variance']:.3g}" for one in r["slopes"]["vrpo"]}
    rows = [
        [f"{one['n_t']}", f"{one['n_y']}", "yes" if one["shared"] else "no", f"{one['score']:.3g} ± {one['score_stderr']:.1g}",
         f"{one['loss']:.3g}", slope.get((one["n_t"], one["n_y"], one["shared"]), "")]
        for one in e["scores"]
    ]  # fmt: skip
    head = ["n_t", "n_y", "shared", "variance of s", "variance of the loss", "variance of the gradient, 16 pairs"]
    lines += [*grid(head, rows), "", *_rules(r["rules"]), "", *_slopes(r["slopes"]), ""]
    m = r["memory"]
    rows = [
        [engine, *(f"{m['rows'][engine][str(k)] / 1e6:.2f}" for k in m["ks"]), f"{m['seconds'][engine][str(m['ks'][-1])]:.2f}"]
        for engine in m["rows"]
    ]  # fmt: skip
    flat = max(max(m["rows"][engine].values()) / min(m["rows"][engine].values()) for engine in ("bgpo", "two_pass"))
    word = "met" if flat <= m["goal"] else "not met"
    head = ["engine, MB by masks a completion", *(str(k) for k in m["ks"]), f"seconds at {m['ks'][-1]}"]
    return [
        *lines, *grid(head, rows), "",
        (f"Goal: memory flat in the number of masks within {m['goal'] - 1:.0%}, {word}: {flat:.3f} between the smallest and "
        f"the largest."),
    ]  # fmt: skip


def _rules(r: dict[str, Any]) -> list[str]:
    """Quadrature by the number of levels, and surrogates of longer completions."""
    levels = list(next(iter(r["levels"].values())))
    rows = [
        [name, *(f"{one[n]['bias']:+.3f} ± {one[n]['stderr']:.3f} ({one[n]['mse']:.2f})" for n in levels)]
        for name, one in r["levels"].items()
    ]
    lines = [
        "Bias about the ELBO (and mean square error) by the number of levels, a mask each, sequences of 6 letters, nats:", "",
        *grid(["levels by", *levels], rows), "",
        (f"Completions of {r['cells']} cells, the base model, {r['puzzles']} puzzles, 4 network calls (mean field: 1), all masks "
         "summed for the truth, nats:"), "",
    ]  # fmt: skip
    rows = [
        [name, f"{one['bias']:+.3f} ± {one['bias_stderr']:.3f}", f"{one['elbo_bias']:+.3f}", f"{one['variance']:.3f}",
         f"{one['mse']:.3f}"]
        for name, one in r["rows"].items()
    ]  # fmt: skip
    return [
        *lines,
        *grid(["surrogate", "less log p", "less ELBO", "variance", "mean square error about the ELBO"], rows),
    ]


def _slopes(r: dict[str, Any]) -> list[str]:
    """Gradients: masks, and drift."""
    first = r["variance"]["1"]
    rows = [[k, f"{v:.3g}", f"{first / v:.2f}"] for k, v in r["variance"].items()]
    lines = [
        f"Variance of BGPO's gradient, 64 sequences of 6 letters, random levels, over {r['repeats']} sets of masks:", "",
        *grid(["masks", "variance", "times less than 1"], rows), "",
        ("BGPO's gradient beside the ratio's own, 16 masks, log-ratios as sums over tokens, by updates since the batch was "
         "written:"), "",
    ]  # fmt: skip
    rows = [
        [f"{one['update']}", f"{min(one['cosine']):.4f} to {max(one['cosine']):.4f}", f"{one['d']:.3f}",
         f"{one['variance of d']:.3f}"]
        for one in r["drift"]
    ]  # fmt: skip
    return [*lines, *grid(["updates", "cosine, 8 sets of masks", "mean size of d", "variance of d over masks"], rows)]


TABLES: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "evidence": evidence, "training": training, "gradients": gradients, "coverage": coverage,
    "random": random, "selection": selection, "multimodal": multimodal, "mixture": mixture, "dg": dg,
    "diffusion": diffusion, "masked": masked, "alignment": alignment,
}  # fmt: skip


def filled(page: str) -> str:
    """The page with every table made anew between its two marks."""
    for name, make in TABLES.items():
        result = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        block = "\n".join([f"<!-- {name} -->", *make(result), *foot(result), f"<!-- end of {name} -->"])
        page, found = re.subn(rf"<!-- {name} -->.*?<!-- end of {name} -->", lambda _, b=block: b, page, flags=re.DOTALL)
        if found != 1:
            sys.exit(f"README.md needs one pair of marks <!-- {name} --> and <!-- end of {name} -->, found {found}")
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 if README.md is not up to date")
    check = parser.parse_args().check
    path = HERE / "README.md"
    before = path.read_text(encoding="utf-8")
    after = filled(before)
    if check:
        sys.exit("benchmarks/README.md is not up to date: run python benchmarks/table.py" if after != before else 0)
    path.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
