"""A misspelt section, field or both of `section.key=value` is answered with the field that was meant."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from zofo import InputError
from zofo.config.layers import SECTIONS
from zofo.config.places import every_place
from zofo.config.resolve import CORE, resolve
from zofo.config.sections import ModelConfig, TaskConfig
from zofo.config.words import check_words, faults_of, unknown_section, unknown_words

PATHS = sorted({place.path for place in every_place()})
OF_EVAL = {"task": TaskConfig, "model": ModelConfig}


def slips(word: str) -> Iterator[str]:
    """A letter left out, twice, or swapped with the next; all in capital letters."""
    middle = len(word) // 2
    yield word[:middle] + word[middle + 1 :]
    yield word[:middle] + word[middle] + word[middle:]
    yield word[: middle - 1] + word[middle] + word[middle - 1] + word[middle + 1 :]
    yield word.upper()


@pytest.mark.parametrize("section", SECTIONS)
def test_a_misspelt_section(section: str) -> None:
    """Its own field, and no other one."""
    for path in (path for path in PATHS if path.startswith(f"{section}.")):
        for slip in slips(section):
            key = f"{slip}.{path.partition('.')[2]}"
            assert unknown_section(key, PATHS) == f'; did you mean "{path}"?', key


@pytest.mark.parametrize("section", SECTIONS)
def test_both_misspelt(section: str) -> None:
    """The field is among the few of the hint."""
    for path in (path for path in PATHS if path.startswith(f"{section}.") and len(path.partition(".")[2]) > 4):
        for slip, field in zip(slips(section), slips(path.partition(".")[2])):
            hint = unknown_section(f"{slip}.{field}", PATHS)
            assert f'"{path}"' in hint, (slip, field, hint)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("tran.save=1", 'tran.save: unknown section; did you mean "train.save_steps" or "train.save_total_limit"?'),
        (
            "trian.steps=9",
            'trian.steps: unknown section; did you mean "train.max_steps", "train.eval_steps" or "train.',
        ),
        ("taks.dev_example=9", 'taks.dev_example: unknown section; did you mean "task.dev_examples"?'),
        ("Train.seed=9", 'Train.seed: unknown section; did you mean "train.seed"?'),
        ("trainn.lr=9", 'trainn.lr: unknown section; did you mean "method.lr"?'),  # near train, which has none
        ("max_steps=3", 'max_steps: unknown section; did you mean "train.max_steps"?'),
        ("max_step=3", 'max_step: unknown section; did you mean "train.max_steps"?'),
        ("modle=gpt2", 'modle: unknown section; did you mean "model"?'),
        ("metod=mezo", 'metod: unknown section; did you mean "method"?'),
        ("florble.x=3", "florble.x: unknown section; known: model, task, method, "),
        ("train.save=1", 'train.save: unknown field; did you mean "train.save_steps" or "train.save_total_limit"?'),
        ("train.sav_steps=1", 'train.sav_steps: unknown field; did you mean "save_steps"?'),
    ],
)
def test_of_a_configuration(given: str, meant: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve(None, [given], model="m", task="sst2", method="mezo", train={"output_dir": "o"})
    assert str(caught.value).startswith(meant)


def test_a_section_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("trian: {eval_steps: 3}\n")
    with pytest.raises(InputError, match=r'^trian: unknown section; did you mean "train"\? \(file '):
        resolve(str(tmp_path / "mine.yaml"), [], model="m", task="sst2", method="mezo", train={"output_dir": "o"})


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("tsk.scorin=sum", 'tsk.scorin: unknown section; did you mean "task.scoring"?'),
        ("task.scorin=sum", 'task.scorin: unknown field; did you mean "scoring"?'),
        ("task.dtype=half", 'task.dtype: unknown field; did you mean "model.dtype"?'),
        (
            "modelname=x",
            'modelname: unknown section; did you mean "model.name"?',
        ),  # which was taken without a word
        ("train.seed=1", "train.seed: an evaluation takes task.key=value and model.key=value alone"),
        ("florble=1", "florble: unknown section; an evaluation takes task.key=value and model.key=value alone"),
        ("task.num_fewshot=-1", "task.num_fewshot: must be >= 0, got -1"),
        ("task.num_fewshot=one", 'task.num_fewshot: expected an integer, got "one"'),
        ("scoring", 'scoring: expected "section.key=value"'),
    ],
)
def test_of_a_verb_that_takes_two_sections(given: str, line: str) -> None:
    assert faults_of([given, "task.scoring=sum", "model.dtype=float16"], OF_EVAL, "an evaluation") == [line]


def test_right_words_of_every_section() -> None:
    check_words(["task.scoring=sum", "model.max_length=9", "task.system=a, # b"], OF_EVAL, "an evaluation")
    assert unknown_words([f"{path}=1" for path in PATHS] + [f"{section}.name=x" for section in SECTIONS[2:-1]]) == []


@pytest.mark.parametrize("path", ["train.max_steps", "method.lr_theta", "estimator.eps", "adapter.target_modules"])
def test_of_a_configuration_that_could_not_be_read(path: str) -> None:
    section, _, field = path.partition(".")
    for slip in slips(field):
        (line,) = unknown_words([f"{section}.{slip}=1"])
        assert line.startswith(f"{section}.{slip}: unknown field; did you mean ")
        assert f'"{path}"' in line
    assert set(CORE) < set(SECTIONS)
