"""What is killed: runs of every method that trains, pruning, going back, and the verbs that read a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import write_rows
from tests.fuzz.world import METATEST, World, quietly
from tests.setting_files import task_args
from tests.small_setting import METHODS as OF_SETTINGS
from tests.small_setting import TRAIN

Args = Callable[[Path, int], list[str]]  # (the folder it all happens in, the number of the start) -> command line
METHODS: dict[str, list[str]] = {
    "bilevel-zofo": ["method.inner_steps=1"],
    "bilevel-zofo-snapshots": ["method.inner_steps=1", "train.max_replay_seconds=0"],
    "bilevel-ablations": ["method.inner_steps=1", "method.p_start=s"],
    "bilevel-fo": ["method.inner_steps=1"],
    "two-stage": [],
    "mezo": [],
    "mezo-adamw": ["rule=adamw"],
    "mezo-svrg": ["estimator=svrg"],
    "mezo-offload": [],
    "bilevel-zofo-offload": ["method.inner_steps=1"],
    "sparse-mezo": [],
    "fo-ft": [],
    "fo-peft": [],
}
SETTINGS = {"meta-bilevel-zofo": "bank", "metaicl": "metaicl", "multi-task-ft": "multi-task-ft"}
FEW = [
    *("train.batch_size=4", "train.max_steps=12", "train.eval_steps=4", "train.save_steps=4", "train.threads=1"),
    *("train.save_total_limit=2", "task.test_examples=4", "task.dev_examples=4", "task.train_examples=12"),
]
TWELVE = ["train.max_steps=12", "train.eval_steps=4", "train.save_steps=4", "train.save_total_limit=2"]


@dataclass(frozen=True)
class Undertaking:
    """args: the command line of the start of that number. before: what fills the folder first. aims: patterns of the
    points that kills are aimed at; none: all. run: `out` is a run. reads: a run or a file that must stay as it is.
    one_piece: what must be there whole or not at all, whenever it is killed."""

    name: str
    args: Args
    before: Callable[[Path], None] = lambda case: None
    aims: tuple[str, ...] = ()
    run: bool = False
    reads: tuple[Path, ...] = ()
    one_piece: tuple[str, ...] = ()


def _started(fixed: list[str]) -> Args:
    """A run that is begun, and after that gone on with, or begun again where there is no checkpoint."""

    def args(case: Path, start: int) -> list[str]:
        out = case / "out"
        there = any(out.glob("checkpoint-*"))
        more = [] if not start else ["--resume", "latest"] if there else ["--overwrite"]
        return ["train", *fixed, "--output-dir", str(out), *more]

    return args


def trainings(world: World) -> dict[str, list[str]]:
    """{name: the command line without verb and directory} of a run of each method that trains."""
    named, of_rows = {}, ["--model", str(world.model), "--task", str(world.rows)]
    for name, more in METHODS.items():
        method = name.removesuffix("-snapshots").removesuffix("-adamw").removesuffix("-svrg").removesuffix("-offload")
        named[name] = [*of_rows, "--method", method, *more, *FEW]
        if name.endswith("-offload"):
            named[name].append(f"model.offload_folder={world.root / 'disk'}")
    for name, short in SETTINGS.items():
        given = ["--model", str(world.model), *task_args(world.setting)]
        named[name] = [*given, *OF_SETTINGS[short], *TRAIN, *TWELVE]
    return named


def undertakings(world: World, finished: Path) -> list[Undertaking]:
    """All of them. finished: a folder for the runs that are gone back in, and read."""
    known = trainings(world)
    every = [Undertaking(name, _started(fixed), run=True, aims=_aims(name)) for name, fixed in known.items()]
    pruned = r"\.old|(rename|remove|rmdir) out/(checkpoint|best)-"
    for name in ("bilevel-zofo", "fo-ft"):
        often = [*known[name], "train.save_steps=2", "train.eval_steps=2", "train.save_total_limit=1"]
        every.append(Undertaking(f"pruning {name}", _started(often), aims=(pruned,), run=True))
    for name in ("mezo", "bilevel-zofo", "fo-peft"):
        every.append(_going_back(name, known[name], finished))
    every.append(_replaying(known["mezo-adamw"], finished))
    return [*every, *_readers(known, finished), *_converting(world), _meta_test(world)]


def _aims(name: str) -> tuple[str, ...]:
    return ("^update", "^update", "^update") if name.endswith("-offload") else ()


def _finished(folder: Path, name: str, fixed: list[str]) -> Path:
    run = folder / name
    if not run.exists():
        quietly("train", *fixed, "--output-dir", str(run))
    return run


def _going_back(name: str, fixed: list[str], folder: Path) -> Undertaking:
    """To the first of three checkpoints; started again so, or with `--resume latest`."""
    fixed = [*fixed, "train.save_total_limit=3"]
    run = _finished(folder, f"{name}-of-three", fixed)

    def args(case: Path, start: int) -> list[str]:
        out = case / "out"
        checkpoint = "latest" if start % 2 else str(out / "checkpoint-4")
        return ["train", *fixed, "--output-dir", str(out), "--resume", checkpoint]

    aims = (r"superseded|(rename|truncate|open|write) out/(journal|metrics|checkpoint|best|run)", "record|forward", ".")
    return Undertaking(f"back {name}", args, lambda case: _copied(run, case / "out"), aims, run=True)


def _replaying(fixed: list[str], folder: Path) -> Undertaking:
    """A finished run resumed for more steps: the journal is replayed, with Adam's moments."""
    run = _finished(folder, "mezo-adamw", fixed)

    def args(case: Path, start: int) -> list[str]:
        longer = ["train.max_steps=16", "--output-dir", str(case / "out"), "--resume", "latest"]
        return ["train", *[one for one in fixed if one != "train.max_steps=12"], *longer]

    return Undertaking("replay on resume", args, lambda case: _copied(run, case / "out"), ("record", "."), run=True)


