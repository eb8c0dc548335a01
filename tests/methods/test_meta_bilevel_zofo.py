"""Meta-training on small settings: an upper step by hand, Bilevel ZOFO's own code, sampled tasks, journal, resume."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from tests.float64_llama import Wide, gradient, widen
from tests.tiny_bilevel import moved, one_thread
from zofo import evaluate, finetune
from zofo.api.configure import resolve
from zofo.config.instantiate import make_estimator, make_rule
from zofo.data.tokenization import Encoded
from zofo.errors import InputError, RunError
from zofo.train.setup import Session, build
from zofo.zo.journal import read_header, read_records
from zofo.zo.keys import derive
from zofo.zo.point import Point
from zofo.zo.replay import replay

TRAIN = ("trec", "trec-finegrained", "notes:home", "v1.0-mail", "yes_no", "riddles")
TARGET = ("weather", "moods")
HELD = "riddles"
LABELS = {
    "trec": ["number", "person"],
    "trec-finegrained": ["number", "date", "city"],
    "notes:home": ["kitchen", "garden"],
    "v1.0-mail": ["open", "closed", "lost"],
    "yes_no": ["yes", "no"],
    "riddles": ["one", "two"],
    "weather": ["rain", "sun"],
    "moods": ["good", "bad", "calm"],
}
SIZES: dict[str, int] = dict(zip(TRAIN, (12, 9, 15, 24, 10, 9)))
WORDS = ["film", "dog", "great", "dull", "plot", "story", "warm", "one", "two", "word"]


@pytest.fixture(autouse=True)
def few_threads() -> Iterator[None]:
    with one_thread():
        yield


def rows(task: str, n: int) -> list[dict[str, Any]]:
    draw, options = random.Random(task), LABELS[task]
    found = []
    for i in range(n):
        text = f"{task} {i}: " + " ".join(draw.choice(WORDS) for _ in range(2 + i % 4))
        found.append({"task": task, "input": text, "output": options[i % len(options)], "options": options})
    return found


def make_setting(root: Path, train: tuple[str, ...] = TRAIN, held: str = HELD, sizes: dict[str, int] = SIZES) -> Path:
    """A setting's yaml, beside data/ with a directory of each task."""
    for task in (*train, held, *TARGET):
        folder = root / "data" / task
        folder.mkdir(parents=True, exist_ok=True)
        some = rows(task, sizes.get(task, 9))
        (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
        if task in TARGET:
            (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(task, 16)[9:]))
    path = root / "small.yaml"
    every = list(dict.fromkeys((*train, held)))
    path.write_text(yaml.safe_dump({"train": every, "target": list(TARGET), "held_out": [held]}))
    return path


@pytest.fixture(scope="session")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six training tasks, one of them held out, and two targets."""
    return make_setting(tmp_path_factory.mktemp("setting"))


@pytest.fixture(scope="session")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One training task beside the held-out one."""
    return make_setting(tmp_path_factory.mktemp("single"), ("v1.0-mail",))


def sections(model: Path, setting: Path, out: Path, method: dict[str, Any], **more: Any) -> dict[str, Any]:
    task = {"name": str(setting), "data": str(setting.parent / "data"), "test_examples": 5, "dev_examples": 6}
    task |= more.pop("task", {})
    train = {"output_dir": str(out), "max_steps": 12, "eval_steps": 6, "save_steps": 6, "threads": 1}
    train |= more.pop("train", {})
    return {"model": str(model), "task": task, "method": method, "train": train, **more}


META: dict[str, Any] = {
    "name": "meta-bilevel-zofo", "inner_steps": 2, "tasks_per_step": 3, "lr_s": 1e-2, "lr_theta": 1e-5,
}  # fmt: skip


def session(model: Path, setting: Path, method: dict[str, Any] | None = None, **more: Any) -> Session:
    return build(resolve(**sections(model, setting, Path("unused"), {**META, **(method or {})}, **more)))


def train(model: Path, setting: Path, out: Path, method: dict[str, Any], callbacks: Any = (), **more: Any) -> Any:
    from zofo.api.finetune import train as run

    return run(resolve(**sections(model, setting, out, method, **more)), callbacks=callbacks)


def values(tensors: Any) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in tensors.items()}


