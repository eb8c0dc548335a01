"""The meta-test: what each way measures, that tunings do not touch each other, and the numbers by hand."""

from __future__ import annotations

import hashlib
import json
import logging
import random
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import zofo
from tests.conftest import NEGATIVE, POSITIVE
from zofo.api.metatest import protocol as protocol_module
from zofo.api.metatest.plan import SEEDS, Plan
from zofo.api.metatest.results import summary
from zofo.api.metatest.store import Store
from zofo.api.metatest.subject import Subject, open_subject
from zofo.cli import main as cli
from zofo.errors import InputError, ZofoError

JsonRow = dict[str, Any]

# --------------------------------------------------------------------------------------------------- a small setting

KINDS = {"food": ["bread", "cheese", "soup"], "tool": ["saw", "drill", "axe"], "sport": ["golf", "chess", "judo"]}


def _row(task: str, text: str, output: str, options: Sequence[str]) -> JsonRow:
    return {"task": task, "input": text, "output": output, "options": list(options)}


def mood(task: str, n: int, seed: int, options: Sequence[str] = ("terrible", "great")) -> list[JsonRow]:
    """Two classes in turn; no two rows are the same."""
    draw, found = random.Random(f"{task}/{seed}"), []
    for i in range(n):
        words = (NEGATIVE, POSITIVE)[i % 2]
        found.append(_row(task, f"{draw.choice(words)}, {draw.choice(words)} {seed % 97}.{i}", options[i % 2], options))
    return found


def kinds(task: str, n: int, seed: int) -> list[JsonRow]:
    """Three classes; of `sport` there are three rows in every 16."""
    draw, found = random.Random(f"{task}/{seed}"), []
    for i in range(n):
        label = "sport" if i % 16 in (2, 7, 12) else ("food", "tool")[i % 2]
        found.append(_row(task, f"{draw.choice(KINDS[label])} {seed % 97}.{i}", label, list(KINDS)))
    return found


def quiz(task: str, n: int, seed: int) -> list[JsonRow]:
    """Each row has its own three options."""
    draw, found = random.Random(f"{task}/{seed}"), []
    for i in range(n):
        label = draw.choice(list(KINDS))
        options = [draw.choice(KINDS[kind]) for kind in KINDS]
        found.append(_row(task, f"a {label} {seed % 97}.{i}", options[list(KINDS).index(label)], options))
    return found


def saga(task: str, n: int, seed: int) -> list[JsonRow]:
    return [_row(task, f"day {i} of {seed % 97}", f"it was {POSITIVE[i % 6]}", []) for i in range(n)]


def write(path: Path, rows: Iterable[JsonRow]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def metaicl_form(folder: Path, make: Callable[[str, int, int], list[JsonRow]], tests: int = 12) -> None:
    """16 train rows for each of MetaICL's seeds, and the same test rows with each."""
    for seed in SEEDS:
        write(folder / f"{folder.name}_16_{seed}_train.jsonl", make(folder.name, 16, seed))
        write(folder / f"{folder.name}_16_{seed}_test.jsonl", make(folder.name, tests, 1))


SETTING = {
    "description": "small tasks in two domains",
    "train": ["mood", "sort", "saga", "pick"],
    "target": ["film", "kind", "quiz", "absent"],
    "unseen_domain": ["quiz"],
    "held_out": ["sort"],
}


def make_setting(folder: Path, **changes: Any) -> Path:
    """setting.yaml and the directory `data` beside it. Returns the file."""
    data = folder / "data"
    write(data / "mood" / "mood_16384_100_train.jsonl", mood("mood", 40, 5))
    write(data / "sort" / "train.jsonl", kinds("sort", 48, 6))
    write(data / "saga" / "train.jsonl", saga("saga", 30, 7))
    write(data / "pick" / "train.jsonl", quiz("pick", 40, 8))
    write(data / "pick" / "test.jsonl", quiz("pick", 10, 9))
    metaicl_form(data / "film", mood)
    metaicl_form(data / "kind", kinds)
    write(data / "quiz" / "train.jsonl", quiz("quiz", 30, 10))
    write(data / "quiz" / "test.jsonl", quiz("quiz", 12, 11))
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in {**SETTING, **changes}.items() if v is not None}))
    return path


TRAIN = [
    "task.train_examples=18", "task.dev_examples=6", "task.test_examples=6", "train.max_steps=6", "train.eval_steps=6",
    "train.save_steps=6", "train.batch_size=3", "train.threads=1", "train.logging_steps=3",
]  # fmt: skip
BILEVEL = ["method.inner_steps=2", "method.tasks_per_step=2", "method.lr_s=3e-2", "method.lr_theta=1e-3"]
LORA = ["--adapter", "lora", "adapter.r=2"]
METHODS = {
    "bank": ["--method", "meta-bilevel-zofo", *BILEVEL, *LORA],
    "shared": ["--method", "meta-bilevel-zofo", *BILEVEL, *LORA, "method.adapters=shared"],
    "soft": ["--method", "meta-bilevel-zofo", *BILEVEL, "--adapter", "prompt", "method.adapters=shared"],
    "metaicl": ["--method", "metaicl", "task.num_fewshot=2", "method.lr=1e-3"],
    "channel": ["--method", "metaicl", "task.num_fewshot=2", "method.lr=1e-3", "task.template=channel"],
    "multi-task-ft": ["--method", "multi-task-ft", "method.lr=1e-3"],
    "mezo": ["--method", "mezo", "method.lr=1e-3"],
    "mezo-lora": ["--method", "mezo", *LORA, "method.lr=1e-2"],
    "fo-ft": ["--method", "fo-ft", "method.lr=1e-3"],
    "fo-peft": ["--method", "fo-peft", *LORA, "method.lr=1e-1"],
    "bilevel-zofo": ["--method", "bilevel-zofo", *BILEVEL[:1], *BILEVEL[2:], *LORA],
    "icl": ["--method", "icl", "task.num_fewshot=2"],
    "zero-shot": ["--method", "zero-shot"],
}


