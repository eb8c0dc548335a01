"""Model cards: what the hub reads of them, what people read, and what is in neither; their code runs as it stands."""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from tests.conftest import ROOT, sentiment_rows, write_rows
from tests.hub_server import hub
from zofo import finetune, load
from zofo.api.card import papers
from zofo.api.card.base import base_of
from zofo.api.card.card import of_export, of_run
from zofo.api.card.opening import Opening
from zofo.config import registry
from zofo.config.resolve import Config, ModelConfig, resolve

SMALL: dict[str, Any] = {"max_steps": 4, "batch_size": 4, "eval_steps": 2, "save_steps": 4}
HEADS = {"Results", "Framework versions", "Licence", "Limits", "How to ask it", "Citation"}
NASTY = ["</script><script>alert(1)</script>", "a`b``c", "two\nlines", "\x1b[2J", "| cell", "---", "# head", "${{x}}"]


def read(text: str) -> dict[str, Any]:
    """The front matter, after checks that hold for every card."""
    assert text.startswith("---\n")
    card: Any = ModelCard(text)
    front = yaml.safe_load(text[4 : text.index("\n---\n", 4)])
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict() == front
    assert front["library_name"] in ("zofo", "transformers", "peft")
    assert front["pipeline_tag"] == "text-generation"
    assert front["tags"][0] == "zofo"
    assert re.fullmatch(r"[a-z0-9.-]+", front.get("license", "none"))
    assert not set(text) & {"\x1b", "\r", "\u202e"}
    tokens = MarkdownIt("commonmark").parse(card.text)
    assert not [token for token in tokens if token.type in ("html_block", "html_inline")]
    inner = [child for token in tokens for child in token.children or ()]
    assert not [child for child in inner if child.type in ("html_inline", "image")]
    heads = [tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"]
    assert set(heads) >= HEADS, heads
    assert len(heads) == len(set(heads)) == 10, heads
    for result in card.data.eval_results or []:
        assert isinstance(result.metric_value, float)
    return front


def fake(config: Config, **more: Any) -> dict[str, Any]:
    """run.json as far as a card reads it."""
    values = {"loss": 0.5, "n": 500, "accuracy": 0.87}
    return {
        "zofo": "0.1.0",
        "method": config.names["method"],
        "task": "films",
        "metric": "accuracy",
        "seed": 3,
        "steps": {"lower": 10, "upper": 1},
        "best_step": 11,
        "deployed": "s",
        "test": {"s": values},
        "dev": {"s": {**values, "accuracy": 0.9}},
        "labels": ["good", "bad"],
        "examples": {"f": 10, "p": 20, "dev": 100, "test": 500},
        **more,
    }


def settings(method: str, **sections: Any) -> Config:
    task = "class-to-class" if method in ("metaicl", "multi-task-ft", "meta-bilevel-zofo") else "./rows.csv"
    train = {"output_dir": "o"}
    return resolve(model="me/base", task=sections.pop("task", task), method=method, train=train, **sections)


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """me/base has no card, and nobody asks for it."""
    if request.node.name != "test_a_hub_models_card_is_asked_for":
        monkeypatch.setattr("zofo.api.card.base._hub_card", lambda config: None)


@pytest.mark.parametrize("method", registry.names("methods"))
def test_every_methods_card(method: str) -> None:
    needs = registry.load("methods", method).Method.needs
    config = settings(method, **({"adapter": "lora"} if "adapter" in needs else {}))
    trained, tasks = method not in ("zero-shot", "icl"), None
    if str(config.task.name) == "class-to-class":
        tasks = {"train": [f"t{i}" for i in range(30)], "held_out": ["t31"]}
    info = fake(config, tasks=tasks)
    for text in (of_run(info, config), of_export(info, config, "s", Opening("plain", {}))):
        front = read(text)
        assert front["base_model"] == "me/base"
        assert method in front["tags"]
        assert ("## How it was trained" in text) == ("## Training data" in text) == trained
        assert ("Nothing was trained." in text) == (not trained)
        (result,) = front["model-index"][0]["results"]
        assert {m["type"]: m["value"] for m in result["metrics"]} == {"accuracy": 0.87, "loss": 0.5}
        assert "| test | 500 | 0.8700 | 0.5000 |" in text
        cited = papers.cited(config)
        assert re.findall(r"eprint = \{(.*)\}", text) == cited
        assert bool(cited) == (method not in ("zero-shot", "fo-ft", "fo-peft")) or "adapter" in needs
        if tasks:
            assert "of 30 tasks: `t0`, `t1`" in text
            assert "and 10 more, held out of training: `t31`." in text
    assert front.get("base_model_relation") == ("finetune" if trained else None)


@pytest.mark.parametrize("adapter", registry.names("adapters"))
@pytest.mark.parametrize("method", ["fo-peft", "mezo", "bilevel-zofo"])
def test_every_adapters_card(method: str, adapter: str) -> None:
    config = settings(method, adapter=adapter)
    front = read(of_export(fake(config), config, "s", Opening("apart", {})))
    assert front["library_name"] == "peft"
    assert {method, adapter} <= set(front["tags"])
    assert front["base_model_relation"] == ("finetune" if method == "bilevel-zofo" else "adapter")
    assert set(papers.NUMBER.findall(registry.docstring("adapters", adapter))) <= set(papers.cited(config))


@pytest.mark.parametrize("kind", ["estimators", "masks", "rules"])
def test_every_estimators_masks_and_rules_card(kind: str) -> None:
    for name in registry.names(kind):
        config = settings("bilevel-zofo", adapter="lora", **{registry.singular(kind): name})
        text = of_run(fake(config), config)
        assert (name in read(text)["tags"]) == (kind != "rules")
        assert set(papers.NUMBER.findall(registry.docstring(kind, name))) <= set(papers.cited(config))


def test_a_quantised_base_and_numbers_that_are_none() -> None:
    config = settings("mezo", task="sst2")
    config = resolve(None, ["model.quantization=int8", "model.name=me/base", "task.name=sst2", "train.output_dir=o"],
                     method="bilevel-zofo", adapter="lora")  # fmt: skip
    info = fake(config, test={"s": {"loss": float("nan"), "n": 7, "accuracy": None}}, dev={"s": {}})
    text = of_run(info, config)
    front = read(text)
    assert "int8" in front["tags"]
    assert "quantization: int8" in text
    assert "model-index" not in front
    assert front["datasets"] == ["nyu-mll/glue"]
    assert "| test | 7 |  | nan |" in text
    info = fake(
        config, test={"s": {}}, checkpoint="checkpoint-4", outcome={"kind": "failed", "reason": "it | <b> blew"}
    )
    text = of_export(info, config, "s", Opening("plain", {}))
    (result,) = read(text)["model-index"][0]["results"]
    assert result["dataset"] == {"name": "films", "type": "nyu-mll/glue", "config": "sst2", "split": "dev"}
    assert "Test: not measured." in text
    assert "What is here is checkpoint-4 of the run." in text


@pytest.mark.parametrize("word", NASTY)
def test_no_word_of_the_data_is_markup(word: str, tmp_path: Path) -> None:
    """Of labels, of a task file's name, of a base model's directory, of a system turn, of an error's words."""
    folder = tmp_path / word.replace("/", "_").replace("\x1b", "e")
    folder.mkdir()
    rows = [f"task.name=./{folder.name}.csv", f"model.name={folder}", "train.output_dir=o"]
    config = resolve(None, [*rows, "task.apply_chat_template=true"], method="mezo", task={"system": word})
    ending = {"kind": "failed", "reason": "a loss"}
    info = fake(config, labels=[word, "other"], task=word, outcome=ending, tasks={"train": [word], "held_out": [word]})
    for text in (of_run(info, config), of_export(info, config, "s", Opening("plain", {}, chat=True, system=word))):
        front = read(text)
        assert "base_model" not in front
        for block in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S):
            compile(block, "card", "exec")
            assert repr(word) in block, "a system turn is said whole"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Callable[[str], Any]:
    folder, made = tmp_path_factory.mktemp("some folder"), dict[str, Any]()
    rows = write_rows(folder / "my rows.jsonl", sentiment_rows(40))

    def get(adapter: str) -> Any:
        if adapter not in made:
            method = {"name": "fo-peft", "lr": 1e-1}
            made[adapter] = finetune(
                str(tiny_model_dir), str(rows), method, adapter, output_dir=folder / adapter, **SMALL
            )
        return made[adapter]

    return get


