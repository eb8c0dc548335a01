"""Runs of 100,000 steps: do memory, files, threads and the time of a step stay what they were?

    python -m reliability.long_runs --steps 100000 --minutes 60 --out results/long_runs.json

Each estimator and each rule once, on a Llama of one layer and width 8 with rows of its own, as `zofo.finetune` runs it:
a process each, with evaluations, checkpoints and the journal of a real run. At intervals the process looks at itself
and at its directory. Flat means: from the first fifth of the run to its end the number of threads and of open files is
the same, the resident set grows by less than 3 MiB or 2 %, the CPU time of a step, in units of a fixed piece of work
that is done beside it (the machine may have other work), by less than a quarter (medians of the second and of the last
fifth), and no file grows but metrics.jsonl and journal.bin, which take as many bytes for each step as before;
trainer_state.json has at most HISTORY entries of 300 bytes. `--minutes` is for all of
them, in equal shares of what is left; a run whose share ends goes as far as it came, is judged by the same rule, and
says how far it came. A part that is done stays in --parts and is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tests.conftest import make_tokenizer, save_tiny, write_rows
from transformers import LlamaConfig, TrainerCallback

from zofo.config.json_text import dumps
from zofo.train.callbacks import HISTORY

# name: (method, estimator, rule, more settings). In the order of their time
RUNS: dict[str, tuple[str, str, str, list[str]]] = {
    "bilevel-zofo, spsa, sgd": ("bilevel-zofo", "spsa", "sgd", ["adapter.r=1"]),
    "lozo, sign": ("mezo", "lozo", "sign", []),
    "spsa, momentum": ("mezo", "spsa", "momentum", []),
    "spsa, adamw": ("mezo", "spsa", "adamw", []),
    "subzero, adam": ("mezo", "subzero", "adam", []),
    "svrg, sgd": ("mezo", "svrg", "sgd", []),
    "one-sided, conservative": ("mezo", "one-sided", "conservative", []),
}
EVERY = 550  # steps between two looks, and between two checkpoints; a multiple of bilevel-zofo's 11
BY_DESIGN = ("metrics.jsonl", "journal.bin")  # a line, a record an event: they are the run
MIB = 2**20


def world(folder: Path) -> tuple[Path, Path]:
    """(a model of 2,400 weights, 24 rows)."""
    tokenizer = make_tokenizer(vocab_size=260)
    sizes: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    ids: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        num_key_value_heads=1,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        initializer_range=0.1,
        **sizes,
        **ids,
    )
    rows = [{"prompt": f"film {i}:", "completion": (" dull", " warm")[i % 2]} for i in range(24)]
    return save_tiny(folder / "model", config, tokenizer), write_rows(folder / "rows.jsonl", rows)


def resident() -> int:
    """Bytes of the process that are in memory now (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def sizes_of(out: Path) -> dict[str, int]:
    """{a file of the run: its bytes}, of the newest checkpoint and best under one name each."""
    sizes = {}
    for path in sorted(out.rglob("*")):
        if path.is_file():
            first, *rest = path.relative_to(out).parts
            kind, _, number = first.partition("-")
            sizes["/".join([f"{kind}-N" if number.isdigit() else first, *rest])] = path.stat().st_size
    return sizes


def yardstick() -> float:
    """CPU seconds of a fixed piece of work, of torch's and of Python's."""
    begun, x = time.process_time(), torch.ones(8, 8)
    for _ in range(150):
        x = x + x * 0.0
        str(dict.fromkeys("abcdefgh"))
    return time.process_time() - begun


class Looks(TrainerCallback):
    """What the process is every EVERY steps. Stops the run at `until` on the monotonic clock."""

    def __init__(self, out: Path, until: float, looks: list[dict[str, Any]]) -> None:
        self.out, self.until, self.looks = out, until, looks
        self.used, self.yardsticks = time.process_time(), list[float]()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if state.global_step % (EVERY // 10) == 0:
            self.yardsticks.append(yardstick())
        if state.global_step % EVERY == 0:
            used, self.used = self.used, time.process_time()
            units, self.yardsticks = self.yardsticks, []
            self.looks.append(
                {
                    "step": state.global_step,
                    "resident": resident(),
                    "open": len(os.listdir("/proc/self/fd")),
                    "threads": len(os.listdir("/proc/self/task")),
                    "python_threads": threading.active_count(),
                    "log_history": len(state.log_history),
                    "cpu_seconds": 1000 * (self.used - used - sum(units)) / EVERY,
                    "units": (self.used - used - sum(units)) / EVERY / (sum(units) / len(units)),
                    "files": sizes_of(self.out),
                }
            )
            if time.monotonic() > self.until:
                control.should_training_stop = True
        return control


def child(name: str, steps: int, seconds: float, part: Path) -> None:
    """One run in this process; what was seen goes into `part`."""
    from zofo import finetune

    torch.set_num_threads(1)
    method, estimator, rule, more = RUNS[name]
    looks: list[dict[str, Any]] = []
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        model, rows = world(Path(folder))
        out = Path(folder) / "run"
        run = finetune(
            str(model),
            str(rows),
            {"name": method},
            output_dir=out,
            callbacks=[Looks(out, begun + seconds, looks)],
            overrides=[
                *(f"estimator={estimator}", f"rule={rule}", *more),
                *("task.train_examples=12", "task.dev_examples=4", "task.test_examples=4"),
            ],
            max_steps=steps,
            batch_size=1,
            eval_steps=EVERY,
            save_steps=EVERY,
            logging_steps=10,
            max_replay_seconds=0,  # theta and the rule's numbers in each checkpoint, not from some step on
            threads=1,
        )
        done = sum(run.info["steps"].values())
    part.write_text(dumps({"name": name, "asked": steps, "steps": done, "looks": looks}) + "\n")


def judged(seen: dict[str, Any]) -> dict[str, Any]:
    """A run's figures and faults, of its looks."""
    looks, faults = seen["looks"], []
    figures: dict[str, Any] = {"steps": seen["steps"], "asked": seen["asked"], "faults": faults}
    if len(looks) < 10:
        faults.append(f"only {len(looks)} looks: too few to judge by")
        return figures
    fifth = len(looks) // 5
    early, late = looks[fifth : 2 * fifth], looks[-fifth:]
    for key in ("threads", "python_threads", "open"):
        before, after = {look[key] for look in early}, {look[key] for look in late}
        figures[key] = [max(before), max(after)]
        if max(after) > max(before):
            faults.append(f"{key}: {max(before)} in the second fifth, {max(after)} in the last")
    for key, allowed in (("resident", lambda x: x + max(3 * MIB, 0.02 * x)), ("units", lambda x: 1.25 * x)):
        before, after = (median(look[key] for look in part) for part in (early, late))
        figures[key] = [before, after]
        if after > allowed(before):
            faults.append(f"{key}: {before:.6g} in the second fifth, {after:.6g} in the last")
    figures["seconds of 1,000 steps"] = [median(look["cpu_seconds"] for look in part) for part in (early, late)]
    first, last = early[0], looks[-1]
    figures["files"] = {name: [first["files"].get(name), size] for name, size in last["files"].items()}
    figures["log_history"] = [first["log_history"], last["log_history"]]
    for name, (before, after) in figures["files"].items():
        if name in BY_DESIGN:
            here, there = (
                (b["files"][name] - a["files"][name]) / (b["step"] - a["step"])
                for a, b in ((early[0], early[-1]), (late[0], late[-1]))
            )
            figures[f"{name}, bytes a step"] = [round(here, 2), round(there, 2)]
            if there > 1.1 * here:
                faults.append(f"{name}: {here:.1f} bytes a step in the second fifth, {there:.1f} in the last")
        elif name.endswith("trainer_state.json"):
            if last["log_history"] > HISTORY or after > 300 * last["log_history"] + 2000:
                faults.append(f"{name}: {after} bytes for {last['log_history']} entries of its history")
        elif before is not None and after > 1.05 * before + 512:
            faults.append(f"{name}: {before} bytes in the second fifth, {after} at the end")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m reliability.long_runs", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=100_000, help="of each run")
    parser.add_argument("--minutes", type=float, default=60, help="for all of them")
    parser.add_argument("--parts", type=Path, default=Path(".cache/long_runs"), help="where finished runs are kept")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    parser.add_argument("--only", nargs="*", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.steps, 60 * args.minutes, args.parts)
        return
    args.parts.mkdir(parents=True, exist_ok=True)
    end, results = time.monotonic() + 60 * args.minutes, {}
    for number, name in enumerate(args.only):
        part = args.parts / f"{name.replace(', ', '_')}.json"
        if not part.exists():
            left = max(0.0, end - time.monotonic()) / 60 / (len(args.only) - number)
            command = [sys.executable, "-m", "reliability.long_runs", "--child", name, "--steps", str(args.steps)]
            text = subprocess.run(
                [*command, "--minutes", f"{left:.3f}", "--parts", str(part)],
                capture_output=True,
                text=True,
                check=False,
            )
            if text.returncode:
                results[name] = {"steps": 0, "asked": args.steps, "faults": [text.stderr[-600:]]}
                print(f"{name}: exit {text.returncode}: {text.stderr[-600:]}", flush=True)
                continue
        results[name] = judged(json.loads(part.read_text()))
        print(f"{name}: {results[name]['steps']} steps; {results[name]['faults'] or 'flat'}", flush=True)
    faults = [f"{name}: {fault}" for name, figures in results.items() for fault in figures["faults"]]
    reached = [name for name, figures in results.items() if figures["steps"] >= 0.99 * args.steps]
    report = {"steps": args.steps, "reached": reached, "runs": results, "faults": faults}
    print(dumps(report, indent=1))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(dumps(report, indent=1) + "\n")
    raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    main()
