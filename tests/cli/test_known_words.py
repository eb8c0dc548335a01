"""Words of transformers, TRL, PEFT and lm-eval are answered with the field that does it, however they are given."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import typer

from zofo import InputError, evaluate, finetune
from zofo.cli import main as cli
from zofo.config import registry
from zofo.config.known_words import NAMES, VALUES, WORDS, bare, known
from zofo.config.layers import SECTIONS
from zofo.config.places import every_place, of_a_word, of_no_option
from zofo.config.resolve import CORE, resolve

SAID = re.compile(r"; (did you mean|zofo has none: |in zofo that is|settings have no dashes: |of zofo train that is )")
ALL = {place.path for place in every_place()}
# Methods with the sections that make most fields be there
METHODS: dict[str, list[str]] = {
    "bilevel-zofo": ["rule.name=adamw"],
    "fo-peft": [],
    "fo-ft": [],
    "mezo": ["adapter.name=prompt"],
    "zero-shot": [],
    "two-stage": [],
}
CHOSEN = ("adapter.name", "rule.name", "estimator.name")  # of a part, which is chosen by it


def paths_of(method: str) -> set[str]:
    """`section.field` of a run of METHODS."""
    overrides = METHODS[method]
    config = resolve(None, overrides, model="m", task="sst2", method=method, train={"output_dir": "o"})
    parts = {section: getattr(config, section) for section in SECTIONS}
    return {f"{s}.{spec.name}" for s, part in parts.items() if part is not None for spec in dataclasses.fields(part)}


def refused(method: str, overrides: Iterable[str], file: Path | None = None) -> list[str]:
    path, every = None if file is None else str(file), [*METHODS[method], *overrides]
    with pytest.raises(InputError) as caught:
        resolve(path, every, model="m", task="sst2", method=method, train={"output_dir": "o"})
    return str(caught.value).splitlines()


def check(line: str, word: str, paths: set[str]) -> None:
    """The hint names what the table has, and that is there; or says that there is none."""
    entry, hint = WORDS[word], SAID.search(line)
    assert hint is not None, line
    named = re.findall(r'"([a-z0-9_.]+(?:=\w+)?)"', line[hint.start() :])
    assert all(field in entry.fields for field in named), line
    if not entry.fields:
        assert hint[1] == "zofo has none: ", line
        return
    sections = {path.partition(".")[0] for path in paths}
    if hint[1] == "did you mean":
        assert named, line
        for field in named:
            path = field.partition("=")[0]
            assert path in paths or path in sections or path.removesuffix(".name") in sections, line
    else:
        assert hint[1] == "in zofo that is", line
        assert named == list(entry.fields), line
        assert not paths & set(named), line


def test_the_table_names_fields_that_there_are() -> None:
    for word, entry in WORDS.items():
        assert word == word.lower()
        assert entry.fields or entry.why, word
        for field in entry.fields:
            path, _, value = field.partition("=")
            assert path in ALL or path in SECTIONS or path in CHOSEN, (word, path)
            if value and path != "adapter.name":
                resolve(None, [field], model="m", task="sst2", method="mezo", train={"output_dir": "o"})
        for path in re.findall(r"\b(?:model|task|train|rule|method)\.[a-z_]+\b", entry.why):
            assert path in ALL or path.endswith(".name"), (word, path)


@pytest.mark.parametrize("method", METHODS)
def test_in_sections_right_and_wrong(method: str) -> None:
    paths = paths_of(method)
    for section in ("train", "model", "task"):
        given = [word for word in WORDS if f"{section}.{word}" not in ALL]
        lines = {line.partition(": ")[0]: line for line in refused(method, [f"{section}.{word}=1" for word in given])}
        for word in given:
            there = {path.partition(".")[2] for path in paths}
            line = lines[f"{section}.{word}"]
            if word not in there:  # weight_decay is a field of rule adamw
                check(line, word, paths)
            else:
                assert any(f'"{path}"' in line for path in paths if path.endswith(f".{word}")), line


def test_in_a_file(tmp_path: Path) -> None:
    """In sections, without one, and in sections of other trainers."""
    words = [word for word in WORDS if word not in ("lr", "weight_decay")]
    paths = paths_of("bilevel-zofo")
    path = tmp_path / "mine.yaml"
    path.write_text("train:\n" + "".join(f"  {word}: 1\n" for word in words), encoding="utf-8")
    lines = {line.partition(": ")[0]: line for line in refused("bilevel-zofo", [], path)}
    for word in words:
        check(lines[f"train.{word}"], word, paths)
    for start in ("", "training_args."):
        path.write_text("".join(f"{start}{word}: 1\n" for word in words), encoding="utf-8")
        lines = {line.partition(": ")[0]: line for line in refused("bilevel-zofo", [], path)}
        for word in words:
            check(lines[f"{start}{word}"], word, paths)


def test_before_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    words = [word for word in WORDS if f"train.{word}" not in ALL]
    assert cli.run(["train", "nowhere.yaml", *(f"train.{word}=1" for word in words)]) == 2
    lines = {line.partition(": ")[2].partition(": ")[0]: line for line in capsys.readouterr().err.splitlines()}
    for word in words:
        if word not in {path.partition(".")[2] for path in ALL}:
            check(lines[f"train.{word}"], word, ALL)


def test_of_verbs_with_two_sections(capsys: pytest.CaptureFixture[str]) -> None:
    """An evaluation has the fields of task and model; of what training has it says so."""
    paths = {f"{name}.{spec.name}" for name in ("task", "model") for spec in dataclasses.fields(CORE[name])}
    words = [word for word in WORDS if f"task.{word}" not in ALL]
    assert cli.run(["eval", "nowhere", *(f"task.{word}=1" for word in words)]) == 2
    lines = {line.partition(": ")[2].partition(": ")[0]: line for line in capsys.readouterr().err.splitlines()}
    for word in words:
        check(lines[f"task.{word}"], word, paths)


def test_of_the_python_interface() -> None:
    words: dict[str, Any] = {word: 1 for word in WORDS if f"train.{word}" not in ALL}
    with pytest.raises(InputError) as caught:
        finetune("m", "sst2", "fo-peft", output_dir="o", **words)
    lines = {line.partition(": ")[0]: line for line in str(caught.value).splitlines()}
    paths = paths_of("fo-peft")
    for word in words:
        if word != "lr":
            check(lines[f"train.{word}"], word, paths)
    with pytest.raises(InputError, match=r'^task\.bf16: unknown field; did you mean "model\.dtype=bfloat16"'):
        evaluate("m", task="sst2", bf16=True)
    assert lines["train.learning_rate"] == 'train.learning_rate: unknown field; did you mean "method.lr"?'


@pytest.mark.parametrize("verb", ["train", "eval", "memory", "predict"])
def test_as_an_option(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With dashes and with underscores, by turns: an option of the verb, a setting that it takes, or what it is."""
    own = re.findall(r"--[a-z-]+", _help(verb, capsys))
    sections = SECTIONS if verb in ("train", "memory") else ("task", "model")
    there = sorted(path for path in ALL if path.partition(".")[0] in sections)
    fields = {bare(path.partition(".")[2]) for path in there} | {bare(name) for name in own}
    for number, (word, entry) in enumerate(WORDS.items()):
        option = f"--{word.replace('_', '-') if number % 2 else word}"
        strong, weak = of_a_word(option, own, there), of_no_option(option, own, there)
        if bare(word) in fields:
            assert (strong, weak) == ("", ""), option
            continue
        assert (weak.startswith("; zofo has none: ")) == (not entry.fields), option
        assert re.fullmatch(r'(; did you mean "--[a-z-]+"\?.*|; settings have no dashes: .*)?', strong), strong
        for name in re.findall(r'"(--[a-z-]+)"', strong):
            assert name in own
        for path in re.findall(r"\b([a-z]+\.[a-z0-9_]+)=", strong.partition(" (")[0]):
            assert path in there or path in CHOSEN, strong
        for path in re.findall(r"\b([a-z]+\.[a-z0-9_]+)", weak.partition(" (")[0]) if entry.fields else ():
            assert path in ALL or path in CHOSEN, weak
        if number % 30:
            continue
        assert cli.run([verb, option, "1"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        another = re.escape(f"; zofo predict has {option}, {verb} has not")
        said = re.escape(strong) if strong else f"({another}|{re.escape(weak)})"
        assert re.fullmatch(f"error: No such option: {option}{said}", line), line


def _help(verb: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.run([verb, "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("train --lr 1e-5 --method fo-peft", "--lr; settings have no dashes: method.lr=VALUE"),
        (
            "train --method=bilevel-zofo --learning_rate 1e-5",
            "--learning_rate; settings have no dashes: method.lr_s=VALUE or method.lr_p=VALUE or method.lr_theta=VALUE",
        ),
        ("train --epochs 3", '--epochs; did you mean "--num-train-epochs"?'),
        ("train --num_train_epochs 3", '--num_train_epochs; did you mean "--num-train-epochs"?'),
        (
            "train --bf16",
            "--bf16; settings have no dashes: model.dtype=bfloat16 (of the weights too, there is no autocast)",
        ),
        (
            "train --gradient_accumulation_steps 4",
            "--gradient_accumulation_steps; settings have no dashes: train.micro_batch_size=VALUE (the other way "
            "round: batch_size is all of an update, micro_batch_size how many of it at once)",
        ),
        ("eval m --tasks x", '--tasks; did you mean "--task"?'),
        ("eval m --per_device_eval_batch_size 4", '--per_device_eval_batch_size; did you mean "--batch-size"?'),
        (
            "eval m --learning_rate 1",
            "--learning_rate; of zofo train that is method.lr or method.lr_s or method.lr_p or ",
        ),
        ("generate m --max_tokens 3", '--max_tokens; did you mean "--max-new-tokens"?'),
        (
            "train --lora-dropout 0.1",
            "--lora-dropout; zofo has none: no adapter drops anything: an estimate's forwards must be the same "
            "function",
        ),
        ("train --learning_rte 3 --method mezo", "--learning_rte; settings have no dashes: method.lr=VALUE"),
    ],
)
def test_what_is_said(args: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(args.split()) == 2
    assert capsys.readouterr().err.startswith(f"error: No such option: {said}")


def test_what_show_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["show", "per_device_train_batch_size"]) == 2
    assert '; did you mean "train.batch_size"? (all of an update)' in capsys.readouterr().err


def test_sections_of_others() -> None:
    lines = refused(
        "bilevel-zofo", ["lora.r=4", "peft_config.lora_alpha=4", "training_args.max_steps=3", "trainer.x=3"]
    )
    assert [line.removesuffix(" (command line)") for line in lines] == [
        'lora.r: unknown section; did you mean "adapter.r"?',
        'peft_config.lora_alpha: unknown section; did you mean "adapter.alpha"?',
        'training_args.max_steps: unknown section; did you mean "train.max_steps"?',
        'trainer.x: unknown section; did you mean "train"?',
    ]
    (line,) = refused("fo-ft", ["lora.r=4"])
    assert line.startswith(
        'lora.r: unknown section; in zofo that is of section "adapter", which is not among the settings here'
    )


@pytest.mark.parametrize("kind", NAMES)
def test_names_of_others(kind: str) -> None:
    """What is to be given instead resolves; where there is nothing, that is said."""
    section = registry.singular(kind)
    base = {"model": "m", "task": "sst2", "train": {"output_dir": "o"}}
    for name, (settings, why) in NAMES[kind].items():
        assert name not in registry.names(kind), name
        method = {} if kind == "methods" else {"method": "mezo"}
        with pytest.raises(InputError) as caught:
            resolve(None, [f"{section}={name}"], **method, **base)
        (line,) = [each for each in str(caught.value).splitlines() if "unknown" in each]
        assert (f"; give {settings}" if settings else f"; zofo has none: {why}; known: ") in line, line
        method = {} if "method=" in settings else {"method": "fo-peft" if kind == "adapters" else "mezo"}
        if settings and "meta" not in settings:  # which needs a setting of many tasks
            resolved = resolve(None, settings.split(), **method, **base)
            assert settings.startswith((f"{section}={resolved.names.get(section)}", "method=fo-ft"))


@pytest.mark.parametrize("field", ["model.dtype", "model.quantization", "method.optimizer", "train.lr_scheduler_type"])
def test_values_of_others(field: str) -> None:
    section, _, name = field.partition(".")
    config = resolve(None, [], model="m", task="sst2", method="fo-peft", train={"output_dir": "o"})
    choices = str(type(getattr(config, section)).__dataclass_fields__[name].type).replace("'", '"')
    mine = {word: value for word, value in VALUES.items() if f'"{value}"' in choices}
    assert mine
    for word, value in mine.items():
        (line,) = refused("fo-peft", [f"{field}={word}"])
        assert line.endswith(f'; did you mean "{value}"?'), line


def test_none_is_no_reporter() -> None:
    (line,) = refused("mezo", ["train.report_to=none"])
    assert line == "train.report_to: leave none out; nothing is reported where nothing is named"


def test_misspelt_words() -> None:
    """A letter left out, or two swapped: the same answer, but where a field of zofo's is nearer."""
    fields = {path.partition(".")[2] for path in ALL}
    for word in [word for word in WORDS if len(word) > 9][::5]:
        for slip in (word[:5] + word[6:], word[:5] + word[6] + word[5] + word[7:]):
            meant = known(slip, fields)
            assert meant is None or meant.fields == WORDS[word].fields or slip in WORDS, (slip, meant)
        assert known(word.upper().replace("_", "-"), fields) is WORDS[word]
    assert known("learning_rte", fields) is WORDS["learning_rate"]
    assert known("num_train_epoch", fields) is None, "which is nearest to zofo's own field"
    assert known("max_step", fields) is None
    assert known("florble", fields) is None


THEIRS = {"trl.SFTConfig": 0.1, "trl.ModelConfig": 0.1, "transformers.TrainingArguments": 0.1}
THEIRS |= {"peft.LoraConfig": 0.5, "transformers.BitsAndBytesConfig": 0.5}


@pytest.mark.parametrize("path", THEIRS)
def test_most_of_what_they_have_is_known(path: str) -> None:
    """Not all: a next version has more."""
    package, _, name = path.partition(".")
    cls = getattr(pytest.importorskip(package, reason=f"needs {package}"), name)
    theirs = [name for name in inspect.signature(cls.__init__).parameters if name not in ("self", "kwargs")]
    mine = {path.partition(".")[2] for path in ALL}
    unknown = [name for name in theirs if name not in mine and name not in WORDS]
    assert len(unknown) <= THEIRS[path] * len(theirs), unknown


def test_what_a_clause_sends_to_is_there() -> None:
    """Verbs and their options in the clauses: a verb that came later makes "there is none" wrong."""
    app = typer.main.get_command(cli.app)
    whole = [(word, entry.why) for word, entry in WORDS.items()] + [
        (name, f"{settings} {why}") for names in NAMES.values() for name, (settings, why) in names.items()
    ]
    sent = [(word, *pair) for word, why in whole for pair in re.findall(r"zofo ([a-z-]+)[^;]*? (--[\w-]+)", why)]
    assert any(word == "push_to_hub" for word, *_ in sent)
    for word, verb, option in sent:
        names = [name for each in app.commands[verb].params for name in each.opts]  # type: ignore[attr-defined]
        assert option in names, (word, verb, option)
