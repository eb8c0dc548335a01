"""An adapter's directory with a tokenizer of its own: its tokens are the ones that are read and written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import sentiment_rows, write_rows
from zofo import InputError, evaluate, generate
from zofo.api.targets import open_target

ADDED = ["<rate>", "<stars>"]


def save_peft(base: Path, out: Path, resize: bool, embeddings: bool | str, tied: bool) -> Any:
    """A LoRA with added words, saved by PEFT with its tokenizer; returns PEFT's model."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(3)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    tokenizer.add_tokens(ADDED)
    if resize:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        with torch.no_grad():
            model.get_input_embeddings().weight[-2:] = torch.randn(2, model.config.hidden_size)
            if not tied:
                model.get_output_embeddings().weight[-2:] = torch.randn(2, model.config.hidden_size)
    peft = get_peft_model(model, LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    peft.save_pretrained(str(out), save_embedding_layers=embeddings)
    tokenizer.save_pretrained(out)
    return peft


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def base(request: pytest.FixtureRequest, tiny_model_dir: Path, tmp_path: Path) -> tuple[Path, bool]:
    from transformers import AutoConfig, AutoModelForCausalLM

    out = tmp_path / "base"
    shutil.copytree(tiny_model_dir, out)
    config = AutoConfig.from_pretrained(out)
    config.tie_word_embeddings = request.param
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(out)
    return out, request.param


def test_added_words_are_the_adapters(base: tuple[Path, bool], tmp_path: Path) -> None:
    directory, tied = base
    peft = save_peft(directory, tmp_path / "adapter", True, True, tied)
    opened = open_target(tmp_path / "adapter")
    ids = opened.loaded.tokenizer("a <rate> b <stars>", return_tensors="pt")["input_ids"]
    rows = peft.get_input_embeddings().weight.shape[0]
    assert {rows - 2, rows - 1} <= set(ids[0].tolist())
    with torch.no_grad():
        ours, theirs = (each.eval()(input_ids=ids).logits for each in (opened.model, peft))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    data = write_rows(tmp_path / "rows.jsonl", [{**row, "text": f"<rate> {row['text']}"} for row in sentiment_rows(8)])
    assert evaluate(tmp_path / "adapter", task=str(data))["n"] == 8
    assert generate(tmp_path / "adapter", ["<rate> a"], max_new_tokens=2)


def test_the_global_random_state_stays(base: tuple[Path, bool], tmp_path: Path) -> None:
    directory, tied = base
    save_peft(directory, tmp_path / "adapter", True, True, tied)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    open_target(tmp_path / "adapter")
    assert torch.equal(torch.get_rng_state(), before)


def test_words_without_rows_are_refused(base: tuple[Path, bool], tmp_path: Path) -> None:
    """Their rows would be random, or an index beyond the table in the first batch that has one."""
    directory, tied = base
    save_peft(directory, tmp_path / "adapter", False, False, tied)
    with pytest.raises(
        InputError, match=r'adapter: its tokenizer has the added token "<rate>" with id \d+, and the base'
    ):
        open_target(tmp_path / "adapter")


def test_another_spelling_of_the_same_rows(tiny_model_dir: Path, tmp_path: Path) -> None:
    """A tokenizer with a chat template of its own: that one is used."""
    from transformers import AutoTokenizer

    save_peft(tiny_model_dir, tmp_path / "adapter", False, False, False)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.chat_template = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
    for path in (tmp_path / "adapter").glob("tokenizer*"):
        path.unlink()
    tokenizer.save_pretrained(tmp_path / "adapter")
    opened = open_target(tmp_path / "adapter")
    turns = [{"role": "user", "content": "a"}]
    assert opened.loaded.tokenizer.apply_chat_template(turns, tokenize=False) == "[a]"


def test_a_damaged_tokenizer_is_named(tiny_model_dir: Path, tmp_path: Path) -> None:
    save_peft(tiny_model_dir, tmp_path / "adapter", False, False, False)
    (tmp_path / "adapter" / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match=r"adapter.*tokenizer"):
        open_target(tmp_path / "adapter")
