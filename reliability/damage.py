"""Every file of runs and exports cut, flipped, zeroed, missing or another's: refused by name, or proven harmless?

    python -m reliability.damage --minutes 20 --out results/damage.json

Two runs of each of several methods are made, with other seeds, and exports of each kind. Then one file at a time is
spoilt: cut to eight lengths, a bit flipped in four places, zeroed, gone, replaced by the other run's of that name. Each
verb that reads such a directory is given it. It must refuse with one line that names the file (or its checkpoint), pass
a checkpoint over and say so, or come to the very bytes that it comes to with the undamaged file.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.world import World
from tests.traces import traces

from reliability._forked import files_of, in_a_process
from reliability._undertakings import FEW, METHODS
from zofo.cli import main as cli
from zofo.config.json_text import dumps

TRAINED = ("bilevel-zofo", "bilevel-zofo-snapshots", "mezo-adamw", "fo-ft")
STEPS = ["train.eval_steps=2", "train.save_steps=2", "task.train_examples=8"]
# Nothing is made from their contents
HARMLESS = ("metrics.jsonl", "README.md", "eval/")


def damages(raw: bytes, other: bytes | None) -> Iterator[tuple[str, bytes | None]]:
    """(what happened, the bytes then; None: the file is gone). other: the file of that name of another run."""
    for size in dict.fromkeys((0, 1, *(len(raw) * share // 100 for share in (10, 25, 50, 75, 90)), len(raw) - 1)):
        yield f"cut to {size}", raw[:size]
    for share in (0.0, 0.37, 0.5, 0.93):
        at = int(share * len(raw))
        yield f"a bit of byte {at} flipped", raw[:at] + bytes([raw[at] ^ 4]) + raw[at + 1 :]
    yield "zeroed", bytes(len(raw))
    yield "missing", None
    if other is not None:
        yield "another run's", other


@dataclass
class Subject:
    """A directory whose files are spoilt. verbs: {name: (directory, place for its output) -> command line}."""

    name: str
    path: Path
    other: Path
    verbs: dict[str, Callable[[Path, Path], list[str]]]
    right: dict[str, object] = field(default_factory=dict)  # what each verb comes to


@dataclass
class Tally:
    refused: int = 0
    passed_over: int = 0
    harmless: int = 0
    by_verb: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


# ------------------------------------------------------------------------------------------------------------ subjects


def trained(world: World, method: str, out: Path, seed: int, steps: int) -> list[str]:
    name = method.removesuffix("-snapshots").removesuffix("-adamw")
    fixed = ["train", "--model", str(world.model), "--task", str(world.rows), "--method", name, "--seed", str(seed)]
    few = [word for word in FEW if not word.startswith("train.max_steps=")]
    return [*fixed, *METHODS[method], *few, *STEPS, "--output-dir", str(out), "--max-steps", str(steps)]


def reading() -> dict[str, Callable[[Path, Path], list[str]]]:
    """Verbs that take runs and exports."""
    return {
        "eval": lambda path, out: ["eval", str(path), "--limit", "4", "--output", str(out / "predictions.jsonl")],
        "generate": lambda path, out: [
            *("generate", str(path), "--prompt", "warm", "--max-new-tokens", "4"),
            *("--output", str(out / "texts.jsonl")),
        ],
    }


def subjects(world: World, folder: Path) -> list[Subject]:
    made = []
    for method in TRAINED:
        paths = [folder / f"{method}-{seed}" for seed in (3, 4)]
        halves = [folder / f"{method}-half-{seed}" for seed in (3, 4)]
        for seed, path, half in zip((3, 4), paths, halves):
            quietly(trained(world, method, path, seed, 6))
            quietly(trained(world, method, half, seed, 4))
        verbs = reading() | {
            "export": lambda path, out: ["export", str(path), str(out / "export")],
            "validate": lambda path, out: ["validate", str(path)],
        }
        made.append(Subject(method, paths[0], paths[1], verbs))
        on = trained(world, method, Path("RUN"), 3, 6)
        resume = {
            "resume": lambda path, out, on=on: [
                *(str(path) if word == "RUN" else word for word in on),
                *("--resume", "latest"),
            ]
        }
        made.append(Subject(f"{method}, to be resumed", halves[0], halves[1], resume))  # type: ignore[arg-type]
    return made + list(exports(world, folder))


def exports(world: World, folder: Path) -> Iterator[Subject]:
    """Merged, apart, a soft adapter's, and of a run without a journal."""
    soft = [folder / f"prompt-{seed}" for seed in (3, 4)]
    for seed, path in zip((3, 4), soft):
        quietly([*trained(world, "fo-peft", path, seed, 4), "--adapter", "prompt"])
    kinds = {
        "merged": [folder / f"bilevel-zofo-{seed}" for seed in (3, 4)],
        "separate": [folder / f"bilevel-zofo-{seed}" for seed in (3, 4)],
        "soft adapter": soft,
        "without a journal": [folder / f"fo-ft-{seed}" for seed in (3, 4)],
    }
    for kind, runs in kinds.items():
        outs = [folder / f"export {kind} {number}" for number in (3, 4)]
        for run, out in zip(runs, outs):
            quietly(["export", str(run), str(out), *(["--separate"] if kind in ("separate", "soft adapter") else [])])
        verbs = reading()
        if kind in ("merged", "without a journal"):
            more = ["--task", str(world.rows), "--method", "zero-shot", *FEW]
            verbs["train"] = lambda path, out, more=more: [
                *("train", "--model", str(path), *more, "--output-dir", str(out / "run"))
            ]
        yield Subject(f"export, {kind}", outs[0], outs[1], verbs)