def train(model: Path, setting: Path, out: Path, name: str, *more: str) -> Path:
    fixed = ["--model", str(model), "--task", str(setting), "--data", str(setting.parent / "data")]
    assert cli.run(["train", *fixed, "--output-dir", str(out), *METHODS[name], *TRAIN, *more]) == 0
    return out


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The setting's file. Read only."""
    return make_setting(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def run_of(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path, small: Path) -> Callable[[str], Path]:
    """run_of(name) -> the directory of a short run, trained on first need. Read only."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = train(tiny_model_dir, small, tmp_path_factory.mktemp("runs") / name, name)
        return made[name]

    return get


def no_times(part: JsonRow) -> JsonRow:
    return {key: value for key, value in part.items() if not key.endswith("seconds")}


def parts_in(out: Path) -> dict[str, JsonRow]:
    folder = out / "parts"
    return {str(p.relative_to(folder)): no_times(json.loads(p.read_text())) for p in sorted(folder.rglob("*.json"))}


def scores(result: JsonRow) -> JsonRow:
    """What of a result must be equal."""
    ways = {
        way: {k: v for k, v in values.items() if k != "seconds_per_example"} for way, values in result["ways"].items()
    }
    return {**result, "ways": ways}


def predictions(out: Path, way: str, task: str, seed: int) -> list[JsonRow]:
    return [json.loads(line) for line in (out / "predictions" / way / f"{task}-{seed}.jsonl").open()]


def rows_of(path: Path) -> list[JsonRow]:
    return [json.loads(line) for line in path.open()]


def opened(run: Path, setting: Path, plan: Plan, out: Path | None = None) -> protocol_module.Protocol:
    """A protocol on a run, as `zofo.meta_test` makes it, so that a test can reach into it."""
    from zofo.config.resolve import load
    from zofo.data.multitask.setting import find_setting, open_setting

    config, found = load(run / "config.yaml"), find_setting(str(setting))
    assert found is not None
    opened = open_setting(found, setting.parent / "data", 1, config.train.seed)
    subject = open_subject(run, config, plan.ways, 32, config.train.seed)
    return protocol_module.Protocol(subject, opened, config.task, plan, config.train.seed, Store(out))


def digest(tensors: Iterable[torch.Tensor]) -> str:
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


def theta_of(subject: Subject) -> dict[str, torch.Tensor]:
    """The backbone's tensors: all but those of the adapter."""
    own = {id(p) for p in subject.adapters.parameters("tuned").values()} if subject.adapters else set()
    return {name: p for name, p in subject.loss.model.named_parameters() if id(p) not in own}


# ------------------------------------------------------------------------------------------------ the subject restored

TWO = Plan(("zero-shot", "tuned", "tuned-fresh"), seeds=(100, 13), rates=(3e-2,), steps=3)


@pytest.mark.parametrize("name", ["bank", "shared", "soft"])
def test_theta_does_not_move(name: str, run_of: Any, small: Path) -> None:
    protocol = opened(run_of(name), small, TWO)
    before = {key: value.clone() for key, value in theta_of(protocol.subject).items()}
    buffers = digest(protocol.subject.loss.model.buffers())
    protocol.run()
    after = theta_of(protocol.subject)
    assert len(before) == len(after) > 10
    for key, value in before.items():
        assert torch.equal(value, after[key]), key
    assert digest(protocol.subject.loss.model.buffers()) == buffers


def test_theta_is_that_of_the_run_and_no_base(run_of: Any, small: Path, tiny_model_dir: Path) -> None:
    """The run's best theta: the plain model's weights are others."""
    model, _ = zofo.load(run_of("bank"), adapter="theta")
    base, _ = zofo.load(tiny_model_dir)
    protocol = opened(run_of("bank"), small, Plan(("zero-shot",)))
    own = dict(protocol.subject.loss.model.named_parameters())
    theirs = dict(model.named_parameters())
    assert all(torch.equal(own[key], theirs[key]) for key in theirs)
    assert any(not torch.equal(own[key], value) for key, value in base.named_parameters())


@pytest.mark.parametrize("name", ["bank", "shared", "soft"])
def test_zero_shot_after_tunings_is_zero_shot_before(name: str, run_of: Any, small: Path) -> None:
    """Bit for bit, and equal to a meta-test that has no adapter at all."""
    plan = Plan(("zero-shot", "tuned", "tuned-fresh"), seeds=(100,), rates=(1e-1,), steps=4)
    protocol = opened(run_of(name), small, plan)
    pool = protocol.setting.target["film"]
    before = no_times(protocol.part("zero-shot", pool, 100, None))
    tuned = [no_times(protocol.part(way, pool, 100, 1e-1)) for way in ("tuned", "tuned-fresh")]
    assert all(part["loss"] != before["loss"] for part in tuned), "the tunings did something"
    assert no_times(protocol.part("zero-shot", pool, 100, None)) == before
    bare = opened(run_of(name), small, Plan(("zero-shot",)))
    assert bare.subject.adapters is None
    assert no_times(bare.part("zero-shot", bare.setting.target["film"], 100, None)) == before


@pytest.mark.parametrize("name", ["bank", "shared"])
def test_every_part_has_the_same_numbers_alone_and_in_any_order(name: str, run_of: Any, small: Path) -> None:
    run, every = run_of(name), opened(run_of(name), small, TWO)
    first = {(p["way"], p["task"], p["seed"]): no_times(p) for p in every.run()}
    assert len(first) == 3 * (1 + 2 + 2)
    assert len({p["loss"] for p in first.values()}) == len(first), "no two are the same by accident"

    turned = Plan(("tuned-fresh", "tuned", "zero-shot"), seeds=(13, 100), rates=(3e-2,), steps=3)
    other = opened(run, small, turned)
    other.setting.target = dict(reversed(list(other.setting.target.items())))
    for part in other.run():
        key = (part["way"], part["task"], 100 if part["way"] == "zero-shot" else part["seed"])
        assert {**no_times(part), "seed": key[2]} == first[key]

    alone = opened(run, small, Plan(("tuned",), seeds=(13,), rates=(3e-2,), steps=3))
    assert no_times(alone.part("tuned", alone.setting.target["quiz"], 13, 3e-2)) == first["tuned", "quiz", 13]


def test_tuning_twice_gives_the_same_numbers(run_of: Any, small: Path) -> None:
    """No moment, step count or gradient of the first is left."""
    protocol = opened(run_of("shared"), small, TWO)
    pool = protocol.setting.target["kind"]
    one = no_times(protocol.part("tuned", pool, 13, 3e-2))
    protocol.part("tuned", protocol.setting.target["film"], 100, 1e-1)
    assert no_times(protocol.part("tuned", pool, 13, 3e-2)) == one


# -------------------------------------------------------------------------------------------------- where tunings start


def files_of(run: Path) -> list[dict[str, torch.Tensor]]:
    """The tensors of the run's best s: of the shared one, or of each training task."""
    from safetensors.torch import load_file

    best = json.loads((run / "run.json").read_text())["best_step"]
    return [load_file(path) for path in sorted((run / f"best-{best}" / "s").rglob("adapter_model.safetensors"))]


def start_of(protocol: protocol_module.Protocol, way: str) -> dict[str, torch.Tensor]:
    """The adapter as its own file would hold it."""
    protocol.subject.begin(way)
    assert protocol.subject.adapters is not None
    return {key: value.clone() for key, value in protocol.subject.adapters.state("tuned").items()}


@pytest.mark.parametrize("name", ["bank", "shared", "soft"])
def test_tuned_starts_from_the_runs_best_s(name: str, run_of: Any, small: Path) -> None:
    members = files_of(run_of(name))
    assert len(members) == (3 if name == "bank" else 1)
    expected = {key: torch.stack([m[key].double() for m in members]).mean(0).float() for key in members[0]}
    protocol = opened(run_of(name), small, TWO)
    found = start_of(protocol, "tuned")
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value) if name != "bank" else torch.allclose(found[key], value, atol=1e-7), key
    fresh = start_of(protocol, "tuned-fresh")
    assert any(not torch.equal(fresh[key], found[key]) for key in found)
    assert all(torch.equal(start_of(protocol, "tuned")[key], found[key]) for key in found)


def test_the_best_s_and_not_the_last(run_of: Any, small: Path, tmp_path: Path, tiny_model_dir: Path) -> None:
    """best-N/s is read, whatever the last checkpoint holds."""
    import shutil

    run = tmp_path / "run"
    shutil.copytree(run_of("shared"), run)
    for path in run.glob("checkpoint-*"):
        shutil.rmtree(path)
    expected = opened(run_of("shared"), small, TWO)
    found = opened(run, small, TWO)
    assert all(torch.equal(v, start_of(expected, "tuned")[k]) for k, v in start_of(found, "tuned").items())


def test_a_fresh_adapter_is_the_runs_kind_and_changes_nothing(run_of: Any, small: Path) -> None:
    protocol = opened(run_of("bank"), small, TWO)
    fresh = start_of(protocol, "tuned-fresh")
    assert all(value.abs().max() == 0 for key, value in fresh.items() if "lora_B" in key)
    downs = [value for key, value in fresh.items() if "lora_A" in key]
    assert downs
    assert all(value.shape[0] == 2 and value.abs().max() > 0 for value in downs)
    pool = protocol.setting.target["film"]
    data = protocol._data(pool)
    protocol.subject.begin("tuned-fresh")
    with_fresh, without = (
        protocol.subject.measure(protocol._encoded(way, pool, [], 100), data, 256, way)
        for way in ("tuned-fresh", "zero-shot")
    )
    assert with_fresh.loss == pytest.approx(without.loss, abs=1e-6)


# ----------------------------------------------------------------------------------------------- what is tuned, and how


