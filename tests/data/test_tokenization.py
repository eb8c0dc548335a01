"""Tokenization: the boundary between prompt and answer, shared rows, truncation."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from zofo.data import Example
from zofo.data.text_tokens import Text, split
from zofo.data.tokenization import Encoded, Row, tokenize, tokenize_all
from zofo.errors import InputError


def example(prompt: str, *answers: str, gold: int = 0, id: str = "x") -> Example:
    return Example(id, prompt, answers, (gold,))


def texts(tokenizer: Any, row: Row) -> list[str]:
    return [tokenizer.decode([i]) for i in row.ids]


def label_texts(tokenizer: Any, encoded: Encoded) -> list[list[str]]:
    """The decoded label tokens of each option."""
    by_option: list[list[str]] = [[] for _ in range(encoded.n_options)]
    for row in encoded.rows:
        for _, token, option in row.labels:
            by_option[option].append(tokenizer.decode([token]))
    return by_option


def test_plain_boundary(tiny_tokenizer: Any) -> None:
    e = tokenize(tiny_tokenizer, example("the dog. It was", " great", " terrible"), None, "options", False)
    ids = tiny_tokenizer("the dog. It was great")["input_ids"]
    assert e.n_options == 2
    assert e.rows[0].ids[0] == tiny_tokenizer.bos_token_id
    assert "".join(label_texts(tiny_tokenizer, e)[0]) == " great"
    assert "".join(label_texts(tiny_tokenizer, e)[1]) == " terrible"
    assert any(row.ids == tuple(ids[:-1]) for row in e.rows), "the last answer token is predicted, not read"


def test_labels_point_at_the_state_before(tiny_tokenizer: Any) -> None:
    e = tokenize(tiny_tokenizer, example("the dog", " is good"), None, "gold", True)
    (row,) = e.rows
    whole = [*row.ids, tiny_tokenizer.eos_token_id]
    assert all(whole[position + 1] == token for position, token, _ in row.labels)
    assert [position for position, _, _ in row.labels] == list(range(row.labels[0][0], len(row.ids)))


def test_token_merged_across_the_boundary_is_the_answers(tiny_tokenizer: Any) -> None:
    assert len(tiny_tokenizer("a dog", add_special_tokens=False)["input_ids"]) == 2
    e = tokenize(tiny_tokenizer, example("a do", "g"), None, "gold", False)
    assert label_texts(tiny_tokenizer, e) == [[" dog"]]
    assert texts(tiny_tokenizer, e.rows[0]) == ["<s>", "a"]


def test_prompt_that_ends_in_a_space(tiny_tokenizer: Any) -> None:
    spaced = tokenize(tiny_tokenizer, example("It was ", "great", "terrible"), None, "options", False)
    plain = tokenize(tiny_tokenizer, example("It was", " great", " terrible"), None, "options", False)
    assert spaced.rows == plain.rows


def test_characters_of_several_tokens(tiny_tokenizer: Any) -> None:
    e = tokenize(tiny_tokenizer, example("naïve é“", "ï”"), None, "gold", False)
    labels = [token for row in e.rows for _, token, _ in row.labels]
    assert tiny_tokenizer.decode(labels) == "ï”"


def test_the_border_is_where_all_offsets_say_it_is(tiny_tokenizer: Any) -> None:
    """Of blanks, line breaks, accents, signs of several bytes and special tokens, against every token's offset."""
    rng, pieces = random.Random(1), [*"ab  \n\t.é漢", "😀", "\u0301", "\u200d", "<s>", "</s>", " great"]
    for _ in range(500):
        prompt, answer = ("".join(rng.choices(pieces, k=rng.randint(0, most))) for most in (12, 5))
        (tokens,) = split(tiny_tokenizer, [Text(prompt, answer, None)])
        out = tiny_tokenizer(prompt + answer, return_offsets_mapping=True, return_special_tokens_mask=True)
        special, offsets = out["special_tokens_mask"], out["offset_mapping"]
        start = special.index(0) if 0 in special else len(special)
        end = max((i + 1 for i, s in enumerate(special) if not s), default=start)
        first = next((i for i in range(start, end) if offsets[i][1] > len(prompt)), end)
        assert (tokens.ids, tokens.lead, tokens.first) == (out["input_ids"][:end], start, first), (prompt, answer)


