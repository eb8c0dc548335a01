"""Runs that began with `adapter.start`: they go on, and are checked and used, when what they began with is gone."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import zofo
from tests.conftest import sentiment_rows, write_rows
from tests.trained_adapters import by_peft, by_zofo, train
from zofo import InputError
from zofo.api import configure
from zofo.api.check_run import check_run
from zofo.cli import main as cli
from zofo.models.adapters._set import CONFIG, WEIGHTS
from zofo.train import setup
from zofo.train.ownership import START

LORA = {"r": 4, "alpha": 8, "target_modules": ["o_proj", "q_proj"]}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", sentiment_rows(24))


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    """Read only."""
    return by_peft(tiny_model_dir, tmp_path_factory.mktemp("given") / "my-lora", "lora")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, rows: Path, lora: Path) -> Path:
    """ROOT of ROOT/fo-peft and ROOT/bilevel-zofo, and of ROOT/apart and ROOT/apart-fo, their exports. Read only."""
    root = tmp_path_factory.mktemp("runs")
    for method, out in (("fo-peft", "apart-fo"), ("bilevel-zofo", "apart")):
        train(rows, root / method, method, lora).export(root / out, merge=False)
    return root


@pytest.mark.parametrize(
    ("method", "again"),
    [("mezo", "the call"), ("bilevel-ablations", "its config"), ("bilevel-ablations", "the call")],
)
def test_it_goes_on_and_is_used_without_what_it_began_with(
    method: str, again: str, rows: Path, lora: Path, tmp_path: Path
) -> None:
    start = shutil.copytree(lora, tmp_path / "lora")
    kind: Any = method
    if method == "bilevel-ablations":  # s goes back to where it began, at each iteration
        kind = {"name": method, "inner_steps": 1, "s_start": "reset"}
    whole = train(rows, tmp_path / "whole", kind, start)
    train(rows, tmp_path / "cut", kind, start, max_steps=4)
    shutil.rmtree(start)
    if again == "the call":
        cut = train(rows, tmp_path / "cut", kind, start, resume="latest")
    else:
        assert cli.run(["train", "--resume", str(tmp_path / "cut"), "--max-steps", "8"]) == 0
        cut = zofo.Run(tmp_path / "cut", json.loads((tmp_path / "cut" / "run.json").read_text()))
    assert cut.test == whole.test
    for name in [folder.name for folder in (whole.path / "checkpoint-8").iterdir() if folder.is_dir()]:
        one, other = (load_file(run.path / "checkpoint-8" / name / WEIGHTS) for run in (whole, cut))
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert [fault for _, fault in check_run(cut.path) if fault] == []
    assert any("adapter-start: the adapter that the run began with" in what for what, _ in check_run(cut.path))
    if again == "its config":
        return
    shutil.move(cut.path, tmp_path / "moved")
    scored = zofo.evaluate(tmp_path / "moved")
    assert scored["loss"] == pytest.approx(cut.test["loss"], rel=1e-6)
    zofo.export(tmp_path / "moved", tmp_path / "out", merge=False)
    assert zofo.evaluate(tmp_path / "out", task=str(rows)) == zofo.evaluate(tmp_path / "moved", task=str(rows))
    assert zofo.predict(tmp_path / "moved", ["a warm film"])[0]["prediction"] in ("great", "terrible")


def test_what_is_kept_of_the_start_is_checked(
    rows: Path, lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And for mezo on an adapter that the journal leads from there to what is saved."""
    run = train(rows, tmp_path / "run", "mezo", lora)
    kept = run.path / START
    state = load_file(kept / WEIGHTS)
    assert all(torch.equal(state[key], value) for key, value in load_file(lora / WEIGHTS).items())
    assert str(lora) not in (kept / CONFIG).read_text()
    assert run.info["inputs"]["start"]["sha256"]
    copy = shutil.copytree(run.path, tmp_path / "copy")
    save_file({key: value + 1 for key, value in state.items()}, copy / START / WEIGHTS)
    assert any("its checksum is wrong" in fault for _, fault in check_run(copy))
    assert cli.run(["train", "--resume", str(copy), "--max-steps", "12"]) == 2
    shutil.rmtree(copy / START)
    assert any(f"{START}: missing" in fault for _, fault in check_run(copy))
    assert cli.run(["train", "--resume", str(copy), "--max-steps", "12"]) == 2
    assert "missing, which the run's adapters began with; put back a copy" in capsys.readouterr().err


def test_another_start_is_no_resume(rows: Path, lora: Path, runs: Path, tmp_path: Path) -> None:
    other = shutil.copytree(lora, tmp_path / "other")
    with pytest.raises(InputError, match=f"began with {re.escape(str(lora))}, and goes on from there; leave it out"):
        train(rows, runs / "fo-peft", "fo-peft", other, resume="latest")


