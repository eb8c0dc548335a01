"""`zofo validate RUN`: whatever happens to a file of a run is named or proven harmless; what is whole is whole."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from tests.conftest import sentiment_rows, write_rows
from zofo import InputError, evaluate, export, finetune, load
from zofo.api.check_run import UNCHECKED, check_run
from zofo.models.sealed import MANIFEST, sha256_of
from zofo.zo.journal import read_header

SMALL: dict[str, Any] = {"max_steps": 8, "batch_size": 4, "eval_steps": 4, "save_steps": 4}
METHODS: dict[str, dict[str, Any]] = {
    "bilevel-zofo": {"name": "bilevel-zofo", "inner_steps": 1, "lr_theta": 1e-3},
    "mezo": {"name": "mezo", "lr": 1e-3},
    "fo-ft": {"name": "fo-ft", "lr": 1e-3},
}
HARMLESS = ("metrics.jsonl", "README.md", "eval/")  # their contents: nothing is made from them


def train(model: Path, task: Path, out: Path, method: str, seed: int = 3, **options: Any) -> Path:
    given = {**SMALL, **options}
    return finetune(str(model), str(task), METHODS[method], output_dir=out, seed=seed, **given).path


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "sentiment.jsonl", sentiment_rows())


@pytest.fixture(scope="module", params=["bilevel-zofo", "mezo", pytest.param("fo-ft", marks=pytest.mark.slow)])
def runs(
    request: pytest.FixtureRequest, tiny_model_dir: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A finished run, and one with another seed. Tests put back what they change."""
    folder = tmp_path_factory.mktemp(request.param)
    options = {"max_replay_seconds": 0.0} if request.param == "mezo" else {}  # snapshots of theta too
    one, other = (train(tiny_model_dir, rows, folder / f"seed-{n}", request.param, n, **options) for n in (3, 4))
    return one, other


def faults(run: Path, *overrides: str, model: str | None = None) -> list[str]:
    return [fault for _, fault in check_run(run, model, overrides) if fault]


def files(run: Path) -> list[str]:
    return sorted(path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file())


