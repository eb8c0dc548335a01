"""The site's pages without the site's tool: none is left out, links lead somewhere, what is generated is the code's."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from docs.generate import __main__ as generate
from docs.generate import api, commands, links, maths, notebooks, presets, settings, tables

import zofo
from tests.conftest import ROOT
from zofo.config import registry
from zofo.config.sections import ModelConfig, TaskConfig, TrainConfig


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return generate.pages()


def navigation() -> list[str]:
    """The pages that zensical.toml names, in their order."""

    def leaves(node: Any) -> Iterator[str]:
        if isinstance(node, str):
            yield node
        else:
            for each in node.values() if isinstance(node, dict) else node:
                yield from leaves(each)

    return list(leaves(tomllib.loads((ROOT / "zensical.toml").read_text("utf-8"))["project"]["nav"]))


def test_every_page_is_in_the_navigation(pages: dict[str, str]) -> None:
    """Once, and nothing else; a file of the code that a page points at is no page of its own."""
    own = sorted(name for name in pages if not name.startswith("source/"))
    assert sorted(navigation()) == own
    assert {path.name for path in (ROOT / "docs").glob("*.md")} <= set(own)
    assert {"commands.md", "settings.md", "api.md", "paper_index.md"} <= set(own)
    assert len([name for name in own if name.startswith("notebook_")]) == 3


def test_every_link_leads_to_a_page_or_a_picture(pages: dict[str, str]) -> None:
    """As zensical's --strict sees it: inside the site, relative."""
    counted = 0
    for name, text in pages.items():
        if name.startswith("source/"):
            continue
        plain = re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.S | re.M)
        for target in re.findall(r"\]\(([^)\s]+)\)", plain):
            path = target.partition("#")[0]
            if path and not re.match(r"\w+:", path):
                counted += 1
                place = (Path("/") / Path(name).parent / path).resolve().relative_to("/").as_posix()
                assert place in pages or f"docs/{place}" in generate.pictures, f"{name}: {target}"
    assert counted > 100


def test_a_link_to_nothing_ends_the_build() -> None:
    turner = links.Turner(set())
    with pytest.raises(SystemExit, match=r"docs/tour\.md: gone\.md is neither"):
        turner._turned("[x](gone.md)", "docs/tour.md")


def test_links_are_turned_outside_of_code_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("docs", "src"):
        (tmp_path / name).mkdir()
    (tmp_path / "docs" / "tour.md").touch()
    (tmp_path / "src" / "a.py").write_text("x = 1\n")
    (tmp_path / "README.md").write_text(
        "<!-- printed -->\n```sh\n[a](src/a.py)\n```\n`[a](src/a.py)` [a](src/a.py) [t](docs/tour.md#2-x) [h](https://x.org)\n"
    )
    monkeypatch.setattr(links, "ROOT", tmp_path)
    turner = links.Turner(set())
    text = turner.page("README.md")
    assert text == (
        "```sh\n[a](src/a.py)\n```\n`[a](src/a.py)` [a](source/src/a.py.md) [t](tour.md#2-x) [h](https://x.org)\n"
    )
    assert turner.files == {"src/a.py"}
    assert "```python\nx = 1\n```" in links.shown("src/a.py")


def test_every_verb_and_option_is_on_its_page() -> None:
    page = commands.page()
    for name, command in commands.verbs():
        section = page.partition(f"## zofo {name}\n")[2].partition("\n## ")[0]
        assert f"```text\nzofo {name}" in section
        for option in command.params:
            if option.param_type_name == "option":
                assert f"`{option.opts[0]}" in section, f"{name}: {option.opts}"
    assert len(re.findall("^## zofo ", page, re.M)) == len(list(commands.verbs())) >= 14


def test_every_field_is_on_the_page_of_the_settings() -> None:
    page = settings.page()
    sections: dict[str, type] = {"model": ModelConfig, "task": TaskConfig, "train": TrainConfig}
    for section, config in sections.items():
        for spec in dataclasses.fields(config):
            assert page.count(f"`{section}.{spec.name}`") >= 1, f"{section}.{spec.name}"
    for kind in ("methods", "adapters", "estimators", "rules", "masks"):
        for name in registry.names(kind):
            assert f"### {name}\n" in page
            for spec in dataclasses.fields(registry.load(kind, name).Config):
                row = f"| `{registry.singular(kind)}.{spec.name}` |"
                assert any(line.startswith(row) for line in page.splitlines()), row
                assert tables.cell(spec.metadata["help"]) in page