def quietly(args: list[str]) -> None:
    code, text = in_a_process(lambda: cli.run(args))
    if code:
        raise SystemExit(f"{' '.join(args)}: exit {code}\n{text}")


# ---------------------------------------------------------------------------------------------------------- one case


def result(verb: str, path: Path, out: Path, spoilt: str = "") -> object:
    """What a verb came to, in bytes. spoilt: a file whose own contents are no result."""
    if verb == "resume":
        held = (
            traces(path)
            if spoilt != "metrics.jsonl"
            else {k: v for k, v in safe_traces(path).items() if k != "metrics"}
        )
        kept = {"README.edited.md"} if spoilt == "README.md" else set()  # as a person's edit is, and it is said
        return {
            **{k: v for k, v in held.items() if k not in {spoilt, *kept}},
            "files": files_of(path) - {spoilt} - kept,
        }
    if verb == "train":
        return (out / "run" / "eval" / "predictions-theta.jsonl").read_bytes()
    return {name: (out / name).read_bytes() for name in files_of(out) if Path(name).name not in ("README.md",)}


def safe_traces(path: Path) -> dict[str, object]:
    (path / "metrics.jsonl").write_text("")
    return traces(path)


def wrong(verb: str, subject: Subject, spoilt: str, code: int, text: str, out: Path, path: Path, tally: Tally) -> str:
    """ "" where the verb did right. Counts what it did."""
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    if "Traceback" in text or "(this is a bug" in text or code not in (0, 1, 2):
        return f"raw, exit {code}: {text[-300:]}"
    named = [Path(spoilt).name, *([Path(spoilt).parts[0]] if "/" in spoilt else [])]
    if verb == "validate":
        if code == 0 and not spoilt.startswith(HARMLESS):
            return f"found no fault: {text[-200:]}"
        tally.refused, tally.harmless = tally.refused + bool(code), tally.harmless + (not code)
        return "" if not code or any(word in text for word in named) else f"not named: {text[-300:]}"
    if code:
        tally.refused += 1
        if not lines or (len(lines) > 1 and "cannot resume with" not in lines[0]):
            return f"{len(lines)} lines: {text[-300:]}"
        return "" if any(word in line for line in lines for word in named) else f"does not name it: {lines[0]}"
    expected = subject.right[verb]
    got = result(verb, path, out, spoilt)
    if isinstance(expected, dict):
        expected = {
            k: v for k, v in expected.items() if k != spoilt and not (k == "metrics" and spoilt == "metrics.jsonl")
        }
        expected |= {"files": expected["files"] - {spoilt}} if "files" in expected else {}
    if got != expected:
        return f"another result without a word: {text[-200:]}"
    if "passed over" in text:
        tally.passed_over += 1
    else:
        tally.harmless += 1
    return ""