class Tuned:
    """Every call of Subject.tune and of Subject.measure, with the rows."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tunings: list[dict[str, Any]] = []
        self.measured: list[dict[str, Any]] = []
        real, measure = Subject.tune, Subject.measure

        def tune(
            subject: Subject, way: str, encoded: Any, steps: int, batch_size: int, rate: float, seed: int
        ) -> float:
            texts = [(e.example.prompt, e.example.answers[e.example.gold[0]]) for e in encoded]
            self.tunings.append(
                {"way": way, "task": encoded[0].example.group, "texts": texts, "steps": steps, "batch": batch_size,
                 "rate": rate, "seed": seed}
            )  # fmt: skip
            return real(subject, way, encoded, steps, batch_size, rate, seed)

        def measured(subject: Subject, encoded: Any, *args: Any) -> Any:
            self.measured.append({"way": args[-1], "examples": [e.example for e in encoded]})
            return measure(subject, encoded, *args)

        monkeypatch.setattr(Subject, "tune", tune)
        monkeypatch.setattr(Subject, "measure", measured)


def firsts(rows: list[JsonRow], each: int) -> list[tuple[str, str]]:
    """The first `each` rows of each class, as prompts and answers."""
    found, taken = [], dict[str, int]()
    for row in rows:
        if taken.get(row["output"], 0) < each:
            taken[row["output"]] = taken.get(row["output"], 0) + 1
            found.append((row["input"], "\n" + row["output"]))
    return found


def test_tuned_on_four_rows_of_each_class_of_the_seeds_file(
    run_of: Any, small: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """film: 2 classes; kind: 3, of which `sport` has 3 rows, which is said; quiz: no classes, 4 in all."""
    spy = Tuned(monkeypatch)
    protocol = opened(run_of("shared"), small, Plan(("tuned",), rates=(1e-3,)))
    with caplog.at_level(logging.WARNING, "zofo"):
        parts = protocol.run()
    assert [t["seed"] for t in spy.tunings] == [*SEEDS] * 3
    data = small.parent / "data"
    for tuning in spy.tunings:
        assert (tuning["steps"], tuning["batch"], tuning["rate"]) == (10, 4, 1e-3)
        if tuning["task"] == "quiz":
            assert len(set(tuning["texts"])) == 4
            assert set(tuning["texts"]) <= {
                (r["input"], "\n" + r["output"]) for r in rows_of(data / "quiz" / "train.jsonl")
            }
            continue
        rows = rows_of(data / tuning["task"] / f"{tuning['task']}_16_{tuning['seed']}_train.jsonl")
        assert sorted(tuning["texts"]) == sorted(firsts(rows, 4))
    assert {(p["task"], p["tuned_on"]) for p in parts} == {("film", 8), ("kind", 11), ("quiz", 4)}
    quizzes = [frozenset(t["texts"]) for t in spy.tunings if t["task"] == "quiz"]
    assert len(set(quizzes)) == 5, "another draw for each seed"
    assert '"sport" has 3' in caplog.text


def test_no_warning_of_rows_to_tune_on_where_nothing_is_tuned(
    run_of: Any, small: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "zofo"):
        opened(run_of("shared"), small, Plan(("zero-shot",))).run()
    assert "rows to tune on" not in caplog.text


def answer_tokens(model: Any, tokenizer: Any, prompt: str, answer: str) -> torch.Tensor:
    """log P of each token of the answer, from one plain forward."""
    found = tokenizer(prompt + answer, return_offsets_mapping=True, return_tensors="pt")
    ids, ends = found["input_ids"], found["offset_mapping"][0, :, 1]
    logp = model(input_ids=ids).logits.double().log_softmax(-1)
    places = [i for i in range(1, ids.shape[1]) if ends[i] > len(prompt)]
    return torch.stack([logp[0, i - 1, ids[0, i]] for i in places])


@torch.no_grad()
def chosen(model: Any, tokenizer: Any, row: JsonRow, context: str = "", null: bool = False) -> tuple[int, list[float]]:
    """The option with the best mean token log-probability; null: less that after the input N/A."""
    found = []
    for option in row["options"]:
        score = float(answer_tokens(model, tokenizer, context + row["input"], "\n" + option).mean())
        if null:
            score -= float(answer_tokens(model, tokenizer, context + "N/A", "\n" + option).mean())
        found.append(score)
    return max(range(len(found)), key=found.__getitem__), found


@pytest.mark.parametrize("way", ["tuned", "tuned-fresh"])
def test_tuning_is_adamw_on_the_mean_over_answer_tokens(way: str, run_of: Any, small: Path, tmp_path: Path) -> None:
    """By hand with plain transformers and PEFT; one batch of all rows, so that their order does not matter."""
    from peft import LoraConfig, PeftModel, get_peft_model

    run, task, seed, rate = run_of("shared"), "film", 13, 1e-2
    out = tmp_path / "out"
    zofo.meta_test(run, ways=[way], seeds=(seed,), rates=(rate,), steps=3, batch_size=99, output=out)
    model, tokenizer = zofo.load(run, adapter="theta")
    protocol = opened(run, small, TWO)
    start = start_of(protocol, way)
    best = json.loads((run / "run.json").read_text())["best_step"]
    if way == "tuned":
        model = PeftModel.from_pretrained(model, run / f"best-{best}" / "s", is_trainable=True)
    else:
        kind = LoraConfig.from_pretrained(str(run / f"best-{best}" / "s"))
        kind.inference_mode = False
        model = get_peft_model(model, kind)
        names = dict(model.named_parameters())
        for key, value in start.items():
            names[key.replace(".weight", ".default.weight")].data.copy_(value)
    model.eval()
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0.0)
    data = small.parent / "data" / task
    rows = firsts(rows_of(data / f"film_16_{seed}_train.jsonl"), 4)
    assert len(rows) == 8
    for _ in range(3):
        optimizer.zero_grad()
        value = -torch.cat([answer_tokens(model, tokenizer, *row) for row in rows]).mean()
        value.backward()
        optimizer.step()
    part = parts_in(out)[f"{way}/film-13.json"]
    assert part["tuning_loss"] == pytest.approx(float(value.detach()), rel=1e-4)
    by_id = {row["id"]: row for row in predictions(out, way, task, seed)}
    tests = rows_of(data / "film_16_100_test.jsonl")
    assert len(by_id) == len(tests) == part["n"]
    for number, row in enumerate(tests):
        _, expected = chosen(model, tokenizer, row)
        assert by_id[f"film/test/{number}"]["scores"] == pytest.approx(expected, abs=2e-3)


# ---------------------------------------------------------------------------------------------------------------- rates


class Told:
    """Protocol.part with told numbers: (value, loss) by task and rate; and which parts were asked for, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, held: dict[float, tuple[float, float]], best: float) -> None:
        """held: of the held-out task. best: the rate that the target tasks would take."""
        self.asked: list[tuple[str, str, int, float | None]] = []

        def part(protocol: Any, way: str, pool: Any, seed: int, rate: float | None) -> JsonRow:
            self.asked.append((way, pool.name, seed, rate))
            value, loss = held[rate or 0] if pool.name in protocol.setting.held_out else (float(rate == best), 0.0)
            return {"way": way, "task": pool.name, "seed": seed, "metric": pool.metric, "value": value, "loss": loss,
                    "n": 5, "seconds": 0.0, "rate": rate}  # fmt: skip

        monkeypatch.setattr(protocol_module.Protocol, "part", part)


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ({1e-3: (0.5, 2.0), 1e-2: (0.4, 1.0), 1e-1: (0.3, 0.5)}, 1e-3),  # the score decides, not the loss
        ({1e-3: (0.5, 2.0), 1e-2: (0.5, 1.0), 1e-1: (0.4, 0.5)}, 1e-2),  # a tie goes to the lower loss
        ({1e-3: (0.5, 1.0), 1e-2: (0.5, 1.0), 1e-1: (0.2, 0.5)}, 1e-3),  # and then to the lower rate
        ({1e-3: (0.5, 2.0), 1e-2: (0.5, float("nan")), 1e-1: (0.4, 0.5)}, 1e-3),  # no loss is no lower loss
        ({1e-3: (0.5, float("nan")), 1e-2: (0.5, 2.0), 1e-1: (0.4, 0.5)}, 1e-2),  # wherever it stands
    ],
)  # fmt: skip
def test_held_out_training_tasks_alone_choose_the_rate(
    held: dict[float, tuple[float, float]], expected: float, run_of: Any, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Target tasks would take 0.1."""
    told = Told(monkeypatch, held, best=1e-1)
    plan = Plan(("tuned", "tuned-fresh"), seeds=(42, 13, 21), rates=tuple(held), rate_runs=2)
    parts = opened(run_of("shared"), small, plan).run()
    assert {part["rate"] for part in parts} == {expected}
    choosing = [asked for asked in told.asked if asked[1] == "sort"]
    assert told.asked[: len(choosing)] == choosing, "the rates are chosen before any target task is looked at"
    assert len(choosing) == 2 * 3 * 2
    assert {seed for _, _, seed, _ in choosing} == {42, 13}
    assert {asked[1] for asked in told.asked} == {"sort", "film", "kind", "quiz"}
    assert "sort" not in {part["task"] for part in parts}


def test_one_rate_needs_no_choice_nor_held_out_tasks(
    small: Path, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so no training tasks in the directory."""
    import shutil

    data = tmp_path / "data"
    for name in ("film", "quiz"):
        shutil.copytree(small.parent / "data" / name, data / name)
    spy = Tuned(monkeypatch)
    kwargs: dict[str, Any] = {"task": str(small), "data": str(data), "seeds": (100,), "steps": 1}
    found = zofo.meta_test(tiny_model_dir, ways=["tuned-fresh"], rates=(1e-3,), **kwargs)
    assert {t["task"] for t in spy.tunings} == {"film", "quiz"}
    assert found["ways"]["tuned-fresh"]["rate"] == 1e-3
    with pytest.raises(InputError, match="held"):
        zofo.meta_test(tiny_model_dir, ways=["tuned-fresh"], rates=(1e-3, 1e-2), **kwargs)


def test_a_rate_that_diverges_is_not_chosen(run_of: Any) -> None:
    found = zofo.meta_test(run_of("shared"), ways=["tuned"], seeds=(100,), rates=(1e30, 1e-3), test_examples=4)
    assert found["ways"]["tuned"]["rate"] == 1e-3


def test_a_tuning_that_diverges_says_which(run_of: Any) -> None:
    with pytest.raises(ZofoError, match="film") as error:
        zofo.meta_test(run_of("shared"), ways=["tuned"], seeds=(100,), rates=(1e30,), test_examples=4)
    assert "1e+30" in str(error.value)


def test_rates_that_are_nearly_equal_are_two(run_of: Any, small: Path, tmp_path: Path) -> None:
    plan = Plan(("tuned",), seeds=(100,), rates=(1.00000001e-2, 1.00000002e-2), steps=1)
    protocol = opened(run_of("shared"), small, plan, tmp_path)
    protocol.rate("tuned")
    rates = {json.loads(path.read_text())["rate"] for path in (tmp_path / "parts").rglob("*.json")}
    assert rates == set(plan.rates)


# ------------------------------------------------------------------------------------- which tasks were not trained on


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> tuple[Path, Path, set[str]]:
    """A bank run on a setting whose held-out task is drawn: (run, setting, tasks that were trained on)."""
    setting = make_setting(tmp_path_factory.mktemp("drawn"), held_out=None)
    run = train(tiny_model_dir, setting, setting.parent / "run", "bank", "--seed", "3")
    best = json.loads((run / "run.json").read_text())["best_step"]
    return run, setting, {path.name for path in (run / f"best-{best}" / "s").iterdir()}


def test_the_held_out_tasks_are_those_that_the_run_did_not_train_on(drawn: tuple[Path, Path, set[str]]) -> None:
    run, _, trained = drawn
    found = zofo.meta_test(run, ways=["tuned"], seeds=(100,), rates=(1e-3, 1e-2), steps=1, test_examples=4)
    assert len(found["held_out"]) == 1
    assert not set(found["held_out"]) & trained
    assert trained | set(found["held_out"]) == {"mood", "sort", "saga", "pick"}
    assert found["seed"] == 3


def test_more_held_out_tasks_than_the_run_had_are_refused(drawn: tuple[Path, Path, set[str]]) -> None:
    run, _, trained = drawn
    try:
        found = zofo.meta_test(
            run, ways=["tuned"], seeds=(100,), rates=(1e-3, 1e-2), steps=1, test_examples=4,
            overrides=["task.held_out=2"],
        )  # fmt: skip
    except InputError:
        return
    assert not set(found["held_out"]) & trained


def test_tasks_that_came_later_do_not_change_what_was_held_out(
    drawn: tuple[Path, Path, set[str]], tmp_path: Path
) -> None:
    """The data directory has lost a training task since (here: each in turn, all but the held-out one)."""
    import shutil

    run, setting, trained = drawn
    for lost in sorted(trained):
        data = tmp_path / lost
        shutil.copytree(setting.parent / "data", data, ignore=shutil.ignore_patterns(lost))
        try:
            found = zofo.meta_test(
                run, data=str(data), ways=["tuned"], seeds=(100,), rates=(1e-3, 1e-2), steps=1, test_examples=4
            )
        except InputError:
            continue
        assert not set(found["held_out"]) & trained, lost


def test_a_target_that_the_run_was_trained_on_is_refused(run_of: Any, small: Path, tmp_path: Path) -> None:
    """Overlap between training and target tasks is an error."""
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({"train": ["film"], "target": ["mood", "quiz"]}))
    with pytest.raises(InputError, match="mood"):
        zofo.meta_test(
            run_of("bank"), task=str(other), data=str(small.parent / "data"), ways=["zero-shot"], test_examples=4
        )