def test_the_whole_python_api_is_on_its_page() -> None:
    page = api.page()
    assert set(api.names()) == set(zofo.__all__)
    for name in zofo.__all__:
        section = page.partition(f"## {name}\n")[2].partition("\n## ")[0]
        assert section.startswith("\n```python\n" + name), name
        said = (getattr(zofo, name).__doc__ or "").partition("\n")[0]
        assert said in section, name
    assert "### Run.predict" in page
    assert "output_dir: str | Path" in page


@pytest.mark.parametrize("name", generate.KEPT)
def test_a_kept_page_is_what_the_code_says(name: str) -> None:
    text = (ROOT / "docs" / name).read_text("utf-8")
    assert text == generate.KEPT[name](), "python -m docs.generate writes it again"


PRESETS = registry.names("presets")


@pytest.mark.parametrize("name", PRESETS)
def test_every_value_of_a_preset_has_a_place_or_a_reason(name: str) -> None:
    path = registry.load("presets", name)
    found = list(presets.values(path))
    there = {(section, key) for section, of in yaml.safe_load(path.read_text("utf-8")).items() for key in of}
    assert {(value.section, value.field) for value in found} == there, "the file is not plain `section: field: value`"
    for value in found:
        assert value.place, f"preset {name}: {value.section}.{value.field} has neither a place in a paper nor a reason"
    page = presets.page().partition(f"### {name}\n")[2].partition("\n#")[0]
    assert page.count("\n| `") == len(found)


def test_a_preset_value_without_a_place_is_seen(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("# head\ntrain:\n  seed: 3\n  batch_size: 8  # B.1.4\n")
    assert [value.place for value in presets.values(tmp_path / "x.yaml")] == ["", "B.1.4"]


def test_pages_that_presets_point_at_exist() -> None:
    for name in PRESETS:
        for page in re.findall(r"docs/\w+\.md", registry.load("presets", name).read_text("utf-8")):
            assert (ROOT / page).is_file()


def test_equations_stand_alone_and_are_converted() -> None:
    """Of the pages, and what maths.py makes of a block; the converter itself is the site's."""
    page = "a\n\n$$\nx_{1} \\le\ny\n$$\n\nb $$ c\n"
    text, number = maths.drawn(page, lambda latex, display: f"<math {display}>{latex}</math>")
    assert (text, number) == ('a\n\n<div class="maths"><math block>x_{1} \\le y</math></div>\n\nb $$ c\n', 1)
    turner = links.Turner(set(generate.FROM_CODE))
    for source in links.sources():
        lines = turner.page(source).splitlines()
        fences = [n for n, line in enumerate(lines) if line.strip() == "$$"]
        assert len(fences) % 2 == 0, source
        for first, last in zip(fences[::2], fences[1::2]):
            assert lines[first - 1] == "" == lines[last + 1], f"{source}:{first + 1}: a blank line on both sides"
            text = " ".join(lines[first + 1 : last])
            assert text.count("{") == text.count("}"), f"{source}:{first + 1}"
            assert text.count(r"\left") - text.count(r"\leftarrow") == text.count(r"\right"), f"{source}:{first + 1}"
            assert "\\\\" not in text, f"{source}:{first + 1}: GitHub takes two backslashes for one"


def test_cells_of_tables_hold_any_text() -> None:
    assert tables.cell("a | b\n<c> `d | <e>` *f*") == r"a \| b &lt;c&gt; `d \| <e>` \*f\*"
    assert tables.code("a|b") == r"`a\|b`"
    assert tables.table(("x",), [("1",)]) == "| x |\n| --- |\n| 1 |\n"


def test_a_notebook_as_a_page() -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# T\n", "said"]},
        {"cell_type": "code", "source": "x = 1", "outputs": []},
    ]
    page = notebooks.page("examples/notebooks/1_x.ipynb", json.dumps({"cells": cells}))
    assert page.startswith("# T\nsaid\n\nA notebook: `examples/notebooks/1_x.ipynb`")
    assert page.endswith("```python\nx = 1\n```\n")
    assert links.site_name("examples/notebooks/1_x.ipynb") == "notebook_1_x.md"


def test_make_site_builds_what_zensical_reads() -> None:
    project = tomllib.loads((ROOT / "zensical.toml").read_text("utf-8"))["project"]
    recipe = (ROOT / "Makefile").read_text("utf-8").partition("\nsite: ")[2].partition("\n\n")[0]
    assert project["docs_dir"] in recipe
    assert "--strict" in recipe
    assert f"/{project['site_dir']}/" in (ROOT / ".gitignore").read_text("utf-8").splitlines()
    assert project["theme"]["font"] is False
