"""The pages in a real browser: light and dark, wide, phone and paper."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infimum.report import read_run, write_report
from infimum.report.sections import command

PAGES = ("vae", "pair", "belief", "all", "hostile")
SETTINGS = [(scheme, width) for scheme in ("light", "dark") for width in (1280, 360)]


@pytest.fixture(scope="module")
def pages(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of each run, of all side by side, and of one whose names are very long."""
    folder = tmp_path_factory.mktemp("pages")
    found = {name: runs / name / "report.html" for name in ("vae", "pair", "belief")}
    found["all"] = write_report([runs / name for name in found], folder / "all.html")
    long = tmp_path_factory.mktemp("long") / ("unbroken-" * 20)
    long.mkdir()
    for file in (runs / "vae").glob("*.json*"):
        text = file.read_text(encoding="utf-8")
        for word in ("vae", "IWAE-64", "elbo", "digits"):
            text = text.replace(f'"{word}"', '"' + f"{word}<b>&" * 60 + '"')
        if file.name == "metrics.jsonl":  # the axis has five labels of millions
            text = re.sub(r'"step": (\d+)', r'"step": \g<1>00000', "".join(text.splitlines(keepends=True)[:50]))
        (long / file.name).write_text(text, encoding="utf-8")
    return found | {"hostile": write_report([long], folder / "hostile.html")}


class Opened:
    """A page in the browser, with all that it asked for and complained about."""

    def __init__(self, browser: Any, path: Path, *, width: int, scheme: str, media: str = "screen") -> None:
        self.context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.emulate_media(media=media, color_scheme=scheme)
        self.page.goto(path.resolve().as_uri())
        self.own = path.resolve().as_uri()

    def ask(self, script: str) -> Any:
        return self.page.evaluate(script)


EVERY = [(name, *setting) for name in PAGES for setting in SETTINGS]


@pytest.fixture(scope="module", params=EVERY, ids=lambda p: "-".join(map(str, p)))
def opened(request: pytest.FixtureRequest, chromium: Any, pages: dict[str, Path]) -> Iterator[Opened]:
    name, scheme, width = request.param
    page = Opened(chromium, pages[name], width=width, scheme=scheme)
    yield page
    page.context.close()


TEXT = """
const textNodes = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let node = walker.nextNode(); node; node = walker.nextNode()) {
  if (!node.textContent.trim()) continue;
  const range = document.createRange(); range.selectNodeContents(node);
  const boxes = [...range.getClientRects()].filter(box => box.width > 0);
  if (boxes.length) textNodes.push({node, element: node.parentElement, boxes});
}
"""

OUTSIDE = f"""() => {{ {TEXT}
const bad = [];
for (const {{node, element, boxes}} of textNodes) {{
  const inside = element.closest('.scroll');
  for (const box of boxes) {{
    const left = inside ? inside.getBoundingClientRect().left : 0;
    const right = inside ? left + inside.scrollWidth : innerWidth;
    const card = element.closest('.card')?.getBoundingClientRect();
    if (box.left < left - 1 || box.right > right + 1 || (card && (box.left < card.left || box.right > card.right + 1)))
      bad.push(node.textContent.trim().slice(0, 60));
  }}
}}
return bad; }}"""

CLIPPED = """() => [...document.querySelectorAll('body *')].filter(e => {
  const style = getComputedStyle(e);
  const cut = ['hidden', 'clip'].includes(style.overflowX) || ['hidden', 'clip'].includes(style.overflowY);
  return cut && e.textContent.trim() && (e.scrollWidth > e.clientWidth + 1 || e.scrollHeight > e.clientHeight + 1);
}).map(e => e.textContent.trim().slice(0, 60))"""

OVERLAPS = """() => [...document.querySelectorAll('svg')].flatMap(svg => {
  const boxes = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]).filter(b => b[1].width);
  return boxes.flatMap(([a, p], i) => boxes.slice(i + 1).filter(([b, q]) =>
    p.left < q.right - 1 && q.left < p.right - 1 && p.top < q.bottom - 4 && q.top < p.bottom - 4).map(([b]) => `${a} | ${b}`));
})"""

