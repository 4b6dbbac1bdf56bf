"""More than 200 hostile cases: arguments, config.json, checkpoint folders, data files, runs to resume.

Each ends with exit code 2 and one sentence; nothing in the input is executed; the run that was attacked keeps every byte.
"""

import io
import itertools
import json
import math
import os
import pickle
import random
import re
import shutil
import signal
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from infimum.cli import main

SMALL = ["--steps", "12", "--every", "6", "--eval-k", "8", "--quiet", "--latent", "2", "--hidden", "8"]
Words = list[str]
Attack = Callable[[Path, Path], Words]
"""(a copy of a sound run, an empty folder) -> the command line, after doing the damage."""

CASES: dict[str, Attack] = {}


def case(name: str) -> Callable[[Attack], Attack]:
    def add(attack: Attack) -> Attack:
        assert name not in CASES, name
        CASES[name] = attack
        return attack

    return add


class Bomb:
    """Unpickling this makes the file `executed` in the working directory."""

    def __reduce__(self) -> tuple:
        return (os.mkdir, ("executed",))


# -- arguments -------------------------------------------------------------------------------------------------------------

NUMBERS = ["", "nan", "inf", "-1", "0x10", "1e999", "three", "1;touch executed", "$(mkdir executed)", "9" * 40]
for flag, value in itertools.product(("--k", "--delta", "--rows", "--seed"), NUMBERS):
    if (flag, value) != ("--rows", "9" * 40):  # all pairs at once: what it says
        case(f"evidence {flag}={value[:18]}")(lambda run, _, f=flag, v=value: ["evidence", str(run), f"{f}={v}"])
for flag, value in itertools.product(("--n", "--seed"), NUMBERS):
    case(f"sample {flag}={value[:18]}")(lambda run, _, f=flag, v=value: ["sample", str(run), f"{f}={v}"])
for flag, value in itertools.product(("--steps", "--batch", "--latent", "--lr", "--eval-k"), NUMBERS):
    case(f"run {flag}={value[:18]}")(
        lambda _, new, f=flag, v=value: ["run", "vae", "--out", str(new / "r"), *SMALL, f"{f}={v}"]
    )
for words in (
    ["evidence"], ["evidence", ""], ["evidence", "\0"], ["evidence", "RUN", "RUN"], ["evidence", "RUN", "--no-such"],
    ["evidence", "x" * 5000], ["evidence", "/dev/null"], ["evidence", "/"], ["evidence", "RUN", "--plan", "magic"],
    ["evidence", "RUN", "--json", "/dev/null/x"], ["evidence", "RUN", "--csv", ""], ["evidence", "RUN", "--device", "../x"],
    ["evidence", "RUN", "--k"], ["evidence", "RUN", "--data", ""], ["evidence", "RUN", "--data", "\0"],
    ["evidence", "RUN", "--data", "RUN/checkpoint/model.safetensors"], ["evidence", "RUN", "--data", "RUN"],
    ["evidence", "RUN", "--split", "all"], ["evidence", "RUN", "--unit", "furlongs"],
    ["sample"], ["sample", "RUN", "--out", "/dev/null/x.png"], ["sample", "RUN", "--out", "x.exe"],
    ["sample", "RUN", "--condition", "1"], ["compare"], ["compare", "RUN"], ["compare", "RUN", "/dev/null"],
    ["compare", "RUN", "RUN/config.json"], ["report"], ["report", "/dev/null"], ["report", "RUN/config.json"],
    ["report", "RUN", "RUN/figures"], ["run"], ["run", "../../etc/passwd"], ["run", "vae", "--data", "http://x/y.csv"],
    ["run", "vae", "--data", "/dev/null"], ["run", "vae", *SMALL, "--hidden", "0"], ["run", "vae", *SMALL, "--hidden", "a"],
    ["run", "vae", *SMALL, "--out", "\0"], ["run", "vae", "--preset", "__class__"], ["run", "vae", *SMALL, "--rule",
    "os.system"],
    ["run", "--config", "/dev/null"], ["run", "--config", "RUN/metrics.jsonl"], ["run", "--config", "RUN/checkpoint"],
    ["run", "vae", *SMALL, "--resume", "--out", "/dev/null"], ["\0"], ["--k", "3"], ["evidence", "\udcff"],
):  # fmt: skip
    if words and words != ["run"]:
        case(
            "words "
            + " ".join(word for word in words if word not in SMALL)[:60]
            .replace("\0", "NUL")
            .encode("unicode_escape")
            .decode()
        )(lambda run, _, w=words: [word.replace("RUN", str(run)) for word in w])


