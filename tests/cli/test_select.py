"""``infimum select``: the same numbers as the library, a JSON that can be applied again, and one sentence for what is refused."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

from infimum.cli import main
from infimum.cli.select.words import in_flags
from infimum.selection import (
    VariationalGaussianMixture,
    VariationalMultinomialMixture,
    VariationalPPCA,
    compare_criteria,
)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """60 rows of 5 columns with two strong factors, a column of text, a constant column."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 2)) @ (5 * rng.standard_normal((2, 5))) + rng.standard_normal((60, 5))
    lines = [f"{','.join(map(repr, map(float, row)))},word,4.5" for row in x]
    path = tmp_path / "table.csv"
    path.write_text("\n".join(["a,b,c,d,e,text,flat", *lines]) + "\n")
    return path


def read(path: Path) -> np.ndarray:
    return np.array(
        [[float(cell or "nan") for cell in line.split(",")[:5]] for line in path.read_text().splitlines()[1:]]
    )


def near(values: np.ndarray) -> object:
    """Equal up to rounding, which depends on how an array lies in memory."""
    return pytest.approx(values.tolist(), rel=1e-10)


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["select", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("infimum: ") and error.count("\n") == 1
    return error


def test_ppca_is_the_library_on_the_stored_preprocessing(table: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out.json"
    assert (
        main(["select", str(table), "--columns", "a,c,b,e", "--standardize", "--alpha", "0.7", "--json", str(out)]) == 0
    )
    found = json.loads(out.read_text())
    steps = found["preprocessing"]
    x = (read(table)[:, [0, 2, 1, 4]] - np.array(steps["mean"])) / np.array(steps["scale"])
    assert np.allclose(x.mean(0), 0) and np.allclose(x.std(0), 1)
    fitted = VariationalPPCA(alpha=0.7, random_state=0).fit(x)
    assert found["criterion"]["criterion"] == near(fitted.criterion_["criterion"])
    assert found["target"] == fitted.estimate_.target
    others = compare_criteria(x, max_components=3, methods=["bic", "aic", "minka", "parallel", "cv"])
    assert {name: each["n_components"] for name, each in found["comparators"].items()} == others.choice
    # choice, runner-up and distance follow from the criterion, and are what is printed
    order = np.argsort(found["criterion"]["criterion"])[::-1]
    assert (found["n_components"], found["runner_up"]) == (order[0], order[1]) == (2, found["runner_up"])
    gap = np.diff(np.sort(found["criterion"]["criterion"])[-2:])[0]
    assert found["distance"] == pytest.approx(gap)
    assert f"chosen: 2 principal components; runner-up {order[1]}, {gap:.2f} nats below" in capsys.readouterr().out


def test_options_reach_the_estimator(table: Path, tmp_path: Path) -> None:
    flags = ["--orbit", "--prior", "fixed", "--prior-variance", "2", "--noise", "known", "--noise-variance", "1.5",
             "--model-prior", "uniform", "--max-components", "4", "--no-comparators"]  # fmt: skip
    assert main(["select", str(table), "--columns", "a,b,c,d,e", *flags, "--json", str(tmp_path / "o.json")]) == 0
    found = json.loads((tmp_path / "o.json").read_text())
    settings = {"orbit": True, "prior": "fixed", "prior_variance": 2.0, "noise": "known", "noise_variance": 1.5}
    fitted = VariationalPPCA(**settings, model_prior="uniform", max_components=4, random_state=0).fit(read(table))
    assert found["criterion"]["criterion"] == near(fitted.criterion_["criterion"])
    assert found["comparators"] == {}


def test_missing_cells(table: Path, tmp_path: Path, capsys) -> None:
    lines = [line.split(",") for line in table.read_text().splitlines()]
    lines[3][1], lines[7][0], lines[7][4] = "", "", "nan"
    table.write_text("\n".join(",".join(line) for line in lines))
    x = read(table)
    table.write_text(table.read_text().replace("nan", "NA"))
    assert main(["select", str(table), "--columns", "a,b,c,d,e", "--json", str(tmp_path / "o.json")]) == 0
    found = json.loads((tmp_path / "o.json").read_text())
    assert found["missing_cells"] == np.isnan(x).sum() == 3
    assert found["n_components"] == 2
    assert list(found["comparators"]) == ["cells"]
    assert found["criterion"]["elbo"] == near(VariationalPPCA(random_state=0).fit(x).criterion_["elbo"])
    error = refused([str(table), "--columns", "a,b", "--family", "mixture"], capsys)
    assert "row 2, column 'b' is missing" in error and "ppca" in error


def test_mixtures(tmp_path: Path, capsys) -> None:
    """Three clusters and two topics are found."""
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.normal(center, 1, (60, 2)) for center in ((0, 0), (9, 0), (0, 9))])
    np.save(tmp_path / "x.npy", x)
    flags = ["--max-components", "5", "--json", str(tmp_path / "o.json"), "--plot", str(tmp_path / "o.png")]
    assert main(["select", str(tmp_path / "x.npy"), "--family", "mixture", *flags]) == 0
    found = json.loads((tmp_path / "o.json").read_text())
    fitted = VariationalGaussianMixture(max_components=5, random_state=0).fit(x)
    assert found["criterion"]["elbo"] == near(fitted.criterion_["elbo"])
    assert found["n_components"] == 3 == found["comparators"]["bic"]["n_components"]
    single = GaussianMixture(1, random_state=0).fit(x)
    assert found["comparators"]["bic"]["scores"][0] == pytest.approx(-single.bic(x) / 2)
    assert (tmp_path / "o.png").read_bytes()[:4] == b"\x89PNG"
    topics = np.array([[0.6, 0.3, 0.05, 0.05], [0.05, 0.05, 0.3, 0.6]])
    counts = np.stack([rng.multinomial(30, topics[i % 2]) for i in range(40)])
    np.save(tmp_path / "c.npy", counts)
    flags = ["--family", "multinomial", "--max-components", "4", "--json", str(tmp_path / "o.json")]
    assert main(["select", str(tmp_path / "c.npy"), *flags]) == 0
    found = json.loads((tmp_path / "o.json").read_text())
    fitted = VariationalMultinomialMixture(max_components=4, random_state=0).fit(counts)
    assert found["criterion"]["elbo"] == near(fitted.criterion_["elbo"])
    assert found["n_components"] == 2
    np.save(tmp_path / "c.npy", counts + 0.5)
    assert "hold what is no count" in refused([str(tmp_path / "c.npy"), "--family", "multinomial"], capsys)
    assert "edge of the grid" not in str(found["warnings"])


