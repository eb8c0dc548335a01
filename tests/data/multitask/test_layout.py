"""A setting's text: the strings of MetaICL by hand, and cuts that leave 254 tokens of a row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from zofo.data.multitask.layout import ROOM, TEMPLATES, Layout, limit, make_layout
from zofo.data.multitask.pool import open_pool
from zofo.data.multitask.rows import Row
from zofo.data.tokenization import tokenize
from zofo.errors import InputError

OPTIONS = ("yes", "no")
MILK = Row("pantry/train/0", "train.jsonl:1", "Is there milk?", "yes", OPTIONS)
RICE = Row("pantry/train/1", "train.jsonl:2", "Is there rice?", "no", OPTIONS)
TEA = Row("pantry/test/0", "test.jsonl:1", "Is there tea?", "no", OPTIONS)
BLANK = Row("pantry/test/1", "test.jsonl:2", "", "yes", OPTIONS)
FREE = Row("sums/train/0", "train.jsonl:1", "What is two and two?", "four", ())


class Characters:
    """A tokenizer without offsets: every character is a token."""

    is_fast = False

    def __call__(self, texts: Sequence[str], **_: Any) -> dict[str, Any]:
        return {"input_ids": [[ord(c) for c in text] for text in texts]}


def long(words: int, output: str = "yes", options: tuple[str, ...] = OPTIONS) -> Row:
    text = " ".join(f"film {i} is good" for i in range(words))
    return Row(f"pantry/long/{words}", "long.jsonl:1", text, output, options)


def tokens(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_limit() -> None:
    assert [limit(k) for k in (0, 1, 3, 4, 16)] == [256, 256, 768, 1024, 1024]


def test_unknown_template() -> None:
    with pytest.raises(
        InputError, match=r'no template "chanel"; did you mean "channel"\?; known: default, channel, spa'
    ):
        make_layout("chanel", None)


# --------------------------------------------------------------------------------------------------------------- texts


def test_direct() -> None:
    layout = make_layout("default", None)
    alone = layout.example(TEA, group="pantry")
    assert (alone.id, alone.place, alone.group) == ("pantry/test/0", "test.jsonl:1", "pantry")
    assert (alone.prompt, alone.answers, alone.gold) == ("Is there tea?", ("\nyes", "\nno"), (1,))
    assert (alone.null_prompt, alone.leads) == ("N/A", ())
    after = layout.example(TEA, [MILK, RICE])
    context = "Is there milk?\nyes\n\n\nIs there rice?\nno\n\n\n"
    assert after.prompt == context + "Is there tea?"
    assert after.null_prompt == context + "N/A"
    assert after.answers == ("\nyes", "\nno")


def test_direct_with_an_empty_input_has_three_newlines_before_its_output() -> None:
    layout = make_layout("default", None)
    assert layout.example(BLANK).prompt == ""
    after = layout.example(BLANK, [MILK])
    assert after.prompt + after.answers[0] == "Is there milk?\nyes\n\n\nyes"
    assert after.null_prompt == "Is there milk?\nyes\n\n\nN/A"
    assert layout.example(TEA, [MILK, BLANK]).prompt == "Is there milk?\nyes\n\n\nyes\n\n\nIs there tea?"


def test_channel() -> None:
    layout = make_layout("channel", None)
    alone = layout.example(TEA)
    assert (alone.prompt, alone.leads, alone.answers) == ("", ("yes", "no"), ("\nIs there tea?",) * 2)
    assert (alone.gold, alone.null_prompt) == ((1,), None)
    after = layout.example(TEA, [MILK, RICE])
    assert after.prompt == "yes\nIs there milk?\n\n\nno\nIs there rice?"
    assert after.leads == ("\n\n\nyes", "\n\n\nno")
    assert after.answers == ("\nIs there tea?",) * 2
    blank = layout.example(BLANK, [BLANK])
    assert (blank.prompt, blank.leads[0], blank.answers) == ("yes", "\n\n\nyes", ("\n", "\n"))


def test_spaces() -> None:
    direct = make_layout("spaces", None).example(TEA, [MILK, RICE])
    assert direct.prompt == "Is there milk? yes Is there rice? no Is there tea?"
    assert direct.answers == (" yes", " no")
    assert direct.null_prompt == "Is there milk? yes Is there rice? no N/A"
    channel = make_layout("channel-spaces", None).example(TEA, [MILK])
    assert channel.prompt == "yes Is there milk?"
    assert (channel.leads, channel.answers) == ((" yes", " no"), (" Is there tea?",) * 2)


def test_free_form() -> None:
    direct = make_layout("default", None).example(FREE, [FREE], train=True)
    assert direct.prompt == "What is two and two?\nfour\n\n\nWhat is two and two?"
    assert (direct.answers, direct.gold, direct.null_prompt) == (("\nfour",), (0,), None)
    channel = make_layout("channel", None).example(FREE)
    assert (channel.leads, channel.answers, channel.gold) == (("four",), ("\nWhat is two and two?",), (0,))


def test_rows_of_one_task_share_the_prompt_without_an_input() -> None:
    layout = make_layout("default", None)
    assert layout.example(TEA, [MILK, RICE]).null_prompt is layout.example(BLANK, [MILK, RICE]).null_prompt


# ---------------------------------------------------------------------------------------------------------------- cuts


def test_a_long_input_loses_its_end(tiny_tokenizer: Any) -> None:
    layout, row = make_layout("default", tiny_tokenizer), long(200)
    example = layout.example(row)
    assert row.input.startswith(example.prompt)
    answer = max(len(tokens(tiny_tokenizer, a)) for a in example.answers)
    assert len(tokens(tiny_tokenizer, example.prompt)) == ROOM - answer
    assert tokens(tiny_tokenizer, example.prompt) == tokens(tiny_tokenizer, row.input)[: ROOM - answer]


def test_the_gap_counts_and_is_never_cut(tiny_tokenizer: Any) -> None:
    layout, row = make_layout("default", tiny_tokenizer), long(200)
    shown = layout.example(row, [MILK]).prompt.removeprefix("Is there milk?\nyes")
    assert shown.startswith("\n\n\nfilm 0 is good")
    assert len(tokens(tiny_tokenizer, shown)) == ROOM - max(len(tokens(tiny_tokenizer, "\n" + o)) for o in OPTIONS)


def test_room_is_left_for_the_longest_option_or_for_its_own_output(tiny_tokenizer: Any) -> None:
    row = long(200, "no", ("no", "no, and there has never been any in this house"))
    layout = make_layout("default", tiny_tokenizer)
    train_example, all_options = layout.example(row, train=True), layout.example(row)
    lengths = [len(tokens(tiny_tokenizer, answer)) for answer in train_example.answers]
    assert len(tokens(tiny_tokenizer, train_example.prompt)) == ROOM - lengths[0]
    assert len(tokens(tiny_tokenizer, all_options.prompt)) == ROOM - lengths[1]
    assert train_example.answers == all_options.answers
    shown = layout.example(TEA, [row]).prompt
    assert shown == train_example.prompt + "\nno\n\n\nIs there tea?"


def test_channel_cuts_the_input_that_it_scores(tiny_tokenizer: Any) -> None:
    layout, row = make_layout("channel", tiny_tokenizer), long(200)
    example = layout.example(row, [MILK])
    assert example.answers[0].startswith("\nfilm 0 is good")
    assert len(set(example.answers)) == 1
    lead = max(len(tokens(tiny_tokenizer, lead)) for lead in example.leads)
    assert len(tokens(tiny_tokenizer, example.answers[0])) == ROOM - lead


def test_a_cut_keeps_whole_characters(tiny_tokenizer: Any) -> None:
    for start in ("", "a", "ab", "abc"):
        row = Row(f"x/{start}", "x:1", start + "日本語🙂" * 60, "yes", OPTIONS)
        prompt = make_layout("default", tiny_tokenizer).example(row).prompt
        assert row.input.startswith(prompt)
        room = ROOM - max(len(tokens(tiny_tokenizer, "\n" + o)) for o in OPTIONS)
        assert room - 3 <= len(tokens(tiny_tokenizer, prompt)) <= room


def test_many_bytes_in_few_characters_are_cut_too(tiny_tokenizer: Any) -> None:
    row = Row("x/1", "x:1", "🙂" * 100, "yes", OPTIONS)  # 100 characters, 400 tokens
    assert len(make_layout("default", tiny_tokenizer).example(row).prompt) < 70


@pytest.mark.parametrize("template", TEMPLATES)
def test_what_is_prepared_is_what_is_found_one_by_one(tiny_tokenizer: Any, template: str) -> None:
    rows = [long(n) for n in (1, 5, 60, 100)] + [MILK, BLANK]
    for train in (False, True):
        for shown in ([], [MILK]):
            warm = make_layout(template, tiny_tokenizer)
            warm.prepare(rows, train, first=not shown)
            cold = make_layout(template, tiny_tokenizer)
            assert [warm.example(r, shown, "", train) for r in rows] == [
                cold.example(r, shown, "", train) for r in rows
            ]
            assert (("pantry/long/100", not shown, train)) in warm._inputs


def test_a_tokenizer_without_offsets() -> None:
    layout, row = make_layout("default", Characters()), long(200)
    layout.prepare([row])
    assert layout.example(row).prompt == row.input[: ROOM - len("\nyes")]
    assert layout.example(row, train=True).prompt == row.input[: ROOM - len("\nyes")]
    assert layout.example(MILK).prompt == MILK.input


def test_without_a_tokenizer_nothing_is_cut() -> None:
    layout = make_layout("default", None)
    layout.prepare([long(200)])
    assert layout.example(long(200)).prompt == long(200).input


@pytest.mark.parametrize("template", ["default", "channel"])
@pytest.mark.parametrize("length", [251, 253, 254, 300])
def test_an_output_that_leaves_no_room(template: str, length: int) -> None:
    layout = make_layout(template, Characters())
    row = Row("x/1", "x.jsonl:7", "some text", "y" * length, ("y" * length, "n"))
    if length == 251 and template == "default":  # the newline, the output and two letters
        assert layout.example(row).prompt == "so"
        return
    if length == 251:
        assert layout.example(row).answers[0] == "\nso"
        return
    with pytest.raises(
        InputError, match=r"^x.jsonl:7: the longest option has \d+ tokens and leaves no room for the inp"
    ):
        layout.example(row)
    with pytest.raises(InputError, match=r"^x.jsonl:7: the output has \d+ tokens and leaves no room for the input in"):
        layout.example(TEA, [row])


def test_an_empty_input_needs_no_room_but_its_output_does() -> None:
    layout = make_layout("default", Characters())
    fits, over = ("y" * n for n in (253, 254))
    assert layout.example(Row("x/1", "x:1", "", fits, (fits, "n"))).prompt == ""
    with pytest.raises(InputError, match="x:2: the longest option has 255 tokens"):
        layout.example(Row("x/2", "x:2", "", over, (over, "n")))


# ----------------------------------------------------------------------------------------------------------- real rows


@pytest.mark.parametrize("template", TEMPLATES)
def test_real_rows(shared_data: Path, tiny_tokenizer: Any, template: str) -> None:
    layout = make_layout(template, tiny_tokenizer)
    for name in ("ag_news", "codah"):
        pool = open_pool(shared_data / "meta", name)
        rows, shown = pool.test(60, 0), pool.demonstrations(2, 13)
        layout.prepare(rows, first=False)
        for row in rows:
            example = layout.example(row, shown)
            body = example.answers[0] if layout.channel else example.prompt
            fitted = body.rpartition(layout.gap)[2].strip() if layout.gap != " " else row.input[:40]
            assert row.input.startswith(fitted) or fitted in body
            assert len(example.answers) == len(row.options)
            assert within(layout, tiny_tokenizer, row)


def within(layout: Layout, tokenizer: Any, row: Row) -> bool:
    """Whether input and longest option have at most 254 tokens."""
    example = layout.example(row)
    rows = [example.prompt + lead + answer for lead, answer in zip(example.leads or ("",) * 9, example.answers)]
    return max(len(tokens(tokenizer, text)) for text in rows) <= ROOM


@pytest.mark.parametrize("template", ["default", "channel"])
def test_an_option_that_a_row_lists_twice_is_right_both_times(template: str, tiny_tokenizer: Any) -> None:
    twice = Row("pantry/test/2", "test.jsonl:3", "Is there tea?", "no", ("no", "yes", "no"))
    example = make_layout(template, None).example(twice)
    assert example.gold == (0, 2)
    assert tokenize(tiny_tokenizer, example, None, "gold", False, for_eval=True).gold == (0, 2)
