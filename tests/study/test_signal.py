"""`zofo signal` at a run, a checkpoint and a start: beside exact gradients in float64; what it prints and refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import sentiment_rows, write_rows
from zofo import InputError, RunError, finetune, load, resolve
from zofo.cli import main as cli
from zofo.config.resolve import Config
from zofo.study.signal import signal


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", sentiment_rows(90))


@pytest.fixture(scope="module")
def run(tiny_model_dir: Path, rows: Path) -> Path:
    options: dict[str, Any] = {"max_steps": 9, "batch_size": 4, "eval_steps": 3, "save_steps": 3, "seed": 1}
    method = {"name": "bilevel-zofo", "inner_steps": 2, "lr_theta": 1e-4}
    return finetune(str(tiny_model_dir), str(rows), method, "lora", output_dir=rows.parent / "run", **options).path


def at_the_start(model: Path, rows: Path) -> Config:
    return resolve(None, [], None, model=str(model), task=str(rows), method="mezo", train={"output_dir": "x"})


def exact(run: Path, examples: list[dict[str, Any]]) -> tuple[float, float, dict[str, float]]:
    """(|g|^2, the variance of a row's gradient, |g|^2 of each tensor) of theta beside s, by float64 gradients."""
    model, tokenizer = load(run)
    model = model.double()
    theta = {name: p for name, p in model.named_parameters() if "lora" not in name and "modules_to_save" not in name}
    for param in theta.values():
        param.requires_grad_(True)
    gradients = []
    for row in examples:
        scores = []
        for answer in row["answers"]:
            prompt, whole = (tokenizer(text)["input_ids"] for text in (row["prompt"], row["prompt"] + answer))
            logp = model(torch.tensor([whole])).logits[0].log_softmax(-1)
            scores.append(
                sum(logp[i - 1, whole[i]] for i in range(len(prompt), len(whole))) / (len(whole) - len(prompt))
            )
        loss = -torch.stack(scores).log_softmax(0)[row["gold"][0]]
        assert float(loss.detach()) == pytest.approx(row["loss"], rel=1e-4)
        parts = torch.autograd.grad(loss, list(theta.values()), allow_unused=True)
        gradients.append([torch.zeros(1) if g is None else g.flatten() for g in parts])
    every = torch.stack([torch.cat(each) for each in gradients])
    means = [torch.stack(each).mean(0) for each in zip(*gradients)]
    by_tensor = {name: float(mean.square().sum()) for name, mean in zip(theta, means)}
    return float(every.mean(0).square().sum()), float(every.var(0).sum()), by_tensor


def test_the_intervals_hold_exact_gradients(run: Path) -> None:
    deployed = json.loads((run / "run.json").read_text())["deployed"]
    lines = [json.loads(line) for line in (run / "eval" / f"predictions-{deployed}.jsonl").open()]
    found = signal(run, split="test", limit=len(lines), directions=48, by_layer=8)
    gradient, variance, by_tensor = exact(run, lines)
    assert found.loss == pytest.approx(sum(row["loss"] for row in lines) / len(lines), rel=1e-6)
    n = len(lines)
    fair = gradient - variance / n  # of the rows' own mean the part that is not theirs alone
    assert found.moments.gradient.contains(fair)
    assert found.moments.variance.contains(variance)
    assert found.moments.variance.high < 3 * variance, "and that says something"
    name = "model.layers.0"
    here = sum(value for tensor, value in by_tensor.items() if f"{name}." in tensor)
    assert found.layers[name].low <= here <= max(found.layers[name].high, here / 2)


def test_where_it_can_be_asked(run: Path, rows: Path, tiny_model_dir: Path) -> None:
    small: dict[str, Any] = {"limit": 8, "directions": 4}
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    again = [signal(run, split="f", **small).to_dict() for _ in range(2)]
    assert again[0] == again[1]
    places = [signal(run / "checkpoint-9", split="p", adapter=which, **small) for which in ("s", "p", "theta")]
    assert [place.place for place in places] == [
        "checkpoint-9, step 9, (theta, s)",
        "checkpoint-9, step 9, (theta, p)",
        "checkpoint-9, step 9, (theta)",
    ]
    assert len({place.loss for place in places}) == 3
    assert places[0].rate == 1e-4
    config = resolve(
        None, [], None, model=str(tiny_model_dir), task=str(rows), method="mezo", train={"output_dir": "x"}
    )
    start = signal(config, split="train", **small)
    assert start.place == "the start, theta"
    assert not Path("x").exists()
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before, "nothing is written"


def test_what_is_printed(run: Path, rows: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--limit", "8", "--directions", "4"]
    assert cli.run(["signal", str(run), "--json", *small]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers == signal(run, limit=8, directions=4).to_dict() | {
        "batch_of_half_signal": numbers["batch_of_half_signal"]  # null where it is infinite
    }
    start = ["--model", str(tiny_model_dir), "--task", str(rows)]
    assert cli.run(["signal", *start, *small, "--by-layer", "2", "--split", "train"]) == 0
    out = capsys.readouterr().out
    for text in ("|g|^2 of the mean gradient", "share of signal", "model.layers.1", "the start, theta: loss"):
        assert text in out


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--split", "devv"], 'split: unknown "devv"; did you mean "dev"?; known: train, dev, test, f, p'),
        (["--eps", "nan"], "eps: must be > 0 and finite"),
        (["--candidate", "q"], "adapter 'q': this run has p, s, theta"),
        (["--method", "mezo"], "--method: "),
        (["train.seed=1"], "train.seed"),
        (["--limit", "1"], "limit"),
    ],
)
def test_what_is_refused(args: list[str], expected: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["signal", str(run), *args]) == 2
    assert expected in capsys.readouterr().err


def test_what_is_no_run_and_what_is_not_finite(tiny_model_dir: Path, rows: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="of a model give a configuration"):
        signal(tiny_model_dir)
    broken = shutil.copytree(tiny_model_dir, tmp_path / "model")
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"].fill_(3e38)
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(RunError, match=r"the loss of rows.jsonl:\d+ is not finite; try a smaller eps"):
        signal(at_the_start(broken, rows), limit=8, directions=2)
