"""`adapter.start`: every method begins with the adapter that it is given, and its run stands on its own."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import zofo
from tests.conftest import sentiment_rows, write_rows
from tests.small_runs import SMALL
from tests.trained_adapters import OWN, PEFT, by_peft, by_zofo, computed, train
from zofo.api import adapter_start
from zofo.api.configure import resolve
from zofo.cli import main as cli
from zofo.models.adapters._set import WEIGHTS
from zofo.train.ownership import START
from zofo.train.setup import Session, build

IDS = torch.tensor([[5, 9, 33, 7, 120, 64]])
METHODS: dict[str, dict[str, Any]] = {
    "mezo": {},
    "bilevel-zofo": {"inner_steps": 1},
    "bilevel-ablations": {"inner_steps": 1, "s_start": "reset"},
    "two-stage": {"inner_steps": 1},
    "bilevel-fo": {"inner_steps": 1},
    "fo-peft": {},
}
SOURCES = [*(("peft", kind) for kind in PEFT), *(("zofo", kind) for kind in OWN)]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", sentiment_rows(24))


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Callable[[str, str], Path]:
    """given(maker, kind) -> the directory of a trained adapter. Read only."""
    root, made = tmp_path_factory.mktemp("given"), dict[tuple[str, str], Path]()

    def get(maker: str, kind: str) -> Path:
        if (maker, kind) not in made:
            make = by_peft if maker == "peft" else by_zofo
            made[maker, kind] = make(tiny_model_dir, root / f"{maker}-{kind}".replace(" ", "-"), kind)
        return made[maker, kind]

    return get


def begun(start: Path, rows: Path, method: str, **sections: Any) -> Session:
    """The session of a run that is to begin, with no more said than where from."""
    sections = {"task": str(rows), "method": {"name": method, **METHODS[method]}, "adapter": {"start": str(start)}} | (
        sections
    )
    config = resolve(None, train={"output_dir": "unused", **SMALL}, **sections)
    trained = adapter_start.trained_for(config)
    assert trained is not None
    return build(config, start=trained.directory)


@torch.no_grad()
def logits_of(session: Session, name: str) -> torch.Tensor:
    adapters = session.problem.adapters
    assert adapters is not None
    with adapters.active(name):
        return adapters.model(input_ids=IDS, use_cache=False).logits[:, -IDS.shape[1] :]


CASES = [(*source, list(METHODS)[number % len(METHODS)]) for number, source in enumerate(SOURCES)]
CASES += [("peft", "lora", name) for name in METHODS if ("peft", "lora", name) not in CASES]
CASES += [("zofo", "prefix", "mezo"), ("zofo", "dept", "bilevel-zofo"), ("peft", "prompt", "mezo")]


@pytest.mark.parametrize(("maker", "kind", "method"), list(dict.fromkeys(CASES)))
def test_every_copy_computes_what_peft_computes(
    maker: str, kind: str, method: str, rows: Path, tiny_model_dir: Path, given: Callable[[str, str], Path]
) -> None:
    start = given(maker, kind)
    right = computed(tiny_model_dir, start, kind == "dept")(IDS)
    session = begun(start, rows, method)
    config = session.config
    wanted = PEFT[kind][2] if maker == "peft" else {"name": kind, **OWN[kind]}
    settings = {"name": config.names["adapter"], **config.to_dict()["adapter"]}
    assert {key: settings[key] for key in wanted} == wanted
    assert Path(config.model.name) == tiny_model_dir
    for name in session.method.adapters_used:
        assert (logits_of(session, name) - right).abs().max() < 1e-4
    alone = zofo.load(tiny_model_dir)[0](input_ids=IDS, use_cache=False).logits
    adapters = session.problem.adapters
    assert adapters is not None
    with adapters.without(), torch.no_grad():  # the trial has left nothing on the base
        assert (adapters.model(input_ids=IDS, use_cache=False).logits - alone).abs().max() < 1e-5
    assert not any(p.requires_grad for p in session.backbone.params.values())


def test_each_task_of_a_bank_begins_there(
    small_setting: Path, tiny_model_dir: Path, given: Callable[[str, str], Path]
) -> None:
    start = given("peft", "lora")
    right = computed(tiny_model_dir, start)(IDS)
    for adapters in ("per-task", "shared"):
        task = {"name": str(small_setting), "data": str(small_setting.parent / "data")}
        method = {"name": "meta-bilevel-zofo", "adapters": adapters}
        train = {"output_dir": "unused", "max_steps": 11}
        config = resolve(None, task=task, method=method, adapter={"start": str(start)}, train=train)
        trained = adapter_start.trained_for(config)
        assert trained is not None
        session = build(config, start=trained.directory)
        held = session.problem.adapters
        assert held is not None
        members = [m for name in held.names for m in dict.fromkeys(held.members(name, session.problem.tasks))]
        assert len(members) == (2 * len(session.problem.tasks) if adapters == "per-task" else 2)
        for name in members:
            with held.active(name), torch.no_grad():
                assert (held.model(input_ids=IDS, use_cache=False).logits - right).abs().max() < 1e-4


@pytest.fixture(scope="module")
def lora(given: Callable[[str, str], Path]) -> Path:
    """Read only."""
    return given("peft", "lora")


def test_step_0_is_the_adapter_as_plain_peft_measures_it(
    rows: Path, lora: Path, tiny_model_dir: Path, tmp_path: Path, tiny_tokenizer: Any
) -> None:
    run = train(rows, tmp_path / "run", "fo-peft", lora, max_steps=0)
    logits, rights, losses = computed(tiny_model_dir, lora), [], []
    config = resolve(str(run.path / "config.yaml"), ["adapter.start=null"])
    session = build(config)
    for encoded in session.encoded["test"]:
        example = encoded.example
        scores = []
        for answer in example.answers:
            tokens = tiny_tokenizer(example.prompt + answer, return_offsets_mapping=True, return_tensors="pt")
            ids, ends = tokens["input_ids"], tokens["offset_mapping"][0, :, 1]
            logp = logits(ids).double().log_softmax(-1)
            scores.append(
                torch.stack(
                    [logp[0, i - 1, ids[0, i]] for i in range(1, ids.shape[1]) if ends[i] > len(example.prompt)]
                ).mean()
            )
        gold = example.gold[0]
        losses.append(-torch.stack(scores).log_softmax(0)[gold])
        rights.append(int(torch.stack(scores).argmax()) == gold)
    assert run.test["n"] == len(losses) > 1
    assert math.isclose(run.test["loss"], float(torch.stack(losses).mean()), rel_tol=1e-4)
    assert run.test["accuracy"] == sum(rights) / len(rights)


def test_half_precision_weights_are_taken(rows: Path, lora: Path, tmp_path: Path) -> None:
    start = shutil.copytree(lora, tmp_path / "half")
    save_file({key: value.bfloat16() for key, value in load_file(start / WEIGHTS).items()}, start / WEIGHTS)
    run = train(rows, tmp_path / "run", "fo-peft", start, max_steps=0)
    kept = load_file(run.path / START / WEIGHTS)
    assert all(torch.equal(kept[key], value.float()) for key, value in load_file(start / WEIGHTS).items())


def test_memory_and_a_rehearsal(rows: Path, lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--task", str(rows), "--method", "fo-peft", f"adapter.start={lora}"]
    assert cli.run(["memory", *args, "--length", "8", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["predicted"][0]["adapter"] == "lora"
    assert cli.run(["train", *args, "--output-dir", str(tmp_path / "out"), "--dry-run", "train.batch_size=2"]) == 0
    assert not (tmp_path / "out").exists()
    assert cli.run(["validate", *args, "--output-dir", str(tmp_path / "out")]) == 0
    assert re.search(r"r: 4 +# of adapter.start", capsys.readouterr().out)
