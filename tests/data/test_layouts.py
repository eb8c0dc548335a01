"""Every layout in every kind of file is the same examples; folders of parts; tool calls; what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.chat_templates import CHATML, with_template
from tests.conftest import make_tokenizer
from tests.loading import task
from tests.own_worlds import KINDS, LAYOUTS, rows_in, write
from zofo.config.sections import TaskConfig
from zofo.data import load_task
from zofo.data.chat import NoTokenizerYet
from zofo.data.heads import missing_files
from zofo.data.tables import read_tables
from zofo.errors import InputError

# As Qwen 2.5's: the tools in a system turn, calls and their answers between signs
TOOLS = (
    "{% if tools %}{{ '<|im_start|>system\n' }}{% for t in tools %}{{ t | tojson }}{% endfor %}{{ '<|im_end|>\n' }}"
    "{% endif %}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
    "{% for c in m.tool_calls or [] %}{{ '<tool_call>' + (c.function | tojson) + '</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
UNLEARNT = {"role": "assistant", "content": "b", "weight": 0}
MAPPED = {"text_column": "review", "label_column": "stars"}


def of_a_layout(layout: str, path: Path, **changes: Any) -> TaskConfig:
    return task("", train_file=str(path), **(MAPPED if layout == "mapped" else {}), **changes)


@pytest.fixture(scope="module")
def chatml() -> Any:
    return with_template(make_tokenizer, CHATML)


@pytest.fixture(scope="module")
def with_tools() -> Any:
    return with_template(make_tokenizer, TOOLS)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_the_same_in_every_kind_of_file(layout: str, tmp_path: Path, chatml: Any) -> None:
    found = {}
    for kind in KINDS:
        data = load_task(of_a_layout(layout, write(tmp_path / f"rows{kind}", rows_in(layout))), 0, chatml)
        found[kind] = sorted((e.prompt, e.answers, e.gold) for e in data.train + data.dev + data.test)
        assert len(found[kind]) == 20
        assert data.unread == (("id",) if layout == "mapped" else ())
    assert all(rows == found[".jsonl"] for rows in found.values())


@pytest.mark.parametrize(
    ("layout", "template", "first", "second"),
    [
        ("question", "default", ("Question: film 0\nAnswer:", " good"), ("Question: film 1\nAnswer:", " bad")),
        ("question", "plain", ("film 0", " good"), ("film 1", " bad")),
        ("alpaca", "plain", ("film 0\n\nat 0\n\n", "good"), ("film 1\n\n", "bad")),
        (
            "alpaca",
            "default",
            (
                "Below is an instruction that describes a task, paired with an input that provides further context. "
                "Write a response that appropriately completes the request.\n\n### Instruction:\nfilm 0\n\n### Input:\n"
                "at 0\n\n### Response:\n",
                "good",
            ),
            (
                "Below is an instruction that describes a task. Write a response that appropriately completes the "
                "request.\n\n### Instruction:\nfilm 1\n\n### Response:\n",
                "bad",
            ),
        ),
    ],
)
def test_what_a_layout_writes(layout: str, template: str, first: Any, second: Any, tmp_path: Path) -> None:
    data = load_task(of_a_layout(layout, write(tmp_path / "a.jsonl", rows_in(layout)), template=template), 0)
    written = {e.id: (e.prompt, e.answers[0]) for e in data.train + data.dev + data.test}
    assert (written["a.jsonl:1"], written["a.jsonl:2"]) == (first, second)


@pytest.mark.parametrize("layout", ["alpaca", "question", "messages", "sharegpt"])
def test_in_a_chat_there_are_no_words_around_it(layout: str, tmp_path: Path, chatml: Any) -> None:
    path = write(tmp_path / "a.jsonl", rows_in(layout))
    data = load_task(of_a_layout(layout, path, apply_chat_template=True), 0, chatml)
    (second,) = [e for e in data.train + data.dev + data.test if e.id == "a.jsonl:2"]
    assert second.prompt == "<|im_start|>user\nfilm 1<|im_end|>\n<|im_start|>assistant\n"
    assert second.answers == ("bad<|im_end|>",)


def test_sharegpts_speakers_and_loss_on_all(tmp_path: Path, with_tools: Any) -> None:
    turns = [("human", "a"), ("function_call", '{"name": "weather", "arguments": {"at": "x"}}'), ("observation", "4")]
    talk = [{"from": who, "value": what} for who, what in [*turns, ("gpt", "four")]]
    rows = [{"conversations": talk, "system": f"s{i}", "tools": json.dumps([WEATHER])} for i in range(12)]
    path = write(tmp_path / "a.jsonl", rows)
    data = load_task(task("", train_file=str(path), loss_on="all"), 0, with_tools)
    example = data.train[0]
    (call,) = [example.prompt[turn.start : turn.stop] for turn in example.learnt]
    assert call == '<tool_call>{"name": "weather", "arguments": {"at": "x"}}</tool_call><|im_end|>'
    assert '"weather", "parameters"' in example.prompt
    assert "<|im_start|>tool\n4<|im_end|>" in example.prompt
    assert example.answers == ("four<|im_end|>",)
    bad = [{"conversations": [{"from": "humn", "value": "a"}, {"from": "gpt", "value": "b"}]}] * 12
    with pytest.raises(InputError, match=r'unknown speaker "humn"; known: human, .* did you mean "human"'):
        load_task(task("", train_file=str(write(tmp_path / "b.jsonl", bad))), 0, with_tools)


def call_rows(arguments: Any) -> list[dict[str, Any]]:
    call = {"type": "function", "function": {"name": "weather", "arguments": arguments}}
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    return [{"messages": turns, "tools": [WEATHER]} for _ in range(12)]


@pytest.mark.parametrize("kind", [".jsonl", ".parquet", ".csv"])
@pytest.mark.parametrize("arguments", [{"at": "x"}, '{"at": "x"}'])
def test_a_call_is_learnt(kind: str, arguments: Any, tmp_path: Path, with_tools: Any) -> None:
    path = write(tmp_path / f"a{kind}", call_rows(arguments))
    example = load_task(task("", test_file=str(path)), 0, with_tools, "test").test[0]
    assert example.answers == ('<tool_call>{"name": "weather", "arguments": {"at": "x"}}</tool_call><|im_end|>',)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (call_rows({"at": 1})[0], '"tools": the model\'s chat template writes nothing of them'),
        ({"messages": call_rows({"at": 1})[0]["messages"]}, "writes nothing of the assistant's tool_calls"),
        ({"messages": call_rows("no JSON")[0]["messages"]}, "a call of a tool must be"),
        ({"prompt": "a", "completion": " b", "tools": [WEATHER]}, '"tools" are for messages'),
        (
            {"messages": [*call_rows({})[0]["messages"][:1], {"role": "assistant", "content": "b", "weight": 0}]},
            "weight",
        ),
    ],
)
def test_what_a_template_does_not_know_is_refused(row: Any, said: str, tmp_path: Path, chatml: Any) -> None:
    path = write(tmp_path / "a.jsonl", [row] * 12)
    with pytest.raises(InputError) as caught:
        load_task(task("", train_file=str(path)), 0, chatml)
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("place", ["", "data", "default", "en"])
def test_a_folder_as_the_hub_has_it(place: str, tmp_path: Path) -> None:
    rows = rows_in("options", 30)
    for number in (1, 0):
        write(tmp_path / place / f"train-0000{number}-of-00002.parquet", rows[number * 10 : number * 10 + 10])
    write(tmp_path / place / "validation-00000-of-00001.parquet", rows[20:])
    tables = read_tables(tmp_path)
    assert [record.row for record in tables["train"]] == rows[:20]
    assert len({record.id for record in tables["train"]}) == 20
    assert [record.row for record in tables["dev"]] == rows[20:]
    (tmp_path / place / "train-00000-of-00002.parquet").unlink()
    with pytest.raises(InputError, match="1 of the 2 parts train-"):
        read_tables(tmp_path)


FAULTS = {
    "no such file": ({"train_file": "none.csv"}, "train_file: no such file: "),
    "a column": ({"text_column": "reviw"}, 'text_column: no column "reviw" in a.csv; has: review, stars, id; did you'),
    "a label": ({"label_column": "star"}, 'label_column: no column "star" in a.csv; has: review, stars, id; did you'),
    "no column": ({"text_column": None, "label_column": None}, "train_file: a.csv: needs the columns text and label"),
    "one file twice": ({"dev_file": "a.csv"}, "dev_file: {}/a.csv is task.train_file too"),
    "other columns": ({"dev_file": "b.csv"}, 'dev_file: b.csv: no column "review"; has: text, label'),
    "an empty one": ({"test_file": "empty.csv"}, "test_file: {}/empty.csv: no rows"),
    "a kind": ({"test_file": "a.txt"}, "test_file: no such file: {}/a.txt"),
    "a folder": ({"test_file": "."}, "test_file: {}/. is a directory; give a file"),
    "nothing to train on": ({"train_file": None, "dev_file": "a.csv"}, "train_file: needed beside task.dev_file"),
}


@pytest.mark.parametrize("what", FAULTS)
def test_files_and_columns_are_looked_at_first(what: str, tmp_path: Path) -> None:
    changes, said = FAULTS[what]
    write(tmp_path / "a.csv", rows_in("mapped"))
    write(tmp_path / "b.csv", rows_in("options"))
    (tmp_path / "empty.csv").write_text("review,stars,id\n", encoding="utf-8")
    settings = {"train_file": "a.csv", **MAPPED, **changes}
    placed: dict[str, Any] = {k: f"{tmp_path}/{v}" if v and k.endswith("_file") else v for k, v in settings.items()}
    faults = missing_files(TaskConfig(name="", **placed), trains=True)
    assert len(faults) == 1
    assert faults[0].startswith(said.format(tmp_path)), faults


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    one, two = (write(tmp_path / name / "rows.jsonl", rows_in("options")) for name in ("a", "b"))
    data = load_task(task("", train_file=str(one), test_file=str(two)), 0, NoTokenizerYet())
    assert not {e.id for e in data.train + data.dev} & {e.id for e in data.test}


def test_files_of_a_known_task(tmp_path: Path) -> None:
    rows = [{"sentence": f"film {i}", "label": i % 2} for i in range(20)]
    one, two = write(tmp_path / "x.jsonl", rows[:14]), write(tmp_path / "y.jsonl", rows[14:])
    data = load_task(task("sst2", train_file=str(one), test_file=str(two)), 0)
    assert (len(data.train + data.dev), len(data.test)) == (14, 6)
