"""The page says what the files say, whatever is in them."""

import base64
import contextlib
import dataclasses
import html
import json
import re
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from infimum.cli import main
from infimum.cli.run import Options, _parse, _recipe, _run
from infimum.errors import UserError
from infimum.evidence import compare, load_estimate
from infimum.recipes import RECIPES
from infimum.recipes.base import Metrics, Recipe
from infimum.report import read_run, render, write_report
from infimum.report.sections import command
from infimum.report.verdicts import pairings
from infimum.report.words import LONGEST, clip, duration, memory, number
from infimum.training import Run, to_json

HOSTILE = "</style><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7 * 7 }}{% raw %}\u202e" + "x" * 5000


class Elements(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def harmless(page: str) -> Elements:
    """The page has no script, no event handler, and no address of another file."""
    found = Elements(page)
    assert not {"script", "iframe", "object", "embed", "base", "form"} & set(found.tags)
    for name, value in found.attributes:
        assert not name.startswith("on")
        assert name not in ("src", "href") or value.startswith("data:")
    return found


def page_of(folder: Path) -> str:
    return write_report([folder]).read_text(encoding="utf-8")


def change(file: Path, **fields: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def test_every_run_ends_with_a_page(runs: Path) -> None:
    for name in ("vae", "pair", "belief"):
        found = harmless((runs / name / "report.html").read_text(encoding="utf-8"))
        assert found.tags.count("h1") == 1


@dataclass(frozen=True)
class Broken(Recipe):
    """A recipe that logs ten steps and ends otherwise than well."""

    how: str = "diverged"

    def run(self, run: Run) -> Metrics:
        for step in range(1, 11):
            run.log(step, {"elbo": -1.0 / step})
        if self.how == "diverged":
            raise UserError("the loss became NaN")
        return {"interrupted": True}


@pytest.mark.parametrize("how", ["diverged", "interrupted"])
def test_a_run_that_broke_off_has_a_page_too(how: str, tmp_path: Path) -> None:
    with contextlib.suppress(UserError):
        assert _run("broken", Broken(how), Options(out=str(tmp_path / "r"), quiet=True)) == 130
    text = harmless((tmp_path / "r" / "report.html").read_text(encoding="utf-8")).text
    assert "not finished" in text
    assert "ELBO" in text


def test_numbers_are_those_of_the_run(runs: Path) -> None:
    """Value, error and certificate of every estimate, and environment and cost, stand on the page."""
    result = json.loads((runs / "belief" / "result.json").read_text())
    text = Elements((runs / "belief" / "report.html").read_text(encoding="utf-8")).text
    for mean in (result["evidence"]["elbo"], result["evidence"]["iwae"], result["upper"], result["exact"]):
        assert number(mean["value"]) in text
        assert number(mean["certificate"]) in text
    assert number(result["evidence"]["iwae"]["stderr"]) in text
    assert f"PyTorch{torch.__version__}" in re.sub(r"\s", "", text)
    assert result["cost"]["peak_memory_bytes"] > 50e6
    assert memory(result["cost"]["peak_memory_bytes"]) in text
    assert duration(result["wall_seconds"]) in text


def test_worst_items_are_those_of_largest_pareto_k(runs: Path) -> None:
    """Ids, values and k of the table, against evidence.json."""
    stored = json.loads((runs / "vae" / "evidence.json").read_text())
    k = stored["diagnostics"]["pareto_k"]
    order = sorted((i for i in range(len(k)) if k[i] not in (None, "-inf")), key=lambda i: -k[i])[:8]
    page = (runs / "vae" / "report.html").read_text(encoding="utf-8")
    table = page[page.index("by their id in the data") : page.index("</tbody>", page.index("by their id in the data"))]
    cells = re.findall(r"<td[^>]*>([^<]*)", table)
    rows = [cells[i : i + 6] for i in range(0, len(cells), 6)]
    expected = [
        [
            str(stored["keys"][i]), f"{number(stored['value'][i])} nats", number(stored["stderr"][i]), number(k[i], 2),
            number(100 * stored["diagnostics"]["ess"][i] / 64, 1),
        ]
        for i in order
    ]  # fmt: skip
    assert [row[:5] for row in rows] == expected


def test_pictures_are_the_runs_own(runs: Path) -> None:
    page = (runs / "vae" / "report.html").read_text(encoding="utf-8")
    shown = [base64.b64decode(code) for code in re.findall(r"data:image/png;base64,([^\"]+)", page)]
    files = [(runs / "vae" / "figures" / f"{name}.png").read_bytes() for name in ("reconstructions", "samples")]
    assert shown == files


def test_reconstructions_stand_below_their_items(tmp_path: Path) -> None:
    """Ten items in rows of eight: items 0-7, theirs, items 8-9, theirs."""
    import matplotlib.pyplot as plt

    from infimum.report import figures

    x = torch.linspace(0.1, 0.9, 10).reshape(10, 1, 1, 1).expand(10, 1, 8, 8)
    sheet = plt.imread(figures.pairs(x, x.flip(0), tmp_path / "pairs.png"))[..., 0]
    zoom = sheet.shape[0] // (4 * 9)
    cells = torch.from_numpy(sheet)[zoom :: 9 * zoom, zoom :: 9 * zoom]
    shades = (x[:, 0, 0, 0] / 0.9).tolist()
    back = shades[::-1]
    expected = [shades[:8], back[:8], shades[8:] + [0.0] * 6, back[8:] + [0.0] * 6]
    torch.testing.assert_close(cells.double(), torch.tensor(expected, dtype=torch.float64), atol=1 / 255, rtol=0)


def test_hostile_strings_are_text(copied: Path) -> None:
    """A user's strings in every field are shown, cut where they are long, and never become markup or a template."""
    run = copied / "vae"
    head = json.loads((run / "config.json").read_text())
    head["config"] |= {"recipe": HOSTILE, "data": HOSTILE, HOSTILE: [HOSTILE], "rule": {HOSTILE: HOSTILE}}
    (run / "config.json").write_text(json.dumps(head))
    result = json.loads((run / "result.json").read_text())
    result["evidence"]["iwae"] |= {"name": HOSTILE, "target": HOSTILE, "unit": HOSTILE, "obstacle": HOSTILE}
    result["evidence"][HOSTILE] = result["evidence"]["elbo"]
    result |= {
        "verdict": {"of": HOSTILE, "against": HOSTILE, "answer": HOSTILE, "reason": HOSTILE},
        "environment": {HOSTILE: HOSTILE}, "objective": f"not a bound {HOSTILE}",
        "ranking": {HOSTILE: {"answer": HOSTILE, "low": HOSTILE}},
    }  # fmt: skip
    (run / "result.json").write_text(json.dumps(result))
    change(run / "best" / "data.json", name=HOSTILE)
    change(run / "evidence.json", name=HOSTILE)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 61, HOSTILE: 1.0}) + "\n")
    page = page_of(run)
    found = harmless(page)
    assert "<script>alert(1)</script>" in found.text
    assert "{{ 7 * 7 }}" in found.text
    assert "\u202e" not in found.text
    assert "Run it again" not in found.text
    assert max(map(len, re.findall(r"x+", page))) <= LONGEST
    harmless(render([read_run(run), read_run(copied / "belief")]))