@pytest.mark.parametrize("method", ["fo-peft", "mezo", "bilevel-zofo"])
@pytest.mark.parametrize("source", ["apart", "apart-fo", "fo-peft", "fo-peft/checkpoint-4"])
def test_from_an_export_and_from_a_run(
    source: str, method: str, rows: Path, runs: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """The model comes with the adapter: where it moved too, the one that moved."""
    if method == "bilevel-zofo" and source != "apart":
        return
    run = train(rows, tmp_path / "run", method, runs / source, max_steps=0)
    backbone = {"apart": runs / "apart" / "backbone", "apart-fo": runs / "apart-fo" / "backbone"}
    assert Path(run.info["model"]) == backbone.get(source, tiny_model_dir)
    assert run.test["loss"] == pytest.approx(zofo.evaluate(runs / source)["loss"], rel=1e-5)


def test_the_card_names_it_without_its_path(runs: Path, lora: Path, tmp_path: Path) -> None:
    card = (runs / "fo-peft" / "README.md").read_text()
    assert "it went on from a trained one, `my-lora` (SHA-256 of its weights" in card
    assert "start: my-lora" in card
    for path in (runs / "fo-peft" / "README.md", runs / "apart" / "README.md"):
        assert str(lora.parent) not in path.read_text()
    from zofo.train.run_dir import RunDir

    config = RunDir(runs / "fo-peft").read_config()
    assert config.to_dict()["adapter"]["start"] == str(lora)
    assert config.bare().to_dict()["adapter"]["start"] == "./my-lora"
    assert str(lora.parent) not in config.bare().to_yaml()


# ------------------------------------------------------------------------------------------------------ what is refused


def spoilt(folder: Path, what: str) -> Path:
    """A copy of a trained LoRA with one thing wrong."""
    config = json.loads((folder / CONFIG).read_text())
    if what in ("use_dora", "use_rslora"):
        config[what] = True
    elif what == "pissa":
        config["init_lora_weights"] = "pissa"
    elif what == "rank_pattern":
        config["rank_pattern"] = {"q_proj": 2}
    elif what == "kind":
        config["peft_type"] = "LOHA"
    elif what == "rank":
        config["r"] = 2.5
    elif what == "head":
        config["target_modules"] = ["lm_head"]
    elif what == "alpha":
        config["lora_alpha"] = 8.5
    (folder / CONFIG).write_text("{" if what == "json" else json.dumps(config))
    weights = folder / WEIGHTS
    if what == "nan":
        save_file({key: value * math.nan for key, value in load_file(weights).items()}, weights)
    elif what == "cut":
        weights.write_bytes(weights.read_bytes()[:300])
    elif what == "pickle":
        torch.save(load_file(weights), folder / "adapter_model.bin")
        weights.unlink()
    elif what == "no weights":
        weights.unlink()
    return folder


REFUSED = {
    "use_dora": "use_dora is True, which zofo's lora does not have; merge the adapter into its model",
    "use_rslora": "use_rslora is True, which zofo's lora does not have",
    "pissa": "init_lora_weights is 'pissa', which changes the base model's own weights",
    "rank_pattern": "rank_pattern is {'q_proj': 2}, which zofo's lora does not have",
    "kind": "an adapter of the kind LOHA, and zofo trains dept, ia3, lora, prefix, prompt; merge it",
    "rank": "r is 2.5, and zofo takes whole numbers from 1 on",
    "alpha": "lora_alpha is 8.5, and zofo takes whole numbers",
    "head": "adapter.target_modules: 'lm_head' is the head, which cannot be adapted",
    "json": f"{CONFIG}",
    "nan": "NaN or infinite weights",
    "cut": WEIGHTS,
    "pickle": "adapter_model.bin: a pickle, which is not loaded; where you trust it, PEFT makes",
    "no weights": f"no {WEIGHTS}, so no weights of the adapter",
}


@pytest.mark.parametrize("what", list(REFUSED))
def test_a_start_that_cannot_be_is_refused_before_a_model_is_loaded(
    what: str, rows: Path, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    start = spoilt(shutil.copytree(lora, tmp_path / "start"), what)

    def load(*_: Any) -> None:
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(setup, "load_model", load)
    args = ["--task", str(rows), "--method", "mezo", "--output-dir", str(tmp_path / "out"), f"adapter.start={start}"]
    for verb in ("train", "validate"):
        assert cli.run([verb, *args]) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        assert REFUSED[what] in lines[0]
        assert lines[0].startswith("error: adapter.")
    assert not (tmp_path / "out").exists()


SAID = {
    "adapter.r=16": r"adapter\.r: 16 \(command line\), and the adapter in .* has 4; leave it out",
    "adapter.alpha=4": r"adapter\.alpha: 4 \(command line\), and the adapter in .* has 8; leave it out",
    "adapter.name=prefix": r"adapter\.name: 'prefix' \(command line\), and the adapter in .* has 'lora'; leave it out",
    "adapter.target_modules=[v_proj]": r"adapter\.target_modules: \['v_proj'\] \(command line\), and .* \['o_",
    "method.apart=true": r"method\.apart: p and s both begin with the adapter of adapter\.start",
}


@pytest.mark.parametrize("said", [*SAID, "adapter.r=4", "adapter.target_modules=q_proj,o_proj", "adapter.name=lora"])
def test_what_is_said_and_is_otherwise_is_named(said: str, rows: Path, lora: Path) -> None:
    given = {"task": str(rows), "method": "bilevel-ablations", "train": {"output_dir": "out"}}
    if said in SAID:
        with pytest.raises(InputError, match=SAID[said]):
            configure.resolve(None, [f"adapter.start={lora}", said], **given)
    else:
        config = configure.resolve(None, [f"adapter.start={lora}", said], **given)
        assert sorted(config.adapter.target_modules) == LORA["target_modules"]
        assert (config.adapter.r, config.adapter.alpha) == (4, 8)


def test_a_presets_settings_give_way(rows: Path, lora: Path) -> None:
    given: dict[str, Any] = {"task": str(rows), "adapter": {"start": str(lora)}, "train": {"output_dir": "out"}}
    config = configure.resolve(None, ["train.max_steps=100"], "paper", **given)
    assert (config.names["adapter"], config.adapter.r, config.adapter.alpha) == ("lora", 4, 8)


def test_what_has_no_effect_is_said(rows: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    start = by_zofo(tiny_model_dir, tmp_path / "prompt", "prompt")
    with pytest.raises(InputError, match=r"adapter\.text: 'Be kind' \(command line\) is where a fresh adapter starts"):
        configure.resolve(
            None, [f"adapter.start={start}", "adapter.text=Be kind"], task=str(rows), method="fo-peft",
            train={"output_dir": "out"},
        )  # fmt: skip


def test_places_that_are_none(rows: Path, lora: Path, runs: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "outer").mkdir()
    shutil.copytree(lora, tmp_path / "outer" / "checkpoint-500")
    bilevel = runs / "bilevel-zofo"
    for place, words in {
        "someone/adapter": "no such directory: someone/adapter; of one on the hub: hf download",
        lora / WEIGHTS: "is a file; give the directory that holds it",
        tiny_model_dir: "is a whole model, and an adapter that was merged is in its weights; give it as --model",
        tmp_path / "outer": "so no adapter; there is one in checkpoint-500: give one of these",
        tmp_path: "so no adapter; PEFT writes one",
        bilevel: "moved the model's weights together .* --separate` writes both, and adapter.start=OUT takes both",
        bilevel / "checkpoint-4": "moved the model's weights together with the adapter",
        bilevel / "checkpoint-4" / "s": "moved the model's weights together with the adapter",
    }.items():
        with pytest.raises(InputError, match=f"adapter.start: .*{words}"):
            train(rows, tmp_path / "out", "fo-peft", Path(place), model=tiny_model_dir)
    with pytest.raises(InputError, match=r"was trained together with the weights of .*apart/backbone; leave it out"):
        train(rows, tmp_path / "out", "fo-peft", runs / "apart", model=tiny_model_dir)
    with pytest.raises(
        InputError, match=r"method fo-ft does not use it.*zofo export RUN OUT --merge, then --model OUT"
    ):
        train(rows, tmp_path / "out", {"name": "fo-ft"}, lora)
    assert not (tmp_path / "out").exists()


def test_another_base_model_is_said(
    rows: Path,
    lora: Path,
    tiny_llama_untied_dir: Path,
    tiny_opt_dir: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of other shapes it is refused; of the same ones a run may go on, and a line says what that is."""
    with pytest.raises(InputError, match="the adapter does not fit the model"):
        train(rows, tmp_path / "out", "fo-peft", lora, model=tiny_opt_dir)
    assert not (tmp_path / "out").exists()
    caplog.clear()
    train(rows, tmp_path / "out", "fo-peft", lora, model=tiny_llama_untied_dir, max_steps=0)
    said = [line for line in caplog.messages if "was trained on" in line]
    assert len(said) == 1
    assert "on another model its weights mean something else" in said[0]
