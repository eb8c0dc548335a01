"""What can be meta-tested, and by which ways: runs of each method, exports and plain models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import zofo
from tests.metatest_output import scores
from tests.metatest_protocol import QUICK
from tests.setting_files import as_task
from tests.small_setting import run_info
from zofo.errors import InputError


@pytest.mark.parametrize(
    ("name", "ways"),
    [
        ("bank", ["zero-shot", "tuned", "tuned-fresh"]),
        ("shared", ["zero-shot", "zero-shot-s", "tuned", "tuned-fresh"]),
        ("metaicl", ["in-context"]),
        ("channel", ["in-context"]),
        ("multi-task-ft", ["zero-shot"]),
        ("mezo", ["zero-shot"]),
        ("fo-ft", ["zero-shot"]),
        ("zero-shot", ["zero-shot"]),
        ("icl", ["in-context"]),
    ],
)
def test_a_run_of_each_method(name: str, ways: list[str], run_of: Any) -> None:
    result = zofo.meta_test(run_of(name), **{**QUICK, "rates": (1e-3,)})
    assert list(result["ways"]) == ways
    assert result["k"] == (2 if name in ("metaicl", "channel", "icl") else 4)
    assert result["template"] == ("channel" if name == "channel" else "default")
    assert list(result["ways"][ways[0]]["tasks"]) == ["film", "kind", "quiz"]


@pytest.mark.parametrize("name", ["fo-peft", "mezo-lora"])
def test_a_run_whose_adapter_is_what_it_learned_is_not_measured_without_it(
    name: str, run_of: Any, tiny_model_dir: Path, small_setting: Path
) -> None:
    """Refused by name, or measured with it: the plain model's numbers under the run's name are neither."""
    plain = zofo.meta_test(tiny_model_dir, **as_task(small_setting), ways=["zero-shot"])
    try:
        result = zofo.meta_test(run_of(name), ways=["zero-shot"], output=None)
    except InputError:
        return
    assert result["ways"]["zero-shot"]["all"]["mean"] == pytest.approx(
        run_info(run_of(name))["test"]["p"]["task_mean"], abs=0.3
    )
    assert result["ways"]["zero-shot"]["tasks"] != plain["ways"]["zero-shot"]["tasks"]


def test_an_export_measures_as_its_run(run_of: Any, tmp_path: Path) -> None:
    """Its theta, by the run's settings; tuned from s needs the run itself."""
    out = tmp_path / "export"
    zofo.export(run_of("bank"), out)
    plan = {"seeds": (100, 13), "rates": (1e-2,), "steps": 2, "test_examples": 6}
    ways = ["zero-shot", "in-context", "tuned-fresh"]
    ours, theirs = (zofo.meta_test(target, ways=ways, **plan) for target in (out, run_of("bank")))
    assert {k: v["all"] for k, v in scores(ours)["ways"].items()} == {
        k: v["all"] for k, v in scores(theirs)["ways"].items()
    }
    assert list(zofo.meta_test(out, **plan)["ways"]) == ["zero-shot"]
    with pytest.raises(InputError, match="tuned-fresh"):
        zofo.meta_test(out, ways=["tuned"], **plan)


def test_a_peft_directory_is_refused_by_name(run_of: Any, small_setting: Path, tmp_path: Path) -> None:
    """An export with its adapter, and a directory with an adapter alone."""
    out = tmp_path / "export"
    zofo.export(run_of("shared"), out, adapter="s", merge=False)
    with pytest.raises(InputError, match="adapter"):
        zofo.meta_test(out, ways=["zero-shot"], test_examples=4)
    (out / "manifest.json").unlink()
    (out / "zofo.json").unlink()
    claimed = tmp_path / "out"
    with pytest.raises(InputError, match="adapter"):
        zofo.meta_test(out, **as_task(small_setting), ways=["zero-shot"], test_examples=4, output=claimed)
    assert not claimed.exists()


def test_a_merged_export_is_a_plain_model(run_of: Any, tmp_path: Path) -> None:
    """Of s in the weights: what zero-shot-s of the run is."""
    out = tmp_path / "merged"
    zofo.export(run_of("shared"), out, adapter="s", merge=True)
    expected = zofo.meta_test(run_of("shared"), ways=["zero-shot-s"], output=tmp_path / "a")
    result = zofo.meta_test(out, ways=["zero-shot"], output=tmp_path / "b")
    assert result["ways"]["zero-shot"]["all"]["mean"] == pytest.approx(
        expected["ways"]["zero-shot-s"]["all"]["mean"], abs=0.03
    )


def test_another_setting_for_a_run_keeps_its_layout_and_its_k(run_of: Any, small_setting: Path) -> None:
    """A channel model is measured as one, with as many demonstrations as it was trained with."""
    result = zofo.meta_test(run_of("channel"), **as_task(small_setting), **QUICK)
    assert (result["k"], result["template"]) == (2, "channel")
