"""Labels that are slips of another one, or that nothing learns: said with place, counts and fix; else silence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.conftest import write_rows
from tests.loading import error, task
from zofo.data import load_task

TRAIN_ALL = {"train_examples": 10_000}


def said(caplog: pytest.LogCaptureFixture, folder: Path, counts: Mapping[str, int], **changes: object) -> list[str]:
    """What is logged of a file with so many rows of each label, in that order."""
    labels = [label for label, count in counts.items() for _ in range(count)]
    rows = [{"text": f"film {i}: it was", "label": label} for i, label in enumerate(labels)]
    caplog.clear()
    load_task(task(write_rows(folder / "rows.jsonl", rows), **changes), 0)
    elsewhere = ("no training row has", "macro_f1 is measured too")
    return [message for message in caplog.messages if not any(words in message for words in elsewhere)]


@pytest.mark.parametrize(
    ("counts", "slip", "line"),
    [
        ({"positive": 30, "negative": 29, "positve": 1}, "positve", 60),
        ({"positve": 1, "positive": 4, "negative": 5}, "positve", 1),  # in a file of ten rows
        ({"yes": 20, "no": 20, "yess": 1}, "yess", 41),
        ({"great": 40, "graet": 1, "bad": 30}, "graet", 41),
        ({"good": 300, "bad": 300, "goood": 12}, "goood", 601),  # 2 % of the rows, and more than one
        ({"sports": 9, "politics": 9, "potilics": 1}, "potilics", 19),
    ],
)
def test_a_rare_label_near_another(
    counts: dict[str, int], slip: str, line: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (message,) = said(caplog, tmp_path, counts)
    assert message.startswith(f'rows.jsonl:{line}: the label "{slip}" ({counts[slip]} row')
    assert "and is spelt nearly as it; if it is a mistake, write " in message
    usual = message.partition('beside "')[2].partition('" (')[0]
    assert f'"{usual}" ({counts[usual]} rows)' in message
    assert message.endswith(f'write "{usual}" there, else name the answers: task.choices=[...]')
    assert said(caplog, tmp_path, counts, choices=list(counts)) == [], "as the message has it"


@pytest.mark.parametrize(
    "counts",
    [
        {"positive": 30, "Positive": 29, "negative": 5},
        {"POSITIVE": 3, "positive": 30, "negative": 30},
        {"very good": 20, "very  good": 19, "bad": 20},
        {"good.": 15, "good": 20, "bad": 20},
        {"good": 20, '"good"': 10, "bad": 20},
        {"not spam": 20, "not_spam": 12, "spam": 20},
        {"stra\u00dfe": 9, "STRASSE": 8, "weg": 9},
    ],
)
def test_labels_that_differ_by_nothing_that_is_meant(
    counts: dict[str, int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """However many rows they have; the more frequent one is taken for the right one."""
    (message,) = said(caplog, tmp_path, counts)
    slip, usual = sorted(list(counts)[:2], key=counts.__getitem__)  # which stand side by side above
    first = 1 + sum(count for name, count in list(counts.items())[: list(counts).index(slip)])
    assert message.startswith(
        f'rows.jsonl:{first}: the label "{slip}" ({counts[slip]} rows) is a class of its own beside "{usual}" '
        f"({counts[usual]} rows), and differs from it by case, blanks or punctuation alone; "
    )


@pytest.mark.parametrize(
    "counts",
    [
        {"1": 30, "2": 30, "10": 1},
        {"2010": 30, "2011": 1, "2012": 30},
        {"class_1": 30, "class_2": 1, "class_10": 30},
        {"-1": 30, "1": 30, "0": 3},
        {"entailment": 30, "not_entailment": 1, "neutral": 3},
        {"happy": 30, "unhappy": 1, "calm": 6},
        {"positive": 30, "negative": 30, "neutral": 10},
        {":)": 30, ":(": 20},
        {"A+": 10, "A-": 9, "A": 8},
        {"C": 20, "C++": 20, "C#": 20},
        {f"topic {'abcdefghijklmnopqrstuvwxyz'[i]}": 3 for i in range(26)},  # each rare, all near: so they are meant
        {"cart_arrival": 2, "card_arrival": 2, "card_linking": 2, "card_swallowed": 2},
    ],
)
def test_right_use_is_silent(counts: dict[str, int], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert [m for m in said(caplog, tmp_path, counts) if "occurs once" not in m] == []


def test_how_much_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is near no other is said of large files alone, of many slips some; and no label steers a terminal."""
    assert said(caplog, tmp_path, {"good": 20, "bad": 20, "so so": 1}) == [
        'rows.jsonl:41: the label "so so" occurs once; if it is a mistake, mend it or name the answers: '
        "task.choices=[...]"
    ]
    assert said(caplog, tmp_path, {"good": 10, "bad": 10, "so so": 1}) == []
    slips = {f"wonder{'x' * i}ful": 1 for i in range(1, 9)}
    messages = said(caplog, tmp_path, {"wonderful": 60, "bad": 20, **slips})
    assert len(messages) == 6
    assert messages[-1] == "rows.jsonl: 3 more labels are near another one"
    (message,) = said(caplog, tmp_path, {"good\x1b[2J": 20, "Good\x1b[2J": 3, "bad": 9})
    assert "\x1b" not in message


