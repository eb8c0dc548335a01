"""Every file of src/zofo/data/tasks: how it reads, on demonstration rows of our own and on the shared extracts.

The files are those of the registry, so that a new one is tested when it exists; what its default template must read is
to be written down in EXPECTED.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment

from tests.conftest import ROOT, write_rows
from zofo.config import registry
from zofo.config.sections import TaskConfig
from zofo.data import Decoding, Example, load_task
from zofo.data.files import Record, read_file
from zofo.data.jinja import ENV
from zofo.data.metrics import humaneval
from zofo.data.metrics.text import TEXT_METRICS
from zofo.data.spec import METRICS, TaskSpec, Template, load_spec, maker, metrics_of
from zofo.errors import InputError

Write = Callable[[str, list[dict[str, Any]]], Path]
NAMES = registry.names("tasks")
FOLDERS = {"aqua": "aqua_rat"}  # of the shared extracts, where the name differs
CODE = {"humaneval"}  # whose answers go on where the prompt ends, with the indentation of code
MANY = {"drop", "humaneval", "math500"}  # for which four demonstrations are shown


def spec_of(name: str) -> TaskSpec:
    return load_spec(registry.load("tasks", name))


def shown(spec: TaskSpec, template: str) -> list[Example]:
    make = maker(spec, template)
    return [make(Record(str(i), spec.file, row)) for i, row in enumerate(spec.demonstrations)]


# --------------------------------------------------------------------------------------- demonstrations of our own


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_complete(name: str) -> None:
    spec = spec_of(name)
    assert set(spec.templates) > {"default", "plain"} or name == "movie-reviews", "one more way to ask"
    assert len(spec.demonstrations) >= (4 if name in MANY else 2)
    assert spec.hub is not None or "task.data=" in spec.missing
    assert spec.hub is None or "test" in spec.splits
    assert "train" in spec.splits or spec.carve or spec.hub is None
    for row in spec.demonstrations:
        assert set(spec.columns) <= set(row)
    if spec.kind == "options":
        assert len({e.gold for e in shown(spec, "default")}) > 1, "demonstrations with different right answers"


@pytest.mark.parametrize("name", NAMES)
def test_demonstrations_render_under_every_template(name: str) -> None:
    spec = spec_of(name)
    right = [(e.gold, e.reference) for e in shown(spec, "default")]
    for template in spec.templates:
        examples = shown(spec, template)
        assert [(e.gold, e.reference) for e in examples] == right, "what is right does not depend on how one asks"
        for e in examples:
            assert e.gold
            assert max(e.gold) < len(e.answers)
            assert (e.reference is not None) == (spec.kind == "generation")
            if name not in CODE:  # a blank between prompt and answer, and no second one
                for answer in e.answers:
                    assert answer[:1].isspace() != e.prompt[-1].isspace()
                    assert answer == answer.rstrip()
            if e.null_prompt is not None:
                assert e.null_prompt.strip()
                assert e.null_prompt in e.prompt, "the prompt without its input"
                assert e.null_prompt[-1].isspace() == e.prompt[-1].isspace()


@pytest.mark.parametrize("name", [name for name in NAMES if spec_of(name).kind == "options"])
def test_calibrated_scores_have_a_prompt_without_input(name: str) -> None:
    spec = spec_of(name)
    without = {template for template, t in spec.templates.items() if t.null_prompt is None}
    assert without == {"plain"} | ({"default"} if name == "winogrande" else set())  # its prompt is all input


@pytest.mark.parametrize("name", [name for name in NAMES if spec_of(name).kind == "generation"])
def test_the_trained_answer_scores_full_marks(name: str) -> None:
    spec = spec_of(name)
    for template in spec.templates:
        for e in shown(spec, template):
            assert full_marks(spec, e)


def full_marks(spec: TaskSpec, e: Example) -> bool:
    """The metrics of the task take its references, and a model that writes the answer is right and not cut short."""
    assert not any(stop in e.answers[0] for stop in spec.generation.stop)
    if metrics_of(spec) == ("pass_at_k",):
        of = e.reference
        exec(
            humaneval.program(of["prompt"], e.answers[0], of["test"], of["entry_point"]), {}
        )  # demonstrations of our own
        return True
    return all(TEXT_METRICS[metric](e.answers[0], e.reference) == 1.0 for metric in metrics_of(spec))


@pytest.mark.parametrize("name", NAMES)
def test_demonstrations_load_as_data_of_ones_own(name: str, write_jsonl: Write, tmp_path: Path) -> None:
    spec = spec_of(name)
    write_jsonl("test.jsonl", spec.demonstrations)
    data = load_task(TaskConfig(name=name, data=str(tmp_path)), 0, only="test")
    assert (data.kind, data.metrics, data.labels) == (spec.kind, metrics_of(spec), tuple(spec.labels))
    assert (data.train, data.dev) == ([], [])
    assert {e.id for e in data.test} == {f"{name}/test/{i}" for i in range(len(spec.demonstrations))}
    assert {(e.prompt, e.answers) for e in data.test} == {(e.prompt, e.answers) for e in shown(spec, "default")}


@pytest.mark.parametrize("name", ["humaneval", "math500"])
def test_a_run_trains_on_a_share_of_test_rows_alone(name: str, write_jsonl: Write, tmp_path: Path) -> None:
    rows = [{**row, "n": n} for n in range(5) for row in spec_of(name).demonstrations]
    text = "prompt" if name == "humaneval" else "problem"
    write_jsonl("test.jsonl", [{**row, text: f"{row[text]}{row['n']}"} for row in rows])
    data = load_task(TaskConfig(name=name, data=str(tmp_path), train_examples=14, dev_examples=2), 0)
    assert (len(data.train), len(data.dev), len(data.test)) == (14, 2, 4)
    assert len({e.prompt for e in data.train + data.dev + data.test}) == 20


# ---------------------------------------------------------------------------------------------- what the model sees

Expected = tuple[str, tuple[str, ...], tuple[int, ...]]

# The first demonstration of each file under "default": prompt, answers, right ones (SPEC section 8).
EXPECTED: dict[str, Expected] = {
    "sst2": (
        "two hours of rain on a window would have been better company . It was",
        (" terrible", " great"),
        (0,),
    ),
    "rte": (
        "The ferry to the island left at six with forty people on board.\n"
        'Does this mean that "A ferry carried forty people." is true? Yes or No?\n',
        ("Yes", "No"),
        (0,),
    ),
    "cb": (
        "Suppose A: Did the plumber come? B: He did, and I was glad that he had brought the long ladder. "
        'Can we infer that "the plumber had brought the long ladder"? Yes, No, or Maybe?\n',
        ("Yes", "No", "Maybe"),
        (0,),
    ),
    "boolq": (
        "The old tram depot -- The depot was built in 1911 and has housed a swimming pool since 1987. "
        "Is there a swimming pool in the old tram depot?\n",
        ("No", "Yes"),
        (1,),
    ),
    "wic": (
        'Does the word "bank" have the same meaning in these two sentences? Yes, No?\n'
        "We ate our bread on the bank of the canal.\n"
        "The bank closes at four on Fridays.\n",
        ("No", "Yes"),
        (0,),
    ),
    "wsc": (
        "The jug would not fit under the tap because it was too tall.\n"
        'In the previous sentence, does the pronoun "it" refer to The jug? Yes or No?\n',
        ("No", "Yes"),
        (1,),
    ),
    "multirc": (
        "Nadia planted beans in April. In June a late frost took half of them. She sowed again in July. \n"
        "Question: When did Nadia sow?\n"
        'I found this answer "April and July". Is that correct? Yes or No?\n',
        ("No", "Yes"),
        (1,),
    ),
    "copa": ("The kettle boiled dry because", (" I forgot it on the stove.", " the tea was cheap."), (0,)),
    "record": (
        "Lindholm (HT) -- The harbour of Lindholm froze on Sunday for the first time since Agnes Brandt became harbour "
        "master.\n"
        "- Brandt: the ferry to Vesk will wait for the ice breaker\n"
        "- Lindholm last froze nine years ago\n"
        "-",
        tuple(
            f" The people of Vesk will have to wait for their post, said {name}."
            for name in ("Lindholm", "HT", "Agnes Brandt", "Brandt", "Vesk")
        ),
        (2, 3),
    ),
    "winogrande": (
        "Rosa carried the crate and not the sack up the stairs because the",
        (" crate was lighter.", " sack was lighter."),
        (0,),
    ),
    "squad": (
        "Title: Market hall of Elster\n"
        "Context: The market hall of Elster was finished in 1896. Its roof of iron and glass was made by the brothers "
        "Kuhn, who also built two bridges in the town.\n"
        "Question: Who made the roof of the market hall?\n"
        "Answer:",
        (" the brothers Kuhn",),
        (0,),
    ),
    "drop": (
        "Passage: The rowing club of Marne won 14 races in 2003 and 9 in 2004. Its eight, led by Henri Petit, came "
        "first on 5 June 2004.\n"
        "Question: How many more races did the club win in 2003 than in 2004?\n"
        "Answer:",
        (" 5",),
        (0,),
    ),
    "gsm8k": (
        "Question: A crate holds 24 jars. Pia fills 3 crates and then takes 5 jars out for her aunt. How many jars are "
        "left in the crates?\n"
        "Answer:",
        (" Pia fills 3 * 24 = 72 jars.\nThere are 72 - 5 = 67 jars left.\n#### 67",),
        (0,),
    ),
    "math500": (
        "Problem: What is the remainder when $7^3$ is divided by $5$?\nWrite the final answer in \\boxed{}.\nSolution:",
        (" We have $7^3 = 343 = 5 \\cdot 68 + 3$, so the remainder is $\\boxed{3}$.",),
        (0,),
    ),
    "humaneval": (
        'def middle(text: str) -> str:\n    """The character in the middle of a text of odd length.\n'
        '    >>> middle("cat")\n    \'a\'\n    """\n',
        ("    return text[len(text) // 2]\n",),
        (0,),
    ),
    "piqa": (
        "Goal: keep a door from slamming\nSolution:",
        (" Push a wedge of cork under it.", " Push a sheet of paper under it."),
        (0,),
    ),
    "siqa": (
        "Noor carried the neighbour's shopping up four flights of stairs. How would you describe Noor?\nAnswer:",
        (" forgetful", " helpful", " hungry"),
        (1,),
    ),
    "aqua": (
        "Question: A tank is filled by one pipe in 6 hours and by a second one in 3 hours. How many hours do both take "
        "together?\n"
        "A. 1\nB. 2\nC. 3\nD. 4.5\nE. 9\n"
        "Answer:",
        (" A", " B", " C", " D", " E"),
        (1,),
    ),
    "mmlu": (
        "Question: How many edges does a cube have?\nA. 6\nB. 8\nC. 12\nD. 24\nAnswer:",
        (" A", " B", " C", " D"),
        (2,),
    ),
    "movie-reviews": (
        "I looked at my watch more often than at the screen. It was",
        (" terrible", " great"),
        (0,),
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_default_prompt_to_the_letter(name: str) -> None:
    assert name in EXPECTED, "write down what the first demonstration must read under the default template"
    e = shown(spec_of(name), "default")[0]
    assert (e.prompt, e.answers, e.gold) == EXPECTED[name]


def change(name: str, **columns: Any) -> Example:
    """The first demonstration with other cells, under the default template."""
    spec = spec_of(name)
    return maker(spec, "default")(Record("x", "rows.jsonl:1", {**spec.demonstrations[0], **columns}))


def test_details_of_prompts() -> None:
    assert change("boolq", question="is it new?").prompt.endswith(" Is it new?\n")
    assert '"he" refer to Otto?' in change("wsc", span2_text="He", span1_text="Otto").prompt
    assert change("copa", question="effect").prompt == "The kettle boiled dry so"
    assert change("copa", choice1="I'm late.").answers[0] == " I'm late."
    assert change("copa", choice1="It's late.").answers[0] == " it's late."
    assert change("sst2", label=1).gold == change("sst2", label="positive").gold == (1,)
    assert change("winogrande", sentence='He said "_" twice.').answers == ('crate" twice.', 'sack" twice.')
    assert change("gsm8k", answer="2+2=<<2+2=4>>4\n\n#### 4").answers == (" 2+2=4\n#### 4",)
    assert change("aqua", options=["A) 51 days", "B)B-52", "C)3", "D)D", "E)none"]).prompt.endswith(
        "\nA. 51 days\nB. B-52\nC. 3\nD. D\nE. none\nAnswer:"
    )
    assert change("drop", answers_spans={"spans": ["a", "b"], "types": ["span", "span"]}).reference == [["a"], ["b"]]


def test_names_of_a_record_row_count_once_and_each_listed_one_is_right() -> None:
    e = change("record", query="@placeholder won.", entities=["US", "us", "US", "U.S."], answers=["U.S.", "US", "US"])
    assert (e.answers, e.gold) == ((" US won.", " us won.", " U.S. won."), (0, 2))


def test_a_subject_that_is_not_known_is_left_out() -> None:
    spec = spec_of("mmlu")
    make = maker(spec, "subject")
    prompts = [make(Record("x", "y", {**spec.demonstrations[0], "subject": s})).prompt for s in ("a_b", "")]
    assert prompts == [f"An exam in a b.\n{EXPECTED['mmlu'][0]}", EXPECTED["mmlu"][0]]


# ------------------------------------------------------------------------------------------------- the shared extracts


@pytest.mark.parametrize("name", NAMES)
def test_every_shared_row_renders(name: str, shared_data: Path) -> None:
    folder = shared_data / FOLDERS.get(name, name)
    if not folder.is_dir():
        pytest.skip(f"no shared rows of {name}")
    known = json.loads((shared_data / "manifest.json").read_text("utf-8"))[folder.name]
    spec = spec_of(name)
    rows = read_file(folder / "test.jsonl", f"{name}/test")
    for template in spec.templates:
        make = maker(spec, template)
        found = [make(row) for row in rows]
        assert len(found) == known["counts"]["test"]
        assert all(e.gold and max(e.gold) < len(e.answers) for e in found)
        if spec.kind == "generation" and name not in CODE:
            assert [e.id for e in found if not full_marks(spec, e)] == []
        if spec.kind == "options" and known.get("balance"):
            counts = [n for _, n in sorted(known["balance"]["test"].items())]  # in the order of the labels' names
            assert Counter(e.gold for e in found) == {(i,): n for i, n in enumerate(counts)}


# -------------------------------------------------------------------------------------------------- rows of no use

BAD_ROWS = [
    ("sst2", {"label": -1}, "unknown label -1; known: 0 negative, 1 positive"),  # what the hub hides labels with
    ("sst2", {"label": "neutral"}, "unknown label 'neutral'; known: 0 negative, 1 positive"),
    ("siqa", {"label": "4"}, "unknown label 3; known: 0 cook something else"),
    ("winogrande", {"answer": ""}, "unknown label -1"),
    ("winogrande", {"sentence": "No gap."}, 'template "default": substring not found'),
    ("winogrande", {"sentence": "_ slept."}, "the prompt comes out empty; mend the template or drop the row"),
    ("aqua", {"correct": "F"}, "unknown label 'F'; known: 0 A, 1 B"),
    ("aqua", {"options": ["A)1", "B)2"]}, "2 answers for the 5 labels A, B, C, D, E"),
    ("mmlu", {"choices": ["a", "b"]}, "2 answers for the 4 labels A, B, C, D"),
    ("record", {"answers": ["Nobody"]}, "unknown label 'Cars will cross the river on the Nobody a day later.'"),
    ("record", {"query": "No gap."}, "needs two or more different answers"),
    ("copa", {"choice1": ""}, "answer 0 comes out empty; mend the template or drop the row"),
    ("squad", {"answers": {"text": [], "answer_start": []}}, "list object has no element 0"),
    ("math500", {"answer": ""}, "no reference answer; mend or drop the row"),
]
MISSING = ["sst2.sentence", "sst2.label", "record.answers", "squad.answers", "math500.answer", "humaneval.test"]


def error(name: str, row: dict[str, Any], write_jsonl: Write) -> str:
    """The error of a file whose second row is this one."""
    path = write_jsonl("test.jsonl", [spec_of(name).demonstrations[0], row])
    with pytest.raises(InputError) as caught:
        load_task(TaskConfig(name=name, data=str(path.parent)), 0, only="test")
    return str(caught.value)


@pytest.mark.parametrize(("name", "changes", "expected"), BAD_ROWS)
def test_a_row_of_no_use(name: str, changes: dict[str, Any], expected: str, write_jsonl: Write) -> None:
    text = error(name, {**spec_of(name).demonstrations[1], **changes}, write_jsonl)
    assert text.startswith(f"test.jsonl:2: {name}.yaml: ")
    assert expected in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize("without", MISSING)
@pytest.mark.parametrize("null", [False, True])
def test_a_row_without_a_cell(without: str, null: bool, write_jsonl: Write) -> None:
    name, column = without.split(".")
    row = dict(spec_of(name).demonstrations[1])
    row.pop(column)
    text = error(name, {**row, column: None} if null else row, write_jsonl)
    assert text.startswith("test.jsonl:2: ")
    assert f"{name}.yaml" in text
    assert column in text
    assert len(text.splitlines()) == 1


def test_a_row_without_a_right_answer(write_jsonl: Write) -> None:
    text = error("record", {**spec_of("record").demonstrations[1], "answers": []}, write_jsonl)
    assert text.startswith("test.jsonl:2: record.yaml: ")
    assert "mend or drop the row" in text


# ------------------------------------------------------------------------------------------------------ the document


def test_the_example_of_the_document_works(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "add_a_task.md").read_text("utf-8")
    (tmp_path / "tickets.yaml").write_text(text.partition("```yaml\n")[2].partition("```")[0])
    (tmp_path / "train.jsonl").write_text(text.partition("```json\n")[2].partition("```")[0])
    data = load_task(TaskConfig(name=str(tmp_path / "tickets.yaml"), data=str(tmp_path)), 0)
    assert (len(data.train), len(data.dev), len(data.test)) == (2, 1, 1)
    found = {e.id: e for e in data.train + data.dev + data.test}
    urgent = found["tickets/train/1"]
    assert urgent.prompt == "Urgent! The app closes when I rotate the phone.\nThis mail is about"
    assert (urgent.answers, urgent.gold, urgent.null_prompt) == ((" money", " technology"), (1,), "This mail is about")


def test_the_document_names_every_key_filter_and_metric() -> None:
    text = (ROOT / "docs" / "add_a_task.md").read_text("utf-8")
    keys = [f.name for cls in (TaskSpec, Template, Decoding) for f in fields(cls) if f.name != "file"]
    ours = ENV.filters.keys() - Environment().filters.keys()
    for name in [*keys, *ours, *(m for of_kind in METRICS.values() for m in of_kind)]:
        assert f"`{name}`" in text, name


def test_one_file_is_the_split_that_is_evaluated(tmp_path: Path) -> None:
    """All of it, and no demonstration comes out of it; a run cuts its dev and test from it."""
    rows = [
        {**row, "premise": f"{row['premise']} {i}"}
        for i, row in enumerate(load_spec(registry.load("tasks", "copa")).demonstrations * 10)
    ]
    path = write_rows(tmp_path / "test.jsonl", rows)
    cfg = TaskConfig(name="copa", data=str(path))
    data = load_task(cfg, 0, only="test")
    assert (len(data.train), len(data.test)) == (0, len(rows))
    shown = load_task(replace(cfg, num_fewshot=1), 0, only="test").test[0]
    demonstration = shown.prompt.partition("\n\n")[0]
    assert not any(character.isdigit() for character in demonstration), "the task file's own have no number"
    assert 0 < len(load_task(cfg, 0).test) < len(rows)


def test_settings_that_a_task_has_no_use_for_are_refused(tmp_path: Path) -> None:
    for field, value, fault in (("samples", 9, "generates nothing"), ("run_generated_code", True, "runs no programs")):
        with pytest.raises(InputError, match=f"task.{field}: copa {fault}; leave it out"):
            load_task(replace(TaskConfig(name="copa", data=str(tmp_path)), **{field: value}), 0)


def test_a_prompt_that_ends_in_a_blank_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    task = tmp_path / "moo.yaml"
    task.write_text(
        "version: 1\ndescription: x\nsource: x\ncolumns: [a, b]\nkind: options\ngold: b\n"
        "objective: lm\nmetric: accuracy\n"
        'templates: {default: {prompt: "{{ a }} ", answers: ["yes", "no"]}}\n'
    )
    (tmp_path / "test.jsonl").write_text('{"a": "x", "b": 0}\n')
    load_task(TaskConfig(name=str(task), data=str(tmp_path)), 0, only="test")
    assert "ends in a blank" in caplog.text
    task.write_text(task.read_text().replace("gold: b", "gold: b | int - 1"))
    (tmp_path / "test.jsonl").write_text('{"a": "x", "b": "7"}\n')
    with pytest.raises(InputError, match=r"unknown label 6; known: .* \(gold is b \| int - 1; b '7'\)"):
        load_task(TaskConfig(name=str(task), data=str(tmp_path)), 0, only="test")