def damages(raw: bytes, other: bytes | None, turn: int, every: int) -> Iterator[tuple[str, bytes | None]]:
    """(what happened, the bytes then; None: the file is gone). other: the file of that name of another run.

    every: of the cuts and of the changes, only each so many-th, from `turn` on.
    """
    for size in (0, 1, *(len(raw) * share // 100 for share in (10, 25, 50, 75, 90)), len(raw) - 1)[turn::every]:
        yield f"cut to {size}", raw[:size]
    for share in (0.0, 0.37, 0.5, 0.93)[turn::every]:
        at = int(share * len(raw))
        yield f"byte {at} changed", raw[:at] + bytes([raw[at] ^ 4]) + raw[at + 1 :]
    yield "zeroed", bytes(len(raw))
    yield "missing", None
    if other is not None:
        yield "another run's", other


def same_json(one: bytes | None, other: bytes) -> bool:
    """Such as a file that lost its last line break: what is read from it is the same."""
    try:
        return json.loads(one or b"") == json.loads(other)
    except ValueError:
        return False


def test_a_whole_run_has_no_fault_and_is_left_as_it_is(runs: tuple[Path, Path]) -> None:
    before = {name: sha256_of(runs[0] / name) for name in files(runs[0])}
    results = check_run(runs[0])
    assert [fault for _, fault in results if fault] == []
    said = "\n".join(what for what, _ in results)
    assert said.count("not checked") == 0, said
    assert "examples" in said
    for name in ("config.yaml", "run.json", "manifest.json", "checkpoint-4", "checkpoint-8", *HARMLESS):
        assert name in said
    assert ("journal replayed" in said) is (runs[0] / "journal.bin").exists()
    assert {name: sha256_of(runs[0] / name) for name in files(runs[0])} == before


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_what_happens_to_any_file_is_named(every: int, runs: tuple[Path, Path]) -> None:
    """The files take the cuts and changes by turns; each is zeroed, missing and another run's."""
    run, other = runs
    for number, name in enumerate(files(run)):
        path, raw = run / name, (run / name).read_bytes()
        foreign = (other / name).read_bytes() if (other / name).is_file() else None
        if not raw or name.startswith(HARMLESS):
            continue
        for what, spoilt in damages(raw, foreign, number % every, every):
            if spoilt == raw or same_json(spoilt, raw):
                continue
            path.unlink() if spoilt is None else path.write_bytes(spoilt)
            told = faults(run)
            path.write_bytes(raw)
            assert told, f"{name} {what}"
            assert all("\n" not in line and ": " in line for line in told)
            about = [name, str(Path(name).parent)] if "/" in name else [name]
            if name == MANIFEST:  # it or what it says of another file: either may be wrong
                about += ["config.yaml", "run.json", "checkpoint-"]
            assert any(word in line for line in told for word in about), f"{name} {what}: {told}"
    assert faults(run) == []


def test_what_is_not_checked_is_harmless(runs: tuple[Path, Path]) -> None:
    """Its contents: a run is evaluated, exported and resumed without. That it is gone is said."""
    run, _ = runs
    unchecked = [name for name in files(run) if name.startswith(HARMLESS)]
    assert {name.split("/")[0].rstrip("/") for name in unchecked} == {name.rstrip("/") for name in HARMLESS}
    assert all(name in UNCHECKED for name in HARMLESS)
    for name in unchecked:
        raw = (run / name).read_bytes()
        (run / name).write_bytes(bytes(len(raw)))
        assert faults(run) == []
        (run / name).unlink()
        assert f"{name}: missing" in "\n".join(faults(run))
        (run / name).write_bytes(raw)


@pytest.mark.parametrize("name", [MANIFEST, "run.json", "config.yaml"])
def test_every_byte_of_the_small_files_counts(name: str, runs: tuple[Path, Path]) -> None:
    """But those of README.md's digest: then that is taken for one that somebody changed, and is kept at a rewriting."""
    path, raw = runs[0] / name, (runs[0] / name).read_bytes()
    readme = raw.index(sha256_of(runs[0] / "README.md").encode()) if name == MANIFEST else len(raw)
    for at in range(0, len(raw), max(1, len(raw) // 50)):
        if readme <= at < readme + 64:
            continue
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 1 << at % 7]) + raw[at + 1 :])
        assert faults(runs[0]), f"{name}: byte {at}, {raw[at - 20 : at + 20]!r}"
    path.write_bytes(raw)


# ------------------------------------------------------------------------------- faults that no checksum of a file has


@pytest.fixture
def run(runs: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(runs[0], tmp_path / "run")


def seal(directory: Path) -> None:
    """Make a checkpoint's checksums right again."""
    manifest = json.loads((directory / MANIFEST).read_text())
    manifest["sha256"] = {
        name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in manifest["sha256"]
    }
    (directory / MANIFEST).write_text(json.dumps(manifest))


def test_weights_that_are_not_those_of_the_run(run: Path) -> None:
    """A snapshot with one weight changed, an adapter with one tensor of another shape, with right checksums."""
    for path in sorted(run.glob("*/*/*.safetensors")):
        tensors, raw = load_file(path), path.read_bytes()
        key = sorted(tensors)[0]
        sums = (path.parents[1] / MANIFEST).read_bytes()
        replayed = path.name == "theta.safetensors" and (run / "journal.bin").exists()
        changed = tensors[key] + 1e-3 if replayed else tensors[key][:-1].clone()
        save_file({**tensors, key: changed}, path)
        seal(path.parents[1])
        told = "\n".join(faults(run))
        assert str(path.parent.relative_to(run)) in told, (path, told)
        assert key in told
        path.write_bytes(raw)
        (path.parents[1] / MANIFEST).write_bytes(sums)
    assert faults(run) == []


def test_another_model_other_rows_and_what_is_not_there(
    run: Path, tiny_llama_untied_dir: Path, rows: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    assert "the base model is not the one" in "\n".join(faults(run, model=str(tiny_llama_untied_dir)))
    with pytest.raises(InputError, match="no such model directory"):
        check_run(run, str(tmp_path / "nowhere"))
    away = tiny_model_dir.rename(tiny_model_dir.with_name("away"))
    try:
        results = check_run(run)
        assert [fault for _, fault in results if fault] == []
        assert any("not checked, the base model" in what and "--model" in what for what, _ in results)
        assert faults(run, model=str(away)) == []
    finally:
        away.rename(tiny_model_dir)
    raw = rows.read_bytes()
    try:
        rows.write_bytes(raw.replace(b"warm", b"cold", 1))
        assert "examples than the run was made with" in "\n".join(faults(run))
        rows.write_bytes(raw + b'{"text": 3')
        assert f"{rows.name}:61: " in "\n".join(faults(run))
        rows.rename(tmp_path / "away")
        results = check_run(run)
        assert [fault for _, fault in results if fault] == []
        assert any("examples" in what and "not checked" in what for what, _ in results)
    finally:
        rows.write_bytes(raw)
    with pytest.raises(InputError, match=r"takes model\.key=value alone"):
        check_run(run, None, ["train.seed=3"])
    with pytest.raises(InputError, match="no run here"):
        check_run(tiny_model_dir)


def test_directories_of_another_run_or_gone(run: Path, runs: tuple[Path, Path]) -> None:
    for name in [path.name for path in run.iterdir() if path.name.startswith("checkpoint-")]:
        shutil.rmtree(run / name)
        shutil.copytree(runs[1] / name, run / name)
        assert f"{name}: another run's" in "\n".join(faults(run))
        shutil.rmtree(run / name)
        shutil.copytree(runs[0] / name, run / name)
    info = json.loads((run / "run.json").read_text())
    best = run / f"best-{info['best_step']}"
    shutil.rmtree(best)
    assert f"{best.name}: missing here or in manifest.json, and run.json needs it" in "\n".join(faults(run))


def test_a_journal_with_the_same_header_is_another_runs(tiny_model_dir: Path, rows: Path, tmp_path: Path) -> None:
    """Same seed and settings of what moves theta, another rate: only its records tell, and a resume sees it too."""
    one = train(tiny_model_dir, rows, tmp_path / "one", "mezo")
    other = train(tiny_model_dir, rows, tmp_path / "other", "mezo", warmup_steps=3)
    assert (one / "journal.bin").stat().st_size == (other / "journal.bin").stat().st_size
    shutil.copyfile(other / "journal.bin", one / "journal.bin")
    told = "\n".join(faults(one))
    assert "not the one that checkpoint-4 was made with" in told
    assert "not the one that checkpoint-8 was made with" in told
    raw = (one / "journal.bin").read_bytes()
    with pytest.raises(InputError, match="it is another run's journal"):
        train(tiny_model_dir, rows, one, "mezo", max_steps=12, resume="latest")
    assert (one / "journal.bin").read_bytes() == raw


def test_every_verb_names_the_damaged_record(tiny_model_dir: Path, rows: Path, tmp_path: Path) -> None:
    """A record before the best step's position: no verb goes on with a shorter replay, and nothing is cut."""
    run = train(tiny_model_dir, rows, tmp_path / "run", "mezo")
    path, start = run / "journal.bin", read_header(run / "journal.bin")[1]
    raw = path.read_bytes()
    path.write_bytes(
        raw[: start + 70] + raw[start + 105 : start + 140] + raw[start + 70 : start + 105] + raw[start + 140 :]
    )
    spoilt = path.read_bytes()
    for verb in (
        lambda: evaluate(run),
        lambda: load(run),
        lambda: export(run, tmp_path / "export"),
        lambda: train(tiny_model_dir, rows, run, "mezo", max_steps=12, resume="latest"),
    ):
        with pytest.raises(
            InputError, match=rf"journal\.bin: record 2 at byte {start + 70} is damaged, or not the one"
        ):
            verb()
    assert path.read_bytes() == spoilt
    assert not (tmp_path / "export").exists()


# ------------------------------------------------------------------------------------------------------ no false alarm


class _Stop(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_was_stopped_went_back_or_was_pruned_has_no_fault(
    method: str, tiny_model_dir: Path, rows: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    for options in ({}, {"max_steps": 16, "resume": "latest", "save_total_limit": 1}):
        with pytest.raises(KeyboardInterrupt):
            train(tiny_model_dir, rows, out, method, callbacks=[_Stop(6)], **options)
        assert faults(out) == []
    train(tiny_model_dir, rows, out, method, max_steps=16, resume="latest")
    assert faults(out) == []
    with pytest.raises(KeyboardInterrupt):
        train(
            tiny_model_dir, rows, out, method, max_steps=20, callbacks=[_Stop(10)],
            resume=str(min(out.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))),
        )  # fmt: skip
    assert faults(out) == []
    train(tiny_model_dir, rows, out, method, max_steps=20, resume="latest")
    assert faults(out) == []


def test_a_kill_while_the_end_was_written_is_no_fault(run: Path) -> None:
    """A file is named in manifest.json before it is there, run.json last."""
    manifest = json.loads((run / MANIFEST).read_text())
    manifest["files"].remove("run.json")
    (run / MANIFEST).write_text(json.dumps(manifest))
    for name in ("run.json", "README.md"):
        (run / name).unlink()
    assert faults(run) == []
    (run / "config.yaml").unlink()
    assert "config.yaml: missing" in "\n".join(faults(run))
