"""A metric as what zeroth-order steps descend: its value by hand, at theta and shifted; runs, journals and refusals."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import make_tokenizer, read_rows, write_rows
from tests.family_runs import Watch, load_family, save_family
from tests.float64_llama import merged, widen
from tests.tiny_bilevel import ALPHA, EPS, R, World, direction, examples, moved, world
from tests.tiny_models import replaced
from zofo import evaluate, finetune
from zofo.api.configure import resolve
from zofo.api.restore import restore
from zofo.config.instantiate import make_estimator, make_rule
from zofo.data import Decoding
from zofo.data.batch import collate
from zofo.data.metrics.text import token_f1
from zofo.errors import InputError
from zofo.eval.decoding import Request, decode, prompt_ids
from zofo.methods.bilevel_ablations import Penalised
from zofo.objectives import metric as metric_objective
from zofo.train.setup import Session, build
from zofo.zo.direction import Direction
from zofo.zo.estimators import spsa
from zofo.zo.journal import read_header, read_records
from zofo.zo.kernels import reference
from zofo.zo.keys import tensor_key
from zofo.zo.point import Point
from zofo.zo.replay import replay

Write = Callable[[str, list[dict[str, Any]]], Path]
SHIFT = 0.01


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama that says other words when its weights are shifted by SHIFT."""
    return save_family("llama-untied", tmp_path_factory.mktemp("model"), initializer_range=0.3)


def said(model: Any, prompt: str, new: int = 6) -> str:
    """Greedy, alone."""
    tokenizer = make_tokenizer()
    (text,) = decode(model, tokenizer, [Request(prompt_ids(tokenizer, prompt, "x"), new)], Decoding(new, ("\n",)), 2)
    return text


