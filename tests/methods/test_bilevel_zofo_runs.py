"""Whole runs of Bilevel ZOFO with its options: the papers' presets, where the levels' data comes from, what counts."""

from __future__ import annotations

import math
from typing import Any

import pytest

from zofo import evaluate, finetune
from zofo.errors import InputError


def test_an_adapter_that_draws_nothing_cannot_be_apart(tiny_model_dir, sentiment_file, tmp_path) -> None:
    with pytest.raises(InputError, match="apart"):
        finetune(
            str(tiny_model_dir),
            str(sentiment_file),
            {"name": "bilevel-zofo", "apart": True, "inner_steps": 1},
            "prompt",
            output_dir=tmp_path / "out",
            max_steps=4,
            batch_size=2,
        )


def test_where_the_levels_data_comes_from(tiny_model_dir, write_jsonl, tmp_path) -> None:
    """upper_data=dev: D_f is the dev set and D_p all training rows. stratified: each level has both labels 1 : 2."""
    from zofo.api.configure import resolve
    from zofo.train.setup import build

    rows = [
        {"text": f"film {i}: a {'great' if i % 6 else 'bad'} one", "label": "no" if i % 6 else "yes"} for i in range(90)
    ]
    data = write_jsonl("rows.jsonl", rows)
    base: dict[str, Any] = {
        "model": str(tiny_model_dir),
        "task": {"name": str(data), "train_examples": 60, "dev_examples": 15},
    }

    def streams(**settings: Any) -> dict[str, list[Any]]:
        method = {"name": "bilevel-zofo", "inner_steps": 1, **settings}
        session = build(resolve(method=method, train={"output_dir": str(tmp_path / "out"), "batch_size": 4}, **base))
        return {name: [e.example.id for e in session.encoded[name]] for name in ("f", "p", "dev")}

    plain, dev, even = streams(), streams(upper_data="dev"), streams(stratified=True)
    assert len(plain["p"]) == pytest.approx(2 * len(plain["f"]), abs=2)
    assert sorted(dev["f"]) == sorted(dev["dev"])
    assert sorted(dev["p"]) == sorted(plain["f"] + plain["p"])
    assert sorted(even["f"] + even["p"]) == sorted(plain["f"] + plain["p"])
    rare = {f"rows.jsonl:{i + 1}" for i in range(0, 90, 6)}
    share = [len(rare.intersection(even[name])) / len(even[name]) for name in ("f", "p")]
    assert share[0] == pytest.approx(share[1], abs=1 / len(even["f"]))


@pytest.mark.parametrize("preset", ["paper", "paper-4.1", "authors"])
def test_the_papers_presets_run(preset: str, tiny_model_dir, sentiment_file, tmp_path, capsys) -> None:
    """One iteration of each, in bf16, with Adam on theta: finite numbers, and the same again from the run's files."""
    overrides = ["method.inner_steps=2", "train.batch_size=4", "train.eval_steps=3", "train.count=all"]
    run = finetune(
        str(tiny_model_dir),
        str(sentiment_file),
        output_dir=tmp_path / "out",
        preset=preset,
        max_steps=6,
        overrides=overrides,
    )
    assert "rule adam: 8 bytes a weight of theta" in capsys.readouterr().err
    assert all(map(math.isfinite, run.test.values()))
    assert evaluate(tmp_path / "out") == pytest.approx(run.test, rel=1e-6)
    if preset == "authors":
        assert run.deployed == "p"
        assert run.info["examples"]["f"] == run.info["examples"]["dev"]


def test_counting_iterations_alone(tiny_model_dir, sentiment_file, tmp_path) -> None:
    """count=outer: max_steps, evaluations and checkpoints go by iterations; the numbers are those of count=all."""
    runs = []
    for count, steps, every in (("outer", 4, 2), ("all", 12, 6)):
        out = tmp_path / count
        run = finetune(
            str(tiny_model_dir),
            str(sentiment_file),
            {"name": "bilevel-zofo", "inner_steps": 2},
            output_dir=out,
            max_steps=steps,
            eval_steps=every,
            save_steps=every,
            batch_size=4,
            count=count,
        )
        runs.append(run.info)
        assert [p.name for p in sorted(out.glob("checkpoint-*"))] == sorted(f"checkpoint-{n}" for n in (every, steps))
    assert runs[0]["steps"] == runs[1]["steps"] == {"lower": 8, "upper": 4}
    assert runs[0]["test"] == runs[1]["test"]
    assert runs[0]["best_step"] * 3 == runs[1]["best_step"]