RUN_THEM = """
import contextlib, io, json, os, sys
import torch
texts = {}
for folder in sys.argv[1:]:
    os.chdir(folder)
    code = open("README.md", encoding="utf-8").read().partition("```python\\n")[2].partition("```")[0]
    names, out = {}, io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, names)
    with torch.no_grad():
        logits = names["model"].eval()(input_ids=torch.tensor([[5, 9, 20, 33, 7]]), use_cache=False).logits
    texts[folder] = [out.getvalue(), logits[0, -1].tolist()]
assert "zofo" not in sys.modules
print(json.dumps(texts))
"""


@pytest.mark.slow  # the start of an interpreter; tests/api/test_moved_folders.py runs the same code in this one
def test_the_quick_start_runs_in_a_process_without_zofo(runs: Callable[[str], Any], tmp_path: Path) -> None:
    """One plain model, an adapter beside its backbone, a soft prompt."""
    forms = {"whole": ("lora", None), "apart": ("lora", False), "soft": ("prompt", None)}
    folders = [runs(adapter).export(tmp_path / name, merge=merge) for name, (adapter, merge) in forms.items()]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RUN_THEM, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    for folder, (text, logits) in json.loads(done.stdout.splitlines()[-1]).items():
        ours = load(folder)[0](input_ids=torch.tensor([[5, 9, 20, 33, 7]]), use_cache=False).logits[0, -1]
        torch.testing.assert_close(torch.tensor(logits), ours.detach(), atol=1e-4, rtol=1e-4)
        assert text.strip() or "model.generate" not in (Path(folder) / "README.md").read_text()
        read((Path(folder) / "README.md").read_text())
        card: Any = ModelCard.load(Path(folder) / "README.md")
        assert card.data.library_name in ("transformers", "peft")