@pytest.mark.parametrize("name", ["</h1><script>x</script>", "ünï cödé 日本 🎲", "a\"b'c&d"])
def test_hostile_folder_names(copied: Path, name: str) -> None:
    folder = copied / name.replace("/", "")
    (copied / "vae").rename(folder)
    assert folder.name in harmless(page_of(folder)).text


def test_an_interrupted_run_says_so(copied: Path) -> None:
    run = copied / "vae"
    for file in ("result.json", "evidence.json"):
        (run / file).unlink()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 61, "elb')
    text = harmless(page_of(run)).text
    assert "not finished" in text
    assert "There is no result.json" in text
    assert "1 of the lines of metrics.jsonl could not be read" in text
    assert "Held-out evidence" not in text
    assert "Importance weights" not in text
    assert "Training" in text


def test_the_first_model_of_an_interrupted_pair_keeps_its_evidence(copied: Path) -> None:
    run = copied / "pair"
    (run / "result.json").unlink()
    for file in ("result.json", "evidence.json"):
        (run / "iwae-4" / file).unlink()
    value = json.loads((run / "vae" / "result.json").read_text())["evidence"]["iwae"]["value"]
    text = harmless(page_of(run)).text
    assert number(value) in text
    assert "iwae-4: There is no result.json" in text