def test_sentencepiece_style(stories_dir: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(stories_dir)
    e = tokenize(tokenizer, example("Lily was", " great", " sad"), None, "options", False)
    joined = tokenizer("Lily was great")["input_ids"]
    assert [t for row in e.rows for _, t, o in row.labels if o == 0] == joined[
        len(tokenizer("Lily was")["input_ids"]) :
    ]
    merged = tokenize(tokenizer, example("Lily was ", "great"), None, "gold", False)
    assert [t for _, t, _ in merged.rows[0].labels] == joined[len(tokenizer("Lily was")["input_ids"]) :]


class Slow:
    """A tokenizer without offsets around a fast one, which also adds an EOS of its own."""

    is_fast = False

    def __init__(self, inner: Any):
        self.inner = inner
        self.bos_token_id, self.eos_token_id = inner.bos_token_id, inner.eos_token_id
        self.all_special_ids, self.model_max_length = inner.all_special_ids, inner.model_max_length

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        ids = self.inner(text, add_special_tokens=False)["input_ids"]
        return {"input_ids": [self.bos_token_id, *ids, self.eos_token_id] if add_special_tokens else ids}


@pytest.mark.parametrize(
    ("prompt", "answer"), [("It was", " great"), ("a do", "g"), ("It was ", "great"), ("", "dog"), ("x", "  y")]
)
def test_slow_tokenizer_gives_the_same(tiny_tokenizer: Any, prompt: str, answer: str) -> None:
    fast = tokenize(tiny_tokenizer, example(prompt, answer), None, "gold", True)
    assert tokenize(Slow(tiny_tokenizer), example(prompt, answer), None, "gold", True) == fast


def test_a_trailing_eos_of_the_tokenizer_is_dropped(tiny_tokenizer: Any, tokenizer_factory: Any) -> None:
    from tokenizers import processors

    closing = tokenizer_factory()
    closing.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    ex = example("It was", " great")
    assert closing("a")["input_ids"][-1] == closing.eos_token_id
    assert tokenize(closing, ex, None, "options", False) == tokenize(tiny_tokenizer, ex, None, "options", False)
    assert tokenize(closing, ex, None, "gold", True).rows[0].labels[-1][1] == closing.eos_token_id


def test_eos_only_where_it_is_asked_for_and_only_once(tiny_tokenizer: Any) -> None:
    eos = tiny_tokenizer.eos_token_id
    ex = example("It was", " great</s>")
    assert [t for _, t, _ in tokenize(tiny_tokenizer, ex, None, "gold", True).rows[0].labels].count(eos) == 1
    plain = tokenize(tiny_tokenizer, example("It was", " great"), None, "options", False)
    assert all(t != eos for _, t, _ in plain.rows[0].labels)


def test_a_bos_in_the_text_is_not_added_twice(tiny_tokenizer: Any) -> None:
    twice = tokenize(tiny_tokenizer, example("<s>It was", " great"), None, "gold", False)
    assert twice.rows == tokenize(tiny_tokenizer, example("It was", " great"), None, "gold", False).rows


def test_empty_prompt_starts_from_bos(tokenizer_factory: Any) -> None:
    bare = tokenizer_factory(bos=False)
    e = tokenize(bare, example("", "dog"), None, "gold", False)
    assert e.rows[0].ids[0] == bare.bos_token_id
    assert "".join(label_texts(bare, e)[0]) == "dog"


def test_empty_answer_is_an_error_unless_eos_ends_it(tiny_tokenizer: Any) -> None:
    with pytest.raises(InputError, match="rows:3: the answer is empty"):
        tokenize(tiny_tokenizer, example("It was", "", id="rows:3"), None, "gold", False)
    e = tokenize(tiny_tokenizer, example("It was", ""), None, "gold", True)
    assert [t for _, t, _ in e.rows[0].labels] == [tiny_tokenizer.eos_token_id]


def test_lm_takes_the_right_answer_and_all_for_eval(tiny_tokenizer: Any) -> None:
    ex = example("It was", " terrible", " great", gold=1)
    train = tokenize(tiny_tokenizer, ex, None, "gold", True)
    assert (train.n_options, train.gold) == (1, (0,))
    assert "".join(label_texts(tiny_tokenizer, train)[0]) == " great</s>"
    every = tokenize(tiny_tokenizer, ex, None, "gold", True, for_eval=True)
    assert (every.n_options, every.gold) == (2, (1,))


def test_rows_are_shared_where_one_contains_the_other(tiny_tokenizer: Any) -> None:
    short = tokenize(tiny_tokenizer, example("It", " is", " the"), None, "options", False)
    assert {len(label) for label in label_texts(tiny_tokenizer, short)} == {1}
    assert len(short.rows) == 1
    assert short.rows[0].labels[0][0] == short.rows[0].labels[1][0]
    nested = tokenize(tiny_tokenizer, example("It is", " dog is", " dog", " dog the"), None, "options", False)
    assert len(nested.rows) == 1
    assert [len(x) for x in label_texts(tiny_tokenizer, nested)] == [2, 1, 2]


# ------------------------------------------------------------------------------------------------------ truncation


def test_truncation_keeps_bos_answer_and_one_context(tiny_tokenizer: Any) -> None:
    ex = example("one two three four five six seven eight nine ten", " great", " terrible and dull")
    full, cut = (tokenize(tiny_tokenizer, ex, n, "options", False) for n in (None, 9))
    assert max(len(r.ids) for r in cut.rows) + 1 == 9
    assert label_texts(tiny_tokenizer, cut) == label_texts(tiny_tokenizer, full)
    assert all(r.ids[0] == tiny_tokenizer.bos_token_id for r in cut.rows)
    starts = {r.ids[: min(p for p, _, _ in r.labels) + 1] for r in cut.rows}
    assert len(starts) == 1, "all options see the same context"


def test_an_answer_is_never_truncated(tiny_tokenizer: Any) -> None:
    ex = example("It was", " one two three four five six", id="rows.jsonl:17")
    with pytest.raises(InputError, match=r"rows.jsonl:17: the answer has \d+ tokens and does not fit into 4"):
        tokenize(tiny_tokenizer, ex, 4, "options", False)


def test_the_tokenizers_own_limit_holds(tiny_tokenizer: Any) -> None:
    e = tokenize(tiny_tokenizer, example("dog " * 300, " good"), None, "options", False)
    assert len(e.rows[0].ids) == tiny_tokenizer.model_max_length - 1


def test_a_cut_is_told(tiny_tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    texts = [example("dog " * n, " good", id=f"rows:{n}") for n in (2, 30, 40)]
    tokenize_all(tiny_tokenizer, texts, 20, "options", False)
    (record,) = caplog.records
    assert record.getMessage().startswith("2 of 3 examples are longer than 20 tokens (rows:30 is one) and lost")
    caplog.clear()
    tokenize_all(tiny_tokenizer, texts, 20, "options", False, what="train")
    assert caplog.records[0].getMessage().startswith("2 of 3 train examples are longer than 20 tokens")
    caplog.clear()
    tokenize_all(tiny_tokenizer, texts, 100, "options", False)
    assert not caplog.records