def same(one: Any, two: Any) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def trees(out: Path) -> dict[str, bytes]:
    """journal, adapters and weights by name, of the last checkpoint and the best."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.suffix in (".bin", ".safetensors") or path.name == "adapter_config.json"
    }


def watch(s: Session) -> dict[str, list[list[Encoded]]]:
    """The batches of each stream, as they are drawn."""
    seen: dict[str, list[list[Encoded]]] = {name: [] for name in s.streams}

    class Watched:
        def __init__(self, name: str, stream: Any) -> None:
            self.name, self.stream = name, stream

        def __iter__(self) -> Any:
            return self

        def __next__(self) -> Any:
            batch = next(self.stream)
            seen[self.name].append(list(batch.source))
            return batch

    watched: dict[str, Any] = {name: Watched(name, stream) for name, stream in s.streams.items()}
    for target in ("data", "data_f", "data_p"):
        if hasattr(s.method, target):
            setattr(s.method, target, watched[{"data": "train", "data_f": "f", "data_p": "p"}[target]])
    return seen


# -------------------------------------------------------------------------------------------------------------- levels


def test_each_task_is_split_by_itself(tiny_model_dir: Path, setting: Path) -> None:
    """1/3 of each task's rows are the upper level's; held-out tasks are dev, targets test."""
    s = session(tiny_model_dir, setting)
    f, p = (Counter(e.example.group for e in s.encoded[name]) for name in ("f", "p"))
    trained = [t for t in TRAIN if t != HELD]
    for task in trained:
        assert f[task] == round(SIZES[task] / 3)
        assert f[task] + p[task] == SIZES[task]
    assert set(f) == set(p) == set(trained) == set(s.problem.tasks)
    ids = [e.example.id for name in ("f", "p") for e in s.encoded[name]]
    assert len(set(ids)) == len(ids) == sum(SIZES[t] for t in trained)
    assert {e.example.group for e in s.encoded["dev"]} == {HELD}
    assert Counter(e.example.group for e in s.encoded["test"]) == dict.fromkeys(TARGET, 5)


def test_a_stratified_split_of_each_task(tiny_model_dir: Path, setting: Path) -> None:
    s = session(tiny_model_dir, setting, {"stratified": True})
    for task in (t for t in TRAIN if t != HELD):
        f, p = (
            Counter(e.example.answers[e.example.gold[0]] for e in s.encoded[n] if e.example.group == task)
            for n in ("f", "p")
        )  # fmt: skip
        for label in LABELS[task]:
            share = f["\n" + label] / (f["\n" + label] + p["\n" + label])
            assert share == pytest.approx(1 / 3, abs=0.17)
        assert sum(f.values()) == round(SIZES[task] / 3)


def test_the_split_of_768(tiny_model_dir: Path, tmp_path: Path) -> None:
    """256 upper and 512 lower of a task with more rows than that."""
    path = make_setting(tmp_path, ("yes_no",), sizes={"yes_no": 800})
    s = session(tiny_model_dir, path)
    assert (len(s.encoded["f"]), len(s.encoded["p"])) == (256, 512)


# ------------------------------------------------------------------------------------------------ an upper step by hand


def reference(s: Session, lam: float) -> Wide:
    import transformers

    config = transformers.AutoConfig.from_pretrained(s.config.model.name)
    return Wide(config, s.config.adapter.alpha / s.config.adapter.r, "lm")


def test_an_upper_step_in_float64(tiny_model_dir: Path, setting: Path) -> None:
    """s_i of the sampled tasks by line 5, c by (9) with each example's own p_i and s_i, p_i by (8)."""
    lam, lr_s, lr_p, lr_theta, inner, eps = 7.0, 0.3, 0.05, 1e-3, 3, 1e-2
    method = {"lam": lam, "lr_s": lr_s, "lr_p": lr_p, "lr_theta": lr_theta, "inner_steps": inner, "optimizer": "sgd"}
    s = session(tiny_model_dir, setting, method, estimator={"name": "spsa", "eps": eps})
    adapters, theta, wide = s.problem.adapters, s.problem.theta, reference(s, lam)
    assert adapters is not None
    generator = torch.Generator().manual_seed(4)
    for name in ("p", "s"):
        for tensor in adapters.parameters(name).values():
            tensor.data += 0.2 * torch.randn(tensor.shape, generator=generator)
    start = widen(theta)
    members: dict[str, dict[str, dict[str, Tensor]]] = {
        name: {
            task: widen({key.partition(": ")[2]: t for key, t in adapters.parameters(name).items()
                         if key.startswith(f"{task}: ")})
            for task in s.problem.tasks
        }
        for name in ("p", "s")
    }  # fmt: skip
    first_theta, first_p = values(theta), values(adapters.parameters("p"))
    seen = watch(s)
    metrics = s.method.step(0)

    def F(at: dict[str, Tensor], some: list[Encoded], of: dict[str, dict[str, Tensor]]) -> Tensor:
        nll, weight = torch.zeros((), dtype=torch.float64), 0
        for e in some:
            tokens = len(e.rows[0].labels)
            nll, weight = nll + wide.loss(at, of[e.example.group], [e]) * tokens, weight + tokens
        return nll / weight

    def grads(value: Tensor, of: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
        flat = [t for task in of for t in of[task].values()]
        found = iter(torch.autograd.grad(value, flat, allow_unused=True))
        return {task: {k: g if (g := next(found)) is not None else torch.zeros_like(t) for k, t in of[task].items()}
                for task in of}  # fmt: skip

    def leaves(of: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
        return {task: {k: t.detach().requires_grad_(True) for k, t in own.items()} for task, own in of.items()}

    f, p = seen["f"], seen["p"]
    assert (len(f), len(p)) == (1, inner + 1)
    chosen = set(s.method.sampled(0))
    assert {e.example.group for batch in (*f, *p) for e in batch} <= chosen
    for t in range(inner):
        at = leaves(members["s"])
        g = grads(F(start, p[t], at), at)
        members["s"] = {k: {n: v.detach() - lr_s * g[k][n] for n, v in own.items()} for k, own in at.items()}
    for key, value in adapters.parameters("s").items():
        task, _, name = key.partition(": ")
        torch.testing.assert_close(value.detach().double(), members["s"][task][name], rtol=1e-5, atol=2e-6)
    z = direction_of(s, 0)

    def G(at: dict[str, Tensor]) -> float:
        with torch.no_grad():
            lower = F(at, p[inner], members["p"]) - F(at, p[inner], members["s"])
            return float(F(at, f[0], members["p"]) + lam * lower)

    c = (G(moved(start, z, eps)) - G(moved(start, z, -eps))) / (2 * eps)
    assert metrics["c"] == pytest.approx(c, rel=2e-4, abs=1e-3)
    assert abs(c) > 0.05
    at = leaves(members["p"])
    g = grads(F(start, f[0], at) + lam * F(start, p[inner], at), at)
    biggest = max(float(t.abs().max()) for own in g.values() for t in own.values())
    for key, value in adapters.parameters("p").items():
        task, _, name = key.partition(": ")
        found = (first_p[key] - value.detach()).double() / lr_p
        torch.testing.assert_close(found, g[task][name], rtol=1e-3, atol=2e-4 * biggest)
        if task not in chosen:
            assert torch.equal(value, first_p[key])
    factor = torch.tensor(float(torch.tensor(-lr_theta * metrics["c"], dtype=torch.float32)))
    for name, value in theta.items():
        assert torch.equal(value, first_theta[name] + factor * z[name])


def direction_of(s: Session, step: int) -> dict[str, Tensor]:
    from zofo.zo.kernels import reference as kernels
    from zofo.zo.keys import tensor_key

    seed = derive(s.problem.seed, "z", step)
    return {n: kernels.signs(seed, tensor_key(n), 0, t.numel()).view(t.shape) for n, t in s.problem.theta.items()}


# ------------------------------------------------------------------------------------------ the same code: bilevel-zofo

PLAIN = {"inner_steps": 2, "lr_s": 1e-2, "lr_theta": 1e-5}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "p_steps": {"method": {"p_steps": 2}},
    "lam0": {"method": {"lam": 0.0}},
    "from_p": {"method": {"s_start": "from_p"}},
    "reset": {"method": {"s_start": "reset"}},
    "p_start": {"method": {"p_start": "s"}},
    "tied": {"method": {"tie_upper": True, "lam_schedule": "linear", "lam_start": 1.0}},
    "independent": {"method": {"independent_z": True}},
    "adam": {"rule": {"name": "adam"}},
    "lozo": {"estimator": {"name": "lozo"}},
    "svrg": {"estimator": {"name": "svrg", "refresh": 2, "anchor_batches": 2}},
    "mask": {"mask": {"name": "random"}},
    "sensitivity": {"mask": {"name": "sensitivity"}},
    "blocks": {"mask": {"name": "blocks"}},
    "checkpointing": {"train": {"gradient_checkpointing": True, "micro_batch_size": 2}},
    "options": {"task": {"objective": "options"}, "train": {"micro_batch_size": 3}},
    "stratified": {"method": {"stratified": True}},
}


@pytest.mark.parametrize("case", CASES)
def test_one_task_is_bilevel_zofo(case: str, tiny_model_dir: Path, single: Path) -> None:
    """With one training task a pair for each task is one pair: theta, p and s are Bilevel ZOFO's bit for bit."""
    ends = []
    for method in ({"name": "meta-bilevel-zofo", "tasks_per_step": 5}, {"name": "bilevel-zofo"}):
        more = {key: dict(value) for key, value in CASES[case].items()}
        own = {**PLAIN, **more.pop("method", {}), **method}
        more["train"] = {"batch_size": 4, **more.get("train", {})}
        s = build(resolve(**sections(tiny_model_dir, single, Path("unused"), own, **more)))
        found = [s.method.step(k) for k in range(4)]
        adapters = s.problem.adapters
        assert adapters is not None
        mine = {f"{n} {key.rpartition(': ')[2]}": t for n in "ps" for key, t in adapters.parameters(n).items()}
        ends.append((found, values(s.problem.theta), values(mine), s.problem.loss.meter.state_dict()))
    (m, theta, pair, meter), (other, theta_b, pair_b, meter_b) = ends
    assert [x["c"] for x in m] == [x["c"] for x in other]
    assert same(theta, theta_b)
    assert same(pair, pair_b)
    assert m == other
    assert meter == meter_b


def test_apart_draws_each_task_its_own_s(tiny_model_dir: Path, setting: Path) -> None:
    s = session(tiny_model_dir, setting, {"apart": True, "s_start": "reset"})
    adapters = s.problem.adapters
    assert adapters is not None
    p, s_ = values(adapters.parameters("p")), values(adapters.parameters("s"))
    drawn = [k for k in p if "lora_A" in k]
    assert all(not torch.equal(p[k], s_[k]) for k in drawn)
    firsts = [s_[next(k for k in drawn if k.startswith(f"{t}: "))] for t in s.problem.tasks]
    assert all(not torch.equal(firsts[0], other) for other in firsts[1:])
    assert same(s.method.initial, s_)
    s.method.step(0)


@pytest.mark.parametrize("case", ["plain", "adam", "svrg", "p_steps"])
def test_one_shared_pair_is_bilevel_zofo_on_the_same_batches(case: str, tiny_model_dir: Path, setting: Path) -> None:
    more = {key: dict(value) for key, value in CASES[case].items()}
    own = {**PLAIN, **more.pop("method", {})}
    ours = session(tiny_model_dir, setting, {**own, "adapters": "shared"}, **more)
    seen = watch(ours)
    found = [ours.method.step(k) for k in range(4)]
    theirs = build(resolve(**sections(
        tiny_model_dir, setting, Path("unused"), {"name": "bilevel-zofo", **own}, **more,
    )))  # fmt: skip
    from zofo.data.batch import collate

    for name, target in (("f", "data_f"), ("p", "data_p")):
        setattr(theirs.method, target, iter([collate(batch, ours.loaded.pad_id) for batch in seen[name]]))
    assert [theirs.method.step(k) for k in range(4)] == found
    assert same(values(ours.problem.theta), values(theirs.problem.theta))
    a, b = ours.problem.adapters, theirs.problem.adapters
    assert a is not None
    assert b is not None
    assert all(same(values(a.parameters(n)), values(b.parameters(n))) for n in "ps")
    groups = [{e.example.group for e in batch} for batch in seen["p"]]
    assert any(len(g) > 1 for g in groups)


# ------------------------------------------------------------------------------------------------------- sampled tasks


def test_sampled_tasks(tiny_model_dir: Path, setting: Path) -> None:
    """Distinct, keyed by the seed and k, and all come up; T + 1 batches of D_p and one of D_f hold no others."""
    s = session(tiny_model_dir, setting, {"tasks_per_step": 3})
    again = session(tiny_model_dir, setting, {"tasks_per_step": 3})
    seen, counts = watch(s), Counter[str]()
    for k in range(12):
        chosen = s.method.sampled(k)
        assert len(set(chosen)) == len(chosen) == 3
        assert set(chosen) <= set(s.problem.tasks)
        assert again.method.sampled(k) == chosen
        counts.update(chosen)
        for batches in seen.values():
            batches.clear()
        s.method.step(k)
        assert (len(seen["f"]), len(seen["p"])) == (1, 3)
        groups = Counter(e.example.group for batch in seen["p"] for e in batch)
        assert set(groups) == set(chosen)  # 12 turns of 3 tasks
        assert set(groups.values()) == {4}
        assert {e.example.group for e in seen["f"][0]} == set(chosen)
        levels = {name: {e.example.id for e in s.encoded[name]} for name in ("f", "p")}
        assert all(e.example.id in levels[n] for n in ("f", "p") for batch in seen[n] for e in batch)
    assert set(counts) == set(s.problem.tasks)
    many = Counter(t for k in range(400) for t in s.method.sampled(k))
    assert max(many.values()) < 1.25 * min(many.values())
    other = session(tiny_model_dir, setting, {"tasks_per_step": 3}, train={"seed": 1})
    assert any(other.method.sampled(k) != s.method.sampled(k) for k in range(5))


def test_five_by_default_and_all_where_there_are_fewer(tiny_model_dir: Path, setting: Path, single: Path) -> None:
    method = {k: v for k, v in META.items() if k != "tasks_per_step"}
    s = build(resolve(**sections(tiny_model_dir, setting, Path("unused"), method)))
    assert s.config.method.tasks_per_step == 5
    assert sorted(s.method.sampled(0)) == sorted(s.problem.tasks)
    assert s.config.train.batch_size == 4
    assert s.config.task.train_examples == 768
    few = session(tiny_model_dir, single, {"tasks_per_step": 9})
    assert few.method.sampled(3) == ["v1.0-mail"]
    few.method.step(0)


def test_members_of_tasks_that_were_not_sampled_rest(tiny_model_dir: Path, setting: Path) -> None:
    s = session(tiny_model_dir, setting, {"tasks_per_step": 2, "lr_s": 1e-2})
    adapters = s.problem.adapters
    assert adapters is not None
    times: Counter[str] = Counter()
    for k in range(5):
        before = {n: values(adapters.parameters(n)) for n in "ps"}
        chosen = set(s.method.sampled(k))
        s.method.step(k)
        times.update(chosen)
        for n in "ps":
            for key, value in adapters.parameters(n).items():
                task = key.partition(": ")[0]
                if task not in chosen:
                    assert torch.equal(value, before[n][key])
    steps = {key.partition(": ")[0]: int(v["step"]) for key, v in s.method.state_dict()["s"].items()}
    assert set(steps) == set(times)
    assert all(steps[t] == 2 * times[t] for t in times)  # T = 2 lower steps, all with both tasks in the batch


# --------------------------------------------------------------------------------------- journal, resume, skipped steps


class Cut(Exception):
    """Stands for a kill: nothing of the loop's own saving is done."""


def cutter(at: int) -> Any:
    from transformers import TrainerCallback

    class Cutter(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step >= at:
                raise Cut

    return Cutter()


RUNS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "bank": (META, {}),
    "shared": ({**META, "adapters": "shared"}, {}),
    "bank-adam-prefix": ({**META, "s_start": "from_p"}, {"rule": {"name": "adam"}, "adapter": {"name": "prefix"}}),
    "bank-svrg": (META, {"estimator": {"name": "svrg", "refresh": 2, "anchor_batches": 2}}),
    "bank-blocks": (META, {"mask": {"name": "blocks"}}),
    "snapshots": (META, {"rule": {"name": "adam"}, "train": {"max_replay_seconds": 0.0}}),
    "metaicl": ({"name": "metaicl", "lr": 1e-3}, {"task": {"num_fewshot": 2}, "train": {"batch_size": 3}}),
    "multi-task-ft": ({"name": "multi-task-ft", "lr": 1e-3}, {"train": {"batch_size": 3}}),
    "bilevel-zofo": ({"name": "bilevel-zofo", **PLAIN}, {"train": {"batch_size": 3}}),
    "mezo": ({"name": "mezo", "lr": 1e-4}, {"train": {"batch_size": 3}}),
    "fo-peft": ({"name": "fo-peft"}, {"train": {"batch_size": 3}}),
    "fo-ft": ({"name": "fo-ft", "lr": 1e-3}, {"train": {"batch_size": 3}}),
}


@pytest.mark.parametrize("name", RUNS)
def test_cut_and_resumed(name: str, tiny_model_dir: Path, setting: Path, tmp_path: Path) -> None:
    """Journal, adapters, optimizers and numbers of a run that was cut between two checkpoints are those of one that was
    not; the journal alone gives theta; the deployed numbers come back from the run's directory."""
    method, more = RUNS[name]

    def options() -> dict[str, Any]:
        return {key: dict(value) for key, value in more.items()}

    whole = train(tiny_model_dir, setting, tmp_path / "whole", method, **options())
    out = tmp_path / "cut"
    with pytest.raises(Cut):
        train(tiny_model_dir, setting, out, method, [cutter(9)], **options())
    assert not (out / "run.json").exists()
    again = options()
    again["train"] = {**again.get("train", {}), "resume": "latest"}
    resumed = train(tiny_model_dir, setting, out, method, **again)
    assert resumed.test_by_candidate == whole.test_by_candidate
    a, b = trees(tmp_path / "whole"), trees(out)
    assert a.keys() == b.keys()
    assert [key for key in a if a[key] != b[key]] == []
    assert any(key.endswith(".safetensors") for key in a)
    if (out / "journal.bin").exists():
        s = build(resolve(**sections(tiny_model_dir, setting, out, method, **options())))
        if s.method.theta_of == "backbone":
            header, start = read_header(out / "journal.bin")
            count = replay(s.problem.theta, make_estimator(s.config), make_rule(s.config),
                           read_records(out / "journal.bin", start))  # fmt: skip
            assert count == whole.info["steps"]["upper"] > 0
            assert header["seed"] == 0
            if name == "bank":
                direct = build(resolve(**sections(tiny_model_dir, setting, out, method, **options())))
                for k in range(count):
                    direct.method.step(k)
                assert direct.problem.theta.sha256() == s.problem.theta.sha256()
    if name in ("bank", "shared", "metaicl", "fo-peft"):
        assert evaluate(out) == pytest.approx(whole.test, rel=1e-6)


def test_what_a_bank_deploys(tiny_model_dir: Path, setting: Path, tmp_path: Path) -> None:
    """theta alone, and there is no s for a new task; a shared pair: theta, or s where dev prefers it."""
    bank = train(tiny_model_dir, setting, tmp_path / "bank", META)
    assert bank.deployed == "theta"
    assert set(bank.info["test"]) == {"theta"}
    out = bank.export(tmp_path / "exported")
    assert (out / "model.safetensors").is_file()
    with pytest.raises(InputError):
        bank.export(tmp_path / "no", adapter="s")
    with pytest.raises(InputError):
        evaluate(tmp_path / "bank", adapter="s")
    shared = train(tiny_model_dir, setting, tmp_path / "shared", {**META, "adapters": "shared", "lr_s": 3e-2})
    assert set(shared.info["test"]) == {"theta", "s"}
    assert shared.deployed == min(("theta", "s"), key=lambda n: shared.info["dev"][n]["loss"])
    only = train(tiny_model_dir, setting, tmp_path / "s", {**META, "adapters": "shared", "deploy": "s"})
    assert only.deployed == "s"


@pytest.mark.parametrize("adapters", ["per-task", "shared"])
def test_a_lower_step_that_is_not_finite_is_skipped(adapters: str, tiny_model_dir: Path, setting: Path) -> None:
    s = session(tiny_model_dir, setting, {"adapters": adapters}, train={"on_nonfinite": "skip"})
    a = s.problem.adapters
    assert a is not None
    state = {"bad": False}
    for tensor in a.parameters("s").values():
        tensor.register_hook(lambda g: g * float("inf") if state["bad"] else g)
    s.method.step(0)
    before, theta = values(a.parameters("s")), s.problem.theta.sha256()
    state["bad"] = True
    s.method.step(1)
    assert s.problem.skipped == 2
    assert same(values(a.parameters("s")), before)
    assert s.problem.theta.sha256() != theta  # the upper step is sound
    assert all(p.grad is None for n in "ps" for p in a.parameters(n).values())
    state["bad"] = False
    s.method.step(2)
    assert s.problem.skipped == 2


def test_an_upper_step_that_is_not_finite(tiny_model_dir: Path, setting: Path) -> None:
    from zofo.errors import NonFiniteError

    for policy in ("skip", "stop"):
        s = session(tiny_model_dir, setting, train={"on_nonfinite": policy})
        a = s.problem.adapters
        assert a is not None
        for tensor in a.parameters("p").values():
            tensor.register_hook(lambda g: g * float("nan"))
        before, theta = values(a.parameters("p")), s.problem.theta.sha256()
        if policy == "skip":
            s.method.step(0)
            assert s.problem.skipped == 1
        else:
            with pytest.raises(NonFiniteError):
                s.method.step(0)
        assert same(values(a.parameters("p")), before)
        assert s.problem.theta.sha256() == theta


@pytest.mark.parametrize("name", ["shared", "metaicl"])
def test_resumed_without_one_of_its_tasks(name: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    """The data changed between two sittings: a line that names the task, and no traceback."""
    path = make_setting(tmp_path, ("trec", "yes_no", "v1.0-mail"))
    method, more = RUNS[name]
    out = tmp_path / "out"
    with pytest.raises(Cut):
        train(tiny_model_dir, path, out, method, [cutter(9)], **{k: dict(v) for k, v in more.items()})
    shutil.rmtree(path.parent / "data" / "yes_no")
    again = {k: dict(v) for k, v in more.items()}
    again["train"] = {**again.get("train", {}), "resume": "latest"}
    with pytest.raises(InputError, match=r"yes.no"):
        train(tiny_model_dir, path, out, method, **again)


@pytest.mark.parametrize("name", ["bank", "metaicl"])
def test_resumed_with_one_more_task(name: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    """It would go on with other tasks than it began with, and be no run that anyone could repeat."""
    path = make_setting(tmp_path, ("trec", "yes_no", "v1.0-mail"))
    method, more = RUNS[name]
    out, folder = tmp_path / "out", path.parent / "data" / "yes_no"
    folder.rename(tmp_path / "aside")
    with pytest.raises(Cut):
        train(tiny_model_dir, path, out, method, [cutter(9)], **{k: dict(v) for k, v in more.items()})
    (tmp_path / "aside").rename(folder)
    again = {k: dict(v) for k, v in more.items()}
    again["train"] = {**again.get("train", {}), "resume": "latest"}
    with pytest.raises(InputError, match=r"yes.no"):
        train(tiny_model_dir, path, out, method, **again)


# ---------------------------------------------------------------------------------------- metaicl and multi-task tuning


def test_metaicl_shows_k_rows_of_the_same_task(tiny_model_dir: Path, setting: Path, tiny_tokenizer: Any) -> None:
    method = {"name": "metaicl", "lr": 1e-3}
    s = build(resolve(**sections(tiny_model_dir, setting, Path("unused"), method, task={"num_fewshot": 2})))
    by_task = {t: {(r["input"], r["output"]) for r in rows(t, SIZES[t])} for t in TRAIN}
    assert len(s.data.train) == sum(SIZES[t] for t in TRAIN if t != HELD)
    for e in s.data.train:
        *shown, own = e.prompt.split("\n\n\n")
        assert len(shown) == 2
        pairs = [tuple(text.rsplit("\n", 1)) for text in shown]
        assert set(pairs) <= by_task[e.group]
        assert len(set(pairs)) == 2
        answer = e.answers[e.gold[0]]
        assert (own, answer.removeprefix("\n")) in by_task[e.group]
        assert (own, answer.removeprefix("\n")) not in pairs
    sets = {e.prompt.rpartition("\n\n\n")[0] for e in s.data.train if e.group == "v1.0-mail"}
    assert len(sets) > 12  # a draw for each example
    for e in s.encoded["train"]:  # the loss is on the output alone
        (row,) = e.rows
        text = tiny_tokenizer.decode([token for _, token, _ in row.labels])
        assert text.strip() == e.example.answers[e.example.gold[0]].strip()
        assert [t for t, _, _ in row.labels] == list(range(row.labels[0][0], len(row.ids)))
    assert all(e.prompt.count("\n\n\n") == 2 for e in (*s.data.dev, *s.data.test))
    assert s.config.train.batch_size == 8
    assert set(Counter(e.example.group for e in next(s.streams["train"]).source).values()) <= {1, 2}


def test_metaicl_channel(tiny_model_dir: Path, setting: Path, tiny_tokenizer: Any) -> None:
    """The loss is on the input, given the output."""
    method = {"name": "metaicl", "lr": 1e-3}
    task = {"num_fewshot": 2, "template": "channel"}
    s = build(resolve(**sections(tiny_model_dir, setting, Path("unused"), method, task=task)))
    inputs = {t: {r["input"]: r["output"] for r in rows(t, SIZES[t])} for t in TRAIN}
    for e in s.encoded["train"]:
        (row,) = e.rows
        scored = tiny_tokenizer.decode([token for _, token, _ in row.labels]).strip()
        assert scored in inputs[e.example.group]
        first = row.labels[0][0]
        before = tiny_tokenizer.decode(row.ids[: first + 1])
        assert before.rstrip().endswith(inputs[e.example.group][scored])
        assert before.count("\n\n\n") == 2
    assert s.method.step(0)["loss"] > 0


def test_defaults_of_metaicl_and_multi_task_ft(tiny_model_dir: Path, setting: Path) -> None:
    icl = resolve(**sections(tiny_model_dir, setting, Path("unused"), {"name": "metaicl"}))
    assert (icl.task.num_fewshot, icl.train.batch_size, icl.task.train_examples) == (4, 8, 768)
    plain = resolve(**sections(tiny_model_dir, setting, Path("unused"), {"name": "multi-task-ft"}))
    assert (plain.task.num_fewshot, plain.task.train_examples) == (0, 768)
    s = build(plain)
    assert all("\n\n\n" not in e.prompt for e in s.data.train)


@pytest.mark.parametrize(
    ("method", "shots", "message"),
    [("multi-task-ft", 2, "this is method metaicl"), ("metaicl", 0, "this is method multi-task-ft")],
)
def test_demonstrations_belong_to_metaicl(
    method: str, shots: int, message: str, tiny_model_dir: Path, setting: Path
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        resolve(**sections(tiny_model_dir, setting, Path("u"), {"name": method}, task={"num_fewshot": shots}))
    assert "task.num_fewshot" in str(caught.value)


@pytest.mark.parametrize("method", ["meta-bilevel-zofo", "metaicl", "multi-task-ft"])
def test_one_task_is_refused(method: str, tiny_model_dir: Path, sentiment_file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="trains on many tasks") as caught:
        finetune(
            str(tiny_model_dir), str(sentiment_file), method, output_dir=tmp_path / "out", max_steps=22,
            overrides=["task.train_examples=20"],
        )  # fmt: skip
    assert "class-to-class" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_metaicl_in_float64(tiny_model_dir: Path, setting: Path) -> None:
    """One SGD step of every weight: the gradient of sum over tokens / tokens of a batch of many tasks."""
    method = {"name": "metaicl", "lr": 0.5, "optimizer": "sgd"}
    s = build(resolve(**sections(
        tiny_model_dir, setting, Path("unused"), method, task={"num_fewshot": 1}, train={"batch_size": 3},
    )))  # fmt: skip
    import transformers

    wide = Wide(transformers.AutoConfig.from_pretrained(tiny_model_dir), 1.0, "lm")
    seen, before = watch(s), values(s.problem.theta)
    at = {name: t.requires_grad_(True) for name, t in widen(s.problem.theta).items()}
    s.method.step(0)
    (batch,) = seen["train"]
    assert len({e.example.group for e in batch}) == 3
    want = dict(zip(at, gradient(wide.loss(at, None, batch), list(at.values()))))
    for name, value in s.problem.theta.items():
        scale = float(want[name].abs().max())
        torch.testing.assert_close((before[name] - value).double() / 0.5, want[name], rtol=2e-3, atol=3e-4 * scale)


# ------------------------------------------------------------------------------------------------------------- presets


def test_preset_meta(tiny_model_dir: Path, setting: Path) -> None:
    c = resolve(
        preset="meta", model=str(tiny_model_dir), train={"output_dir": "u"},
        task={"name": str(setting), "data": str(setting.parent / "data")},
    )  # fmt: skip
    m = c.method
    assert (c.names["method"], m.tasks_per_step, m.inner_steps, m.adapters) == ("meta-bilevel-zofo", 5, 10, "per-task")
    assert (m.lr_s, m.lr_theta, m.tie_upper, m.optimizer) == (1e-6, 1e-6, True, "adamw")
    assert m.upper_share == pytest.approx(1 / 3)
    assert (c.names["adapter"], c.names["estimator"], c.names["rule"]) == ("lora", "spsa", "adam")
    assert (c.estimator.eps, c.estimator.law) == (1e-3, "gaussian")
    assert (c.train.max_steps, c.train.batch_size, c.task.train_examples) == (50000, 4, 768)
    shared = resolve(
        None, ["method.adapters=shared"], "meta", model=str(tiny_model_dir), train={"output_dir": "u"},
        task={"name": str(setting), "data": str(setting.parent / "data")},
    )  # fmt: skip
    assert shared.method.adapters == "shared"


def test_preset_metaicl(tiny_model_dir: Path, setting: Path) -> None:
    c = resolve(
        preset="metaicl", model=str(tiny_model_dir), train={"output_dir": "u"},
        task={"name": str(setting), "data": str(setting.parent / "data")},
    )  # fmt: skip
    assert (c.names["method"], c.method.lr, c.task.num_fewshot) == ("metaicl", 1e-5, 4)
    assert (c.train.max_steps, c.train.batch_size, c.task.train_examples) == (30000, 8, 768)


def test_presets_run(tiny_model_dir: Path, setting: Path, tmp_path: Path) -> None:
    """One iteration of `meta`, two steps of `metaicl`, at the presets' own rates."""
    task = [f"task.data={setting.parent / 'data'}", "task.test_examples=4"]
    run = finetune(
        str(tiny_model_dir), str(setting), None, preset="meta", output_dir=tmp_path / "a", max_steps=11, overrides=task,  # pyright: ignore
    )  # fmt: skip
    assert run.info["steps"] == {"lower": 10, "upper": 1}
    run = finetune(
        str(tiny_model_dir), str(setting), None, preset="metaicl", output_dir=tmp_path / "b", max_steps=2,  # pyright: ignore
        overrides=[*task, "task.num_fewshot=2"],
    )  # fmt: skip
    assert run.info["steps"] == {"lower": 0, "upper": 2}


# ----------------------------------------------------------------------------------------------------------- bad input


def test_a_task_too_small_to_split_is_named(tiny_model_dir: Path, tmp_path: Path) -> None:
    path = make_setting(tmp_path, ("trec", "yes_no"), sizes={"yes_no": 1})
    with pytest.raises(InputError) as caught:
        session(tiny_model_dir, path)
    assert "yes_no" in str(caught.value)


def test_two_tasks_whose_names_differ_in_a_dot(tiny_model_dir: Path, tmp_path: Path) -> None:
    LABELS.update({"notes.a": ["x", "y"]})
    path = make_setting(tmp_path, ("notes.a", "yes_no"))
    session(tiny_model_dir, path).method.step(0)


def test_a_run_that_fails_says_where(tiny_model_dir: Path, setting: Path, tmp_path: Path) -> None:
    """A rate at which theta explodes: one line, and theta is intact."""
    with pytest.raises(RunError, match="stopped before that update"):
        train(tiny_model_dir, setting, tmp_path / "out", {**META, "lr_s": 1e30}, train={"max_steps": 30})


def test_options_of_a_bank_that_contradict_each_other(tiny_model_dir: Path, setting: Path) -> None:
    for method, message in (
        ({"deploy": "s"}, "adapters=shared"), ({"upper_data": "dev"}, "leave it at train"),
        ({"upper_objective": "metric"}, "leave it at loss"), ({"tasks_per_step": 0}, "tasks_per_step"),
        ({"deploy": "p"}, "deploy"), ({"adapters": "one"}, "adapters"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            session(tiny_model_dir, setting, method)


def test_theta_is_the_only_point_with_a_bank(tiny_model_dir: Path, setting: Path) -> None:
    """No adapter is merged into theta, and theta never gets a gradient."""
    s = session(tiny_model_dir, setting)
    assert isinstance(s.problem.theta, Point)
    s.method.step(0)
    assert all(t.grad is None and not t.requires_grad for t in s.problem.theta.values())
    assert not any("lora" in name for name in s.problem.theta)