def test_formats_agree(table: Path, tmp_path: Path) -> None:
    polars = pytest.importorskip("polars")
    polars.read_csv(table).write_parquet(tmp_path / "t.parquet")
    np.save(tmp_path / "t.npy", read(table))
    tables = []
    for path, columns in (
        (table, "a,b,c,d,e"),
        (tmp_path / "t.parquet", "a,b,c,d,e"),
        (tmp_path / "t.npy", "0,1,2,3,4"),
    ):
        assert (
            main(["select", str(path), "--columns", columns, "--no-comparators", "--json", str(tmp_path / "o.json")])
            == 0
        )
        tables.append(json.loads((tmp_path / "o.json").read_text())["criterion"])
    assert tables[0] == tables[1] == tables[2]


@pytest.mark.parametrize("name", ["wine", "breast_cancer", "iris", "diabetes", "digits"])
def test_embedded_tables(name: str, capsys) -> None:
    assert main(["select", name, "--max-components", "2", "--no-comparators"]) == 0
    out = capsys.readouterr().out
    assert re.search(rf"^{name}: \d+ rows", out)
    if name == "digits":  # its constant pixels are a warning
        assert "note: columns '0', '32', '39' are constant, which makes the common noise look smaller" in out


def test_bad_tables_get_one_sentence(table: Path, tmp_path: Path, capsys) -> None:
    assert "'text' ('word' in row 0)" in refused([str(table)], capsys)
    assert "no column 'zz', expected some of a, b, c" in refused([str(table), "--columns", "a,zz"], capsys)
    assert "leave out flat" in refused([str(table), "--columns", "a,flat,b", "--standardize"], capsys)
    assert "leave out flat" in refused([str(table), "--columns", "a,flat,b", "--family", "mixture"], capsys)
    assert "names a column twice" in refused([str(table), "--columns", "a,b,a"], capsys)
    assert "has 1 column" in refused([str(table), "--columns", "a"], capsys)
    assert "no such file" in refused([str(tmp_path / "nothing.csv")], capsys)
    assert "wide.txt" in refused([_written(tmp_path / "wide.txt", "1 2")], capsys)
    assert "file is empty" in refused([_written(tmp_path / "e.csv", "")], capsys)
    assert "has 1 row," in refused([_written(tmp_path / "one.csv", "a,b\n1,2\n")], capsys)
    assert "has 0 rows" in refused([_written(tmp_path / "none.csv", "a,b\n")], capsys)
    assert "every cell is missing" in refused([_written(tmp_path / "m.csv", "a,b\n,\nNA,nan\n")], capsys)
    assert "leave out b" in refused([_written(tmp_path / "col.csv", "a,b,c\n1,,2\n2,,5\n4,,1\n")], capsys)
    assert "rows without a value: 1," in refused([_written(tmp_path / "row.csv", "a,b\n1,2\n,\n4,4\n")], capsys)
    assert "row 1, column 'b' is infinite" in refused(
        [_written(tmp_path / "inf.csv", "a,b\n1,2\n3,inf\n5,1\n")], capsys
    )
    np.save(tmp_path / "three.npy", np.zeros((3, 3, 3)))
    assert "of shape (3, 3, 3)" in refused([str(tmp_path / "three.npy")], capsys)
    assert "not a readable .npy" in refused([_written(tmp_path / "bad.npy", "garbage")], capsys)
    assert "is not a table" in refused(["mnist5k"], capsys)


