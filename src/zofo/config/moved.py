"""Settings that have another place than in the version that wrote a file: found, taken where they are now, and said."""

from __future__ import annotations

from typing import Any

from zofo.config import registry
from zofo.config.layers import Merged, Value

# Once options of bilevel-zofo, and by inheritance of these two others; with their defaults.
DEPARTURES: dict[str, Any] = {
    "stratified": False,
    "upper_objective": "loss",
    "upper_data": "train",
    "lam_schedule": "constant",
    "lam_start": None,
    "s_start": "warm",
    "p_start": "own",
    "p_steps": 1,
    "apart": False,
    "independent_z": False,
}
FORMER_HEIRS = ("bilevel-fo", "meta-bilevel-zofo")


def settle(merged: Merged, errors: list[str], opened: bool) -> None:
    """Brings what earlier versions wrote to where it is now; adds a note for what changes.

    opened: the configuration is a finished run's, of which nothing is trained any more: a departure that its method no
    longer has is left out with a note. Otherwise it is an error.
    """
    given = merged.values.get("method", {})
    method = registry.canonical(str(given["name"].value)) if "name" in given else ""
    if method not in ("bilevel-zofo", "bilevel-ablations", *FORMER_HEIRS):
        return
    _tie(given, merged, errors)
    if method == "bilevel-ablations":
        return
    departures = {key: given.pop(key) for key in DEPARTURES if key in given}
    asked = {key: value for key, value in departures.items() if value.value != DEPARTURES[key]}
    if not asked:
        return
    names = ", ".join(asked)
    if method == "bilevel-zofo":
        given["name"] = Value("bilevel-ablations", given["name"].source, given["name"].layer)
        given |= asked
        merged.notes.append(f"method: bilevel-ablations, which has {names}; bilevel-zofo is Algorithm 2 as it stands")
    elif opened:
        merged.notes.append(f"method: {method} no longer has {names}; the run was trained with it")
    else:
        errors.extend(
            f"method.{key}: {method} has no departures from its algorithm any more; leave it out, or use "
            f"bilevel-ablations (a run goes on with the version that began it)"
            for key in asked
        )


def _tie(given: dict[str, Value], merged: Merged, errors: list[str]) -> None:
    """tie_upper, which made p move at theta's rate, is a value of lr_p now. Neither true nor false: refused later."""
    if "tie_upper" not in given or not isinstance(given["tie_upper"].value, bool):
        return
    tie = given.pop("tie_upper")
    if not tie.value:
        return
    if "lr_p" in given and given["lr_p"].value not in (None, "lr_theta"):
        errors.append("method.tie_upper: means lr_p=lr_theta, and lr_p has another value; leave one of them out")
    given["lr_p"] = Value("lr_theta", tie.source, tie.layer)
    merged.notes.append("method.tie_upper=true, of an earlier version, is read as method.lr_p=lr_theta")
