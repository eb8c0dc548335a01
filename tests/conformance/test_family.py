"""Any estimator with any rule, mask, architecture, dtype and method: theta intact, replay exact, resume exact."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from tests import forked
from tests.cut import cut
from tests.family_runs import Directories, hashes, save_rows
from tests.pairwise_runs import DTYPES, STEPS, Case, Cover, Play, check
from tests.tiny_models import FAMILIES
from tests.traces import traces
from zofo import InputError, finetune, load
from zofo.api.configure import resolve
from zofo.config import registry
from zofo.zo.journal import Journal, Outcome, read_header, read_records

ESTIMATORS, RULES, MASKS = (registry.names(kind) for kind in ("estimators", "rules", "masks"))
COVER = Cover(
    {
        "family": FAMILIES,
        "rule": RULES,
        "estimator": ESTIMATORS,
        "mask": ["none", *MASKS],
        "dtype": list(DTYPES),
        "method": ["mezo", "bilevel-zofo"],
        "shift": ["layer", "copy"],
        "q": [1, 2],
        "law": ["rademacher", "gaussian", "sphere"],
        "stored": [("float32", "stochastic"), ("bfloat16", "nearest"), ("8bit", "split")],
    },
    lambda row: not Case(**row).refused,
)


# ----------------------------------------------------------------------------------------------------- models in memory


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_any_estimator_goes_with_any_rule(estimator: str, rule: str, tmp_path: Path) -> None:
    turn = ESTIMATORS.index(estimator) + RULES.index(rule)
    played = check(Case(estimator=estimator, rule=rule), tmp_path, [turn % 2 == 0])
    assert len(played.watched.seen) == STEPS


def masked(estimator: str, mask: str) -> Case:
    """A rule whose state is one of the weights that move."""
    return Case(dtype="float32", estimator=estimator, mask=mask, rule="adam", stored=("bfloat16", "stochastic"))


PAIRS = [(e, m) for e in ESTIMATORS for m in MASKS if not masked(e, m).refused]  # the refused ones: see below


@pytest.mark.parametrize(("estimator", "mask"), PAIRS)
def test_any_estimator_goes_with_any_mask(estimator: str, mask: str, tmp_path: Path) -> None:
    """With a rule whose state is one of the weights that move. Gains rest, but where gradients chose them."""
    case = masked(estimator, mask)
    turn = ESTIMATORS.index(estimator) + MASKS.index(mask)
    played = check(case, tmp_path, [turn % 2 == 0])
    assert None not in {g.terms[0][1].support for g in played.watched.seen}
    same = {n: float((t == played.first[n]).float().mean()) for n, t in played.theta.items()}
    thin = [name for name, t in played.theta.items() if t.ndim == 1]
    if mask in ("magnitude", "random"):
        assert {same[name] for name in thin} == {1.0}
        assert all(0 < same[name] < 0.99 for name in same if name not in thin)
    elif mask == "sensitivity":
        assert all(0.5 < share < 0.7 for share in same.values())
    else:
        turns = [frozenset(g.terms[0][1].support.parts) for g in played.watched.seen]  # pyright: ignore
        assert sum(map(len, turns)) == len(frozenset.union(*turns)) == len(played.theta)  # four blocks, in turn


def test_the_gradients_of_a_mask_stay_out_of_the_adapters(tmp_path: Path) -> None:
    """The first step of p and s is the same to the bit whether or not theta's mask takes gradients beside it."""
    ends = []
    for mask in ("none", "sensitivity"):
        played = Play(Case(method="bilevel-zofo", mask=mask), Journal.create(tmp_path / f"{mask}.bin", {}))
        played.run(0, 1)
        assert all(p.grad is None for p in played.problem.loss.scorer.model.parameters())
        assert any(p.requires_grad for p in played.problem.loss.scorer.model.parameters())
        ends.append(played.end())
    assert ends[0][1] == ends[1][1]
    assert ends[0][0] != ends[1][0]


@pytest.mark.parametrize(
    ("estimator", "rule", "mask", "law"),
    [
        ("spsa", "adam", "random", "gaussian"),
        ("spsa", "sgd", "blocks", "sphere"),
        ("lozo", "sgd", "random", "-"),
        ("one-sided", "sign", "none", "sphere"),
        ("one-sided", "momentum", "sensitivity", "rademacher"),
        ("subzero", "adamw", "none", "-"),
    ],
)
def test_in_place_the_drift_is_replayed_too(estimator: str, rule: str, mask: str, law: str, tmp_path: Path) -> None:
    check(Case(estimator=estimator, rule=rule, mask=mask, law=law, q=2, shift="inplace"), tmp_path, [False])


