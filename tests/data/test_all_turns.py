"""task.loss_on=all: every turn of the assistant's is learnt, its end with it, and nothing else; by hand, in float64."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.chat_templates import CHATML, HEADERS, INST, MARKED, THINKING, with_template
from tests.conftest import llama_config, save_tiny, write_rows
from tests.tiny_models import cpu_loss
from zofo.config.sections import TaskConfig
from zofo.data import Example, load_task
from zofo.data.batch import collate
from zofo.data.heads import check_rows
from zofo.data.preview import shown
from zofo.data.tokenization import Encoded, tokenize, tokenize_all
from zofo.errors import InputError
from zofo.eval.likelihood import evaluate

TURNS = ["hello there", "good morning to you", "is the film good? ", "It is dull", "and the dog", "it digs"]
ROWS = [TURNS, TURNS[:4], TURNS[4:], [f"{turn} one two" for turn in TURNS], TURNS[2:], TURNS[:2]]
# What each template writes of TURNS, by hand: [what the assistant writes, its end too] in brackets
BY_HAND = {
    "chatml": "".join(
        f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n\x01{said}<|im_end|>\x02\n"
        for user, said in zip(TURNS[::2], TURNS[1::2])
    ),
    "headers": "<s>"
    + "".join(
        f"<|start_header_id|>user<|end_header_id|>\n\n{user.strip()}<|eot_id|>"
        f"<|start_header_id|>assistant<|end_header_id|>\n\n\x01{said}<|eot_id|>\x02"
        for user, said in zip(TURNS[::2], TURNS[1::2])
    ),
    "inst": "".join(
        f"<s>[INST] {user.strip()} [/INST]\x01 {said} </s>\x02" for user, said in zip(TURNS[::2], TURNS[1::2])
    ),
    "marked": "".join(
        f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n\x01{thoughts}{said}<|im_end|>\x02\n"
        for thoughts, user, said in zip(("", "", "<think>\n\n</think>\n\n"), TURNS[::2], TURNS[1::2])
    ),
}
TEMPLATES = {"chatml": CHATML, "headers": HEADERS, "inst": INST, "marked": MARKED}


def conversation(turns: list[str]) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]


def by_hand(tokenizer: Any, text: str) -> tuple[list[int], list[int]]:
    """(ids, which of them are learnt), from a text with marks; its pieces meet where tokens do."""
    ids, learnt = [], []
    for piece in re.split("(\x01[^\x02]*\x02)", text):
        new = tokenizer(piece.strip("\x01\x02"), add_special_tokens=False)["input_ids"]
        learnt += range(len(ids), len(ids) + len(new)) if piece.startswith("\x01") else []
        ids += new
    return ids[: learnt[-1] + 1], learnt


def config(path: Path, **changes: Any) -> TaskConfig:
    return TaskConfig(name=str(path), **{"loss_on": "all", **changes})


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    messages = [{"messages": conversation(turns)} for turns in ROWS]
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", messages)


def examples(path: Path, tokenizer: Any, **changes: Any) -> list[Example]:
    data = load_task(config(path, **changes), 0, tokenizer)
    return sorted((*data.train, *data.dev, *data.test), key=lambda e: int(e.id.partition(":")[2]))


def learnt(encoded: Encoded) -> list[int]:
    """Places in the row of what is learnt; the last is the place behind it."""
    (row,) = encoded.rows
    assert [t for t, _, _ in row.labels] == sorted(t for t, _, _ in row.labels)
    assert all(token == row.ids[t + 1] for t, token, _ in row.labels[:-1])
    return [t + 1 for t, _, _ in row.labels]


@pytest.mark.parametrize("name", TEMPLATES)
def test_tokens_and_loss_by_hand(name: str, rows: Path, tmp_path: Path, tokenizer_factory: Any) -> None:
    tokenizer = with_template(tokenizer_factory, TEMPLATES[name])
    listed = examples(rows, tokenizer)
    ids, places = by_hand(tokenizer, BY_HAND[name])
    encoded = tokenize(tokenizer, listed[0], None, "gold", True)
    assert [*encoded.rows[0].ids, encoded.rows[0].labels[-1][1]] == ids
    assert learnt(encoded) == places
    assert len(listed[0].learnt) == 2

    model = AutoModelForCausalLM.from_pretrained(save_tiny(tmp_path, llama_config(tokenizer, True), tokenizer))
    wide = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    with torch.no_grad():
        logp = wide(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    reference = -sum(float(logp[place - 1, ids[place]]) for place in places) / len(places)
    loss = cpu_loss(model.eval().requires_grad_(False), "lm")
    assert loss(collate([encoded], 2)) == pytest.approx(reference, rel=1e-6)
    assert evaluate(loss, [encoded], "loss", 4).loss == pytest.approx(reference, rel=1e-6)

    every = tokenize_all(tokenizer, listed, None, "gold", True)
    sums, weights = loss.objective.sums(loss.scorer, collate(every, 2))
    whole = float(sums.double().sum() / weights.double().sum())
    assert int(weights.sum()) == sum(len(learnt(each)) for each in every)
    for micro in (1, 4):
        assert cpu_loss(model, "lm", micro=micro)(collate(every, 2)) == pytest.approx(whole, rel=1e-5)
        assert evaluate(loss, every, "loss", micro).loss == pytest.approx(whole, rel=1e-5)


def test_of_one_answer_all_is_last(rows: Path, tokenizer_factory: Any) -> None:
    """And of several it is what a row for each of them would make, one after the other."""
    tokenizer = with_template(tokenizer_factory, CHATML)
    every, last = (examples(rows, tokenizer, loss_on=which) for which in ("all", "last"))
    assert every[2] == last[2]
    assert not last[0].learnt
    texts = [every[0].prompt[turn.start : turn.stop] for turn in every[0].learnt]
    assert [*texts, *every[0].answers] == [last[i].answers[0] for i in (5, 1, 0)]
    assert [every[0].prompt[: turn.start] for turn in every[0].learnt] == [last[i].prompt for i in (5, 1)]


def test_the_end_where_marks_leave_it_out(rows: Path, tokenizer_factory: Any) -> None:
    """And white space behind it where they hold it."""
    without = MARKED.replace("+ '<|im_end|>' }}{% endgeneration %}", "}}{% endgeneration %}{{ '<|im_end|>' }}")
    with_space = MARKED.replace("'<|im_end|>' }}{% endgeneration %}", "'<|im_end|>\n' }}{% endgeneration %}")
    with_space = with_space.replace(
        "{{ m['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}", "{{ m['content'] + '<|im_end|>\n' }}{% endif %}"
    )
    assert len({without, with_space, MARKED}) == 3
    expected = [e.learnt for e in examples(rows, with_template(tokenizer_factory, MARKED))]
    for template in (without, with_space):
        assert [e.learnt for e in examples(rows, with_template(tokenizer_factory, template))] == expected


def test_a_template_that_writes_earlier_turns_otherwise_is_refused(rows: Path, tokenizer_factory: Any) -> None:
    tokenizer = with_template(tokenizer_factory, THINKING)
    with pytest.raises(InputError) as caught:
        examples(rows, tokenizer)
    (line,) = str(caught.value).splitlines()
    assert "the chat template writes the assistant's turn 1 otherwise once others follow, and has no {% gen" in line
    assert examples(rows, tokenizer, loss_on="last")
    strips = CHATML.replace("m['content'] +", "(m['content'] if loop.last else m['content'].split('</think>')[-1]) +")
    tokenizer = with_template(tokenizer_factory, strips)
    assert len(examples(rows, tokenizer)[0].learnt) == 2, "there are no thoughts to strip"
    thoughts = write_rows(
        rows.with_name("thoughts.jsonl"),
        [{"messages": conversation([turn.replace("morning", "<think>x</think>") for turn in each])} for each in ROWS],
    )
    listed = examples(thoughts, tokenizer, on_bad_row="skip")
    assert [e.id for e in listed] == ["thoughts.jsonl:3", "thoughts.jsonl:5", "thoughts.jsonl:6"], (
        "the others are left out, and counted"
    )


@pytest.mark.parametrize("name", ["chatml", "headers", "marked"])
def test_a_cut_takes_whole_turns_out_of_the_loss_and_says_so(
    name: str, rows: Path, tokenizer_factory: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = with_template(tokenizer_factory, TEMPLATES[name])
    example = examples(rows, tokenizer)[0]
    full = tokenize(tokenizer, example, None, "gold", True)
    end, places = len(full.rows[0].ids), learnt(full)
    runs = [[places[0]]]
    for place in places[1:]:
        runs[-1].append(place) if place == runs[-1][-1] + 1 else runs.append([place])
    assert len(runs) == 3
    seen = set()
    for room in range(end, 8, -1):
        caplog.clear()
        try:
            cut = tokenize(tokenizer, example, room, "gold", True)
        except InputError:
            break
        shift = end - len(cut.rows[0].ids)
        kept = [run for run in runs if run[0] - shift in learnt(cut)]
        assert learnt(cut) == [place - shift for run in kept for place in run], "a turn is learnt whole, or not"
        assert kept == runs[3 - len(kept) :]
        assert cut.turns_cut == 3 - len(kept)
        ids = full.rows[0].ids
        for run in kept[:-1]:  # its header stands before it still
            assert tuple(ids[run[0] - 3 : run[0]]) == cut.rows[0].ids[run[0] - shift - 3 : run[0] - shift]
        said = f", and {3 - len(kept)} of 3 turns of the assistant's, which are not learnt (task.loss_on=all); "
        assert (said in caplog.text) == (len(kept) < 3)
        seen.add(len(kept))
    assert seen == {1, 2, 3}


def test_slow_tokenizers_give_the_same(rows: Path, tokenizer_factory: Any) -> None:
    for template in (CHATML, HEADERS, INST):
        fast = with_template(tokenizer_factory, template)

        class Slow:
            is_fast = False
            bos_token_id, eos_token_id = fast.bos_token_id, fast.eos_token_id
            all_special_ids, model_max_length = fast.all_special_ids, 10**9

            def __call__(self, text: str, add_special_tokens: bool = True, _fast: Any = fast) -> Any:
                return _fast(text, add_special_tokens=add_special_tokens)

        for example in examples(rows, fast)[:3]:
            for room in (None, 40):
                expected = tokenize(fast, example, room, "gold", True)
                got = tokenize(Slow(), example, room, "gold", True)
                assert (got.rows, got.turns_cut) == (expected.rows, expected.turns_cut)


def test_system_turns_greetings_and_turns_in_a_row(tmp_path: Path, tokenizer_factory: Any) -> None:
    turns = [
        ("assistant", "hello"),
        ("user", "a"),
        ("assistant", "b"),
        ("assistant", "c"),
        ("user", "d"),
        ("assistant", "e"),
    ]
    messages = [{"role": role, "content": content} for role, content in turns]
    rows = [{"messages": [*messages[:-1], {"role": "assistant", "content": f"e{i}"}]} for i in range(6)]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    tokenizer = with_template(tokenizer_factory, CHATML)
    example = examples(path, tokenizer, apply_chat_template=True, system="be kind")[0]
    said = [example.prompt[turn.start : turn.stop] for turn in example.learnt]
    assert said == [f"{word}<|im_end|>" for word in ("hello", "b", "c")]
    assert example.prompt.startswith("<|im_start|>system\nbe kind<|im_end|>\n")
    lines = list(shown(example))
    assert lines[-3:] == [f"    learnt too: {text!r}" for text in said]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "a", "completion": "b"}, "task.loss_on: all is for a column messages; of rows.jsonl, with prompt"),
        ({"text": "a", "label": "b"}, "task.loss_on: all is for a column messages; of rows.jsonl, with text and label"),
        ({"messages": conversation(["a", " ", "c", "d"])}, "rows.jsonl:1: one of the assistant's messages before the"),
    ],
)
def test_what_has_no_turns_is_refused_before_a_model_is_there(
    row: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [row] * 6)
    with pytest.raises(InputError) as caught:
        check_rows(config(path), 0)
    assert str(caught.value).startswith(expected)
    right = [{"messages": conversation([*TURNS[:i], str(i)])} for i in (1, 3, 5)]
    assert check_rows(config(write_rows(tmp_path / "right.jsonl", right)), 0) == ""


def test_known_tasks_have_no_turns() -> None:
    (problem,) = TaskConfig("sst2", loss_on="all").problems()
    assert problem == "loss_on: all is for rows of one's own with messages, not for sst2; set it to last"
