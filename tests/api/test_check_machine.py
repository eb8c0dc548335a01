"""`zofo check`: what is right passes, what is wrong is named, and entries that people sent can be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import ROOT
from zofo import InputError
from zofo.api.check_machine import bits, run, world
from zofo.api.check_machine.bits import BitsDiffer, check_bits
from zofo.api.check_machine.entry import FIELDS, read_entry
from zofo.cli import main as cli
from zofo.zo import kernels
from zofo.zo.estimators import spsa

CPU = torch.device("cpu")
ENTRIES = sorted((ROOT / "results" / "machines").glob("*.json"))


def test_the_bits_are_those_of_every_machine() -> None:
    assert check_bits(CPU) == len(list(bits.cases())) + 1


@pytest.mark.parametrize("broken", ["add", "add_rows", "add_split"])
def test_one_wrong_bit_in_one_kernel_is_named(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = getattr(kernels, broken)

    def wrong(dst: torch.Tensor, *given: Any) -> None:
        real(dst, *given)
        flat = dst.view(-1)
        flat[3] = 0 if float(flat[3]) != 0 else 1

    monkeypatch.setattr(kernels, broken, wrong)
    words = {"add": "add, float32", "add_rows": "rows of a table, float32", "add_split": "residual plane"}[broken]
    with pytest.raises(BitsDiffer, match=rf"{words}.*element 3 is"):
        check_bits(CPU)


def test_a_machine_that_agrees_with_itself_alone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where plain integer arithmetic is wrong in the same way."""
    monkeypatch.setattr(bits, "TERMS", [(123456788, 1e-3)])
    with pytest.raises(BitsDiffer, match="all cases agree on this machine, but their digest is"):
        check_bits(CPU)


def test_the_weights_hold_every_kind_of_number() -> None:
    for dtype in bits.DTYPES:
        values = bits.weights(60_000, dtype).float()
        assert not bool(values.isnan().any())
        tiny = torch.finfo(dtype).tiny
        kinds = (values < 0, values > 0, (values.abs() < tiny) & (values != 0), values.abs() > 1e3, values.isinf())
        assert [bool(kind.any()) for kind in kinds[:4]] == [True] * 4, dtype
        assert bool(kinds[4].any()) or dtype == torch.float32


def test_an_estimate_that_writes_theta_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = spsa.Estimator.__call__

    def writes(self: Any, f: Any, theta: Any, step: int, seed: int) -> Any:
        found = real(self, f, theta, step, seed)
        if self.config.law == "gaussian":
            with torch.no_grad():
                next(iter(theta.params.values())).view(-1)[0] += 1
        return found

    monkeypatch.setattr(spsa.Estimator, "__call__", writes)
    verdicts = list(run._theta(CPU, torch.float32))
    assert [verdict.word for verdict in verdicts] == ["FAILS", "FAILS"]
    assert "changed by gaussian" in verdicts[0].words


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mixed_rows_are_compared_with_what_they_are_alone(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    made = world.world(CPU, dtype, tiny=True)
    right = run._mixed(made, dtype)
    assert right.word == "ok"
    loss = made.problem.loss
    tables = loss._tables
    other = {"p": "s", "s": "p"}

    def crossed(parts: list[tuple[Any, str]]) -> list[torch.Tensor]:
        return tables(parts if len(parts) == 1 else [(batch, other[name]) for batch, name in parts])

    monkeypatch.setattr(loss, "_tables", crossed)
    assert run._mixed(made, dtype).word == "FAILS", "the other adapter"


def test_the_random_state_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    world.world(CPU, torch.float32, tiny=True)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "machine.json"
    args = ["check", "--tiny", "--device", "cpu", "--output", str(file)]
    assert cli.run(args) == 0
    out = capsys.readouterr().out
    content = read_entry(file)
    assert json.loads(out.split("```json\n")[1].split("```")[0]) == content
    assert {check["name"] for check in content["checks"]} >= {"kernels' bits", "theta, shift layer", "mixed rows"}
    assert str(Path.home()) not in out
    assert out.startswith("ok           kernels' bits: ")
    assert cli.run(args) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert cli.run(["check", "--dtype", "int8"]) == 2
    monkeypatch.setattr(bits, "DIGEST", "0")
    assert cli.run([*args, "--overwrite"]) == 1
    said = capsys.readouterr()
    assert "FAILS        kernels' bits" in said.out
    assert "wrong on this machine: kernels' bits" in said.err


@pytest.mark.parametrize("entry", ENTRIES, ids=[path.stem for path in ENTRIES])
def test_every_entry_is_what_zofo_check_writes(entry: Path) -> None:
    assert read_entry(entry)["checks"]
    assert entry.stem == entry.stem.lower()


@pytest.mark.parametrize("field", FIELDS)
def test_what_is_wrong_in_an_entry_is_named(field: str, tmp_path: Path) -> None:
    right = json.loads(ENTRIES[0].read_text("utf-8"))
    for name, change in {"absent": None, "other": {field: object}}.items():
        content = {key: value for key, value in right.items() if key != field}
        if change:
            content |= {field: ["what"] if field not in ("checks",) else 3}
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content))
        with pytest.raises(InputError, match=rf"{field}: (is missing|of another type)"):
            read_entry(path)