# -- config.json of a checkpoint, and of a run -----------------------------------------------------------------------------

TEXTS = {
    "empty": b"", "null": b"null", "list": b"[]", "number": b"3", "cut": b'{"format": 1, "model": "va',
    "utf16": "{}".encode("utf-16"),
    "binary": bytes(range(256)), "deep": b"[" * 100_000 + b"]" * 100_000,
    "deep object": b'{"config":' * 50_000 + b"1" + b"}" * 50_000,
    "NaN": b'{"format": NaN}', "no fields": b"{}", "long number": b'{"format": ' + b"9" * 10_000 + b"}",
}  # fmt: skip
for name, text in TEXTS.items():
    for file in ("config.json", "data.json"):

        @case(f"checkpoint {file}: {name}")
        def _(run: Path, _: Path, file: str = file, text: bytes = text) -> Words:
            (run / "best" / file).write_bytes(text)
            return ["evidence", str(run / "best"), "--k", "4", "--quiet"]

    @case(f"run config.json: {name}")
    def _(run: Path, _: Path, text: bytes = text) -> Words:
        (run / "config.json").write_bytes(text)
        return ["run", "--config", str(run / "config.json")]

    @case(f"evidence.json: {name}")
    def _(run: Path, _: Path, text: bytes = text) -> Words:
        other = run.with_name("other")
        shutil.copytree(run, other)
        (run / "evidence.json").write_bytes(text)
        return ["compare", str(run), str(other)]


def edit(path: Path, keys: tuple, value: object) -> None:
    head = json.loads(path.read_text())
    inside = head
    for key in keys[:-1]:
        inside = inside[key]
    if value is DELETE:
        del inside[keys[-1]]
    else:
        inside[keys[-1]] = value
    path.write_text(json.dumps(head))


DELETE = object()
EDITS: list[tuple[str, tuple, object]] = [
    ("config.json", ("format",), 99), ("config.json", ("format",), DELETE), ("config.json", ("model",), "os:system"),
    ("config.json", ("model",), "__import__('os').mkdir('executed')"), ("config.json", ("model",), DELETE),
    ("config.json", ("model",), ["vae"]), ("config.json", ("config",), DELETE), ("config.json", ("config",), []),
    ("config.json", ("config", "latent"), -1), ("config.json", ("config", "latent"), "2"), ("config.json", ("config",
    "latent"), 2.5),
    ("config.json", ("config", "latent"), 3), ("config.json", ("config", "latent"), None), ("config.json", ("config",
    "latent"), 10**15),
    ("config.json", ("config", "hidden"), "8"), ("config.json", ("config", "hidden"), [0]), ("config.json", ("config",
    "hidden"), [10**9, 10**9]),
    ("config.json", ("config", "hidden"), [8, 8]), ("config.json", ("config", "shape"), []), ("config.json", ("config",
    "shape"), [1, 8, -8]),
    ("config.json", ("config", "shape"), [10**6, 10**6]), ("config.json", ("config", "likelihood"), "eval"),
    ("config.json", ("config", "likelihood"), "categorical"), ("config.json", ("config", "activation"), "os.system"),
    ("config.json", ("config", "activation"), "__class__"), ("config.json", ("config", "posterior"), "full"),
    ("config.json", ("config", "surprise"), 1), ("config.json", ("module",), "other"),
    ("data.json", ("kind",), "integer"), ("data.json", ("kind",), 7),
]  # fmt: skip
for number, (file, keys, value) in enumerate(EDITS):

    @case(f"edit {number} {file} {'.'.join(keys)}")
    def _(run: Path, _: Path, file: str = file, keys: tuple = keys, value: object = value) -> Words:
        edit(run / "best" / file, keys, value)
        return ["evidence", str(run / "best"), "--k", "4", "--quiet"]


