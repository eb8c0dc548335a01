"""Runs whose weights are in a file: the bytes of a run in memory, for all that is allowed there; others are refused."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from tests.family_runs import Watch, hashes, save_family, save_rows
from tests.forked import run as run_zofo
from tests.forked import zofo_main
from tests.offloaded import Passes, folder_is_empty, no_room
from tests.thinned import latin
from zofo import evaluate, finetune, load
from zofo.config import registry
from zofo.config.resolve import resolve
from zofo.errors import InputError

ESTIMATORS = (
    *("spsa", "spsa estimator.law=gaussian", "spsa estimator.law=sphere", "spsa estimator.q=3"),
    *("one-sided", "one-sided estimator.law=sphere", "lozo estimator.refresh=2", "subzero estimator.refresh=2"),
    "fzoo estimator.q=2 estimator.eps=0.1",
)
RULES = (
    *("sgd", "sgd rule.normalize=true", "sgd rule.rounding=nearest", "sign", "conservative", "meazo"),
    *("adamezo rule.h=2", "seed-momentum rule.h=2"),
)
MASKS = (
    *("", "magnitude mask.refresh=2", "magnitude mask.refresh=2 mask.density=0.1", "random mask.density=0.3"),
    *("random mask.density=0.3 mask.refresh=1", "blocks"),
)
REFUSED = {
    "estimators": {"svrg": "estimator svrg keeps a copy"},
    "rules": {name: f"rule {name} keeps numbers for every weight" for name in ("adam", "adamw", "momentum", "r-adazo")},
    "masks": {"sensitivity": "mask sensitivity takes a gradient of every weight"},
}
GIVEN = ["model.name=some/model", "task.name=sst2", "train.output_dir=out"]
STEPS = 4


def settings(estimator: str, rule: str, mask: str) -> list[str]:
    """Overrides of "name field=value ..." each."""
    if "rule.h" in rule and mask.startswith("magnitude"):  # whose bands must stay
        mask = mask.replace(" mask.refresh=2", "")
    texts = []
    for part, text in (("estimator", estimator), ("rule", rule), ("mask", mask)):
        name, *fields = text.split() or [""]
        texts += [f"{part}.name={name}", *fields] if name else []
    return texts


def train(model: Path, rows: Path, out: Path, *overrides: str, method: str = "mezo", **more: Any) -> list[bytes]:
    """What a run is: its journal, its weights at the end, its evaluation."""
    watch = Watch()
    finetune(
        str(model),
        str(rows),
        {"name": method, **({"lr": 1e-3} if method.endswith("mezo") else {}), **more},
        overrides=[f"train.max_steps={STEPS}", "train.eval_steps=2", "train.batch_size=4", "train.seed=5", *overrides],
        output_dir=str(out),
        callbacks=[watch],
    )
    journal = out / "journal.bin"
    tables = [path.read_bytes() for path in sorted(out.glob("eval/*.jsonl"))]
    return [journal.read_bytes() if journal.is_file() else b"", str(sorted(watch.final)).encode(), *tables]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], Path]:
    root = tmp_path_factory.mktemp("offload")
    return {family: save_family(family, root) for family in ("llama", "opt")}, save_rows(root)


@pytest.mark.parametrize(("estimator", "rule", "mask"), latin(ESTIMATORS, RULES, MASKS))
def test_the_bytes_of_a_run_in_memory(
    estimator: str, rule: str, mask: str, world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, rows = world
    number = ESTIMATORS.index(estimator) + RULES.index(rule) + MASKS.index(mask)
    model = models[("llama", "opt")[number % 2]]
    texts = [*settings(estimator, rule, mask), f"model.dtype={('float32', 'bfloat16')[number // 2 % 2]}"]
    if "bfloat16" in texts[-1]:
        model = as_bfloat16(model, tmp_path / "narrow")
    plain = train(model, rows, tmp_path / "plain", *texts)
    no_room(monkeypatch)
    passes = Passes(monkeypatch)
    there = train(model, rows, tmp_path / "there", *texts, f"model.offload_folder={tmp_path / 'disk'}")
    assert there == plain
    assert len(passes.left) > 2 * STEPS
    assert folder_is_empty(tmp_path / "disk")


def as_bfloat16(model: Path, to: Path) -> Path:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).save_pretrained(to)
    AutoTokenizer.from_pretrained(model).save_pretrained(to)
    return to


METHODS = [
    *(("bilevel-zofo", adapter) for adapter in registry.names("adapters")),
    *(("bilevel-ablations", "lora"), ("two-stage", "prompt"), ("sparse-mezo", None), ("fo-peft", "lora")),
    *(("zero-shot", None), ("icl", None)),
]


@pytest.mark.parametrize(("method", "adapter"), METHODS)
def test_methods_and_adapters(
    method: str, adapter: str | None, world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """p and s in memory, theta in the file; of methods that leave theta alone nothing is copied."""
    models, rows = world
    texts = [f"adapter.name={adapter}"] if adapter else []
    more = {"inner_steps": 1} if method in ("bilevel-zofo", "bilevel-ablations", "two-stage") else {}
    plain = train(models["llama"], rows, tmp_path / "plain", *texts, method=method, **more)
    no_room(monkeypatch)
    disk = tmp_path / "disk"
    there = train(
        models["llama"], rows, tmp_path / "there", *texts, f"model.offload_folder={disk}", method=method, **more
    )
    assert there == plain
    assert not disk.exists() or folder_is_empty(disk)


def test_one_reading_of_theta_for_an_estimate_and_the_update_before_it(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, rows = world
    no_room(monkeypatch)
    passes = Passes(monkeypatch)
    counts, asked = list[int](), list[int]()

    class Count(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            counts.append(len(passes.left))
            asked.append(len(passes.asked))

    texts = ["train.max_steps=6", "train.logging_steps=1", "train.eval_steps=100", f"model.offload_folder={tmp_path}"]
    finetune(
        str(models["llama"]),
        str(rows),
        {"name": "mezo", "lr": 1e-3},
        overrides=[*texts, "train.batch_size=4"],
        output_dir=str(tmp_path / "run"),
        callbacks=[Count()],
    )
    between = [after - before for before, after in itertools.pairwise(counts[:6])]
    assert between == [2] * 5  # two layers, each left once a step
    assert passes.asked[asked[0] : asked[5]] == [1, 0] * 5


@pytest.mark.parametrize("method", ["mezo", "bilevel-zofo"])
def test_callbacks_see_the_weights_of_a_run_in_memory(
    method: str, world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each event, also where an update would still wait for the next forward."""
    models, rows = world
    seen: list[tuple[str, int, str]] = []

    class See(TrainerCallback):
        pass

    def look(event: str) -> Any:
        return lambda self, args, state, control, model=None, **_: seen.append(
            (event, state.global_step, str(sorted(hashes(model))))
        )

    for event in ("on_step_begin", "on_log", "on_step_end", "on_evaluate", "on_save", "on_train_end"):
        setattr(See, event, look(event))

    def run(name: str, *texts: str) -> list[tuple[str, int, str]]:
        seen.clear()
        cadence = ["train.max_steps=4", "train.eval_steps=2", "train.logging_steps=1", "train.batch_size=4"]
        more = {"lr": 1e-3} if method == "mezo" else {"inner_steps": 1}
        finetune(
            str(models["llama"]),
            str(rows),
            {"name": method, **more},
            overrides=[*cadence, *texts],
            output_dir=str(tmp_path / name),
            callbacks=[See()],
        )
        return list(seen)

    plain = run("plain")
    no_room(monkeypatch)
    assert run("there", f"model.offload_folder={tmp_path / 'disk'}") == plain


