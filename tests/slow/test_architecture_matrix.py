"""Every family through every adapter with Bilevel ZOFO, and through every method with LoRA; see docs for the table."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.family_runs import METHODS, REFUSED, Directories, adapter_for, check_export, check_run, save_rows, short_run
from tests.small_setting import make_setting
from tests.tiny_models import FAMILIES
from zofo import InputError
from zofo.config import registry

pytestmark = pytest.mark.slow
FEW = ["task.train_examples=18", "task.dev_examples=6", "task.test_examples=6"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_rows(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A setting of several tasks."""
    return make_setting(tmp_path_factory.mktemp("many"))


def methods() -> list[tuple[str, bool]]:
    """(method, with LoRA), both ways where an adapter is optional."""
    cases = []
    for name in registry.names("methods"):
        method = registry.load("methods", name).Method
        if "adapter" not in method.needs:
            cases.append((name, False))
        if "adapter" in method.needs | method.optional:
            cases.append((name, True))
    return cases


def test_every_method_is_tried_at_rates_that_show() -> None:
    trains = {name for name, _ in methods()} - {"zero-shot", "icl"}
    assert trains <= set(METHODS), "give the new method settings in tests/family_runs.py"


@pytest.mark.parametrize("adapter", registry.names("adapters"))
@pytest.mark.parametrize("family", FAMILIES)
def test_bilevel_zofo(family: str, adapter: str, family_dir: Directories, rows: Path, tmp_path: Path) -> None:
    section = adapter_for(family, adapter)
    if section is None:
        with pytest.raises(InputError, match=REFUSED[family, adapter][0]):
            short_run(family_dir(family), rows, tmp_path / "run", adapter={"name": adapter})
        return
    run, watch = short_run(family_dir(family), rows, tmp_path / "run", adapter=section)
    check_run(run, watch)
    check_export(run, tmp_path / "export")


@pytest.mark.parametrize(("method", "with_lora"), methods())
@pytest.mark.parametrize("family", FAMILIES)
def test_method(
    family: str, method: str, with_lora: bool, family_dir: Directories, rows: Path, many: Path, tmp_path: Path
) -> None:
    section, task, more = adapter_for(family, "lora") if with_lora else None, rows, []
    if registry.load("methods", method).Method.many:
        task, more = many, [f"task.data={many.parent / 'data'}", *FEW, "train.batch_size=3"]
        more += ["task.num_fewshot=2"] if method == "metaicl" else []
    if method == "sparse-mezo" and (with_lora or family == "mamba"):  # tensors of zeros have no small weights
        more = ["mask.name=random", "method.lr=5e-3"]
    run, watch = short_run(family_dir(family), task, tmp_path / "run", method, section, overrides=more)
    check_run(run, watch)
    check_export(run, tmp_path / "export")