def test_nothing_of_the_machine_or_the_rows_is_in_a_card(runs: Callable[[str], Any], tmp_path: Path) -> None:
    run = runs("lora")
    for folder in (run.path, run.export(tmp_path / "out")):
        text = (folder / "README.md").read_text()
        private = [str(tmp_path.parent), "some folder", str(ROOT), getpass.getuser() + "/", socket.gethostname()]
        assert not [word for word in [*private, *(row["text"] for row in sentiment_rows(40))] if word in text]
        assert "`my rows.jsonl`" in text
        read(text)
    assert "Examples taken: 32 to train, 4 to select by, 4 to test." in text
    assert re.search(r"^- transformers \d", text, re.M)


LICENCES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "a card": ({"README.md": "---\nlicense: apache-2.0\n---\n# x"}, {"license": "apache-2.0"}),
    "a card with more": (
        {"README.md": "---\nlicense: other\nlicense_name: llama3\nlicense_link: https://x.org/l\n---\n"},
        {"license": "other", "license_name": "llama3", "license_link": "https://x.org/l"},
    ),
    "a link that is elsewhere": (
        {"README.md": "---\nlicense: other\nlicense_link: LICENSE\n---\n"},
        {"license": "other"},
    ),
    "a list of one": ({"README.md": "---\nlicense: [mit]\n---\n"}, {"license": "mit"}),
    "a text": ({"LICENSE": "\n   Apache License\n      Version 2.0, January 2004"}, {"license": "apache-2.0"}),
    "a card without one": ({"README.md": "# x", "LICENSE.txt": "MIT License\n\nCopyright"}, {"license": "mit"}),
    "none": ({}, {}),
    "a text of its own": ({"LICENSE": "You may do as you like."}, {}),
    "two in one": ({"LICENSE": "MIT License or Apache License\nVersion 2.0"}, {}),
    "no text": ({"README.md": "---\nlicense: 3\n---\n"}, {}),
    "markup": ({"README.md": "---\nlicense: <b>free</b>\n---\n"}, {}),
    "a broken card": ({"README.md": "---\nlicense: [\n---\n"}, {}),
    "no mapping": ({"README.md": "---\n- license\n---\n"}, {}),
    "bytes": ({"README.md": "---\nlicense: \udcff\n---\n"}, {}),
}


@pytest.mark.parametrize("name", LICENCES)
def test_the_bases_licence(name: str, tmp_path: Path) -> None:
    files, expected = LICENCES[name]
    for file, text in files.items():
        (tmp_path / file).write_bytes(text.encode("utf-8", "surrogateescape"))
    base = base_of(ModelConfig(name=str(tmp_path)))
    assert (base.hub_id, base.name, base.licence) == (None, tmp_path.name, expected)
    config = resolve(None, [f"model.name={tmp_path}", "task.name=sst2", "train.output_dir=o"], method="mezo")
    text = of_run(fake(config), config)
    front = read(text)
    assert {key: front[key] for key in front if key.startswith("license")} == expected
    assert ("Not known: " in text) == (not expected)


def test_a_hub_models_card_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("zofo.models.load._hub_has_address", lambda: True)
    with hub() as served:
        served.repositories["me/base"] = {"main": {"README.md": b"---\nlicense: gemma\n---\n"}}
        base = base_of(ModelConfig(name="me/base"))
        assert (base.hub_id, base.licence) == ("me/base", {"license": "gemma"})
        assert base_of(ModelConfig(name="me/other")).licence == {}


def test_each_paper_that_a_part_names_is_in_the_bibliography() -> None:
    entries, named = papers.entries(), set[str]()
    for kind in papers.PARTS.values():
        for name in registry.names(kind):
            named |= set(papers.NUMBER.findall(registry.docstring(kind, name)))
    assert set(entries) == named
    for entry in [*entries.values(), papers.of_zofo("1"), papers.bibtex("9999.99999")]:
        assert entry.count("{") == entry.count("}")
    keys = [re.match(r"@\w+\{([\w:]+),", entry) for entry in entries.values()]
    assert len({key.group(1) for key in keys if key}) == len(entries)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    ours, (paper,) = papers.of_zofo(citation["version"]), citation["references"]
    assert all(f"{{{citation[key]}}}" in ours for key in ("title", "version", "license"))
    assert citation["authors"][0]["name"] in ours
    bilevel = entries["2502.03604"]
    assert re.sub("[{}]", "", re.findall("title = (.*),", bilevel)[0]) == paper["title"]
    assert all(f"{who['family-names']}, {who['given-names']}" in bilevel for who in paper["authors"])
