"""Every file of an export counts, whoever opens it; and a resume looks at the best that it will go back to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import sentiment_rows, write_rows
from zofo import InputError, evaluate, export, finetune, load
from zofo.config.sections import ModelConfig
from zofo.models.load import load as load_model

SMALL: dict[str, Any] = {"max_steps": 4, "batch_size": 4, "eval_steps": 2, "save_steps": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", sentiment_rows(60))


@pytest.fixture(scope="module", params=[("lora", None), ("lora", False), ("prompt", False)], ids=str)
def exported(
    request: pytest.FixtureRequest, tiny_model_dir: Path, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """An export, and one of a run with another seed."""
    (adapter, merge), folder = request.param, tmp_path_factory.mktemp("exported")
    outs = []
    for seed in (3, 4):
        method = {"name": "fo-peft", "lr": 1e-2}
        out = folder / f"run-{seed}"
        run = finetune(str(tiny_model_dir), str(data), method, adapter, output_dir=out, seed=seed, **SMALL)
        outs.append(run.export(folder / f"export-{seed}", merge=merge))
    return outs[0], outs[1]


def test_a_file_that_is_not_as_it_was_written_is_named(exported: tuple[Path, Path]) -> None:
    out, other = exported
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert len(names) >= 7
    for name in names:
        path, raw = out / name, (out / name).read_bytes()
        at, swapped = len(raw) // 2, (other / name).read_bytes()
        for content in (
            raw[:at],
            raw[:-1],
            raw[:at] + bytes([raw[at] ^ 4]) + raw[at + 1 :],
            bytes(len(raw)),
            swapped,
            None,
        ):
            if content == raw or (name == "manifest.json" and content == raw[:-1]):  # its last line break
                continue
            path.unlink() if content is None else path.write_bytes(content)
            try:
                if name == "README.md":
                    load(out)  # it is for people
                else:
                    for verb in (lambda: load(out), lambda: evaluate(out, limit=2)):
                        with pytest.raises(InputError) as caught:
                            verb()
                        assert Path(name).name in str(caught.value), (name, str(caught.value))
                        assert "\n" not in str(caught.value)
            finally:
                path.write_bytes(raw)
    load(out)


def test_what_trains_on_an_export_looks_at_it_too(exported: tuple[Path, Path]) -> None:
    out = exported[0]
    model = out / "backbone" if (out / "backbone").is_dir() else out
    path, raw = model / "model.safetensors", (model / "model.safetensors").read_bytes()
    load_model(ModelConfig(name=str(model)))
    path.write_bytes(raw[:-3] + b"\x01\x02\x03")
    with pytest.raises(InputError, match=r"^/.*model\.safetensors: its checksum is wrong"):
        load_model(ModelConfig(name=str(model)))
    path.write_bytes(raw)


@pytest.mark.parametrize("how", ["a bit", "gone"])
def test_a_resume_looks_at_the_best_of_its_checkpoint(
    how: str, tiny_model_dir: Path, data: Path, tmp_path: Path
) -> None:
    """The run's end goes back to it: it would be another model without a word."""

    def train(**options: Any) -> Any:
        method = {"name": "fo-peft", "lr": 1e-2}
        given = {**SMALL, "max_steps": 6, **options}
        return finetune(str(tiny_model_dir), str(data), method, "lora", output_dir=tmp_path / "run", seed=3, **given)

    run = train(save_total_limit=None)
    needed = {
        path.parent.name: json.loads(path.read_text())["best"]["count"]
        for path in run.path.glob("checkpoint-*/state.json")
    }
    best = run.path / f"best-{needed['checkpoint-6']}"
    if how == "gone":
        best.rename(tmp_path / "away")
    else:
        path = best / "s" / "adapter_model.safetensors"
        path = path if path.is_file() else next(best.glob("*/adapter_model.safetensors"))
        raw = path.read_bytes()
        path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 4]))
    older = [name for name, count in needed.items() if f"best-{count}" != best.name]
    if older:
        train(resume="latest", save_total_limit=None)
    else:
        with pytest.raises(InputError, match=f"{best.name}/.*(checksum is wrong|missing)"):
            train(resume="latest", save_total_limit=None)


def test_a_run_without_its_manifest_is_no_older_version(tiny_model_dir: Path, data: Path, tmp_path: Path) -> None:
    run = finetune(str(tiny_model_dir), str(data), {"name": "mezo", "lr": 1e-3}, output_dir=tmp_path / "run", **SMALL)
    raw = (run.path / "manifest.json").read_bytes()
    (run.path / "manifest.json").unlink()
    for verb in (
        lambda: evaluate(run.path),
        lambda: export(run.path, tmp_path / "export"),
        lambda: finetune(
            str(tiny_model_dir), str(data), {"name": "mezo", "lr": 1e-3}, output_dir=run.path, resume="latest", **SMALL
        ),
    ):
        with pytest.raises(InputError, match=r"manifest\.json: missing"):
            verb()
    (run.path / "manifest.json").write_bytes(raw)
    evaluate(run.path)