def test_flags_that_do_not_go_together(capsys) -> None:
    assert "FILE, or --demo" in refused(["--alpha", "0.5"], capsys)
    assert "FILE, or --demo" in refused(["wine", "--demo", "misspecification"], capsys)
    assert "--alpha is 1.5" in refused(["wine", "--alpha", "1.5"], capsys)
    assert "--noise-variance" in refused(["wine", "--noise", "known"], capsys)
    assert "--orbit does not go with --family mixture" in refused(["wine", "--orbit", "--family", "mixture"], capsys)
    assert "--covariance does not go with --family ppca" in refused(["wine", "--covariance", "diag"], capsys)
    error = refused(["wine", "--max-components", "13"], capsys)
    assert (
        "--max-components 13 leaves no residual degrees of freedom with 178 rows and 13 columns: use --noise known"
        in error
    )
    assert "--max-components is 0" in refused(["wine", "--family", "mixture", "--max-components", "0"], capsys)


def test_sentences_name_flags(tmp_path: Path, capsys) -> None:
    """No parameter of Python is named where a flag sets it, and columns go by their names."""
    rng = np.random.default_rng(0)
    x = np.column_stack(
        [rng.normal(size=(40, 2)) @ rng.normal(size=(2, 4)) + 0.3 * rng.normal(size=(40, 4)), np.ones(40)]
    )
    rows = "\n".join(",".join(map(str, row)) for row in x)
    path = _written(tmp_path / "flat.csv", f"a,b,c,d,flat\n{rows}\n")
    low = _written(tmp_path / "low.csv", "a,b,c\n" + "\n".join(f"{u},{v},{u + v}" for u, v in x[:, :2]) + "\n")
    ones = _written(tmp_path / "ones.csv", "a,b\n1,1\n1,1\n1,1\n")
    errors = (
        (
            [path, "--max-components", "4"],
            "--max-components 4 leaves no residual .* 40 rows and 5 columns, 1 of them constant",
        ),
        ([ones], "no column varies, .*: use --noise known with --noise-variance, or other data"),
        ([low, "--family", "mixture"], "singular .* drop dependent columns or use --covariance diag"),
        (
            [low, "--family", "mixture", "--max-components", "41"],
            "--max-components 41 is more than there are rows, 40:",
        ),
    )
    notes = (
        ([path], "note: column 'flat' is constant, which makes the common noise look smaller"),
        ([path, "--max-components", "1"], "edge of the grid, 1 component: raise --max-components"),
        ([low, "--noise", "point"], "hit its floor.* or --noise known with --noise-variance"),
        ([low], "with 2 components the prior of the noise"),
    )
    for words, expected in errors:
        said = refused(words, capsys).replace(str(tmp_path), "")
        assert re.search(expected, said) and "=" not in said and "_" not in said
    for words, expected in notes:
        assert main(["select", *words, "--no-comparators"]) == 0
        said = "\n".join(line for line in capsys.readouterr().out.splitlines() if line.startswith("note:"))
        assert re.search(expected, said) and "=" not in said and "_" not in said
    said = in_flags("had not settled after max_iter=9 sweeps: raise max_iter or tol; try orbit=True")
    assert said == "had not settled after 9 sweeps: lower --max-components; try --orbit"


