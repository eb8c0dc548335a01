"""All benchmarks one after the other, each into results/benchmarks, and docs/performance.md from them.

    python -m benchmarks.all --model DIR --data DIR [--tasks DIR] [--only NAME,...] [--again] [--list]

--data: movie reviews, as `zofo quickstart` fetches them. --tasks: a folder of rows for each of sst2, copa, boolq and
piqa; without it scoring is left out. What has a result is not made again unless it is asked for (--again, --only).
Nothing else should run: some ratios are of all cores. Some two hours on two cores; `--list` shows the commands, so that
one can be run alone. scoring and predict need lm-eval. Of meta-training and of a GPU see benchmarks.meta_training and
benchmarks.gpu.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import page


def commands(model: str, data: Path, tasks: Path | None, work: Path) -> dict[str, list[str]]:
    """{result: the module and its arguments, without --json}"""
    reviews, texts = ["--model", model, "--data", str(data)], ["--model", model, "--file", str(data / "test.jsonl")]
    every = {
        "step": ["step", *reviews],
        "bilevel": ["bilevel", *reviews],
        "opening": ["opening", *reviews, "--work", str(work)],
        "startup": ["startup", *reviews],
        "predict": ["predict", *texts],
        "texts": ["texts", *texts],
        "rows": ["rows", *texts],
        "large": ["large"],
        "ranks": ["ranks", *reviews],
    }
    return every if tasks is None else every | {"scoring": ["scoring", "--model", model, "--data", str(tasks)]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--tasks", type=Path)
    parser.add_argument("--only", help="results to make, anew")
    parser.add_argument("--again", action="store_true", help="also those that are there")
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        every = commands(args.model, args.data, args.tasks, Path(work))
        wanted = args.only.split(",") if args.only else list(every)
        if unknown := sorted(set(wanted) - set(every)):
            parser.error(f"--only: no {', '.join(unknown)}; known: {', '.join(every)}")
        failed = []
        for name in wanted:
            file = page.RESULTS / f"{name}.json"
            command = [sys.executable, "-m", f"benchmarks.{every[name][0]}", *every[name][1:], "--json", str(file)]
            print(shlex.join(command), flush=True)
            if args.list or (file.exists() and not (args.again or args.only)):
                continue
            if subprocess.run(command, check=False).returncode:
                failed.append(name)
        if not args.list:
            for each in page.PAGES:
                each.write_text(page.written(each.read_text("utf-8")), "utf-8")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