for number, (keys, value) in enumerate(
    [
        (("config", "recipe"), "os.system"), (("config", "recipe"), DELETE), (("config", "steps"), "many"), (("config",
    "steps"), -3),
        (("config", "data"), 5), (("config", "unknown"), 5), (("config", "rule"), "x" * 10_000), (("seed",), "0"),
    (("seed",), -1),
        (("device",), "toaster"), (("precision",), "float7"), (("config", "hidden"), {"a": 1}),
    ]
):  # fmt: skip

    @case(f"run config {number} {'.'.join(keys)}")
    def _(run: Path, new: Path, keys: tuple = keys, value: object = value) -> Words:
        edit(run / "config.json", keys, value)
        return ["run", "--config", str(run / "config.json"), "--out", str(new / "again")]


# -- tensors of a checkpoint -----------------------------------------------------------------------------------------------


def bytes_of(name: str, sound: bytes) -> bytes:
    length = struct.unpack("<Q", sound[:8])[0]
    header = json.loads(sound[8 : 8 + length])
    body = sound[8 + length :]

    def built(head: dict) -> bytes:
        text = json.dumps(head).encode()
        return struct.pack("<Q", len(text)) + text + body

    first = next(key for key in header if key != "__metadata__")
    if name == "header too long":
        return struct.pack("<Q", 2**60) + sound[8:]
    if name == "header longer than the file":
        return struct.pack("<Q", len(sound) * 2) + sound[8:]
    if name == "header is no JSON":
        return sound[:8] + b"!" * length + body
    if name == "offsets outside":
        return built({**header, first: {**header[first], "data_offsets": [0, 10**12]}})
    if name == "offsets overlap":
        return built({**header, "model.extra": header[first]})
    if name == "huge shape":
        return built({**header, first: {**header[first], "shape": [2**40, 2**40]}})
    if name == "unknown dtype":
        return built({**header, first: {**header[first], "dtype": "PICKLE"}})
    if name == "renamed":
        return built({("model.other" if key == first else key): part for key, part in header.items()})
    if name == "one is missing":
        return built({key: part for key, part in header.items() if key != first})
    if name == "other dtype":
        return built({key: {**p, "dtype": "I32"} if p.get("dtype") == "F32" else p for key, p in header.items()})
    raise AssertionError(name)


for name in ("header too long", "header longer than the file", "header is no JSON", "offsets outside", "offsets overlap",
             "huge shape", "unknown dtype", "renamed", "one is missing", "other dtype"):  # fmt: skip

    @case(f"weights: {name}")
    def _(run: Path, _: Path, name: str = name) -> Words:
        file = run / "best" / "model.safetensors"
        file.write_bytes(bytes_of(name, file.read_bytes()))
        return ["sample", str(run / "best"), "--n", "2", "--out", str(run / "s.npy")]


for cut in (0, 1, 7, 8, 9, 100, 0.3, 0.6, 0.9, 0.999):

    @case(f"weights cut at {cut}")
    def _(run: Path, _: Path, cut: float = cut) -> Words:
        file = run / "best" / "model.safetensors"
        sound = file.read_bytes()
        file.write_bytes(sound[: cut if isinstance(cut, int) else int(cut * len(sound))])
        return ["evidence", str(run / "best"), "--k", "4", "--quiet"]


@case("weights: pickle")
def _(run: Path, _: Path) -> Words:
    (run / "best" / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    return ["evidence", str(run / "best"), "--k", "4"]


@case("weights: torch pickle in a zip")
def _(run: Path, _: Path) -> Words:
    with zipfile.ZipFile(run / "best" / "model.safetensors", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Bomb()))
    return ["evidence", str(run / "best"), "--k", "4"]


@case("weights: a folder")
def _(run: Path, _: Path) -> Words:
    (run / "best" / "model.safetensors").unlink()
    (run / "best" / "model.safetensors").mkdir()
    return ["evidence", str(run / "best"), "--k", "4"]


