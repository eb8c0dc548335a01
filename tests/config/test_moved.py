"""Settings that an earlier version had elsewhere are taken where they are now, and a note says so."""

from __future__ import annotations

from typing import Any

import pytest

from zofo import InputError
from zofo.api.configure import resolve
from zofo.config.moved import DEPARTURES
from zofo.config.resolve import Config, from_dict
from zofo.methods import bilevel_ablations, bilevel_zofo

OTHER: dict[str, Any] = {
    "stratified": True,
    "upper_objective": "metric",
    "upper_data": "dev",
    "lam_schedule": "linear",
    "lam_start": 1.0,
    "s_start": "reset",
    "p_start": "s",
    "p_steps": 3,
    "apart": True,
    "independent_z": True,
}


def resolved(method: dict[str, Any]) -> Config:
    return resolve(model="no/model", task="sst2", method=method, train={"output_dir": "out", "max_steps": 99})


def opened(method: dict[str, Any]) -> Config:
    """Of a run that is not trained any more."""
    return from_dict({"model": "no/model", "task": "sst2", "method": method, "train": {"output_dir": "out"}})


def test_the_table_is_that_of_the_ablations() -> None:
    default = bilevel_ablations.Config()
    assert {key: getattr(default, key) for key in DEPARTURES} == DEPARTURES
    both = {*bilevel_zofo.Config.__dataclass_fields__, *DEPARTURES}
    assert set(bilevel_ablations.Config.__dataclass_fields__) == both
    assert OTHER.keys() == DEPARTURES.keys()


@pytest.mark.parametrize("key", OTHER)
def test_a_departure_of_bilevel_zofo_selects_the_ablations(key: str) -> None:
    more = {"lam_schedule": {"lam_start": 1.0}, "lam_start": {"lam_schedule": "linear"}}.get(key, {})
    for of in (resolved, opened):
        config = of({"name": "bilevel-zofo", key: OTHER[key], **more})
        assert config.names["method"] == "bilevel-ablations"
        assert getattr(config.method, key) == OTHER[key]
        assert any("bilevel-ablations" in note and key in note for note in config.notes)


@pytest.mark.parametrize("method", ["bilevel-zofo", "bilevel-fo", "meta-bilevel-zofo"])
def test_what_a_run_saved_of_departures_that_it_did_not_make_is_nothing(method: str) -> None:
    for of in (resolved, opened):
        config = of({"name": method, **DEPARTURES, "tie_upper": False})
        assert config.names["method"] == method
        assert config.notes == ()


@pytest.mark.parametrize("method", ["bilevel-fo", "meta-bilevel-zofo"])
def test_a_run_of_a_method_that_has_no_departures_any_more_is_opened_and_not_trained(method: str) -> None:
    config = opened({"name": method, "p_steps": 3})
    assert config.names["method"] == method
    assert "p_steps" in config.notes[0]
    with pytest.raises(InputError, match=f"^method.p_steps: {method} has no departures .*bilevel-ablations"):
        resolved({"name": method, "p_steps": 3})


@pytest.mark.parametrize("method", ["bilevel-zofo", "bilevel-ablations", "bilevel-fo", "meta-bilevel-zofo"])
def test_one_rate_for_theta_and_p(method: str) -> None:
    config = resolved({"name": method, "tie_upper": True, "lr_theta": 1e-4})
    assert config.names["method"] == method
    assert config.method.lr_p == "lr_theta"
    assert config.notes == ("method.tie_upper=true, of an earlier version, is read as method.lr_p=lr_theta",)
    assert from_dict(config.to_dict()) == config


@pytest.mark.parametrize(("settings", "line"), [
    ({"tie_upper": True, "lr_p": 1e-3}, "method.tie_upper: means lr_p=lr_theta, and lr_p has another value"),
    ({"tie_upper": "yes"}, "method.tie_upper: unknown field"),
])  # fmt: skip  # a table
def test_a_rate_that_contradicts_it_or_is_none_is_refused(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError) as caught:
        resolved({"name": "bilevel-zofo", **settings})
    assert str(caught.value).startswith(line)


def test_other_methods_know_nothing_of_it() -> None:
    with pytest.raises(InputError, match=r"^method.p_steps: unknown field"):
        resolved({"name": "mezo", "p_steps": 3})