@pytest.mark.parametrize("verb", ["evaluate", "load", "resume"])
def test_a_run_is_opened_with_its_weights_in_a_file(
    verb: str, world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, rows = world
    train(models["opt"], rows, tmp_path / "plain")
    no_room(monkeypatch)
    there = tmp_path / "there"
    train(models["opt"], rows, there, f"model.offload_folder={tmp_path / 'disk'}")
    if verb == "evaluate":
        assert evaluate(str(there)) == evaluate(str(tmp_path / "plain"))
    elif verb == "load":
        assert hashes(load(str(there))[0]) == hashes(load(str(tmp_path / "plain"))[0])
    else:
        journals = []  # the folder may come and go
        for run, folder in ((there, tmp_path / "disk"), (tmp_path / "plain", tmp_path / "disk"), (there, "null")):
            from_there = ["--resume", "latest", "--output-dir", str(run), "--max-steps", str(STEPS + 4)]
            from_there += [f"model.offload_folder={folder}"]
            assert run_zofo(zofo_main, "train", *from_there).returncode == 0
            journals.append((run / "journal.bin").read_bytes())
        assert journals[0] == journals[1] == journals[2]


def refusals() -> Iterator[Any]:
    for kind, part in (("estimators", "estimator"), ("rules", "rule"), ("masks", "mask")):
        for name in registry.names(kind):
            allowed = name not in REFUSED[kind]
            yield pytest.param(f"{part}.name={name}", None if allowed else REFUSED[kind][name], id=f"{kind}-{name}")
    yield pytest.param("estimator.shift=copy", "estimator.shift=copy makes or writes all shifted weights; use layer")
    yield pytest.param("estimator.shift=inplace", "estimator.shift=inplace makes or writes")
    yield pytest.param("rule.rounding=split", "rule.rounding=split keeps 2 bytes for every weight")
    yield pytest.param("model.device=cuda", "not for cuda; give model.device=cpu")
    yield pytest.param("model.quantization=int8", "quantised weights are no part of the file")
    yield pytest.param("method.name=fo-ft", "fo-ft needs a gradient of every weight; use mezo")


@pytest.mark.parametrize(("text", "fault"), refusals())
def test_what_needs_more_of_theta_in_memory_is_refused_before_a_model_is_read(text: str, fault: str | None) -> None:
    texts = [text] if text.startswith("method.") else ["method.name=mezo", text]
    given = [*GIVEN, "model.offload_folder=there", *texts]
    if fault is None:
        resolve(overrides=given)
        return
    with pytest.raises(InputError, match=r"model\.offload_folder: ") as caught:
        resolve(overrides=given)
    assert fault in str(caught.value)


def test_the_hash_of_a_run_does_not_know_where_its_weights_were() -> None:
    given = [*GIVEN, "method.name=mezo"]
    assert resolve(overrides=given).hash() == resolve(overrides=[*given, "model.offload_folder=x"]).hash()
