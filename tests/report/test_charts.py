"""The geometry of figures against the numbers behind them."""

import math
import re

import pytest
import torch

from infimum.evidence import Mean
from infimum.report.charts import Curve, chart, quantiles, windows
from infimum.report.forest import forest
from infimum.report.reading import Evidence
from infimum.report.words import ticks


def test_the_band_of_a_noisy_trend_has_the_noise_of_its_window() -> None:
    """60 windows of 100 steps, normal noise of s.d. 2 on a slope: E[error^2] is 4 / 100; |z| < 5 fails once in 10^6."""
    noise = 2 * torch.randn(6000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    means, errors = windows([(i, 0.05 * i + float(noise[i])) for i in range(6000)])
    assert len(means) == 60
    squares = torch.tensor(errors) ** 2 * 100 / 4
    z = (float(squares.mean()) - 1) / (float(squares.std()) / math.sqrt(60))
    assert abs(z) < 5
    spread = torch.tensor([y - 0.05 * x for x, y in means])
    assert abs(float((spread / torch.tensor(errors)).mean())) * math.sqrt(60) < 5


@pytest.mark.parametrize("n", [1, 2, 3, 15, 16, 17, 61, 1000, 12345])
def test_windows_cover_every_number_of_steps(n: int) -> None:
    means, errors = windows([(i, float(i)) for i in range(n)])
    assert 1 <= len(means) <= max(61, 16)
    assert errors is None or len(errors) == len(means)
    assert means[0][0] == pytest.approx(means[0][1])


def test_quantiles_are_the_ordered_values() -> None:
    assert quantiles([3.0, math.nan, 1.0, 2.0, math.inf]) == [
        (pytest.approx(100 / 6), 1.0), (50.0, 2.0), (pytest.approx(500 / 6), 3.0),
    ]  # fmt: skip
    many = quantiles([float(i) for i in range(10_000)])
    assert len(many) == 200
    assert many[0][1] == 0
    assert many[-1][1] == 9999
    assert all(y == pytest.approx(x / 100 * 10_000 - 0.5) for x, y in many)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-27.44, -27.41), (1e-9, 3e-9), (-5e6, 2e6), (0.999, 1.001)])
def test_ticks_are_round_and_say_what_they_are(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 11
    for value, label in found:
        assert low - 1e-9 * abs(low) <= value <= high + 1e-9 * abs(high)
        assert float(label.replace("−", "-").replace("\u202f", "")) == pytest.approx(value, abs=1e-3 * (high - low))


def _axis(marks: tuple[tuple[str, str], ...]) -> tuple[float, float]:
    """Slope and intercept of value against percent, from the first and the last tick's label."""
    (a, first), (b, last) = marks[0], marks[-1]
    x, y = (float(text.replace("−", "-")) for text in (first, last))
    p, q = (float(text.rstrip("%")) for text in (a, b))
    slope = (y - x) / (q - p)
    return slope, x - slope * p


def test_a_curve_is_where_its_axes_say() -> None:
    """Values read off the path with the ticks' labels are the values that went in."""
    points = [(0.0, -30.0), (50.0, -26.5), (100.0, -25.0), (200.0, -24.25)]
    found = chart("t", [Curve("a", points, errors=[0.5] * 4)], caption="", x_label="", y_label="")
    assert found is not None
    across, down = _axis(found.x_ticks), _axis(found.y_ticks)

    def read(path: str) -> list[tuple[float, float]]:
        pairs = re.findall(r"(-?[\d.]+) (-?[\d.]+)", path)
        return [(float(x) / 10 * across[0] + across[1], float(y) / 10 * down[0] + down[1]) for x, y in pairs]

    for (x, y), (u, v) in zip(read(found.lines[0].path), points, strict=True):
        assert (x, y) == (pytest.approx(u, abs=0.05), pytest.approx(v, abs=0.01))
    band = read(found.lines[0].band)
    expected = [(x, y + 1) for x, y in points] + [(x, y - 1) for x, y in reversed(points)]
    for (x, y), (u, v) in zip(band, expected, strict=True):
        assert (x, y) == (pytest.approx(u, abs=0.05), pytest.approx(v, abs=0.01))


def _mean(value: float, stderr: float, certificate: float | None, side: str, name: str) -> Mean:
    return Mean(value, stderr, 0.1, certificate, "", 0.05, 10, side, name, "log p(x)", "nats", None)  # type: ignore[arg-type]


def test_the_bracket_plot_is_where_its_axis_says() -> None:
    rows = [
        _mean(-27.66, 0.002, -27.67, "lower", "ELBO"), _mean(-27.425, 0.001, -27.434, "lower", "IWAE-5"),
        _mean(-27.424, math.nan, -27.417, "upper", "IW-EUBO-5"), _mean(-27.4256, 0.0, -27.4256, "exact", "log-sum"),
    ]  # fmt: skip
    plots = forest([Evidence("net", row) for row in rows])
    assert [len(plot.rows) for plot in plots] == [4, 3]  # and once more without the ELBO, which is far from the rest
    for plot in plots:
        slope, start = _axis(plot.ticks)

        def read(at: str, slope: float = slope, start: float = start) -> float:
            return float(at.rstrip("%")) * slope + start

        for row, mean in zip(plot.rows, rows[-len(plot.rows) :], strict=True):
            assert read(row.value) == pytest.approx(mean.value, abs=2e-4 * abs(slope) * 100)
            if mean.side != "exact":
                assert row.limit is not None
                assert read(row.limit) == pytest.approx(mean.certificate, abs=2e-4 * abs(slope) * 100)
        assert all(0 <= float(row.value.rstrip("%")) <= 100 for row in plot.rows)


def test_items_of_the_model_itself_are_not_called_held_out() -> None:
    held, drawn = _mean(-3, 0.1, -4, "lower", "IWAE-5"), _mean(-2, 0.1, -3, "lower", "IWAE-5")
    plots = forest([Evidence("vae", held), Evidence("vae", drawn, simulated=True)])
    assert [plot.title for plot in plots] == ["Held-out log p(x)", "Log p(x) of items drawn from the models"]
