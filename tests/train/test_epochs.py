"""train.num_train_epochs: as many counted steps as draw each training example so often, with every method."""

from __future__ import annotations

import dataclasses
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import read_rows, sentiment_rows, write_rows
from zofo import InputError, finetune
from zofo.cli import main as cli
from zofo.cli.memory import configs
from zofo.config import registry
from zofo.config.epochs import Passes
from zofo.config.resolve import load, resolve
from zofo.config.sections import TrainConfig
from zofo.data.stream import Stream

N, BATCH = 21, 4  # training examples, of which a third are the upper level's: 7, and 14 the lower's
ASK: dict[str, Any] = {"model": "m", "task": "sst2", "method": "mezo"}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with N rows to train on."""
    root, every = tmp_path_factory.mktemp("rows"), sentiment_rows(N + 8)
    for name, part in {"train": every[:N], "validation": every[N : N + 4], "test": every[N + 4 :]}.items():
        write_rows(root / f"{name}.jsonl", part)
    return root


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Counter[str]]:
    """{stream: how often each example was drawn}, filled while a run trains."""
    counts: dict[str, Counter[str]] = {}
    draw = Stream.draw

    def counting(self: Stream) -> Any:
        example = draw(self)
        counts.setdefault(self.name, Counter())[example.example.id] += 1
        return example

    monkeypatch.setattr(Stream, "draw", counting)
    return counts


# {method and settings: epochs, counted steps by hand, batches of each stream}. T = 2 where there are lower steps.
TWO = {"inner_steps": 2}
BY_HAND: list[tuple[str, dict[str, Any], float, int, dict[str, int]]] = [
    ("fo-peft", {}, 2, 11, {"train": 11}),  # 42 examples: 10 batches hold 40
    ("fo-ft", {}, 0.5, 3, {"train": 3}),  # 10.5
    ("mezo", {}, 2, 11, {"train": 11}),
    ("sparse-mezo", {}, 1, 6, {"train": 6}),
    ("two-stage", TWO, 2, 11, {"train": 11}),
    # 28 of D_p's 14: 7 batches, 3 an iteration, 3 iterations of 3 counted steps
    ("bilevel-zofo", TWO, 2, 9, {"p": 9, "f": 3}),
    ("bilevel-fo", TWO, 2, 9, {"p": 9, "f": 3}),
    ("bilevel-ablations", {**TWO, "p_steps": 2}, 2, 8, {"p": 8, "f": 4}),  # 4 batches of 4 counted steps
    ("bilevel-ablations", {**TWO, "upper_data": "dev"}, 1, 6, {"p": 6, "f": 2}),  # D_p is all: 21
    ("bilevel-zofo", {**TWO, "upper_share": 0.6}, 1, 12, {"p": 12, "f": 4}),  # of 13 and 8 the upper level's: 4 batches
]


def train(model: Path, rows: Path, out: Path, method: str, settings: dict[str, Any], **more: Any) -> Any:
    options = {"batch_size": BATCH, "eval_steps": 100, "save_steps": 100, "output_dir": out, **more}
    return finetune(str(model), str(rows), {"name": method, **settings}, **options)


@pytest.mark.parametrize(("method", "settings", "epochs", "steps", "batches"), BY_HAND)
def test_examples_drawn(
    method: str,
    settings: dict[str, Any],
    epochs: float,
    steps: int,
    batches: dict[str, int],
    tiny_model_dir: Path,
    rows: Path,
    tmp_path: Path,
    drawn: dict[str, Counter[str]],
) -> None:
    train(tiny_model_dir, rows, tmp_path / "run", method, settings, num_train_epochs=epochs)
    counts = {name: counter for name, counter in drawn.items() if name != "mask"}
    assert {name: counter.total() for name, counter in counts.items()} == {n: BATCH * b for n, b in batches.items()}
    config = load(tmp_path / "run" / "config.yaml").train
    assert (config.max_steps, config.num_train_epochs) == (steps, None)
    sizes = {"train": N, "p": 14, "f": 7}
    if "upper_data" in settings:
        sizes = {"p": N, "f": 4}
    if "upper_share" in settings:
        sizes = {"p": 8, "f": 13}
    largest = max(counts, key=lambda name: sizes[name])
    assert len(counts[largest]) == (sizes[largest] if epochs >= 1 else BATCH * steps)
    assert min(counts[largest].values()) >= int(epochs), "each of them so often"


def test_every_method_is_here_or_refused() -> None:
    trained = {method for method, *_ in BY_HAND}
    for name in registry.names("methods"):
        method = registry.load("methods", name).Method
        if name in trained:
            assert method.streams
            continue
        said = refused(name, num_train_epochs=3)
        why = "takes the tasks in turn" if method.many else "trains on nothing"
        assert f"train.num_train_epochs: method {name} {why}" in said


def test_an_anchor_draws_too(tiny_model_dir: Path, rows: Path, tmp_path: Path, drawn: dict[str, Counter[str]]) -> None:
    """svrg: 5 batches an anchor, one each 3 steps. 4 passes are 21 batches, 10 of 8 steps, 15 of 3 anchors."""
    estimator = ["estimator.name=svrg", "estimator.refresh=3", "estimator.anchor_batches=5"]
    train(tiny_model_dir, rows, tmp_path / "a", "mezo", {}, num_train_epochs=4, overrides=estimator)
    assert load(tmp_path / "a" / "config.yaml").train.max_steps == 7  # 6 draw 6 + 10, the 7th is an anchor's: 22
    assert drawn["train"].total() == BATCH * 22
    drawn.clear()
    # Stage 2 is each third step: of 9 steps 3 (at 6, 7, 8: one anchor), 14 batches; of 10 (7, 8, 9) two, 20; 11: 21
    train(tiny_model_dir, rows, tmp_path / "b", "two-stage", TWO, num_train_epochs=4, overrides=estimator)
    assert load(tmp_path / "b" / "config.yaml").train.max_steps == 11
    assert drawn["train"].total() == BATCH * 21


class _Draws:
    """A method as far as `Passes` asks."""

    def __init__(self, drawn: int, per_step: int, estimated_from: int) -> None:
        self.draws, self.per_step, self.shortest, self.many = {"train": drawn}, per_step, 1, False
        self.estimated_from = estimated_from

    def estimated(self, k: int) -> tuple[int, int]:
        return k - k // self.estimated_from, k


def test_no_fewer_steps_would_do() -> None:
    """The least number, found by trying all; with anchors and without."""
    svrg = registry.load("estimators", "svrg").Config
    for seed in range(200):
        rng = random.Random(seed)
        size, batch, epochs = rng.randint(1, 60), rng.randint(1, 9), rng.choice([0.1, 0.5, 1, 1.7, 3])
        method = _Draws(rng.randint(1, 4), rng.randint(1, 4), rng.randint(1, 4))
        estimator = svrg(refresh=rng.randint(1, 6), anchor_batches=rng.randint(1, 9)) if seed % 2 else None
        train = TrainConfig("o", num_train_epochs=epochs, batch_size=batch)
        passes = Passes(train, method, estimator, {"train": size})

        def done(k: int, passes: Passes = passes, size: int = size) -> float:
            return round(passes.of("train", k) * size, 6)

        enough = next(k for k in range(1, 1000) if done(k) >= round(epochs * size, 6))
        assert passes.iterations == enough, (seed, passes)
        assert passes.max_steps == enough * method.per_step


def test_a_schedule_and_the_warm_up_go_by_the_steps(tiny_model_dir: Path, rows: Path, tmp_path: Path) -> None:
    """A run of so many passes is, byte by byte, the run of as many steps."""
    more = {"lr_scheduler_type": "linear", "warmup_steps": 2, "logging_steps": 1}
    settings = {"name": "fo-peft", "lr": 1e-3}
    for name, length in {"epochs": {"num_train_epochs": 2}, "steps": {"max_steps": 11}}.items():
        train(tiny_model_dir, rows, tmp_path / name, "fo-peft", settings, **more, **length)
    names = sorted(path.relative_to(tmp_path / "steps") for path in (tmp_path / "steps").rglob("*.safetensors"))
    assert names
    assert all((tmp_path / "steps" / n).read_bytes() == (tmp_path / "epochs" / n).read_bytes() for n in names)
    lines = [line for line in read_rows(tmp_path / "epochs" / "metrics.jsonl") if line["event"] == "train"]
    assert len(lines) == 11
    assert lines[-1]["lr"] == pytest.approx(1e-3 / 9), "linear to 0 over the 9 steps after the warm-up"
    texts = [(tmp_path / name / "config.yaml").read_text("utf-8") for name in ("epochs", "steps")]
    assert texts[0] == texts[1]


def test_a_resumed_run_has_the_same_bytes(tiny_model_dir: Path, rows: Path, tmp_path: Path) -> None:
    common = {"num_train_epochs": 2, "save_steps": 3, "save_total_limit": None}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(tiny_model_dir, rows, whole, "bilevel-zofo", TWO, **common)
    train(tiny_model_dir, rows, cut, "bilevel-zofo", TWO, **common)
    train(tiny_model_dir, rows, cut, "bilevel-zofo", TWO, **common, resume=str(cut / "checkpoint-3"))
    names = sorted(path.relative_to(whole) for path in whole.rglob("*.safetensors"))
    assert names
    assert all((whole / name).read_bytes() == (cut / name).read_bytes() for name in names)
    args = ["train", "--resume", str(cut / "checkpoint-9"), "--num-train-epochs", "3"]
    assert cli.run(args) == 0, "and goes on to more passes: 42 of D_p's examples are 11 batches, 4 iterations"
    assert load(cut / "config.yaml").train.max_steps == 12
    state = json.loads((cut / "checkpoint-12" / "trainer_state.json").read_text("utf-8"))
    assert state["epoch"] == pytest.approx(12 * BATCH / 14)


# ------------------------------------------------------------------------------------------------------ what is said


def test_rows_that_cannot_be_used_are_not_counted(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    every = sentiment_rows(20)
    every[3] = {"text": "", "label": ""}
    write_rows(tmp_path / "rows" / "train.jsonl", every)
    write_rows(tmp_path / "rows" / "validation.jsonl", sentiment_rows(4))
    write_rows(tmp_path / "rows" / "test.jsonl", sentiment_rows(4))
    args = ["--model", str(tiny_model_dir), "--task", str(tmp_path / "rows"), "--method", "mezo", "--output-dir"]
    args += [
        str(tmp_path / "o"),
        "--num-train-epochs",
        "3",
        "task.on_bad_row=skip",
        "train.batch_size=19",
        "train.logging_steps=1",
    ]
    said = "num_train_epochs 3 = 3 steps of batch 19 over 19 examples"
    assert cli.run(["validate", *args]) == 0
    out = capsys.readouterr()
    assert f"note: {said}\n" in out.err
    assert "  max_steps: 3                        # of num_train_epochs\n" in out.out
    assert cli.run(["train", "--dry-run", *args]) == 0
    assert f"{said}\n" in capsys.readouterr().out
    assert cli.run(["train", *args]) == 0
    err = capsys.readouterr().err
    assert f"{said}\n" in err
    assert "step 3/3, epoch 3.00 | " in err


def test_rows_that_nobody_has_counted_are_a_bound(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["validate", "--model", "m", "--task", "sst2", "--output-dir", "o", "--num-train-epochs", "3"]
    assert cli.run([*args, "--method", "bilevel-zofo"]) == 0
    out = capsys.readouterr()
    assert (
        "note: num_train_epochs 3 = at most 132 steps of batch 16 over at most 667 examples of the lower level (the "
        "upper level's 333 are passed 0.577 times); a run counts them\n"
    ) in out.err
    assert "  max_steps: 132                      # at most, of num_train_epochs\n" in out.out


def refused(method: str = "mezo", **train: Any) -> str:
    with pytest.raises(InputError) as caught:
        resolve(None, [], model="m", task="sst2", method=method, train={"output_dir": "o", **train})
    return str(caught.value)


BOTH = "both say how long to train; give one of the two"


def test_both_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(num_train_epochs=3, max_steps=100) == f"train.num_train_epochs: 3, and train.max_steps 100: {BOTH}"
    args = ["train", "--model", "m", "--task", "sst2", "--method", "mezo", "--output-dir", str(tmp_path / "o")]
    assert cli.run([*args, "--num-train-epochs", "3", "train.max_steps=7"]) == 2
    assert capsys.readouterr().err == f"error: train.num_train_epochs: 3.0, and train.max_steps 7: {BOTH}\n"
    (tmp_path / "mine.yaml").write_text("train: {max_steps: 9, num_train_epochs: 1}\n", encoding="utf-8")
    with pytest.raises(InputError, match=BOTH):
        resolve(str(tmp_path / "mine.yaml"), [], **ASK, train={"output_dir": "o"})


def test_what_is_given_last_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("train: {max_steps: 9}\n", encoding="utf-8")
    config = resolve(str(path), [], **ASK, train={"output_dir": "o", "num_train_epochs": 2})
    assert (config.train.num_train_epochs, config.train.max_steps) == (2, 125)
    assert config.notes == (
        f"train.max_steps: 9 (file {path}) is left out, as train.num_train_epochs is 2 (command line)",
    )
    path.write_text("train: {num_train_epochs: 2}\n", encoding="utf-8")
    config = resolve(str(path), ["train.max_steps=7"], **ASK, train={"output_dir": "o"})
    assert (config.train.num_train_epochs, config.train.max_steps) == (None, 7)
    config = resolve(str(path), ["train.num_train_epochs=null"], **ASK, train={"output_dir": "o"})
    assert (config.train.num_train_epochs, config.train.max_steps) == (None, 1000)
    assert not config.notes


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ({"num_train_epochs": 0}, "train.num_train_epochs: must be > 0 and <= 1000000, got 0"),
        ({"num_train_epochs": "three"}, 'train.num_train_epochs: expected a number or null, got "three"'),
        (
            {"num_train_epochs": 1, "warmup_steps": 64},
            "train.warmup_steps: more than the 63 counted steps of num_train_epochs 1, so no rate would reach its "
            "value",
        ),
    ],
)
def test_what_is_wrong(train: dict[str, Any], said: str) -> None:
    assert refused(**train) == said


def test_a_run_shorter_than_its_stages() -> None:
    assert refused("two-stage", num_train_epochs=1, batch_size=150) == (
        "train.num_train_epochs: 1 is 7 counted steps, less than the 11 that one iteration, or one zeroth-order step, "
        "takes; give more, or a smaller method.inner_steps"
    )


def test_several_methods_in_memory(tmp_path: Path) -> None:
    """Those that train on nothing stand beside the others."""
    path = tmp_path / "mine.yaml"
    path.write_text("model: m\ntrain: {num_train_epochs: 3}\n", encoding="utf-8")
    for settings in ([str(path)], ["model=m", "train.num_train_epochs=3"]):
        found = configs(settings, None, ["zero-shot", "metaicl", "mezo"], {}, made_up=True)
        assert [config.train.num_train_epochs for config in found] == [None, None, 3]


def test_the_same_run() -> None:
    """What is compared of two runs is what they compute."""
    passes = resolve(None, [], **ASK, train={"output_dir": "o", "num_train_epochs": 2})
    steps = resolve(None, [], **ASK, train={"output_dir": "o", "max_steps": 125})
    assert passes.hash() == steps.hash()
    assert dataclasses.asdict(steps.train) | {"num_train_epochs": 2.0} == dataclasses.asdict(passes.train)
