"""A run that learnt to end its texts ends them: in its test, in `generate`, loaded, and by plain transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.chat_templates import CHATML, with_template
from tests.conftest import make_tokenizer, read_rows, write_rows
from tests.family_runs import save_family
from zofo import InputError, finetune, load
from zofo.api.generate import generate

WORDS = CHATML.replace("<|im_end|>", " END").replace("<|im_start|>", "## ")
TASK = """
version: 1
description: The same answer to all
source: made here
columns: [question, answer]
kind: generation
reference: answer
objective: lm
metric: exact_match
generation: {max_new_tokens: 8}
templates:
  default: {prompt: "{{ question }}", answers: [" {{ answer }}"]}
"""
TEMPLATES = {"plain": None, "chatml": CHATML, "words": WORDS}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """runs(template) -> a full fine-tuning on one answer, of a base model whose EOS is no end of turn; made once."""
    root, made = tmp_path_factory.mktemp("ends"), {}
    (root / "same.yaml").write_text(TASK)
    rows = [{"question": f"what is number {i}?", "answer": "a good film"} for i in range(24)]
    for name in ("train", "validation", "test"):
        write_rows(root / "same" / f"{name}.jsonl", rows)

    def run(name: str) -> Any:
        if name not in made:
            template = TEMPLATES[name]
            tokenizer = make_tokenizer() if template is None else with_template(make_tokenizer, template)
            folder = save_family("llama", root / name, tokenizer)
            (folder / "generation_config.json").write_text(
                json.dumps({"eos_token_id": 1, "temperature": 0.7, "no_repeat_ngram_size": 1})
            )
            made[name] = finetune(
                str(folder),
                str(root / "same.yaml"),
                {"name": "fo-ft", "lr": 1e-2},
                output_dir=root / name / "run",
                max_steps=60,
                batch_size=8,
                eval_steps=60,
                save_steps=60,
                overrides=[
                    f"task.data={root / 'same'}",
                    f"task.apply_chat_template={str(template is not None).lower()}",
                ],
            )
        return made[name]

    return run


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_trained_end_ends_every_text(
    name: str, runs: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, chat, question = runs(name), TEMPLATES[name] is not None, "what is number 3?"
    assert run.test["loss"] < 0.1
    assert run.test["exact_match"] == 1.0
    predicted = read_rows(run.path / "eval" / f"predictions-{run.deployed}.jsonl")
    assert {text.strip() for row in predicted for text in row["generated"]} == {"a good film"}
    assert generate(run.path, [question], max_new_tokens=20, chat=chat)[0].strip() == "a good film"

    out = run.export(tmp_path / "export")
    ends = json.loads((out / "generation_config.json").read_text())
    assert ends["temperature"] == 0.7, "the other lines stay, valid or not"
    assert generate(out, [question], max_new_tokens=20, chat=chat)[0].strip() == "a good film"
    assert ("give `generate` stop_strings=[' END']" in caplog.text) == (name == "words")
    if name == "words":
        return
    end = load(out)[1].convert_tokens_to_ids("<|im_end|>" if chat else "</s>")
    assert ends["eos_token_id"] == ([1, end] if chat else 1)
    _from_transformers_alone(run.path, out, question, chat, end)


def _from_transformers_alone(run: Path, out: Path, question: str, chat: bool, end: int) -> None:
    from transformers import pipeline

    asked: Any = [{"role": "user", "content": question}] if chat else question
    written: Any = pipeline("text-generation", model=str(out))(
        asked, max_new_tokens=20, do_sample=False, no_repeat_ngram_size=0, return_full_text=False
    )
    assert written[0]["generated_text"].strip() == "a good film"
    model, tokenizer = load(run)
    ids = (
        tokenizer.apply_chat_template(asked, add_generation_prompt=True)["input_ids"]
        if chat
        else tokenizer(asked)["input_ids"]
    )
    row = model.generate(torch.tensor([ids]), max_new_tokens=20, do_sample=False, no_repeat_ngram_size=0)[0]
    assert row[-1] == end
    assert len(row) < len(ids) + 12


@pytest.mark.parametrize("adapter", ["lora", "prompt"])
def test_an_adapters_backbone_and_the_loaded_model_name_the_end(adapter: str, tmp_path: Path) -> None:
    tokenizer = with_template(make_tokenizer, CHATML)
    folder = save_family("llama", tmp_path, tokenizer)
    write_rows(tmp_path / "rows.jsonl", [{"prompt": f"number {i}?", "completion": "good"} for i in range(30)])
    run = finetune(
        str(folder),
        str(tmp_path / "rows.jsonl"),
        {"name": "fo-peft", "lr": 1e-2},
        adapter,
        output_dir=tmp_path / "run",
        max_steps=2,
        batch_size=4,
        eval_steps=2,
        overrides=["task.apply_chat_template=true"],
    )
    ends = [1, tokenizer.convert_tokens_to_ids("<|im_end|>")]
    model, _ = load(run.path)
    assert model.get_base_model().generation_config.eos_token_id == ends
    out = run.export(tmp_path / "export", merge=False)
    assert json.loads((out / "backbone" / "generation_config.json").read_text())["eos_token_id"] == ends
    assert load(out)[0].get_base_model().generation_config.eos_token_id == ends


def test_a_run_whose_texts_could_never_end_is_refused_before_a_file_is_written(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    folder = save_family("llama", tmp_path, tokenizer, eos_token_id=None)
    (tmp_path / "same.yaml").write_text(TASK)
    write_rows(tmp_path / "same" / "train.jsonl", [{"question": f"number {i}?", "answer": "good"} for i in range(30)])
    with pytest.raises(InputError, match=r"^task.name: the tokenizer has no EOS, so the texts of same would never end"):
        finetune(
            str(folder),
            str(tmp_path / "same.yaml"),
            "mezo",
            output_dir=tmp_path / "run",
            max_steps=2,
            overrides=[f"task.data={tmp_path / 'same'}"],
        )
    assert not (tmp_path / "run").exists()
