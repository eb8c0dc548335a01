"""The subject of a meta-test: what is restored after each tuning, and where a tuning starts."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import zofo
from tests.metatest_output import no_times, parts_in
from tests.metatest_protocol import ALL_TUNED, protocol_on, start_of
from tests.setting_files import as_task, write_rows
from tests.small_setting import best_s, make_setting, mood
from zofo.api.metatest.plan import Plan
from zofo.api.metatest.subject import Subject


def theta_of(subject: Subject) -> dict[str, torch.Tensor]:
    """The backbone's tensors: all but those of the adapter."""
    of_adapter = {id(p) for p in subject.adapters.parameters("tuned").values()} if subject.adapters else set()
    return {name: p for name, p in subject.scorer.model.named_parameters() if id(p) not in of_adapter}


def hash_of(tensors: Iterable[torch.Tensor]) -> str:
    hashed = hashlib.sha256()
    for tensor in tensors:
        hashed.update(tensor.detach().contiguous().numpy().tobytes())
    return hashed.hexdigest()


@pytest.mark.parametrize("name", ["bank", "shared", "soft"])
def test_theta_does_not_move(name: str, run_of: Any, small_setting: Path) -> None:
    protocol = protocol_on(run_of(name), small_setting, ALL_TUNED)
    before = {key: value.clone() for key, value in theta_of(protocol.subject).items()}
    buffers = hash_of(protocol.subject.scorer.model.buffers())
    protocol.run()
    after = theta_of(protocol.subject)
    assert len(before) == len(after) > 10
    for key, value in before.items():
        assert torch.equal(value, after[key]), key
    assert hash_of(protocol.subject.scorer.model.buffers()) == buffers


def test_theta_is_that_of_the_run_and_no_base(run_of: Any, small_setting: Path, tiny_model_dir: Path) -> None:
    """The run's best theta: the plain model's weights are others."""
    model, _ = zofo.load(run_of("bank"), adapter="theta")
    base, _ = zofo.load(tiny_model_dir)
    protocol = protocol_on(run_of("bank"), small_setting, Plan(("zero-shot",)))
    measured = dict(protocol.subject.scorer.model.named_parameters())
    loaded = dict(model.named_parameters())
    assert all(torch.equal(measured[key], loaded[key]) for key in loaded)
    assert any(not torch.equal(measured[key], value) for key, value in base.named_parameters())


@pytest.mark.parametrize("name", ["bank", "shared", "soft"])
def test_zero_shot_after_tunings_is_zero_shot_before(name: str, run_of: Any, small_setting: Path) -> None:
    """Bit for bit, and equal to a meta-test that has no adapter at all."""
    plan = Plan(("zero-shot", "tuned", "tuned-fresh"), seeds=(100,), rates=(1e-1,), steps=4)
    protocol = protocol_on(run_of(name), small_setting, plan)
    pool = protocol.setting.target["film"]
    before = no_times(protocol.part("zero-shot", pool, 100, None))
    tuned = [no_times(protocol.part(way, pool, 100, 1e-1)) for way in ("tuned", "tuned-fresh")]
    assert all(part["loss"] != before["loss"] for part in tuned), "the tunings did something"
    assert no_times(protocol.part("zero-shot", pool, 100, None)) == before
    bare = protocol_on(run_of(name), small_setting, Plan(("zero-shot",)))
    assert bare.subject.adapters is None
    assert no_times(bare.part("zero-shot", bare.setting.target["film"], 100, None)) == before


@pytest.mark.parametrize("name", ["bank", "shared"])
def test_every_part_has_the_same_numbers_alone_and_in_any_order(name: str, run_of: Any, small_setting: Path) -> None:
    run, every = run_of(name), protocol_on(run_of(name), small_setting, ALL_TUNED)
    first = {(p["way"], p["task"], p["seed"]): no_times(p) for p in every.run()}
    assert len(first) == 3 * (1 + 2 + 2)
    assert len({p["loss"] for p in first.values()}) == len(first), "no two are the same by accident"

    turned = Plan(("tuned-fresh", "tuned", "zero-shot"), seeds=(13, 100), rates=(3e-2,), steps=3)
    other = protocol_on(run, small_setting, turned)
    other.setting.target = dict(reversed(list(other.setting.target.items())))
    for part in other.run():
        key = (part["way"], part["task"], 100 if part["way"] == "zero-shot" else part["seed"])
        assert {**no_times(part), "seed": key[2]} == first[key]

    alone = protocol_on(run, small_setting, Plan(("tuned",), seeds=(13,), rates=(3e-2,), steps=3))
    assert no_times(alone.part("tuned", alone.setting.target["quiz"], 13, 3e-2)) == first["tuned", "quiz", 13]


