"""The same bytes twice? Over hash seeds, locales, time zones, folders, masks; and what another thread count changes.

    nice python -m reliability.determinism --out results/determinism.json

Each method that trains is run once, and a run is evaluated, exported and meta-tested, in a process of its own: the
reference. Then again, in processes whose surroundings differ in one thing each (`SURROUNDINGS`). All files are compared
byte for byte; `_alike.py` says by name what is not. With other numbers of threads, on a model whose tensors are large
enough for several, differences are no fault: they are measured. It is a fault where a journal does not replay to the
same bits under another number of threads.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conftest import llama_config, make_tokenizer, save_tiny
from tests.fuzz.world import METATEST, World

from reliability._alike import contents, unlike
from reliability._undertakings import METHODS, SETTINGS, trainings
from zofo.config.json_text import dumps

HERE = "@HERE@"  # in a command: the folder of all that it writes
KEEP = ("PATH", "HOME", "PYTHONPATH", "LD_LIBRARY_PATH", "NUMBA_CACHE_DIR", "TMPDIR")
PLAIN = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "TZ": "UTC", "OMP_NUM_THREADS": "1"}
SHOWN = ["train.logging_steps=1"]
# What says how often something is shown, and what was
OF_SHOWN = (
    "config.yaml",
    "metrics.jsonl",
    "trainer_state.json",
    "zofo.json",
    "state.json",
    "run.json",
    "manifest.json",
)


@dataclass(frozen=True)
class Surroundings:
    """env: None takes a variable away. folder: the name of the output directory. more: of each training."""

    env: dict[str, str | None] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    folder: str = "out"
    elsewhere: bool = False  # the working directory
    umask: int = 0o022
    more: tuple[str, ...] = ()


ASCII: dict[str, str | None] = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
SURROUNDINGS = {
    "the same again": Surroundings(),
    "hash seed 1": Surroundings({"PYTHONHASHSEED": "1"}),
    "hash seed drawn": Surroundings({"PYTHONHASHSEED": "random"}),
    "locale C, no UTF-8 mode": Surroundings(ASCII),
    "locale POSIX, no UTF-8 mode": Surroundings({**ASCII, "LC_ALL": "POSIX"}),
    "no LANG, no LC_ALL": Surroundings({"LC_ALL": None, "LANG": None, "PYTHONUTF8": "0"}),
    "a terminal of 40 columns, TZ Kiritimati": Surroundings({"TZ": "Pacific/Kiritimati", "COLUMNS": "40"}),
    "another working directory": Surroundings(elsewhere=True),
    "another output directory": Surroundings(folder="Läufe 运行 [1]"),
    "umask 077": Surroundings(umask=0o077),
    "python -O": Surroundings(flags=("-O",)),
    "more lines shown": Surroundings(more=tuple(SHOWN)),
}


def locales() -> dict[str, Surroundings]:
    """Other languages that this machine has, in one of which i and I are no pair and one of which writes 0,5."""
    try:
        shown = subprocess.run(["locale", "-a"], capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        return {}
    wanted = [name for name in shown if name.startswith(("tr_TR", "de_DE", "ja_JP", "ar_"))]
    return {f"locale {name}": Surroundings({"LC_ALL": name, "PYTHONUTF8": "0"}) for name in wanted}


def commands(world: World, threads: int, of: tuple[str, ...] = ()) -> list[tuple[str, list[str]]]:
    """(name, command line) of everything. of: these trainings alone, and what reads them."""
    held = []
    for name, args in trainings(world).items():
        if not of or name in of:
            args = [f"train.threads={threads}" if arg == "train.threads=1" else arg for arg in args]
            held.append((name, ["train", *args, "--output-dir", f"{HERE}/{name}"]))
    held += [
        ("eval", ["eval", f"{HERE}/mezo", "--output", f"{HERE}/eval"]),
        ("export", ["export", f"{HERE}/mezo", f"{HERE}/export"]),
        ("export-separate", ["export", f"{HERE}/bilevel-zofo", f"{HERE}/export-separate", "--separate"]),
    ]
    if not of:
        run = f"{HERE}/meta-bilevel-zofo"
        held.append(("meta-test", ["meta-test", run, "--output", f"{HERE}/meta-test", *METATEST]))
    return held


def run_all(plan: Path) -> None:
    """In a process of its own: every command of a plan."""
    from zofo.cli import main as cli

    said = json.loads(plan.read_text("utf-8"))
    for name, args in said["commands"]:
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
            code = cli.run([arg.replace(HERE, said["folder"]) for arg in args])
        if code:
            raise SystemExit(f"{name}: exit {code}: {shown.getvalue()[-1500:]!a}")


def started(root: Path, name: str, around: Surroundings, doing: list[tuple[str, list[str]]], threads: int = 1) -> Path:
    """The folder of what a process in these surroundings wrote. Raises SystemExit with what it said where it failed."""
    folder = root / name.replace(" ", "-") / around.folder
    folder.parent.mkdir(parents=True)
    plan = folder.parent / "plan.json"
    doing = [(each, [*args, *(around.more if args[0] == "train" else ())]) for each, args in doing]
    plan.write_text(dumps({"folder": str(folder), "commands": doing}), "utf-8")
    env = {key: os.environ[key] for key in KEEP if key in os.environ} | PLAIN | {"OMP_NUM_THREADS": str(threads)}
    env = {key: value for key, value in {**env, **around.env}.items() if value is not None}
    done = subprocess.run(
        [sys.executable, *around.flags, "-m", "reliability.determinism", "--plan", str(plan)],
        env={**env, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), env.get("PYTHONPATH", "")])},
        cwd=folder.parent if around.elsewhere else None,
        umask=around.umask,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr.decode('utf-8', 'replace')[-1500:]}")
    return folder


def compared(folder: Path, reference: Path, around: Surroundings) -> tuple[int, list[str]]:
    """(how many files, those that differ)."""
    without = OF_SHOWN if around.more else ()
    ours, theirs = (contents(each, without, places=not around.more, here=each) for each in (folder, reference))
    if around.folder != "out":  # the digest of a configuration that holds the output directory
        ours, theirs = (contents(each, ("config.yaml",), places=False, here=each) for each in (folder, reference))
    return len(theirs), unlike(ours, theirs)


# ----------------------------------------------------------------------------------------------------------- threads


def large_model(folder: Path) -> Path:
    """Of 3 million weights, in tensors of up to 262,144: enough for several threads, in kernels and products."""
    tokenizer = make_tokenizer()
    config = llama_config(tokenizer, tied=True)
    config.hidden_size, config.intermediate_size, config.head_dim = 256, 1024, 64
    with contextlib.redirect_stderr(io.StringIO()):
        return save_tiny(folder, config, tokenizer)


def losses(run: Path) -> Iterator[tuple[int, str, float]]:
    """(step, name, value) of all numbers in a run's metrics, but for times."""
    for line in (run / "metrics.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        for key, value in row.items():
            if isinstance(value, float) and key != "seconds":
                yield row["step"], f"{row['event']} {key}", value


def theta(run: Path) -> dict[str, Any]:
    """The weights of a run's model: the base's, moved by its journal, with its adapter merged in."""
    from safetensors.torch import load_file

    out = run.parent / f"{run.name}-exported"
    if not out.exists():
        import zofo

        zofo.export(run, out)
    return load_file(next(iter(sorted(out.rglob("model.safetensors")))))


def measured(run: Path, reference: Path) -> dict[str, Any]:
    """What differs between two runs of one method, in figures."""
    ours, theirs = (contents(each, ("config.yaml",), places=False, here=each) for each in (run, reference))
    files = sorted({line.partition(":")[0] for line in unlike(ours, theirs)})
    pairs = [(a, b) for a, b in zip(losses(run), losses(reference)) if a[:2] == b[:2] and a[2] != b[2]]
    apart = max(
        (float((a - b).abs().max()) for a, b in zip(theta(run).values(), theta(reference).values())), default=0.0
    )
    return {
        "files": files,
        "first_step": pairs[0][0][0] if pairs else None,
        "first_number": pairs[0][0][1] if pairs else None,
        "largest_difference_of_a_loss": max((abs(a[2] - b[2]) for a, b in pairs if "loss" in a[1]), default=0.0),
        "largest_difference_of_a_weight": apart,
    }


def of_threads(root: Path, counts: tuple[int, ...]) -> tuple[dict[str, Any], list[str]]:
    """({method: {number of threads: what it changes}}, faults)."""
    import torch

    torch.set_num_threads(1)
    world = World(root / "large")
    world.root.mkdir()
    world.__dict__["model"] = large_model(world.root / "model")
    of = ("mezo", "mezo-adamw", "bilevel-zofo", "two-stage", "fo-ft", "fo-peft")
    plain = Surroundings()
    folders = {n: started(root, f"{n} threads", plain, commands(world, n, of), n) for n in (1, *counts)}
    again = started(root, "4 threads again", plain, commands(world, counts[-1], of), counts[-1])
    table: dict[str, Any] = {}
    for name in of:
        table[name] = {str(n): measured(folders[n] / name, folders[1] / name) for n in counts}
        table[name]["the same number again"] = measured(again / name, folders[counts[-1]] / name)["files"]
    faults = [f"{n} threads twice: {f}" for n in table for f in table[n]["the same number again"]]
    for n in (1, *counts):  # exported there with n threads; here again, with one
        there = (folders[n] / "export" / "model.safetensors").read_bytes()
        theta(folders[n] / "mezo")
        if (folders[n] / "mezo-exported" / "model.safetensors").read_bytes() != there:
            faults.append(f"the journal of a run with {n} threads replays to other bits with one")
    return table, faults


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m reliability.determinism", description=__doc__)
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    parser.add_argument("--only", nargs="*", help="surroundings by name")
    parser.add_argument("--threads", nargs="*", type=int, default=[2, 4])
    parser.add_argument("--plan", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.plan:
        return run_all(args.plan)
    begun, faults, figures = time.monotonic(), [], {}
    assert {*METHODS, *SETTINGS}
    with tempfile.TemporaryDirectory(prefix="zofo-determinism-") as folder:
        root = Path(folder)
        (small := root / "small").mkdir()
        doing = commands(World(small), 1)
        reference = started(root, "reference", Surroundings(), doing)
        for name, around in {**SURROUNDINGS, **locales()}.items():
            if args.only is not None and name not in args.only:
                continue
            number, differ = compared(started(root, name, around, doing), reference, around)
            figures[name] = {"files": number, "differ": differ}
            faults += [f"{name}: {line}" for line in differ]
            print(f"{name}: {number} files, {len(differ)} differ", *differ[:5], sep="\n  ", flush=True)
        table, wrong = of_threads(root, tuple(args.threads)) if args.threads else ({}, [])
    faults += wrong
    told = {"commands": [name for name, _ in doing], "surroundings": figures, "threads": table, "faults": faults}
    told["minutes"] = (time.monotonic() - begun) / 60
    print(dumps(told["threads"], indent=1), *faults, sep="\n")
    if args.out:
        args.out.write_text(dumps(told, indent=1) + "\n", "utf-8")
    raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    main()
