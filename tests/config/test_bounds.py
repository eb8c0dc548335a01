"""What a text may stand for has bounds: aliases, depth, digits, documents; numbers and paths of a configuration too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zofo import InputError
from zofo.config.resolve import resolve
from zofo.config.typed import show
from zofo.config.yaml_reader import DEEPEST, MOST, read_yaml, scalar, texts

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefg", "bcdefgh")
)
FILES: dict[str, tuple[str, str]] = {  # (the text, what is said of it)
    "aliases in lists": (BOMB, f"line 6: aliases that unfold to more than {MOST} values"),
    "aliases in mappings": (
        "a: &a {x: 1, y: 2}\n"
        + "".join(f"{n}: &{n} {{p: *{m}, q: *{m}}}\n" for m, n in zip("abcdefghijklmnopqr", "bcdefghijklmnopqrs")),
        f"aliases that unfold to more than {MOST} values",
    ),
    "a list of itself": ("a: &a [1, *a]\n", "line 1: an alias of what holds it; write the value out"),
    "a mapping of itself": ("a: 1\nb: &b\n  c: {d: *b}\n", "line 2: an alias of what holds it"),
    "a merge of itself": ("a: &a {<<: *a}\n", "line 1: an alias of what holds it"),
    "depth of lists": ("a: " + "[" * 10_000 + "]" * 10_000, f"line 1: more than {DEEPEST} levels deep"),
    "depth of mappings": ("a: " + "{b: " * 9_000 + "1" + "}" * 9_000, f"more than {DEEPEST} levels deep"),
    "depth of dashes": ("a:\n " + "- " * 9_000 + "1\n", f"line 2: more than {DEEPEST} levels deep"),
    "digits": ("a: 1\nb: " + "7" * 5_000, "line 2: a number of 5000 digits"),
    "digits as a key": ("7" * 5_000 + ": 1", "line 1: mapping values are not allowed here"),
    "two documents": ("a: 1\n---\nb: 2\n", "line 2: a second document; one file holds one"),
    "a key twice": ("a: 1\n'\\e[2J': 1\na: 2\n", 'line 3: key "a" is given twice'),
    "a program": ("a: !!python/object/apply:os.system ['true']\n", "line 1: could not determine a constructor"),
    "a tag": ("a: !mine 1\n", "line 1: could not determine a constructor for the tag '!mine'"),
    "NUL": ("a: \x00\n", "the character #x0000 is none of YAML's"),
    "a control character": ("a: \x1b[2J\n", "the character #x001b is none of YAML's"),
}


@pytest.mark.parametrize("what", FILES)
def test_a_file_beyond_the_bounds(what: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(FILES[what][0])
    with pytest.raises(InputError) as caught:
        read_yaml(path, "config file")
    text = str(caught.value)
    assert text.startswith(f"config file {path}")
    assert FILES[what][1] in text
    assert "\n" not in text
    assert text.isprintable()


def test_what_is_within_them(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        f"base: &b {{x: 1}}\none: {{<<: *b, y: 2}}\ntwo: [*b, *b]\nz: {'[' * 90}{']' * 90}\nn: {'9' * 4000}\n"
    )
    content = read_yaml(path, "")
    assert (content["one"], content["two"]) == ({"x": 1, "y": 2}, [{"x": 1}, {"x": 1}])
    assert content["n"] == 10**4000 - 1


@pytest.mark.parametrize("raw", ["[" * 10_000, "[" * 10_000 + "]" * 10_000, "9" * 5_000, "&a [*a]", "a\n---\nb"])
def test_a_value_of_the_command_line(raw: str) -> None:
    """It is taken as the text that it is, and refused where a text is not expected."""
    assert scalar(raw) == texts(raw) == raw or raw == "9" * 5_000
    with pytest.raises(InputError) as caught:
        resolve(None, [f"train.seed={raw}"], model="m", task="sst2", method="mezo", train={"output_dir": "o"})
    assert str(caught.value).startswith("train.seed: expected an integer, got ")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("train.threads=100000", "train.threads: must be <= 1024, got 100000"),
        ("train.batch_size=10000000", "train.batch_size: must be <= 1000000, got 10000000"),
        ("train.eval_batch_size=10000000", "train.eval_batch_size: must be <= 1000000, got 10000000"),
        ("train.micro_batch_size=10000000", "train.micro_batch_size: must be <= 1000000, got 10000000"),
        ("train.max_steps=9223372036854775808", "train.max_steps: must be below 2^63, got 9223372036854775808"),
        ("method.lr=1e400", "method.lr: expected a finite number, got inf"),
        ("model.name=a\0b", 'model.name: holds a NUL character, got "a\\u0000b"'),
        ("train.output_dir=a\0b", 'train.output_dir: holds a NUL character, got "a\\u0000b"'),
        (f"train.output_dir={'d' * 256}", "train.output_dir: a name of more than 255 bytes"),
        ("train.output_dir=a/" + "\u00e9" * 128 + "/b", "train.output_dir: a name of more than 255 bytes"),
        ("=1", '=1: expected "section.key=value"'),
        ("\x1b[31mseed=1", "\\x1b[31mseed: unknown section"),
    ],
)
def test_absurd_values(override: str, line: str) -> None:
    sections: dict[str, Any] = {"model": "m", "task": "sst2", "method": "mezo", "train": {"output_dir": "o"}}
    with pytest.raises(InputError) as caught:
        resolve(None, [override], **sections)
    assert str(caught.value).startswith(line)
    assert str(caught.value).isprintable()


def test_values_that_cannot_be_shown() -> None:
    endless: list[Any] = []
    endless.append(endless)
    deep: Any = 1
    for _ in range(10_000):
        deep = [deep]
    assert show(endless) == show(deep) == "a list"
    assert show(10**5000) == "a int"
    assert show("\x1b[2J\u202e\ud800") == '"\\u001b[2J\\u202e\\ud800"'
    with pytest.raises(InputError, match=r"task.choices: expected a list of strings or null, got a list"):
        resolve(None, [], model="m", task={"name": "sst2", "choices": deep}, method="mezo", train={"output_dir": "o"})
