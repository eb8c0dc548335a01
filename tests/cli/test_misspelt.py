"""A misspelt option or setting of any verb is answered with the one that was meant, before files are looked for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main

from zofo.cli import main as cli
from zofo.config.places import every_place

ROOT: Any = typer.main.get_command(cli.app)


def verbs(group: Any = ROOT, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    found: dict[tuple[str, ...], Any] = {}
    for name, command in group.commands.items():
        found |= verbs(command, (*path, name)) if getattr(command, "commands", None) else {(*path, name): command}
    return found


VERBS = verbs()


def options(command: Any) -> list[str]:
    each = [name for param in command.params for name in (*param.opts, *param.secondary_opts)]
    return [name for name in each if name.startswith("--") and name != "--help"]


def misspelt(option: str) -> set[str]:
    """Without its dashes, with underscores, with one dash, a letter twice, left out or changed, two of them swapped."""
    word = option.removeprefix("--")
    middle = len(word) // 2
    slips = {word.replace("-", ""), word.replace("-", "_"), word.upper()}
    if len(word) > 4:
        slips |= {word[:middle] + word[middle] + word[middle:], word[:middle] + word[middle + 1 :], word + "s"}
        slips |= {f"{word[: middle - 1]}{word[middle]}{word[middle - 1]}{word[middle + 1 :]}"}
    return {f"--{slip}" for slip in slips} | {f"-{word}"}


def refusal(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.run(args) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


ALL = [
    False,
    pytest.param(True, marks=pytest.mark.slow),
]  # by turns in every run of the suite, all where it may take long


@pytest.mark.parametrize("every", ALL)
@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_option_of_every_verb(verb: tuple[str, ...], every: bool, capsys: pytest.CaptureFixture[str]) -> None:
    named = options(VERBS[verb])
    settings = {f"--{place.name}" for place in every_place()}  # such as method.adapters, which is meant then
    settings |= {"--candidates"}  # is nearer to train.eval_candidates
    for number, option in enumerate(named):
        slips = [
            s for s in sorted(misspelt(option) - set(named)) if (s not in settings or "_" in s) and s != "--candidates"
        ]
        for slip in slips if every else slips[number % len(slips) :][:1]:
            line = refusal([*verb, slip, "1"], capsys)
            assert line == f'error: No such option: {slip}; did you mean "{option}"?', (verb, slip)


@pytest.mark.parametrize("every", ALL)
@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_an_option_of_another_verb(verb: tuple[str, ...], every: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Is a setting here, is nearly one of this verb, or is said to be the other's."""
    others = sorted({option for command in VERBS.values() for option in options(command)} - set(options(VERBS[verb])))
    for option in others if every else others[list(VERBS).index(verb) % 6 :: 6]:
        line = refusal([*verb, option, "1"], capsys)
        assert re.fullmatch(
            rf'error: No such option: {option}; (did you mean "--[a-z-]+"\?( \(.*\))?|settings have no dashes: \S.*|'
            rf"zofo [a-z -]+ has {option}, {' '.join(verb)} has not)",
            line,
        ), line


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("validate CONFIG --maxsteps 3", 'No such option: --maxsteps; did you mean "--max-steps"?'),
        ("train --max_steps=3", 'No such option: --max_steps; did you mean "--max-steps"?'),
        ("train -output-dir out", 'No such option: -output-dir; did you mean "--output-dir"?'),
        ("eval RUN --maxsteps 3", "No such option: --maxsteps; zofo train has --max-steps, eval has not"),
        ("ls -h", 'No such option: -h; did you mean "--help"?'),
        ("train --method", "Option '--method' requires an argument."),
        ("memory --florble 1", "No such option: --florble"),
    ],
)
def test_what_is_said(args: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(args.split(), capsys) == f"error: {said}"


def test_validate_takes_the_options_that_say_how_long_a_run_is(capsys: pytest.CaptureFixture[str]) -> None:
    """So that a command line is checked by changing its verb."""
    common = ["--model", "m", "--task", "sst2", "--method", "mezo", "--output-dir", "out"]
    assert cli.run(["validate", *common, "--max-steps", "7", "--seed", "3", "--threads", "2"]) == 0
    shown = capsys.readouterr().out
    for field, value in {"max_steps": 7, "seed": 3, "threads": 2}.items():
        assert re.search(rf"^  {field}: {value} +# command line$", shown, re.MULTILINE)


# ------------------------------------------------------------------------------------------- words before files

OF_TWO = "modle.dtype=half", 'modle.dtype: unknown section; did you mean "model.dtype"?'
OF_ALL = "trian.max_steps=3", 'trian.max_steps: unknown section; did you mean "train.max_steps"?'
FIELD = "train.sav_steps=3", 'train.sav_steps: unknown field; did you mean "train.save_steps"?'
BEFORE: dict[str, list[tuple[str, str]]] = {  # {a command line, of which a file is missing: words and what is said}
    "eval nowhere": [OF_TWO, ("task.scorin=sum", 'task.scorin: unknown field; did you mean "scoring"?')],
    "eval run": [OF_TWO, ("task.num_fewshot=x", 'task.num_fewshot: expected an integer, got "x"')],
    "eval model --task nowhere.jsonl": [OF_TWO],
    "generate nowhere --file nowhere.jsonl": [OF_TWO],
    "export nowhere out": [OF_TWO],
    "meta-test nowhere": [OF_TWO],
    "validate run --data nowhere": [OF_TWO],
    "validate nowhere.yaml": [OF_ALL, FIELD],
    "memory nowhere.yaml": [OF_ALL, FIELD],
    "train nowhere.yaml": [OF_ALL, FIELD],
    "train broken.yaml": [OF_ALL, FIELD],
    "train other.yaml another.yaml": [OF_ALL],
    "train --resume latest --output-dir nowhere": [OF_ALL, FIELD],
    "train --model m --task nowhere.jsonl --method mezo --output-dir out": [OF_ALL],
}


@pytest.mark.parametrize("line", BEFORE)
def test_every_word_is_said_before_or_with_what_is_missing(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.yaml").write_text("model: [\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("model: nowhere\ntask: nowhere.jsonl\nmethod: mezo\n")
    verb, *rest = line.split()
    assert cli.run([verb, *rest, *(word for word, _ in BEFORE[line])]) == 2
    said = capsys.readouterr().err
    for _, fault in BEFORE[line]:
        assert f"error: {fault}" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--ways tunde", '--ways: unknown "tunde"; did you mean "tuned"? known: '),
        ("--rates 0", "--rates: each is more than 0, got 0.0"),
        ("task.num_fewshot=3", "task.num_fewshot: give --num-fewshot"),
    ],
)
def test_a_plan_of_a_meta_test(more: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(["meta-test", "nowhere", *more.split()], capsys).startswith(f"error: {said}")