def test_tuning_twice_gives_the_same_numbers(run_of: Any, small_setting: Path) -> None:
    """No moment, step count or gradient of the first is left."""
    protocol = protocol_on(run_of("shared"), small_setting, ALL_TUNED)
    pool = protocol.setting.target["kind"]
    one = no_times(protocol.part("tuned", pool, 13, 3e-2))
    protocol.part("tuned", protocol.setting.target["film"], 100, 1e-1)
    assert no_times(protocol.part("tuned", pool, 13, 3e-2)) == one


def members_of(run: Path) -> list[dict[str, torch.Tensor]]:
    """The tensors of the run's best s: of the shared one, or of each training task."""
    return [load_file(path) for path in sorted(best_s(run).rglob("adapter_model.safetensors"))]


@pytest.mark.parametrize("name", ["bank", "shared", "soft"])
def test_tuned_starts_from_the_runs_best_s(name: str, run_of: Any, small_setting: Path) -> None:
    members = members_of(run_of(name))
    assert len(members) == (3 if name == "bank" else 1)
    expected = {key: torch.stack([m[key].double() for m in members]).mean(0).float() for key in members[0]}
    protocol = protocol_on(run_of(name), small_setting, ALL_TUNED)
    tuned = start_of(protocol, "tuned")
    assert tuned.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(tuned[key], value) if name != "bank" else torch.allclose(tuned[key], value, atol=1e-7), key
    fresh = start_of(protocol, "tuned-fresh")
    assert any(not torch.equal(fresh[key], tuned[key]) for key in tuned)
    assert all(torch.equal(start_of(protocol, "tuned")[key], tuned[key]) for key in tuned)


def test_the_best_s_and_not_the_last(run_of: Any, small_setting: Path, tmp_path: Path) -> None:
    """best-N/s is read, whatever the last checkpoint holds."""
    run = tmp_path / "run"
    shutil.copytree(run_of("shared"), run)
    for path in run.glob("checkpoint-*"):
        shutil.rmtree(path)
    whole = protocol_on(run_of("shared"), small_setting, ALL_TUNED)
    without_checkpoints = protocol_on(run, small_setting, ALL_TUNED)
    assert all(torch.equal(v, start_of(whole, "tuned")[k]) for k, v in start_of(without_checkpoints, "tuned").items())


def test_a_fresh_adapter_is_the_runs_kind_and_changes_nothing(run_of: Any, small_setting: Path) -> None:
    protocol = protocol_on(run_of("bank"), small_setting, ALL_TUNED)
    fresh = start_of(protocol, "tuned-fresh")
    assert all(value.abs().max() == 0 for key, value in fresh.items() if "lora_B" in key)
    downs = [value for key, value in fresh.items() if "lora_A" in key]
    assert downs
    assert all(value.shape[0] == 2 and value.abs().max() > 0 for value in downs)
    pool = protocol.setting.target["film"]
    data = protocol._data(pool)
    protocol.subject.begin("tuned-fresh")
    with_fresh, without = (
        protocol.subject.measure(protocol._encoded(way, pool, [], 100), data, 256, way)
        for way in ("tuned-fresh", "zero-shot")
    )
    assert with_fresh.loss == pytest.approx(without.loss, abs=1e-6)


def test_a_long_prompt_of_a_soft_adapters_run_is_measured_as_without_it(run_of: Any, tmp_path: Path) -> None:
    """Virtual tokens take room from the ways that have them, not from those of the backbone alone (128 positions)."""
    setting = make_setting(tmp_path, target=["film"], unseen_domain=None)
    folder, long = setting.parent / "data" / "film", " ".join(f"{i % 10}" for i in range(70))
    for path in folder.glob("*_test.jsonl"):
        write_rows(path, [{**row, "input": long + row["input"]} for row in mood("film", 6, 1)])
    fixed = {**as_task(setting), "seeds": (100,), "rates": (1e-3,), "steps": 1}
    alone = zofo.meta_test(run_of("soft"), ways=["zero-shot"], output=tmp_path / "a", **fixed)
    beside = zofo.meta_test(run_of("soft"), ways=["zero-shot", "tuned-fresh"], output=tmp_path / "b", **fixed)
    name = "zero-shot/film-100.json"
    assert parts_in(tmp_path / "a")[name] == parts_in(tmp_path / "b")[name]
    assert alone["ways"]["zero-shot"]["all"] == beside["ways"]["zero-shot"]["all"]
