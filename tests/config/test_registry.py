"""The folders as registries, near-name hints, plug-ins."""

from __future__ import annotations

import importlib.metadata
import sys
import types
from pathlib import Path

import pytest

from zofo.config import registry
from zofo.errors import InputError, RunError, ZofoError, did_you_mean


def test_every_kind_has_entries_with_dashes_and_a_description() -> None:
    for kind in registry.KINDS:
        names = registry.names(kind)
        assert names == sorted(names)
        assert names
        for name in names:
            assert "_" not in name
            assert registry.describe(kind, name), f"{kind}/{name} has no one-line description"


@pytest.mark.parametrize("kind", ["methods", "adapters", "estimators", "rules"])
def test_python_entries_expose_config_and_class(kind: str) -> None:
    for name in registry.names(kind):
        module = registry.load(kind, name)
        assert hasattr(module, "Config")
        assert hasattr(module, registry.singular(kind).capitalize())


def test_dash_and_underscore_are_the_same() -> None:
    assert registry.load("methods", "bilevel_zofo") is registry.load("methods", "bilevel-zofo")
    assert registry.canonical("bilevel_zofo") == "bilevel-zofo"


def test_yaml_entries_are_paths() -> None:
    path = registry.load("presets", "quickstart")
    assert isinstance(path, Path)
    assert path.name == "quickstart.yaml"


def test_unknown_name_gets_a_hint_and_the_known_ones() -> None:
    with pytest.raises(InputError, match=r'^unknown method "mezoo"; did you mean "mezo"\? known: bilevel-.*mezo'):
        registry.load("methods", "mezoo")
    with pytest.raises(InputError, match=r'^unknown rule "qqq"; known: .*sgd'):
        registry.load("rules", "qqq")


def test_private_files_are_no_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "zo" / "rules").mkdir(parents=True)
    for name in ("__init__.py", "_shared.py", "sign_sgd.py", "notes.txt"):
        (tmp_path / "zo" / "rules" / name).write_text('"""Sign of the gradient.\n\nMore."""\n')
    monkeypatch.setattr(registry, "ROOT", tmp_path)
    assert registry.names("rules") == ["sign-sgd"]
    assert registry.describe("rules", "sign-sgd") == "Sign of the gradient."


def test_plug_ins_come_in_by_entry_points_but_do_not_replace(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = types.ModuleType("zofo_plugin", "A rule from elsewhere.")
    monkeypatch.setitem(sys.modules, "zofo_plugin", plugin)
    points = [importlib.metadata.EntryPoint(name, "zofo_plugin", "zofo.rules") for name in ("my_rule", "sgd")]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == "zofo.rules" else [])
    assert "my-rule" in registry.names("rules")
    assert registry.load("rules", "my-rule") is plugin
    assert registry.describe("rules", "my-rule") == "A rule from elsewhere."
    assert registry.load("rules", "sgd") is not plugin


def test_error_classes_carry_exit_codes() -> None:
    assert (InputError.exit_code, RunError.exit_code) == (2, 1)
    assert issubclass(InputError, ZofoError)
    assert issubclass(RunError, ZofoError)


def test_did_you_mean() -> None:
    assert did_you_mean("lamda", ["lam", "lr_s"]) == '; did you mean "lam"?'
    assert did_you_mean("LR_S", ["lam", "lr_s"]) == '; did you mean "lr_s"?'
    assert did_you_mean("zzz", ["lam"]) == ""
