"""A setting in a wrong section, with dashes, or asked for by its name alone is answered with the right one."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from zofo import InputError
from zofo.cli import main as cli
from zofo.config.places import every_place
from zofo.config.resolve import CORE, resolve

ASK: dict[str, Any] = {"model": "m", "task": "sst2", "train": {"output_dir": "o"}}


def refused(*overrides: str, method: str = "mezo") -> list[str]:
    with pytest.raises(InputError) as caught:
        resolve(None, overrides, method=method, **ASK)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("given", "method", "meant"),
    [
        ("train.lr", "mezo", '"method.lr"?'),
        ("train.lr", "bilevel-zofo", '"method.lr_s", "method.lr_p" or "method.lr_theta"?'),
        ("train.learning_rate", "fo-peft", '"method.lr"?'),
        ("estimator.learning-rate", "mezo", '"method.lr"?'),
        ("method.batch_size", "mezo", '"train.batch_size"?'),
        ("model.num_fewshot", "mezo", '"task.num_fewshot"?'),
        ("train.max_length", "mezo", '"model.max_length"?'),
        ("train.eps", "mezo", '"estimator.eps"?'),
        ("method.max_step", "mezo", '"train.max_steps"?'),
        ("train.btach_size", "mezo", '"batch_size"?'),  # near in its own section, and nowhere as it is
    ],
)
def test_a_field_of_another_section(given: str, method: str, meant: str) -> None:
    assert refused(f"{given}=1", method=method) == [f"{given}: unknown field; did you mean {meant}"]


def test_what_is_nowhere_keeps_the_list_of_its_section() -> None:
    (line,) = refused("train.florble=1")
    assert line.startswith("train.florble: unknown field; known: output_dir, max_steps, ")


def test_every_field_of_every_section_in_a_wrong_one() -> None:
    """None of them is answered with a section that lacks it."""
    fields = {name: {spec.name for spec in dataclasses.fields(cls)} for name, cls in CORE.items()}
    for section, names in fields.items():
        other = next(name for name in CORE if name != section)
        for name in names - fields[other]:
            line = next(line for line in refused(f"{other}.{name}=1") if "unknown field" in line)
            assert line == f'{other}.{name}: unknown field; did you mean "{section}.{name}"?'


OF_TRAIN = "; of zofo train that is method.lr or method.lr_s or method.lr_p or method.lr_theta"


# --------------------------------------------------------------------------------------------------- with dashes, alone


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["train", "--lr", "1e-4"], "; settings have no dashes: method.lr=VALUE"),
        (["train", "--learning-rate=3", "--method", "mezo"], "; settings have no dashes: method.lr=VALUE"),
        (["validate", "--on-nonfinite", "skip"], "; settings have no dashes: train.on_nonfinite=VALUE"),
        (["memory", "--micro_batch_size", "2"], "; settings have no dashes: train.micro_batch_size=VALUE"),
        (["train", "--train.lr", "1"], "; settings have no dashes: method.lr=VALUE"),
        (["train", "--method.lr", "1"], "; settings have no dashes: method.lr=VALUE"),
        (["eval", "x", "--scoring", "sum"], "; settings have no dashes: task.scoring=VALUE"),
        (["eval", "x", "--lr", "1"], OF_TRAIN),  # which takes no such setting
        (["generate", "x", "--dtype", "float16"], "; settings have no dashes: model.dtype=VALUE"),
        (["ls", "--lr", "1"], OF_TRAIN),
        (["train", "--max-stps", "1"], '; did you mean "--max-steps"?'),
        (["train", "--florble", "1"], ""),
    ],
)
def test_an_option_that_is_a_setting(args: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(args) == 2
    (line,) = capsys.readouterr().err.splitlines()
    name = next(arg for arg in args if arg.startswith("--")).partition("=")[0]
    assert line == f"error: No such option: {name}{hint}"


def test_show_says_where_a_field_is(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("on_nonfinite", "train.on_nonfinite", "on-nonfinite"):
        assert cli.run(["show", name]) == 0
        out = capsys.readouterr().out
        assert out.startswith("field on_nonfinite of section train\n")
        assert 'train.on_nonfinite\tone of "stop", "skip", "halve"\t"stop"\tan update whose loss' in out
        assert out.endswith(
            "\nset it with train.on_nonfinite=VALUE on a command line, or as on_nonfinite below train in a YAML file\n"
        )
        assert len(out.splitlines()) == 5, "and nothing of the other fields"
    assert cli.run(["show", "lr"]) == 0
    out = capsys.readouterr().out
    assert "field lr of section method, of mezo\n\nmethod.lr\ta number, >= 0\t1e-6" in out, "each with its own default"
    assert out.count("set it with") == 1
    for wrong, near in (("train.lr", '"method.lr"'), ("on_nonfinit", '"on_nonfinite"')):
        assert cli.run(["show", wrong]) == 2
        assert f'nothing is called "{wrong}"; did you mean {near}? zofo ls' in capsys.readouterr().err


def test_every_field_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    for name in sorted({place.path for place in every_place()}):
        assert cli.run(["show", name]) == 0
        assert f"set it with {name}=VALUE" in capsys.readouterr().out
