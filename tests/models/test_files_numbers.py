"""Numbers of a model's configuration that are none."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from zofo import InputError
from zofo.models import files


@pytest.mark.parametrize("place", ["rope_theta", "rope_parameters.rope_theta", "rope_parameters.factors.1"])
def test_a_number_of_the_configuration_that_is_none(place: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    """Its forwards would be NaN; an infinity may be meant, as in a Mamba's limits of time steps."""
    directory = shutil.copytree(tiny_model_dir, tmp_path / "model")
    content = json.loads((directory / "config.json").read_text())
    *_, inside = place.split(".")
    content |= {"time_step_limit": [0.0, math.inf]}
    if place == "rope_theta":
        content["rope_theta"] = math.nan
    else:
        content["rope_parameters"] = {"factors": [1.0, math.nan]} if inside == "1" else {"rope_theta": math.nan}
    (directory / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"config\.json: {place} is NaN; "):
        files.check(directory)
    content = {key: value for key, value in content.items() if key not in ("rope_theta", "rope_parameters")}
    (directory / "config.json").write_text(json.dumps(content))
    files.check(directory)