def _readers(known: dict[str, list[str]], folder: Path) -> Iterator[Undertaking]:
    mezo, bilevel = (_finished(folder, name, known[name]) for name in ("mezo", "bilevel-zofo"))
    soft = _finished(folder, "soft", [*known["fo-peft"], "--adapter", "prompt"])

    def of(verb: str, run: Path, output: str, *more: str) -> Args:
        option = ["--output"] if verb == "eval" else []
        return lambda case, start: [verb, str(run), *option, str(case / output), *more]

    yield Undertaking("eval mezo", of("eval", mezo, "out"), aims=("record", "."), reads=(mezo,))
    yield Undertaking("eval file", of("eval", bilevel, "out.jsonl"), reads=(bilevel,), one_piece=("out.jsonl",))
    for name, run, more in (
        ("export mezo", mezo, []),
        ("export merged", bilevel, ["--merge"]),
        ("export separate", bilevel, ["--separate"]),
        ("export soft", soft, []),
    ):
        yield Undertaking(name, of("export", run, "out", *more), reads=(run,), one_piece=("out",))
    older = folder / "older-export"
    if not older.exists():
        quietly("export", str(mezo), str(older))
    yield Undertaking(
        "export over another",
        of("export", bilevel, "out", "--overwrite"),
        lambda case: _copied(older, case / "out"),
        reads=(bilevel,),
        one_piece=("out",),
    )


def _converting(world: World) -> Iterator[Undertaking]:
    """Rows of two tasks for meta-training; where one is there already, it is replaced."""
    sources = world.root / "sources"
    if not sources.exists():
        rows = [json.loads(line) for line in world.rows.read_text("utf-8").splitlines()]
        for name in ("films", "books"):
            write_rows(sources / f"{name}.jsonl", rows)
    named = [str(path) for path in sorted(sources.iterdir())]

    def args(case: Path, start: int) -> list[str]:
        there = ["--overwrite"] if (case / "out").exists() else []
        return ["data", "meta", *named, "--output-dir", str(case / "out"), *there]

    def older(case: Path) -> None:
        quietly("data", "meta", *named, "--output-dir", str(case / "out"), "--train-examples", "5")

    pieces = ("out/films", "out/books")
    yield Undertaking("data meta", args, reads=(sources,), one_piece=pieces)
    yield Undertaking("data meta over another", args, older, reads=(sources,), one_piece=pieces)


def _meta_test(world: World) -> Undertaking:
    run = world.meta_run
    more = ["--ways", "zero-shot,in-context,tuned", *METATEST]
    return Undertaking("meta-test", lambda case, start: ["meta-test", str(run), "--output", str(case / "out"), *more],
                       reads=(run,))  # fmt: skip


def _copied(source: Path, target: Path) -> None:
    shutil.copytree(source, target)