# ------------------------------------------------------------------------------------------- demonstrations, test rows


def shown_text(rows: Sequence[JsonRow]) -> str:
    return "".join(f"{row['input']}\n{row['output']}\n\n\n" for row in rows)


def test_the_demonstrations_are_the_first_k_of_the_seeds_file(
    small: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    data, out = small.parent / "data", tmp_path / "out"
    zofo.meta_test(
        tiny_model_dir, task=str(small), data=str(data), ways=["in-context"], k=3, output=out, test_examples=8
    )
    seen: dict[str, set[str]] = {}
    for task in ("film", "kind"):
        tests = rows_of(data / task / f"{task}_16_100_test.jsonl")
        for seed in SEEDS:
            context = shown_text(rows_of(data / task / f"{task}_16_{seed}_train.jsonl")[:3])
            found = predictions(out, "in-context", task, seed)
            assert len(found) == 8
            for row in found:
                number = int(row["id"].rpartition("/")[2])
                assert row["prompt"] == context + tests[number]["input"]
                assert row["answers"] == ["\n" + option for option in row_options(tests, task)]
                assert row["answers"][row["gold"][0]] == "\n" + tests[number]["output"]
            seen.setdefault(task, set()).add(",".join(row["id"] for row in found))
    assert all(len(ids) == 1 for ids in seen.values()), "the same test rows, in the same order, for every seed"


def row_options(rows: Sequence[JsonRow], task: str) -> list[str]:
    return rows[0]["options"] if task == "film" else list(KINDS)


def test_k_below_and_above_what_the_files_hold(tmp_path: Path, tiny_model_dir: Path) -> None:
    """Of film_4_... and film_16_... the smaller that has k rows; where none has them, the seed's error says so."""
    setting = make_setting(tmp_path)
    folder = setting.parent / "data" / "film"
    for seed in SEEDS:
        write(folder / f"film_4_{seed}_train.jsonl", mood("film", 4, 1000 + seed))
    plain = {"task": str(setting), "data": str(setting.parent / "data"), "ways": ["in-context"], "test_examples": 3}
    for k, size in ((4, 4), (5, 16)):
        out = tmp_path / f"out{k}"
        zofo.meta_test(tiny_model_dir, k=k, seeds=(21,), output=out, **plain)
        context = shown_text(rows_of(folder / f"film_{size}_21_train.jsonl")[:k])
        found = predictions(out, "in-context", "film", 21)
        assert all(row["prompt"].startswith(context) for row in found)
    with pytest.raises(InputError, match=r"film: 17 demonstrations"):
        zofo.meta_test(tiny_model_dir, k=17, seeds=(21,), **plain)


def test_a_seed_without_files_is_drawn_from_the_largest_train_file(
    small: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """Seeds that MetaICL has no files of are no error: rows are drawn from the lowest seed's file, others for each."""
    out = tmp_path / "out"
    zofo.meta_test(
        tiny_model_dir, task=str(small), data=str(small.parent / "data"), ways=["in-context"], k=2, seeds=(7, 8),
        test_examples=2, output=out,
    )  # fmt: skip
    prompts = [predictions(out, "in-context", "film", seed)[0]["prompt"] for seed in (7, 8)]
    own = {row["input"] for row in rows_of(small.parent / "data" / "film" / "film_16_13_train.jsonl")}
    assert prompts[0] != prompts[1]
    assert all(part.split("\n")[0] in own for prompt in prompts for part in prompt.split("\n\n\n")[:-1])


def trains_alone(tmp_path: Path, n: int) -> Path:
    """A setting with one target that has train rows alone."""
    setting = make_setting(tmp_path, target=["only"], unseen_domain=None)
    write(setting.parent / "data" / "only" / "train.jsonl", mood("only", n, 4))
    return setting


def test_no_test_row_is_ever_shown_or_tuned_on(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a task without test rows: what any seed shows or tunes on is left out, for every way and seed alike."""
    setting, spy = trains_alone(tmp_path, 60), Tuned(monkeypatch)
    plain = {
        "task": str(setting),
        "data": str(setting.parent / "data"),
        "rates": (1e-3,),
        "k": 2,
        "each": 2,
        "steps": 1,
    }
    zofo.meta_test(tiny_model_dir, ways=["zero-shot", "in-context", "tuned-fresh"], output=tmp_path / "out", **plain)
    used = {text for tuning in spy.tunings for text, _ in tuning["texts"]}
    measured = []
    for call in spy.measured:
        inputs = [example.prompt.split("\n\n\n")[-1] for example in call["examples"]]
        measured.append(inputs)
        used |= {part.split("\n")[0] for example in call["examples"] for part in example.prompt.split("\n\n\n")[:-1]}
    assert len(measured) == 1 + 5 + 5
    assert all(inputs == measured[0] for inputs in measured)
    assert len(used) > 15
    assert len(measured[0]) == 60 - len(used)
    assert not used & set(measured[0])


def test_a_task_whose_rows_are_all_shown_is_an_error_that_says_so(tmp_path: Path, tiny_model_dir: Path) -> None:
    setting = trains_alone(tmp_path, 6)
    with pytest.raises(InputError, match=r"only: .*(test\.jsonl|rows)"):
        zofo.meta_test(
            tiny_model_dir, task=str(setting), data=str(setting.parent / "data"), ways=["tuned-fresh"], rates=(1e-3,)
        )


def test_zero_shot_needs_no_train_rows(tmp_path: Path, tiny_model_dir: Path) -> None:
    setting = trains_alone(tmp_path, 6)
    folder = setting.parent / "data" / "only"
    (folder / "train.jsonl").rename(folder / "test.jsonl")
    found = zofo.meta_test(tiny_model_dir, task=str(setting), data=str(setting.parent / "data"), ways=["zero-shot"])
    assert found["ways"]["zero-shot"]["all"]["mean"] >= 0


def test_a_row_in_train_and_test_is_not_measured_on(tmp_path: Path, tiny_model_dir: Path) -> None:
    """Or it is said, as a run says it ("... test examples are among the training ones")."""
    setting = make_setting(tmp_path, target=["quiz"], unseen_domain=None)
    folder = setting.parent / "data" / "quiz"
    rows = quiz("quiz", 12, 11)
    write(folder / "train.jsonl", rows[:8])
    write(folder / "test.jsonl", rows)
    out = tmp_path / "out"
    zofo.meta_test(
        tiny_model_dir, task=str(setting), data=str(setting.parent / "data"), ways=["in-context"], k=2, output=out
    )
    shown, measured = set[str](), set[str]()
    for seed in SEEDS:
        for row in predictions(out, "in-context", "quiz", seed):
            *parts, own = row["prompt"].split("\n\n\n")
            shown |= {part.split("\n")[0] for part in parts}
            measured.add(own)
    assert not shown & measured


# ------------------------------------------------------------------------------------------------------------- numbers


def test_macro_f1_accuracy_mean_sd_and_worst_by_hand(small: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    """From the predictions alone, with scikit-learn and statistics."""
    from sklearn.metrics import accuracy_score, f1_score

    out = tmp_path / "out"
    found = zofo.meta_test(
        tiny_model_dir,
        task=str(small),
        data=str(small.parent / "data"),
        ways=["zero-shot", "in-context"],
        k=2,
        output=out,
    )
    assert json.loads((out / "results.json").read_text()) == json.loads(json.dumps(found))
    value: dict[tuple[str, int], float] = {}
    for task in ("film", "kind", "quiz"):
        for seed in SEEDS:
            rows = predictions(out, "in-context", task, seed)
            gold, predicted = [row["gold"][0] for row in rows], [row["predicted"] for row in rows]
            assert all(
                row["predicted"] == max(range(len(row["scores"])), key=row["scores"].__getitem__) for row in rows
            )
            exact = accuracy_score(gold, predicted) if task == "quiz" else f1_score(gold, predicted, average="macro")
            value[task, seed] = float(exact)
            part = parts_in(out)[f"in-context/{task}-{seed}.json"]
            assert part["value"] == pytest.approx(exact, abs=1e-12)
            assert part["metric"] == ("accuracy" if task == "quiz" else "macro_f1")
            assert (part["way"], part["task"], part["seed"], part["n"]) == ("in-context", task, seed, 12)
    result = found["ways"]["in-context"]
    for tasks, block in ((("film", "kind", "quiz"), result["all"]), (("quiz",), result["unseen_domain"])):
        means = {str(seed): statistics.fmean(value[task, seed] for task in tasks) for seed in SEEDS}
        assert block["seeds"] == pytest.approx(means)
        assert block["mean"] == pytest.approx(statistics.fmean(means.values()))
        assert block["sd"] == pytest.approx(statistics.stdev(means.values()))
        assert block["worst"] == pytest.approx(min(means.values()))
    assert result["all"]["sd"] > 0
    for task in ("film", "kind", "quiz"):
        own = result["tasks"][task]
        assert own["mean"] == pytest.approx(statistics.fmean(value[task, seed] for seed in SEEDS))
        assert own["worst"] == pytest.approx(min(value[task, seed] for seed in SEEDS))
    assert found["ways"]["zero-shot"]["all"]["sd"] is None
    assert found["ways"]["zero-shot"]["all"]["seeds"].keys() == {"100"}
    assert len(list((out / "parts" / "zero-shot").iterdir())) == 3


def test_summary_of_told_parts() -> None:
    def part(task: str, seed: int, value: float, metric: str = "accuracy") -> JsonRow:
        return {"way": "tuned", "task": task, "seed": seed, "value": value, "metric": metric, "n": 10, "seconds": 2.0}

    parts = [
        part("a", 1, 0.2),
        part("b", 1, 0.6),
        part("a", 2, 0.4),
        part("b", 2, 0.8),
        part("a", 3, 0.9),
        part("b", 3, 0.1),
    ]
    found = summary(parts, unseen=["b"])["tuned"]
    assert found["all"]["seeds"] == pytest.approx({"1": 0.4, "2": 0.6, "3": 0.5})
    assert found["all"]["mean"] == pytest.approx(0.5)
    assert found["all"]["sd"] == pytest.approx(0.1)
    assert found["all"]["worst"] == pytest.approx(0.4)
    assert found["unseen_domain"]["mean"] == pytest.approx(0.5)
    assert found["unseen_domain"]["worst"] == pytest.approx(0.1)
    assert found["seconds_per_example"] == pytest.approx(0.2)
    assert summary(parts)["tuned"]["unseen_domain"] is None


def test_unseen_domain_spelled_with_the_other_dash(tmp_path: Path, tiny_model_dir: Path) -> None:
    """- and _ are the same in names."""
    setting = make_setting(tmp_path, target=["film", "my_quiz"], unseen_domain=["my-quiz"])
    folder = setting.parent / "data" / "my-quiz"
    write(folder / "train.jsonl", quiz("my-quiz", 12, 1))
    write(folder / "test.jsonl", quiz("my-quiz", 12, 2))
    found = zofo.meta_test(tiny_model_dir, task=str(setting), data=str(setting.parent / "data"), ways=["zero-shot"])
    assert found["ways"]["zero-shot"]["unseen_domain"] is not None


@pytest.mark.parametrize("k", [0, 2])
def test_pmi_by_hand(k: int, small: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    """Mean token log-probability minus that with the input N/A, in the same context."""
    model, tokenizer = zofo.load(tiny_model_dir)
    data, out, way = small.parent / "data", tmp_path / "out", "in-context" if k else "zero-shot"
    zofo.meta_test(
        tiny_model_dir, task=str(small), data=str(data), ways=[way], seeds=(13,), k=k or 4, output=out, test_examples=5,
        overrides=["task.scoring=pmi"],
    )  # fmt: skip
    checked = 0
    for task, file in (("film", "film_16_100_test.jsonl"), ("quiz", "test.jsonl")):
        tests = rows_of(data / task / file)
        for row in predictions(out, way, task, 13):
            context = row["prompt"].rpartition("\n\n\n")[0] + "\n\n\n" if k else ""
            own = {**tests[int(row["id"].rpartition("/")[2])]}
            own["options"] = [answer.removeprefix("\n") for answer in row["answers"]]
            predicted, expected = chosen(model, tokenizer, own, context, null=True)
            assert row["scores"] == pytest.approx(expected, abs=1e-4)
            assert row["predicted"] == predicted
            checked += 1
    assert checked == 10


@pytest.mark.parametrize("k", [0, 2])
@torch.no_grad()
def test_channel_by_hand(k: int, small: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    """Output, newline, input: the option under which the input is likeliest, by the mean over its tokens."""
    model, tokenizer = zofo.load(tiny_model_dir)
    data, out, way = small.parent / "data", tmp_path / "out", "in-context" if k else "zero-shot"
    zofo.meta_test(
        tiny_model_dir, task=str(small), data=str(data), ways=[way], seeds=(13,), k=k or 4, output=out, test_examples=5,
        overrides=["task.template=channel"],
    )  # fmt: skip
    tests = rows_of(data / "kind" / "kind_16_100_test.jsonl")
    shown = rows_of(data / "kind" / "kind_16_13_train.jsonl")[:k]
    context = "".join(f"{row['output']}\n{row['input']}\n\n\n" for row in shown)
    for row in predictions(out, way, "kind", 13):
        own = tests[int(row["id"].rpartition("/")[2])]
        expected = [
            float(answer_tokens(model, tokenizer, context + option, "\n" + own["input"]).mean()) for option in KINDS
        ]
        assert sorted(row["scores"]) == pytest.approx(sorted(expected), abs=1e-4)
        labels = own["options"] if not k else list(KINDS)
        assert row["scores"] == pytest.approx(expected, abs=1e-4), labels
        assert row["gold"] == [list(KINDS).index(own["output"])]


def test_a_long_prompt_of_a_soft_adapters_run_is_measured_as_without_it(
    run_of: Any, tmp_path: Path, tiny_model_dir: Path
) -> None:
    """Virtual tokens take room from the ways that have them, not from those of the backbone alone (128 positions)."""
    setting = make_setting(tmp_path, target=["film"], unseen_domain=None)
    folder = setting.parent / "data" / "film"
    for path in folder.glob("*_test.jsonl"):
        write(
            path,
            [{**row, "input": " ".join(f"{i % 10}" for i in range(70)) + row["input"]} for row in mood("film", 6, 1)],
        )
    plain = {"task": str(setting), "data": str(setting.parent / "data"), "seeds": (100,), "rates": (1e-3,), "steps": 1}
    alone = zofo.meta_test(run_of("soft"), ways=["zero-shot"], output=tmp_path / "a", **plain)
    beside = zofo.meta_test(run_of("soft"), ways=["zero-shot", "tuned-fresh"], output=tmp_path / "b", **plain)
    name = "zero-shot/film-100.json"
    assert parts_in(tmp_path / "a")[name] == parts_in(tmp_path / "b")[name]
    assert alone["ways"]["zero-shot"]["all"] == beside["ways"]["zero-shot"]["all"]


# --------------------------------------------------------------------------------------------- results, parts and plans

QUICK: dict[str, Any] = {"seeds": (100, 13), "rates": (1e-3,), "steps": 1, "test_examples": 4}


def test_results_parts_and_predictions(run_of: Any, tmp_path: Path) -> None:
    out, run = tmp_path / "out", run_of("shared")
    found = zofo.meta_test(run, output=out, **{**QUICK, "rates": (1e-3, 1e-2), "rate_runs": 1})
    ways = ["zero-shot", "zero-shot-s", "tuned", "tuned-fresh"]
    assert list(found["ways"]) == ways
    assert sorted(p.name for p in out.iterdir()) == ["parts", "plan.json", "predictions", "results.json"]
    targets = ["film", "kind", "quiz"]
    names = [
        f"{way}/{task}-{seed}" for way in ways for task in targets for seed in ((100,) if "zero" in way else (100, 13))
    ]
    rates = [f"{way}/rates/sort/{rate}-100" for way in ways[2:] for rate in ("0.001", "0.01")]
    assert sorted(parts_in(out)) == sorted(f"{name}.json" for name in names + rates)
    written = {str(p.relative_to(out / "predictions")) for p in (out / "predictions").rglob("*.jsonl")}
    assert written == {f"{name}.jsonl" for name in names}
    assert found["coverage"] == [
        "small: 4 of 4 training tasks (100 %), 3 of 4 target tasks (75 %)", "missing target tasks: absent"
    ]  # fmt: skip
    assert found["held_out"] == ["sort"]
    assert found["k"] == 4
    assert found["ways"]["zero-shot-s"]["all"]["mean"] != pytest.approx(
        found["ways"]["zero-shot"]["all"]["mean"], abs=1e-9
    )
    # zero-shot and zero-shot-s are what the run's own test says of its two candidates, on the same prompts
    for row in predictions(out, "zero-shot", "film", 100):
        assert len(row["scores"]) == 2
        assert set(row) >= {"id", "prompt", "answers", "gold", "predicted", "correct", "loss"}


def test_zero_shot_is_what_the_run_says_of_theta_and_of_s(run_of: Any, tmp_path: Path) -> None:
    """The run's own evaluation of its candidates, on as many test rows: by the same seed they are the same."""
    run = run_of("shared")
    info = json.loads((run / "run.json").read_text())
    found = zofo.meta_test(run, ways=["zero-shot", "zero-shot-s"], test_examples=6)
    for way, name in (("zero-shot", "theta"), ("zero-shot-s", "s")):
        assert found["ways"][way]["all"]["mean"] == pytest.approx(info["test"][name]["task_mean"], abs=1e-9)


def test_the_same_command_does_no_part_twice(run_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, run = tmp_path / "out", run_of("bank")
    first = zofo.meta_test(run, ways=["zero-shot", "tuned"], output=out, **QUICK)
    stamps = {path: path.stat().st_mtime_ns for path in (out / "parts").rglob("*.json")}
    lost = out / "parts" / "tuned" / "kind-13.json"
    lost.unlink()
    (out / "results.json").unlink()
    spy = Tuned(monkeypatch)
    again = zofo.meta_test(run, ways=["zero-shot", "tuned"], output=out, **QUICK)
    assert [(t["task"], t["seed"]) for t in spy.tunings] == [("kind", 13)]
    assert len(spy.measured) == 1
    assert scores(again) == scores(first)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items() if path != lost)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"steps": 2}, "steps"), ({"seeds": (100, 21)}, "seeds"), ({"rates": (1e-2,)}, "rates"),
        ({"each": 2}, "each"), ({"k": 3}, "k"), ({"test_examples": 5}, "test_examples"),
        ({"batch_size": 2}, "batch_size"),
        ({"ways": ["zero-shot"]}, "ways"), ({"overrides": ["task.scoring=pmi"]}, "scoring"),
        ({"overrides": ["task.template=spaces"]}, "template"), ({"target": "shared"}, "target"),
    ],
)  # fmt: skip
def test_another_plan_in_the_same_output_is_refused_by_name(
    change: dict[str, Any], named: str, run_of: Any, tmp_path: Path
) -> None:
    out, base = tmp_path / "out", {"ways": ["zero-shot", "tuned"], **QUICK}
    Store(out).claim(_facts(run_of("bank"), base), False)
    before = (out / "plan.json").read_text()
    target = run_of(change.get("target", "bank"))
    with pytest.raises(InputError) as error:
        zofo.meta_test(target, output=out, **{**base, **{k: v for k, v in change.items() if k != "target"}})
    assert f"(other {named}" in str(error.value) or f", {named}" in str(error.value)
    assert "--overwrite" in str(error.value)
    assert (out / "plan.json").read_text() == before


