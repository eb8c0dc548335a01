"""The page in a real browser: at a phone's and a screen's width, bright and dark, with and without script."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import CHROMIUM, Browser, browser
from tests.report_pages import small_run
from zofo.study.report.write import report

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason="needs Chromium (apt-get install chromium)")]

LIGHTNESS = """(() => {
  const box = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgb = (colour) => { box.clearRect(0, 0, 1, 1); box.fillStyle = colour; box.fillRect(0, 0, 1, 1);
    return Array.from(box.getImageData(0, 0, 1, 1).data); };
  const light = (colour) => rgb(colour).slice(0, 3).map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (node) => { for (let at = node; at; at = at.parentElement) {
    const colour = getComputedStyle(at).backgroundColor; if (rgb(colour)[3] === 255) return colour; } };
  const odd = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = Array.from(node.childNodes).some((each) => each.nodeType === 3 && each.textContent.trim());
    if (!own || !node.checkVisibility() || node.closest("script, style, desc, title")) continue;
    const style = getComputedStyle(node);
    const colour = node.closest("svg") ? style.fill : style.color;
    const [one, two] = [light(colour), light(ground(node))];
    const ratio = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
    if (ratio < 4.5) odd.push([node.tagName, node.textContent.slice(0, 40), colour, ground(node), ratio]);
  }
  return odd;
})()"""
LINES = """Array.from(document.querySelectorAll("svg.plot .run-0 path")).slice(0, 1)
  .map((each) => getComputedStyle(each).stroke)[0]"""


@pytest.fixture(scope="module")
def page(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    runs = [small_run(tiny_model_dir, folder, "first"), small_run(tiny_model_dir, folder, "second", seed=1)]
    return report(runs, folder / "page.html")


@pytest.fixture
def shown(tmp_path: Path) -> Iterator[Browser]:
    with browser(tmp_path) as opened:
        yield opened


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_is_legible_and_asks_for_nothing(page: Path, shown: Browser, width: int, dark: bool) -> None:
    shown.open(page, width, dark)
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    assert shown.evaluate("innerWidth") == width
    for details in ("false", "true"):
        shown.evaluate(f"document.querySelectorAll('details').forEach((each) => each.open = {details})")
        assert shown.evaluate(LIGHTNESS) == []
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    assert shown.evaluate(LINES) == ("rgb(86, 180, 233)" if dark else "rgb(0, 114, 178)")
    assert shown.evaluate("document.body.textContent.includes('<script>alert(1)</script>')")
    assert shown.evaluate("document.scripts.length") == 1
    assert shown.requests == [page.resolve().as_uri()]
    assert shown.errors == []


def test_search_and_toggles(page: Path, shown: Browser) -> None:
    shown.open(page, 1280, False)
    count = "Array.from(document.querySelectorAll('.row')).filter((each) => each.checkVisibility()).length"
    every = shown.evaluate(count)
    assert every == 50
    type_in = "search.value = {}; search.dispatchEvent(new Event('input'))"
    shown.evaluate(type_in.format(json.dumps("ALERT(1) gnp")))
    assert 0 < shown.evaluate(count) < 6
    assert shown.evaluate("found.textContent") == f"{shown.evaluate(count)} of 50"
    shown.evaluate(type_in.format("''"))
    shown.evaluate("right.click()")
    wrong = shown.evaluate(count)
    assert wrong == shown.evaluate("document.querySelectorAll('.row.bad').length")
    shown.evaluate("right.click(); wrong.click()")
    assert shown.evaluate(count) == every - wrong
    lines = "Array.from(document.querySelectorAll('.run-1')).filter((each) => each.style.display !== 'none').length"
    assert shown.evaluate(lines) > 5
    shown.evaluate("document.querySelector('[data-run=\"1\"]').click()")
    assert shown.evaluate(lines) == 0
    assert shown.errors == []


def test_without_script_all_is_there(page: Path, shown: Browser) -> None:
    shown.open(page, 390, False, script=False)
    tree = shown.call("Accessibility.getFullAXTree")["nodes"]
    names = [node.get("name", {}).get("value", "") for node in tree if not node.get("ignored")]
    assert sum(name.startswith("wrong") or name == "wrong" for name in names) > 0
    roles = {node.get("role", {}).get("value") for node in tree}
    assert {"main", "banner", "contentinfo", "navigation", "table", "image"} <= roles
    assert not any(node.get("role", {}).get("value") == "searchbox" for node in tree if not node.get("ignored"))
    assert any(re.match(r"Training loss: s\. first: ", name) for name in names)