CONTRAST = f"""() => {{ {TEXT}
const canvas = document.createElement('canvas').getContext('2d', {{willReadFrequently: true}});
function rgba(colour) {{
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
}}
function luminance(colour) {{
  const [r, g, b] = rgba(colour).slice(0, 3).map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
  return .2126 * r + .7152 * g + .0722 * b;
}}
function behind(e) {{
  for (; e; e = e.parentElement) {{
    const colour = getComputedStyle(e).backgroundColor;
    if (rgba(colour)[3] === 255) return colour;
  }}
  return 'white';
}}
function ratio(a, b) {{
  const [high, low] = [luminance(a), luminance(b)].sort((x, y) => y - x);
  return (high + .05) / (low + .05);
}}
const words = textNodes.map(({{node, element}}) => {{
  const style = getComputedStyle(element);
  const colour = element instanceof SVGElement ? style.fill : style.color;
  return [ratio(colour, behind(element)), node.textContent.trim().slice(0, 40)];
}});
const marks = [...document.querySelectorAll('.curve, .dot, .mark, .limit, .bar, .cross, .rule')].map(e => {{
  const style = getComputedStyle(e);
  const colour = e.matches('.dot, .mark') ? style.fill : style.stroke;
  return [ratio(colour, behind(e)), e.getAttribute('class')];
}});
const lowest = found => found.sort((a, b) => a[0] - b[0]);
return {{words: lowest(words), marks: lowest(marks), page: luminance(behind(document.body))}};
}}"""


def test_nothing_overflows_or_is_cut(opened: Opened) -> None:
    assert opened.ask("document.documentElement.scrollWidth <= innerWidth")
    assert opened.ask(OUTSIDE) == []
    assert opened.ask(CLIPPED) == []
    assert opened.ask(OVERLAPS) == []


def test_everything_that_should_be_there_is_there(opened: Opened) -> None:
    """Pictures are decoded; figures have a title and a caption; graphics have a description; headings are in order."""
    assert (
        opened.ask("[...document.images].filter(i => !(i.complete && i.naturalWidth > 0 && i.alt.length > 10)).length")
        == 0
    )
    figures = opened.ask(
        "[...document.querySelectorAll('figure')].map(f => [f.querySelector('h3, h4')?.innerText, "
        "f.querySelector('figcaption')?.innerText, f.querySelectorAll('img, svg[role=img][aria-label]').length])"
    )
    assert figures
    for title, caption, graphics in figures:
        assert title
        assert len(caption) > 20
        assert graphics == 1
    levels = [int(tag[1]) for tag in opened.ask("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => h.tagName)")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
    assert opened.ask("[...document.querySelectorAll('section')].filter(s => s.children.length < 2).length") == 0
    drawn = opened.ask("[...document.querySelectorAll('.plot path.curve')].map(p => p.getBoundingClientRect().width)")
    assert drawn
    assert min(drawn) > 20


def test_it_asks_for_nothing_and_complains_of_nothing(opened: Opened) -> None:
    assert [url for url in opened.requests if not url.startswith("data:")] == [opened.own]
    assert opened.complaints == []


def test_it_can_be_read(opened: Opened) -> None:
    """WCAG 2: text at least 4.5 to 1, graphics at least 3 to 1; and dark is dark."""
    found = opened.ask(CONTRAST)
    assert len(found["words"]) > 30
    assert found["words"][0][0] >= 4.5, found["words"][0]
    assert found["marks"][0][0] >= 3, found["marks"][0]
    dark = opened.ask("matchMedia('(prefers-color-scheme: dark)').matches")
    assert found["page"] < 0.05 if dark else found["page"] > 0.9


@pytest.mark.parametrize("name", PAGES)
def test_on_paper(name: str, chromium: Any, pages: dict[str, Path]) -> None:
    """Printed from a dark screen on A4 (718 CSS pixels between the margins): dark on white, nothing cut."""
    page = Opened(chromium, pages[name], width=718, scheme="dark", media="print")
    found = page.ask(CONTRAST)
    assert found["page"] == 1
    assert found["words"][0][0] >= 4.5
    assert page.ask("document.documentElement.scrollWidth <= innerWidth")
    assert page.ask(CLIPPED) == []
    page.context.close()


def test_the_command_is_copied_as_it_is(chromium: Any, pages: dict[str, Path], runs: Path) -> None:
    page = Opened(chromium, pages["vae"], width=360, scheme="light")
    assert page.ask("document.querySelector('pre').innerText.trim()") == command(read_run(runs / "vae"))
    page.context.close()
