"""A run directory: one folder that holds all that a run was and has become.

RUN/  config.json  metrics.jsonl  checkpoint/  best/  figures/  result.json  report.html
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TextIO

import torch
from torch import Tensor

from infimum.errors import UserError, require
from infimum.training import distributed
from infimum.training.config import to_json
from infimum.training.files import read_json, write_json, write_text

__all__ = ["Run", "Tracker", "as_number"]

Tracker = Callable[[int, Mapping[str, float]], None]
"""Called with the step and its metrics, after every step, in the first process."""


class Run:
    """Where a run is kept, and what it runs with.  Only the first process writes.

    Making one seeds torch's own generator with `seed`, so that models built after it start from the same weights.

    Args:
        path: the folder; made if it does not exist.
        seed: of every draw.
        device: "cpu", "cuda", "cuda:1", "mps".
        precision: of networks inside `Fit.autocast()`.
        resume: go on from the checkpoint in the folder; an empty folder starts a new run.
        quiet: no progress, neither a bar nor lines.
        trackers: "tensorboard", or functions of (step, metrics).
        config: what the run can be started from again; written to `config.json` beside seed, device and precision.

    Raises:
        UserError: the folder is not empty and `resume` was not asked; or it was, and the run there has another
            configuration (the field is named; another device is allowed).
    """

    def __init__(
        self,
        path: str | Path,
        *,
        seed: int = 0,
        device: str = "cpu",
        precision: Literal["float32", "bf16"] = "float32",
        resume: bool = False,
        quiet: bool = False,
        trackers: Sequence[str | Tracker] = (),
        config: Mapping[str, Any] | None = None,
    ) -> None:
        if precision not in ("float32", "bf16"):
            raise UserError(f"--precision {precision} is not offered: use float32 or bf16")
        self.device = distributed.connect(device)
        self.path, self.seed, self.precision, self.resume, self.quiet = Path(path), seed, precision, resume, quiet
        self.config = to_json(config or {})
        self._settings: dict[str, Any] = {"device": device, "trackers": tuple(trackers)}
        self._metrics: TextIO | None = None
        self._trackers: list[Tracker] = []
        self._prepare()
        if self.writes:
            self._trackers = [self._tracker(t) for t in trackers]
        torch.manual_seed(seed)

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes."""
        return distributed.rank() == 0

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint"

    @property
    def best(self) -> Path:
        return self.path / "best"

    @property
    def figures(self) -> Path:
        (self.path / "figures").mkdir(parents=True, exist_ok=True)
        return self.path / "figures"

    def child(self, name: str) -> "Run":
        """A run of its own in a folder of this one, with the same settings (a recipe that trains two models)."""
        return Run(
            self.path / name,
            seed=self.seed,
            device=self._settings["device"],
            precision=self.precision,
            resume=self.resume,
            quiet=self.quiet,
            trackers=self._settings["trackers"],
            config=self.config,
        )

    def log(self, step: int, metrics: Mapping[str, float | Tensor]) -> None:
        """Append one line to `metrics.jsonl`; what is not finite is written as null.

        Raises:
            UserError: a metric is not a single number, or is called "step".
        """
        if not self.writes:
            return
        if "step" in metrics:
            raise UserError("a metric is called 'step', which is the name of the step itself: choose another name")
        numbers = {name: as_number(name, value) for name, value in metrics.items()}
        if self._metrics is None:
            self._metrics = open(self.path / "metrics.jsonl", "a", encoding="utf-8")  # noqa: SIM115
        line = {"step": step} | {name: x if math.isfinite(x) else None for name, x in numbers.items()}
        self._metrics.write(json.dumps(line, allow_nan=False) + "\n")
        self._metrics.flush()
        for tracker in self._trackers:
            tracker(step, numbers)

    def rewind(self, step: int) -> None:
        """Drop the lines of `metrics.jsonl` after `step`, and one that was cut short."""
        self.close()
        file = self.path / "metrics.jsonl"
        if not self.writes or not file.exists():
            return
        kept = []
        for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
            try:
                if line.endswith("\n") and json.loads(line)["step"] <= step:
                    kept.append(line)
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
        write_text(file, "".join(kept))

    def finish(self, result: Mapping[str, Any]) -> Path:
        """Write `result.json` (what is not finite becomes null); the run is complete."""
        self.close()
        if self.writes:
            write_json(self.path / "result.json", to_json(_finite(result), "result"))
        return self.path / "result.json"

    def close(self) -> None:
        """Close `metrics.jsonl`; the next `log` opens it again."""
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None

    def _prepare(self) -> None:
        """Make or check the folder in the first process; the others stop with it."""
        problem: Exception | None = None
        if self.writes:
            try:
                self._claim()
            except (UserError, OSError) as error:
                problem = error
        failed = distributed.mean(torch.tensor(float(problem is not None), device=self.device)).item()
        if problem is not None:
            raise problem
        if failed:
            raise UserError(f"--out {self.path} was refused by the first process: see its message")

    def _claim(self) -> None:
        head = {"seed": self.seed, "device": self._settings["device"], "precision": self.precision}
        head["config"] = self.config
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"--out {self.path} is a file: choose a folder")
        if self.path.is_dir() and any(not file.name.startswith(".") for file in self.path.iterdir()):
            if not self.resume:
                raise UserError(
                    f"--out {self.path} is not empty: continue the run there with --resume, or choose another --out"
                )
            known = read_json(self.path / "config.json")
            if field := _difference(known | {"device": head["device"]}, head):
                raise UserError(
                    f"--resume: {field[0]} is {field[1]} in {self.path / 'config.json'} and {field[2]} now; give the "
                    "former, or start a new run with another --out"
                )
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "config.json", head)

    def _tracker(self, tracker: str | Tracker) -> Tracker:
        if not isinstance(tracker, str):
            return tracker
        if tracker != "tensorboard":
            raise UserError(f"--trackers {tracker} is unknown: use tensorboard")
        require("tensorboard", "trackers")
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(self.path / "tensorboard"))

        def write(step: int, metrics: Mapping[str, float]) -> None:
            for name, value in metrics.items():
                writer.add_scalar(name, value, step)

        return write


def as_number(name: str, value: Any) -> float:
    """A metric as a float, or a `UserError` that names it."""
    try:
        return float(value.detach() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"the metric {name!r} is {type(value).__name__}, and one number was expected") from None


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, Tensor):
        return _finite(value.tolist())
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _difference(old: Any, new: Any, where: str = "") -> tuple[str, Any, Any] | None:
    """Path and both values of the first field that differs."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return None if old == new else (where, json.dumps(old), json.dumps(new))
    for name in [*old, *(name for name in new if name not in old)]:
        if name not in old or name not in new:
            values = [json.dumps(side[name]) if name in side else "absent" for side in (old, new)]
            return f"{where}.{name}".lstrip("."), values[0], values[1]
        if found := _difference(old[name], new[name], f"{where}.{name}".lstrip(".")):
            return found
    return None
