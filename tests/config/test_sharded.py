"""What cannot run where several processes hold one model is refused by name, before anything is read."""

from __future__ import annotations

import pytest

from zofo.api.ranks import parallel_given
from zofo.config.resolve import resolve
from zofo.errors import InputError
from zofo.zo.grid import Grid

REFUSED = {
    "both": ("mezo", ["parallel.fsdp=2", "estimator.shift=copy"], "parallel.fsdp: goes with parallel.tensor=1"),
    "quantised": ("mezo", ["model.quantization=int8"], "parallel.tensor: a quantised model is not sharded"),
    "adapters": ("bilevel-zofo", [], "parallel.tensor: adapters on a sharded model"),
    "an adapter as theta": ("mezo", ["adapter=lora"], "parallel.tensor: adapters on a sharded model"),
    "gradients": ("fo-ft", [], "parallel.tensor: method fo-ft moves every weight by its gradient"),
    "trained adapters": ("fo-peft", [], "parallel.tensor: method fo-peft trains adapters"),
    "8-bit states": ("mezo", ["rule=adam", "rule.state=8bit"], "parallel.tensor: rule.state=8bit"),
    "a mask of gradients": ("mezo", ["mask=sensitivity"], "parallel.tensor: the mask sensitivity"),
}


def settled(method: str, *settings: str) -> None:
    resolve(None, ["train.output_dir=out", *settings], model="some/model", task="sst2", method=method)


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(kind: str) -> None:
    method, settings, words = REFUSED[kind]
    with pytest.raises(InputError, match=words):
        settled(method, "parallel.tensor=2", *settings)


def test_gathered_weights_meet_no_stand_in() -> None:
    with pytest.raises(InputError, match=r"parallel\.fsdp: .*give estimator\.shift=copy"):
        settled("mezo", "parallel.fsdp=2")
    for shift in ("copy", "inplace"):
        settled("mezo", "parallel.fsdp=2", f"estimator.shift={shift}")


def test_a_grid_that_the_processes_do_not_make() -> None:
    with pytest.raises(InputError, match=r"parallel\.query, parallel\.tensor: 2 x 2 does not divide the 6 processes"):
        Grid(query=2, tensor=2).data(6)
    assert Grid(query=2, tensor=2).data(8) == 2


def test_of_a_command_that_makes_no_estimate() -> None:
    config, rest = parallel_given(["model.dtype=bfloat16", "parallel.tensor=4"])
    assert (config.tensor, rest) == (4, ["model.dtype=bfloat16"])
    for given, words in (("parallel.query=2", "no"), ("parallel.tensr=2", "parallel.tensr")):
        with pytest.raises(InputError, match=words):
            parallel_given([given])
