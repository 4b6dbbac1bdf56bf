"""What every benchmark shares: paired timing, ratios with their spread, peak memory, and results as JSON."""

import argparse
import datetime
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
RESULTS = HERE / "results"


def options(question: str, **extra: Mapping[str, Any]) -> argparse.Namespace:
    """The flags of a benchmark; one thread and a fixed seed for all that follows."""
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("--quick", action="store_true", help="a smoke test: tiny sizes, figures mean nothing")
    parser.add_argument("--out", type=Path, help="folder of the JSON (default: benchmarks/results; with --quick none)")
    for name, flags in extra.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **flags)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return args


def seconds(call: Callable[[], Any]) -> float:
    """Wall time of one call, whose output on the terminal is dropped."""
    with open(os.devnull, "w", encoding="utf-8") as sink, redirect_stdout(sink), redirect_stderr(sink):
        start = time.perf_counter()
        call()
        return time.perf_counter() - start


def paired(
    sides: Mapping[str, Callable[[], Callable[[], Any]]], runs: int, warm: bool = True
) -> dict[str, list[float]]:
    """Seconds of every side, taken in turns in one process, the order reversed from round to round.

    A side prepares its work and returns the call that is timed. The first round warms up and is not counted.
    """
    names = list(sides)
    times: dict[str, list[float]] = {name: [] for name in names}
    for run in range(-1 if warm else 0, runs):
        for name in names if run % 2 == 0 else reversed(names):
            taken = seconds(sides[name]())
            if run >= 0:
                times[name].append(taken)
    return times


def ratio(over: Sequence[float], under: Sequence[float]) -> dict[str, float]:
    """Pairwise ratios: median, smallest, largest, geometric mean and its 95% t interval (on the log ratio)."""
    from scipy.stats import t

    logs = [math.log(a / b) for a, b in zip(over, under, strict=True)]
    centre = statistics.fmean(logs)
    half = t.ppf(0.975, len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else math.inf
    each = [math.exp(x) for x in logs]
    low, high = (math.exp(centre - half), math.exp(centre + half)) if half < math.inf else (0.0, math.inf)
    return {
        "median": statistics.median(each), "min": min(each), "max": max(each), "pairs": len(each),
        "geometric_mean": math.exp(centre), "low": low, "high": high,
    }  # fmt: skip


def difference(left: Sequence[float], right: Sequence[float]) -> dict[str, float]:
    """Mean of pairwise differences with its 95% t interval."""
    from scipy.stats import t

    each = [a - b for a, b in zip(left, right, strict=True)]
    half = t.ppf(0.975, len(each) - 1) * statistics.stdev(each) / math.sqrt(len(each))
    mean = statistics.fmean(each)
    return {"mean": mean, "low": mean - half, "high": mean + half, "pairs": len(each)}


def forget_peak() -> None:
    """Start measuring peak memory anew (Linux): importing torch needs more than it keeps."""
    marks = Path("/proc/self/clear_refs")
    if marks.exists():
        marks.write_text("5")


def peak_mib() -> float:
    """Largest resident memory of this process since `forget_peak`, else since its start."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def peak_of_child(script: str, *arguments: str) -> float:
    """What a fresh process of `script` prints: its peak memory in MiB above its own baseline.

    glibc is told to give freed blocks back at once, so that the peak is what was alive and not what the allocator kept.
    """
    command = [sys.executable, script, *arguments]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout.strip().splitlines()[-1])


def machine(*packages: str) -> dict[str, Any]:
    """What the figures were taken on."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = named[0] if named else model
    return {
        "cpu": model, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "system": platform.system(),
        "python": platform.python_version(), "torch": torch.__version__, **{name: version(name) for name in packages},
    }  # fmt: skip


def save(name: str, args: argparse.Namespace, result: Mapping[str, Any], *packages: str) -> None:
    """Write NAME.json: the result with the command, the machine and the date. A smoke test writes only where it is told."""
    content = {
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *(["--quick"] if args.quick else [])]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(*packages),
        **{name: part for name, part in result.items() if name not in ("command", "date", "machine")},
    }
    text = json.dumps(rounded(content), indent=1, allow_nan=False) + "\n"
    print(text)
    folder = args.out or (None if args.quick else RESULTS)
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{name}.{os.getpid()}"
    part.write_text(text, encoding="utf-8")
    os.replace(part, folder / f"{name}.json")


def rounded(value: Any) -> Any:
    """Floats to five significant digits, what is not finite to null."""
    if isinstance(value, Mapping):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(part) for part in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value