_FACTS: dict[Path, JsonRow] = {}


def _facts(run: Path, base: dict[str, Any]) -> JsonRow:
    """plan.json of the base plan, as a meta-test writes it."""
    if run not in _FACTS:
        out = run.parent / f"{run.name}-facts"
        zofo.meta_test(run, output=out, **base)
        _FACTS[run] = json.loads((out / "plan.json").read_text())
    return _FACTS[run]


def test_overwrite(run_of: Any, tmp_path: Path) -> None:
    out, run = tmp_path / "out", run_of("bank")
    zofo.meta_test(run, ways=["zero-shot", "tuned"], output=out, **QUICK)
    found = zofo.meta_test(run, ways=["zero-shot"], output=out, overwrite=True, test_examples=5)
    assert {name.split("/")[0] for name in parts_in(out)} == {"zero-shot"}
    assert not (out / "predictions" / "tuned").exists()
    assert scores(json.loads((out / "results.json").read_text())) == scores(json.loads(json.dumps(found)))


def test_overwrite_takes_the_old_results_away_at_once(
    run_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A measurement that is cut leaves no results of the one before beside its own plan."""
    out, run = tmp_path / "out", run_of("bank")
    zofo.meta_test(run, ways=["zero-shot"], output=out, **QUICK)

    def cut(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Subject, "measure", cut)
    with pytest.raises(KeyboardInterrupt):
        zofo.meta_test(run, ways=["zero-shot"], output=out, overwrite=True, **{**QUICK, "test_examples": 3})
    assert not (out / "results.json").exists()


def test_a_directory_of_something_else_is_never_taken(run_of: Any, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("keep me")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="no meta-test"):
            zofo.meta_test(run_of("bank"), ways=["zero-shot"], output=mine, overwrite=overwrite, **QUICK)
    with pytest.raises(InputError, match="no meta-test"):
        zofo.meta_test(run_of("bank"), ways=["zero-shot"], output=mine / "notes.txt", **QUICK)
    assert [p.name for p in mine.iterdir()] == ["notes.txt"]


def test_a_run_that_was_trained_again_is_another_target(tiny_model_dir: Path, small: Path, tmp_path: Path) -> None:
    """The parts of the model that was there before are not this one's."""
    run, out = tmp_path / "run", tmp_path / "out"
    train(tiny_model_dir, small, run, "multi-task-ft")
    zofo.meta_test(run, ways=["zero-shot"], output=out, test_examples=4)
    train(tiny_model_dir, small, run, "multi-task-ft", "method.lr=3e-2", "--overwrite")
    expected = zofo.meta_test(run, ways=["zero-shot"], test_examples=4)
    try:
        found = zofo.meta_test(run, ways=["zero-shot"], output=out, test_examples=4)
    except InputError:
        return
    assert found["ways"]["zero-shot"]["all"] == expected["ways"]["zero-shot"]["all"]


def test_rows_that_changed_are_another_measurement(tiny_model_dir: Path, tmp_path: Path) -> None:
    """A user who mends a row and starts the command again gets the numbers of the mended rows, or is told."""
    setting = make_setting(tmp_path, target=["quiz"], unseen_domain=None)
    plain = {"task": str(setting), "data": str(setting.parent / "data"), "ways": ["zero-shot"]}
    out = tmp_path / "out"
    zofo.meta_test(tiny_model_dir, output=out, **plain)
    write(setting.parent / "data" / "quiz" / "test.jsonl", quiz("quiz", 9, 77))
    expected = zofo.meta_test(tiny_model_dir, **plain)
    try:
        found = zofo.meta_test(tiny_model_dir, output=out, **plain)
    except InputError:
        return
    assert found["ways"]["zero-shot"]["all"] == expected["ways"]["zero-shot"]["all"]


def test_nothing_is_claimed_for_what_cannot_be_opened(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match="no such directory"):
        zofo.meta_test(
            tmp_path / "nowhere", task=str(small), data=str(small.parent / "data"), ways=["zero-shot"], output=out
        )
    assert not out.exists()


# ------------------------------------------------------------------------------------------------------------ targets


@pytest.mark.parametrize(
    ("name", "ways"),
    [
        ("bank", ["zero-shot", "tuned", "tuned-fresh"]),
        ("shared", ["zero-shot", "zero-shot-s", "tuned", "tuned-fresh"]),
        ("metaicl", ["in-context"]),
        ("channel", ["in-context"]),
        ("multi-task-ft", ["zero-shot"]),
        ("mezo", ["zero-shot"]),
        ("fo-ft", ["zero-shot"]),
        ("zero-shot", ["zero-shot"]),
        ("icl", ["in-context"]),
    ],
)
def test_a_run_of_each_method(name: str, ways: list[str], run_of: Any) -> None:
    found = zofo.meta_test(run_of(name), **{**QUICK, "rates": (1e-3,)})
    assert list(found["ways"]) == ways
    assert found["k"] == (2 if name in ("metaicl", "channel", "icl") else 4)
    assert found["template"] == ("channel" if name == "channel" else "default")
    assert list(found["ways"][ways[0]]["tasks"]) == ["film", "kind", "quiz"]


@pytest.mark.parametrize("name", ["fo-peft", "mezo-lora"])
def test_a_run_whose_adapter_is_what_it_learned_is_not_measured_without_it(
    name: str, run_of: Any, tiny_model_dir: Path, small: Path
) -> None:
    """Refused by name, or measured with it: the plain model's numbers under the run's name are neither."""
    plain = zofo.meta_test(tiny_model_dir, task=str(small), data=str(small.parent / "data"), ways=["zero-shot"])
    try:
        found = zofo.meta_test(run_of(name), ways=["zero-shot"], output=None)
    except InputError:
        return
    assert found["ways"]["zero-shot"]["all"]["mean"] == pytest.approx(
        json.loads((run_of(name) / "run.json").read_text())["test"]["p"]["task_mean"], abs=0.3
    )
    assert found["ways"]["zero-shot"]["tasks"] != plain["ways"]["zero-shot"]["tasks"]


def test_an_export_measures_as_its_run(run_of: Any, tmp_path: Path) -> None:
    """Its theta, by the run's settings; tuned from s needs the run itself."""
    out = tmp_path / "export"
    zofo.export(run_of("bank"), out)
    plan = {"seeds": (100, 13), "rates": (1e-2,), "steps": 2, "test_examples": 6}
    ways = ["zero-shot", "in-context", "tuned-fresh"]
    ours, theirs = (zofo.meta_test(target, ways=ways, **plan) for target in (out, run_of("bank")))
    assert {k: v["all"] for k, v in scores(ours)["ways"].items()} == {
        k: v["all"] for k, v in scores(theirs)["ways"].items()
    }
    assert list(zofo.meta_test(out, **plan)["ways"]) == ["zero-shot"]
    with pytest.raises(InputError, match="tuned-fresh"):
        zofo.meta_test(out, ways=["tuned"], **plan)


def test_a_peft_directory_is_refused_by_name(run_of: Any, small: Path, tmp_path: Path) -> None:
    """An export with its adapter, and a directory with an adapter alone."""
    out = tmp_path / "export"
    zofo.export(run_of("shared"), out, adapter="s")
    with pytest.raises(InputError, match="adapter"):
        zofo.meta_test(out, ways=["zero-shot"], test_examples=4)
    (out / "zofo.json").unlink()
    claimed = tmp_path / "out"
    with pytest.raises(InputError, match="adapter"):
        zofo.meta_test(
            out, task=str(small), data=str(small.parent / "data"), ways=["zero-shot"], test_examples=4, output=claimed
        )
    assert not claimed.exists()


def test_a_merged_export_is_a_plain_model(run_of: Any, tmp_path: Path) -> None:
    """Of s in the weights: what zero-shot-s of the run is."""
    out = tmp_path / "merged"
    zofo.export(run_of("shared"), out, adapter="s", merge=True)
    expected = zofo.meta_test(run_of("shared"), ways=["zero-shot-s"], output=tmp_path / "a")
    found = zofo.meta_test(out, ways=["zero-shot"], output=tmp_path / "b")
    assert found["ways"]["zero-shot"]["all"]["mean"] == pytest.approx(
        expected["ways"]["zero-shot-s"]["all"]["mean"], abs=0.03
    )


def test_ways_that_the_target_has_not(run_of: Any, tiny_model_dir: Path, small: Path) -> None:
    data = str(small.parent / "data")
    with pytest.raises(InputError, match=r"tuned starts from the s of a meta-bilevel-zofo run.*tuned-fresh"):
        zofo.meta_test(tiny_model_dir, task=str(small), data=data, ways=["tuned"])
    with pytest.raises(InputError, match="adapters=shared"):
        zofo.meta_test(run_of("bank"), ways=["zero-shot-s"])
    with pytest.raises(InputError, match="tuned-fresh"):
        zofo.meta_test(run_of("metaicl"), ways=["tuned"])


def test_another_setting_for_a_run_keeps_its_layout_and_its_k(run_of: Any, small: Path) -> None:
    """A channel model is measured as one, with as many demonstrations as it was trained with."""
    found = zofo.meta_test(run_of("channel"), task=str(small), data=str(small.parent / "data"), **QUICK)
    assert (found["k"], found["template"]) == (2, "channel")


def test_ways_as_a_text_are_refused_in_words(tiny_model_dir: Path, small: Path) -> None:
    """Not letter by letter (unknown "z")."""
    with pytest.raises(InputError) as error:
        zofo.meta_test(tiny_model_dir, task=str(small), data=str(small.parent / "data"), ways="zero-shot,")
    assert '"z"' not in str(error.value)


def test_a_misspelt_field_of_the_plan_is_an_input_error(tiny_model_dir: Path, small: Path) -> None:
    with pytest.raises((InputError, TypeError), match="shots"):
        zofo.meta_test(tiny_model_dir, task=str(small), data=str(small.parent / "data"), shots=2)


def test_a_run_in_another_setting_keeps_what_it_held_out(run_of: Any, small: Path, tmp_path: Path) -> None:
    """Rates are chosen on the run's held-out tasks, not on the other setting's, which it may not have seen."""
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({"train": ["film", "kind"], "target": ["quiz"]}))
    plain: dict[str, Any] = {"seeds": (100,), "rates": (1e-3, 1e-2), "steps": 1, "test_examples": 4}
    data = str(small.parent / "data")
    found = zofo.meta_test(run_of("bank"), task=str(other), data=data, ways=["tuned"], output=tmp_path / "out", **plain)
    assert list(found["ways"]["tuned"]["tasks"]) == ["quiz"]
    trained = {"mood", "saga", "pick"}
    assert not set(found["held_out"]) & trained
    chosen_on = {path.parent.parent.name for path in (tmp_path / "out" / "parts").glob("tuned/rates/*/*/*.json")} | {
        path.parent.name for path in (tmp_path / "out" / "parts").glob("tuned/rates/*/*-100.json")
    }
    assert not chosen_on & (trained | {"quiz"})


