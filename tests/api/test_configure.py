"""A configuration as a caller gives it: files that are missing, the preset's method."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from zofo import InputError
from zofo.api import finetune as api
from zofo.api.configure import resolve
from zofo.config import registry
from zofo.config.yaml_reader import read_yaml


def test_validate_reports_a_missing_model_beside_other_mistakes(tmp_path):
    with pytest.raises(InputError) as caught:
        resolve(model=str(tmp_path / "nowhere"), task="sst3", method={"name": "mezo", "lr": -1})
    lines = str(caught.value).splitlines()
    assert len(lines) >= 4
    assert any(line.startswith("model.name: no such model directory") for line in lines)
    assert any("method.lr" in line for line in lines)
    assert any("sst2" in line for line in lines)
    assert any("train.output_dir: required" in line for line in lines)


@pytest.mark.parametrize("preset", registry.names("presets"))
def test_finetune_takes_the_presets_method(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left out is the preset's; the default is for a call without one."""
    configs: list[Any] = []
    monkeypatch.setattr(api, "train", lambda config, *more: configs.append(config))
    monkeypatch.setattr(api, "resolve", partial(resolve, files=False))
    api.finetune("no/model", "sst2", output_dir="out", preset=preset)
    api.finetune("no/model", "sst2", output_dir="out")
    method = read_yaml(registry.load("presets", preset), "preset")["method"]["name"]
    assert [config.names["method"] for config in configs] == [method, "bilevel-zofo"]
    assert configs[0].notes == ()