@case("weights: a link to itself")
def _(run: Path, _: Path) -> Words:
    (run / "best" / "model.safetensors").unlink()
    (run / "best" / "model.safetensors").symlink_to("model.safetensors")
    return ["evidence", str(run / "best"), "--k", "4"]


@case("weights: NaN")
def _(run: Path, _: Path) -> Words:
    file = run / "best" / "model.safetensors"
    sound = file.read_bytes()
    start = 8 + struct.unpack("<Q", sound[:8])[0]
    nan = np.full((len(sound) - start) // 4, np.nan, np.float32).tobytes()
    file.write_bytes(sound[:start] + nan + sound[start + len(nan) :])
    return ["evidence", str(run / "best"), "--k", "4", "--quiet"]


for name in ("config.json", "data.json", "model.safetensors"):

    @case(f"missing {name}")
    def _(run: Path, _: Path, name: str = name) -> Words:
        (run / "best" / name).unlink()
        return ["evidence", str(run / "best"), "--k", "4"]


# -- a run to resume -------------------------------------------------------------------------------------------------------


def resumed(run: Path) -> Words:
    return ["run", "--config", str(run / "config.json"), "--out", str(run), "--resume"]


for name, file in itertools.product(("empty", "cut", "list", "deep"), ("state.json", "config.json")):

    @case(f"resume: {file} {name}")
    def _(run: Path, _: Path, name: str = name, file: str = file) -> Words:
        (run / "checkpoint" / file).write_bytes(TEXTS[name])
        return resumed(run)


for name in ("model.safetensors", "optimizer-main.safetensors"):
    for cut in (0, 9, 60):

        @case(f"resume: {name} cut at {cut}")
        def _(run: Path, _: Path, name: str = name, cut: int = cut) -> Words:
            file = run / "checkpoint" / name
            file.write_bytes(file.read_bytes()[:cut])
            return resumed(run)

    @case(f"resume: {name} is a pickle")
    def _(run: Path, _: Path, name: str = name) -> Words:
        (run / "checkpoint" / name).write_bytes(pickle.dumps(Bomb()))
        return resumed(run)


for number, (keys, value) in enumerate(
    [
        (("step",), "six"), (("step",), -1), (("step",), DELETE), (("optimizers",), DELETE), (("optimizers",), {}),
        (("optimizers", "main", "class"), "os.system"), (("optimizers", "main", "groups"), []), (("format",), "2"),
        (("optimizers", "main", "state"), []), (("optimizers", "main"), None),
    ]
):  # fmt: skip

    @case(f"resume: state {number} {'.'.join(keys)}")
    def _(run: Path, _: Path, keys: tuple = keys, value: object = value) -> Words:
        edit(run / "checkpoint" / "state.json", keys, value)
        return resumed(run)


@case("resume: another seed")
def _(run: Path, _: Path) -> Words:
    return [*resumed(run), "--seed", "5"]


@case("resume: another width")
def _(run: Path, _: Path) -> Words:
    return [*resumed(run), "--hidden", "9"]


def tensors_of(file: Path, **changes: torch.Tensor | None) -> None:
    tensors = load_file(file)
    for name, value in changes.items():
        tensors.pop(name.replace("__", "."), None)
        if value is not None:
            tensors[name.replace("__", ".")] = value
    save_file(tensors, file)


STATES: dict[str, torch.Tensor | None] = {
    "none": None, "short": torch.zeros(1, 10, dtype=torch.uint8), "of floats": torch.zeros(1, 5056),
    "a number": torch.zeros((), dtype=torch.uint8), "all ones": torch.full((1, 5056), 255, dtype=torch.uint8),
}  # fmt: skip
for name, state in STATES.items():

    @case(f"resume: generator state {name}")
    def _(run: Path, _: Path, state: torch.Tensor | None = state) -> Words:
        tensors_of(run / "checkpoint" / "model.safetensors", rng__cpu=state)
        return resumed(run)


@case("resume: moments are NaN")
def _(run: Path, _: Path) -> Words:
    file = run / "checkpoint" / "optimizer-main.safetensors"
    save_file({name: torch.full_like(t, math.nan) for name, t in load_file(file).items()}, file)
    return resumed(run)


for number, (keys, value) in enumerate(
    [
        (("optimizers", "main", "groups", 0, "lr"), "fast"), (("optimizers", "main", "groups", 0, "lr"), -1),
        (("optimizers", "main", "groups", 0, "betas"), 5), (("examples",), [-5]), (("best", "step"), -4), (("best",), 3),
        (("metrics",), []), (("optimizers", "main", "groups", 0, "eps"), None),
    ]
):  # fmt: skip

    @case(f"resume: value {number} {keys[-1]}")
    def _(run: Path, _: Path, keys: tuple = keys, value: object = value) -> Words:
        edit(run / "checkpoint" / "state.json", keys, value)
        return resumed(run)


# -- outputs that would overwrite what a run keeps -------------------------------------------------------------------------

for flag, file in itertools.product(
    ("--csv", "--json", "--parquet"), ("best/model.safetensors", "config.json", "result.json", "best/data.json")
):

    @case(f"evidence {flag} onto {file}")
    def _(run: Path, _: Path, flag: str = flag, file: str = file) -> Words:
        return ["evidence", str(run), "--k", "4", "--quiet", flag, str(run / file)]


for file in ("config.json", "metrics.jsonl", "best/model.safetensors"):

    @case(f"report onto {file}")
    def _(run: Path, _: Path, file: str = file) -> Words:
        return ["report", str(run), "--out", str(run / file)]


@case("two outputs of one name")
def _(run: Path, new: Path) -> Words:
    return ["evidence", str(run), "--k", "4", "--csv", str(new / "a"), "--parquet", str(new / "a")]


# -- data files ------------------------------------------------------------------------------------------------------------

ROWS = "".join(f"{i},{i * 0.5},{-i}\n" for i in range(40))
TABLES = {
    "empty": "", "blank lines": "\n\n\n", "header only": "a,b,c\n", "text": "a,b,c\n" + "x,y,z\n" * 40,
    "one text": "a,b,c\n" + ROWS + "1,x,2\n",
    "ragged": "a,b,c\n" + ROWS + "1,2\n", "missing cell": "a,b,c\n" + ROWS + "1,,2\n", "inf": "a,b,c\n" + ROWS + "1,inf,2\n",
    "huge": "a,b,c\n" + ROWS + "1,1e400,2\n", "nan": "a,b,c\n" + ROWS + "1,nan,2\n", "one row": "a,b,c\n1,2,3\n",
    "formula": "a,b,c\n" + "=cmd|'/C calc',2,3\n" * 40, "code": "a,b,c\n" + "__import__('os').mkdir('executed'),2,3\n" * 40,
    "twice the column": "a,a,b\n" + "x,1,2\n" * 40, "constant": "a,b\n" + "x,1\n" * 40,
    "one column of NUL": "a\n" + "\0\n" * 40,
    "long cell": "a,b\n" + "9" * 200_000 + ",x\n",
}  # fmt: skip
for name, text in TABLES.items():

    @case(f"csv: {name}")
    def _(_: Path, new: Path, text: str = text) -> Words:
        (new / "t.csv").write_text(text)
        return ["run", "vae", "--data", str(new / "t.csv"), "--out", str(new / "r"), *SMALL]


def array(value: np.ndarray, allow_pickle: bool = False) -> bytes:
    file = io.BytesIO()
    np.save(file, value, allow_pickle=allow_pickle)
    return file.getvalue()


def arrays() -> Iterator[tuple[str, bytes]]:
    sound = array(np.zeros((40, 3), np.float32))
    yield "pickled objects", array(np.array([Bomb()], dtype=object), allow_pickle=True)
    yield "cut", sound[:-50]
    yield "header cut", sound[:40]
    yield "no npy", b"MZ" + bytes(200)
    yield "huge shape", sound.replace(b"(40, 3)", b"(9**9,)") + bytes(10)
    yield (
        "huge count",
        re.sub(
            rb"'shape': \(40, 3\), \}\s*", lambda m: b"'shape': (2147483647, 9), }".ljust(len(m[0]) - 1) + b"\n", sound
        ),
    )
    yield "code in the header", sound.replace(b"(40, 3)", b"exit( )")
    yield "no rows", array(np.zeros((0, 3)))
    yield "no columns", array(np.zeros((40, 0)))
    yield "scalar", array(np.array(3.0))
    yield "complex", array(np.zeros((40, 3), complex))
    yield "text", array(np.array([["a", "b"]] * 40))
    yield "NaN", array(np.full((40, 3), np.nan))
    yield "inf", array(np.full((40, 3), np.inf))
    yield "dates", array(np.zeros(40, "datetime64[s]"))
    yield "records", array(np.zeros(40, [("a", "f4"), ("b", "i4")]))


for name, content in arrays():

    @case(f"npy: {name}")
    def _(_: Path, new: Path, content: bytes = content) -> Words:
        (new / "t.npy").write_bytes(content)
        return ["run", "vae", "--data", str(new / "t.npy"), "--out", str(new / "r"), *SMALL]


for name, shape in {
    "other size": (6, 1, 7, 7),
    "flat": (6, 63),
    "rank 5": (2, 1, 1, 8, 8),
    "no items": (0, 1, 8, 8),
}.items():

    @case(f"items for a model: {name}")
    def _(run: Path, new: Path, shape: tuple = shape) -> Words:
        np.save(new / "t.npy", np.zeros(shape))
        return ["evidence", str(run), "--data", str(new / "t.npy"), "--k", "4"]


@case("npz: pickled objects")
def _(_: Path, new: Path) -> Words:
    np.savez(new / "t.npz", x=np.array([Bomb()], dtype=object))
    return ["run", "vae", "--data", str(new / "t.npz"), "--out", str(new / "r"), *SMALL]


@case("npz: no arrays")
def _(_: Path, new: Path) -> Words:
    with zipfile.ZipFile(new / "t.npz", "w") as archive:
        archive.writestr("../../executed", "x")
    return ["run", "vae", "--data", str(new / "t.npz"), "--out", str(new / "r"), *SMALL]


for name in ("png", "parquet", "pkl", "pt", "exe", "npz", "jpg"):

    @case(f"garbage as {name}")
    def _(_: Path, new: Path, name: str = name) -> Words:
        generator = random.Random(0)
        (new / f"t.{name}").write_bytes(pickle.dumps(Bomb()) + bytes(generator.randrange(256) for _ in range(500)))
        return ["run", "vae", "--data", str(new / f"t.{name}"), "--out", str(new / "r"), *SMALL]


@case("folder without images")
def _(_: Path, new: Path) -> Words:
    (new / "images").mkdir()
    (new / "images" / "readme.txt").write_text("none")
    return ["run", "vae", "--data", str(new / "images"), "--out", str(new / "r"), *SMALL]


@case("folder with a broken image")
def _(_: Path, new: Path) -> Words:
    (new / "images").mkdir()
    (new / "images" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    return ["run", "vae", "--data", str(new / "images"), "--out", str(new / "r"), *SMALL]


# -- the test --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "run"
    assert main(["run", "vae", "--out", str(folder), *SMALL]) == 0
    return folder


def contents(folder: Path) -> dict[str, object]:
    """Every file of a folder; links by where they point."""
    return {
        path.relative_to(folder).as_posix(): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def test_there_are_200() -> None:
    assert len(CASES) >= 200


@pytest.mark.parametrize("name", CASES)
def test_hostile(
    name: str, sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, new = tmp_path / "run", tmp_path / "new"
    shutil.copytree(sound, run)
    new.mkdir()
    monkeypatch.chdir(new)
    words = CASES[name](run, new)
    before = contents(run)
    capsys.readouterr()
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("no answer in 20 s"))
    signal.alarm(20)  # a refusal that takes longer is a hang
    try:
        code = main(words)
    finally:
        signal.alarm(0)
    error = capsys.readouterr().err
    assert error.count("infimum: ") == 1, error
    assert len(error.splitlines()) == 1, error
    assert len(error) < 2000, error[:200]
    assert code == 2
    assert not (new / "executed").exists()
    after = contents(run)
    assert {name: after.get(name) for name in before} == before  # nothing lost
    assert not (new / "r" / "checkpoint").exists()