def test_in_context_and_tuned_of_one_run_are_two_measurements(run_of: Any, tmp_path: Path) -> None:
    ways = ["tuned-fresh", "in-context", "zero-shot"]
    found = zofo.meta_test(run_of("metaicl"), ways=ways, output=tmp_path / "out", **QUICK)
    assert (found["k"], list(found["ways"])) == (2, ways)
    losses = [part["loss"] for part in parts_in(tmp_path / "out").values()]
    assert len(set(losses)) == len(losses) == 3 * (2 + 2 + 1)


def test_the_numbers_do_not_hang_on_the_batch_size(run_of: Any, tmp_path: Path) -> None:
    for size in (1, 32):
        zofo.meta_test(run_of("shared"), output=tmp_path / str(size), eval_batch_size=size, **QUICK)
    one, many = (parts_in(tmp_path / str(size)) for size in (1, 32))
    assert one.keys() == many.keys()
    for name, part in one.items():
        assert part["loss"] == pytest.approx(many[name]["loss"], rel=1e-5), name


def test_a_target_of_free_text_is_refused(tiny_model_dir: Path, small: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({"train": ["film"], "target": ["saga"]}))
    with pytest.raises(InputError, match="saga has rows without options"):
        zofo.meta_test(tiny_model_dir, task=str(other), data=str(small.parent / "data"))


