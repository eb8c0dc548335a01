"""A run pins what it was made from: another model, tokenizer, example, checkpoint or config.yaml is refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import sentiment_rows, write_rows
from zofo import InputError, evaluate, export, finetune

SMALL = {"max_steps": 6, "batch_size": 4, "eval_steps": 3, "save_steps": 3, "save_total_limit": None}
BILEVEL = {"name": "bilevel-zofo", "inner_steps": 2, "lr_s": 1e-2, "lr_theta": 1e-4}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    """A finished run in run/, of the model in model/ and the rows in rows.jsonl."""
    root = tmp_path_factory.mktemp("pinned")
    shutil.copytree(tiny_model_dir, root / "model")
    write_rows(root / "rows.jsonl", sentiment_rows(40))
    train(root)
    return root


def train(root: Path, out: str = "run", **options: Any) -> None:
    sizes = ["task.train_examples=12", "task.dev_examples=8", "task.test_examples=8"]
    finetune(
        str(root / "model"),
        str(root / "rows.jsonl"),
        BILEVEL,
        output_dir=root / out,
        overrides=sizes,
        **{**SMALL, **options},
    )


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy to spoil, at the paths that the run's config.yaml names."""
    shutil.copytree(made, tmp_path / "unspoilt")
    yield made
    shutil.rmtree(made)
    shutil.copytree(tmp_path / "unspoilt", made)


def rows_of(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "rows.jsonl").read_text().splitlines()]


def appended(root: Path) -> None:
    write_rows(root / "rows.jsonl", rows_of(root) + sentiment_rows(80)[40:])


def one_word(root: Path) -> None:
    rows = rows_of(root)
    write_rows(root / "rows.jsonl", [{**row, "text": row["text"].replace("film", "movie")} for row in rows])


def one_label(root: Path) -> None:
    rows = rows_of(root)
    labels = sorted({row["label"] for row in rows})
    write_rows(root / "rows.jsonl", [{**row, "label": labels[row["label"] == labels[0]]} for row in rows])


def another_order(root: Path) -> None:
    write_rows(root / "rows.jsonl", rows_of(root)[::-1])


def fewer(root: Path) -> None:
    write_rows(root / "rows.jsonl", rows_of(root)[:30])


@pytest.mark.parametrize("change", [appended, one_word, one_label, another_order, fewer])
def test_other_rows(root: Path, change: Callable[[Path], None]) -> None:
    """Rows appended would move trained rows into the test set; no verb goes on without a word."""
    before = evaluate(root / "run")
    change(root)
    with pytest.raises(InputError, match=r"^cannot resume: other \w+ examples than the run was made with"):
        train(root, resume="latest")
    with pytest.raises(InputError, match=r"rows.jsonl: other test examples than .*; --data says where the rows are as"):
        evaluate(root / "run")
    with pytest.raises(InputError, match="other test examples"):
        evaluate(root / "run", num_fewshot=1)  # other prompts: the rows are compared in the run's own
    out = export(root / "run", root / "export")  # which needs no data
    with pytest.raises(InputError, match="other test examples"):
        evaluate(out)
    assert evaluate(root / "run", task=str(root / "rows.jsonl"), limit=3)["n"] == 3
    assert before["n"] == 8


def test_the_same_rows_under_another_name(root: Path, tmp_path: Path) -> None:
    """What is pinned is what is trained on and measured, not where it stands."""
    before = evaluate(root / "run")
    (tmp_path / "elsewhere.jsonl").write_bytes((root / "rows.jsonl").read_bytes())
    assert evaluate(root / "run", task=str(tmp_path / "elsewhere.jsonl"), limit=8)["n"] == 8
    assert evaluate(root / "run", num_fewshot=2)["n"] == before["n"]
    assert evaluate(root / "run", split="dev")["n"] == 8


def other_weights(root: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(root / "model")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] += 1e-3
    model.save_pretrained(root / "model")


def other_tokenizer(root: Path) -> None:
    path = root / "model" / "tokenizer.json"
    content = json.loads(path.read_text())
    first, second = sorted(content["model"]["vocab"], key=content["model"]["vocab"].get)[10:12]
    vocab = content["model"]["vocab"]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    path.write_text(json.dumps(content))