def test_files_are_not_overwritten_and_are_refused_before_the_work(table: Path, tmp_path: Path, capsys) -> None:
    before = table.read_text()
    assert f"--json {table} would overwrite the table" in refused([str(table), "--json", str(table)], capsys)
    assert "lies in no folder that exists" in refused(["wine", "--json", str(tmp_path / "no" / "o.json")], capsys)
    assert "is a folder" in refused(["wine", "--json", str(tmp_path)], capsys)
    assert "ends in '.pdf', expected .png" in refused(["wine", "--plot", str(tmp_path / "o.pdf")], capsys)
    both = str(tmp_path / "o.png")
    assert "would overwrite --json" in refused(["wine", "--json", both, "--plot", both], capsys)
    assert table.read_text() == before and not (tmp_path / "o.png").exists()


def test_values_at_the_ends_of_float64(tmp_path: Path, capsys) -> None:
    x = np.random.default_rng(0).standard_normal((30, 4))
    np.save(tmp_path / "tiny.npy", x * 1e-160)
    assert "no bound is a finite number" in refused([str(tmp_path / "tiny.npy")], capsys)
    np.save(tmp_path / "large.npy", x * [1, 1, 1, 1e120])
    assert main(["select", str(tmp_path / "large.npy")]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) < 140


def test_fewer_rows_than_columns(tmp_path: Path) -> None:
    """Refused is only what cannot be fitted: 8 rows of 20 columns support 7 components."""
    np.save(tmp_path / "wide.npy", np.random.default_rng(0).standard_normal((8, 20)))
    assert main(["select", str(tmp_path / "wide.npy"), "--json", str(tmp_path / "o.json")]) == 0
    found = json.loads((tmp_path / "o.json").read_text())
    assert found["criterion"]["n_components"] == list(range(8))
    assert found["comparators"]["minka"]["n_components"] is None  # it needs as many rows as columns


def test_demo(tmp_path: Path, capsys) -> None:
    assert main(["select", "--demo", "misspecification", "--replicates", "1", "--json", str(tmp_path / "o.json")]) == 0
    worlds = json.loads((tmp_path / "o.json").read_text())["worlds"]
    assert set(worlds) == {"50 Gauss", "200 Gauss", "200 t3", "200 heteroscedastic"}
    assert all(one["hits"] == (one["mean"] == 3) for world in worlds.values() for one in world.values())
    assert "200 t3" in capsys.readouterr().out


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom infimum.cli import main\ntry:\n    main(['select', '--help'])\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('torch', 'numpy', 'scipy', 'sklearn', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def _written(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)
