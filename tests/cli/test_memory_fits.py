"""`zofo memory --fits GB`: the table, JSON, shapes by name, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zofo.cli import main as cli
from zofo.cli.fits import sizes_of


def run(capsys: pytest.CaptureFixture[str], *args: str | Path, code: int = 0) -> tuple[str, str]:
    assert cli.run([str(a) for a in ("memory", *args)]) == code
    return capsys.readouterr()


def test_table_of_a_tiny_model(tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each way, and one that a setting rules out is named."""
    ways = ["--method", "mezo", "--method", "fo-ft"]
    out, error = run(
        *(capsys, "--fits", "24", "--model", tiny_model_dir / "config.json", "--length", "16", *ways),
        *("train.batch_size=2", "model.quantization=int8"),
    )
    lines = out.splitlines()
    assert lines[0].endswith("bfloat16, 24 GiB on a card: the largest batch that fits, and what it needs in GiB")
    assert [line.split() for line in lines[1:3]] == [["16", "tokens"], ["mezo", "2:", "0.5"]]
    assert lines[3].startswith("Batches tried: 2;")
    assert "assumed, not measured" in lines[4]
    assert error.startswith("left out: ")
    assert "quantization" in error


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("24", {"24 GiB": 24 * 2**30}),
        ("8GB", {"8 GB (7.5 GiB)": 8 * 10**9}),
        ("8 GiB", {"8 GiB": 2**33}),
        ("8gib,512MiB", {"8 GiB": 2**33, "512 MiB (0.5 GiB)": 2**29}),
    ],
)
def test_sizes(text: str, sizes: dict[str, int]) -> None:
    assert sizes_of(text) == sizes


def test_several_cards_side_by_side(tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A method that may have an adapter is asked about with it."""
    ways = ["--method", "mezo", "--adapter", "lora", "train.batch_size=2"]
    out, _ = run(capsys, "--fits", "0.4,24", "--model", tiny_model_dir / "config.json", "--length", "16", *ways)
    assert [line.split() for line in out.splitlines()[1:3]] == [
        ["0.4", "GiB", "24", "GiB"],
        ["mezo", "(lora)", "no", "(2:", "0.5)", "2:", "0.5"],
    ]


def test_a_model_quantised_elsewhere_is_one_line(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = json.loads((tiny_model_dir / "config.json").read_text())
    plain["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (tmp_path / "config.json").write_text(json.dumps(plain))
    out, error = run(capsys, "--fits", "8", "--model", tmp_path, "--length", "8", code=2)
    assert (out, error.count("\n")) == ("", 1)
    assert error.startswith("error: memory: weights quantised by gptq cannot be predicted")


@pytest.mark.slow
def test_json_has_what_memory_says_of_that_setting(capsys: pytest.CaptureFixture[str]) -> None:
    shape = ["--model", "smollm2-135m", "--length", "64", "--method", "mezo", "model.device=cpu", "--json"]
    out, _ = run(capsys, "--fits", "1.15", *shape)
    table = json.loads(out)
    (cell,) = table["largest"]
    assert table["model"] == "the shape of smollm2-135m"
    assert (table["dtype"], table["device"]) == ("float32", "cpu")
    assert cell["fits"]
    assert cell["needs"] <= cell["size"] < max(each["needs"] for each in table["cells"])
    batch = [f"train.{key}={cell['batch_size']}" for key in ("batch_size", "eval_batch_size")]
    out, _ = run(capsys, *shape, *batch)
    assert json.loads(out)["predicted"][0]["peak_bytes"] == cell["tensors"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--fits", "0", "--model", "llama-3.1-8b"], "--fits: expected the card's memory in GiB"),
        (["--fits", "-3", "--model", "llama-3.1-8b"], "--fits: expected the card's memory in GiB"),
        (["--fits", "nan", "--model", "llama-3.1-8b"], "--fits: expected the card's memory in GiB"),
        (["--fits", "inf", "--model", "llama-3.1-8b"], "--fits: expected the card's memory in GiB"),
        (["--fits", "8GX", "--model", "llama-3.1-8b"], "--fits: expected the card's memory in GiB"),
        (["--fits", "8,", "--model", "llama-3.1-8b"], "--fits: expected the card's memory in GiB"),
        (["--fits", "1e99999", "--model", "llama-3.1-8b"], "--fits: expected the card's memory in GiB"),
        (["--fits", "24", "--model", "smolm2-135m"], '; did you mean "smollm2-135m"?'),
        (["--fits", "24", "--model", "m/Llama-3.1-8B-Instruct"], "; its shape is known here: --model llama-3.1-8b"),
        (["--fits", "24", "--model", "llama-3.1-8b", "--task", "sst2"], "--fits: is asked of rows of given lengths"),
        (["--fits", "24", "--model", "llama-3.1-8b", "--measure"], "leave --measure out"),
        (["--fits", "24", "--model", "llama-3.1-8b", "--method", "mezzo"], "mezzo"),
        (["--fits", "24", "--model", "./gone/config.json"], "no such model directory"),
        (["--fits", "24"], "model.name: required"),
        (["--fits", "24", "--model", "llama-2-7b", "--method", "mezo", "--length", "9999"], "--length: 9999 is more"),
        (["--fits", "24", "--model", "nobody/no-such-model"], "neither a directory here nor reachable on the hub"),
    ],
)
def test_refusals(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, error = run(capsys, *args, code=2)
    assert message in error
    assert error.splitlines()[-1].startswith("error: ")
    assert out == ""
