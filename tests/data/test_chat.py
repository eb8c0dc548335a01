"""Chat templates: the tokens are those of `tokenizer.apply_chat_template`, for options, completions and messages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.chat_templates import CHATML, INST, THINKING, with_template
from tests.conftest import ROOT
from zofo.config.sections import TaskConfig
from zofo.data import Example, load_task
from zofo.data.tokenization import Encoded, tokenize
from zofo.errors import InputError

Write = Callable[[str, list[dict[str, Any]]], Path]

TEMPLATES = {"chatml": CHATML, "inst": INST, "thinking": THINKING}
REAL = ROOT / ".cache" / "quickstart" / "smollm2-135m-instruct"


@pytest.fixture(params=[*TEMPLATES, "SmolLM2"])
def chatty(request: pytest.FixtureRequest, tokenizer_factory: Any) -> Any:
    """Tokenizers with chat templates, the last one real."""
    if request.param != "SmolLM2":
        return with_template(tokenizer_factory, TEMPLATES[request.param])
    if not REAL.is_dir():
        pytest.skip("needs the model of `zofo quickstart`, which is not here")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(REAL)


def task(name: str | Path, **changes: Any) -> TaskConfig:
    return TaskConfig(name=str(name), apply_chat_template=True, **changes)


def read(encoded: Encoded, option: int) -> list[int]:
    """All tokens of an option, the last one too, which no row holds."""
    row = next(row for row in encoded.rows if any(o == option for _, _, o in row.labels))
    position, token = max((p, t) for p, t, o in row.labels if o == option)
    return [*row.ids[: position + 1], token]


def labels(encoded: Encoded, option: int) -> list[int]:
    return [t for row in encoded.rows for _, t, o in sorted(row.labels) if o == option]


def whole(tokenizer: Any, *turns: tuple[str, str]) -> list[int]:
    """The reference: transformers' own tokens of a finished conversation."""
    messages = [{"role": role, "content": content} for role, content in turns]
    ids = tokenizer.apply_chat_template(messages, tokenize=True)
    return list(ids["input_ids"] if hasattr(ids, "keys") else ids)


