"""Where a text ends: what is trained as the end is what stops a text, whatever checkpoint and template say."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.chat_templates import CHATML, INST, THINKING, with_template
from tests.conftest import make_tokenizer
from zofo.data import Decoding, Example, TaskData, ending
from zofo.data.chat import Chat
from zofo.data.tokenization import tokenize
from zofo.errors import InputError

WORDS = CHATML.replace("<|im_end|>", " END").replace("<|im_start|>", "## ")  # as Vicuna's and Alpaca's: no signs at all
CLOSED = CHATML.replace("<|im_end|>", "</answer><|im_end|>")  # words before the sign
ENDLESS = CHATML.replace("<|im_end|>", "").replace("<|im_start|>", "")  # the EOS ends it
TEMPLATES = {"chatml": CHATML, "inst": INST, "thinking": THINKING, "words": WORDS, "closed": CLOSED, "endless": ENDLESS}


def model(eos: Any = 1) -> Any:
    return SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=eos))


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("named", [1, None, [1, 7]])
def test_what_a_chat_is_trained_to_end_with_stops_its_text(name: str, named: Any) -> None:
    """The trained completion of every template, read token by token as generated."""
    tokenizer = with_template(make_tokenizer, TEMPLATES[name])
    plain = Example("x", "how is it", (" quite good",), (0,))
    example = Chat(tokenizer).dress(plain, True)
    trained = tokenize(tokenizer, example, None, "gold", True).rows[0].labels
    new = [token for _, token, _ in trained]
    ids, texts = ending.stop_ids(tokenizer, model(named)), ending.stop_texts(tokenizer, True, ("STOP",))
    said = tokenizer.decode(new[: next((i for i, token in enumerate(new) if token in ids), len(new))])
    assert ending.cut(said, texts).strip().removeprefix("<think>\n\n</think>\n\n") == "quite good"
    assert any(token in ids for token in new) or any(text in said for text in texts[1:])
    assert set(ids) >= {1, *(named if isinstance(named, list) else [])}
    assert texts[0] == "STOP"


@pytest.mark.parametrize(
    ("name", "ids", "texts"),
    [
        ("chatml", ["</s>", "<|im_end|>"], ()),
        ("inst", ["</s>"], ()),
        ("thinking", ["</s>", "<|im_end|>"], ()),
        ("words", ["</s>"], (" END",)),
        ("closed", ["</s>", "<|im_end|>"], ("</answer>",)),
        ("endless", ["</s>"], ()),
    ],
)
def test_ids_and_words_of_each_template(name: str, ids: list[str], texts: tuple[str, ...]) -> None:
    tokenizer = with_template(make_tokenizer, TEMPLATES[name])
    assert ending.stop_ids(tokenizer, model()) == tokenizer.convert_tokens_to_ids(ids)
    assert ending.stop_texts(tokenizer, True) == texts
    assert ending.stop_texts(tokenizer, False) == (), "a plain text may hold the words"


def test_a_sign_that_was_added_as_no_special_ends_too_and_a_run_of_blanks_does_not() -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<end>", "   "])
    tokenizer.chat_template = CHATML.replace("<|im_end|>", "   <end>")
    assert ending.stop_ids(tokenizer, model()) == [1, tokenizer.convert_tokens_to_ids("<end>")]


def test_a_template_that_refuses_or_leaves_out_a_turn_has_no_end_of_its_own() -> None:
    for template in ("{{ raise_exception('no') }}", "{{ messages[0]['content'] }}"):
        tokenizer = with_template(make_tokenizer, template)
        assert ending.turn_end(tokenizer) == ""
        assert ending.stop_ids(tokenizer, model(None)) == [1]


def test_a_tokenizer_without_eos_takes_its_models_where_that_is_a_sign(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    ending.adopt(tokenizer, model([40, 2]))
    assert (tokenizer.eos_token, ending.trained_id(tokenizer)) == ("<pad>", 2)
    word = tokenizer.decode([40])
    assert word.isalnum()
    assert f"the model ends texts at id 40, which is {word!r} in this tokenizer; mend eos_token_id" in caplog.text
    caplog.clear()
    line_break = tokenizer("\n", add_special_tokens=False)["input_ids"]
    for ids in ([1, 2], line_break, None, 100_000):
        ending.adopt(tokenizer, model(ids))
    assert not caplog.text, "signs, line breaks and ids of no token are no words"
    tokenizer.eos_token = None
    ending.adopt(tokenizer, model(40))
    assert ending.trained_id(tokenizer) is None
    tokenizer.eos_token = "</s>"
    ending.adopt(tokenizer, model(2))
    assert ending.trained_id(tokenizer) == 1


@pytest.mark.parametrize("saved", [{"eos_token_id": 1, "temperature": 0.7}, {}, None])
def test_an_exports_file_names_the_ends_and_keeps_its_other_lines(saved: Any, tmp_path: Path) -> None:
    tokenizer, file = with_template(make_tokenizer, CHATML), tmp_path / "generation_config.json"
    if saved is not None:
        file.write_text(json.dumps(saved))
    ending.tell_file(file, model(1 if saved else None), tokenizer)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert json.loads(file.read_text()) == {**(saved or {}), "eos_token_id": [1, end]}
    before = file.read_bytes()
    ending.tell_file(file, model([end, 1]), tokenizer)
    assert file.read_bytes() == before, "nothing new to say"


def test_an_exports_words_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ending.tell_file(tmp_path / "generation_config.json", model(), with_template(make_tokenizer, WORDS))
    assert "ends a turn with words: give `generate` stop_strings=[' END']" in caplog.text


# -------------------------------------------------------------------------------------------------- where none is there


def task(kind: Any, chat: bool = False, stop: tuple[str, ...] = ()) -> TaskData:
    example = Example("rows:1", "a question", (" yes",), (0,), (0, 1) if chat else None, reference=["yes"])
    return TaskData("rows", 1, "lm", ("loss",), [example], [], [], (), kind, Decoding(stop=stop))


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("kind", ["generation", "completion", "options"])
@pytest.mark.parametrize("stop", [(), ("\n",)])
def test_a_text_without_end_is_refused_or_said(
    kind: str, chat: bool, stop: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = with_template(make_tokenizer, ENDLESS) if chat else make_tokenizer()
    ending.check(task(kind, chat, stop), tokenizer)
    assert not caplog.text
    tokenizer.eos_token = None
    if kind == "generation" and not stop:
        with pytest.raises(
            InputError, match=r"^task.name: .*no EOS, so the texts of rows would never end; set eos_"
        ) as e:
            ending.check(task(kind, chat, stop), tokenizer)
        assert "\n" not in str(e.value)
        return
    ending.check(task(kind, chat, stop), tokenizer)
    assert caplog.text.count("so the end of an answer is not learnt") == (kind != "options")


def test_a_chats_own_end_needs_no_eos(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = with_template(make_tokenizer, CHATML)
    tokenizer.eos_token = None
    ending.check(task("generation", chat=True), tokenizer)
    assert not caplog.text