# ----------------------------------------------------------------------------------------- nothing is learnt of a label


def untrained(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [message for message in caplog.messages if "no training row has" in message]


def test_a_label_of_dev_and_test_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"text": f"film {i}", "label": "ab"[i % 2]} for i in range(40)] + [{"text": "x", "label": "rare"}]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    seeds = {}
    for seed in range(40):
        caplog.clear()
        data = load_task(task(path), seed)
        index = data.labels.index("rare")
        here = next(split for split in ("train", "dev", "test") if any(index in e.gold for e in getattr(data, split)))
        seeds.setdefault(here, seed)
        assert len(untrained(caplog)) == (here != "train")
    assert len(seeds) == 3
    caplog.clear()
    load_task(task(path), seeds["test"])
    assert untrained(caplog) == [
        'rows.jsonl: no training row has the label "rare", so it is not learnt; 1 row of dev and test have it '
        "(rows.jsonl:41); give more rows of it, or a larger task.train_examples"
    ]
    caplog.clear()
    load_task(task(path, choices=["a", "b", "rare", "none"]), seeds["train"])
    (message,) = untrained(caplog)
    assert '"none", so it is not learnt; give' in message, "of a choice that no row has"
    load_task(task(path), seeds["test"], only="test")
    assert len(untrained(caplog)) == 1, "an evaluation trains nothing"


def test_a_known_task(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for split, labels in (("train", [0]), ("validation", [0, 1]), ("test", [1])):
        rows = [{"sentence": f"film {i} of {split}", "label": labels[i % len(labels)]} for i in range(30)]
        write_rows(tmp_path / f"{split}.jsonl", rows)
    load_task(task("sst2", data=str(tmp_path)), 0)
    (message,) = untrained(caplog)
    assert message.startswith('sst2: no training row has the label "positive", so it is not learnt; 45 rows of dev and')
    caplog.clear()
    load_task(task("sst2", data=str(tmp_path)), 0, only="test")
    assert untrained(caplog) == []


# ------------------------------------------------------------------------------- a slip of what is measured alone


def where_of(path: Path, label: str, split: str, **changes: object) -> int:
    """A seed with which the rows of this label are in that split."""
    for seed in range(200):
        data = load_task(task(path, **changes), seed)
        index = data.labels.index(label)
        if all(any(index in e.gold for e in getattr(data, s)) == (s == split) for s in ("train", "dev", "test")):
            return seed
    raise AssertionError(split)


@pytest.mark.parametrize("split", ["dev", "test"])
@pytest.mark.parametrize(
    ("slip", "usual"), [("postive", "positive"), ("Negative", "negative"), ("postive.", "positive")]
)
def test_a_slip_of_dev_or_test_names_the_row_and_the_training_label(
    split: str, slip: str, usual: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"text": f"film {i}", "label": ("positive", "negative")[i % 2]} for i in range(60)]
    rows[11] = {"text": "film x", "label": slip}
    path = write_rows(tmp_path / "rows.jsonl", rows)
    seed = where_of(path, slip, split)
    caplog.clear()
    load_task(task(path), seed)
    (message,) = caplog.messages
    assert message.startswith(
        f'rows.jsonl:12: the label "{slip}" (1 row, in {split} and in no training row) is a class of its own beside '
        f'"{usual}"'
    )
    assert "give more rows" not in message


def test_a_slip_that_several_rows_have(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not rare enough to be one by itself, and yet no training row has it."""
    rows = [{"text": f"film {i}", "label": ("positive", "negative")[i % 2]} for i in range(20)]
    rows[3]["label"] = rows[4]["label"] = "postive"
    path = write_rows(tmp_path / "rows.jsonl", rows)
    seed = where_of(path, "postive", "dev", train_examples=8)
    caplog.clear()
    load_task(task(path, train_examples=8), seed)
    (message,) = caplog.messages
    assert message.partition(": ")[2] == (
        'the label "postive" (2 rows, in dev) is not among those of the training rows; did you mean "positive"? mend '
        "it, or name the answers: task.choices=[...]"
    )
    assert message.startswith(("rows.jsonl:4: ", "rows.jsonl:5: "))
    caplog.clear()
    load_task(task(path, choices=["positive", "negative", "postive"], train_examples=8), seed)
    (message,) = caplog.messages
    assert "give more rows of it" in message, "where the answers are named, it is meant"


@pytest.mark.parametrize("name", ["test.jsonl", "dev.csv", "validation.tsv"])
def test_a_slip_in_a_file_of_its_own_is_refused(name: str, tmp_path: Path) -> None:
    good = [{"text": f"film {i}", "label": ("positive", "negative")[i % 2]} for i in range(30)]
    write_rows(tmp_path / "train.jsonl", good)
    sign = {"csv": ",", "tsv": "\t"}.get(name.partition(".")[2], "")
    rows = [*good[:11], {"text": "film x", "label": "postive"}]
    if sign:
        lines = [sign.join(("text", "label")), *(sign.join(row.values()) for row in rows)]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    else:
        write_rows(tmp_path / name, rows)
    line = 12 + bool(sign)
    told = error(task(tmp_path), 0)
    assert told.startswith(
        f'{name}:{line}: unknown label "postive"; known: negative, positive; did you mean "positive"?'
    )