def test_real_tasks_of_class_to_class(stories_dir: Path, shared_data: Path, tmp_path: Path) -> None:
    """A trained tiny model on the shared extracts: coverage, unseen domain, and zero-shot as `zofo eval` has it."""
    plain: dict[str, Any] = {
        "task": "class-to-class",
        "data": str(shared_data / "meta"),
        "test_examples": 6,
        "seeds": (100,),
    }
    found = zofo.meta_test(stories_dir, ways=["zero-shot", "in-context"], output=tmp_path / "out", **plain)
    tasks = list(found["ways"]["zero-shot"]["tasks"])
    assert tasks == ["ag_news", "dbpedia_14", "hate_speech18", "medical_questions_pairs"]
    assert found["ways"]["zero-shot"]["unseen_domain"]["mean"] == pytest.approx(
        found["ways"]["zero-shot"]["tasks"]["medical_questions_pairs"]["mean"]
    )
    assert "4 of 20 target tasks (20 %)" in found["coverage"][0]
    theirs = zofo.evaluate(
        stories_dir, task="class-to-class", data=str(shared_data / "meta"), overrides=["task.test_examples=6"]
    )
    assert theirs["task_mean"] == pytest.approx(found["ways"]["zero-shot"]["all"]["mean"], abs=1e-9)