def test_a_run_of_nothing_has_a_page(tmp_path: Path) -> None:
    """A user's own run, that has logged no step: only what is missing, the settings, no empty section."""
    Run(tmp_path / "mine", config={"mine": 1})
    found = harmless(page_of(tmp_path / "mine"))
    assert "no step of the training was logged" in found.text
    assert re.findall(r"<h2[^>]*>([^<]+)", (tmp_path / "mine" / "report.html").read_text()) == ["Configuration"]


@pytest.mark.parametrize("bad", [None, "NaN", [], {}, True, 1e999, "-25.3"])
def test_what_is_not_a_number_is_not_shown_as_one(copied: Path, bad: object) -> None:
    """Fields of the wrong type: the estimate is left out, the page is written."""
    run = copied / "vae"
    result = json.loads((run / "result.json").read_text())
    kept = number(result["evidence"]["elbo"]["value"])
    result["evidence"]["iwae"]["value"] = None if bad == 1e999 else bad
    result |= {"wall_seconds": bad if bad != 1e999 else "inf", "cost": bad if bad != 1e999 else 3, "z": "x"}
    (run / "result.json").write_text(json.dumps(result))
    with (run / "metrics.jsonl").open("a") as file:
        for i, value in enumerate(("null", "1e999", "NaN", "-Infinity", '"x"', "true", "[1]")):
            file.write(f'{{"step": {61 + i}, "elbo": {value}, "odd": {value}}}\n')
    text = harmless(page_of(run)).text
    assert kept in text
    assert "odd" not in text
    assert "nan" not in text.lower().replace("pytorch", "").split()


def test_pictures_that_are_none_are_left_out(copied: Path) -> None:
    figures = copied / "vae" / "figures"
    (figures / "samples.png").write_bytes((figures / "samples.png").read_bytes()[:200])
    (figures / "other.png").write_text("<svg onload=alert(1)>")
    text = harmless(page_of(copied / "vae")).text
    assert "figures/samples.png is no whole PNG" in text
    assert "figures/other.png is no whole PNG" in text