def case(
    subject: Subject, spoilt: str, what: str, content: bytes | None, verb: str, folder: Path, tally: Tally
) -> None:
    """In a copy, under the same path where the path is part of a result."""
    path, out = subject.path, folder / "out"
    whole = folder / "whole"
    if verb == "resume":
        shutil.copytree(path, whole)
    raw = (path / spoilt).read_bytes()
    (path / spoilt).unlink() if content is None else (path / spoilt).write_bytes(content)
    out.mkdir()
    try:
        code, text = in_a_process(lambda: cli.run(subject.verbs[verb](path, out)))
        tally.by_verb[verb] = tally.by_verb.get(verb, 0) + 1
        if fault := wrong(verb, subject, spoilt, code, text, out, path, tally):
            tally.faults.append(f"{subject.name}: {spoilt} {what}: {verb}: {fault}")
            print(f"fault: {tally.faults[-1]}"[:700], flush=True)
    finally:
        if verb == "resume":
            shutil.rmtree(path)
            whole.rename(path)
        else:
            (path / spoilt).write_bytes(raw)
        shutil.rmtree(out)


def means_the_same(one: bytes | None, other: bytes) -> bool:
    """Such as JSON without its last line break, or a file that both runs have alike: what is read is the same."""
    try:
        return one == other or json.loads(one or b"") == json.loads(other)
    except ValueError:
        return False


def plan(each: list[Subject], rng: random.Random) -> list[tuple[Subject, str, str, bytes | None, str]]:
    cases = []
    for subject in each:
        for spoilt in sorted(files_of(subject.path)):
            raw, other = (subject.path / spoilt).read_bytes(), subject.other / spoilt
            for what, content in damages(raw, other.read_bytes() if other.is_file() else None) if raw else ():
                if not means_the_same(content, raw):
                    cases += [(subject, spoilt, what, content, verb) for verb in subject.verbs]
    rng.shuffle(cases)
    return cases


def undamaged(subject: Subject, folder: Path) -> None:
    for verb, args in subject.verbs.items():
        (folder / "out").mkdir()
        if verb == "resume":
            shutil.copytree(subject.path, folder / "whole")
        quietly(args(subject.path, folder / "out"))
        subject.right[verb] = None if verb == "validate" else result(verb, subject.path, folder / "out")
        if verb == "resume":
            shutil.rmtree(subject.path)
            (folder / "whole").rename(subject.path)
        shutil.rmtree(folder / "out")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m reliability.damage", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=20, help="stop after so long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)  # forks share no pool of threads
    tally, begun, done = Tally(), time.monotonic(), 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        each = subjects(World(folder), folder)
        for subject in each:
            undamaged(subject, folder)
        cases = plan(each, random.Random(args.seed))
        print(f"{len(cases)} cases", flush=True)
        for one in cases:
            case(*one, folder, tally)
            done += 1
            if time.monotonic() - begun > 60 * args.minutes:
                break
    figures = {"cases": done, "of": len(cases), "refused by name": tally.refused, "passed over": tally.passed_over}
    figures |= {"harmless, to the byte": tally.harmless, "by verb": tally.by_verb, "faults": tally.faults}
    figures |= {"seed": args.seed, "minutes": (time.monotonic() - begun) / 60}
    print(dumps(figures, indent=1))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(dumps(figures, indent=1) + "\n")
    raise SystemExit(1 if tally.faults else 0)


if __name__ == "__main__":
    main()