COVER.fill()


# A third in every run of the suite; the others with `make test-slow`
THIRDS = [pytest.param(row, marks=pytest.mark.slow) if n % 3 else row for n, row in enumerate(COVER.rows)]


@pytest.mark.parametrize("row", THIRDS, ids=lambda row: str(Case(**row)))
def test_every_two_values_of_every_two_choices_meet(row: dict[str, Any], tmp_path: Path) -> None:
    """Taken up again from a snapshot or from the journal, in turn."""
    check(Case(**row), tmp_path, [COVER.rows.index(row) % 2 == 0])


def test_the_cover_is_one() -> None:
    assert COVER.missing() == set()
    assert len(COVER.rows) < 100


# --------------------------------------------------------------------------------------------------------- real runs

RUNS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "sparse-mezo": (
        {"method": {"name": "sparse-mezo", "lr": 1e-3}},
        [
            "rule=adam",
            "rule.state=bfloat16",
            "mask.refresh=2",
            "mask.scope=all",
            "estimator.q=2",
            "model.dtype=bfloat16",
        ],
    ),
    "svrg": (
        {"method": {"name": "mezo", "lr": 1e-4}},
        [
            "estimator=svrg",
            "estimator.anchor=disk",
            "estimator.refresh=4",
            "estimator.law=sphere",
            "mask=magnitude",
            "estimator.anchor_batches=2",
            "rule=momentum",
            "rule.state=8bit",
            "train.max_replay_seconds=0",
        ],
    ),
    "bilevel": (
        {"method": {"name": "bilevel-zofo", "inner_steps": 1, "lr_theta": 1e-4}, "adapter": "lora"},
        [
            "estimator=subzero",
            "estimator.rank=3",
            "estimator.refresh=2",
            "mask=sensitivity",
            "mask.density=0.1",
            "rule=conservative",
            "rule.rounding=split",
            "model.dtype=bfloat16",
        ],
    ),
    "adapter": (
        {"method": {"name": "mezo", "lr": 1e-2}, "adapter": "prefix"},
        [
            "estimator=svrg",
            "estimator.refresh=4",
            "mask=magnitude",
            "estimator.law=sphere",
            "estimator.anchor_batches=1",
            "rule=sign",
        ],
    ),
    "blocks": (
        {"method": {"name": "mezo", "lr": 1e-3}},
        [
            "estimator=lozo",
            "estimator.refresh=3",
            "mask=blocks",
            "mask.order=random",
            "rule=adamw",
            "rule.state=8bit",
        ],
    ),
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(a tiny Llama, rows)."""
    root = tmp_path_factory.mktemp("family")
    return Directories(root)("llama"), save_rows(root)


def train(places: tuple[Path, Path], out: Path, name: str, steps: int, **more: Any) -> Any:
    sections, overrides = RUNS[name]
    return finetune(
        str(places[0]),
        str(places[1]),
        **sections,
        output_dir=out,
        max_steps=steps,
        eval_steps=6,
        save_steps=6,
        batch_size=4,
        logging_steps=1,
        overrides=["model.device=cpu", *overrides],
        **more,
    )


@pytest.mark.parametrize("name", RUNS)
def test_a_run_goes_on_and_its_files_give_the_model(name: str, places: tuple[Path, Path], tmp_path: Path) -> None:
    """Twelve counted steps at once, or six and six more: equal journals, numbers and deployed weights."""
    whole = train(places, tmp_path / "whole", name, 12)
    train(places, tmp_path / "cut", name, 6)
    resumed = train(places, tmp_path / "cut", name, 12, resume="latest")
    journals = [(tmp_path / part / "journal.bin").read_bytes() for part in ("whole", "cut")]
    assert journals[0] == journals[1]
    assert (whole.info["dev"], whole.info["test"]) == (resumed.info["dev"], resumed.info["test"])
    digests = [hashes(load(run.path)[0]) for run in (whole, resumed)]
    assert digests[0] == digests[1]
    header, start = read_header(whole.path / "journal.bin")
    outcomes = {record.outcome for record in read_records(whole.path / "journal.bin", start)}
    assert (Outcome.SUPPORT in outcomes) == (header["mask"]["name"] in ("magnitude", "sensitivity"))


def test_a_killed_sparse_stateful_run_ends_with_the_bytes_of_one_that_was_not(
    places: tuple[Path, Path], tmp_path: Path
) -> None:
    """SIGKILL behind the checkpoint at 20, in a real process; Adam's moments and the bands' thresholds are rebuilt."""
    options = [
        "rule=adam",
        "rule.state=8bit",
        "mask.refresh=7",
        "estimator.q=2",
        "method.lr=1e-3",
        "train.threads=1",
        "train.max_steps=46",
        "train.eval_steps=23",
        "train.save_steps=20",
        "train.batch_size=4",
    ]

    def run(out: Path, **more: Any) -> Path:
        model, rows = map(str, places)
        return finetune(model, rows, "sparse-mezo", output_dir=out, overrides=options, **more).path

    out = tmp_path / "killed"
    args = ["--model", str(places[0]), "--task", str(places[1]), "--output-dir", str(out), "--method", "sparse-mezo"]
    done = forked.run(cut, str(int(signal.SIGKILL)), "os:rename", "checkpoint-20", "1", "train", *args, *options)
    assert done.returncode == -signal.SIGKILL
    assert not (out / "run.json").exists()
    assert traces(run(out, resume="latest")) == traces(run(tmp_path / "whole"))


# ---------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("overrides", "place", "reason"),
    [
        (["mask=magnitude", "estimator.shift=inplace"], "mask.name", "use estimator.shift=layer"),
        (["estimator=svrg", "estimator.shift=inplace"], "estimator.shift", "inplace"),
        (["estimator=svrg", "mask=magnitude", "mask.refresh=5"], "estimator.name", "without refresh"),
        (["estimator=svrg", "mask=blocks"], "estimator.name", "without refresh"),
        (["rule=conservative", "estimator.shift=inplace"], "rule.name", "estimator.shift=layer"),
        (["mask=magnitude", "mask.sparsity=0.5", "mask.density=0.4"], "mask.density", "do not add up to 1"),
        (["mask=magnitude", "mask.between=[0.5, 0.25]"], "mask.between", "a < b"),
        (["mask=magnitude", "mask.between=[0.5, 1.5]"], "mask.between", "<= 1"),
        (["mask=random", "mask.sparsity=1.0"], "mask.sparsity", "< 1"),
        (["mask=random", "mask.density=0"], "mask.density", "> 0"),
        (["estimator=spsa", "estimator.q=0"], "estimator.q", ">= 1"),
        (["rule=sgd", "rule.scalar_sign=true", "rule.clip=1"], "rule.scalar_sign", "leave out"),
        (["mask=magnitud"], "mask", "magnitude"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(
    overrides: list[str], place: str, reason: str, places: tuple[Path, Path], tmp_path: Path
) -> None:
    sections: dict[str, Any] = {"model": str(places[0]), "task": str(places[1]), "method": "mezo"}
    with pytest.raises(InputError) as refused:
        resolve(None, overrides, None, train={"output_dir": str(tmp_path / "x")}, source="test", **sections)
    lines = [line for line in str(refused.value).splitlines() if line.startswith(place)]
    assert len(lines) == 1, str(refused.value)
    assert reason in lines[0]


@pytest.mark.parametrize(
    ("sections", "overrides", "reason"),
    [
        ({"method": {"name": "mezo"}, "adapter": "lora"}, ["mask=magnitude"], "is 0 in more than"),
        (
            {"method": {"name": "bilevel-zofo", "independent_z": True, "inner_steps": 1}, "adapter": "lora"},
            ["estimator=svrg"],
            "independent_z",
        ),
        ({"method": "mezo"}, ["mask=blocks", "mask.per_step=99"], "mask.per_step: 99 is more than"),
        ({"method": "mezo"}, ["rule=adam", "rule.rounding=split"], "rule.rounding: split"),
        ({"method": "fo-peft", "adapter": "lora"}, ["mask=magnitude"], "mask"),
    ],
)
def test_what_the_model_refuses(
    sections: dict[str, Any], overrides: list[str], reason: str, places: tuple[Path, Path], tmp_path: Path
) -> None:
    """A fresh LoRA's zeros have no small weights; a model has only so many blocks."""
    with pytest.raises(InputError) as refused:
        finetune(
            str(places[0]),
            str(places[1]),
            **sections,
            output_dir=tmp_path / "x",
            max_steps=4,
            batch_size=4,
            overrides=["model.device=cpu", *overrides],
        )
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)