def error(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(InputError) as caught:
        load_task(*args, **kwargs)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.fixture
def sst2(write_jsonl: Write) -> Path:
    return write_jsonl("sst2.jsonl", [{"sentence": f" film {i} is good ", "label": i % 2} for i in range(20)])


# ---------------------------------------------------------------------------------------------------------- options


def test_options_are_the_start_of_the_assistants_turn(chatty: Any, sst2: Path) -> None:
    data = load_task(task("sst2", data=str(sst2)), 0, chatty)
    for example in data.train[:3]:
        film = 2 * (int(example.id.rpartition("/")[2]) // 2) + example.gold[0]
        encoded = tokenize(chatty, example, None, "options", False)
        for option, word in enumerate(("terrible", "great")):
            tokens = whole(chatty, ("user", f"film {film} is good It was"), ("assistant", word))
            got = read(encoded, option)
            assert got == tokens[: len(got)]
            rest = chatty.decode(tokens[len(got) :]).strip()
            assert rest in {"<|im_end|>", "</s>"}, "options are scored without the end of the turn"
            assert chatty.decode(labels(encoded, option)).strip() == word


def test_the_end_of_the_turn_is_learned_with_the_objective_lm(chatty: Any, sst2: Path) -> None:
    data = load_task(task("sst2", data=str(sst2), objective="lm"), 0, chatty)
    example = data.train[0]
    film = int(example.id.rpartition("/")[2])
    tokens = whole(chatty, ("user", f"film {film} is good It was"), ("assistant", ("terrible", "great")[film % 2]))
    got = read(tokenize(chatty, example, None, "gold", True), 0)
    assert got == tokens[: len(got)]
    assert not chatty.decode(tokens[len(got) :]).strip(), "only white space follows, and no EOS is added"
    for_eval = tokenize(chatty, example, None, "gold", True, for_eval=True)
    assert {labels(for_eval, option)[-1] for option in (0, 1)} == {got[-1]}


def test_one_bos(chatty: Any, sst2: Path) -> None:
    example = load_task(task("sst2", data=str(sst2)), 0, chatty).train[0]
    ids = tokenize(chatty, example, None, "options", False).rows[0].ids
    written = example.prompt.count(chatty.bos_token)
    assert list(ids).count(chatty.bos_token_id) == written, "none is added to those that the template writes"


def test_own_text_and_label(chatty: Any, sentiment_file: Path) -> None:
    example = load_task(task(sentiment_file), 0, chatty).train[0]
    text = json.loads(sentiment_file.read_text().splitlines()[int(example.id.partition(":")[2]) - 1])["text"]
    encoded = tokenize(chatty, example, None, "options", False)
    for option, word in enumerate(("great", "terrible")):
        got = read(encoded, option)
        assert got == whole(chatty, ("user", text), ("assistant", word))[: len(got)]


def test_thoughts_before_the_answer_are_no_part_of_an_option(tokenizer_factory: Any, sst2: Path) -> None:
    tokenizer = with_template(tokenizer_factory, THINKING)
    example = load_task(task("sst2", data=str(sst2)), 0, tokenizer).train[0]
    assert example.prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert example.answers == ("terrible", "great")


def test_a_system_turn(tokenizer_factory: Any, sst2: Path) -> None:
    tokenizer = with_template(tokenizer_factory, CHATML)
    example = load_task(task("sst2", data=str(sst2), system="Be brief."), 0, tokenizer).train[0]
    assert example.prompt.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nfilm ")
    refusing = with_template(tokenizer_factory, INST)
    text = error(task("sst2", data=str(sst2), system="Be brief."), 0, refusing)
    assert "chat template refuses these messages: only user and assistant turns; leave out task.system?" in text
    assert TaskConfig("sst2", system="Be brief.").problems() == [
        "system: is part of a chat; give task.apply_chat_template=true too"
    ]


# ------------------------------------------------------------------------------------------------------ completions


def test_completions(chatty: Any, write_jsonl: Write) -> None:
    path = write_jsonl("rows.jsonl", [{"prompt": f" say {i}\n", "completion": f" word {i}"} for i in range(20)])
    example = load_task(task(path), 0, chatty).train[0]
    number = int(example.id.partition(":")[2]) - 1
    tokens = whole(chatty, ("user", f"say {number}"), ("assistant", f"word {number}"))
    encoded = tokenize(chatty, example, None, "gold", True)
    got = read(encoded, 0)
    assert got == tokens[: len(got)]
    assert not chatty.decode(tokens[len(got) :]).strip()
    prompt = [{"role": "user", "content": f"say {number}"}]
    generation = chatty.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    assert example.prompt == generation, "what the model is given when it has to go on"
    assert chatty.decode(labels(encoded, 0)).strip() == example.answers[0].strip()


TURNS = [("system", "be kind"), ("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four")]


@pytest.mark.parametrize("layout", ["messages", "prompt and completion"])
@pytest.mark.parametrize("system", [True, False])
def test_conversations(chatty: Any, write_jsonl: Write, layout: str, system: bool) -> None:
    if system and chatty.chat_template == INST:
        pytest.skip("this template takes no system turn")
    turns = TURNS if system else TURNS[1:]
    rows: list[dict[str, Any]] = []
    for more in ("", "!", "?"):  # three texts, so that each split has one
        messages = [{"role": role, "content": content + more} for role, content in turns]
        split = {"prompt": messages[:-1], "completion": messages[-1:]}
        rows.append({"messages": messages} if layout == "messages" else split)
    data = load_task(TaskConfig(name=str(write_jsonl("rows.jsonl", rows))), 0, chatty)
    (example,) = (e for e in data.train + data.dev + data.test if e.id == "rows.jsonl:1")
    encoded = tokenize(chatty, example, None, "gold", True)
    tokens = whole(chatty, *turns)
    got = read(encoded, 0)
    assert got == tokens[: len(got)]
    assert not chatty.decode(tokens[len(got) :]).strip()
    assert "four" in chatty.decode(labels(encoded, 0))
    assert "three" not in chatty.decode(labels(encoded, 0))


def test_a_template_without_an_end_of_turn_gets_the_eos(tokenizer_factory: Any, write_jsonl: Write) -> None:
    tokenizer = with_template(tokenizer_factory, "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    path = write_jsonl("rows.jsonl", [{"prompt": f"say {i}", "completion": f"word {i}"} for i in range(20)])
    example = load_task(task(path), 0, tokenizer).train[0]
    assert example.answers[0].endswith("</s>")
    assert labels(tokenize(tokenizer, example, None, "gold", True), 0).count(tokenizer.eos_token_id) == 1


def test_a_conversation_with_a_system_turn_keeps_it(tokenizer_factory: Any, write_jsonl: Write) -> None:
    tokenizer = with_template(tokenizer_factory, CHATML)
    messages = [{"role": role, "content": content} for role, content in TURNS]
    rows = [{"messages": [*messages[i % 2 : -1], {**messages[-1], "content": f"{i}"}]} for i in range(10)]
    data = load_task(task(write_jsonl("rows.jsonl", rows), system="mine"), 0, tokenizer)
    starts = {e.id: e.prompt.split("<|im_end|>")[0] for e in data.train + data.dev + data.test}
    assert starts["rows.jsonl:1"] == "<|im_start|>system\nbe kind"
    assert starts["rows.jsonl:2"] == "<|im_start|>system\nmine"


# ------------------------------------------------------------------------------------------------------- truncation


def test_a_cut_leaves_the_header_and_the_system_turn(chatty: Any, write_jsonl: Write) -> None:
    rows = [{"text": " ".join(f"word{i} {n}" for n in range(40)), "label": "ab"[i % 2]} for i in range(20)]
    example = load_task(task(write_jsonl("rows.jsonl", rows)), 0, chatty).train[0]
    full, room = tokenize(chatty, example, 10**6, "options", False), 60
    cut = tokenize(chatty, example, room, "options", False)
    assert [labels(cut, o) for o in (0, 1)] == [labels(full, o) for o in (0, 1)]
    assert len(read(cut, 0)) <= room < len(read(full, 0))
    start, stop = example.cuttable or (0, 0)
    assert example.prompt[start:stop] == rows[int(example.id.partition(":")[2]) - 1]["text"]
    tokens = read(cut, 0)
    header = chatty(example.prompt[:start].rstrip(" "), add_special_tokens=False)["input_ids"]
    assert tokens[: len(header)] == header
    assert chatty.decode(tokens).endswith(chatty.decode(read(full, 0)[-30:]))
    with pytest.raises(InputError, match=r"has 1 tokens and does not fit beside the \d+ of the chat's headers into 4"):
        tokenize(chatty, example, 4, "options", False)


def test_the_cut_of_a_conversation_leaves_the_system_turn(tokenizer_factory: Any, write_jsonl: Write) -> None:
    tokenizer = with_template(tokenizer_factory, CHATML)
    messages = [{"role": role, "content": content} for role, content in TURNS]
    rows = [{"messages": [*messages[:3], {"role": "user", "content": f"{i} " * 50}, messages[4]]} for i in range(10)]
    example = load_task(TaskConfig(name=str(write_jsonl("rows.jsonl", rows))), 0, tokenizer).train[0]
    text = tokenizer.decode(read(tokenize(tokenizer, example, 60, "gold", True), 0))
    assert text.startswith("<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\n")
    assert text.endswith("<|im_end|>\n<|im_start|>assistant\nfour<|im_end|>")


def test_slow_tokenizers_give_the_same(chatty: Any, sst2: Path) -> None:
    class Slow:
        """A tokenizer without offsets."""

        is_fast = False
        bos_token_id, eos_token_id = chatty.bos_token_id, chatty.eos_token_id
        all_special_ids, model_max_length = chatty.all_special_ids, 10**9

        def __call__(self, text: str, add_special_tokens: bool = True) -> Any:
            return chatty(text, add_special_tokens=add_special_tokens)

    for example in load_task(task("sst2", data=str(sst2)), 0, chatty).train[:3]:
        longest = max(len(read(tokenize(chatty, example, None, "options", False), o)) for o in (0, 1))
        for room in (None, longest - 3):
            fast = tokenize(chatty, example, room, "options", False)
            assert tokenize(Slow(), example, room, "options", False).rows == fast.rows


# ------------------------------------------------------------------------------------------------------------ errors


def test_no_chat_template(tiny_tokenizer: Any, sst2: Path, sentiment_file: Path) -> None:
    for cfg in (task("sst2", data=str(sst2)), task(sentiment_file)):
        text = error(cfg, 0, tiny_tokenizer)
        assert text.startswith("task.apply_chat_template: the model's tokenizer has no chat template; take an ")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "  ", "completion": "x"}, "the prompt is empty and a chat needs a user's turn"),
        ({"prompt": "x", "completion": [{"role": "assistant", "content": "y"}]}, "must both be texts, or"),
        ({"prompt": [{"role": "user", "content": "y"}], "completion": "x"}, "must both be texts, or"),
        ({"prompt": [{"role": "user", "content": "y"}], "completion": [{"role": "assistant"}]}, "must be a list of"),
        (
            {"prompt": [{"role": "user", "content": "y"}], "completion": [{"role": "user", "content": "x"}]},
            "must be the assistant's",
        ),
        (
            {"prompt": [{"role": "user", "content": "y"}], "completion": [{"role": "assistant", "content": " "}]},
            "the assistant's last message is empty",
        ),
        ({"messages": [{"role": "user", "content": "y"}, {"role": "assistant", "content": ""}]}, "message is empty"),
    ],
)
def test_bad_rows(tokenizer_factory: Any, write_jsonl: Write, row: dict[str, Any], expected: str) -> None:
    text = error(task(write_jsonl("rows.jsonl", [row] * 5)), 0, with_template(tokenizer_factory, CHATML))
    assert expected in text
    assert text.startswith("rows.jsonl:")


def test_a_template_that_loses_the_answer_is_refused(tokenizer_factory: Any, sst2: Path) -> None:
    losing = with_template(tokenizer_factory, "{{ messages[0]['content'] }}")
    assert "the model's chat template leaves out the assistant's turn" in error(task("sst2", data=str(sst2)), 0, losing)
    telling = with_template(
        tokenizer_factory, "{{ messages[-1]['content'] | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    assert "writes another prompt before this answer" in error(task("sst2", data=str(sst2)), 0, telling)


def test_plain_examples_stay_as_they_are(chatty: Any, sst2: Path) -> None:
    plain = load_task(TaskConfig("sst2", data=str(sst2)), 0, chatty).train[0]
    assert plain == Example(plain.id, plain.prompt, (" terrible", " great"), plain.gold, null_prompt="It was")
    assert plain.cuttable is None


def test_show_names_the_fields(capsys: pytest.CaptureFixture[str]) -> None:
    from zofo.cli import main as cli

    assert cli.run(["show", "task"]) == 0
    out = capsys.readouterr().out
    assert "task.apply_chat_template\ttrue or false\tfalse\t" in out
    assert "task.system\ta string or null\tnull\t" in out
