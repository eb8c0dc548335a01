"""The plan: ways that a target has not, and arguments that are none of its."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import zofo
from tests.setting_files import as_task
from zofo.errors import InputError


def test_ways_that_the_target_has_not(run_of: Any, tiny_model_dir: Path, small_setting: Path) -> None:
    with pytest.raises(InputError, match=r"tuned starts from the s of a meta-bilevel-zofo run.*tuned-fresh"):
        zofo.meta_test(tiny_model_dir, **as_task(small_setting), ways=["tuned"])
    with pytest.raises(InputError, match="adapters=shared"):
        zofo.meta_test(run_of("bank"), ways=["zero-shot-s"])
    with pytest.raises(InputError, match="tuned-fresh"):
        zofo.meta_test(run_of("metaicl"), ways=["tuned"])


def test_ways_as_a_text_are_refused_in_words(tiny_model_dir: Path, small_setting: Path) -> None:
    """Not letter by letter (unknown "z")."""
    with pytest.raises(InputError) as error:
        zofo.meta_test(tiny_model_dir, **as_task(small_setting), ways="zero-shot,")
    assert '"z"' not in str(error.value)


def test_a_misspelt_field_of_the_plan_is_an_input_error(tiny_model_dir: Path, small_setting: Path) -> None:
    with pytest.raises((InputError, TypeError), match="shots"):
        zofo.meta_test(tiny_model_dir, **as_task(small_setting), shots=2)