@pytest.fixture(scope="module")
def squad(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Path:
    """Questions whose answers are some of the model's own words, so that a shift of theta is seen in the metric."""
    root, model, rows = tmp_path_factory.mktemp("squad"), load_family(model_dir), []
    for i in range(24):
        row = {"title": "T", "context": f"It is {i}.", "question": f"{('Who', 'What', 'When')[i % 3]} is {i}?"}
        words = said(model, prompt_of(row)).split() or ["dog"]
        answer = [" ".join(words), f"{words[0]} and more", words[-1], "no such word"][i % 4]
        rows.append({**row, "answers": {"text": [answer], "answer_start": [0]}})
    for name, split_rows in {"train": rows[:12], "validation": rows[12:18], "test": rows[18:]}.items():
        write_rows(root / f"{name}.jsonl", split_rows)
    return root


def prompt_of(row: dict[str, Any]) -> str:
    return f"Title: {row['title']}\nContext: {row['context']}\nQuestion: {row['question']}\nAnswer:"


def settings(squad: Path, *more: str) -> list[str]:
    return [f"task.data={squad}", "task.max_new_tokens=6", "model.device=cpu", "task.objective=metric", *more]


def session(model_dir: Path, squad: Path, *more: str, method: str = "mezo") -> Session:
    sections: dict[str, Any] = {"model": str(model_dir), "task": "squad", "method": method}
    train = {"output_dir": "unused", "batch_size": 4, "max_steps": 12}
    return build(resolve(None, settings(squad, *more), source="caller", train=train, **sections))


# ---------------------------------------------------------------------------------------- the objectives' values


def test_negative_accuracy_is_a_count() -> None:
    rng, batch = random.Random(0), collate(examples("options", 40, 1), 2)
    logp = torch.randn(batch.labels.numel(), generator=torch.Generator().manual_seed(0))
    gold = batch.gold.tolist()
    for option in rng.sample(range(len(gold)), 15):  # several right answers, here and there
        gold[option] = True
    batch.gold.copy_(torch.tensor(gold))
    want = []
    for example in range(40):
        options = [o for o in range(len(gold)) if int(batch.option_example[o]) == example]
        means = {o: [float(p) for p, of in zip(logp, batch.option) if int(of) == o] for o in options}
        best = max(options, key=lambda o: sum(means[o]) / len(means[o]))
        want.append(-1.0 if gold[best] else 0.0)
    sums, weights = metric_objective.Objective()(logp, batch)
    assert sums.tolist() == want
    assert weights.tolist() == [1.0] * 40
    assert 5 < -sum(want) < 35


def by_hand(model: Any, batch: Any) -> float:
    return -sum(token_f1(said(model, e.example.prompt), e.example.reference) for e in batch.source) / batch.examples


@pytest.mark.parametrize("mode", ["copy", "inplace"])
def test_negative_metric_is_that_of_texts_written_alone(mode: str, model_dir: Path, squad: Path) -> None:
    s = session(model_dir, squad, f"estimator.shift={mode}")
    batch, z = next(s.streams["train"]), Direction(5)
    values = [s.problem.loss(batch)]
    assert values == pytest.approx([by_hand(load_family(model_dir), batch)])
    for scale in (SHIFT, -SHIFT):
        with s.problem.theta.shifted(z, scale):
            values.append(s.problem.loss(batch))
        assert values[-1] == pytest.approx(by_hand(replaced(load_family(model_dir), z, scale), batch))
    assert s.problem.loss(batch) == values[0]
    assert len(set(values)) > 1, "a shift is seen"


@pytest.mark.parametrize("adapter", ["lora", "prefix", "prompt", "dept"])
def test_a_shifted_adapter_writes_other_texts(adapter: str, model_dir: Path, squad: Path) -> None:
    """theta is the adapter's tensors: its shift must reach what is written, by whichever model that is."""
    s = session(model_dir, squad, "estimator.shift=copy", f"adapter={adapter}")
    theta, z, asked = s.problem.theta, Direction(5), s.data.train
    assert not set(theta) & set(Point(load_family(model_dir)))
    plain = s.evaluator.decode(asked)
    with theta.shifted(z, 2.0):
        shifted = s.evaluator.decode(asked)
    assert shifted != plain
    assert s.evaluator.decode(asked) == plain
    for name, param in theta.items():
        param.data += 2.0 * reference.signs(z.seed, tensor_key(name), 0, param.numel()).view(param.shape)
    assert s.evaluator.decode(asked) == shifted


# --------------------------------------------------------------------------------------------------------------- runs


def test_mezo_on_generated_answers(model_dir: Path, squad: Path, tmp_path: Path) -> None:
    """It is selected by the metric, and its files give it again: theta bit for bit."""
    watch = Watch()
    run = finetune(
        str(model_dir), "squad", {"name": "mezo", "lr": 2e-4}, output_dir=tmp_path / "run", max_steps=6, batch_size=4,
        eval_steps=2, save_steps=6, logging_steps=1, callbacks=[watch],
        overrides=settings(squad, "estimator.shift=copy", f"estimator.eps={SHIFT}"),
    )  # fmt: skip  # the words of one call
    rows = read_rows(run.path / "metrics.jsonl")
    train, dev = ([row for row in rows if row["event"] == event] for event in ("train", "dev"))
    assert any(row["c"] for row in train if -1 <= row["loss"] < 0)
    best = max(dev, key=lambda row: row["token_f1"])  # the first of equals
    assert (run.info["best_step"], run.info["metric"]) == (best["step"], "token_f1")
    again, theta = restore(run.path, "theta"), Point(load_family(model_dir))
    assert (Point(again.model).sha256() != theta.sha256()) == any(row["c"] for row in train[: best["step"]])
    _, start = read_header(run.path / "journal.bin")
    records = list(read_records(run.path / "journal.bin", start))
    assert replay(theta, make_estimator(again.config), make_rule(again.config), records) == 6
    assert set(theta.sha256().values()) == watch.final != set(Point(load_family(model_dir)).sha256().values())


def test_mezo_on_options(model_dir: Path, write_jsonl: Write, tmp_path: Path) -> None:
    write_jsonl("train.jsonl", [{"sentence": f"film {i}", "label": i % 2} for i in range(24)])
    run = finetune(
        str(model_dir), "sst2", {"name": "mezo", "lr": 0.01}, output_dir=tmp_path / "run", max_steps=6, batch_size=4,
        eval_steps=3, save_steps=6, logging_steps=1,
        overrides=[f"task.data={tmp_path}", "task.objective=metric", "estimator.eps=0.05", "model.device=cpu"],
    )  # fmt: skip  # the words of one call
    lines = read_rows(run.path / "metrics.jsonl")
    train = [line for line in lines if line["event"] == "train"]
    assert all(line["loss"] * 8 == pytest.approx(round(line["loss"] * 8)) for line in train), "two counts of 4"
    assert any(line["c"] for line in train)
    assert run.test == pytest.approx(evaluate(run.path), rel=1e-5)


# ------------------------------------------------------------------------------------- Bilevel ZOFO's upper objective


def options_world(**problem: Any) -> tuple[World, Any]:
    w = world("options")
    return w, w.problem(metric=w.loss.of(metric_objective.Objective()), **problem)


def accuracy(w: World, theta: Any, adapter: Any, batch: Sequence[Any]) -> float:
    """In float64, by a loop."""
    weights, hits = merged(theta, adapter, ALPHA / R), []
    for e in batch:
        means = [float(tokens.mean()) for tokens in w.wide._options(weights, e)]
        hits.append(means.index(max(means)) in e.gold)
    return sum(hits) / len(hits)


@pytest.mark.parametrize("eps", [EPS, 0.1])
def test_the_upper_metrics_coefficient(eps: float) -> None:
    """c = [M(+) - M(-) + lam (F_p(+) - F_s(+) - F_p(-) + F_s(-))] / (2 eps) with M = -accuracy of (theta, p) on B_f."""
    w, problem = options_world()
    problem.estimator = spsa.Estimator(spsa.Config(eps=eps))
    lam, z = 0.7, direction(w.theta, 0)
    theta, p, s = widen(w.theta), widen(w.adapters.parameters("p")), widen(w.adapters.parameters("s"))
    sides, metrics = [], []
    for sign in (eps, -eps):
        at = moved(theta, z, sign)
        metrics.append(-accuracy(w, at, p, w.f[0]))
        sides.append(metrics[-1] + lam * float(w.wide.loss(at, p, w.p[0]) - w.wide.loss(at, s, w.p[0])))
    step_metrics = w.method(problem, upper_objective="metric", lam=lam, inner_steps=0).step(0)
    assert step_metrics["c"] == pytest.approx((sides[0] - sides[1]) / (2 * eps), rel=1e-3, abs=1e-3)
    assert step_metrics["G"] == pytest.approx(sum(sides) / 2, rel=1e-5, abs=1e-5)
    assert step_metrics["loss_p"] == pytest.approx(float(w.wide.loss(theta, p, w.f[0])), rel=1e-5)


def test_the_metric_has_a_part_in_the_coefficient() -> None:
    values = {}
    for upper in ("loss", "metric"):
        w, problem = options_world()
        other = problem.metric if upper == "metric" else w.loss
        assert other is not None
        G = Penalised(w.loss, w.adapters, collate(w.f[0], 2), collate(w.p[0], 2), 3.0, other)
        values[upper] = (G(), sum(term() for term in G.terms()))
        assert values[upper][0] == pytest.approx(values[upper][1], rel=1e-5)
        theta, p, s = widen(w.theta), widen(w.adapters.parameters("p")), widen(w.adapters.parameters("s"))
        rest = 3.0 * float(w.wide.loss(theta, p, w.p[0]) - w.wide.loss(theta, s, w.p[0]))
        first = -accuracy(w, theta, p, w.f[0]) if upper == "metric" else float(w.wide.loss(theta, p, w.f[0]))
        assert values[upper][0] == pytest.approx(first + rest, rel=1e-5)
        G.lam = 0.0
        assert G() == pytest.approx(first, rel=1e-5)
    assert values["loss"][0] != pytest.approx(values["metric"][0], rel=1e-2)


def test_p_and_s_descend_the_loss_as_ever() -> None:
    """Bit for bit the p and s of upper_objective=loss, while theta goes another way."""
    states = []
    for upper in ("loss", "metric"):
        w, problem = options_world()
        w.method(problem, upper_objective=upper, inner_steps=2, lr_theta=1e-3, lam=2.0).step(0)
        parts = (w.adapters.state("p"), w.adapters.state("s"), dict(w.theta))
        states.append([{name: value.clone() for name, value in part.items()} for part in parts])
    (p, s, theta), (p2, s2, theta2) = states
    assert all(torch.equal(p[k], p2[k]) and torch.equal(s[k], s2[k]) for k in p)
    assert not any(torch.equal(theta[k], theta2[k]) for k in theta)


def test_bilevel_zofo_with_a_metric_of_texts(model_dir: Path, squad: Path, tmp_path: Path) -> None:
    run = finetune(
        str(model_dir), "squad",
        {"name": "bilevel-ablations", "inner_steps": 1, "upper_objective": "metric", "lam": 0.0}, "lora",
        output_dir=tmp_path / "run", max_steps=8, batch_size=4, eval_steps=4, save_steps=8,
        logging_steps=1, overrides=[*settings(squad)[:3], "estimator.shift=copy", f"estimator.eps={SHIFT}"],
    )  # fmt: skip  # the words of one call
    lines = read_rows(run.path / "metrics.jsonl")
    train = [line for line in lines if line["event"] == "train"]
    assert all(-1 <= line["G"] <= 0 for line in train), "lam = 0: the metric alone"
    assert any(line["c"] for line in train)
    assert run.dev["token_f1"] == max(line["token_f1"] for line in lines if line["event"] == "dev")
    assert evaluate(run.path) == pytest.approx(run.test, rel=1e-5)


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("method", "more", "words"),
    [
        ("mezo", ["task.objective=metric"], "task.objective: .*needs estimator.shift=copy"),
        (
            "bilevel-ablations",
            ["method.upper_objective=metric"],
            "method.upper_objective: .*needs estimator.shift=copy",
        ),
        ("fo-peft", ["task.objective=metric"], "a metric has no gradient, and method fo-peft takes first-order steps"),
        ("fo-ft", ["task.objective=metric"], "method fo-ft takes first-order steps"),
        ("two-stage", ["task.objective=metric"], "method two-stage takes first-order steps"),
        ("bilevel-zofo", ["task.objective=metric"], r"first-order steps; .*\(method.upper_objective=metric\)"),
        ("bilevel-fo", ["method.upper_objective=metric"], "bilevel-fo has no departures"),
    ],
)
def test_what_cannot_be(method: str, more: list[str], words: str, model_dir: Path, squad: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        finetune(
            str(model_dir), "squad", method, output_dir=tmp_path / "out", max_steps=22,
            overrides=[f"task.data={squad}", "task.max_new_tokens=6", *more],
        )  # fmt: skip  # the words of one call
    assert not (tmp_path / "out").exists()


def test_pass_at_k_asks_first(model_dir: Path, write_jsonl: Write, tmp_path: Path) -> None:
    row = {"prompt": "def f():\n", "canonical_solution": "    pass\n", "test": "def check(c): pass", "entry_point": "f"}
    write_jsonl("test.jsonl", [{**row, "prompt": f"def f({c}):\n"} for c in "abcdefghij"])
    overrides = [f"task.data={tmp_path}", "task.objective=metric", "estimator.shift=copy", "task.max_new_tokens=3"]
    with pytest.raises(InputError, match=r"pass@k runs what the model writes: give task\.run_generated_code"):
        finetune(str(model_dir), "humaneval", "mezo", output_dir=tmp_path / "out", overrides=overrides)


def test_a_completion_has_no_metric(model_dir: Path, write_jsonl: Write, tmp_path: Path) -> None:
    path = write_jsonl("rows.jsonl", [{"prompt": f"say {i}", "completion": f" {i}"} for i in range(20)])
    with pytest.raises(InputError, match="task rows has no metric; use a task with options or"):
        finetune(str(model_dir), str(path), "mezo", output_dir=tmp_path / "out", overrides=["task.objective=metric"])