def test_settings_that_differ_and_verdicts(copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Side by side: the verdict is that of `compare`, at delta shared among the pairs; the differing field is shown."""
    out = tmp_path / "both.html"
    names = [str(copied / "pair" / "vae"), str(copied / "pair" / "iwae-4"), str(copied / "belief")]
    assert main(["report", *names, "--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    found = harmless(out.read_text(encoding="utf-8"))
    estimates = {Path(name).name: load_estimate(Path(name) / "evidence.json") for name in names}
    leader = max(estimates, key=lambda name: float(estimates[name].value.mean()))
    rows = {pair.other: pair for pair in pairings(estimates, 0.05)}
    assert set(rows) == set(estimates) - {leader}
    for other, pair in rows.items():
        verdict = compare(estimates[leader], estimates[other], delta=0.05 / 3)
        assert pair.answer.split(" ")[0] == verdict.answer
        assert pair.reason.replace("−", "-") == verdict.reason
        assert html.unescape(pair.reason) in found.text
        gap = estimates[leader].value - estimates[other].value
        assert pair.gap == f"{number(float(gap.mean()))} ± {number(float(gap.std()) / len(gap) ** 0.5)}"
    assert "Settings in which the runs differ" in found.text
    assert "belief-net" in found.text


def test_different_items_are_not_compared(copied: Path) -> None:
    stored = json.loads((copied / "vae" / "evidence.json").read_text())
    change(copied / "vae" / "evidence.json", keys=[key + 1 for key in stored["keys"]])
    first, second = (load_estimate(copied / name / "evidence.json") for name in ("vae", "belief"))
    (pair,) = pairings({"a": first, "b": second}, 0.05)
    assert pair.answer == "not comparable"
    assert "different items" in pair.reason


def test_runs_of_one_name_are_told_apart(copied: Path, tmp_path: Path) -> None:
    (copied / "vae").rename(copied / "x")
    (tmp_path / "other").mkdir()
    (copied / "belief").rename(tmp_path / "other" / "x")
    text = render([read_run(copied / "x"), read_run(tmp_path / "other" / "x")])
    assert str(copied / "x") in text
    assert str(tmp_path / "other" / "x") in text


@pytest.mark.parametrize(("name", "preset"), [(n, p) for n in RECIPES for p in ("cpu", "gpu", "paper")])
def test_the_command_gives_the_same_run(name: str, preset: str, tmp_path: Path) -> None:
    """The page's command line, parsed, is the configuration that it was made from."""
    import shlex

    recipe = _recipe(name).preset(preset)
    if hasattr(recipe, "data"):
        recipe = dataclasses.replace(recipe, data="my file; rm -rf *.csv")
    Run(tmp_path / "r", seed=7, config={"recipe": name, **to_json(recipe)})
    words = shlex.split(command(read_run(tmp_path / "r")))
    assert words[:3] == ["infimum", "run", name]
    again, options = _parse(name, _recipe(name).preset("cpu"), Options(), words[3:])
    assert again == recipe
    assert (options.seed, options.device, options.precision) == (7, "cpu", "float32")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "needs a run directory"),
        (["{}/nowhere"], "is not there"),
        (["{}/vae/config.json"], "is a file"),
        (["{}"], "holds no config.json"),
        (["{}/vae/best"], "is a checkpoint"),
        (["{}/vae", "{}/vae"], "given twice"),
        (["{}/vae", "--out", "{}/no/x.html"], "does not exist"),
        (["{}/vae", "--out", "{}"], "is a folder"),
        (["{}/vae", "--delta", "0"], "--delta is 0"),
    ],
)
def test_refusals(words: list[str], says: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    try:
        code = main(["report", *(word.format(runs) for word in words)])
    except SystemExit as exit:  # tyro's own message
        code = exit.code
    error = capsys.readouterr().err
    assert code == 2
    assert says in error
    assert "Traceback" not in error


@pytest.mark.parametrize("file", ["config.json", "result.json", "evidence.json", "best/data.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 5000, '{"a": NaN}', "\x00\xff"])
def test_damaged_files_are_named(copied: Path, file: str, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    (copied / "vae" / file).write_bytes(content.encode("latin-1"))
    before = (copied / "vae" / "report.html").read_bytes()
    capsys.readouterr()
    assert main(["report", str(copied / "vae")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert Path(file).name in error
    assert (copied / "vae" / "report.html").read_bytes() == before
    assert not list((copied / "vae").glob(".*.tmp"))


def test_no_runs() -> None:
    with pytest.raises(UserError, match="needs a run directory"):
        write_report([])


def test_validation_errors_are_drawn_where_they_were_logged(copied: Path) -> None:
    lines = [json.loads(line) for line in (copied / "vae" / "metrics.jsonl").read_text().splitlines()]
    file = copied / "vae" / "metrics.jsonl"
    bare = [{name: value for name, value in line.items() if name != "validation_stderr"} for line in lines]
    file.write_text("\n".join(map(json.dumps, bare)) + "\n")
    plain = page_of(copied / "vae")
    for line in bare:
        if "validation" in line:
            line["validation_stderr"] = 0.5
    file.write_text("\n".join(map(json.dumps, bare)) + "\n")
    page = page_of(copied / "vae")
    assert page.count('class="bar" x1="') == plain.count('class="bar" x1="') + 3
    assert "Bars on them: ± 2 standard errors" in page


def test_words() -> None:
    assert number(-1234.5) == "−1\u202f234.5000"
    assert number(1e-9) == "1e−09"
    assert [number(x) for x in (None, float("nan"), True, "1")] == ["—"] * 4
    assert [duration(x) for x in (0.5, 61, 7320, -1, None)] == ["0.5 s", "1 min 1 s", "2 h 2 min", "—", "—"]
    assert memory(1_500_000_000) == "1.50 GB"
    assert clip("a\nb\u202e" + "x" * 1000) == "a\ufffdb\ufffd" + "x" * (LONGEST - 4) + "…"
