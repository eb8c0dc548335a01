"""Loss curves of tiny runs against recorded ones: a change of arithmetic, order or sampling shows here first.

The numbers were printed by `python -m tests.golden.test_curves` on the day the file was written. They hold to 1e-3 on
other machines and versions (first-order parts are not bit-exact between those); a change on purpose records them again
and says so in the CHANGELOG.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import read_rows, sentiment_rows, write_rows
from zofo import finetune

RECORDED = Path(__file__).with_name("curves.json")
METHODS: dict[str, dict[str, Any]] = {
    "fo-peft": {"name": "fo-peft", "lr": 3e-3},
    "mezo": {"name": "mezo", "lr": 1e-4},
    "two-stage": {"name": "two-stage", "inner_steps": 1, "lr": 3e-3, "lr_theta": 1e-4},
    "fo-ft": {"name": "fo-ft", "lr": 1e-3},
    "bilevel-fo": {"name": "bilevel-fo", "inner_steps": 3, "lr_s": 3e-3, "lr_theta": 1e-3},
    "bilevel-zofo": {"name": "bilevel-zofo", "inner_steps": 3, "lr_s": 3e-3, "lr_theta": 1e-5},
    "meta-bilevel-zofo": {"name": "meta-bilevel-zofo", "inner_steps": 3, "lr_s": 3e-3, "tasks_per_step": 2},
    "metaicl": {"name": "metaicl", "lr": 1e-3},
    "multi-task-ft": {"name": "multi-task-ft", "lr": 1e-3},
}
MANY = ("meta-bilevel-zofo", "metaicl", "multi-task-ft")  # their data is a setting


def curve(method: str, model: Path, folder: Path) -> list[dict[str, float]]:
    data, overrides = folder / "rows.jsonl", []
    write_rows(data, sentiment_rows(80))
    if method in MANY:
        data, overrides = write_setting(folder), [f"task.data={folder}"]
    finetune(
        str(model),
        str(data),
        METHODS[method],
        output_dir=folder / "out",
        max_steps=24,
        batch_size=4,
        eval_steps=8,
        logging_steps=1,
        threads=1,
        overrides=overrides,
    )
    keys = ("loss", "loss_s", "loss_p", "c", "G")
    lines = read_rows(folder / "out" / "metrics.jsonl")
    return [{k: round(v, 6) for k, v in line.items() if k in keys} for line in lines]


def write_setting(folder: Path) -> Path:
    """Four tasks over the same sentences, each with its own pair of words for good and bad; one is held out."""
    words = {"stars": ("two", "five"), "verdict": ("avoid", "see"), "mark": ("poor", "fine"), "mood": ("sad", "glad")}
    for number, (task, options) in enumerate(words.items()):
        (folder / task).mkdir()
        rows = [
            {"task": task, "input": row["text"], "output": options[row["label"] == "great"], "options": list(options)}
            for row in sentiment_rows(60)[number::2]
        ]
        for split, split_rows in (("train", rows[:20]), ("test", rows[20:])):
            write_rows(folder / task / f"{split}.jsonl", split_rows)
    path = folder / "setting.yaml"
    path.write_text("train: [stars, verdict, mark]\nheld_out: [mark]\ntarget: [mood]\n")
    return path


@pytest.mark.parametrize("method", METHODS)
def test_the_curve_is_the_recorded_one(method, tiny_model_dir, tmp_path):
    recorded = json.loads(RECORDED.read_text())[method]
    computed = curve(method, tiny_model_dir, tmp_path)
    assert len(computed) == len(recorded)
    for ours, theirs in zip(computed, recorded):
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():  # c divides a difference of losses by 2 eps, which magnifies last bits
            rel, absolute = (1e-2, 0.1) if key == "c" else (1e-3, 2e-3)
            assert value == pytest.approx(theirs[key], rel=rel, abs=absolute), key


def main() -> None:
    import tempfile

    from tests.conftest import llama_config, make_tokenizer, save_tiny

    with tempfile.TemporaryDirectory() as root:
        tokenizer = make_tokenizer()
        model = save_tiny(Path(root) / "model", llama_config(tokenizer, tied=True), tokenizer)
        curves = {}
        for method in METHODS:
            folder = Path(root) / method
            folder.mkdir()
            curves[method] = curve(method, model, folder)
    lines = ",\n".join(  # one logged line a row
        f'"{name}": [\n' + ",\n".join(json.dumps(x) for x in rows) + "]" for name, rows in curves.items()
    )
    RECORDED.write_text("{" + lines + "}\n")


if __name__ == "__main__":
    main()
