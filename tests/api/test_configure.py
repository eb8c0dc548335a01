"""A missing model is reported beside the other mistakes of a configuration."""

from __future__ import annotations

import pytest

from zofo import InputError


def test_validate_reports_a_missing_model_beside_other_mistakes(tmp_path):
    from zofo.api.configure import resolve

    with pytest.raises(InputError) as caught:
        resolve(model=str(tmp_path / "nowhere"), task="sst3", method={"name": "mezo", "lr": -1})
    lines = str(caught.value).splitlines()
    assert len(lines) >= 4
    assert any(line.startswith("model.name: no such model directory") for line in lines)
    assert any("method.lr" in line for line in lines)
    assert any("sst2" in line for line in lines)
    assert any("train.output_dir: required" in line for line in lines)