def other_template(root: Path) -> None:
    (root / "model" / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")


@pytest.mark.parametrize(
    ("change", "what"),
    [(other_weights, "base model"), (other_tokenizer, "tokenizer"), (other_template, "tokenizer")],
)
def test_another_model_or_tokenizer(root: Path, change: Callable[[Path], None], what: str) -> None:
    change(root)
    for verb in (
        lambda: train(root, resume="latest"),
        lambda: evaluate(root / "run"),
        lambda: export(root / "run", root / "export"),
    ):
        with pytest.raises(InputError, match=what):
            verb()
    assert not (root / "export").exists()


def test_a_config_file_that_was_edited(root: Path) -> None:
    path = root / "run" / "config.yaml"
    path.write_text(path.read_text().replace("scoring: mean", "scoring: sum"))
    for verb in (
        lambda: train(root, resume="latest"),
        lambda: evaluate(root / "run"),
        lambda: export(root / "run", root / "export"),
    ):
        with pytest.raises(InputError, match=r"config.yaml: changed since the run wrote it"):
            verb()


def test_a_run_json_that_was_edited(root: Path) -> None:
    """Of its labels one is gone: what it says is measured with them. A resume writes it anew."""
    path = root / "run" / "run.json"
    before = evaluate(root / "run")
    path.write_text(path.read_text().replace('"labels"', '"lables"'))
    for verb in (lambda: evaluate(root / "run"), lambda: export(root / "run", root / "export")):
        with pytest.raises(InputError, match=r"run.json: changed since the run wrote it, or manifest.json was; train"):
            verb()
    train(root, resume="latest")
    assert evaluate(root / "run") == before


# ------------------------------------------------------------------------------------------------------- checkpoints


def files_of(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize("how", ["by path", "copied in", "in the place of one", "linked"])
def test_another_runs_checkpoint(root: Path, how: str) -> None:
    """It would mix two runs under one seed, and cut files at places that are not their own."""
    train(root, "other", seed=1)
    foreign, run = root / "other" / "checkpoint-6", root / "run"
    resume = str(foreign)
    if how == "copied in":
        resume = str(shutil.copytree(foreign, run / "checkpoint-9"))
    elif how == "linked":
        (run / "checkpoint-9").symlink_to(foreign)
        resume = str(run / "checkpoint-9")
    elif how == "in the place of one":
        shutil.rmtree(run / "checkpoint-3")
        resume = str(shutil.copytree(foreign, run / "checkpoint-3"))
    before = files_of(run)
    with pytest.raises(InputError, match=r"no checkpoint of the run|another run's"):
        train(root, resume=resume)
    assert files_of(run) == before


def test_its_own_checkpoint_is_taken(root: Path) -> None:
    final = files_of(root / "run")
    shutil.rmtree(root / "run" / "checkpoint-6")
    train(root, resume=str(root / "run" / "checkpoint-3"))
    again = files_of(root / "run")
    same = [name for name in final if name.endswith((".safetensors", "journal.bin")) or "predictions" in name]
    assert same
    assert all(again[name] == final[name] for name in same)


# ----------------------------------------------------------------------------------------------------------- exports


@pytest.mark.parametrize("merge", [None, False])
def test_an_export_carries_what_it_was_trained_with(
    merge: bool | None, tiny_model_dir: Path, sentiment_file: Path, tmp_path: Path
) -> None:
    """Its longest example and its dtype: else its loss is another."""
    run = finetune(
        str(tiny_model_dir),
        str(sentiment_file),
        BILEVEL,
        output_dir=tmp_path / "run",
        overrides=["model.max_length=12", "model.dtype=bfloat16"],
        **SMALL,
    )
    exported = run.export(tmp_path / "export", merge=merge)
    tolerance = 1e-5 if merge is False else 2e-2  # merged weights are rounded once more
    assert evaluate(exported)["loss"] == pytest.approx(run.test["loss"], abs=tolerance)
    longer = evaluate(exported, overrides=["model.max_length=64", "model.dtype=float32"])
    assert abs(longer["loss"] - run.test["loss"]) > 1e-3
